//! A kernel, as it is at hand: tells by the contents what was given, and reads it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tenon_kmod::compression::DecompressError;
use tenon_kmod::facts::{
    DecodeError, HeaderFiles, HeadersError, ImageError, Left, MAX_ENCODED, MergeError, ModuleSurvey,
};
use tenon_kmod::object::Architecture;
use tenon_kmod::release::KernelReleaseError;
use tenon_kmod::{KernelFacts, KernelRelease};

/// What a kernel can be given as.
pub(crate) const WHAT: &str = "A kernel is given as one of: its image (vmlinuz of x86, or vmlinux); a directory with its headers, or the \
Module.symvers in it; its directory in /lib/modules, with what can be found from there (vmlinuz, build, the modules); \
a file that `kubectl tenon facts` wrote.";

/// Larger modules are not read.
pub(crate) const MODULE_LIMIT: usize = 512 << 20;

/// Why a kernel could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("read {path}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("read {path} as facts", path = path.display())]
    Facts { path: PathBuf, source: DecodeError },
    #[error("read {path} as a kernel image", path = path.display())]
    Image { path: PathBuf, source: ImageError },
    #[error("read the headers in {path}", path = path.display())]
    Headers { path: PathBuf, source: HeadersError },
    #[error("take {path} for the name of a kernel", path = path.display())]
    Release { path: PathBuf, source: KernelReleaseError },
    #[error("unpack {path}", path = path.display())]
    Unpack { path: PathBuf, source: DecompressError },
    #[error(transparent)]
    Merge(#[from] MergeError),
    #[error("find a kernel in {path}: no Module.symvers, no vmlinuz, no modules of its own", path = path.display())]
    Nothing { path: PathBuf },
}

/// Reads what is known about a kernel.
pub(crate) fn read_kernel(what: &Path) -> Result<KernelFacts, SourceError> {
    if what.is_dir() {
        return if what.join(HeaderFiles::SYMVERS).is_file() { headers(what) } else { directory(what) };
    }
    if what.file_name().is_some_and(|name| name == HeaderFiles::SYMVERS) {
        let folder = what.parent().filter(|folder| !folder.as_os_str().is_empty());
        return headers(folder.unwrap_or(Path::new(".")));
    }
    let bytes = read(what)?;
    if bytes.starts_with(b"TENONKF") && bytes.len() <= MAX_ENCODED {
        return KernelFacts::decode(&bytes)
            .map_err(|source| SourceError::Facts { path: what.into(), source });
    }
    KernelFacts::from_image(&bytes).map_err(|source| SourceError::Image { path: what.into(), source })
}

fn read(path: &Path) -> Result<Vec<u8>, SourceError> {
    fs::read(path).map_err(|source| SourceError::Read { path: path.to_owned(), source })
}

fn headers(folder: &Path) -> Result<KernelFacts, SourceError> {
    let file = |name: &str| {
        let path = folder.join(name);
        if path.is_file() { read(&path).map(Some) } else { Ok(None) }
    };
    let error = |source| SourceError::Headers { path: folder.to_owned(), source };
    // Where there is no Module.symvers, the system says so in its own words.
    let missing = || read(&folder.join(HeaderFiles::SYMVERS)).err();
    match HeaderFiles::read(file)? {
        Some(files) => files.facts(Architecture::named(this_machine())).map_err(error),
        None => Err(missing().unwrap_or_else(|| SourceError::Nothing { path: folder.to_owned() })),
    }
}

/// In Kubernetes' words, for headers whose configuration does not say it.
fn this_machine() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `/lib/modules/<release>`: the image beside the modules or in `/boot` of the same root, the headers behind `build`, and
/// of the modules themselves as much as the others leave open.
fn directory(folder: &Path) -> Result<KernelFacts, SourceError> {
    let canonical =
        fs::canonicalize(folder).map_err(|source| SourceError::Read { path: folder.to_owned(), source })?;
    let name = canonical.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let boot = |up: &str| canonical.join(up).join("boot").join(format!("vmlinuz-{name}"));
    let image = [canonical.join("vmlinuz"), boot("../../.."), boot("../../../..")];
    let mut found: Option<KernelFacts> = None;
    if let Some(image) = image.iter().find(|image| image.is_file()) {
        found = Some(read_kernel(image)?);
    }
    let build = canonical.join("build");
    if build.join(HeaderFiles::SYMVERS).is_file() {
        found = Some(KernelFacts::join(found, headers(&build)?)?);
    }
    let release = KernelRelease::new(name.as_str())
        .map_err(|source| SourceError::Release { path: folder.to_owned(), source })?;
    if let Some(left) = Left::by(found.as_ref())
        && let Some(modules) = survey(&canonical.join("kernel"), release, left)?
    {
        found = Some(KernelFacts::join(found, modules)?);
    }
    found.ok_or_else(|| SourceError::Nothing { path: folder.to_owned() })
}

/// One module tells the size of `struct module`; all of them, what they export.
fn survey(folder: &Path, release: KernelRelease, left: Left) -> Result<Option<KernelFacts>, SourceError> {
    let mut survey = ModuleSurvey::new(release);
    for path in module_files(folder)? {
        let added = survey
            .add_file(&read(&path)?, MODULE_LIMIT)
            .map_err(|source| SourceError::Unpack { path: path.clone(), source })?;
        if added && left == Left::Size {
            break;
        }
    }
    let mut facts = survey.finish();
    if let Some(facts) = &mut facts {
        facts.covers_modules = left == Left::Exports;
    }
    Ok(facts)
}

/// The modules under a folder, packed or not, by their paths. A folder that is not there has none.
pub(crate) fn module_files(folder: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let error = |source| SourceError::Read { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(error)?,
    };
    let mut paths =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>().map_err(error)?;
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        // Links are not followed: they may lead in circles.
        let kind =
            fs::symlink_metadata(&path).map_err(|source| SourceError::Read { path: path.clone(), source })?;
        if kind.is_dir() {
            files.extend(module_files(&path)?);
        } else if kind.is_file() && is_module(&path) {
            files.push(path);
        }
    }
    Ok(files)
}

fn is_module(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().any(|suffix| name.ends_with(suffix))
}
