//! Files that are either wholly there or not at all, whenever the machine stops.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tenon_order::{Digest, Hasher};

/// How much is read at once: a module is never held in memory.
const CHUNK: usize = 64 * 1024;

/// What a file is called while it is written. Never the name of a finished one: readers skip names that begin with a
/// dot, and the next writer of the same file starts over.
fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

/// Whether this is the name of a file that was never finished.
pub(super) fn is_aside(name: &str) -> bool {
    name.starts_with('.')
}

/// Replaces `path` by these bytes.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = aside(path);
    let mut file = create(&aside)?;
    file.write_all(bytes)?;
    publish(&file, &aside, path)
}

/// Takes exactly `size` bytes from `from` into `path`, if they have this digest. Returns whether they had; all `size`
/// bytes are taken either way, so that what follows them in the stream is found.
pub(super) fn receive(path: &Path, digest: Digest, size: u64, from: &mut impl Read) -> io::Result<bool> {
    let aside = aside(path);
    let mut file = create(&aside)?;
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; CHUNK];
    let mut left = size;
    let mut trouble = None;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let read = from.read(chunk.split_at_mut(want).0)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let bytes = chunk.split_at(read).0;
        hasher.update(bytes);
        if trouble.is_none() {
            trouble = file.write_all(bytes).err();
        }
        left -= read as u64;
    }
    if let Some(error) = trouble {
        fs::remove_file(&aside)?;
        return Err(error);
    }
    if hasher.finish() != digest {
        fs::remove_file(&aside)?;
        return Ok(false);
    }
    publish(&file, &aside, path)?;
    Ok(true)
}

/// The digest of an open file's bytes; the descriptor's offset stays where it is.
pub(super) fn digest(file: &File) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        match file.read_at(&mut chunk, offset)? {
            0 => return Ok(hasher.finish()),
            read => {
                hasher.update(chunk.split_at(read).0);
                offset += read as u64;
            }
        }
    }
}

/// Makes a directory's entries survive.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Removes a file that may already be gone.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn create(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn publish(file: &File, aside: &Path, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    fs::rename(aside, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}
