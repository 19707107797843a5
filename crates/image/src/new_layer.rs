//! A layer in the making: a tar of plain files and their directories, compressed with gzip, in a temporary file without a
//! name. Equal files make equal bytes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use tenon_order::{Digest, Hasher};

use crate::registry::Blob;
use crate::ustar::{self, Kind, TRAILER, UstarError};

/// A layer that is being written.
pub(crate) struct NewLayer {
    tar: Hashing<GzEncoder<Hashing<File>>>,
    file: File,
}

/// A layer on disk.
#[derive(Debug)]
pub(crate) struct WrittenLayer {
    file: Arc<File>,
    /// Of the compressed bytes.
    pub(crate) digest: Digest,
    /// Of the compressed bytes.
    pub(crate) size: u64,
    /// Of the archive: what the configuration calls `diff_id`.
    pub(crate) diff_id: Digest,
}

/// Why something could not be added.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// Its name, or its size.
    Name(UstarError),
    /// It could not be read, or ended before its size.
    Read(io::Error),
    /// The temporary file.
    Spool(io::Error),
}

impl NewLayer {
    /// An empty one, in a file of this directory.
    pub(crate) fn new(work: &Path) -> io::Result<Self> {
        let file = tempfile::tempfile_in(work)?;
        let blob = Hashing::new(file.try_clone()?);
        let tar = Hashing::new(GzBuilder::new().mtime(0).write(blob, Compression::best()));
        Ok(Self { tar, file })
    }

    /// Adds a directory; the path ends in a slash.
    pub(crate) fn directory(&mut self, path: &str) -> Result<(), AppendError> {
        let header = ustar::header(Kind::Directory, path, 0).map_err(AppendError::Name)?;
        self.tar.write_all(&header).map_err(AppendError::Spool)
    }

    /// Adds a file of so many bytes.
    pub(crate) fn file(&mut self, path: &str, size: u64, content: &mut dyn Read) -> Result<(), AppendError> {
        let header = ustar::header(Kind::File, path, size).map_err(AppendError::Name)?;
        self.tar.write_all(&header).map_err(AppendError::Spool)?;
        let mut left = size;
        let mut buffer = vec![0; 64 * 1024];
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let got = content.read(buffer.get_mut(..want).unwrap_or_default()).map_err(AppendError::Read)?;
            if got == 0 {
                return Err(AppendError::Read(io::ErrorKind::UnexpectedEof.into()));
            }
            self.tar.write_all(buffer.get(..got).unwrap_or_default()).map_err(AppendError::Spool)?;
            left -= got as u64;
        }
        let padding = TRAILER.get(..ustar::padding(size)).unwrap_or_default();
        self.tar.write_all(padding).map_err(AppendError::Spool)
    }

    /// Ends it.
    pub(crate) fn finish(mut self) -> io::Result<WrittenLayer> {
        self.tar.write_all(&TRAILER)?;
        let (gzip, diff_id, _) = self.tar.finish();
        let (mut file, digest, size) = gzip.finish()?.finish();
        file.flush()?;
        Ok(WrittenLayer { file: self.file.into(), digest, size, diff_id })
    }
}

impl WrittenLayer {
    /// For the registry.
    pub(crate) fn blob(&self) -> Blob {
        Blob::File { file: Arc::clone(&self.file), digest: self.digest, size: self.size }
    }
}

/// Counts and hashes what is written.
struct Hashing<W> {
    inner: W,
    hasher: Hasher,
    size: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::new(), size: 0 }
    }

    fn finish(self) -> (W, Digest, u64) {
        (self.inner, self.hasher.finish(), self.size)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
