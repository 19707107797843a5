//! The example drivers, built for a kernel and laid out as a module image holds them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use ring::digest;

use crate::cache::{Cache, CacheError};
use crate::command::{self, CommandError};
use crate::kernel::{Kernel, depmod};

/// `dirName` of the images that [`ImageContent`] lays out.
pub const DIR_NAME: &str = "/opt";
/// `firmwarePath` of the images that [`ImageContent`] lays out.
pub const FIRMWARE_PATH: &str = "/lib/firmware";

/// One of `examples/drivers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// Parameters.
    SimpleKmod,
    /// A version in `/proc`.
    SimpleProcfsKmod,
    /// `lab-core` and `lab-client`, which needs a symbol of it.
    Pair,
    /// Needs a firmware file.
    Firmware,
    /// In use while its device is open.
    Chardev,
    /// Fails as told.
    Broken,
    /// Needs a module of the kernel's own.
    InTreeUser,
    /// Takes the kernel down.
    Panic,
    /// Needs a firmware file to have a device.
    Accel,
    /// `lab-volume`, a disk, which needs `lab-volume-core`.
    Volume,
    /// A network driver in the place of one of the kernel's own.
    Net,
}

type Source = (&'static str, &'static str);

macro_rules! sources {
    ($folder:literal: $($file:literal),+) => {
        &[$(($file, include_str!(concat!("../../examples/drivers/", $folder, "/", $file)))),+]
    };
}

impl Driver {
    /// Those for one question each.
    pub const ALL: [Self; 8] = [
        Self::SimpleKmod,
        Self::SimpleProcfsKmod,
        Self::Pair,
        Self::Firmware,
        Self::Chardev,
        Self::Broken,
        Self::InTreeUser,
        Self::Panic,
    ];
    /// Those like vendors' drivers, with devices to use.
    pub const VENDORS: [Self; 3] = [Self::Accel, Self::Volume, Self::Net];

    /// The modules that come out, as files are named, those that others need first.
    pub fn modules(self) -> &'static [&'static str] {
        match self {
            Self::SimpleKmod => &["simple-kmod"],
            Self::SimpleProcfsKmod => &["simple-procfs-kmod"],
            Self::Pair => &["lab-core", "lab-client"],
            Self::Firmware => &["lab-firmware"],
            Self::Chardev => &["lab-chardev"],
            Self::Broken => &["lab-broken"],
            Self::InTreeUser => &["lab-intree-user"],
            Self::Panic => &["lab-panic"],
            Self::Accel => &["lab-accel"],
            Self::Volume => &["lab-volume-core", "lab-volume"],
            Self::Net => &["dummy"],
        }
    }

    fn sources(self) -> &'static [Source] {
        match self {
            Self::SimpleKmod => sources!("simple-kmod": "Makefile", "simple-kmod.c"),
            Self::SimpleProcfsKmod => sources!("simple-procfs-kmod": "Makefile", "simple-procfs-kmod.c"),
            Self::Pair => sources!("lab-pair": "Makefile", "lab-core.c", "lab-client.c"),
            Self::Firmware => sources!("lab-firmware": "Makefile", "lab-firmware.c"),
            Self::Chardev => sources!("lab-chardev": "Makefile", "lab-chardev.c"),
            Self::Broken => sources!("lab-broken": "Makefile", "lab-broken.c"),
            Self::InTreeUser => sources!("lab-intree-user": "Makefile", "lab-intree-user.c"),
            Self::Panic => sources!("lab-panic": "Makefile", "lab-panic.c"),
            Self::Accel => sources!("lab-accel": "Makefile", "lab-accel.c"),
            Self::Volume => {
                sources!("lab-volume": "Makefile", "lab-volume.h", "lab-volume-core.c", "lab-volume.c")
            }
            Self::Net => sources!("lab-net": "Makefile", "lab-net.c"),
        }
    }
}

/// A driver as it is to be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe<'a> {
    /// Which.
    pub driver: Driver,
    /// The version that it will tell.
    pub version: &'a str,
    /// Whether `lab-client` needs a symbol that nobody exports.
    pub unknown_symbol: bool,
}

impl From<Driver> for Recipe<'_> {
    fn from(driver: Driver) -> Self {
        Self { driver, version: "1.0", unknown_symbol: false }
    }
}

/// A built driver's `.ko` files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    folder: PathBuf,
    driver: Driver,
}

impl Built {
    /// All of them, in the order of [`Driver::modules`].
    pub fn files(&self) -> Vec<PathBuf> {
        self.driver.modules().iter().map(|module| self.folder.join(format!("{module}.ko"))).collect()
    }
}

/// Why a driver could not be built or laid out.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// A file.
    #[error("{action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The compiler.
    #[error("build {driver:?} for {kernel}")]
    Build {
        /// Which driver.
        driver: Driver,
        /// For which kernel.
        kernel: String,
        /// What make said.
        #[source]
        source: CommandError,
    },
    /// depmod.
    #[error("index the modules of {kernel}")]
    Depmod {
        /// Whose.
        kernel: String,
        /// What depmod said.
        #[source]
        source: CommandError,
    },
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// Builds a driver for a kernel, or gives what was built before from the same sources.
pub fn build(kernel: &Kernel, recipe: Recipe<'_>) -> Result<Built, DriverError> {
    let Recipe { driver, .. } = recipe;
    let folder = Cache::open()?.entry("drivers", &key(kernel, recipe), |aside| {
        for (name, text) in driver.sources() {
            let path = aside.join(name);
            fs::write(&path, text).map_err(at("write", &path))?;
        }
        command::run(&mut make(kernel, recipe, aside)).map(drop).map_err(|source| DriverError::Build {
            driver,
            kernel: kernel.release.clone(),
            source,
        })
    })?;
    Ok(Built { folder, driver })
}

fn make(kernel: &Kernel, recipe: Recipe<'_>, folder: &Path) -> Command {
    let mut command = Command::new("make");
    command
        .arg("-s")
        .arg("-C")
        .arg(kernel.headers())
        .arg(format!("M={}", folder.display()))
        .arg(format!("VERSION={}", recipe.version));
    if recipe.unknown_symbol {
        // The last step would refuse to make such a module.
        command.args(["SYMBOL=lab_exported_by_nobody", "KBUILD_MODPOST_WARN=1"]);
    }
    command.arg("modules");
    command
}

/// Everything that decides what comes out; the headers' path names the kernel's package and version.
fn key(kernel: &Kernel, recipe: Recipe<'_>) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    let headers = kernel.headers();
    let flags = format!("{} {}", recipe.version, recipe.unknown_symbol);
    let parts = recipe.driver.sources().iter().flat_map(|(name, text)| [*name, *text]);
    for part in parts.chain([flags.as_str()]) {
        hash.update(part.as_bytes());
        hash.update(&[0]);
    }
    hash.update(headers.as_os_str().as_encoded_bytes());
    let hash: String = crate::hex(hash.finish().as_ref()).chars().take(16).collect();
    format!("{}_{}_{hash}", recipe.driver.modules().join("_"), kernel.release)
}

/// What a module image holds: modules by kernel release, firmware.
#[derive(Debug, Clone, Default)]
pub struct ImageContent {
    modules: Vec<(String, PathBuf)>,
    firmware: Vec<(String, Vec<u8>)>,
}

impl ImageContent {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a driver's modules under a kernel release: the one it was built for, or a wrong one.
    #[must_use]
    pub fn with(mut self, release: &str, built: &Built) -> Self {
        self.modules.extend(built.files().into_iter().map(|file| (release.to_owned(), file)));
        self
    }

    /// Adds a firmware file.
    #[must_use]
    pub fn with_firmware(mut self, name: &str, content: &[u8]) -> Self {
        self.firmware.push((name.to_owned(), content.to_vec()));
        self
    }

    /// Writes `<out>/opt/lib/modules/<release>/*.ko` with depmod's files, and `<out>/lib/firmware`.
    pub fn write(&self, out: &Path) -> Result<(), DriverError> {
        let base = out.join(DIR_NAME.trim_start_matches('/'));
        for (release, file) in &self.modules {
            let folder = base.join("lib/modules").join(release);
            fs::create_dir_all(&folder).map_err(at("create", &folder))?;
            let target = folder.join(file.file_name().unwrap_or_default());
            fs::copy(file, &target).map_err(at("write", &target))?;
        }
        let mut releases: Vec<&String> = self.modules.iter().map(|(release, _)| release).collect();
        releases.dedup();
        for release in releases {
            command::run(Command::new(depmod()).arg("-b").arg(&base).arg(release))
                .map_err(|source| DriverError::Depmod { kernel: release.clone(), source })?;
        }
        for (name, content) in &self.firmware {
            let target = out.join(FIRMWARE_PATH.trim_start_matches('/')).join(name);
            let folder = target.parent().unwrap_or(out);
            fs::create_dir_all(folder).map_err(at("create", folder))?;
            fs::write(&target, content).map_err(at("write", &target))?;
        }
        Ok(())
    }
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DriverError {
    let path = path.to_owned();
    move |source| DriverError::Io { action, path, source }
}
