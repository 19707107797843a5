//! Which of an index's manifests is for a node, and whether a single one is.

use std::fmt;
use std::str::FromStr;

use crate::manifest::{Descriptor, Platform};

/// A processor architecture as Kubernetes and OCI spell it (Go's `GOARCH`): `amd64`, `arm64`, `ppc64le`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Architecture(String);

/// Text that names no architecture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read the architecture {0:?}: expected a name like `amd64` or `arm64`")]
pub struct ArchitectureError(String);

/// The image is not for this architecture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// The index has none.
    #[error("the image is not for linux/{wanted}, only for {}", list(available))]
    NotInIndex {
        /// The nodes' architecture.
        wanted: Architecture,
        /// What the image is for.
        available: Vec<String>,
    },
    /// The one image is for another platform.
    #[error("the image is for {found}, not for linux/{wanted}")]
    Other {
        /// The nodes' architecture.
        wanted: Architecture,
        /// By the image's configuration.
        found: String,
    },
}

impl Architecture {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<tenon_kmod::object::Architecture> for Architecture {
    fn from(machine: tenon_kmod::object::Architecture) -> Self {
        Self(machine.as_str().to_owned())
    }
}

impl FromStr for Architecture {
    type Err = ArchitectureError;

    fn from_str(text: &str) -> Result<Self, ArchitectureError> {
        let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if (1..=32).contains(&text.len()) && text.bytes().all(lower) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ArchitectureError(text.to_owned()))
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The manifest for Linux on this architecture. Of several variants the plainest wins: modules know none.
pub fn select<'a>(index: &'a [Descriptor], wanted: &Architecture) -> Result<&'a Descriptor, PlatformError> {
    let fits =
        |entry: &&Descriptor| entry.platform.as_ref().is_some_and(|platform| runs_on(platform, wanted));
    let variant = |entry: &&Descriptor| entry.platform.as_ref().and_then(|platform| platform.variant.clone());
    index.iter().filter(fits).min_by_key(variant).ok_or_else(|| PlatformError::NotInIndex {
        wanted: wanted.clone(),
        // Attestations are `unknown/unknown`.
        available: index
            .iter()
            .filter_map(|entry| entry.platform.as_ref())
            .map(shown)
            .filter(|name| name != "unknown/unknown")
            .collect(),
    })
}

/// Whether an image with this configuration is for Linux on this architecture.
pub fn check(config: &Platform, wanted: &Architecture) -> Result<(), PlatformError> {
    if runs_on(config, wanted) {
        Ok(())
    } else {
        Err(PlatformError::Other { wanted: wanted.clone(), found: shown(config) })
    }
}

fn runs_on(platform: &Platform, wanted: &Architecture) -> bool {
    platform.os == "linux" && platform.architecture == wanted.0
}

fn shown(platform: &Platform) -> String {
    let part =
        |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.chars().take(32).collect() };
    format!("{}/{}", part(&platform.os), part(&platform.architecture))
}

fn list(available: &[String]) -> String {
    if available.is_empty() { "nothing".to_owned() } else { available.join(", ") }
}

#[cfg(test)]
mod tests {
    use tenon_order::Digest;

    use super::*;

    fn entry(os: &str, architecture: &str, variant: Option<&str>) -> Descriptor {
        let variant = variant.map(str::to_owned);
        let platform = Platform { architecture: architecture.to_owned(), os: os.to_owned(), variant };
        let digest = Digest::of(format!("{platform:?}").as_bytes());
        Descriptor { media_type: String::new(), digest, size: 1, platform: Some(platform) }
    }

    #[test]
    fn the_plainest_variant_of_the_architecture_is_chosen() {
        let index = [
            entry("windows", "amd64", None),
            entry("linux", "amd64", Some("v3")),
            entry("linux", "amd64", None),
            entry("linux", "arm64", Some("v8")),
        ];
        assert_eq!(select(&index, &"amd64".parse().unwrap()), Ok(&index[2]));
        assert_eq!(select(&index, &"arm64".parse().unwrap()), Ok(&index[3]));
    }

    #[test]
    fn what_the_image_is_for_is_said() {
        let index = [entry("linux", "arm64", None), entry("unknown", "unknown", None)];
        let error = select(&index, &"amd64".parse().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "the image is not for linux/amd64, only for linux/arm64");
        let error = check(&Platform::default(), &"amd64".parse().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "the image is for unknown/unknown, not for linux/amd64");
    }
}
