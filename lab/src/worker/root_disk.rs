//! A worker's root file system: containerd, runc, network plugins and what they need as Debian packages them, kubelet and
//! kube-proxy beside them. Made once and kept; all workers share it, each with its own changes on top.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ring::digest;

use crate::cache::{Cache, CacheError};
use crate::control_plane::binaries::{BinariesError, NodePrograms};
use crate::debian::{Archive, ArchiveError, Release};
use crate::guest::root_disk::{self, RootDiskError};
use crate::kernel::{DiskError, ext4_from};
use crate::setup::Supplies;

/// What runs on a node; what it depends on comes with it.
const PACKAGES: [&str; 5] = ["containernetworking-plugins", "kmod", "mount", "nftables", "runc"];
/// From the release after Debian 12, whose own is too old to give containers devices by their CDI names. It needs nothing
/// that is not among the others.
const RUNTIME: (&str, Release) = ("containerd", Release::Newer);
/// Needed by some of these, but not for what they do here: masquerading is one rule of nftables.
const WITHOUT: [&str; 2] = ["debconf", "iptables"];
/// What no worker looks at.
const UNUSED: [&str; 5] = [
    "usr/bin/containerd-shim",
    "usr/bin/containerd-shim-runc-v1",
    "usr/bin/containerd-stress",
    "usr/share/doc",
    "usr/share/man",
];
/// The network plugins that are left of two dozen.
const PLUGINS: [&str; 3] = ["bridge", "host-local", "loopback"];
const PLUGIN_FOLDER: &str = "usr/lib/cni";
/// Raised when the same packages are laid out otherwise.
const LAYOUT: &str = "1";

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum WorkerDiskError {
    /// Packages.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// kubelet and kube-proxy.
    #[error(transparent)]
    Binaries(#[from] BinariesError),
    /// What every guest's root has.
    #[error(transparent)]
    Root(#[from] RootDiskError),
    /// The image.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
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
}

/// The image, made when the cache does not hold the one of the present packages and programs.
pub fn image(supplies: &Supplies) -> Result<PathBuf, WorkerDiskError> {
    let cache = Cache::open()?;
    let archive = Archive::open(&cache)?;
    let packages = archive.closure(&PACKAGES, &WITHOUT, Release::Stable)?;
    let (runtime, release) = RUNTIME;
    let newer = Archive::open_foreign(&cache, release)?;
    let version = newer.version(runtime, release)?;
    let programs = NodePrograms::get()?;
    let key = key(&packages, &version, &programs, supplies);
    let folder = cache.entry::<WorkerDiskError>("workers", &key, |aside| {
        let root = aside.join("root");
        let names: Vec<&str> = packages.keys().map(String::as_str).collect();
        archive.unpack_into(&names, Release::Stable, &root)?;
        newer.unpack_into(&[runtime], release, &root)?;
        trim(&root)?;
        for (program, path) in
            [(&programs.kubelet, "usr/bin/kubelet"), (&programs.kube_proxy, "usr/bin/kube-proxy")]
        {
            root_disk::copy(program, &root.join(path))?;
        }
        root_disk::skeleton(supplies, &root)?;
        ext4_from(&root, &aside.join("root.img"))?;
        fs::remove_dir_all(&root).map_err(at("remove", &root))
    })?;
    Ok(folder.join("root.img"))
}

fn key(
    packages: &BTreeMap<String, String>,
    runtime: &str,
    programs: &NodePrograms,
    supplies: &Supplies,
) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    let versions = packages.iter().map(|(name, version)| format!("{name}={version}"));
    // Paths in the cache name the versions of what lies there.
    let paths = [&programs.kubelet, &programs.kube_proxy, &supplies.busybox];
    let parts = versions.chain(paths.map(|path| path.display().to_string()));
    for part in parts.chain([runtime.to_owned(), LAYOUT.to_owned()]) {
        hash.update(part.as_bytes());
        hash.update(&[0]);
    }
    crate::hex(hash.finish().as_ref()).chars().take(16).collect()
}

fn trim(root: &Path) -> Result<(), WorkerDiskError> {
    let plugins = root.join(PLUGIN_FOLDER);
    let mut unused: Vec<PathBuf> = UNUSED.iter().map(|path| root.join(path)).collect();
    for entry in fs::read_dir(&plugins).map_err(at("list", &plugins))? {
        let path = entry.map_err(at("list", &plugins))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !PLUGINS.contains(&name.as_str()) {
            unused.push(path);
        }
    }
    for path in unused {
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at("remove", &path)(error)),
            _ => {}
        }
    }
    Ok(())
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WorkerDiskError {
    let path = path.to_owned();
    move |source| WorkerDiskError::Io { action, path, source }
}
