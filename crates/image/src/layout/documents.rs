//! What the two documents at a layout's top say, from their bytes alone.

use serde::Deserialize;

use super::LayoutFault;
use crate::manifest::{Descriptor, Document, ManifestError, OCI_INDEX, Platform};

/// What a layout holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// An image, or an index of several: what is named tells which.
    One(Descriptor),
    /// An image for each of several platforms; and perhaps what describes them.
    Platforms(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    image_layout_version: String,
}

/// Reads `oci-layout`: whether it names the one version that there is.
pub fn read_version(bytes: &[u8]) -> Result<(), LayoutFault> {
    let read: Version = serde_json::from_slice(bytes).map_err(LayoutFault::NoVersion)?;
    if read.image_layout_version == "1.0.0" {
        return Ok(());
    }
    Err(LayoutFault::Version(read.image_layout_version.chars().take(32).collect()))
}

/// Reads `index.json`. Several images are one only if each is for another platform: names, which builders give them too, are
/// not looked at.
pub fn read_index(bytes: &[u8]) -> Result<Contents, LayoutFault> {
    // Some builders leave the type out.
    let Document::Index(entries) = Document::read(bytes, OCI_INDEX)? else {
        return Err(ManifestError::Type("an image".to_owned()).into());
    };
    if let [one] = entries.as_slice() {
        return Ok(Contents::One(one.clone()));
    }
    let runnable: Vec<_> = entries.iter().filter(|entry| entry.is_runnable()).collect();
    let mut platforms: Vec<_> =
        runnable.iter().filter_map(|entry| entry.platform.as_ref()).map(key).collect();
    platforms.sort_unstable();
    platforms.dedup();
    if runnable.is_empty() || platforms.len() < runnable.len() {
        return Err(LayoutFault::Images(runnable.len()));
    }
    Ok(Contents::Platforms(entries))
}

fn key(platform: &Platform) -> (&str, &str, Option<&str>) {
    (&platform.os, &platform.architecture, platform.variant.as_deref())
}
