//! Containers under runc: run again whenever they end, until told otherwise, as a kubelet does.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tenon_lab::guest::protocol::{CONTAINERS, ContainerState};

use crate::server::status_of;

/// A kubelet's first back-off is ten seconds; a test's patience is shorter.
const PAUSE: Duration = Duration::from_millis(500);

/// All containers by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Containers(Arc<Mutex<BTreeMap<String, Entry>>>);

#[derive(Debug, Default)]
struct Entry {
    state: ContainerState,
    wanted: bool,
    /// Whether a thread looks after it.
    tended: bool,
}

impl Containers {
    /// Runs it from now on.
    pub(crate) fn start(&self, name: &str) {
        let mut entries = self.entries();
        let entry = entries.entry(name.to_owned()).or_default();
        entry.wanted = true;
        if !std::mem::replace(&mut entry.tended, true) {
            let (containers, name) = (self.clone(), name.to_owned());
            std::thread::spawn(move || containers.tend(&name));
        }
    }

    /// Sends its first process a signal.
    pub(crate) fn signal(&self, name: &str, signal: i32) -> anyhow::Result<()> {
        anyhow::ensure!(self.entries().contains_key(name), "no container {name} was started");
        runc(&["kill", name, &signal.to_string()])
    }

    /// Ends it: asks, then kills. Returns when it is gone.
    pub(crate) fn stop(&self, name: &str) -> anyhow::Result<()> {
        match self.entries().get_mut(name) {
            Some(entry) => entry.wanted = false,
            None => return Ok(()),
        }
        // It may end by itself at any moment: only its state counts.
        let _ = runc(&["kill", name, "TERM"]);
        for round in 0..200 {
            if !self.entries().get(name).is_some_and(|entry| entry.state.running) {
                return Ok(());
            }
            if round == 100 {
                let _ = runc(&["kill", name, "KILL"]);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        anyhow::bail!("container {name} does not end")
    }

    /// How they all are.
    pub(crate) fn states(&self) -> BTreeMap<String, ContainerState> {
        self.entries().iter().map(|(name, entry)| (name.clone(), entry.state)).collect()
    }

    fn tend(&self, name: &str) {
        loop {
            {
                let mut entries = self.entries();
                let entry = entries.entry(name.to_owned()).or_default();
                if !entry.wanted {
                    entry.tended = false;
                    return;
                }
                entry.state.running = true;
                entry.state.starts += 1;
            }
            let status = run(name).unwrap_or_else(|error| {
                println!("{name}: not started: {error:#}");
                -1
            });
            println!("{name}: ended with status {status}");
            {
                let mut entries = self.entries();
                let entry = entries.entry(name.to_owned()).or_default();
                entry.state.running = false;
                entry.state.last_status = Some(status);
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a container to its end, its words on the console.
fn run(name: &str) -> anyhow::Result<i32> {
    // What a killed runc left behind would be in the way.
    let _ = runc(&["delete", "--force", name]);
    let mut child = Command::new("/usr/sbin/runc")
        .args(["run", "--bundle", &format!("{CONTAINERS}/{name}"), name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start runc")?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        scope.spawn(|| out.map(|out| show(name, out)));
        scope.spawn(|| err.map(|err| show(name, err)));
    });
    Ok(status_of(child.wait().context("wait for runc")?))
}

fn show(name: &str, from: impl Read) {
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        println!("{name}: {}", String::from_utf8_lossy(&line));
    }
}

fn runc(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("/usr/sbin/runc").args(arguments).output().context("start runc")?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "runc {}: {}", arguments.join(" "), said.trim());
    Ok(())
}
