//! A lab's folder: everything that its components write, removed with the lab.
//!
//! Its owner holds a lock on a file in it for as long as it lives, so that the next lab can tell the folders of the dead
//! (killed, or the machine restarted) and remove them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cache::{CacheError, Lock};

const LOCK: &str = "owner.lock";
/// Folders that were left behind for someone to read; older ones go. Each takes some hundred megabytes.
const KEPT: usize = 8;

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
    /// A fresh folder; those of dead owners, and old ones that were left behind, are removed on the way.
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
    let mut kept = Vec::new();
    for entry in fs::read_dir(base).map_err(listed)? {
        let path = entry.map_err(listed)?.path();
        // Owners remove their own without asking for a turn: what was there a moment ago may be gone.
        let Some(metadata) = found(fs::symlink_metadata(&path)).map_err(listed)? else { continue };
        let lock = path.join(LOCK);
        if !lock.exists() {
            kept.extend(metadata.is_dir().then(|| (metadata.modified().ok(), path)));
            continue;
        }
        match Lock::try_take(&lock) {
            Ok(None) => {}
            Ok(Some(_)) => remove(&path)?,
            Err(_) if !path.exists() => {}
            Err(error) => return Err(LabDirError::Lock(error)),
        }
    }
    // The oldest first.
    kept.sort();
    let old = kept.len().saturating_sub(KEPT);
    kept.iter().take(old).try_for_each(|(_, path)| remove(path))
}

fn remove(path: &Path) -> Result<(), LabDirError> {
    let removed = found(fs::remove_dir_all(path));
    removed.map(drop).map_err(|source| LabDirError::Io { action: "remove", path: path.to_owned(), source })
}

/// Nothing where there is nothing any more.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn many_come_and_go_at_once() {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..200).for_each(|_| drop(LabDir::create().unwrap())));
            }
        });
    }

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

    #[test]
    fn of_folders_left_behind_the_latest_stay() {
        let base = tempfile::tempdir().unwrap();
        for number in 0..KEPT + 3 {
            let path = base.path().join(format!("lab-{number}"));
            fs::create_dir(&path).unwrap();
            let made = SystemTime::UNIX_EPOCH + Duration::from_secs(number as u64);
            fs::File::open(&path).unwrap().set_modified(made).unwrap();
        }
        remove_stale(base.path()).unwrap();
        let is_there = |number: usize| base.path().join(format!("lab-{number}")).exists();
        let there: Vec<_> = (0..KEPT + 3).filter(|number| is_there(*number)).collect();
        assert_eq!(there, (3..KEPT + 3).collect::<Vec<_>>());
    }
}
