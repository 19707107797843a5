//! The user's cache folder: what was built or downloaded once, by area and key.
//!
//! An entry is made aside and renamed into place, under a lock file, so that it is either whole or absent and two
//! processes that want the same entry make it once.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// A folder of finished entries.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// Why an entry could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Neither variable says where the user's files are.
    #[error("find a cache folder: neither XDG_CACHE_HOME nor HOME is set")]
    NoHome,
    /// The folder, a lock or a rename.
    #[error("{action} {path} in the cache")]
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

impl Cache {
    /// `$XDG_CACHE_HOME/tenon`, or `~/.cache/tenon`.
    pub fn open() -> Result<Self, CacheError> {
        let base = std::env::var_os("XDG_CACHE_HOME")
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
            .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
            .ok_or(CacheError::NoHome)?;
        Ok(Self::at(base.join("tenon")))
    }

    /// A cache in a folder of the caller's choice.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// A folder that programs manage themselves (a package manager's lists, a downloaded toolchain's parts).
    pub fn folder(&self, name: &str) -> Result<PathBuf, CacheError> {
        let path = self.root.join(name);
        fs::create_dir_all(&path).map_err(at("create", &path))?;
        Ok(path)
    }

    /// The entry `area/key`; when absent, `make` fills an empty folder that then becomes the entry.
    pub fn entry<E: From<CacheError>>(
        &self,
        area: &str,
        key: &str,
        make: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let folder = self.folder(area)?;
        let entry = folder.join(key);
        if entry.is_dir() {
            return Ok(entry);
        }
        let _lock = Lock::take(&folder.join(format!(".{key}.lock")))?;
        if entry.is_dir() {
            return Ok(entry);
        }
        let aside = folder.join(format!(".{key}.partial"));
        if aside.exists() {
            fs::remove_dir_all(&aside).map_err(at("remove", &aside))?;
        }
        fs::create_dir(&aside).map_err(at("create", &aside))?;
        make(&aside)?;
        fs::rename(&aside, &entry).map_err(at("rename", &aside))?;
        Ok(entry)
    }
}

/// An exclusive lock on a file, held until dropped. The system releases it when its holder dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock.
    pub(crate) fn take(path: &Path) -> Result<Self, CacheError> {
        let file = open(path)?;
        flock(&file, FlockOperation::LockExclusive).map_err(|errno| at("lock", path)(errno.into()))?;
        Ok(Self { _file: file })
    }

    /// Takes the lock when nobody holds it.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Self>, CacheError> {
        let file = open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(at("lock", path)(errno.into())),
        }
    }
}

fn open(path: &Path) -> Result<File, CacheError> {
    File::options().create(true).truncate(false).write(true).open(path).map_err(at("open", path))
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CacheError {
    let path = path.to_owned();
    move |source| CacheError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_made_once_and_a_failed_one_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_owned());
        let failed = cache.entry("a", "k", |aside| {
            fs::write(aside.join("half"), "x").unwrap();
            Err(CacheError::NoHome)
        });
        assert!(failed.is_err());
        let entry = cache
            .entry::<CacheError>("a", "k", |aside| {
                assert!(!aside.join("half").exists(), "starts from an empty folder");
                fs::write(aside.join("whole"), "x").unwrap();
                Ok(())
            })
            .unwrap();
        assert!(entry.join("whole").exists());
        cache.entry::<CacheError>("a", "k", |_| panic!("made twice")).unwrap();
    }

    #[test]
    fn a_lock_is_refused_while_held_and_given_when_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = Lock::take(&path).unwrap();
        assert!(Lock::try_take(&path).unwrap().is_none());
        drop(held);
        assert!(Lock::try_take(&path).unwrap().is_some());
    }
}
