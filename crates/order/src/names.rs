//! Names that are checked once, where they enter.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{from_hex, to_hex};

/// A text that is not the name it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a lower-case RFC 1123 subdomain of at most 253 characters.
    #[error("read a node name: {0:?} is not a lower-case RFC 1123 subdomain")]
    Node(String),
    /// Not `namespace/name`.
    #[error("read a module key: {0:?} is not `namespace/name` in lower-case RFC 1123 names")]
    Module(String),
    /// Not 32 hex digits.
    #[error("read a store id: {0:?} is not 32 lower-case hex digits")]
    Store(String),
    /// Not a kernel module's name.
    #[error("read a kernel module name: {0:?} is not 1 to 55 letters, digits, `_`, `-`, `.` or `+`")]
    Kmod(String),
}

/// A Kubernetes node's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

/// A kernel module's name, as a user writes it: `my-driver` and `my_driver` are one module to the kernel.
///
/// The kernel's own bound is 55 bytes (`MODULE_NAME_LEN` in `include/linux/moduleparam.h`, 64 bytes less a pointer and
/// the closing zero). The name becomes a path component, so it neither holds a slash nor begins with a dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KmodName(String);

impl KmodName {
    /// The kernel's spelling, which turns `-` into `_`: what stands in `/proc/modules` and `/sys/module`.
    pub fn kernel_name(&self) -> String {
        self.0.replace('-', "_")
    }
}

/// A Module's namespace and name. Written `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModuleKey {
    namespace: String,
    name: String,
}

impl ModuleKey {
    /// The Module `name` in `namespace`.
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
        if is_label(namespace) && is_subdomain(name) {
            Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
        } else {
            Err(NameError::Module(format!("{namespace}/{name}")))
        }
    }

    /// The Module's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The Module's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The random id that a loader's store drew when it was made. Written as 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StoreId([u8; 16]);

impl StoreId {
    /// An id from 16 random bytes.
    pub const fn from_bytes(random: [u8; 16]) -> Self {
        Self(random)
    }
}

/// An order's place in the sequence of one store's orders: a later order has a higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for NodeName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if is_subdomain(text) { Ok(Self(text.to_owned())) } else { Err(NameError::Node(text.to_owned())) }
    }
}

impl FromStr for KmodName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'+');
        if (1..=55).contains(&text.len()) && !text.starts_with(['.', '-', '+']) && text.bytes().all(valid) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Kmod(text.to_owned()))
        }
    }
}

impl FromStr for ModuleKey {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (namespace, name) = text.split_once('/').ok_or_else(|| NameError::Module(text.to_owned()))?;
        Self::new(namespace, name)
    }
}

impl FromStr for StoreId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        from_hex(text).map(Self).ok_or_else(|| NameError::Store(text.to_owned()))
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for KmodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ModuleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

macro_rules! text_conversions {
    ($($name:ty),*) => {$(
        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.to_string()
            }
        }
    )*};
}
text_conversions!(NodeName, KmodName, ModuleKey, StoreId);

impl AsRef<str> for NodeName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for KmodName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// RFC 1123 subdomain: labels joined by dots, at most 253 bytes.
fn is_subdomain(text: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let part = |label: &str| {
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(valid)
    };
    text.len() <= 253 && text.split('.').all(part)
}

/// RFC 1123 label: a subdomain of one part, at most 63 bytes.
fn is_label(text: &str) -> bool {
    text.len() <= 63 && !text.contains('.') && is_subdomain(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_their_directory_are_refused() {
        for text in ["", ".", "..", "../x", "a/b", "-r", "a b", "a\0", &"a".repeat(56)] {
            assert_eq!(text.parse::<KmodName>(), Err(NameError::Kmod(text.to_owned())));
        }
        for text in ["", "a", "a/", "/a", "a/..", "../a", "a/b/c", "A/b", "a.b/c", "a/b_c"] {
            assert!(text.parse::<ModuleKey>().is_err(), "{text}");
        }
        for text in ["", "..", "-a", "a..b", "Node", &"a".repeat(254)] {
            assert!(text.parse::<NodeName>().is_err(), "{text}");
        }
    }

    #[test]
    fn dots_in_names_are_kept() {
        let key: ModuleKey = "drivers/my.nic.driver".parse().unwrap();
        assert_eq!((key.namespace(), key.name()), ("drivers", "my.nic.driver"));
        assert_eq!(key.to_string(), "drivers/my.nic.driver");
    }

    #[test]
    fn defect_25_the_kernel_spells_dashes_as_underscores() {
        let name: KmodName = "snd-hda-intel".parse().unwrap();
        assert_eq!(name.kernel_name(), "snd_hda_intel");
        assert_eq!(name.to_string(), "snd-hda-intel");
    }

    #[test]
    fn a_store_id_round_trips() {
        let id = StoreId::from_bytes([0xa5; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("A5".repeat(16).parse::<StoreId>().is_err());
    }
}
