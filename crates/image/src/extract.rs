//! Files of an image, or of any archive that is read as a layer, written to a directory: sources to compile.
//!
//! This is the one place that writes under names which an image chose. They lead nowhere else, because the archive itself is never
//! unpacked: what is written is the tree of names that was read out of it first, in which no part is `..`, as plain files and
//! directories alone. A link is written as a copy of what it leads to inside the image, so there is none on disk that a later name
//! could pass through, and nothing that is there is written over.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};

use crate::layers::{Decompressed, FileAt, Found, ImageFiles, LayersError, Limits, LinkError, TooManyNames};
use crate::path::ImagePath;

/// How much of an image is tolerated: a kernel's own sources have 90,000 files.
pub fn limits() -> Limits {
    Limits { compressed: 2 << 30, expanded: 12 << 30, files: 200_000, ..Limits::default() }
}

/// The bytes of something that may be packed with gzip, xz or zstd, as its first bytes say; after `limit` of them reading fails.
pub fn decompressed<'a>(bytes: impl Read + 'a, limit: u64) -> io::Result<impl Read + 'a> {
    Decompressed::open(bytes, limit)
}

/// Why files were not written. What was written before stays.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// Nothing has that name.
    #[error("the image has no file or directory {0}")]
    Absent(ImagePath),
    /// A device, or a broken link.
    #[error("{path} in the image is no file{}", source.map_or_else(String::new, |source| format!(": {source}")))]
    NotAFile {
        /// Its path.
        path: ImagePath,
        /// What is wrong with the link.
        source: Option<LinkError>,
    },
    /// Links that multiply names.
    #[error("list {path} in the image")]
    TooManyNames {
        /// The directory.
        path: ImagePath,
        /// How many there may be.
        source: TooManyNames,
    },
    /// More than sources have.
    #[error(
        "{path} in the image has more than the {files} files of together {bytes} bytes that are taken out of one"
    )]
    TooMuch {
        /// The directory.
        path: ImagePath,
        /// The limit on files.
        files: usize,
        /// The limit on bytes.
        bytes: u64,
    },
    /// The layers cannot be read.
    #[error("read the image's layers")]
    Layers(#[source] LayersError),
    /// The disk, or a name that the file system does not take.
    #[error("write {path}", path = path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extracted {
    /// How many files.
    pub files: usize,
    /// Devices, and links that lead to nothing inside the image: they were left out.
    pub left_out: usize,
}

/// Writes a file of the image, or a directory with all below it, as `to`, where nothing is yet. Blocks.
pub fn extract(
    files: &ImageFiles,
    path: &ImagePath,
    to: &Path,
    limits: &Limits,
) -> Result<Extracted, ExtractError> {
    let (wanted, left_out) = wanted(files, path, to)?;
    let count = wanted.values().map(Vec::len).sum();
    let size = |(at, names): (&FileAt, &Vec<_>)| at.size().saturating_mul(names.len() as u64);
    let bytes = wanted.iter().map(size).fold(0, u64::saturating_add);
    if count > limits.files || bytes > limits.taken {
        let (path, files, bytes) = (path.clone(), limits.files, limits.taken);
        return Err(ExtractError::TooMuch { path, files, bytes });
    }
    if wanted.is_empty() {
        fs::create_dir_all(to).map_err(failed(to))?;
    }
    let places: BTreeSet<FileAt> = wanted.keys().copied().collect();
    let mut take = |at: FileAt, content: &mut dyn Read| {
        let Some((first, more)) = wanted.get(&at).and_then(|names| names.split_first()) else {
            return Ok(());
        };
        write(first, at, content)?;
        more.iter().try_for_each(|name| copy(first, name))
    };
    files.read(&places, &mut take, &ExtractError::Layers)?;
    Ok(Extracted { files: count, left_out })
}

/// Where each file goes, and how many names lead to none.
fn wanted(
    files: &ImageFiles,
    path: &ImagePath,
    to: &Path,
) -> Result<(BTreeMap<FileAt, Vec<PathBuf>>, usize), ExtractError> {
    let not_a_file = |source| ExtractError::NotAFile { path: path.clone(), source };
    match files.tree().find(path) {
        Some(Found::File(at)) => return Ok(([(at, vec![to.to_owned()])].into(), 0)),
        Some(Found::Special) => return Err(not_a_file(None)),
        Some(Found::Broken(source)) => return Err(not_a_file(Some(source))),
        None => {}
    }
    let walked = files.tree().walk(path, &|_| false);
    let walked = walked.map_err(|source| ExtractError::TooManyNames { path: path.clone(), source })?;
    let walked = walked.ok_or_else(|| ExtractError::Absent(path.clone()))?;
    let (mut wanted, mut left_out) = (BTreeMap::<_, Vec<_>>::new(), 0);
    for file in walked {
        match file.found {
            Found::File(at) => wanted.entry(at).or_default().push(below(to, &file.path)?),
            Found::Special | Found::Broken(_) => left_out += 1,
        }
    }
    Ok((wanted, left_out))
}

/// The tree has no other names; nothing is written that has one.
fn below(to: &Path, name: &[u8]) -> Result<PathBuf, ExtractError> {
    let name = Path::new(OsStr::from_bytes(name));
    if name.components().all(|part| matches!(part, Component::Normal(_))) {
        return Ok(to.join(name));
    }
    Err(failed(name)(io::ErrorKind::InvalidFilename.into()))
}

fn write(to: &Path, at: FileAt, content: &mut dyn Read) -> Result<(), ExtractError> {
    make_way(to)?;
    let mode = if at.executable { 0o755 } else { 0o644 };
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(to);
    file.and_then(|mut file| io::copy(content, &mut file)).map(drop).map_err(failed(to))
}

/// A link, or another name of the same file.
fn copy(from: &Path, to: &Path) -> Result<(), ExtractError> {
    make_way(to)?;
    if to.exists() {
        return Err(failed(to)(io::ErrorKind::AlreadyExists.into()));
    }
    fs::copy(from, to).map(drop).map_err(failed(to))
}

fn make_way(to: &Path) -> Result<(), ExtractError> {
    let above = to.parent().unwrap_or(to);
    fs::create_dir_all(above).map_err(failed(above))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> ExtractError {
    let path = path.to_owned();
    move |source| ExtractError::Write { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::layers::corpus::{Archive, flatten};

    fn extracted(archive: Archive, path: &str) -> (tempfile::TempDir, Result<Extracted, ExtractError>) {
        let (folder, files) = (tempfile::tempdir().unwrap(), flatten([archive]).unwrap());
        let done = extract(&files, &path.parse().unwrap(), &folder.path().join("to"), &limits());
        (folder, done)
    }

    #[test]
    fn a_directory_is_written_with_what_its_links_lead_to() {
        let archive = Archive::default()
            .file("src/Makefile", "obj-m := a.o")
            .program("src/configure", "#!/bin/sh")
            .file("common/a.h", "shared")
            .symlink("src/include", "../common")
            .symlink("src/again", "/src/Makefile")
            .symlink("src/shadow", "/etc/shadow")
            .file("other", "not asked for");
        let (folder, done) = extracted(archive, "/src");
        assert_eq!(done.unwrap(), Extracted { files: 4, left_out: 1 });
        let at = |name: &str| folder.path().join("to").join(name);
        assert_eq!(fs::read_to_string(at("include/a.h")).unwrap(), "shared");
        assert_eq!(fs::read_to_string(at("again")).unwrap(), "obj-m := a.o");
        assert!(!at("again").is_symlink() && !at("include").is_symlink());
        let runs = |name| at(name).metadata().unwrap().permissions().mode() & 0o111 != 0;
        assert!(runs("configure") && !runs("Makefile"));
        assert!(!folder.path().join("to/shadow").exists() && !folder.path().join("other").exists());
    }

    #[test]
    fn a_file_is_written_under_the_name_that_is_asked_for() {
        let (folder, done) =
            extracted(Archive::default().file("a/Module.symvers", "0x1"), "/a/Module.symvers");
        assert_eq!(done.unwrap().files, 1);
        assert_eq!(fs::read_to_string(folder.path().join("to")).unwrap(), "0x1");
    }

    #[test]
    fn nothing_is_written_over_and_nothing_through_a_link() {
        let files = flatten([Archive::default().file("a/b", "theirs")]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mine"), "mine").unwrap();
        std::os::unix::fs::symlink("mine", folder.path().join("to")).unwrap();
        let to = folder.path().join("to");
        assert!(extract(&files, &"/a/b".parse().unwrap(), &to, &limits()).is_err());
        assert_eq!(fs::read_to_string(folder.path().join("mine")).unwrap(), "mine");
    }

    #[test]
    fn what_is_not_there_or_too_much_is_said_to_be_so() {
        let archive = || Archive::default().file("a/b", "12345").directory("empty");
        assert!(matches!(extracted(archive(), "/c").1, Err(ExtractError::Absent(_))));
        let (folder, done) = extracted(archive(), "/empty");
        assert!(done.is_ok() && folder.path().join("to").is_dir());
        let (folder, files) = (tempfile::tempdir().unwrap(), flatten([archive()]).unwrap());
        for limits in [Limits { files: 0, ..limits() }, Limits { taken: 4, ..limits() }] {
            let done = extract(&files, &"/a".parse().unwrap(), &folder.path().join("to"), &limits);
            assert!(matches!(done, Err(ExtractError::TooMuch { .. })));
        }
        assert!(!folder.path().join("to").exists());
    }
}
