//! The resident loader: a socket, one agent at a time, and what has to happen in time.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tenon_order::NodeName;
use tenon_order::wire::{WireError, read_message, write_message};

use crate::filter::{self, FilterError};
use crate::session::{Progress, Session, explain};
use crate::settings::Settings;
use crate::store::{Store, StoreError};
use crate::work::{self, WorkError};
use crate::{kernel, log, peer};

/// Seconds that a started node waits for the agent before it loads what the store holds.
const PATIENCE: u64 = 10;

/// How long the agent may pause inside of a message before the next agent is heard.
const STALL: Duration = Duration::from_mins(2);

/// The loader cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It does not know where it is.
    #[error("NODE_NAME is not set: orders are for a node by name")]
    NoNode,
    /// The socket could not be made.
    #[error("listen on {path}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It would not end when told to.
    #[error("handle SIGTERM")]
    Signal(#[source] io::Error),
    /// Nothing is served without the filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node cannot be looked at.
    #[error(transparent)]
    Work(#[from] WorkError),
    /// The listening socket failed.
    #[error("wait for the agent")]
    Wait(#[source] io::Error),
}

/// Serves until the process is ended.
pub fn serve(settings: &Settings) -> Result<(), ServeError> {
    let node = settings.node.clone().ok_or(ServeError::NoNode)?;
    // The first process of a container is not ended by a signal that it does not handle. State is always on disk.
    let at_once = Arc::new(AtomicBool::new(true));
    signal_hook::flag::register_conditional_shutdown(libc::SIGTERM, 0, at_once)
        .map_err(ServeError::Signal)?;
    let listener = listen(&settings.socket)
        .map_err(|source| ServeError::Listen { path: settings.socket.clone(), source })?;
    filter::install()?;
    let mut chores = Chores::new(settings)?;
    log(&format!("listening on {}", settings.socket.display()));
    loop {
        chores.until_readable(&listener).map_err(ServeError::Wait)?;
        match listener.accept() {
            Ok((stream, _)) => talk(stream, settings, &node, &mut chores),
            Err(error) => log(&format!("accept: {error}")),
        }
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    // A socket that an earlier process left cannot be bound again.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // The agent is another user; whom the kernel names as the peer is checked on every connection.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Hears one peer until it goes or makes no sense.
pub fn talk(mut stream: UnixStream, settings: &Settings, node: &NodeName, chores: &mut Chores<'_>) {
    if let Err(error) = converse(&mut stream, settings, node, chores) {
        log(&format!("connection ended: {}", explain(&error)));
    }
}

/// Why a conversation ended other than by the peer's closing it.
#[derive(Debug, thiserror::Error)]
enum TalkError {
    #[error("user {0} is not the agent")]
    Peer(u32),
    #[error("use the socket")]
    Socket(#[source] io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
}

fn converse(
    stream: &mut UnixStream,
    settings: &Settings,
    node: &NodeName,
    chores: &mut Chores<'_>,
) -> Result<(), TalkError> {
    let uid = peer::uid(stream).map_err(TalkError::Socket)?;
    if uid != settings.agent_uid {
        return Err(TalkError::Peer(uid));
    }
    let stall = Some(STALL);
    stream
        .set_read_timeout(stall)
        .and_then(|()| stream.set_write_timeout(stall))
        .map_err(TalkError::Socket)?;
    let mut session = Session::new(settings, node);
    loop {
        chores.until_readable(&*stream).map_err(TalkError::Socket)?;
        let request = match read_message(stream) {
            Err(WireError::Closed) => return Ok(()),
            request => request?,
        };
        let (reply, progress) = session.answer(request, stream).map_err(TalkError::Socket)?;
        chores.note(progress);
        write_message(stream, &reply)?;
    }
}

/// What has to happen in time: the load after a boot, and the clearing of marks.
#[derive(Debug)]
pub struct Chores<'a> {
    settings: &'a Settings,
    /// When what the store holds is loaded without waiting longer, in seconds since boot.
    boot_at: Option<u64>,
    /// When a mark can be cleared, in seconds since boot.
    mark_at: Option<u64>,
}

impl<'a> Chores<'a> {
    /// Looks into the store for what is to be done.
    pub fn new(settings: &'a Settings) -> Result<Self, ServeError> {
        let store = Store::open(&settings.store)?;
        let boot_id = kernel::boot_id(settings).map_err(WorkError::from)?;
        let awaits = store
            .records()?
            .iter()
            .any(|(_, record)| record.as_ref().is_ok_and(|record| record.awaits_boot(&boot_id)));
        let now = kernel::uptime();
        Ok(Self { settings, boot_at: awaits.then_some(now + PATIENCE), mark_at: Some(now) })
    }

    /// Takes notice of what the agent did.
    pub fn note(&mut self, progress: Progress) {
        match progress {
            Progress::None => return,
            // The order that the wait was for: what the store already has of it is loaded now.
            Progress::Ordered if self.boot_at.is_some() => self.load_from_store(),
            Progress::Ordered => {}
            Progress::Applied => self.boot_at = None,
        }
        self.mark_at = Some(kernel::uptime());
    }

    /// Waits until there is something to read, doing meanwhile what has to be done.
    pub fn until_readable(&mut self, from: impl AsFd) -> io::Result<()> {
        loop {
            let timeout = self
                .run_due()
                .map(|seconds| Timespec { tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX), tv_nsec: 0 });
            match poll(&mut [PollFd::new(&from, PollFlags::IN)], timeout.as_ref()) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Does what is due; returns the seconds until the next is.
    fn run_due(&mut self) -> Option<u64> {
        let now = kernel::uptime();
        if self.boot_at.is_some_and(|at| at <= now) {
            self.load_from_store();
        }
        if self.mark_at.is_some_and(|at| at <= now) {
            self.clear_marks();
        }
        let now = kernel::uptime();
        self.boot_at.into_iter().chain(self.mark_at).min().map(|at| at.saturating_sub(now))
    }

    fn load_from_store(&mut self) {
        self.boot_at = None;
        let applied = Store::open(&self.settings.store)
            .map_err(WorkError::from)
            .and_then(|store| work::apply(&store, self.settings));
        match applied {
            Ok(report) => log_report(&report),
            Err(error) => log(&format!("load from the store: {}", explain(&error))),
        }
        self.mark_at = Some(kernel::uptime());
    }

    fn clear_marks(&mut self) {
        let next = Store::open(&self.settings.store)
            .map_err(WorkError::from)
            .and_then(|store| work::clear_marks(&store, self.settings));
        self.mark_at = match next {
            Ok(next) => next.map(|seconds| kernel::uptime() + seconds),
            Err(error) => {
                log(&format!("clear marks: {}", explain(&error)));
                None
            }
        };
    }
}

/// Logs how every Module stands.
pub fn log_report(report: &tenon_order::NodeReport) {
    for module in &report.modules {
        log(&format!("{}: {:?} ({:?}): {}", module.key, module.phase, module.reason, module.message));
    }
}

#[cfg(test)]
mod tests {
    use tenon_order::{Digest, Load, Phase, Reason};

    use super::*;
    use crate::record::{Mark, Record};

    fn node() -> (tempfile::TempDir, Settings) {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(at("proc/sys/kernel/random")).unwrap();
        fs::write(at("proc/sys/kernel/random/boot_id"), "this boot\n").unwrap();
        fs::write(at("proc/cmdline"), "quiet\n").unwrap();
        let settings =
            Settings { store: at("store"), proc: at("proc"), sys: at("sys"), ..Settings::default() };
        (directory, settings)
    }

    fn remember(settings: &Settings) {
        let content = Load {
            kernel: kernel::release(),
            bundle: Digest::of(b"lost"),
            module: "nic".parse().unwrap(),
            parameters: vec![],
            loading_order: vec![],
            in_tree_to_remove: vec![],
            firmware: false,
            retry: 0,
        };
        let record = Record { kept: Some(content), ..Record::new("drivers/nic".parse().unwrap()) };
        Store::open(&settings.store).unwrap().write_record(&record).unwrap();
    }

    #[test]
    fn a_started_node_waits_for_the_agent_only_so_long() {
        let (_directory, settings) = node();
        assert_eq!(Chores::new(&settings).unwrap().boot_at, None, "nothing was ever loaded");
        remember(&settings);
        let mut chores = Chores::new(&settings).unwrap();
        let due = chores.run_due().unwrap();
        assert!((1..=PATIENCE).contains(&due), "{due}");
        let outcome = |settings: &Settings| {
            let records = Store::open(&settings.store).unwrap().records().unwrap();
            records[0].1.as_ref().unwrap().outcome.clone()
        };
        assert_eq!(outcome(&settings).reason, Reason::NotApplied);
        chores.boot_at = Some(0);
        chores.run_due();
        // It was tried: its files are not there any more.
        assert_eq!((chores.boot_at, outcome(&settings).phase), (None, Phase::WaitingForBundle));
    }

    #[test]
    fn the_agents_word_ends_the_wait() {
        let (_directory, settings) = node();
        remember(&settings);
        for (progress, waits) in
            [(Progress::None, true), (Progress::Ordered, false), (Progress::Applied, false)]
        {
            let mut chores = Chores::new(&settings).unwrap();
            chores.note(progress);
            assert_eq!(chores.boot_at.is_some(), waits, "{progress:?}");
        }
    }

    #[test]
    fn marks_are_cleared_when_the_node_has_survived() {
        let (_directory, settings) = node();
        let mark = |boot_id: &str, at| Mark { boot_id: boot_id.to_owned(), tries: 1, at };
        let (old, survived, young) = (Digest::of(b"old"), Digest::of(b"survived"), Digest::of(b"young"));
        let now = kernel::uptime();
        let write = |fingerprint, mark: &Mark| {
            Store::open(&settings.store).unwrap().write_mark(fingerprint, mark).unwrap();
        };
        write(old, &mark("another boot", 0));
        write(survived, &mark("this boot", now.saturating_sub(Mark::PROBATION)));
        write(young, &mark("this boot", now));
        let due = Chores::new(&settings).unwrap().run_due();
        let marks = Store::open(&settings.store).unwrap().marks().unwrap();
        let left: std::collections::BTreeSet<_> =
            marks.into_iter().map(|(fingerprint, _)| fingerprint).collect();
        if now >= Mark::PROBATION {
            assert_eq!(left, [old, young].into());
        }
        assert!(due.is_some_and(|due| due <= Mark::PROBATION));
    }
}
