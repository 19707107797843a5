//! Programs that run beside the lab: each with a log file, none outliving the lab.
//!
//! Linux sends the parent-death signal when the *thread* that forked ends, so all children are forked by one thread that
//! lives as long as the process. `setpriv` asks for the signal, for it must be asked for in the child.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::command::Tail;

/// How long a program may take to end when asked, before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// A running program.
#[derive(Debug)]
pub struct Child {
    name: String,
    log: PathBuf,
    process: std::process::Child,
}

/// Why a program does not run.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// Its log could not be made.
    #[error("create the log {log} of {name}")]
    Log {
        /// The component.
        name: String,
        /// Its log.
        log: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It could not be started.
    #[error("start {name}")]
    Start {
        /// The component.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It ended by itself.
    #[error("{name} ended ({status}); its log {log} ends with\n{tail}")]
    Ended {
        /// The component.
        name: String,
        /// How.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: Tail,
    },
    /// Its state or its signal.
    #[error("watch {name}")]
    Watch {
        /// The component.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Child {
    /// Starts `command` under `name`, everything it writes appended to `<folder>/<name>.log`.
    pub fn start(name: &str, command: &Command, folder: &Path) -> Result<Self, ChildError> {
        let log = folder.join(format!("{name}.log"));
        let failed = |source| ChildError::Log { name: name.to_owned(), log: log.clone(), source };
        let out = File::options().create(true).append(true).open(&log).map_err(failed)?;
        let err = out.try_clone().map_err(failed)?;
        let mut guarded = guarded(command);
        guarded.stdin(Stdio::null()).stdout(out).stderr(err);
        let process = fork(guarded).map_err(|source| ChildError::Start { name: name.to_owned(), source })?;
        Ok(Self { name: name.to_owned(), log, process })
    }

    /// The component's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file with everything it wrote.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// An error with its last words if it has ended.
    pub fn check(&mut self) -> Result<(), ChildError> {
        match self.process.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(ChildError::Ended {
                name: self.name.clone(),
                status,
                log: self.log.clone(),
                tail: Tail::of_file(&self.log),
            }),
            Err(source) => Err(ChildError::Watch { name: self.name.clone(), source }),
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.check().is_ok()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), ChildError> {
        let Some(pid) = self.pid() else { return Ok(()) };
        kill_process(pid, signal)
            .map_err(|errno| ChildError::Watch { name: self.name.clone(), source: errno.into() })
    }

    /// Ends it at once, without a chance to tidy up: a crash.
    pub fn kill(&mut self) {
        if let Some(pid) = self.pid() {
            // Gone already is what was wanted.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = self.process.wait();
    }

    /// Asks it to end, and kills it when it does not.
    pub fn stop(&mut self) {
        let _ = self.signal(Signal::TERM);
        let deadline = Instant::now() + GRACE;
        while self.is_running() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.process.id()).ok().and_then(Pid::from_raw)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.is_running() {
            self.kill();
        }
    }
}

/// The same command, killed by the kernel when this process dies, in a process group of its own.
fn guarded(command: &Command) -> Command {
    let mut guarded = Command::new("setpriv");
    guarded.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => guarded.env(key, value),
            None => guarded.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        guarded.current_dir(folder);
    }
    guarded.process_group(0);
    guarded
}

type Forked = io::Result<std::process::Child>;

fn fork(command: Command) -> Forked {
    static FORKER: LazyLock<mpsc::Sender<(Command, mpsc::Sender<Forked>)>> = LazyLock::new(|| {
        let (sender, orders) = mpsc::channel::<(Command, mpsc::Sender<Forked>)>();
        std::thread::spawn(move || {
            for (mut command, reply) in orders {
                // Whoever asked may have given up.
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let (reply, forked) = mpsc::channel();
    let gone = || io::Error::other("the forking thread has ended");
    FORKER.send((command, reply)).map_err(|_| gone())?;
    forked.recv().map_err(|_| gone())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_ends_is_reported_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo goodbye; exit 7"]);
        let mut child = Child::start("brief", &command, folder.path()).unwrap();
        child.process.wait().unwrap();
        let text = child.check().unwrap_err().to_string();
        assert!(text.contains("brief ended (exit status: 7)") && text.ends_with("goodbye"), "{text}");
    }

    /// Calls itself a second time to have an owner that can be killed.
    #[test]
    fn children_die_with_a_killed_owner() {
        const OWNER: &str = "TENON_LAB_TEST_OWNER";
        if let Some(folder) = std::env::var_os(OWNER) {
            let mut command = Command::new("sh");
            command
                .args(["-c", "echo $$ >pid.partial; mv pid.partial pid; exec sleep 1000"])
                .current_dir(&folder);
            let mut child = Child::start("long", &command, Path::new(&folder)).unwrap();
            child.process.wait().unwrap();
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut owner = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::tests::children_die_with_a_killed_owner"])
            .env(OWNER, folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = wait_for("the child's id", || std::fs::read_to_string(folder.path().join("pid")).ok());
        owner.kill().unwrap();
        owner.wait().unwrap();
        // A zombie that nobody has buried yet has no command line.
        let command_line = format!("/proc/{}/cmdline", pid.trim());
        wait_for("the child's end", || {
            let alive = std::fs::read(&command_line).is_ok_and(|line| !line.is_empty());
            (!alive).then_some(())
        });
    }

    fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(found) = probe() {
                return found;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_dropped_child_is_dead() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        command.arg("1000");
        let child = Child::start("long", &command, folder.path()).unwrap();
        let pid = child.pid().unwrap();
        drop(child);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }
}
