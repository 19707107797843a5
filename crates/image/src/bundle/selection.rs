//! Which files of an image a node needs: a pure choice among names.

use tenon_kmod::KernelRelease;
use tenon_order::{BundlePath, ManifestError};

use super::BundleRequest;
use crate::layers::{FileAt, Found, Limits, LinkError, TooManyNames, Tree, Walked};
use crate::path::{ImagePath, PathError};

/// What `modprobe` and the loader read beside the modules themselves.
const METADATA: [&str; 5] =
    ["modules.alias", "modules.builtin", "modules.dep", "modules.order", "modules.softdep"];

/// Kernels named in a message.
const KERNELS_NAMED: usize = 8;

/// Why an image holds nothing for this kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// The path below `dirName` cannot be one.
    #[error("look for the kernel's modules")]
    Path(#[from] PathError),
    /// No directory for this kernel.
    #[error("the image has no directory {looked_for}; {}", kernels_held(kernels))]
    NoDirectory {
        /// Where the modules should be.
        looked_for: ImagePath,
        /// The kernels that the image has modules for. Empty also when it has none of `dirName`'s `lib/modules`.
        kernels: Vec<String>,
    },
    /// A directory, but nothing to load in it.
    #[error("the image has no *.ko, *.ko.gz, *.ko.xz or *.ko.zst below {0}")]
    NoModules(ImagePath),
    /// The Module's firmware path is not in the image.
    #[error("the image has no directory {0}, the Module's firmwarePath")]
    NoFirmware(ImagePath),
    /// A file that is needed is no file.
    #[error("{0} in the image is a device or pipe")]
    NotAFile(String),
    /// A file that is needed is a link to nowhere.
    #[error("{path} in the image cannot be read")]
    Broken {
        /// The file.
        path: String,
        /// Why.
        source: LinkError,
    },
    /// A name that bundles cannot hold.
    #[error("{path} in the image has a name that cannot be in a bundle")]
    Name {
        /// The file, as far as it can be shown.
        path: String,
        /// Why; nothing where it is not UTF-8.
        source: Option<ManifestError>,
    },
    /// The same module twice, packed in different ways.
    #[error("the image has {0} twice, packed in different ways")]
    Twice(BundlePath),
    /// Links that multiply names.
    #[error("list {directory} in the image")]
    TooManyNames {
        /// The directory.
        directory: ImagePath,
        /// How many there may be.
        source: TooManyNames,
    },
    /// A file that is larger than any of its sort.
    #[error("{path} in the image has {size} bytes, it may have {limit}")]
    TooLarge {
        /// The file, by its path in the bundle.
        path: BundlePath,
        /// In bytes.
        size: u64,
        /// The limit on a module, or on another file.
        limit: u64,
    },
    /// More than a node should be sent.
    #[error(
        "the image has more for this kernel than the {files} files of together {bytes} bytes that a bundle may hold"
    )]
    TooMuch {
        /// The limit on files.
        files: usize,
        /// The limit on bytes.
        bytes: u64,
    },
}

fn kernels_held(kernels: &[String]) -> String {
    match (kernels, kernels.len().saturating_sub(KERNELS_NAMED)) {
        ([], _) => "it has modules for no kernel below that dirName".to_owned(),
        (kernels, 0) => format!("it has modules for {}", kernels.join(", ")),
        (kernels, more) => {
            format!(
                "it has modules for {} and {more} more",
                kernels.get(..KERNELS_NAMED).unwrap_or(kernels).join(", ")
            )
        }
    }
}

/// A file of the image that becomes one of the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selected {
    pub(super) path: BundlePath,
    pub(super) at: FileAt,
    /// A module: unpacked when it is packed.
    pub(super) module: bool,
}

/// The files for this kernel and the firmware, sorted by their path in the bundle.
pub(super) fn select(
    tree: &Tree,
    request: &BundleRequest,
    limits: &Limits,
) -> Result<Vec<Selected>, SelectError> {
    let modules = request.dir_name.join("lib/modules")?;
    let (directory, walked) = kernel_directory(tree, &modules, &request.kernel)?;
    let mut selected = Vec::new();
    for file in walked {
        if let Some((name, module)) = wanted(&file.path) {
            selected.push(take("modules", &directory, name, &file, module)?);
        }
    }
    if !selected.iter().any(|file| file.module) {
        return Err(SelectError::NoModules(directory));
    }
    if let Some(firmware) = &request.firmware_path {
        let walked =
            walk(tree, firmware, &|_| false)?.ok_or_else(|| SelectError::NoFirmware(firmware.clone()))?;
        for file in walked {
            selected.push(take("firmware", firmware, &file.path, &file, false)?);
        }
    }
    selected.sort_by(|one, other| one.path.cmp(&other.path));
    check(&selected, limits)?;
    Ok(selected)
}

/// Images for a kernel whose release ends in `+` have the directory with or without it.
fn kernel_directory(
    tree: &Tree,
    modules: &ImagePath,
    kernel: &KernelRelease,
) -> Result<(ImagePath, Vec<Walked>), SelectError> {
    for name in [kernel.as_str(), kernel.without_plus()] {
        let directory = modules.join(name)?;
        // As depmod does: these lead to the kernel's sources.
        if let Some(walked) = walk(tree, &directory, &|name| matches!(name, b"build" | b"source"))? {
            return Ok((directory, walked));
        }
    }
    let kernels = tree.directories_in(modules).unwrap_or_default();
    Err(SelectError::NoDirectory { looked_for: modules.join(kernel.as_str())?, kernels })
}

fn walk(
    tree: &Tree,
    directory: &ImagePath,
    skip: &dyn Fn(&[u8]) -> bool,
) -> Result<Option<Vec<Walked>>, SelectError> {
    tree.walk(directory, skip)
        .map_err(|source| SelectError::TooManyNames { directory: directory.clone(), source })
}

/// The name in the bundle and whether it is a module; nothing for files that no node needs.
fn wanted(path: &[u8]) -> Option<(&[u8], bool)> {
    if METADATA.iter().any(|name| name.as_bytes() == path) {
        return Some((path, false));
    }
    let unpacked =
        [b".gz".as_slice(), b".xz", b".zst"].into_iter().find_map(|suffix| path.strip_suffix(suffix));
    let name = unpacked.unwrap_or(path);
    name.ends_with(b".ko").then_some((name, true))
}

/// Whether a file of this name may be one that a node needs, wherever it lies below the kernel's directory.
pub(crate) fn may_be_wanted(name: &[u8]) -> bool {
    wanted(name).is_some()
}

fn take(
    top: &str,
    from: &ImagePath,
    name: &[u8],
    file: &Walked,
    module: bool,
) -> Result<Selected, SelectError> {
    let shown = || format!("{from}/{}", String::from_utf8_lossy(&file.path));
    let at = match file.found {
        Found::File(at) => at,
        Found::Special => return Err(SelectError::NotAFile(shown())),
        Found::Broken(source) => return Err(SelectError::Broken { path: shown(), source }),
    };
    let name = std::str::from_utf8(name).map_err(|_| SelectError::Name { path: shown(), source: None })?;
    let path = format!("{top}/{name}")
        .parse()
        .map_err(|source| SelectError::Name { path: shown(), source: Some(source) })?;
    Ok(Selected { path, at, module })
}

fn check(selected: &[Selected], limits: &Limits) -> Result<(), SelectError> {
    for pair in selected.windows(2) {
        if let [one, other] = pair
            && one.path == other.path
        {
            return Err(SelectError::Twice(one.path.clone()));
        }
    }
    for file in selected {
        let limit = if file.module { limits.module } else { limits.file };
        if file.at.size() > limit {
            return Err(SelectError::TooLarge { path: file.path.clone(), size: file.at.size(), limit });
        }
    }
    let bytes = selected.iter().fold(0, |sum: u64, file| sum.saturating_add(file.at.size()));
    if selected.len() > limits.files || bytes > limits.taken {
        return Err(SelectError::TooMuch { files: limits.files, bytes: limits.taken });
    }
    Ok(())
}
