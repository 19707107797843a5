//! An image is published with some of its files changed: one more layer, and nothing else.
//!
//! Whoever signs modules changes a few small files of an image that may sit on a whole distribution. The image comes from
//! a registry, or from a folder in which a builder has left it and where nobody else sees it ([`Source`]). What an image of
//! a registry has stays where it is: layers are mounted from one repository into the other, or copied where the registry is
//! another. Only the layers that decide what the wanted files are come here: from the topmost down until all of them are
//! found, or all layers where a pattern leaves open how many there are. Equal input makes equal bytes, so that doing it again
//! ends in the same digest.

mod documents;
mod pattern;
mod select;
mod source;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tenon_order::Digest;

use crate::ImageReference;
use crate::layers::{LayersError, Limits};
use crate::layout::LayoutError;
use crate::manifest::Descriptor;
use crate::registry::{Blob, PullError, Pushed, Registry, RegistryError};
use source::Image;

pub use documents::DocumentError;
pub use pattern::{FilePattern, PatternError};
pub use source::Source;

type Any = Box<dyn std::error::Error + Send + Sync>;

/// What is done to a file, given its path in the image and its bytes: it stays as it is, or becomes others.
pub type Change = Arc<dyn Fn(&str, &[u8]) -> Result<Option<Vec<u8>>, Any> + Send + Sync>;

/// What is to be changed.
#[derive(Clone)]
pub struct Revision {
    /// Which files. Without any, the image is published as it is but for the labels, and no layer is read.
    pub files: Vec<FilePattern>,
    /// What is done to each.
    pub change: Change,
    /// What the image's history says of it.
    pub note: String,
    /// Whether a pattern that fits nothing is passed over, as long as another fits something.
    pub lenient: bool,
    /// Labels that each of the images gets.
    pub labels: BTreeMap<String, String>,
    /// How much of an image is tolerated.
    pub limits: Limits,
}

impl std::fmt::Debug for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Revision")
            .field("files", &self.files)
            .field("note", &self.note)
            .finish_non_exhaustive()
    }
}

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revised {
    /// Pinned by digest.
    pub reference: ImageReference,
    /// The files that were changed, by platform (`linux/amd64`).
    pub changed: BTreeMap<String, Vec<String>>,
    /// The files that were wanted and stayed as they are.
    pub unchanged: BTreeMap<String, Vec<String>>,
    /// Bytes of layers that came here from a registry.
    pub fetched: u64,
    /// How many of the image's own blobs were sent, mounted, or there.
    pub blobs: Blobs,
}

/// How the image's own blobs came to their new place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Blobs {
    /// Copied.
    pub copied: usize,
    /// Mounted by the registry.
    pub mounted: usize,
    /// There already.
    pub present: usize,
}

impl Blobs {
    fn count(&mut self, pushed: Pushed) {
        match pushed {
            Pushed::Uploaded => self.copied += 1,
            Pushed::Mounted => self.mounted += 1,
            Pushed::Present => self.present += 1,
        }
    }
}

/// Why an image was not published again. Nothing is to be seen under the new name then.
#[derive(Debug, thiserror::Error)]
pub enum ReviseError {
    /// A registry's answer.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The folder that it is in.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Its layers.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// What is in its layers.
    #[error(transparent)]
    Layers(#[from] LayersError),
    /// What was asked for is not there.
    #[error("the image for {platform} has no file {pattern}")]
    NoFile {
        /// Of which image.
        platform: String,
        /// What was asked for.
        pattern: String,
    },
    /// It is there, and no plain file.
    #[error("{path} of the image for {platform} is no file, or a link that leads nowhere")]
    NotAFile {
        /// Of which image.
        platform: String,
        /// Where.
        path: String,
    },
    /// A file larger than what is tolerated.
    #[error("{path} has {size} bytes, more than the {limit} allowed")]
    TooLarge {
        /// Where.
        path: String,
        /// In bytes.
        size: u64,
        /// In bytes.
        limit: u64,
    },
    /// The change itself.
    #[error("{path}")]
    Change {
        /// Of which file.
        path: String,
        /// Why not.
        source: Any,
    },
    /// A name that layers cannot hold.
    #[error("write {path} into a layer")]
    Name {
        /// Of which file.
        path: String,
        /// Why not.
        source: crate::UstarError,
    },
    /// The directory for temporary files.
    #[error("keep files in {directory}")]
    Spool {
        /// Where.
        directory: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// A manifest or a configuration.
    #[error("write the image's documents")]
    Documents(#[from] DocumentError),
    /// The thread that read the image is gone.
    #[error("read the image")]
    Thread(#[source] tokio::task::JoinError),
}

/// Publishes `from` as `to`, with temporary files in `work`. The name is written last.
pub async fn revise(
    from: Source<'_>,
    to: (&Registry, &ImageReference),
    revision: &Revision,
    work: &Path,
) -> Result<Revised, ReviseError> {
    let original = from.open(&revision.limits).await?;
    let (index, images) = (original.index(), original.images());
    let mut revised = Revised {
        reference: to.1.clone(),
        changed: BTreeMap::new(),
        unchanged: BTreeMap::new(),
        fetched: 0,
        blobs: Blobs::default(),
    };
    let mut replaced = Vec::new();
    for (image, files) in change_all(&images, revision, work).await? {
        let made = publish(image, to, files, revision, work, &mut revised).await?;
        if index.is_some() {
            // Found by its digest until the index leads to it.
            to.0.push_manifest(&to.1.by_digest(made.digest()), &made.media_type, &made.document).await?;
        }
        replaced.push((image.digest, made));
    }
    // An index may name nothing that runs.
    let last = replaced.pop().ok_or(DocumentError::Form("index"))?;
    let named = match index {
        None => last.1,
        Some(index) => {
            replaced.push(last);
            documents::index(index, &replaced)?
        }
    };
    let digest = to.0.push_manifest(to.1, &named.media_type, &named.document).await?;
    Ok(Revised { reference: to.1.with_digest(digest), ..revised })
}

/// Does all of [`revise`] but publishing: its files are found and changed, and nothing is sent anywhere. What is counted is what
/// would be changed.
pub async fn try_out(from: Source<'_>, revision: &Revision, work: &Path) -> Result<Tried, ReviseError> {
    let original = from.open(&revision.limits).await?;
    let images = original.images();
    let mut tried = Tried::default();
    for (_, files) in change_all(&images, revision, work).await? {
        let Some(files) = files else { continue };
        tried.unchanged += files.unchanged.len();
        tried.changed += files.layer.map_or(0, |(_, changed)| changed.len());
    }
    Ok(tried)
}

/// What would be published.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tried {
    /// How many files were changed.
    pub changed: usize,
    /// How many files were wanted and stay as they are.
    pub unchanged: usize,
}

/// The images with their changed files; none where an image has none of the files that are meant, or none are.
async fn change_all<'i>(
    images: &'i [Image<'i>],
    revision: &Revision,
    work: &Path,
) -> Result<Vec<(&'i Image<'i>, Option<select::Files>)>, ReviseError> {
    if revision.files.is_empty() {
        return Ok(images.iter().map(|image| (image, None)).collect());
    }
    let (mut missing, mut changed) = (None, Vec::new());
    for image in images {
        match select::changed(image, revision, work).await {
            Ok(files) => changed.push((image, Some(files))),
            // Of several images, some may be for others.
            Err(error @ ReviseError::NoFile { .. }) if images.len() > 1 => {
                missing = Some(error);
                changed.push((image, None));
            }
            Err(error) => return Err(error),
        }
    }
    match missing {
        Some(error) if changed.iter().all(|(_, files)| files.is_none()) => Err(error),
        _ => Ok(changed),
    }
}

/// A manifest that is ready to be stored.
#[derive(Debug)]
struct Made {
    media_type: String,
    document: Vec<u8>,
}

impl Made {
    fn digest(&self) -> Digest {
        Digest::of(&self.document)
    }
}

/// Brings one image's blobs to their place; its manifest is the caller's to store.
async fn publish(
    image: &Image<'_>,
    (registry, to): (&Registry, &ImageReference),
    files: Option<select::Files>,
    revision: &Revision,
    work: &Path,
    revised: &mut Revised,
) -> Result<Made, ReviseError> {
    for layer in image.layers {
        revised.blobs.count(image.provide(layer, (registry, to), work).await?);
    }
    let platform = image.platform();
    let layer = files.and_then(|files| {
        revised.fetched += files.fetched;
        revised.unchanged.insert(platform.clone(), files.unchanged);
        let (layer, changed) = files.layer?;
        revised.changed.insert(platform.clone(), changed);
        Some(layer)
    });
    if layer.is_none() && revision.labels.is_empty() {
        let config = Descriptor { size: image.config.len() as u64, ..image.configuration.clone() };
        revised.blobs.count(image.provide(&config, (registry, to), work).await?);
        return Ok(documents::unchanged(image.manifest)?);
    }
    if let Some(layer) = &layer {
        registry.push_blob(to, &layer.blob()).await?;
    }
    let config = documents::config(image.config, layer.as_ref(), &revision.note, &revision.labels)?;
    let made = documents::manifest(image.manifest, &config, layer.as_ref())?;
    registry.push_blob(to, &Blob::Bytes(config)).await?;
    Ok(made)
}
