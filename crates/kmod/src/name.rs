//! Module names. The kernel knows `snd_seq` only; file names and people also write `snd-seq`.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// The longest name that fits in the kernel's `struct module` (`MODULE_NAME_LEN` less the final zero).
pub const MAX_LENGTH: usize = 55;

/// The name of a kernel module as the kernel spells it: `-` becomes `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleName(String);

/// Why a text is not a module's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModuleNameError {
    /// There is nothing in it.
    #[error("a module's name is empty")]
    Empty,
    /// The kernel would cut it off.
    #[error("module name of {0} bytes: the kernel takes at most {MAX_LENGTH}")]
    TooLong(usize),
    /// Only ASCII letters, digits and `_-.+` are in use; anything else would be trouble in paths and in logs.
    #[error("module name contains {0:?}; letters, digits and `_-.+` are allowed")]
    Character(char),
}

impl ModuleName {
    /// Checks a name and gives it the kernel's spelling.
    pub fn new(name: &str) -> Result<Self, ModuleNameError> {
        if name.is_empty() {
            return Err(ModuleNameError::Empty);
        }
        if name.len() > MAX_LENGTH {
            return Err(ModuleNameError::TooLong(name.len()));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+');
        match name.chars().find(|&c| !allowed(c)) {
            Some(c) => Err(ModuleNameError::Character(c)),
            None => Ok(Self(name.replace('-', "_"))),
        }
    }

    /// The name of the module in a file: `kernel/net/nf-tables.ko.xz` holds `nf_tables`.
    pub fn from_path(path: &str) -> Result<Self, ModuleNameError> {
        let file = path.rsplit('/').next().unwrap_or(path);
        let stem = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().find_map(|suffix| file.strip_suffix(suffix));
        Self::new(stem.unwrap_or(file))
    }

    /// The name in the kernel's spelling.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a text names this module in either spelling, without allocating.
    pub fn matches(&self, name: &str) -> bool {
        self.0.len() == name.len()
            && self
                .0
                .bytes()
                .zip(name.bytes())
                .all(|(own, other)| own == other || (own == b'_' && other == b'-'))
    }
}

impl fmt::Display for ModuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ModuleName {
    type Err = ModuleNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl Borrow<str> for ModuleName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("snd-seq-midi", "snd_seq_midi")]
    #[case("8021q", "8021q")]
    #[case("sha512-x86_64", "sha512_x86_64")]
    fn a_name_gets_the_kernels_spelling(#[case] given: &str, #[case] expected: &str) {
        assert_eq!(ModuleName::new(given).unwrap().as_str(), expected);
    }

    #[rstest]
    #[case("", ModuleNameError::Empty)]
    #[case("a/b", ModuleNameError::Character('/'))]
    #[case("a b", ModuleNameError::Character(' '))]
    #[case("a\nb", ModuleNameError::Character('\n'))]
    #[case("é", ModuleNameError::Character('é'))]
    fn a_bad_name_is_refused(#[case] given: &str, #[case] expected: ModuleNameError) {
        assert_eq!(ModuleName::new(given), Err(expected));
    }

    #[test]
    fn the_longest_name_is_the_kernels_limit() {
        assert!(ModuleName::new(&"a".repeat(MAX_LENGTH)).is_ok());
        assert_eq!(ModuleName::new(&"a".repeat(56)), Err(ModuleNameError::TooLong(56)));
    }

    #[rstest]
    #[case("kernel/net/802/stp.ko", "stp")]
    #[case("updates/nf-tables.ko.xz", "nf_tables")]
    #[case("a.ko.zst", "a")]
    #[case("dwmac.generic.ko.gz", "dwmac.generic")]
    fn a_path_holds_a_name(#[case] path: &str, #[case] expected: &str) {
        assert_eq!(ModuleName::from_path(path).unwrap().as_str(), expected);
    }

    #[test]
    fn both_spellings_match() {
        let name = ModuleName::new("snd-seq").unwrap();
        assert!(name.matches("snd-seq") && name.matches("snd_seq"));
        assert!(!name.matches("snd_seq_midi") && !name.matches("sndXseq"));
    }
}
