//! A directory of modules becomes an image: one layer on nothing, the same bytes every time.
//!
//! In comes what a build left on disk ([`Contents::scan`]); out goes an image whose
//! `<dirName>/lib/modules/<kernel>/…` the operator reads. [`pack`] does the arithmetic on files, [`push`] talks to the
//! registry. Nothing in the image depends on the machine or the time.

mod contents;
mod image;
mod layer;

pub use contents::{Contents, ContentsError, FIRMWARE_PATH, KernelModules, Layout};
pub use image::{PackError, Packed, pack};

use crate::manifest::OCI_MANIFEST;
use crate::reference::ImageReference;
use crate::registry::{Blob, Pushed, Registry, RegistryError};
use tenon_order::Digest;

/// What happened so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A layer or the configuration is in the registry.
    Blob {
        /// Its name.
        digest: Digest,
        /// In bytes.
        size: u64,
        /// Whether it had to be sent.
        pushed: Pushed,
    },
}

/// Uploads an image: its blobs first, its name last, so that nobody ever sees half of it. Returns the reference with
/// the image's digest.
pub async fn push(
    registry: &Registry,
    to: &ImageReference,
    image: &Packed,
    progress: &mut dyn FnMut(Progress),
) -> Result<ImageReference, RegistryError> {
    for blob in [image.layer.blob(), Blob::Bytes(image.config.clone())] {
        let size = match &blob {
            Blob::Bytes(bytes) => bytes.len() as u64,
            Blob::File { size, .. } => *size,
        };
        let pushed = registry.push_blob(to, &blob).await?;
        progress(Progress::Blob { digest: blob.digest(), size, pushed });
    }
    let digest = registry.push_manifest(to, OCI_MANIFEST, &image.manifest).await?;
    Ok(to.with_digest(digest))
}
