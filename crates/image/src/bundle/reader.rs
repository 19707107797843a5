//! Reads a bundle front to back, trusting nothing that does not follow from its name.

use std::io::{self, Read, Write};

use ruzstd::decoding::errors::FrameDecoderError;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use tenon_order::{BundleManifest, BundlePath, Digest, Hasher, ManifestEntry, ManifestError};

use super::{MANIFEST, MAX_MANIFEST, WINDOW_LOG};
use crate::ustar::{self, BLOCK, Kind, TRAILER, UstarError};

/// Why a bundle was refused.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not zstd, or zstd that wants more memory than bundles need.
    #[error("open the bundle: not the zstd stream of a bundle")]
    Compression(#[source] FrameDecoderError),
    /// The bytes ended early, or what delivers them broke.
    #[error("read the bundle's {part}")]
    Read {
        /// Where it ended.
        part: Part,
        /// What happened.
        source: io::Error,
    },
    /// The first entry is not a manifest of tolerable size.
    #[error("read the bundle: its first entry is not a manifest")]
    NoManifest,
    /// The manifest is another bundle's.
    #[error("read the bundle: expected {expected}, its manifest is {found}")]
    OtherBundle {
        /// The bundle that was asked for.
        expected: Digest,
        /// The bundle that this is.
        found: Digest,
    },
    /// Not the canonical text.
    #[error("read the bundle's manifest")]
    Manifest(#[from] ManifestError),
    /// The manifest lists a file that the container cannot hold.
    #[error("read the bundle: {path} cannot be in one")]
    Unrepresentable {
        /// The file.
        path: BundlePath,
        /// Why.
        source: UstarError,
    },
    /// The next entry is not the manifest's next file: missing, extra, out of order, or with another size or mode.
    #[error("read the bundle: {0} is not where the manifest has it")]
    Misplaced(BundlePath),
    /// The bytes of a file are not those that the manifest names.
    #[error("read the bundle: {path} should be {expected} and is {found}")]
    OtherContent {
        /// The file.
        path: BundlePath,
        /// By the manifest.
        expected: Digest,
        /// Of the bytes.
        found: Digest,
    },
    /// Something follows the last file.
    #[error("read the bundle: there is more than the manifest lists")]
    Trailing,
    /// The receiver of a file's bytes failed; nothing is wrong with the bundle.
    #[error("pass on {path}")]
    Write {
        /// The file.
        path: BundlePath,
        /// What the receiver said.
        source: io::Error,
    },
}

/// The part of a bundle that was being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Its first entry.
    Manifest,
    /// A file.
    File(BundlePath),
    /// What follows the last file.
    End,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Manifest => f.write_str("manifest"),
            Self::File(path) => write!(f, "file {path}"),
            Self::End => f.write_str("end"),
        }
    }
}

impl ReadError {
    /// Whether the bundle is at fault (so that another copy of it may be read), not the receiver.
    pub fn is_bundles_fault(&self) -> bool {
        !matches!(self, Self::Write { .. })
    }
}

/// A bundle that is being read, file after file.
///
/// Memory is bounded by the manifest (under 1 MiB) and the decompression window (4 MiB).
pub struct BundleReader<R: Read> {
    tar: StreamingDecoder<R, FrameDecoder>,
    manifest: BundleManifest,
    /// Files handed out so far.
    position: usize,
    /// The file handed out last, until its last byte was checked.
    open: Option<Open>,
    /// The end was seen and is right.
    ended: bool,
}

struct Open {
    entry: ManifestEntry,
    left: u64,
    hasher: Hasher,
}

impl<R: Read> BundleReader<R> {
    /// Reads the manifest and checks that this is the bundle `expected`.
    pub fn open(bundle: R, expected: &Digest) -> Result<Self, ReadError> {
        let mut tar = StreamingDecoder::new_with_max_window_size(bundle, 1 << WINDOW_LOG)
            .map_err(ReadError::Compression)?;
        let text = read_manifest(&mut tar)?;
        let found = Digest::of(&text);
        if found != *expected {
            return Err(ReadError::OtherBundle { expected: *expected, found });
        }
        let text = String::from_utf8(text).map_err(|_| ReadError::NoManifest)?;
        let manifest = BundleManifest::parse(&text)?;
        Ok(Self { tar, manifest, position: 0, open: None, ended: false })
    }

    /// What the bundle holds, in the order in which [`Self::next_file`] yields it.
    pub fn manifest(&self) -> &BundleManifest {
        &self.manifest
    }

    /// The next file, or `None` once every file and the bundle's end were found right. The rest of a file that was not
    /// read is read and checked here.
    pub fn next_file(&mut self) -> Result<Option<BundleFile<'_, R>>, ReadError> {
        self.close_file()?;
        let Some(entry) = self.manifest.entries().get(self.position).cloned() else {
            self.check_end()?;
            return Ok(None);
        };
        self.position += 1;
        let expected = ustar::header(Kind::File, entry.path.as_str(), entry.size)
            .map_err(|source| ReadError::Unrepresentable { path: entry.path.clone(), source })?;
        let mut header = [0; BLOCK];
        self.tar
            .read_exact(&mut header)
            .map_err(|source| ReadError::Read { part: Part::File(entry.path.clone()), source })?;
        if header != expected {
            return Err(ReadError::Misplaced(entry.path));
        }
        let open = self.open.insert(Open { left: entry.size, entry, hasher: Hasher::new() });
        Ok(Some(BundleFile { entry: open.entry.clone(), bundle: self }))
    }

    /// Reads what is left and checks all of it.
    pub fn verify_rest(mut self) -> Result<(), ReadError> {
        while self.next_file()?.is_some() {}
        Ok(())
    }

    fn close_file(&mut self) -> Result<(), ReadError> {
        self.pass_on(&mut io::sink())
    }

    /// Copies the open file's remaining bytes to `to`, then checks its digest and padding.
    fn pass_on(&mut self, to: &mut dyn Write) -> Result<(), ReadError> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let path = open.entry.path.clone();
        let broken = |source| ReadError::Read { part: Part::File(path.clone()), source };
        let mut buffer = vec![0; 64 * 1024];
        while open.left > 0 {
            let want = usize::try_from(open.left).unwrap_or(usize::MAX).min(buffer.len());
            let chunk = buffer.get_mut(..want).unwrap_or_default();
            let got = self.tar.read(chunk).map_err(broken)?;
            if got == 0 {
                return Err(broken(io::ErrorKind::UnexpectedEof.into()));
            }
            let bytes = chunk.get(..got).unwrap_or_default();
            open.hasher.update(bytes);
            open.left -= got as u64;
            to.write_all(bytes).map_err(|source| ReadError::Write { path: path.clone(), source })?;
        }
        let found = open.hasher.finish();
        if found != open.entry.digest {
            return Err(ReadError::OtherContent { path, expected: open.entry.digest, found });
        }
        if read_padding(&mut self.tar, open.entry.size).map_err(broken)? {
            Ok(())
        } else {
            Err(ReadError::Misplaced(path))
        }
    }

    fn check_end(&mut self) -> Result<(), ReadError> {
        if self.ended {
            return Ok(());
        }
        let broken = |source| ReadError::Read { part: Part::End, source };
        let mut trailer = TRAILER;
        self.tar.read_exact(&mut trailer).map_err(broken)?;
        let mut byte = [0];
        let more =
            self.tar.read(&mut byte).map_err(broken)? + self.tar.get_mut().read(&mut byte).map_err(broken)?;
        self.ended = trailer == TRAILER && more == 0;
        if self.ended { Ok(()) } else { Err(ReadError::Trailing) }
    }
}

impl<R: Read> std::fmt::Debug for BundleReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BundleReader")
            .field("files", &self.manifest.entries().len())
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// One file of a bundle whose bytes are still to come.
pub struct BundleFile<'a, R: Read> {
    entry: ManifestEntry,
    bundle: &'a mut BundleReader<R>,
}

impl<R: Read> BundleFile<'_, R> {
    /// What the manifest says of it.
    pub fn entry(&self) -> &ManifestEntry {
        &self.entry
    }

    /// Passes on exactly the file's bytes. Only `Ok` says that they were the right ones: a receiver keeps nothing
    /// before.
    pub fn copy_to(self, to: &mut dyn Write) -> Result<(), ReadError> {
        self.bundle.pass_on(to)
    }
}

impl<R: Read> std::fmt::Debug for BundleFile<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BundleFile").field("entry", &self.entry).finish_non_exhaustive()
    }
}

fn read_manifest(tar: &mut impl Read) -> Result<Vec<u8>, ReadError> {
    let broken = |source| ReadError::Read { part: Part::Manifest, source };
    let mut header = [0; BLOCK];
    tar.read_exact(&mut header).map_err(broken)?;
    let size =
        ustar::announced_size(&header).filter(|size| *size <= MAX_MANIFEST).ok_or(ReadError::NoManifest)?;
    if ustar::header(Kind::File, MANIFEST, size) != Ok(header) {
        return Err(ReadError::NoManifest);
    }
    let mut text = Vec::new();
    tar.take(size).read_to_end(&mut text).map_err(broken)?;
    if text.len() as u64 != size {
        return Err(broken(io::ErrorKind::UnexpectedEof.into()));
    }
    if read_padding(tar, size).map_err(broken)? { Ok(text) } else { Err(ReadError::NoManifest) }
}

/// Whether what pads `size` bytes to a whole block is zeros.
fn read_padding(tar: &mut impl Read, size: u64) -> io::Result<bool> {
    let mut block = [0; BLOCK];
    let padding = block.get_mut(..ustar::padding(size)).unwrap_or_default();
    tar.read_exact(padding)?;
    Ok(padding.iter().all(|byte| *byte == 0))
}
