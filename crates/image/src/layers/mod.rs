//! Which files an image has, and their bytes.
//!
//! Layers come in as files whose digests were checked to the last byte, or are while they are read;
//! [`ImageFiles::flatten`] reads their archives bottom-up into one [`tree::Tree`] of names (whiteouts, opaque directories,
//! links, usrmerge), and [`ImageFiles::read`] goes back for the files that somebody wants. Nothing here is written under
//! a name that the image chose. Whatever an image builder would not write is refused, naming the entry; [`Limits`] bound
//! the rest.

mod archive;
mod compression;
mod stored;
mod tree;
mod walk;

#[cfg(test)]
pub(crate) mod corpus;
#[cfg(test)]
mod model;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};

use tenon_order::Digest;

pub use archive::ArchiveError;
pub(crate) use archive::{Member, MemberKind};
pub(crate) use compression::Decompressed;
use stored::Stored;
pub use tree::{FileAt, LinkError, TooManyNames, Tree, TreeError};
pub(crate) use tree::{MAX_LINKS, MAX_STEPS};
pub use walk::{Found, Walked};

/// How much of an image is tolerated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Compressed bytes of all layers.
    pub compressed: u64,
    /// Decompressed bytes of all layers.
    pub expanded: u64,
    /// Decompressed bytes for one compressed byte, counted beyond the first 64 MiB of a layer.
    pub ratio: u64,
    /// Entries of all layers.
    pub entries: u32,
    /// Bytes of all names and link targets.
    pub names: usize,
    /// Files taken out of one image.
    pub files: usize,
    /// Bytes of one file taken out, decompressed.
    pub file: u64,
    /// Bytes of one kernel module, decompressed: who judges it holds it in memory.
    pub module: u64,
    /// Bytes of all files taken out, decompressed.
    pub taken: u64,
}

impl Default for Limits {
    /// Ample for module images that sit on a whole distribution. The names of the worst image that is let through take
    /// some 64 MiB of memory; decompression takes at most as much again, for a moment.
    fn default() -> Self {
        Self {
            compressed: 8 << 30,
            expanded: 24 << 30,
            ratio: 200,
            entries: 400_000,
            names: 16 << 20,
            files: 20_000,
            file: 1 << 30,
            // Drivers with all their debug information have less.
            module: 192 << 20,
            taken: 4 << 30,
        }
    }
}

/// A layer in a file.
#[derive(Debug)]
pub struct Layer {
    /// Of the bytes as the registry has them.
    pub digest: Digest,
    /// In bytes, as the registry has them.
    pub size: u64,
    /// The bytes.
    pub file: File,
    /// Whether somebody else may write to the file: then its digest is checked whenever it is read. Otherwise whoever made the
    /// layer has checked the digest of all of its bytes.
    pub shared: bool,
}

impl Layer {
    /// The same file once more: whoever reads a layer begins at its beginning.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, ..*self })
    }
}

/// Why an image's files could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LayersError {
    /// The image has more layers than any runtime accepts.
    #[error("read the image's layers: there are {0}, more than 1024")]
    TooManyLayers(usize),
    /// An archive that no image builder writes.
    #[error("read layer {layer}")]
    Archive {
        /// The layer.
        layer: Digest,
        /// What is wrong in it.
        source: ArchiveError,
    },
    /// Entries that fit nowhere.
    #[error("apply layer {layer}")]
    Tree {
        /// The layer.
        layer: Digest,
        /// What is wrong in it.
        source: TreeError,
    },
    /// Somebody wrote to the file, or it never was this layer.
    #[error("read layer {layer}: the file's digest is {found}")]
    Digest {
        /// The layer.
        layer: Digest,
        /// Of what was read.
        found: Digest,
    },
    /// The temporary file.
    #[error("read the local copy of layer {layer}")]
    Io {
        /// The layer.
        layer: Digest,
        /// What happened.
        source: io::Error,
    },
}

/// The files of an image: a tree of names over its layers.
#[derive(Debug)]
pub struct ImageFiles {
    layers: Vec<Layer>,
    tree: Tree,
    limits: Limits,
}

impl ImageFiles {
    /// Reads the names of all layers, given from the lowest to the topmost. Blocks.
    pub fn flatten(layers: Vec<Layer>, limits: &Limits) -> Result<Self, LayersError> {
        let mut tree = Tree::new(limits);
        let mut expanded = 0;
        for (index, layer) in layers.iter().enumerate() {
            let number = u16::try_from(index).ok().filter(|number| *number < 1024);
            let number = number.ok_or(LayersError::TooManyLayers(layers.len()))?;
            expanded += apply(layer, number, limits.expanded - expanded, limits, &mut tree)?;
        }
        Ok(Self { layers, tree, limits: limits.clone() })
    }

    /// The names.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Reads these files, in the order in which the layers have them; each is given to `take` once. Blocks.
    pub fn read<E>(
        &self,
        wanted: &BTreeSet<FileAt>,
        take: &mut dyn FnMut(FileAt, &mut dyn Read) -> Result<(), E>,
        layers_error: &dyn Fn(LayersError) -> E,
    ) -> Result<(), E> {
        for (number, layer) in (0_u16..).zip(&self.layers) {
            if wanted.iter().any(|at| at.layer == number) {
                read_from(layer, number, &self.limits, wanted, take).map_err(layers_error)??;
            }
        }
        Ok(())
    }
}

/// Adds a layer's names to the tree; says how many bytes its archive has.
fn apply(
    layer: &Layer,
    number: u16,
    left: u64,
    limits: &Limits,
    tree: &mut Tree,
) -> Result<u64, LayersError> {
    visit(layer, left, limits, &mut |member, _| {
        tree.apply(number, &member).map_err(|source| LayersError::Tree { layer: layer.digest, source })
    })
}

fn read_from<E>(
    layer: &Layer,
    number: u16,
    limits: &Limits,
    wanted: &BTreeSet<FileAt>,
    take: &mut dyn FnMut(FileAt, &mut dyn Read) -> Result<(), E>,
) -> Result<Result<(), E>, LayersError> {
    let mut refused = None;
    // A broken archive comes first: it may be why the taker failed.
    visit(layer, limits.expanded, limits, &mut |member, content| {
        let MemberKind::File { size, executable } = member.kind else { return Ok(()) };
        let at = FileAt { layer: number, member: member.index, size, executable };
        if refused.is_none() && wanted.contains(&at) {
            refused = take(at, content).err();
        }
        Ok(())
    })?;
    Ok(refused.map_or(Ok(()), Err))
}

/// Visits every entry of a layer; says how many bytes its archive has. After an error nothing that was visited means
/// anything.
fn visit(
    layer: &Layer,
    left: u64,
    limits: &Limits,
    visit: &mut dyn FnMut(Member, &mut dyn Read) -> Result<(), LayersError>,
) -> Result<u64, LayersError> {
    let failed = |source| LayersError::Io { layer: layer.digest, source };
    let by_ratio = layer.size.saturating_mul(limits.ratio).max(64 << 20);
    let mut stored = Stored::open(layer).map_err(failed)?;
    let mut bytes = Decompressed::open(&mut stored, left.min(by_ratio)).map_err(failed)?;
    let read = archive::read(&mut bytes, visit).map_err(|error| located(error, layer, &bytes));
    let delivered = bytes.delivered();
    drop(bytes);
    // Where the bytes are others it does not matter what became of them.
    stored.check()?;
    read.map(|()| delivered)
}

/// An archive that ended because it grew too large says so, whatever the reader in between made of it.
fn located(error: archive::ReadError<LayersError>, layer: &Layer, bytes: &Decompressed<'_>) -> LayersError {
    match error {
        archive::ReadError::Visitor(error) => error,
        archive::ReadError::Archive(_) if bytes.exceeded() => {
            LayersError::Archive { layer: layer.digest, source: ArchiveError::Expansion }
        }
        archive::ReadError::Archive(source) => LayersError::Archive { layer: layer.digest, source },
    }
}
