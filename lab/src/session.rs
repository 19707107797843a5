//! The lab that a person started: who runs it, so that another command can end it.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::cache::{CacheError, Lock};
use crate::dir;

/// Ending a lab takes a second or two.
const END: Duration = Duration::from_mins(1);

/// A running lab's record; it is gone with the process that holds the lock.
#[derive(Debug)]
pub struct Session {
    _lock: Lock,
}

/// What the record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The process that owns the lab.
    pub pid: i32,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Only one at a time: tests have labs of their own.
    #[error("a lab is running already: `tenon-lab down` ends it")]
    Running,
    /// None to end.
    #[error("no lab is running")]
    NotRunning,
    /// It has not come so far.
    #[error("the lab is still starting: interrupt `tenon-lab up`")]
    Starting,
    /// It was asked to end and lives on.
    #[error("the lab (process {pid}) does not end")]
    DoesNotEnd {
        /// Its owner.
        pid: i32,
    },
    /// The lock.
    #[error(transparent)]
    Lock(#[from] CacheError),
    /// The record.
    #[error("{action} the record of the running lab")]
    Record {
        /// What was attempted.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Session {
    /// Becomes the one session.
    pub fn claim() -> Result<Self, SessionError> {
        fs::create_dir_all(dir::base()).map_err(record("write"))?;
        let lock = Lock::try_take(&lock_path())?.ok_or(SessionError::Running)?;
        // What a killed session left behind.
        let _ = fs::remove_file(record_path());
        Ok(Self { _lock: lock })
    }

    /// Tells others of it.
    pub fn announce(&self, kubeconfig: PathBuf) -> Result<(), SessionError> {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let text = serde_json::to_string(&Record { pid, kubeconfig });
        let text = text.map_err(|error| record("write")(error.into()))?;
        fs::write(record_path(), text).map_err(record("write"))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = fs::remove_file(record_path());
    }
}

/// The running session's record, once it is announced.
pub fn current() -> Result<Option<Record>, SessionError> {
    if !lock_path().exists() || Lock::try_take(&lock_path())?.is_some() {
        return Ok(None);
    }
    match fs::read_to_string(record_path()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(record("read")(error)),
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| record("read")(error.into())),
    }
}

/// Ends the running session and waits until it is gone.
pub fn end() -> Result<(), SessionError> {
    let Some(found) = current()? else {
        let free = !lock_path().exists() || Lock::try_take(&lock_path())?.is_some();
        return Err(if free { SessionError::NotRunning } else { SessionError::Starting });
    };
    let pid = Pid::from_raw(found.pid).ok_or(SessionError::NotRunning)?;
    kill_process(pid, Signal::TERM).map_err(|errno| record("use")(errno.into()))?;
    let deadline = Instant::now() + END;
    while Lock::try_take(&lock_path())?.is_none() {
        if Instant::now() > deadline {
            return Err(SessionError::DoesNotEnd { pid: found.pid });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn lock_path() -> PathBuf {
    dir::base().join("session.lock")
}

fn record_path() -> PathBuf {
    dir::base().join("session.json")
}

fn record(action: &'static str) -> impl FnOnce(io::Error) -> SessionError {
    move |source| SessionError::Record { action, source }
}
