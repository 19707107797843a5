//! Facts about one build of a kernel, kept in a `ConfigMap` of Tenon's namespace: how it is found, and who says so.
//!
//! The facts themselves are bytes that `tenon-kmod` makes and reads. Label and annotations are enough to know which
//! kernel they are about, so the facts of a whole cluster can be watched without holding them in memory.

use std::fmt;
use std::str::FromStr;

use ring::digest;

use crate::labels;

/// The label of a `ConfigMap` with facts; its value is `true`.
pub const LABEL: &str = "tenon.dev/kernel-facts";
/// The key of the `ConfigMap`'s `binaryData` that holds the facts.
pub const DATA_KEY: &str = "facts";
/// The annotation with the kernel's release (`uname -r`).
pub const RELEASE: &str = "tenon.dev/kernel-release";
/// The annotation with the kernel's architecture, as Kubernetes names it.
pub const ARCHITECTURE: &str = "tenon.dev/kernel-architecture";
/// The annotation with the kernel's GNU build-id in hexadecimal. Without it the facts count for every build of the release.
pub const BUILD_ID: &str = "tenon.dev/kernel-build-id";
/// The annotation that says who made the facts: a [`Source`].
pub const SOURCE: &str = "tenon.dev/facts-source";

/// The annotation with the image that the facts were read from, by its digest; the operator keeps such facts up to date.
pub const IMAGE: &str = "tenon.dev/facts-image";

/// The most bytes of facts: a `ConfigMap` holds one MiB.
pub const MAX_BYTES: usize = 1_000_000;

/// The most bytes of a build-id; linkers make 20 or fewer.
const MAX_BUILD_ID: usize = 64;

/// Who says what a kernel is. Better sources come first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// An administrator, who has put a file of facts into the cluster.
    Admin,
    /// A kernel or headers package in an image.
    Package,
    /// A driver toolkit image.
    Toolkit,
    /// A node that runs the kernel. It decides for that node alone.
    Node(String),
}

/// The text names no source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected package, toolkit, admin or node:<name>, found {0:?}")]
pub struct SourceError(String);

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin => f.write_str("admin"),
            Self::Package => f.write_str("package"),
            Self::Toolkit => f.write_str("toolkit"),
            Self::Node(name) => write!(f, "node:{name}"),
        }
    }
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        match text {
            "admin" => Ok(Self::Admin),
            "package" => Ok(Self::Package),
            "toolkit" => Ok(Self::Toolkit),
            _ => match text.strip_prefix("node:") {
                Some(name) if !name.is_empty() => Ok(Self::Node(name.to_owned())),
                _ => Err(SourceError(text.to_owned())),
            },
        }
    }
}

/// Whether a text is a GNU build-id in hexadecimal: whole bytes, lower case, of a length that linkers make.
pub fn is_build_id(text: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    !text.is_empty()
        && text.len() <= 2 * MAX_BUILD_ID
        && text.len().is_multiple_of(2)
        && text.bytes().all(digit)
}

/// The name of the `ConfigMap` for what a node tells of its kernel: one object per node, whichever build it runs.
pub fn name_for_node(node: &str) -> String {
    format!("kernel-facts-node-{}", hashed([node, "", "node"]))
}

/// The name of the `ConfigMap` for what an image tells of a kernel: one object per release, whichever build is in the
/// image, beside what anybody else says.
pub fn name_for_image(release: &str, architecture: &str) -> String {
    format!("kernel-facts-image-{}", hashed([release, architecture, "image"]))
}

fn hashed(parts: [&str; 3]) -> String {
    const DIGITS: usize = 20;
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in parts {
        hash.update(part.as_bytes());
        hash.update(&[0]);
    }
    labels::hex(hash.finish().as_ref(), DIGITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_as_they_are_written() {
        for source in [Source::Admin, Source::Package, Source::Toolkit, Source::Node("pine".to_owned())] {
            assert_eq!(source.to_string().parse(), Ok(source));
        }
        for text in ["", "node:", "Node:pine", "somebody"] {
            assert_eq!(text.parse::<Source>(), Err(SourceError(text.to_owned())));
        }
    }

    #[test]
    fn a_node_is_the_least_of_the_sources() {
        let mut sources = [Source::Node("a".to_owned()), Source::Toolkit, Source::Admin, Source::Package];
        sources.sort();
        assert_eq!(sources[0], Source::Admin);
        assert_eq!(sources[3], Source::Node("a".to_owned()));
    }

    #[test]
    fn a_build_id_is_whole_bytes_in_lower_case() {
        assert!(is_build_id("00ff") && is_build_id(&"ab".repeat(32)));
        for text in ["", "0", "0F", "xy", "../..", &"ab".repeat(65)] {
            assert!(!is_build_id(text), "{text}");
        }
    }

    #[test]
    fn every_node_and_every_release_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = [
            name_for_node("6.1.0"),
            name_for_node("amd64"),
            name_for_node(&"n".repeat(253)),
            name_for_image("6.1.0", "amd64"),
            name_for_image("6.1.0", "arm64"),
            name_for_image("6.1.0a", "md64"),
        ]
        .into();
        assert_eq!(names.len(), 6);
        assert!(names.iter().all(|name| name.len() <= 63));
    }
}
