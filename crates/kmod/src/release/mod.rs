//! Kernel releases: what `uname -r` prints and the kubelet reports, and the facts that can be read off it.

mod distribution;

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::str::FromStr;

pub use distribution::{Distribution, Family, Flavored, Rpm};

/// The longest release: `__NEW_UTS_LEN` of `include/uapi/linux/utsname.h`.
pub const MAX_LENGTH: usize = 64;

/// A kernel release, such as `6.1.0-56-cloud-amd64`. It is safe as one component of a path. A trailing `+` (a kernel
/// built from a changed source tree) is part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelRelease(String);

/// Why a text is not a kernel release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelReleaseError {
    /// There is nothing in it.
    #[error("a kernel release is empty")]
    Empty,
    /// Longer than uname(2) can report.
    #[error("kernel release of {0} bytes: a kernel has at most {MAX_LENGTH}")]
    TooLong(usize),
    /// White space, a slash, a control character, or not ASCII.
    #[error("kernel release contains {0:?}")]
    Character(char),
    /// `.` and `..` would mean another directory.
    #[error("kernel release consists of dots")]
    Dots,
}

/// The first three parts, as texts, for `KERNEL_X`, `KERNEL_Y` and `KERNEL_Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// Major version: `4` of `4.18.0-348.el8.x86_64`.
    pub x: &'a str,
    /// Minor version: `18`.
    pub y: &'a str,
    /// Patch level: `0`. Not always a number: `95+deb12` of `6.12.95+deb12-cloud-amd64`.
    pub z: &'a str,
}

impl fmt::Display for Parts<'_> {
    /// The form of `KERNEL_XYZ`: `4.18.0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.x, self.y, self.z)
    }
}

impl KernelRelease {
    /// Checks a release.
    pub fn new(release: impl Into<String>) -> Result<Self, KernelReleaseError> {
        let release = release.into();
        if release.is_empty() {
            return Err(KernelReleaseError::Empty);
        }
        if release.len() > MAX_LENGTH {
            return Err(KernelReleaseError::TooLong(release.len()));
        }
        if let Some(c) = release.chars().find(|c| !c.is_ascii_graphic() || *c == '/') {
            return Err(KernelReleaseError::Character(c));
        }
        if release.bytes().all(|b| b == b'.') {
            return Err(KernelReleaseError::Dots);
        }
        Ok(Self(release))
    }

    /// The release as it is.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The release less one trailing `+`: what kernel mappings, image names and directories of images use. The node's
    /// own `/lib/modules` keeps the `+`.
    pub fn without_plus(&self) -> &str {
        self.0.strip_suffix('+').unwrap_or(&self.0)
    }

    /// The form that fits in an image tag, made of [`Self::without_plus`]: any character outside `[A-Za-z0-9._-]`
    /// becomes `_`.
    pub fn image_tag(&self) -> Cow<'_, str> {
        image_tag(self.without_plus())
    }

    /// The first three parts between `.`, `,` and `-`; none when there are fewer. Of `6.12.95+deb12` the third is
    /// `95+deb12`: templates have always seen it so, in the tag form `95_deb12`.
    pub fn parts(&self) -> Option<Parts<'_>> {
        let mut parts = self.without_plus().split(['.', ',', '-']);
        Some(Parts { x: parts.next()?, y: parts.next()?, z: parts.next()? })
    }

    /// The upstream version as numbers, for comparing: (6, 12, 95) of `6.12.95+deb12-cloud-amd64`. A missing patch
    /// level (`7.3-cloud-amd64`) counts as 0.
    pub fn version(&self) -> Option<(u32, u32, u32)> {
        let upstream = self.0.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(self.0.len());
        let mut numbers = self.0.get(..upstream)?.split('.').map(str::parse::<u32>);
        let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some((major, minor, numbers.next().and_then(Result::ok).unwrap_or(0)))
    }

    /// What the distribution put behind the upstream version.
    pub fn distribution(&self) -> Distribution<'_> {
        Distribution::of(self.without_plus())
    }

    /// Who built this kernel.
    pub fn family(&self) -> Family {
        self.distribution().family()
    }
}

/// Any text in the alphabet of an image tag: other characters become `_`.
pub fn image_tag(text: &str) -> Cow<'_, str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.chars().all(allowed) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.chars().map(|c| if allowed(c) { c } else { '_' }).collect())
    }
}

impl fmt::Display for KernelRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for KernelRelease {
    type Err = KernelReleaseError;

    fn from_str(release: &str) -> Result<Self, Self::Err> {
        Self::new(release)
    }
}

impl Borrow<str> for KernelRelease {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn release(text: &str) -> KernelRelease {
        KernelRelease::new(text).unwrap()
    }

    #[rstest]
    #[case("", KernelReleaseError::Empty)]
    #[case("6.1 0", KernelReleaseError::Character(' '))]
    #[case("6.1\t", KernelReleaseError::Character('\t'))]
    #[case("6.1/..", KernelReleaseError::Character('/'))]
    #[case("6.1\0", KernelReleaseError::Character('\0'))]
    #[case("6.1-ü", KernelReleaseError::Character('ü'))]
    #[case("..", KernelReleaseError::Dots)]
    #[case(&"6".repeat(65), KernelReleaseError::TooLong(65))]
    fn a_bad_release_is_refused(#[case] text: &str, #[case] expected: KernelReleaseError) {
        assert_eq!(KernelRelease::new(text), Err(expected));
    }

    #[rstest]
    #[case("5.14.0-427.el9.x86_64", "5.14.0-427.el9.x86_64")]
    #[case("6.1.100+", "6.1.100+")]
    fn a_release_is_kept_as_it_is(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(release(text).to_string(), expected);
    }

    #[rstest]
    #[case("6.1.100+", "6.1.100", "6.1.100")]
    #[case("6.12.95+deb12-cloud-amd64", "6.12.95+deb12-cloud-amd64", "6.12.95_deb12-cloud-amd64")]
    #[case("5.14.0-427.el9.x86_64+rt", "5.14.0-427.el9.x86_64+rt", "5.14.0-427.el9.x86_64_rt")]
    #[case("6.8.0~rc1,x", "6.8.0~rc1,x", "6.8.0_rc1_x")]
    fn only_the_last_plus_goes_and_a_tag_is_safe(#[case] text: &str, #[case] plain: &str, #[case] tag: &str) {
        assert_eq!((release(text).without_plus(), release(text).image_tag().as_ref()), (plain, tag));
    }

    #[rstest]
    #[case("4.18.0-348.23.1.el8_5.x86_64", Some("4.18.0"), Some((4, 18, 0)))]
    #[case("5.10.0-13-amd64", Some("5.10.0"), Some((5, 10, 0)))]
    #[case("6.12.95+deb12-cloud-amd64", Some("6.12.95+deb12"), Some((6, 12, 95)))]
    #[case("5.15.153.1-1.cm2", Some("5.15.153"), Some((5, 15, 153)))]
    #[case("6.1.100+", Some("6.1.100"), Some((6, 1, 100)))]
    #[case("7.3-cloud-amd64", Some("7.3.cloud"), Some((7, 3, 0)))]
    #[case("6.12", None, Some((6, 12, 0)))]
    #[case("mainline", None, None)]
    #[case("99999999999.1.1", Some("99999999999.1.1"), None)]
    fn the_first_three_parts_are_the_version(
        #[case] text: &str,
        #[case] xyz: Option<&str>,
        #[case] version: Option<(u32, u32, u32)>,
    ) {
        let release = release(text);
        assert_eq!(release.parts().map(|parts| parts.to_string()).as_deref(), xyz);
        assert_eq!(release.version(), version);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            if let Ok(release) = KernelRelease::new(text) {
                let _ = (release.parts(), release.version(), release.distribution());
                prop_assert!(KernelRelease::new(release.image_tag()).is_ok() || release.as_str() == "+");
            }
        }

        #[test]
        fn anything_like_a_release_can_be_asked(text in "[0-9]{1,2}(\\.[0-9]{1,3}){0,3}([-+.][a-z0-9_+.]{0,8}){0,5}") {
            if let Ok(release) = KernelRelease::new(text) {
                let _ = (release.parts(), release.version(), release.distribution());
            }
        }
    }
}
