//! A folder that somebody else wrote, opened so that nothing outside of it is reached: each part of a path is opened from the
//! folder above it, without following links, and without waiting for whoever writes to a pipe.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use tenon_order::{Digest, Hasher};

use super::{LayoutError, LayoutFault};
use crate::manifest::Descriptor;

/// Where a blob is, in the layout.
pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A layout's folder, held open.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    root: OwnedFd,
    /// `blobs/sha256`.
    blobs: OwnedFd,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self, LayoutError> {
        // A slash at its end would have a link followed.
        let path: PathBuf = path.components().collect();
        let failed = |file: &str| {
            let (folder, file) = (path.clone(), file.to_owned());
            move |source| LayoutError { folder, file, source }
        };
        let root = directory(CWD, &path).map_err(failed("."))?;
        let blobs = directory(&root, Path::new("blobs")).map_err(failed("blobs"))?;
        let blobs = directory(&blobs, Path::new("sha256")).map_err(failed("blobs/sha256"))?;
        Ok(Self { path, root, blobs })
    }

    pub(super) fn error(&self, file: &str, source: LayoutFault) -> LayoutError {
        LayoutError { folder: self.path.clone(), file: file.to_owned(), source }
    }

    /// All bytes of a file beside `blobs`, which nothing names by content.
    pub(super) fn file(&self, name: &str, limit: u64) -> Result<Vec<u8>, LayoutError> {
        let read = plain_file(&self.root, name).and_then(|(file, size)| bounded(&file, size, limit));
        read.map_err(|fault| self.error(name, fault))
    }

    /// A blob that is there, and as long as it should be.
    pub(super) fn blob(&self, blob: &Descriptor) -> Result<File, LayoutError> {
        self.sized(blob).map_err(|fault| self.error(&blob_path(&blob.digest), fault))
    }

    /// A blob whose every byte was read once and makes its digest.
    pub(super) fn checked_blob(&self, blob: &Descriptor) -> Result<File, LayoutError> {
        let checked = self.sized(blob).and_then(|file| {
            check_digest(&file, blob)?;
            Ok(file)
        });
        checked.map_err(|fault| self.error(&blob_path(&blob.digest), fault))
    }

    /// All bytes of a blob, which make its digest.
    pub(super) fn document(&self, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, LayoutError> {
        let read = self.sized(blob).and_then(|file| {
            let bytes = bounded(&file, blob.size, limit)?;
            require(blob.digest, Digest::of(&bytes))?;
            Ok(bytes)
        });
        read.map_err(|fault| self.error(&blob_path(&blob.digest), fault))
    }

    fn sized(&self, blob: &Descriptor) -> Result<File, LayoutFault> {
        // A name of 64 hex digits: whatever the documents say, it leads nowhere else.
        let (file, found) = plain_file(&self.blobs, &blob.digest.hex())?;
        if found == blob.size { Ok(file) } else { Err(LayoutFault::Size { expected: blob.size, found }) }
    }
}

fn directory(above: impl AsFd, name: &Path) -> Result<OwnedFd, LayoutFault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(above, name, flags, Mode::empty()).map_err(fault)
}

/// Opens a file that is nothing but a file, and says how many bytes it has.
fn plain_file(above: &OwnedFd, name: &str) -> Result<(File, u64), LayoutFault> {
    // Without NONBLOCK a pipe is opened only once somebody opens its other end.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(openat(above, name, flags, Mode::empty()).map_err(fault)?);
    let found = file.metadata()?;
    if found.is_file() { Ok((file, found.len())) } else { Err(LayoutFault::NotAFile) }
}

fn fault(error: Errno) -> LayoutFault {
    match error {
        Errno::NOENT => LayoutFault::Absent,
        Errno::LOOP => LayoutFault::Link,
        Errno::NOTDIR => LayoutFault::NotAFolder,
        // What opening a socket ends with.
        Errno::NXIO => LayoutFault::NotAFile,
        other => LayoutFault::Io(other.into()),
    }
}

/// All bytes of a file that had so many when it was opened.
fn bounded(file: &File, size: u64, limit: u64) -> Result<Vec<u8>, LayoutFault> {
    if size > limit {
        return Err(LayoutFault::TooLarge(limit));
    }
    let mut bytes = Vec::new();
    // It may have grown.
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(LayoutFault::TooLarge(limit)) } else { Ok(bytes) }
}

fn check_digest(file: &File, blob: &Descriptor) -> Result<(), LayoutFault> {
    let (mut bytes, mut hasher) = (file.take(blob.size), Hasher::new());
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match bytes.read(&mut buffer) {
            Ok(0) => return require(blob.digest, hasher.finish()),
            Ok(got) => hasher.update(buffer.get(..got).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn require(expected: Digest, found: Digest) -> Result<(), LayoutFault> {
    if expected == found { Ok(()) } else { Err(LayoutFault::Digest { expected, found }) }
}
