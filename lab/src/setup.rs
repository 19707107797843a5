//! Everything that the lab needs of the world, had once and remembered: programs, kernels, their headers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::build_images::{self, BuildImageError};
use crate::cache::{Cache, CacheError, Lock};
use crate::command;
use crate::control_plane::Binaries;
use crate::control_plane::binaries::BinariesError;
use crate::debian::{Archive, ArchiveError, Release};
use crate::drivers::{self, Driver, DriverError};
use crate::guest::firmware::{FirmwareError, FirmwareSupplies};
use crate::host_node::{self, HostNodeError};
use crate::kernel::{Kernel, KernelError, Origin};
use crate::prometheus::{self, PrometheusError};
use crate::worker::{self, root_disk::WorkerDiskError};

/// Programs that must be installed, for they come with libraries.
const INSTALLED: &[&str] = &[
    "binutils",
    "buildah",
    "curl",
    "e2fsprogs",
    "gcc-12",
    "git",
    "iproute2",
    "kmod",
    "libelf1",
    "make",
    "mmdebstrap",
    "openssl",
    "python3-pip",
    "util-linux",
    "xz-utils",
];
/// A program of each, to see whether they are there.
const PROGRAMS: &[&str] = &[
    "strip",
    "buildah",
    "curl",
    "mke2fs",
    "gcc-12",
    "depmod",
    "git",
    "ip",
    "make",
    "mmdebstrap",
    "openssl",
    "pip3",
    "setpriv",
    "xz",
    "qemu-system-x86_64",
];
/// QEMU 10: the emulation of 7.2, Debian 12's own, spoils flags now and then, and guests die of it.
const QEMU: &str = "qemu-system-x86";

/// What the set-up found or made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supplies {
    kernels: Vec<Kernel>,
    /// Statically linked busybox.
    pub busybox: PathBuf,
    /// runc.
    pub runc: PathBuf,
    /// A folder with runc's one library beside the C library.
    pub libseccomp: PathBuf,
    /// The seccomp profile that container engines use by default, with its conditions unresolved.
    pub seccomp_profile: PathBuf,
    /// The registry.
    pub registry: PathBuf,
    /// Firmware with Secure Boot.
    pub firmware: FirmwareSupplies,
}

/// Why the set-up is not complete.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A package.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A kernel.
    #[error("prepare the kernel from {origin:?}")]
    Kernel {
        /// Which.
        origin: Origin,
        /// Why.
        #[source]
        source: KernelError,
    },
    /// The control plane.
    #[error(transparent)]
    Binaries(#[from] BinariesError),
    /// The firmware of guests.
    #[error("get firmware with Secure Boot")]
    Firmware(#[from] FirmwareError),
    /// The disk of nodes with a kubelet.
    #[error("make the root file system of nodes with a kubelet")]
    Worker(#[from] WorkerDiskError),
    /// The programs of a node on the host.
    #[error("get the programs of a node on the host")]
    HostNode(#[from] Box<HostNodeError>),
    /// The images of builds.
    #[error(transparent)]
    BuildImage(#[from] BuildImageError),
    /// What alerts are tried on.
    #[error("get Prometheus")]
    Prometheus(#[from] Box<PrometheusError>),
    /// The example drivers.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The record of what there is.
    #[error("write {path}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No kernel of that origin in the record.
    #[error("find the kernel from {0:?}: run `tenon-lab setup`")]
    NoKernel(Origin),
}

impl Supplies {
    /// What the last set-up left, or else what one brings now (minutes, once).
    pub fn get() -> Result<Self, SetupError> {
        let cache = Cache::open()?;
        match Self::remembered(&cache)? {
            Some(supplies) => Ok(supplies),
            None => Self::provide(&cache, &mut |_| {}),
        }
    }

    /// Looks for everything, newest kernels included, and gets what is not there. `progress` is told each step.
    pub fn provide(cache: &Cache, progress: &mut dyn FnMut(&str)) -> Result<Self, SetupError> {
        let _lock = Lock::take(&cache.folder("")?.join("setup.lock"))?;
        let archive = Archive::open(cache)?;
        progress("package lists");
        if let Some(supplies) = Self::remembered(cache)?
            && !archive.refresh()?
        {
            // The same lists name the same packages.
            return Ok(supplies);
        }
        archive.refresh()?;
        progress("packages: programs to install");
        archive.install(INSTALLED, Release::Stable)?;
        archive.install(&[QEMU], Release::Backports)?;
        progress("packages: programs for guests, registry");
        let unpack = |package| archive.unpack(package, Release::Stable);
        let libseccomp = unpack("libseccomp2")?.join("usr/lib/x86_64-linux-gnu");
        let profile = unpack("golang-github-containers-common")?.join("usr/share/containers/seccomp.json");
        let mut supplies = Self {
            kernels: Vec::new(),
            busybox: unpack("busybox-static")?.join("bin/busybox"),
            runc: unpack("runc")?.join("usr/sbin/runc"),
            libseccomp,
            seccomp_profile: profile,
            registry: unpack("docker-registry")?.join("usr/bin/docker-registry"),
            firmware: FirmwareSupplies::prepare(&archive, cache)?,
        };
        for origin in Origin::ALL {
            progress(&format!("kernel: {origin:?}"));
            let kernel = Kernel::prepare(&archive, cache, origin)
                .map_err(|source| SetupError::Kernel { origin, source })?;
            progress(&format!("kernel: {}", kernel.release));
            supplies.kernels.push(kernel);
        }
        supplies.remember(&record(cache)?)?;
        Ok(supplies)
    }

    /// The kernel of an origin.
    pub fn kernel(&self, origin: Origin) -> Result<&Kernel, SetupError> {
        self.kernels.iter().find(|kernel| kernel.origin == origin).ok_or(SetupError::NoKernel(origin))
    }

    /// All kernels, oldest first.
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    /// The record, when all that it names is still there.
    fn remembered(cache: &Cache) -> Result<Option<Self>, SetupError> {
        // No record and one that an older lab wrote differently come to the same.
        let text = fs::read_to_string(record(cache)?).unwrap_or_default();
        Ok(serde_json::from_str::<Self>(&text).ok().filter(Self::is_there))
    }

    fn is_there(&self) -> bool {
        let files = [&self.busybox, &self.runc, &self.seccomp_profile, &self.registry];
        files.iter().all(|file| file.is_file())
            && self.kernels.len() == Origin::ALL.len()
            && self.kernels.iter().all(Kernel::is_there)
            && self.firmware.is_there()
            && PROGRAMS.iter().all(|program| command::find(program).is_some())
    }

    fn remember(&self, path: &Path) -> Result<(), SetupError> {
        let failed = |source: io::Error| SetupError::Write { path: path.to_owned(), source };
        let text = serde_json::to_string_pretty(self).map_err(|error| failed(error.into()))?;
        let aside = path.with_extension("partial");
        fs::write(&aside, text).map_err(failed)?;
        fs::rename(&aside, path).map_err(failed)
    }
}

fn record(cache: &Cache) -> Result<PathBuf, CacheError> {
    Ok(cache.folder("")?.join("supplies.json"))
}

/// The kernel of an origin that the set-up does not bring ([`Origin::NEWER`]), downloaded when the cache does not hold the
/// current one.
pub fn newer_kernel(origin: Origin) -> Result<Kernel, SetupError> {
    let cache = Cache::open()?;
    let _lock = Lock::take(&cache.folder("")?.join("newer-kernels.lock"))?;
    let archive = Archive::open_foreign(&cache, origin.release())?;
    Kernel::prepare(&archive, &cache, origin).map_err(|source| SetupError::Kernel { origin, source })
}

/// Everything, the control plane included.
pub fn setup(progress: &mut dyn FnMut(&str)) -> Result<Supplies, SetupError> {
    let supplies = Supplies::provide(&Cache::open()?, progress)?;
    for kernel in supplies.kernels() {
        progress(&format!("example drivers for {}", kernel.release));
        for driver in Driver::ALL.into_iter().chain(Driver::VENDORS) {
            drivers::build(kernel, driver.into())?;
        }
    }
    progress("Prometheus, to try alerts on");
    prometheus::Programs::get().map_err(Box::new)?;
    progress("control plane (seven minutes when it is built for the first time)");
    Binaries::get()?;
    progress(
        "nodes with a kubelet: its program (two minutes the first time), containerd, a root file system",
    );
    worker::root_disk::image(&supplies)?;
    host_node::prepare().map_err(Box::new)?;
    // Nobody else could make them, nor run the node that wants them.
    if rustix::process::geteuid().is_root() {
        progress("images of builds in pods (two minutes the first time)");
        build_images::builder()?;
        for kernel in supplies.kernels() {
            build_images::toolkit(kernel)?;
        }
    }
    Ok(supplies)
}
