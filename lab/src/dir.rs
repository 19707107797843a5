//! A lab's folder: everything that its components write, removed with the lab.
//!
//! Its owner holds a lock on a file in it for as long as it lives, so that the next lab can tell the folders of the dead
//! (killed, or the machine restarted) and remove them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cache::{CacheError, Lock};

const LOCK: &str = "owner.lock";

/// A folder under the system's temporary folder. Paths stay short: sockets in it must fit in 108 bytes.
#[derive(Debug)]
pub struct LabDir {
    path: PathBuf,
    _owner: Lock,
    keep: bool,
}

/// Why there is no folder.
#[derive(Debug, thiserror::Error)]
pub enum LabDirError {
    /// Creating or listing.
    #[error("{action} the lab's folder {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The owner's lock.
    #[error("own the lab's folder")]
    Lock(#[source] CacheError),
}

impl LabDir {
    /// A fresh folder; those of dead owners are removed on the way.
    pub fn create() -> Result<Self, LabDirError> {
        let base = base();
        fs::create_dir_all(&base).map_err(|source| LabDirError::Io {
            action: "create",
            path: base.clone(),
            source,
        })?;
        let _turn = Lock::take(&base.join(".turn")).map_err(LabDirError::Lock)?;
        remove_stale(&base)?;
        // Made under the turn's lock: nobody takes a folder for stale before its owner has locked it.
        let path = tempfile::Builder::new()
            .prefix("lab-")
            .rand_bytes(6)
            .tempdir_in(&base)
            .map_err(|source| LabDirError::Io { action: "create", path: base.clone(), source })?
            .keep();
        let owner = Lock::take(&path.join(LOCK)).map_err(LabDirError::Lock)?;
        Ok(Self { path, _owner: owner, keep: std::env::var_os("TENON_LAB_KEEP").is_some() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the folder behind when dropped, for someone to read the logs.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for LabDir {
    fn drop(&mut self) {
        // A panicking test keeps its logs: without the lock's file, nobody takes them for stale.
        let _ = if self.keep || std::thread::panicking() {
            fs::remove_file(self.path.join(LOCK))
        } else {
            fs::remove_dir_all(&self.path)
        };
    }
}

/// Where this user's labs live.
pub(crate) fn base() -> PathBuf {
    let uid = rustix::process::getuid().as_raw();
    std::env::temp_dir().join(format!("tenon-labs-{uid}"))
}

fn remove_stale(base: &Path) -> Result<(), LabDirError> {
    let listed = |source| LabDirError::Io { action: "list", path: base.to_owned(), source };
    for entry in fs::read_dir(base).map_err(listed)? {
        let path = entry.map_err(listed)?.path();
        let lock = path.join(LOCK);
        if !lock.exists() {
            continue;
        }
        if Lock::try_take(&lock).map_err(LabDirError::Lock)?.is_some() {
            fs::remove_dir_all(&path).map_err(|source| LabDirError::Io {
                action: "remove",
                path: path.clone(),
                source,
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folders_of_the_dead_are_removed_and_those_of_the_living_kept() {
        let living = LabDir::create().unwrap();
        let dead = base().join("lab-of-a-dead-owner");
        fs::create_dir_all(&dead).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        let _next = LabDir::create().unwrap();
        assert!(!dead.exists());
        assert!(living.path().exists());
    }
}
