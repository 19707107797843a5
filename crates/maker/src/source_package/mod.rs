//! A source RPM, unpacked without rpm: what a toolkit has no program for.
//!
//! In comes the file; out go, in the folder where the Job may write, all that is in the package as it is ([`gather::PACKAGE`]), and
//! the content of its first source, which is compiled ([`gather::UNPACKED`]). Of the spec file only `Source0` is read, and the
//! plain macros in it: none of its sections is followed, for they are programs for a machine that has rpm and what they call. So a
//! package whose patches nobody applies is refused, rather than compiled without them.

mod cpio;
mod header;
mod spec;

use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _};
use std::path::{Path, PathBuf};

use tenon_api::gather::{self, Package};
use tenon_image::ImagePath;
use tenon_image::extract::{self, ExtractError, decompressed, extract};
use tenon_image::layers::{ImageFiles, Layer, LayersError};
use tenon_order::{Digest, Hasher};

use cpio::CpioError;
use header::{Header, HeaderError};

/// What a package may unpack to.
const LIMIT: u64 = 4 << 30;
/// A spec file that has more is not read.
const LIMIT_OF_SPEC: u64 = 1 << 20;

/// Why a package is of no use.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// It is not where the Module says.
    #[error("there is no such file in the sources: correct build.source.path")]
    Absent,
    /// No package, or a damaged one.
    #[error("read it as a source RPM")]
    Header(#[from] HeaderError),
    /// One that is to be installed.
    #[error("it is an RPM of programs, not of sources")]
    Binary,
    /// Packed by what we do not unpack.
    #[error("its {what} is packed with {how}, which is not unpacked here: pack it with gzip, xz or zstd")]
    Compression {
        /// The package's content, or a file.
        what: String,
        /// The program.
        how: &'static str,
    },
    /// What is in it.
    #[error("unpack its content")]
    Cpio(#[from] CpioError),
    /// No spec, or several.
    #[error("it has {0} spec files, and should have one")]
    Specs(usize),
    /// Nothing that could be compiled.
    #[error(
        "its Source0 cannot be told, for it has {0} archives: compile by build.source.script from a package with one"
    )]
    NoSource(usize),
    /// Patches, and nobody who applies them.
    #[error(
        "it has patches ({}), which are not applied by themselves: apply them in build.source.before, which finds them in $PACKAGE",
        .0.join(", ")
    )]
    Patches(Vec<String>),
    /// The archive of the sources.
    #[error("read {name} in it")]
    Archive {
        /// Its name.
        name: String,
        /// What is wrong with it.
        source: LayersError,
    },
    /// What the archive holds.
    #[error("unpack {name} in it")]
    Extract {
        /// Its name.
        name: String,
        /// What happened.
        source: ExtractError,
    },
    /// The disk.
    #[error("unpack it to {path}", path = path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PackageError {
    let path = path.to_owned();
    move |source| PackageError::Io { path, source }
}

/// Unpacks a package; says what is compiled of it. Blocks.
pub(crate) fn unpack(package: &Package, work: &Path) -> Result<String, PackageError> {
    let path = work.join(&package.path);
    let file = plain_file(&path, work)?;
    let into = work.join(gather::PACKAGE);
    let (header, names) = take_apart(file, &into)?;
    let patches = header.patches();
    if !patches.is_empty() && !package.patched_by_user {
        return Err(PackageError::Patches(patches));
    }
    let source = source(&header, &names, &into)?;
    let files = unpack_source(&source, &into, &work.join(gather::UNPACKED))?;
    Ok(format!("{} files of {source}, the first source of {}-{}", files, header.name(), header.version()))
}

/// Somebody else has fetched the sources: a link in them is not followed.
fn plain_file(path: &Path, work: &Path) -> Result<File, PackageError> {
    let relative = path.strip_prefix(work).unwrap_or(path);
    let mut here = work.to_owned();
    for part in relative.components() {
        here.push(part);
        let kind = here.symlink_metadata().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => PackageError::Absent,
            _ => at(&here)(error),
        })?;
        if kind.is_symlink() {
            return Err(PackageError::Absent);
        }
    }
    let file = File::open(path).map_err(at(path))?;
    if file.metadata().map_err(at(path))?.is_file() { Ok(file) } else { Err(PackageError::Absent) }
}

/// Writes the package's files, each under its own name, into an empty folder.
fn take_apart(file: File, into: &Path) -> Result<(Header, Vec<String>), PackageError> {
    let mut file = BufReader::new(file);
    let header = Header::read(&mut file)?;
    if !header.is_source() {
        return Err(PackageError::Binary);
    }
    let how = match header.compressor().as_str() {
        "bzip2" => Some("bzip2"),
        "lzma" => Some("lzma"),
        _ => None,
    };
    if let Some(how) = how {
        return Err(PackageError::Compression { what: "content".to_owned(), how });
    }
    let mut content = decompressed(file, LIMIT).map_err(|source| CpioError::Read { source })?;
    let names = cpio::unpack(&mut content, into)?;
    Ok((header, names))
}

/// The file in the package that is compiled.
fn source(header: &Header, names: &[String], folder: &Path) -> Result<String, PackageError> {
    let specs: Vec<_> = names.iter().filter(|name| is_spec(name)).collect();
    let [name] = specs.as_slice() else { return Err(PackageError::Specs(specs.len())) };
    let mut text = Vec::new();
    let spec = folder.join(name);
    let read = File::open(&spec).and_then(|file| file.take(LIMIT_OF_SPEC).read_to_end(&mut text));
    read.map_err(at(&spec))?;
    let first = spec::first_source(&String::from_utf8_lossy(&text), &header.macros());
    if let Some(first) = first.filter(|first| names.contains(first)) {
        return Ok(first);
    }
    let archives: Vec<_> = names.iter().filter(|name| is_archive(name)).collect();
    match archives.as_slice() {
        [one] => Ok((*one).clone()),
        several => Err(PackageError::NoSource(several.len())),
    }
}

fn is_spec(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "spec")
}

fn is_archive(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let ends = [".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.zst", ".tar.bz2", ".tbz2"];
    ends.iter().any(|end| name.ends_with(end))
}

/// Writes what an archive of sources holds; where that is one directory, what is in it.
fn unpack_source(name: &str, folder: &Path, to: &Path) -> Result<usize, PackageError> {
    let path = folder.join(name);
    let archive = || PackageError::Compression { what: name.to_owned(), how: "bzip2" };
    let mut file = File::open(&path).map_err(at(&path))?;
    if starts_with(&mut file, b"BZh").map_err(at(&path))? {
        return Err(archive());
    }
    let layer = layer(file).map_err(at(&path))?;
    let limits = extract::limits();
    let files = ImageFiles::flatten(vec![layer], &limits);
    let files = files.map_err(|source| PackageError::Archive { name: name.to_owned(), source })?;
    let done = extract(&files, &top(&files), to, &limits);
    done.map(|done| done.files).map_err(|source| PackageError::Extract { name: name.to_owned(), source })
}

fn starts_with(file: &mut File, magic: &[u8]) -> io::Result<bool> {
    let mut start = Vec::new();
    (&mut *file).take(magic.len() as u64).read_to_end(&mut start)?;
    file.rewind()?;
    Ok(start == magic)
}

/// An archive, to be read as an image's layers are: with the same care.
fn layer(mut file: File) -> io::Result<Layer> {
    let (mut hasher, mut buffer) = (Hasher::new(), vec![0; 256 * 1024]);
    let size = loop {
        match file.read(&mut buffer)? {
            0 => break file.stream_position()?,
            got => hasher.update(buffer.get(..got).unwrap_or_default()),
        }
    };
    file.rewind()?;
    let digest: Digest = hasher.finish();
    Ok(Layer { digest, size, file, shared: false })
}

/// The one directory that an archive has, as nearly all have, or its root.
fn top(files: &ImageFiles) -> ImagePath {
    let root = ImagePath::root();
    let directories = files.tree().directories_in(&root).unwrap_or_default();
    let below = match directories.as_slice() {
        [one] => root.join(one).ok(),
        _ => None,
    };
    let only = below.filter(|below| {
        let inside =
            |path: &[u8]| path.starts_with(format!("{}/", below.as_str().trim_start_matches('/')).as_bytes());
        files
            .tree()
            .walk(&root, &|_| false)
            .is_ok_and(|all| all.iter().flatten().all(|file| inside(&file.path)))
    });
    only.unwrap_or(root)
}

#[cfg(test)]
mod tests;
