//! Writes bundles: equal files make equal bytes.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};

use tenon_order::{BundleManifest, BundlePath, Digest, Hasher, ManifestEntry, ManifestError};

use super::{MANIFEST, WINDOW_LOG};
use crate::ustar::{self, Kind, TRAILER, UstarError};

/// Small enough for the wire, quick enough to make one while a node waits.
const LEVEL: i32 = 9;

/// Why a bundle could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A disk that is full, or a directory that may not be written.
    #[error("write the bundle in {directory}")]
    Io {
        /// Where.
        directory: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// Too many files, or names that exclude each other.
    #[error("list the bundle's files")]
    Manifest(#[from] ManifestError),
    /// A name too long for the container, or a file too large.
    #[error("put {path} into the bundle")]
    Unrepresentable {
        /// The file.
        path: BundlePath,
        /// Why.
        source: UstarError,
    },
}

/// Which side failed.
pub(super) enum SpoolError {
    Read(io::Error),
    Write(io::Error),
}

/// A file on its way into a bundle.
#[derive(Debug)]
pub(super) struct Spooled {
    pub(super) file: File,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

impl Spooled {
    /// Takes all of `content` into a temporary file without a name.
    pub(super) fn take(content: &mut dyn Read, directory: &Path) -> Result<Self, SpoolError> {
        let mut file = tempfile::tempfile_in(directory).map_err(SpoolError::Write)?;
        let mut hasher = Hasher::new();
        let mut size = 0;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let got = content.read(&mut buffer).map_err(SpoolError::Read)?;
            let bytes = buffer.get(..got).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(Self { file, digest: hasher.finish(), size });
            }
            hasher.update(bytes);
            file.write_all(bytes).map_err(SpoolError::Write)?;
            size += got as u64;
        }
    }
}

/// Writes the bundle of these files to `<directory>/<hex of its digest>.tar.zst`, complete or not at all.
pub(super) fn write(
    files: &[(BundlePath, &Spooled)],
    directory: &Path,
) -> Result<(PathBuf, u64, BundleManifest), WriteError> {
    let entries = files.iter().map(|(path, spooled)| ManifestEntry {
        digest: spooled.digest,
        size: spooled.size,
        path: path.clone(),
    });
    let manifest = BundleManifest::new(entries.collect())?;
    let failed = |source| WriteError::Io { directory: directory.to_owned(), source };
    let headers = files
        .iter()
        .map(|(path, spooled)| {
            ustar::header(Kind::File, path.as_str(), spooled.size)
                .map_err(|source| WriteError::Unrepresentable { path: path.clone(), source })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut sorted: Vec<_> = files.iter().zip(headers).collect();
    sorted.sort_by(|((one, _), _), ((other, _), _)| one.cmp(other));

    let mut target = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
    let list = manifest.emit();
    let list_header = ustar::header(Kind::File, MANIFEST, list.len() as u64)
        .map_err(|source| failed(io::Error::other(source)))?;
    let padded = |header: &[u8], size: u64| header.len() as u64 + size + ustar::padding(size) as u64;
    let contents: u64 = sorted.iter().map(|((_, spooled), header)| padded(header, spooled.size)).sum();
    let total = padded(&list_header, list.len() as u64) + contents + TRAILER.len() as u64;
    let mut tar = compressor(target.as_file_mut(), total).map_err(failed)?;
    write_manifest(&mut tar, &list_header, &list).map_err(failed)?;
    for ((_, spooled), header) in sorted {
        write_file(&mut tar, &header, spooled).map_err(failed)?;
    }
    tar.write_all(&TRAILER).and_then(|()| tar.finish().map(drop)).map_err(failed)?;
    let size = target.as_file().metadata().map_err(failed)?.len();
    target.as_file().sync_all().map_err(failed)?;
    let path = directory.join(format!("{}.tar.zst", manifest.digest().hex()));
    target.persist(&path).map_err(|error| failed(error.error))?;
    Ok((path, size, manifest))
}

/// For `total` bytes exactly. Told beforehand, zstd takes no more memory for its tables than so much needs.
fn compressor(file: &mut File, total: u64) -> io::Result<zstd::Encoder<'static, &mut File>> {
    let mut encoder = zstd::Encoder::new(file, LEVEL)?;
    encoder.window_log(WINDOW_LOG)?;
    encoder.set_pledged_src_size(Some(total))?;
    Ok(encoder)
}

fn write_manifest(tar: &mut impl Write, header: &[u8], text: &str) -> io::Result<()> {
    tar.write_all(header)?;
    tar.write_all(text.as_bytes())?;
    pad(tar, text.len() as u64)
}

fn write_file(tar: &mut impl Write, header: &[u8], spooled: &Spooled) -> io::Result<()> {
    tar.write_all(header)?;
    (&spooled.file).rewind()?;
    io::copy(&mut BufReader::with_capacity(64 * 1024, &spooled.file), tar)?;
    pad(tar, spooled.size)
}

fn pad(tar: &mut impl Write, size: u64) -> io::Result<()> {
    tar.write_all(TRAILER.get(..ustar::padding(size)).unwrap_or_default())
}
