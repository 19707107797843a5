//! What a directory holds that belongs into a module image.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tenon_kmod::compression::DecompressError;
use tenon_kmod::object::ObjectError;
use tenon_kmod::{KernelRelease, ModuleObject};

use crate::path::ImagePath;
use crate::platform::Architecture;

/// Where firmware goes in the image: the value for the Module's `firmwarePath`.
pub const FIRMWARE_PATH: &str = "/firmware";

/// The checksums of what the modules export. No node needs it; what is compiled against them does.
const SYMVERS: &str = "Module.symvers";

/// A module that unpacks to more is not believed.
const MAX_MODULE: usize = 1 << 30;
/// Directories below each other.
const MAX_DEPTH: usize = 32;

/// Why a directory cannot become an image. Names the file or directory, and the way out.
#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    /// Not there, or not readable.
    #[error("read {path}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// No directory of it is named like a kernel and holds modules.
    #[error(
        "found no modules in {directory}: expected {directory}/<kernel>/*.ko or \
         {directory}{dir_name}/lib/modules/<kernel>/*.ko, where <kernel> is what `uname -r` prints on the nodes",
        directory = directory.display()
    )]
    NoModules {
        /// What was searched.
        directory: PathBuf,
        /// The image's dirName.
        dir_name: ImagePath,
    },
    /// Modules, but of which kernel?
    #[error(
        "{module} does not say its kernel: move it into {directory}/<kernel>/, where <kernel> is what `uname -r` \
         prints on the nodes{}",
        hint.as_ref().map_or_else(String::new, |release| format!(" (it was built for {release})")),
        module = module.display(),
        directory = directory.display()
    )]
    LooseModule {
        /// The module.
        module: PathBuf,
        /// What was searched.
        directory: PathBuf,
        /// The release in the module's vermagic.
        hint: Option<String>,
    },
    /// A directory of modules whose name is no kernel release.
    #[error("{path} cannot be a kernel's directory", path = path.display())]
    Kernel {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: tenon_kmod::release::KernelReleaseError,
    },
    /// A module whose compression is broken.
    #[error("unpack {path}", path = path.display())]
    Unpack {
        /// The module.
        path: PathBuf,
        /// Why.
        source: DecompressError,
    },
    /// A file named like a module that is none.
    #[error("read the module {path}", path = path.display())]
    Module {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ObjectError,
    },
    /// Modules for different processors.
    #[error(
        "{path} is for {found}, {other} for {expected}: push one image for each architecture",
        path = path.display(),
        other = other.display()
    )]
    Mixed {
        /// A module.
        path: PathBuf,
        /// What it is for.
        found: Architecture,
        /// Another one.
        other: PathBuf,
        /// What that is for.
        expected: Architecture,
    },
    /// A name that images cannot hold.
    #[error("{path} has a name that is not UTF-8, or directories that are too deep", path = path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// The firmware directory is empty.
    #[error("found no files in the firmware directory {path}", path = path.display())]
    NoFirmware {
        /// The directory.
        path: PathBuf,
    },
}

/// How a directory is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `DIR/<kernel>/…`
    Kernels,
    /// `DIR/<dirName>/lib/modules/<kernel>/…`
    Image,
    /// `DIR/lib/modules/<kernel>/…`, as `make modules_install INSTALL_MOD_PATH=DIR` leaves it.
    Installed,
}

/// What was found for one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelModules {
    /// The kernel, by the directory's name.
    pub kernel: KernelRelease,
    /// How many modules.
    pub modules: usize,
    /// depmod's files beside them.
    pub metadata: Vec<String>,
    /// Modules that were built for another release: (file, release).
    pub foreign: Vec<(String, String)>,
}

/// The files that go into the image.
#[derive(Debug)]
pub struct Contents {
    /// How the directory is laid out.
    pub layout: Layout,
    /// By kernel.
    pub kernels: Vec<KernelModules>,
    /// What the modules are for.
    pub architecture: Architecture,
    /// Firmware files.
    pub firmware: usize,
    /// Path in the image, without the slash in front → file on disk.
    pub(super) files: BTreeMap<String, PathBuf>,
}

impl Contents {
    /// Looks through a directory, and through one with firmware. Blocks.
    pub fn scan(
        directory: &Path,
        dir_name: &ImagePath,
        firmware: Option<&Path>,
    ) -> Result<Self, ContentsError> {
        let (layout, roots) = find_kernels(directory, dir_name)?;
        let mut scan = Scan { architecture: None, files: BTreeMap::new() };
        let mut kernels = Vec::new();
        for (name, root) in roots {
            let kernel = KernelRelease::new(name)
                .map_err(|source| ContentsError::Kernel { path: root.clone(), source })?;
            kernels.push(scan.kernel(kernel, &root, dir_name)?);
        }
        let firmware = firmware.map_or(Ok(0), |firmware| scan.firmware(firmware))?;
        let no_modules =
            || ContentsError::NoModules { directory: directory.to_owned(), dir_name: dir_name.clone() };
        let (architecture, _) = scan.architecture.ok_or_else(no_modules)?;
        Ok(Self { layout, kernels, architecture, firmware, files: scan.files })
    }
}

/// The kernels' directories, by name, and how they were found.
fn find_kernels(
    directory: &Path,
    dir_name: &ImagePath,
) -> Result<(Layout, BTreeMap<String, PathBuf>), ContentsError> {
    let below = directory.join(dir_name.as_str().trim_start_matches('/')).join("lib/modules");
    let layouts = [
        (Layout::Image, below),
        (Layout::Installed, directory.join("lib/modules")),
        (Layout::Kernels, directory.to_owned()),
    ];
    for (layout, root) in layouts {
        if layout != Layout::Kernels && !root.is_dir() {
            continue;
        }
        let mut kernels = BTreeMap::new();
        for (name, path) in list(&root)? {
            if layout == Layout::Kernels && is_module(&name) {
                let hint = inspect(&path)
                    .ok()
                    .and_then(|module| module.info.vermagic().map(|v| v.release().to_owned()));
                return Err(ContentsError::LooseModule {
                    module: path,
                    directory: directory.to_owned(),
                    hint,
                });
            }
            if path.is_dir() && files_below(&path)?.iter().any(|(name, _)| is_module(name)) {
                kernels.insert(name, path);
            }
        }
        if !kernels.is_empty() {
            return Ok((layout, kernels));
        }
    }
    Err(ContentsError::NoModules { directory: directory.to_owned(), dir_name: dir_name.clone() })
}

struct Scan {
    /// And the module that it was read from.
    architecture: Option<(Architecture, PathBuf)>,
    files: BTreeMap<String, PathBuf>,
}

impl Scan {
    fn kernel(
        &mut self,
        kernel: KernelRelease,
        root: &Path,
        dir_name: &ImagePath,
    ) -> Result<KernelModules, ContentsError> {
        let mut found = KernelModules { kernel, modules: 0, metadata: Vec::new(), foreign: Vec::new() };
        let top = dir_name.as_str().trim_start_matches('/');
        let top = if top.is_empty() { String::new() } else { format!("{top}/") };
        for (name, path) in files_below(root)? {
            if is_module(&name) {
                found.modules += 1;
                if let Some(release) = self.module(&path, &found.kernel)? {
                    found.foreign.push((name.clone(), release));
                }
            } else if name.starts_with("modules.") && !name.contains('/') {
                found.metadata.push(name.clone());
            } else if name != SYMVERS {
                continue;
            }
            self.files.insert(format!("{top}lib/modules/{}/{name}", found.kernel.as_str()), path);
        }
        Ok(found)
    }

    /// Checks a module; returns the release that it was built for where that is another one.
    fn module(&mut self, path: &Path, kernel: &KernelRelease) -> Result<Option<String>, ContentsError> {
        let module = inspect(path)?;
        let found = Architecture::from(module.architecture);
        match &self.architecture {
            None => self.architecture = Some((found, path.to_owned())),
            Some((expected, other)) if *expected != found => {
                return Err(ContentsError::Mixed {
                    path: path.to_owned(),
                    found,
                    other: other.clone(),
                    expected: expected.clone(),
                });
            }
            Some(_) => {}
        }
        let release = module.info.vermagic().map(|vermagic| vermagic.release().to_owned());
        Ok(release.filter(|release| release.trim_end_matches('+') != kernel.without_plus()))
    }

    fn firmware(&mut self, root: &Path) -> Result<usize, ContentsError> {
        let files = files_below(root)?;
        if files.is_empty() {
            return Err(ContentsError::NoFirmware { path: root.to_owned() });
        }
        let count = files.len();
        let top = FIRMWARE_PATH.trim_start_matches('/');
        self.files.extend(files.into_iter().map(|(name, path)| (format!("{top}/{name}"), path)));
        Ok(count)
    }
}

fn inspect(path: &Path) -> Result<ModuleObject, ContentsError> {
    let bytes = fs::read(path).map_err(|source| ContentsError::Io { path: path.to_owned(), source })?;
    let bytes = tenon_kmod::compression::decompress(&bytes, MAX_MODULE)
        .map_err(|source| ContentsError::Unpack { path: path.to_owned(), source })?;
    ModuleObject::parse(&bytes).map_err(|source| ContentsError::Module { path: path.to_owned(), source })
}

fn is_module(name: &str) -> bool {
    [".ko", ".ko.gz", ".ko.xz", ".ko.zst"].iter().any(|suffix| name.ends_with(suffix))
}

/// Every file below a directory with its path from there, but for the links to the kernel's sources. Links to files
/// count as the files; links to directories are not followed.
fn files_below(root: &Path) -> Result<Vec<(String, PathBuf)>, ContentsError> {
    let mut files = Vec::new();
    let mut ahead = BTreeSet::from([(String::new(), root.to_owned(), 0)]);
    while let Some((prefix, directory, depth)) = ahead.pop_first() {
        if depth > MAX_DEPTH {
            return Err(ContentsError::Name { path: directory });
        }
        for (name, path) in list(&directory)? {
            let below = format!("{prefix}{name}");
            let failed = |source| ContentsError::Io { path: path.clone(), source };
            if matches!(name.as_str(), "build" | "source") {
                continue;
            }
            if fs::symlink_metadata(&path).map_err(failed)?.is_dir() {
                ahead.insert((format!("{below}/"), path, depth + 1));
            } else if fs::metadata(&path).map_err(failed)?.is_file() {
                files.push((below, path));
            }
        }
    }
    files.sort();
    Ok(files)
}

fn list(directory: &Path) -> Result<Vec<(String, PathBuf)>, ContentsError> {
    let failed = |source| ContentsError::Io { path: directory.to_owned(), source };
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let name = entry.file_name().into_string().map_err(|_| ContentsError::Name { path: path.clone() })?;
        entries.push((name, path));
    }
    entries.sort();
    Ok(entries)
}
