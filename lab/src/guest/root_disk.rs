//! The guests' root file system: busybox, runc, and a folder per container. All guests of a lab share one image, each
//! with its own changes on top that die with it.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::protocol::{CONTAINERS, DISK, VOLUMES};
use crate::command::{self, CommandError};
use crate::kernel::{DiskError, ext4_from};
use crate::setup::Supplies;

/// A container's image: from scratch, one program in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The container's name.
    pub container: String,
    /// Where the program lies in the container.
    pub path: String,
    /// The program on the host.
    pub binary: PathBuf,
}

/// Why there is no root file system.
#[derive(Debug, thiserror::Error)]
pub enum RootDiskError {
    /// A file of it.
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
    /// busybox, strip, or the list of a program's libraries.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The image.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

const FOLDERS: &[&str] = &[
    "bin",
    "containers",
    "dev",
    "disk",
    "etc",
    "lib/modules",
    "lib/x86_64-linux-gnu",
    "lib64",
    "mnt",
    "proc",
    "root",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr/bin",
    "usr/sbin",
    "var/lib/tenon",
    "var/log",
];

const FILES: &[(&str, &str)] = &[
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
    ("etc/group", "root:x:0:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n10.0.2.2 host\n"),
    ("etc/hostname", "guest\n"),
    ("etc/resolv.conf", "nameserver 10.0.2.3\n"),
];

/// Makes the image.
pub fn root_disk(
    image: &Path,
    supplies: &Supplies,
    init: &Path,
    programs: &[Program],
) -> Result<(), RootDiskError> {
    let staging = tempfile::tempdir().map_err(at("create a folder for", image))?;
    let root = staging.path();
    skeleton(supplies, root)?;
    copy(init, &root.join("init"))?;
    copy(&supplies.runc, &root.join("usr/sbin/runc"))?;
    libraries(supplies, root)?;
    for program in programs {
        let rootfs = root.join(CONTAINERS.trim_start_matches('/')).join(&program.container).join("rootfs");
        let target = rootfs.join(program.path.trim_start_matches('/'));
        make_folder(target.parent().unwrap_or(&rootfs))?;
        // Debugging information is most of a program.
        command::run(Command::new("strip").arg("-o").arg(&target).arg(&program.binary))?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).map_err(at("chmod", &target))?;
    }
    Ok(ext4_from(root, image)?)
}

/// What every guest's root has: folders, a few files, busybox with its names where nothing else has them.
pub(crate) fn skeleton(supplies: &Supplies, root: &Path) -> Result<(), RootDiskError> {
    debug_assert!(VOLUMES.starts_with(DISK));
    for folder in FOLDERS {
        make_folder(&root.join(folder))?;
    }
    for (path, text) in FILES {
        let path = root.join(path);
        fs::write(&path, text).map_err(at("write", &path))?;
    }
    busybox(supplies, root)
}

fn busybox(supplies: &Supplies, root: &Path) -> Result<(), RootDiskError> {
    copy(&supplies.busybox, &root.join("bin/busybox"))?;
    let applets = command::text(Command::new(&supplies.busybox).arg("--list-full"))?;
    for applet in applets.lines().filter(|applet| !applet.ends_with("/busybox") && *applet != "linuxrc") {
        let link = root.join(applet);
        if link.symlink_metadata().is_ok() {
            continue;
        }
        symlink("/bin/busybox", &link).map_err(at("link", &link))?;
    }
    Ok(())
}

/// What runc, the one program here that is not static, is linked with: the C library from this machine.
fn libraries(supplies: &Supplies, root: &Path) -> Result<(), RootDiskError> {
    let seccomp = supplies.libseccomp.join("libseccomp.so.2");
    copy(&seccomp, &root.join("lib/x86_64-linux-gnu/libseccomp.so.2"))?;
    for library in ["lib/x86_64-linux-gnu/libc.so.6", "lib64/ld-linux-x86-64.so.2"] {
        copy(&Path::new("/").join(library), &root.join(library))?;
    }
    Ok(())
}

pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), RootDiskError> {
    fs::copy(from, to).map(drop).map_err(at("copy", from))
}

pub(crate) fn make_folder(path: &Path) -> Result<(), RootDiskError> {
    fs::create_dir_all(path).map_err(at("create", path))
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RootDiskError {
    let path = path.to_owned();
    move |source| RootDiskError::Io { action, path, source }
}
