//! Where an image comes from: its documents, and the way to its blobs.

use std::path::Path;

use tenon_order::Digest;

use super::ReviseError;
use crate::ImageReference;
use crate::layers::{Layer, Limits};
use crate::layout::{Layout, LayoutImage};
use crate::manifest::{Descriptor, Platform};
use crate::registry::{Original, OriginalImage, PlatformImage, PullError, Pushed, Registry, RegistryError};

/// Where an image comes from.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A registry, and the image's name there.
    Registry(&'a Registry, &'a ImageReference),
    /// A folder.
    Layout(&'a Layout),
}

impl<'a> Source<'a> {
    /// Of the image that is meant now: of its index where it has one. A name is resolved for it.
    pub async fn digest(&self) -> Result<Digest, RegistryError> {
        match self {
            Self::Registry(registry, image) => match image.digest() {
                Some(digest) => Ok(*digest),
                None => registry.resolve(image).await,
            },
            Self::Layout(layout) => Ok(layout.digest()),
        }
    }

    /// Reads the image's documents.
    pub(super) async fn open(self, limits: &Limits) -> Result<Opened<'a>, ReviseError> {
        match self {
            Self::Registry(registry, image) => {
                Ok(Opened::Registry(registry, registry.original(image).await?))
            }
            Self::Layout(layout) => {
                // All of it is read here, where registries give their layers to each other; and a file of zeros costs whoever
                // wrote it nothing.
                let (size, limit) = (layout.size(), limits.compressed);
                if size > limit {
                    return Err(PullError::TooLarge { size, limit }.into());
                }
                Ok(Opened::Layout(layout))
            }
        }
    }
}

/// A source whose documents were read.
pub(super) enum Opened<'a> {
    Registry(&'a Registry, Original),
    Layout(&'a Layout),
}

impl Opened<'_> {
    /// The index, if there is one.
    pub(super) fn index(&self) -> Option<&[u8]> {
        match self {
            Self::Registry(_, original) => original.index.as_deref(),
            Self::Layout(layout) => layout.index(),
        }
    }

    /// The images that something can run, in the index's order.
    pub(super) fn images(&self) -> Vec<Image<'_>> {
        match self {
            Self::Registry(registry, original) => {
                let image = |original| Image::of_registry(registry, original);
                original.images.iter().map(image).collect()
            }
            Self::Layout(layout) => {
                layout.images().iter().map(|image| Image::of_layout(layout, image)).collect()
            }
        }
    }
}

/// One image of a source.
pub(super) struct Image<'a> {
    /// Of its manifest.
    pub(super) digest: Digest,
    pub(super) manifest: &'a [u8],
    pub(super) config: &'a [u8],
    /// Names the configuration.
    pub(super) configuration: &'a Descriptor,
    /// The lowest first.
    pub(super) layers: &'a [Descriptor],
    runs_on: &'a Platform,
    home: Home<'a>,
}

/// Where an image's blobs are.
enum Home<'a> {
    Registry(&'a Registry, &'a PlatformImage),
    Layout(&'a Layout),
}

impl<'a> Image<'a> {
    fn of_registry(registry: &'a Registry, original: &'a OriginalImage) -> Self {
        let image = &original.image;
        Self {
            digest: image.digest(),
            manifest: &original.manifest,
            config: &original.config,
            configuration: image.config(),
            layers: image.layers(),
            runs_on: &original.platform,
            home: Home::Registry(registry, image),
        }
    }

    fn of_layout(layout: &'a Layout, image: &'a LayoutImage) -> Self {
        Self {
            digest: image.digest,
            manifest: &image.manifest,
            config: &image.config,
            configuration: &image.contents.config,
            layers: &image.contents.layers,
            runs_on: &image.platform,
            home: Home::Layout(layout),
        }
    }

    /// What it is for, as people write it.
    pub(super) fn platform(&self) -> String {
        format!("{}/{}", self.runs_on.os, self.runs_on.architecture)
    }

    /// Opens a layer, and says how many bytes came here for it.
    pub(super) async fn layer(&self, layer: &Descriptor, work: &Path) -> Result<(Layer, u64), ReviseError> {
        match self.home {
            Home::Registry(registry, image) => {
                let spool = |source| PullError::Spool { directory: work.to_owned(), source };
                let file = tempfile::tempfile_in(work).map_err(spool)?;
                let file = registry.pull_blob(image, layer, file).await?;
                let Descriptor { digest, size, .. } = *layer;
                Ok((Layer { digest, size, file, shared: false }, size))
            }
            Home::Layout(layout) => Ok((layout.layer(layer)?, 0)),
        }
    }

    /// Makes sure that a repository holds a blob of the image.
    pub(super) async fn provide(
        &self,
        blob: &Descriptor,
        (registry, to): (&Registry, &ImageReference),
        work: &Path,
    ) -> Result<Pushed, ReviseError> {
        let layout = match self.home {
            Home::Registry(from, image) => {
                return Ok(registry.provide_blob(to, blob, (from, image), work).await?);
            }
            Home::Layout(layout) => layout,
        };
        // What is there by its digest needs not be read here.
        if let Some(pushed) = registry.find_blob(to, blob.digest, None).await? {
            return Ok(pushed);
        }
        let checked = tokio::task::spawn_blocking(layout.blob(blob)).await.map_err(ReviseError::Thread)??;
        Ok(registry.push_blob(to, &checked).await?)
    }
}
