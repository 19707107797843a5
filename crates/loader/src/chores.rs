//! What the resident loader does without being asked: the load after a boot, the clearing of marks, and loading again
//! what someone else has unloaded.

use std::collections::BTreeMap;
use std::io::{self, PipeReader};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tenon_order::KmodName;

use crate::report::report;
use crate::serve::{ServeError, log_report};
use crate::session::{Progress, explain, is_postponed};
use crate::settings::Settings;
use crate::store::Store;
use crate::work::{self, WorkError};
use crate::{kernel, log};

/// Seconds that a started node waits for the agent before it loads what the store holds.
const PATIENCE: u64 = 10;
/// Seconds between two looks at whether what was loaded still is: a stat each of `/sys/module/<name>`, some microseconds.
/// Nothing wakes a process when a module goes: uevents need a socket, and sysfs tells inotify nothing of it.
const LOOK: u64 = 5;
/// Seconds to the next look after something was loaded again: who unloads it again and again shall not keep us busy.
const LOOK_AGAIN: u64 = 60;
/// Seconds after which a load that was postponed is tried.
const POSTPONED: u64 = 5;

/// Why a wait has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// There is something to read.
    Readable,
    /// How things stand has changed without the agent.
    News,
    /// The process was told to end.
    End,
}

/// What has to happen in time.
#[derive(Debug)]
pub struct Chores<'a> {
    settings: &'a Settings,
    /// Readable once the process was told to end.
    end: Option<PipeReader>,
    /// When what the store holds is loaded without waiting longer, in seconds since boot.
    load_at: Option<u64>,
    /// When a mark can be cleared, in seconds since boot.
    mark_at: Option<u64>,
    /// When to look whether what was loaded still is, in seconds since boot.
    look_at: Option<u64>,
    /// What is loaded by Tenon's doing, as it was when that was last looked at.
    owned: BTreeMap<KmodName, Option<u64>>,
    /// Whether something was done that the agent does not know of.
    news: bool,
}

impl<'a> Chores<'a> {
    /// Looks into the store for what is to be done. `end` becomes readable when the process is told to end.
    pub fn new(settings: &'a Settings, end: Option<PipeReader>) -> Result<Self, ServeError> {
        let store = Store::open(&settings.store)?;
        let boot_id = kernel::boot_id(settings).map_err(WorkError::from)?;
        if store.ended()?.as_ref() == Some(&boot_id) {
            // Another loader was, in this boot: the node goes on.
            store.set_ended(None)?;
        }
        let awaits = store
            .records()?
            .iter()
            .any(|(_, record)| record.as_ref().is_ok_and(|record| record.awaits_boot(&boot_id)));
        let now = kernel::uptime();
        let mut chores = Self {
            settings,
            end,
            load_at: awaits.then_some(now + PATIENCE),
            mark_at: Some(now),
            look_at: None,
            // As it was recorded: what happened while no loader ran is seen at the first look.
            owned: work::owned(&store, settings)?.into_iter().collect(),
            news: false,
        };
        chores.look_after(0);
        Ok(chores)
    }

    /// Takes notice of what the agent did.
    pub fn note(&mut self, progress: Progress) {
        match progress {
            Progress::None => return,
            // The order that the wait was for: what the store already has of it is loaded now.
            Progress::Ordered if self.load_at.is_some() => drop(self.load_from_store()),
            Progress::Ordered => {}
            Progress::Applied { postponed } => self.loaded(postponed),
        }
        self.mark_at = Some(kernel::uptime());
    }

    /// Waits until there is something to read, doing meanwhile what has to be done.
    pub fn until_readable(&mut self, from: impl AsFd) -> io::Result<Wake> {
        loop {
            let timeout = self
                .run_due()
                .map(|seconds| Timespec { tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX), tv_nsec: 0 });
            if std::mem::take(&mut self.news) {
                return Ok(Wake::News);
            }
            let mut waited = vec![PollFd::new(&from, PollFlags::IN)];
            waited.extend(self.end.iter().map(|end| PollFd::new(end, PollFlags::IN)));
            match poll(&mut waited, timeout.as_ref()) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) if waited.get(1).is_some_and(|end| !end.revents().is_empty()) => return Ok(Wake::End),
                Ok(_) => return Ok(Wake::Readable),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Remembers that the end was ordered: the node may be about to go down, and no load is to blame for that.
    pub fn end(&self) {
        let remember = || -> Result<(), WorkError> {
            let boot_id = kernel::boot_id(self.settings)?;
            Ok(Store::open(&self.settings.store)?.set_ended(Some(&boot_id))?)
        };
        if let Err(error) = remember() {
            log(&format!("remember the end: {}", explain(&error)));
        }
    }

    /// Does what is due; returns the seconds until the next is.
    fn run_due(&mut self) -> Option<u64> {
        let now = kernel::uptime();
        if self.load_at.is_some_and(|at| at <= now) {
            self.news |= self.load_from_store();
        }
        if self.look_at.is_some_and(|at| at <= now) {
            self.look();
        }
        if self.mark_at.is_some_and(|at| at <= now) {
            self.clear_marks();
        }
        let now = kernel::uptime();
        let due = [self.load_at, self.mark_at, self.look_at].into_iter().flatten().min();
        due.map(|at| at.saturating_sub(now))
    }

    /// Returns whether it changed how things stand.
    fn load_from_store(&mut self) -> bool {
        let applied = Store::open(&self.settings.store).map_err(WorkError::from).and_then(|store| {
            let before = report(&store, self.settings)?;
            Ok((before, work::apply(&store, self.settings)?))
        });
        let (mut changed, mut postponed) = (false, false);
        match applied {
            Ok((before, after)) => {
                (changed, postponed) = (before != after, is_postponed(&after));
                if changed {
                    log_report(&after);
                }
            }
            Err(error) => log(&format!("load from the store: {}", explain(&error))),
        }
        self.loaded(postponed);
        self.mark_at = Some(kernel::uptime());
        changed
    }

    /// Takes notice of what is loaded now.
    fn loaded(&mut self, postponed: bool) {
        self.load_at = postponed.then(|| kernel::uptime() + POSTPONED);
        let owned = Store::open(&self.settings.store)
            .map_err(WorkError::from)
            .and_then(|store| work::owned(&store, self.settings));
        let names = owned.unwrap_or_default().into_iter().map(|(name, _)| name);
        self.owned = names.map(|name| (name.clone(), kernel::instance(self.settings, &name))).collect();
        self.look_after(LOOK);
    }

    fn look_after(&mut self, seconds: u64) {
        self.look_at = (!self.owned.is_empty()).then(|| kernel::uptime() + seconds);
    }

    /// Has what someone else unloaded loaded again.
    fn look(&mut self) {
        let gone: Vec<_> = self
            .owned
            .iter()
            .filter(|(name, known)| kernel::instance(self.settings, name) != **known)
            .map(|(name, _)| name.to_string())
            .collect();
        self.look_after(LOOK);
        // A load that is still to come after a boot looks at everything.
        if !gone.is_empty() && self.load_at.is_none() {
            log(&format!("unloaded or replaced by something else: {}", gone.join(", ")));
            self.load_from_store();
            self.look_after(LOOK_AGAIN);
            self.news = true;
        }
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixStream;

    use tenon_order::{Digest, Load, Phase, Reason};

    use super::*;
    use crate::mark::Mark;
    use crate::record::{Live, Part, Piece, Record, Source};

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
        assert_eq!(Chores::new(&settings, None).unwrap().load_at, None, "nothing was ever loaded");
        remember(&settings);
        let mut chores = Chores::new(&settings, None).unwrap();
        let due = chores.run_due().unwrap();
        assert!((1..=PATIENCE).contains(&due), "{due}");
        let outcome = |settings: &Settings| {
            let records = Store::open(&settings.store).unwrap().records().unwrap();
            records[0].1.as_ref().unwrap().outcome.clone()
        };
        assert_eq!(outcome(&settings).reason, Reason::NotApplied);
        chores.load_at = Some(0);
        chores.run_due();
        // It was tried: its files are not there any more.
        assert_eq!((chores.load_at, outcome(&settings).phase), (None, Phase::WaitingForBundle));
    }

    #[test]
    fn the_agents_word_ends_the_wait() {
        let (_directory, settings) = node();
        remember(&settings);
        for (progress, waits) in [
            (Progress::None, true),
            (Progress::Ordered, false),
            (Progress::Applied { postponed: false }, false),
        ] {
            let mut chores = Chores::new(&settings, None).unwrap();
            chores.note(progress);
            assert_eq!(chores.load_at.is_some(), waits, "{progress:?}");
        }
    }

    #[test]
    fn what_someone_unloaded_is_noticed_and_told_by_hanging_up() {
        let (_directory, settings) = node();
        let directory = settings.sys.join("module/nic");
        fs::create_dir_all(&directory).unwrap();
        remember(&settings);
        let store = Store::open(&settings.store).unwrap();
        let (_, record) = store.records().unwrap().remove(0);
        let record = record.unwrap();
        let piece = Piece {
            name: "nic".parse().unwrap(),
            source: Source::Host("nic.ko".to_owned()),
            parameters: vec![],
            build_id: None,
            soft: false,
        };
        let live = Live {
            boot_id: "this boot".to_owned(),
            content: record.kept.clone().unwrap(),
            parts: vec![Part {
                piece: piece.clone(),
                ours: true,
                instance: kernel::instance(&settings, &piece.name),
            }],
            loaded_at: 1,
            adopted: false,
            reloaded: false,
        };
        store.write_record(&Record { live: Some(live), ..record }).unwrap();
        drop(store);
        let mut chores = Chores::new(&settings, None).unwrap();
        chores.look();
        assert!(!chores.news, "it is there");
        fs::remove_dir(&directory).unwrap();
        chores.look();
        assert!(chores.news);
        let (_agent, stream) = UnixStream::pair().unwrap();
        assert_eq!(chores.until_readable(&stream).unwrap(), Wake::News);
        chores.look();
        assert!(!chores.news, "what could not be loaded again is not tried for ever");
    }

    #[test]
    fn an_end_that_was_ordered_is_remembered_until_the_next_start_in_this_boot() {
        let (_directory, settings) = node();
        let (end, told) = io::pipe().unwrap();
        let mut chores = Chores::new(&settings, Some(end)).unwrap();
        io::Write::write_all(&mut &told, b"x").unwrap();
        let (_agent, stream) = UnixStream::pair().unwrap();
        assert_eq!(chores.until_readable(&stream).unwrap(), Wake::End);
        chores.end();
        let ended = || Store::open(&settings.store).unwrap().ended().unwrap();
        assert_eq!(ended().as_deref(), Some("this boot"));
        Chores::new(&settings, None).unwrap();
        assert_eq!(ended(), None);
        chores.end();
        fs::write(settings.proc.join("sys/kernel/random/boot_id"), "next boot\n").unwrap();
        Chores::new(&settings, None).unwrap();
        assert_eq!(ended().as_deref(), Some("this boot"));
    }

    #[test]
    fn a_postponed_load_is_tried_a_little_later() {
        let (_directory, settings) = node();
        let mut chores = Chores::new(&settings, None).unwrap();
        chores.note(Progress::Applied { postponed: true });
        assert!(chores.load_at.is_some_and(|at| at <= kernel::uptime() + POSTPONED));
        chores.note(Progress::Applied { postponed: false });
        assert_eq!(chores.load_at, None);
    }

    #[test]
    fn marks_are_cleared_when_the_node_has_survived() {
        let (_directory, settings) = node();
        let mark = |boot_id: &str, at| Mark::begin(None, boot_id, at, true).unwrap().returned(at);
        let (old, survived, young) = (Digest::of(b"old"), Digest::of(b"survived"), Digest::of(b"young"));
        let now = kernel::uptime();
        let write = |fingerprint, mark: &Mark| {
            Store::open(&settings.store).unwrap().write_mark(fingerprint, mark).unwrap();
        };
        write(old, &mark("another boot", 0));
        write(survived, &mark("this boot", now.saturating_sub(Mark::PROBATION)));
        write(young, &mark("this boot", now));
        let due = Chores::new(&settings, None).unwrap().run_due();
        let marks = Store::open(&settings.store).unwrap().marks().unwrap();
        let left: std::collections::BTreeSet<_> =
            marks.into_iter().map(|(fingerprint, _)| fingerprint).collect();
        if now >= Mark::PROBATION {
            assert_eq!(left, [old, young].into());
        }
        assert!(due.is_some_and(|due| due <= Mark::PROBATION));
    }
}
