//! From an image in a registry to a bundle on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tenon_kmod::KernelRelease;
use tenon_order::{BundleManifest, Digest};
use tokio::sync::Semaphore;

use super::selection::{Selected, select};
use super::writer::{SpoolError, Spooled, write};
use super::{SelectError, WriteError};
use crate::layers::{Decompressed, FileAt, ImageFiles, Layer, LayersError, Limits};
use crate::path::ImagePath;
use crate::platform::Architecture;
use crate::reference::ImageReference;
use crate::registry::{PlatformImage, PullError, Registry, RegistryError};
use crate::retry::Retry;

/// What a bundle is to be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleRequest {
    /// The image; with a digest where it was resolved before.
    pub image: ImageReference,
    /// The nodes' architecture.
    pub architecture: Architecture,
    /// The nodes' kernel.
    pub kernel: KernelRelease,
    /// The Module's `dirName`: modules are below `<dirName>/lib/modules/<kernel>/`.
    pub dir_name: ImagePath,
    /// The Module's `firmwarePath`, when it has one.
    pub firmware_path: Option<ImagePath>,
}

/// A bundle that is on disk, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltBundle {
    /// Its name.
    pub digest: Digest,
    /// Its files.
    pub manifest: BundleManifest,
    /// Where it is: `<hex of the digest>.tar.zst`.
    pub file: PathBuf,
    /// Of that file, in bytes.
    pub size: u64,
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The registry's answer.
    #[error("get {image}")]
    Registry {
        /// The image.
        image: ImageReference,
        /// What the registry said.
        source: RegistryError,
    },
    /// More bytes than a module image should have.
    #[error("get {image}: its layers have {size} bytes, more than the {limit} allowed")]
    TooLarge {
        /// The image.
        image: ImageReference,
        /// Compressed bytes of all layers.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The image's layers cannot be read.
    #[error("read {image}")]
    Layers {
        /// The image.
        image: ImageReference,
        /// Why.
        source: LayersError,
    },
    /// The image does not hold what the Module says.
    #[error("find the modules for kernel {kernel} in {image}")]
    Select {
        /// The image.
        image: ImageReference,
        /// The kernel.
        kernel: KernelRelease,
        /// What is missing or wrong.
        source: SelectError,
    },
    /// A module's compression is broken, or the module is larger than allowed.
    #[error("unpack {path} of {image}")]
    Unpack {
        /// The image.
        image: ImageReference,
        /// The module, by its path in the bundle.
        path: String,
        /// What happened.
        source: io::Error,
    },
    /// The operator's own disk.
    #[error("spool files in {directory}")]
    Spool {
        /// Where.
        directory: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The bundle could not be written.
    #[error("make the bundle of {image}")]
    Write {
        /// The image.
        image: ImageReference,
        /// Why.
        source: WriteError,
    },
    /// The process is ending.
    #[error("make the bundle of {image}: interrupted")]
    Interrupted {
        /// The image.
        image: ImageReference,
    },
}

impl BuildError {
    /// Whether it heals by itself.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Registry { source, .. } => source.retry(),
            Self::Spool { .. }
            | Self::Interrupted { .. }
            | Self::Write { source: WriteError::Io { .. }, .. }
            | Self::Layers { source: LayersError::Io { .. }, .. } => Retry::Later(None),
            Self::TooLarge { .. }
            | Self::Layers { .. }
            | Self::Select { .. }
            | Self::Unpack { .. }
            | Self::Write { .. } => Retry::AfterChange,
        }
    }
}

/// Images whose layers are read at once: each may take some 100 MiB of memory.
const AT_ONCE: usize = 2;

/// Makes bundles: downloads layers to temporary files, takes out what a node needs, packs it.
#[derive(Debug, Clone)]
pub struct BundleBuilder {
    work: PathBuf,
    limits: Limits,
    /// Shared by clones.
    turns: Arc<Semaphore>,
}

impl BundleBuilder {
    /// Works in the directory `work`, where it leaves nothing behind.
    pub fn new(work: PathBuf, limits: Limits) -> Self {
        Self { work, limits, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Makes the bundle in the directory `out`. The image is one that [`Registry::image`] returned for this request.
    pub async fn build(
        &self,
        registry: &Registry,
        image: &PlatformImage,
        request: &BundleRequest,
        out: &Path,
    ) -> Result<BuiltBundle, BuildError> {
        let image_name = || request.image.clone();
        let layers =
            registry.pull_layers(image, &self.work, &self.limits).await.map_err(|error| match error {
                PullError::Registry(source) => BuildError::Registry { image: image_name(), source },
                PullError::TooLarge { size, limit } => {
                    BuildError::TooLarge { image: image_name(), size, limit }
                }
                PullError::Spool { directory, source } => BuildError::Spool { directory, source },
            })?;
        self.pack_aside(layers, request, out).await
    }

    /// As [`Self::pack`], on a thread of its own, when its turn has come.
    pub async fn pack_aside(
        &self,
        layers: Vec<Layer>,
        request: &BundleRequest,
        out: &Path,
    ) -> Result<BuiltBundle, BuildError> {
        let (builder, request, out) = (self.clone(), request.clone(), out.to_owned());
        let interrupted = BuildError::Interrupted { image: request.image.clone() };
        let Ok(turn) = self.turns.clone().acquire_owned().await else { return Err(interrupted) };
        let made = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            builder.pack(layers, &request, &out)
        })
        .await;
        made.unwrap_or(Err(interrupted))
    }

    /// Makes the bundle from layers that were downloaded, the lowest first. Blocks.
    pub fn pack(
        &self,
        layers: Vec<Layer>,
        request: &BundleRequest,
        out: &Path,
    ) -> Result<BuiltBundle, BuildError> {
        let image = &request.image;
        let layers_error = |source| BuildError::Layers { image: image.clone(), source };
        let files = ImageFiles::flatten(layers, &self.limits).map_err(layers_error)?;
        let selected = select(files.tree(), request, &self.limits).map_err(|source| BuildError::Select {
            image: image.clone(),
            kernel: request.kernel.clone(),
            source,
        })?;
        let copies = self.spool(&files, &selected, request)?;
        let listed: Vec<_> = selected
            .iter()
            .filter_map(|file| Some((file.path.clone(), copies.get(&file.at)?.of(file))))
            .collect();
        let (file, size, manifest) =
            write(&listed, out).map_err(|source| BuildError::Write { image: image.clone(), source })?;
        Ok(BuiltBundle { digest: manifest.digest(), manifest, file, size })
    }

    /// Takes the files out of the layers; links to one file share its copy.
    fn spool(
        &self,
        files: &ImageFiles,
        selected: &[Selected],
        request: &BundleRequest,
    ) -> Result<BTreeMap<FileAt, Copies>, BuildError> {
        let wanted: BTreeSet<FileAt> = selected.iter().map(|file| file.at).collect();
        let mut copies = BTreeMap::new();
        let mut left = self.limits.taken;
        let mut take = |at, content: &mut dyn Read| {
            let name = selected.iter().find(|file| file.at == at && file.module);
            let as_it_is = self.take(content, request, "a file")?;
            let unpacked = match name {
                Some(file) => {
                    self.unpack(&as_it_is, left.min(self.limits.module), request, file.path.as_str())?
                }
                None => None,
            };
            left = left.saturating_sub(unpacked.as_ref().map_or(0, |copy| copy.size));
            copies.insert(at, Copies { as_it_is, unpacked });
            Ok(())
        };
        files.read(&wanted, &mut take, &|source| BuildError::Layers {
            image: request.image.clone(),
            source,
        })?;
        Ok(copies)
    }

    /// The module's bytes as the kernel wants them; nothing when they are like that already.
    fn unpack(
        &self,
        packed: &Spooled,
        limit: u64,
        request: &BundleRequest,
        path: &str,
    ) -> Result<Option<Spooled>, BuildError> {
        let failed =
            |source| BuildError::Unpack { image: request.image.clone(), path: path.to_owned(), source };
        (&packed.file).rewind().map_err(failed)?;
        let mut contents = Decompressed::open(&packed.file, limit).map_err(failed)?;
        if contents.compressed() { self.take(&mut contents, request, path).map(Some) } else { Ok(None) }
    }

    fn take(
        &self,
        content: &mut dyn Read,
        request: &BundleRequest,
        path: &str,
    ) -> Result<Spooled, BuildError> {
        Spooled::take(content, &self.work).map_err(|error| match error {
            SpoolError::Read(source) => {
                BuildError::Unpack { image: request.image.clone(), path: path.to_owned(), source }
            }
            SpoolError::Write(source) => self.spool_error(source),
        })
    }

    fn spool_error(&self, source: io::Error) -> BuildError {
        BuildError::Spool { directory: self.work.clone(), source }
    }
}

/// A file taken out of an image.
#[derive(Debug)]
struct Copies {
    as_it_is: Spooled,
    /// Where it is a module that was packed.
    unpacked: Option<Spooled>,
}

impl Copies {
    fn of(&self, file: &Selected) -> &Spooled {
        self.unpacked.as_ref().filter(|_| file.module).unwrap_or(&self.as_it_is)
    }
}
