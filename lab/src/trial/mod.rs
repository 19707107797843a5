//! Hundreds of loads in one boot: a guest that has neither disks nor containers, only files to hand to the kernel one by
//! one. What a prediction is held against.

pub mod plan;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::child::{Child, ChildError};
use crate::command::{self, CommandError, Tail};
use crate::guest::cpio::Archive;
use crate::kernel::Kernel;
use crate::programs::{self, ProgramError};
use crate::wait::{self, TimedOut};
use plan::{Attempt, FILES, Line, PLAN, Plan};

pub use plan::Tried;

/// How long a guest may go without a word. A loaded machine emulates slowly; a module's init may wait for hardware.
const PATIENCE: Duration = Duration::from_mins(3);
/// The files lie in memory twice while the initramfs is unpacked.
const MEMORY_MIB: usize = 384;

/// Loads to try on a kernel.
#[derive(Debug, Default)]
pub struct Trial {
    plan: Plan,
    files: Vec<Vec<u8>>,
    numbers: HashMap<Vec<u8>, usize>,
}

/// One load of a [`Trial`].
#[derive(Debug, Clone, Copy)]
pub struct Load<'a> {
    /// The file's content.
    pub file: &'a [u8],
    /// The module's parameters, separated by spaces.
    pub parameters: &'a str,
    /// `MODULE_INIT_…`
    pub flags: i32,
}

/// What came of a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Of each load.
    pub tried: Vec<Tried>,
    /// The modules that could not be unloaded afterwards.
    pub left: Vec<String>,
}

/// Why loads could not be tried.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// A file of the guest.
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
    /// PID 1.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// PID 1 without what only debuggers need.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// QEMU.
    #[error(transparent)]
    Qemu(#[from] ChildError),
    /// It neither ends nor says anything.
    #[error("try loads on {release}: silent after {done} loads; its console {console} ends with\n{tail}")]
    Silent {
        /// The kernel.
        release: String,
        /// How many loads were tried.
        done: usize,
        /// Its console's log.
        console: PathBuf,
        /// The log's last lines.
        tail: Tail,
        /// What was waited for.
        #[source]
        source: TimedOut,
    },
    /// It ended before it was through.
    #[error("try loads on {release}: it ended after {done} loads{}; its console {console} ends with\n{tail}", message.as_ref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Unfinished {
        /// The kernel.
        release: String,
        /// How many loads were tried.
        done: usize,
        /// What its PID 1 said.
        message: Option<String>,
        /// Its console's log.
        console: PathBuf,
        /// The log's last lines.
        tail: Tail,
    },
}

impl Trial {
    /// Nothing to try yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds loads of which each meets what those before it have loaded.
    pub fn sequence<'a>(&mut self, loads: impl IntoIterator<Item = Load<'a>>) {
        let attempts = loads.into_iter().map(|load| self.attempt(load)).collect();
        self.plan.sequences.push(attempts);
    }

    /// How many loads there are.
    pub fn len(&self) -> usize {
        self.plan.sequences.iter().map(Vec::len).sum()
    }

    /// Whether there is nothing to try.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Boots the kernel, with more words on its command line, and tries all loads. The folder, which must exist, keeps what
    /// the guest said. One outcome per sequence, in order.
    pub async fn run(
        &self,
        kernel: &Kernel,
        arguments: &[&str],
        folder: &Path,
    ) -> Result<Vec<Outcome>, TrialError> {
        let initramfs = folder.join("initramfs");
        let archive = self.archive(folder)?;
        let memory = MEMORY_MIB + 3 * (archive.len() >> 20);
        fs::write(&initramfs, archive).map_err(at("write", &initramfs))?;
        let guest = Boot { kernel, console: folder.join("console.log"), said: folder.join("said.log") };
        let mut qemu = Child::start("qemu", &guest.command(&initramfs, memory, arguments), folder)?;
        let lines = guest.follow(&mut qemu).await?;
        fs::remove_file(&initramfs).map_err(at("remove", &initramfs))?;
        outcomes(lines).map_err(|(done, message)| guest.unfinished(done, message))
    }

    fn attempt(&mut self, load: Load<'_>) -> Attempt {
        let file = self.numbers.get(load.file).copied().unwrap_or_else(|| {
            self.files.push(load.file.to_vec());
            self.numbers.insert(load.file.to_vec(), self.files.len() - 1);
            self.files.len() - 1
        });
        Attempt { file, parameters: load.parameters.to_owned(), flags: load.flags }
    }

    fn archive(&self, folder: &Path) -> Result<Vec<u8>, TrialError> {
        let mut archive = Archive::new();
        for name in ["dev", "proc", "sys", FILES] {
            archive.folder(name);
        }
        let init = folder.join("init");
        command::run(
            Command::new("strip").arg("-o").arg(&init).arg(programs::program(programs::Program::Init)?),
        )?;
        archive.file("init", 0o755, &fs::read(&init).map_err(at("read", &init))?);
        let plan = serde_json::to_vec(&self.plan).map_err(|error| at("write", &init)(error.into()))?;
        archive.file(PLAN, 0o644, &plan);
        for (number, file) in self.files.iter().enumerate() {
            archive.file(&format!("{FILES}/{number}"), 0o644, file);
        }
        Ok(archive.finish())
    }
}

/// One boot.
struct Boot<'a> {
    kernel: &'a Kernel,
    console: PathBuf,
    said: PathBuf,
}

impl Boot<'_> {
    fn command(&self, initramfs: &Path, memory: usize, arguments: &[&str]) -> Command {
        let file = |id: &str, path: &Path| format!("file,id={id},path={}", path.display());
        let words = ["console=ttyS0", "panic=-1", "quiet", "loglevel=2"];
        let words: Vec<&str> = words.iter().chain(arguments).copied().collect();
        let mut command = Command::new("qemu-system-x86_64");
        command
            // As other guests: see `guest`.
            .args(["-accel", "tcg", "-M", "pc", "-cpu", "max,-cx16", "-smp", "1"])
            .args(["-m", &memory.to_string(), "-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-chardev", &file("console", &self.console), "-serial", "chardev:console"])
            .args(["-chardev", &file("said", &self.said), "-serial", "chardev:said"])
            .arg("-kernel")
            .arg(self.kernel.vmlinux())
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", &words.join(" ")]);
        command
    }

    /// Everything that the guest says until it ends.
    async fn follow(&self, qemu: &mut Child) -> Result<Vec<Line>, TrialError> {
        let mut length = 0;
        loop {
            let progress = wait::until("a word of the guest", PATIENCE, async || {
                if !qemu.is_running() {
                    return Some(false);
                }
                let now = fs::metadata(&self.said).map_or(0, |meta| meta.len());
                (now > std::mem::replace(&mut length, now)).then_some(true)
            });
            match progress.await {
                Ok(true) => {}
                Ok(false) => return self.lines(),
                Err(source) => {
                    let done = self.lines()?.iter().filter(|line| matches!(line, Line::Tried(_))).count();
                    let (console, tail) = (self.console.clone(), Tail::of_file(&self.console));
                    let release = self.kernel.release.clone();
                    return Err(TrialError::Silent { release, done, console, tail, source });
                }
            }
        }
    }

    /// What is no line of ours is noise from before the guest took the port over, or cut off.
    fn lines(&self) -> Result<Vec<Line>, TrialError> {
        let said = fs::read(&self.said).map_err(at("read", &self.said))?;
        Ok(said.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }

    fn unfinished(&self, done: usize, message: Option<String>) -> TrialError {
        let (console, tail) = (self.console.clone(), Tail::of_file(&self.console));
        TrialError::Unfinished { release: self.kernel.release.clone(), done, message, console, tail }
    }
}

/// The lines by sequence; when the guest was not through, how many loads it had tried, and its own word for the reason.
fn outcomes(lines: Vec<Line>) -> Result<Vec<Outcome>, (usize, Option<String>)> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut tried = Vec::new();
    let mut done = 0;
    for line in lines {
        match line {
            Line::Tried(one) => {
                tried.push(one);
                done += 1;
            }
            Line::Ended { left } => outcomes.push(Outcome { tried: std::mem::take(&mut tried), left }),
            Line::Broken { message } => return Err((done, Some(message))),
            Line::Through => return Ok(outcomes),
        }
    }
    Err((done, None))
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TrialError {
    let path = path.to_owned();
    move |source| TrialError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(errno: i32) -> Tried {
        Tried { errno, log: vec![], loaded: vec![] }
    }

    #[test]
    fn outcomes_come_by_sequence_and_only_of_a_guest_that_was_through() {
        let ended = |name: &str| Line::Ended { left: vec![name.to_owned()] };
        let mut lines =
            vec![Line::Tried(tried(0)), Line::Tried(tried(8)), ended("a"), Line::Tried(tried(2)), ended("b")];
        assert_eq!(outcomes(lines.clone()), Err((3, None)));
        lines.push(Line::Through);
        let expected = [
            Outcome { tried: vec![tried(0), tried(8)], left: vec!["a".to_owned()] },
            Outcome { tried: vec![tried(2)], left: vec!["b".to_owned()] },
        ];
        assert_eq!(outcomes(lines).unwrap(), expected);
        let broken = vec![Line::Tried(tried(0)), Line::Broken { message: "why".to_owned() }];
        assert_eq!(outcomes(broken), Err((1, Some("why".to_owned()))));
    }

    #[test]
    fn a_file_that_is_tried_twice_travels_once() {
        let mut trial = Trial::new();
        let load = |file| Load { file, parameters: "", flags: 0 };
        trial.sequence([load(b"one"), load(b"two")]);
        trial.sequence([load(b"one")]);
        assert_eq!((trial.len(), trial.files.len()), (3, 2));
        assert_eq!(trial.plan.sequences[1][0].file, 0);
    }
}
