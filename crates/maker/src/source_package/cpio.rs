//! The content of a source package: an archive of plain files without directories, in cpio's "new ASCII" form.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"070701";
const END: &str = "TRAILER!!!";
const FIELDS: usize = 13;
/// The longest name: `NAME_MAX`, and a zero.
const MOST_NAME: u64 = 256;
/// More files than any source package has.
const MOST_FILES: usize = 10_000;
/// Which part of the mode says what it is, and what a plain file has there.
const KIND: u64 = 0o170_000;
const FILE: u64 = 0o100_000;

/// Why it cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum CpioError {
    /// It ends early, its packing is damaged, or it is larger than tolerated.
    #[error("it is damaged, or has more than is tolerated")]
    Read {
        /// What happened.
        source: io::Error,
    },
    /// Another form of archive.
    #[error("it is no archive of cpio's new form")]
    Form,
    /// Something that source packages do not have.
    #[error("{0:?} in it is no plain file with a plain name")]
    Name(String),
    /// More than any package has.
    #[error("it has more than {MOST_FILES} files")]
    TooMany,
    /// The disk; or two files of one name.
    #[error("write {path}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Writes each file into an empty folder; gives their names.
pub(super) fn unpack(from: &mut impl Read, into: &Path) -> Result<Vec<String>, CpioError> {
    let mut names = Vec::new();
    while let Some(entry) = next(from)? {
        if names.len() == MOST_FILES {
            return Err(CpioError::TooMany);
        }
        let path = into.join(&entry.name);
        let failed = |source| CpioError::Write { path: path.clone(), source };
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed)?;
        let mut content = from.by_ref().take(entry.size);
        let written = io::copy(&mut content, &mut file).map_err(|source| CpioError::Read { source })?;
        if written < entry.size {
            return Err(CpioError::Read { source: io::ErrorKind::UnexpectedEof.into() });
        }
        pad(from, entry.size)?;
        names.push(entry.name);
    }
    Ok(names)
}

struct Entry {
    name: String,
    size: u64,
}

fn next(from: &mut impl Read) -> Result<Option<Entry>, CpioError> {
    let mut start = [0; 110];
    from.read_exact(&mut start).map_err(|source| CpioError::Read { source })?;
    let fields = start.strip_prefix(MAGIC).and_then(fields).ok_or(CpioError::Form)?;
    let [_, mode, _, _, _, _, size, _, _, _, _, name_size, _] = fields;
    if name_size == 0 || name_size > MOST_NAME {
        return Err(CpioError::Form);
    }
    let mut name = Vec::new();
    from.by_ref().take(name_size).read_to_end(&mut name).map_err(|source| CpioError::Read { source })?;
    pad(from, 110 + name_size)?;
    name.pop();
    let name = String::from_utf8_lossy(&name).into_owned();
    if name == END {
        return Ok(None);
    }
    let plain = name.strip_prefix("./").unwrap_or(&name);
    if mode & KIND != FILE || plain.is_empty() || plain.starts_with('.') || plain.contains(['/', '\0']) {
        return Err(CpioError::Name(name));
    }
    Ok(Some(Entry { name: plain.to_owned(), size }))
}

/// Numbers of eight hexadecimal digits.
fn fields(text: &[u8]) -> Option<[u64; FIELDS]> {
    let mut fields = [0; FIELDS];
    for (field, digits) in fields.iter_mut().zip(text.chunks(8)) {
        *field = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(fields)
}

/// Everything begins at a multiple of four.
fn pad(from: &mut impl Read, written: u64) -> Result<(), CpioError> {
    let padding = io::copy(&mut from.by_ref().take((4 - written % 4) % 4), &mut io::sink());
    padding.map(drop).map_err(|source| CpioError::Read { source })
}
