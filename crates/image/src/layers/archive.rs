//! A layer's archive, entry after entry, with the strictness that untrusted archives need.
//!
//! tar is read differently by different programs wherever two headers say the same thing twice. So every such
//! contradiction is refused, like every kind of entry that image builders do not write; the sizes of extended headers
//! are bounded. Names come out as lists of parts without `.` and `..`.

use std::io::{self, Read};

/// The longest name or link target: `PATH_MAX`.
const MAX_NAME: usize = 4096;
/// The longest part of a name: `NAME_MAX`.
const MAX_PART: usize = 255;
/// The longest extended header; extended attributes are in there.
const MAX_EXTENSION: u64 = 1 << 20;

/// Why an archive was refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Damaged, or cut short.
    #[error("the archive is damaged")]
    Damaged(#[source] io::Error),
    /// More bytes than the image's size allows for.
    #[error("the archive expands to more than is tolerated")]
    Expansion,
    /// A name with `..`, or longer than a path can be.
    #[error("entry {0:?}: its name has `..`, a zero byte, or is too long")]
    Name(String),
    /// A hard link's or symbolic link's target of that sort.
    #[error(
        "entry {name:?}: its link target {target:?} has a way out of the image, a zero byte, or is too long"
    )]
    Target {
        /// The entry.
        name: String,
        /// What it links to.
        target: String,
    },
    /// Sparse files, volume labels, continued files, vendors' own.
    #[error("entry {name:?}: image layers have no entries of type {kind:?}")]
    Kind {
        /// The entry.
        name: String,
        /// tar's type flag.
        kind: char,
    },
    /// A link, directory or device with content.
    #[error("entry {0:?}: only files have content")]
    Content(String),
    /// Two headers say different things of one entry.
    #[error("entry {name:?}: its headers contradict each other about its {field}")]
    Contradiction {
        /// The entry, by its own header.
        name: String,
        /// `path`, `linkpath` or `size`.
        field: &'static str,
    },
    /// An extended header that is malformed, too long, or before no entry.
    #[error("an extended header (type {0:?}) is malformed, too long or out of place")]
    Extension(char),
    /// Bytes after the end mark.
    #[error("there is something after the archive's end")]
    Trailing,
}

/// An error of the archive, or of the visitor.
pub(crate) enum ReadError<E> {
    Archive(ArchiveError),
    Visitor(E),
}

impl<E> From<ArchiveError> for ReadError<E> {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its place in the archive, counted in entries.
    pub(crate) index: u32,
    /// The parts of its name; empty for the root itself.
    pub(crate) name: Vec<Box<[u8]>>,
    pub(crate) kind: MemberKind,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MemberKind {
    Directory,
    File {
        size: u64,
        executable: bool,
    },
    /// The target as written.
    Symlink(Box<[u8]>),
    /// The parts of the target, counted from the root.
    Hardlink(Vec<Box<[u8]>>),
    /// Devices and pipes: nothing that could be taken out of an image.
    Special,
}

/// Visits every entry with its content, then requires that the archive ends where it says.
pub(crate) fn read<E>(
    bytes: &mut dyn Read,
    visit: &mut dyn FnMut(Member, &mut dyn Read) -> Result<(), E>,
) -> Result<(), ReadError<E>> {
    let mut extensions = Extensions::default();
    let mut archive = tar::Archive::new(&mut *bytes);
    for (index, entry) in (0..).zip(archive.entries().map_err(ArchiveError::Damaged)?.raw(true)) {
        let mut entry = entry.map_err(ArchiveError::Damaged)?;
        if !extensions.take(&mut entry)? {
            let member = member(index, &entry, std::mem::take(&mut extensions))?;
            visit(member, &mut entry).map_err(ReadError::Visitor)?;
        }
    }
    if let Some(kind) = extensions.pending() {
        return Err(ArchiveError::Extension(kind).into());
    }
    Ok(require_end(bytes)?)
}

/// Everything after the end mark is zeros; reading them also brings out a damaged end of the compressed stream.
fn require_end(bytes: &mut dyn Read) -> Result<(), ArchiveError> {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let got = bytes.read(&mut buffer).map_err(ArchiveError::Damaged)?;
        let read = buffer.get(..got).unwrap_or_default();
        if read.is_empty() {
            return Ok(());
        }
        if read.iter().any(|byte| *byte != 0) {
            return Err(ArchiveError::Trailing);
        }
    }
}

type Entry<'a, R> = tar::Entry<'a, R>;

/// What extended headers said of the entry to come.
#[derive(Debug, Default)]
struct Extensions {
    gnu_name: Option<Vec<u8>>,
    gnu_target: Option<Vec<u8>>,
    pax: Option<Pax>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Pax {
    path: Option<Vec<u8>>,
    linkpath: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Extensions {
    /// Whether the entry was an extended header.
    fn take<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<bool, ArchiveError> {
        let flag = entry.header().entry_type().as_byte();
        let wrong = || ArchiveError::Extension(char::from(flag));
        match flag {
            b'L' if self.gnu_name.is_none() => self.gnu_name = Some(gnu_name(entry, flag)?),
            b'K' if self.gnu_target.is_none() => self.gnu_target = Some(gnu_name(entry, flag)?),
            b'x' if self.pax.is_none() => self.pax = Some(pax(&content(entry, flag)?).ok_or_else(wrong)?),
            b'g' => {
                // Comments are fine (git writes one); what would rename every entry to come is not.
                if pax(&content(entry, flag)?).ok_or_else(wrong)? != Pax::default() {
                    return Err(wrong());
                }
            }
            b'L' | b'K' | b'x' => return Err(wrong()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The type of an extended header that no entry followed.
    fn pending(&self) -> Option<char> {
        let kinds =
            [(self.gnu_name.is_some(), 'L'), (self.gnu_target.is_some(), 'K'), (self.pax.is_some(), 'x')];
        kinds.into_iter().find_map(|(there, kind)| there.then_some(kind))
    }
}

fn content<R: Read>(entry: &mut Entry<'_, R>, flag: u8) -> Result<Vec<u8>, ArchiveError> {
    let size = entry.header().entry_size().map_err(ArchiveError::Damaged)?;
    if size > MAX_EXTENSION {
        return Err(ArchiveError::Extension(char::from(flag)));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(ArchiveError::Damaged)?;
    Ok(bytes)
}

/// GNU tar ends the name with one zero byte.
fn gnu_name<R: Read>(entry: &mut Entry<'_, R>, flag: u8) -> Result<Vec<u8>, ArchiveError> {
    let mut name = content(entry, flag)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

/// Records of the form `<length> <key>=<value>\n`. `None` when malformed, when a key that matters comes twice, or when
/// it describes a sparse file.
fn pax(mut bytes: &[u8]) -> Option<Pax> {
    let mut found = Pax::default();
    while !bytes.is_empty() {
        let blank = bytes.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(bytes.get(..blank)?).ok()?.parse().ok()?;
        let (record, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        let record = record.get(blank + 1..)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (record.get(..equals)?, record.get(equals + 1..)?.to_vec());
        match key {
            b"path" if found.path.is_none() => found.path = Some(value),
            b"linkpath" if found.linkpath.is_none() => found.linkpath = Some(value),
            b"size" if found.size.is_none() => {
                found.size = Some(std::str::from_utf8(&value).ok()?.parse().ok()?);
            }
            b"path" | b"linkpath" | b"size" => return None,
            _ if key.starts_with(b"GNU.sparse.") => return None,
            _ => {}
        }
    }
    Some(found)
}

fn member<R: Read>(index: u32, entry: &Entry<'_, R>, extensions: Extensions) -> Result<Member, ArchiveError> {
    let header = entry.header();
    let flag = header.entry_type().as_byte();
    let size = header.entry_size().map_err(ArchiveError::Damaged)?;
    let Extensions { gnu_name, gnu_target, pax } = extensions;
    let pax = pax.unwrap_or_default();
    let short = shown(&header.path_bytes());
    let contradiction = |field| ArchiveError::Contradiction { name: short.clone(), field };
    let name = agreed(gnu_name, pax.path)
        .map_err(|()| contradiction("path"))?
        .unwrap_or_else(|| header.path_bytes().into_owned());
    let target = agreed(gnu_target, pax.linkpath)
        .map_err(|()| contradiction("linkpath"))?
        .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
        .unwrap_or_default();
    if pax.size.is_some_and(|said| said != size) {
        return Err(contradiction("size"));
    }
    let parts = parts(&name).ok_or_else(|| ArchiveError::Name(shown(&name)))?;
    let bad_target = || ArchiveError::Target { name: shown(&name), target: shown(&target) };
    let kind = match flag {
        // Before POSIX, directories were files whose names end in a slash.
        0 if name.ends_with(b"/") => MemberKind::Directory,
        b'0' | 0 | b'7' => MemberKind::File { size, executable: is_executable(header) },
        b'1' => MemberKind::Hardlink(
            self::parts(&target).filter(|parts| !parts.is_empty()).ok_or_else(bad_target)?,
        ),
        b'2' if is_path(&target) => MemberKind::Symlink(target.into_boxed_slice()),
        b'2' => return Err(bad_target()),
        b'3' | b'4' | b'6' => MemberKind::Special,
        b'5' => MemberKind::Directory,
        kind => return Err(ArchiveError::Kind { name: shown(&name), kind: char::from(kind) }),
    };
    match kind {
        MemberKind::File { .. } if parts.is_empty() || name.ends_with(b"/") => {
            Err(ArchiveError::Name(shown(&name)))
        }
        MemberKind::File { .. } => Ok(Member { index, name: parts, kind }),
        _ if size > 0 => Err(ArchiveError::Content(shown(&name))),
        kind => Ok(Member { index, name: parts, kind }),
    }
}

/// Whether anybody may run it. Where the header does not say, nobody.
fn is_executable(header: &tar::Header) -> bool {
    header.mode().is_ok_and(|mode| mode & 0o111 != 0)
}

/// The one value of two sources.
fn agreed(one: Option<Vec<u8>>, other: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, ()> {
    match (one, other) {
        (Some(one), Some(other)) if one != other => Err(()),
        (one, other) => Ok(one.or(other)),
    }
}

/// The parts of a path counted from the image's root; `None` when one of them leads upwards.
fn parts(path: &[u8]) -> Option<Vec<Box<[u8]>>> {
    if !is_path(path) {
        return None;
    }
    let parts = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    parts.map(|part| (part != b".." && part.len() <= MAX_PART).then(|| part.into())).collect()
}

fn is_path(path: &[u8]) -> bool {
    !path.is_empty() && path.len() <= MAX_NAME && !path.contains(&0)
}

/// For messages: never more than a line.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name.get(..200).unwrap_or(name)).into_owned()
}
