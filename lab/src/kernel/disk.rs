//! ext4 images, made from folders without mounting anything.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{self, CommandError};

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Reading the folder, or making the file.
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
    /// mke2fs.
    #[error("make an ext4 image (package e2fsprogs)")]
    Make(#[from] CommandError),
}

/// An empty file system of so many MiB; the file is sparse.
pub fn ext4(image: &Path, mebibytes: u64) -> Result<(), DiskError> {
    make(image, mebibytes << 20, None)
}

/// A file system that holds what lies in a folder, with a little room to spare.
pub fn ext4_from(folder: &Path, image: &Path) -> Result<(), DiskError> {
    let content = size(folder)?;
    make(image, content + content / 4 + (32 << 20), Some(folder))
}

fn make(image: &Path, bytes: u64, from: Option<&Path>) -> Result<(), DiskError> {
    let file = File::create(image).map_err(at("create", image))?;
    file.set_len(bytes).map_err(at("size", image))?;
    let program = command::find("mke2fs").unwrap_or_else(|| "mke2fs".into());
    let mut command = Command::new(program);
    command.args(["-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=1,root_owner=0:0"]);
    if let Some(folder) = from {
        command.arg("-d").arg(folder);
    }
    command::run(command.arg(image))?;
    Ok(())
}

/// What the files below a folder take, each rounded up to blocks of 4 KiB.
fn size(folder: &Path) -> Result<u64, DiskError> {
    let list = |source| at("list", folder)(source);
    let mut sum = 4096;
    for entry in fs::read_dir(folder).map_err(list)? {
        let entry = entry.map_err(list)?;
        let kind = entry.file_type().map_err(list)?;
        sum += if kind.is_dir() {
            size(&entry.path())?
        } else if kind.is_file() {
            entry.metadata().map_err(list)?.len().next_multiple_of(4096)
        } else {
            0
        };
    }
    Ok(sum)
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Io { action, path, source }
}
