//! The version magic: the string that says for which kernel and with which options a module was compiled
//! (`include/linux/vermagic.h`), for example `6.1.0-56-cloud-amd64 SMP preempt mod_unload modversions `.

use std::fmt;

/// A parsed version magic. Order of the flags is kept: the kernel compares them as one string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerMagic {
    text: String,
    release_length: usize,
}

impl VerMagic {
    /// Takes any string apart; the kernel itself demands no form.
    pub fn new(text: &str) -> Self {
        let release_length = text.find(' ').unwrap_or(text.len());
        Self { text: text.to_owned(), release_length }
    }

    /// The kernel release, as `uname -r` says it.
    pub fn release(&self) -> &str {
        self.text.split_at_checked(self.release_length).map_or("", |(release, _)| release)
    }

    /// The options, `SMP` and so on, in their order.
    pub fn flags(&self) -> impl Iterator<Item = &str> {
        self.text.split(' ').skip(1).filter(|flag| !flag.is_empty())
    }

    /// Whether symbol CRCs are in use. If they are, on both sides, the kernel does not compare the release.
    pub fn has_modversions(&self) -> bool {
        self.flags().any(|flag| flag == "modversions")
    }

    /// Everything behind the release, spaces included: what the kernel compares when it skips the release.
    pub fn without_release(&self) -> &str {
        self.text.split_at_checked(self.release_length).map_or("", |(_, rest)| rest)
    }

    /// The whole string.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for VerMagic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vermagic_has_a_release_and_flags() {
        let magic = VerMagic::new("6.1.0-56-cloud-amd64 SMP preempt mod_unload modversions ");
        assert_eq!(magic.release(), "6.1.0-56-cloud-amd64");
        assert_eq!(magic.flags().collect::<Vec<_>>(), ["SMP", "preempt", "mod_unload", "modversions"]);
        assert!(magic.has_modversions());
        assert_eq!(magic.without_release(), " SMP preempt mod_unload modversions ");
        assert_eq!(magic.to_string(), "6.1.0-56-cloud-amd64 SMP preempt mod_unload modversions");
    }

    #[test]
    fn a_bare_release_has_no_flags() {
        let magic = VerMagic::new("7.2.12");
        assert_eq!((magic.release(), magic.flags().count()), ("7.2.12", 0));
    }
}
