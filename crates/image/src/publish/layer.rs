//! The one layer of a published image: a tar of plain files and their directories, compressed with gzip.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use tenon_order::{Digest, Hasher};

use super::contents::Contents;
use super::image::PackError;
use crate::ustar::{self, Kind, TRAILER};

/// A layer on disk.
#[derive(Debug)]
pub(super) struct WrittenLayer {
    pub(super) file: tempfile::NamedTempFile,
    /// Of the compressed bytes.
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Of the archive: what the configuration calls `diff_id`.
    pub(super) diff_id: Digest,
}

/// Writes the layer into a temporary file of `work`. Blocks.
pub(super) fn write(contents: &Contents, work: &Path) -> Result<WrittenLayer, PackError> {
    let spool = |source| PackError::Spool { directory: work.to_owned(), source };
    let mut file = tempfile::NamedTempFile::new_in(work).map_err(spool)?;
    let blob = Hashing::new(file.as_file_mut());
    let mut tar = Hashing::new(GzBuilder::new().mtime(0).write(blob, Compression::best()));
    for directory in directories(contents) {
        let header = ustar::header(Kind::Directory, &directory, 0)
            .map_err(|source| PackError::Name { path: PathBuf::from(&directory), source })?;
        tar.write_all(&header).map_err(spool)?;
    }
    for (name, path) in &contents.files {
        append(&mut tar, name, path, &spool)?;
    }
    tar.write_all(&TRAILER).map_err(spool)?;
    let (gzip, diff_id, _) = tar.finish();
    let (_, digest, size) = gzip.finish().map_err(spool)?.finish();
    file.as_file_mut().flush().map_err(spool)?;
    Ok(WrittenLayer { file, digest, size, diff_id })
}

fn append(
    tar: &mut impl Write,
    name: &str,
    path: &Path,
    spool: &impl Fn(io::Error) -> PackError,
) -> Result<(), PackError> {
    let read = |source| PackError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(read)?;
    let size = file.metadata().map_err(read)?.len();
    let header = ustar::header(Kind::File, name, size)
        .map_err(|source| PackError::Name { path: path.to_owned(), source })?;
    tar.write_all(&header).map_err(spool)?;
    let mut left = size;
    let mut buffer = vec![0; 64 * 1024];
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let got = file.read(buffer.get_mut(..want).unwrap_or_default()).map_err(read)?;
        if got == 0 {
            return Err(PackError::Changed { path: path.to_owned() });
        }
        tar.write_all(buffer.get(..got).unwrap_or_default()).map_err(spool)?;
        left -= got as u64;
    }
    tar.write_all(TRAILER.get(..ustar::padding(size)).unwrap_or_default()).map_err(spool)
}

/// Every directory of every file, parents first, each ending in a slash.
fn directories(contents: &Contents) -> BTreeSet<String> {
    let parents = |name: &String| -> Vec<String> {
        name.match_indices('/')
            .filter_map(|(at, slash)| name.get(..at + slash.len()).map(str::to_owned))
            .collect()
    };
    contents.files.keys().flat_map(parents).collect()
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
