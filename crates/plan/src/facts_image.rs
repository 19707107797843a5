//! Images that tell what a kernel is: which of them are asked about one kernel, and when again.

use std::time::Duration;

use tenon_kmod::KernelRelease;

use crate::resolve::kernel_variables;
use crate::template::{TemplateError, Variables, expand};

/// How often it is asked whether an image's name stands for another image by now.
pub const REFRESH: Duration = Duration::from_hours(1);

/// The first wait before an image that told nothing is asked for again: whoever pushes it looks on.
const FIRST_RETRY: Duration = Duration::from_mins(1);

/// A release of each family that has variables of its own.
const FAMILIES: [&str; 3] = ["5.14.0-570.12.1.el9_6.x86_64", "6.1.0-56-amd64", "5.4.0-104-generic"];

/// The name that a template gives for a kernel; none where it uses a variable that this kernel does not have: then the
/// template is for others.
pub fn name(template: &str, kernel: &KernelRelease) -> Result<Option<String>, TemplateError> {
    match expand(template, &kernel_variables(kernel)) {
        Ok(name) => Ok(Some(name)),
        Err(TemplateError::Unset { .. }) => Ok(None),
        Err(error @ TemplateError::Malformed { .. }) => Err(error),
    }
}

/// A name that the template gives for some kernel; an error where it uses a variable that no kernel has.
pub fn example(template: &str) -> Result<String, TemplateError> {
    let releases = FAMILIES.iter().filter_map(|release| release.parse().ok());
    let all = releases.map(|release| kernel_variables(&release)).fold(Variables::default(), Variables::or);
    expand(template, &all)
}

/// When to ask again after so many times in a row without an answer; `asked` is what the registry asked for.
pub fn retry_after(misses: u32, asked: Option<Duration>) -> Duration {
    let own = FIRST_RETRY.saturating_mul(1 << misses.saturating_sub(1).min(6)).min(REFRESH);
    own.max(asked.unwrap_or_default().min(REFRESH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(template: &str, kernel: &str) -> Option<String> {
        name(template, &kernel.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_template_is_for_the_kernels_that_have_its_variables() {
        let rhel = "reg/dtk:${KERNEL_RHEL_VERSION}-${KERNEL_FULL_VERSION}";
        let kernel = "5.14.0-570.12.1.el9_6.x86_64";
        assert_eq!(named(rhel, kernel), Some(format!("reg/dtk:el9_6-{kernel}")));
        assert_eq!(named(rhel, "6.1.0-56-amd64"), None);
        assert!(name("reg/a:${KERNEL_X", &kernel.parse().unwrap()).is_err());
    }

    #[test]
    fn a_variable_that_no_kernel_has_is_told_beforehand() {
        for known in ["KERNEL_UBUNTU_FLAVOR", "KERNEL_DEBIAN_FLAVOR", "KERNEL_RHEL_ARCH", "KERNEL_XYZ"] {
            assert!(example(&format!("reg/a:${{{known}}}")).is_ok(), "{known}");
        }
        for unknown in ["KERNEL", "MOD_NAME", "KERNEL_FULL_VERSIONS"] {
            assert!(example(&format!("reg/a:${{{unknown}}}")).is_err(), "{unknown}");
        }
    }

    #[test]
    fn patience_grows_from_a_minute_to_an_hour_and_is_never_less_than_what_was_asked_for() {
        let minutes = |misses, asked| retry_after(misses, asked).as_secs() / 60;
        assert_eq!([1, 2, 3, 7, u32::MAX].map(|misses| minutes(misses, None)), [1, 2, 4, 60, 60]);
        assert_eq!(minutes(1, Some(Duration::from_mins(5))), 5);
        assert_eq!(minutes(1, Some(Duration::from_hours(9))), 60);
    }
}
