//! An image that a builder has left in a folder, in the form of the OCI image specification's `image-layout.md`:
//! `oci-layout`, `index.json`, `blobs/sha256/<hex>`. What `buildah push … oci:FOLDER` writes is one.
//!
//! In comes the folder; out go the documents of the one image in it, and its layers as open files. Whoever wrote the folder
//! is not trusted, and may write to it still: no link is followed, nothing but plain files is opened, documents are bounded,
//! and no byte is believed before its digest was computed from what was read. The folder is never written to.

mod documents;
mod folder;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tenon_order::Digest;

use crate::layers::Layer;
use crate::manifest::{self, Descriptor, Document, ImageManifest, ManifestError, Platform};
use crate::registry::Blob;
use folder::Folder;

pub use documents::{Contents, read_index, read_version};

/// The largest document, in bytes: what registries accept of a manifest.
const MAX_DOCUMENT: u64 = 4 << 20;
/// Bytes of all documents of a layout: they are held in memory.
const MAX_DOCUMENTS: u64 = 32 << 20;
/// Images of an index.
const MAX_IMAGES: usize = 64;
/// Layers of an image, as many as are ever read (see [`crate::layers`]).
const MAX_LAYERS: usize = 1024;

/// A file of a layout that is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("read {file} of the image layout {folder}", folder = folder.display())]
pub struct LayoutError {
    /// The layout.
    pub folder: PathBuf,
    /// The file, by its path in the folder; `.` is the folder itself.
    pub file: String,
    /// What is wrong with it.
    pub source: LayoutFault,
}

/// What is wrong with a file of a layout.
#[derive(Debug, thiserror::Error)]
pub enum LayoutFault {
    /// No such file.
    #[error("it is not there")]
    Absent,
    /// A link might lead out of the folder.
    #[error("it is a symbolic link, and those are not followed")]
    Link,
    /// A file where a folder should be, or a link to one.
    #[error("it is no folder, or a symbolic link to one")]
    NotAFolder,
    /// A folder, pipe, socket or device.
    #[error("it is no plain file")]
    NotAFile,
    /// The system's own words.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Larger than anything of its kind.
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    /// Not as long as whoever names it says.
    #[error("it should have {expected} bytes and has {found}")]
    Size {
        /// By what names it.
        expected: u64,
        /// By the file system.
        found: u64,
    },
    /// Not what its name says.
    #[error("it should be {expected} and is {found}")]
    Digest {
        /// By what names it.
        expected: Digest,
        /// Of its bytes.
        found: Digest,
    },
    /// Not JSON, or without the field for it.
    #[error("it says nothing of the layout's version")]
    NoVersion(#[source] serde_json::Error),
    /// Another version of the layout.
    #[error("the layout is of version {0:?}; only 1.0.0 is known")]
    Version(String),
    /// No manifest, index or configuration.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Nobody says which of several is meant.
    #[error("it names {0} images, where one is expected, or one for each of several platforms")]
    Images(usize),
    /// More platforms than there are.
    #[error("it names more than {MAX_IMAGES} images")]
    TooManyImages,
    /// More layers than runtimes accept.
    #[error("it names {0} layers, more than {MAX_LAYERS}")]
    TooManyLayers(usize),
    /// Together with those that were read before it.
    #[error("the layout's documents have more than {MAX_DOCUMENTS} bytes together")]
    Documents,
}

/// A layout whose documents were read, and whose layers are there.
#[derive(Debug)]
pub struct Layout {
    folder: Arc<Folder>,
    digest: Digest,
    index: Option<Vec<u8>>,
    images: Vec<LayoutImage>,
}

/// One image of a [`Layout`], as it is in the folder, byte for byte.
#[derive(Debug)]
pub(crate) struct LayoutImage {
    /// Of its manifest.
    pub(crate) digest: Digest,
    pub(crate) contents: ImageManifest,
    /// What it runs on, by its configuration.
    pub(crate) platform: Platform,
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Vec<u8>,
}

impl Layout {
    /// Reads the documents of the one image in this folder, and looks whether its layers are there. Layers themselves are read
    /// when they are wanted. The folder must be no symbolic link. Blocks.
    pub fn open(folder: &Path) -> Result<Self, LayoutError> {
        let folder = Folder::open(folder)?;
        let mut reader = Reader { folder: &folder, left: MAX_DOCUMENTS };
        reader.version()?;
        let (digest, index, images) = reader.contents()?;
        Ok(Self { folder: Arc::new(folder), digest, index, images })
    }

    /// Of the image: of its manifest, or of the index where it is for several platforms.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Bytes of all layers, each counted once.
    pub fn size(&self) -> u64 {
        let mut layers: Vec<_> = self.images.iter().flat_map(|image| &image.contents.layers).collect();
        layers.sort_by_key(|layer| layer.digest);
        layers.dedup_by_key(|layer| layer.digest);
        layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.size))
    }

    /// The index, where the image is for several platforms.
    pub(crate) fn index(&self) -> Option<&[u8]> {
        self.index.as_deref()
    }

    /// The images that something can run, in the index's order; at least one.
    pub(crate) fn images(&self) -> &[LayoutImage] {
        &self.images
    }

    /// A layer, whose digest will be checked whenever it is read.
    pub(crate) fn layer(&self, layer: &Descriptor) -> Result<Layer, LayoutError> {
        let file = self.folder.blob(layer)?;
        Ok(Layer { digest: layer.digest, size: layer.size, file, shared: true })
    }

    /// A blob to upload, once what is returned was called and has found that it is what its name says; that blocks.
    ///
    /// It is sent from the file that was read. Who writes to that file in between makes the registry refuse the upload, since
    /// registries compute the digest of what they are sent.
    pub(crate) fn blob(
        &self,
        blob: &Descriptor,
    ) -> impl FnOnce() -> Result<Blob, LayoutError> + Send + use<> {
        let (folder, blob) = (Arc::clone(&self.folder), blob.clone());
        move || {
            let file = folder.checked_blob(&blob)?.into();
            Ok(Blob::File { file, digest: blob.digest, size: blob.size })
        }
    }
}

/// Reads documents, of which only so many bytes more are tolerated.
struct Reader<'a> {
    folder: &'a Folder,
    left: u64,
}

type Documents = (Digest, Option<Vec<u8>>, Vec<LayoutImage>);

impl Reader<'_> {
    fn version(&self) -> Result<(), LayoutError> {
        const FILE: &str = "oci-layout";
        let bytes = self.folder.file(FILE, MAX_DOCUMENT)?;
        read_version(&bytes).map_err(|source| self.folder.error(FILE, source))
    }

    /// What `index.json` leads to: an image, or an index of several; `index.json` may be that itself.
    fn contents(&mut self) -> Result<Documents, LayoutError> {
        const FILE: &str = "index.json";
        let bytes = self.folder.file(FILE, MAX_DOCUMENT)?;
        let one = match read_index(&bytes).map_err(|source| self.folder.error(FILE, source))? {
            Contents::One(one) => one,
            Contents::Platforms(entries) => {
                let images = self.images(&entries, FILE)?;
                return Ok((Digest::of(&bytes), Some(bytes), images));
            }
        };
        match self.document(&one)? {
            (manifest, Document::Image(contents)) => {
                Ok((one.digest, None, vec![self.image(&one, manifest, contents)?]))
            }
            (index, Document::Index(entries)) => {
                Ok((one.digest, Some(index), self.images(&entries, &folder::blob_path(&one.digest))?))
            }
        }
    }

    /// Those of an index's images that something can run.
    fn images(&mut self, entries: &[Descriptor], index: &str) -> Result<Vec<LayoutImage>, LayoutError> {
        let runnable: Vec<_> = entries.iter().filter(|entry| entry.is_runnable()).collect();
        if runnable.is_empty() {
            return Err(self.folder.error(index, LayoutFault::Images(0)));
        }
        if runnable.len() > MAX_IMAGES {
            return Err(self.folder.error(index, LayoutFault::TooManyImages));
        }
        let mut images = Vec::new();
        for entry in runnable {
            // Only an index may name an index, and only once: so nothing goes in circles.
            let (manifest, Document::Image(contents)) = self.document(entry)? else {
                let nested = ManifestError::Type("an index in an index".to_owned());
                return Err(self.blob_error(entry, nested.into()));
            };
            images.push(self.image(entry, manifest, contents)?);
        }
        Ok(images)
    }

    fn image(
        &mut self,
        descriptor: &Descriptor,
        manifest: Vec<u8>,
        contents: ImageManifest,
    ) -> Result<LayoutImage, LayoutError> {
        contents.check_layers().map_err(|error| self.blob_error(descriptor, error.into()))?;
        if contents.layers.len() > MAX_LAYERS {
            let count = contents.layers.len();
            return Err(self.blob_error(descriptor, LayoutFault::TooManyLayers(count)));
        }
        let config = self.bytes(&contents.config)?;
        let platform = manifest::read_platform(&config)
            .map_err(|error| self.blob_error(&contents.config, error.into()))?;
        for layer in &contents.layers {
            self.folder.blob(layer)?;
        }
        Ok(LayoutImage { digest: descriptor.digest, contents, platform, manifest, config })
    }

    fn document(&mut self, descriptor: &Descriptor) -> Result<(Vec<u8>, Document), LayoutError> {
        let bytes = self.bytes(descriptor)?;
        let document = Document::read(&bytes, &descriptor.media_type)
            .map_err(|error| self.blob_error(descriptor, error.into()))?;
        Ok((bytes, document))
    }

    fn bytes(&mut self, descriptor: &Descriptor) -> Result<Vec<u8>, LayoutError> {
        let left = self.left.checked_sub(descriptor.size);
        self.left = left.ok_or_else(|| self.blob_error(descriptor, LayoutFault::Documents))?;
        self.folder.document(descriptor, MAX_DOCUMENT)
    }

    fn blob_error(&self, descriptor: &Descriptor, source: LayoutFault) -> LayoutError {
        self.folder.error(&folder::blob_path(&descriptor.digest), source)
    }
}
