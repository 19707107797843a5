//! What a node on the host has that outlasts its processes: a bridge and cgroups. Made before, taken away after, and what a
//! killed run left of them is taken away by the next.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::command::{self, CommandError};

/// The pods' bridge.
pub(super) const BRIDGE: &str = "tenon-lab0";
/// The host's address on the bridge: the pods' gateway, and the node's address.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 199, 77, 1);
/// The pods' addresses.
pub(super) const SUBNET: &str = "10.199.77.0/24";
/// The cgroup of all pods, in every hierarchy.
pub(super) const CGROUP: &str = "tenon-lab";
const CGROUPS: &str = "/sys/fs/cgroup";
/// Processes that were killed are gone in milliseconds, unless they wait for a disk.
const GONE: Duration = Duration::from_secs(20);

/// Why the host cannot be prepared, or not be left as it was.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A cgroup.
    #[error("{action} the cgroup {path}")]
    Cgroup {
        /// What was attempted.
        action: &'static str,
        /// On which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No cgroups at all.
    #[error("find cgroups below {CGROUPS}: a kubelet needs them, of either version")]
    NoCgroups,
    /// ip.
    #[error("make the bridge {BRIDGE} (package iproute2)")]
    Bridge(#[from] CommandError),
}

/// The bridge and the cgroups; gone when dropped, by which time the processes must be.
#[derive(Debug)]
pub(super) struct Traces(());

impl Traces {
    pub(super) fn leave() -> Result<Self, TraceError> {
        remove()?;
        let traces = Self(());
        let hierarchies = hierarchies();
        if hierarchies.is_empty() {
            return Err(TraceError::NoCgroups);
        }
        for hierarchy in hierarchies {
            create(&hierarchy)?;
        }
        let mask = SUBNET.split_once('/').map_or("24", |(_, mask)| mask);
        for line in [
            format!("link add {BRIDGE} type bridge"),
            format!("address add {ADDRESS}/{mask} dev {BRIDGE}"),
            format!("link set {BRIDGE} up"),
        ] {
            command::run(Command::new(ip()).args(line.split(' ')))?;
        }
        Ok(traces)
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        // What stays behind now, the next node takes away or names.
        let _ = remove();
    }
}

fn remove() -> Result<(), TraceError> {
    for hierarchy in hierarchies() {
        let path = hierarchy.join(CGROUP);
        let deadline = Instant::now() + GONE;
        while let Err(source) = remove_cgroup(&path) {
            if Instant::now() >= deadline {
                return Err(TraceError::Cgroup { action: "remove", path, source });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    if Path::new("/sys/class/net").join(BRIDGE).exists() {
        command::run(Command::new(ip()).args(["link", "delete", BRIDGE]))?;
    }
    Ok(())
}

fn ip() -> PathBuf {
    command::find("ip").unwrap_or_else(|| "ip".into())
}

/// The one of cgroup v2, or each of v1.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(CGROUPS);
    if root.join("cgroup.procs").exists() {
        return vec![root.to_owned()];
    }
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        // Joint hierarchies have further names, which are links.
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .filter(|path| path.join("cgroup.procs").exists())
        .collect();
    found.sort();
    found
}

fn create(hierarchy: &Path) -> Result<(), TraceError> {
    let path = hierarchy.join(CGROUP);
    fs::create_dir(&path).map_err(failed("create", &path))?;
    // A cpuset holds nobody before it has processors and memory.
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (hierarchy.join(name), path.join(name));
        if from.exists() && to.exists() {
            let value = fs::read(&from).map_err(failed("read", &from))?;
            fs::write(&to, value).map_err(failed("fill", &to))?;
        }
    }
    Ok(())
}

/// Those within it first. One that does not exist is gone.
fn remove_cgroup(path: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    };
    let Ok(entries) = fs::read_dir(path) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path())?;
        }
    }
    gone(fs::remove_dir(path))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TraceError {
    let path = path.to_owned();
    move |source| TraceError::Cgroup { action, path, source }
}
