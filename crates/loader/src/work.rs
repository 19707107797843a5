//! Bringing the node to what the order says, Module by Module, and saying how it stands.
//!
//! The record of a Module is written before its first step and after its last. Whatever stops the loader in between,
//! the next run knows which modules may be its own, and ends where this one would have.

use std::collections::{BTreeMap, BTreeSet};

use tenon_order::{Digest, KmodName, Load, ModuleKey, NodeReport, Order, Phase, Reason, Wish};

use crate::content::ContentError;
use crate::decide::{Choice, GONE, ORPHANED, decide};
use crate::foresee::Refused;
use crate::kernel::{self, ObserveError};
use crate::log;
use crate::machine::{Here, Machine};
use crate::mark::{Mark, NotNow, settle};
use crate::plan::{Block, Plan, Step, plan};
use crate::record::{Failure, Live, Outcome, Part, PathBefore, Pending, Record, fingerprint};
use crate::report::report_on;
use crate::settings::Settings;
use crate::situation::{Kernel, Others, Situation, Target};
use crate::steps::{self, Interrupted, StepError};
use crate::store::{Store, StoreError};

/// The node cannot be looked at or remembered at all.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel could not be asked.
    #[error(transparent)]
    Observe(#[from] ObserveError),
}

/// Why one content is not loaded now.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error(transparent)]
    Block(#[from] Block),
    #[error(transparent)]
    NotNow(#[from] NotNow),
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Nothing has been done.
    #[error("{0}")]
    Verify(StepError),
    #[error("{cause}{}", not_put_back(.stuck))]
    Step { cause: StepError, stuck: Vec<StepError> },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Observe(#[from] ObserveError),
}

impl LoadError {
    fn outcome(&self) -> Outcome {
        let (phase, reason) = match self {
            Self::Content(error) => error.outcome(),
            Self::Block(block) => block.outcome(),
            Self::NotNow(NotNow::Suspected) => (Phase::CrashSuspected, Reason::CrashSuspected),
            Self::NotNow(_) => (Phase::Failed, Reason::LoadPostponed),
            Self::Refused(refused) => (Phase::Failed, refused.reason()),
            Self::Verify(cause) => (Phase::Failed, cause.reason()),
            Self::Step { cause, .. } => match cause.reason() {
                reason @ Reason::InUse => (Phase::InUse, reason),
                reason => (Phase::Failed, reason),
            },
            Self::Store(_) | Self::Observe(_) => (Phase::Failed, Reason::StoreFailed),
        };
        Outcome::new(phase, reason, &self.to_string())
    }
}

fn not_put_back(errors: &[StepError]) -> String {
    errors.first().map(|error| format!("; putting back what was there: {error}")).unwrap_or_default()
}

/// Does what the order in the store says and reports. One Module's trouble is its own.
pub fn apply(store: &Store, settings: &Settings) -> Result<NodeReport, WorkError> {
    apply_on(&Here::new(store, settings))
}

/// The same on any machine.
pub fn apply_on(machine: &dyn Machine) -> Result<NodeReport, WorkError> {
    let mut work = Work::begin(machine)?;
    for key in work.keys() {
        work.module(&key)?;
    }
    // Files that are kept too long harm nobody; the next run finds them again.
    if let Err(error) = work.collect() {
        log(&format!("remove what is no longer needed: {error}"));
    }
    report_on(machine)
}

/// The kernel modules that are there by Tenon's doing, and which of all that had the name each was when it was recorded.
pub fn owned(store: &Store, settings: &Settings) -> Result<Vec<(KmodName, Option<u64>)>, WorkError> {
    let boot_id = kernel::boot_id(settings)?;
    let records = store.records()?;
    let live = records.iter().filter_map(|(_, record)| record.as_ref().ok()?.live_in(&boot_id));
    let parts = live.flat_map(|live| &live.parts).filter(|part| part.ours);
    Ok(parts.map(|part| (part.piece.name.clone(), part.instance)).collect())
}

/// Clears the marks of loads that the node has survived. Returns the seconds until the next can be cleared.
pub fn clear_marks(store: &Store, settings: &Settings) -> Result<Option<u64>, WorkError> {
    clear_marks_on(&Here::new(store, settings))
}

/// The same on any machine.
pub fn clear_marks_on(machine: &dyn Machine) -> Result<Option<u64>, WorkError> {
    let (boot_id, now) = (machine.boot_id()?, machine.uptime());
    let mut next = None;
    for (fingerprint, mark) in machine.marks()? {
        match mark.due_in(&boot_id, now) {
            Some(0) => machine.clear_mark(fingerprint)?,
            Some(due) => next = Some(next.map_or(due, |next: u64| next.min(due))),
            None => {}
        }
    }
    Ok(next)
}

/// Counts the end of the boots before this one for and against what was being loaded in them.
fn settle_marks(machine: &dyn Machine, boot_id: &str) -> Result<(), WorkError> {
    let (marks, ended) = (machine.marks()?, machine.ended()?);
    for (fingerprint, mark) in settle(&marks, ended.as_deref(), boot_id, machine.uptime()) {
        match mark {
            Some(mark) => machine.write_mark(fingerprint, &mark)?,
            None => machine.clear_mark(fingerprint)?,
        }
    }
    Ok(())
}

/// One run over all Modules.
struct Work<'a> {
    machine: &'a dyn Machine,
    order: Option<Order>,
    records: BTreeMap<ModuleKey, Record>,
    /// Modules whose record cannot be read: they are left alone.
    damaged: BTreeSet<ModuleKey>,
    /// Contents that may have taken the node down.
    doubtful: BTreeSet<Digest>,
    release: String,
    boot_id: String,
}

impl<'a> Work<'a> {
    fn begin(machine: &'a dyn Machine) -> Result<Self, WorkError> {
        let boot_id = machine.boot_id()?;
        settle_marks(machine, &boot_id)?;
        let doubtful = machine.marks()?.into_iter().filter(|(_, mark)| mark.is_doubtful());
        let (mut records, mut damaged) = (BTreeMap::new(), BTreeSet::new());
        for (key, record) in machine.records()? {
            match record {
                Ok(record) => drop(records.insert(key, record)),
                Err(_) => drop(damaged.insert(key)),
            }
        }
        Ok(Self {
            machine,
            order: machine.order()?,
            records,
            damaged,
            doubtful: doubtful.map(|(fingerprint, _)| fingerprint).collect(),
            release: machine.release(),
            boot_id,
        })
    }

    /// All Modules: first those to remove, which may make room for others; last those that may take the node down.
    fn keys(&self) -> Vec<ModuleKey> {
        let wishes = || self.order.iter().flat_map(|order| &order.modules);
        let removed = wishes().filter(|module| module.wish == Wish::Removed).map(|module| &module.key);
        let others = wishes().map(|module| &module.key).chain(self.records.keys()).collect::<BTreeSet<_>>();
        let mut keys: Vec<ModuleKey> = removed.cloned().collect();
        keys.sort();
        let rest: Vec<_> = others.into_iter().filter(|key| !keys.contains(key)).cloned().collect();
        keys.extend(rest);
        keys.retain(|key| !self.damaged.contains(key));
        keys.sort_by_key(|key| self.is_doubtful(key));
        keys
    }

    fn is_doubtful(&self, key: &ModuleKey) -> bool {
        let wished = match self.order.as_ref().and_then(|order| order.wish(key)) {
            Some(Wish::Loaded(load)) => Some(load),
            Some(Wish::Removed) => return false,
            None => None,
        };
        let kept = self.records.get(key).and_then(|record| record.kept.as_ref());
        wished.into_iter().chain(kept).any(|load| self.doubtful.contains(&fingerprint(key, load)))
    }

    fn module(&mut self, key: &ModuleKey) -> Result<(), WorkError> {
        let known = self.records.get(key).cloned();
        let wish = self.order.as_ref().and_then(|order| order.wish(key)).cloned();
        let choice = decide(wish.as_ref(), known.as_ref(), &self.release, &self.boot_id);
        let mut record = known.clone().unwrap_or_else(|| Record::new(key.clone()));
        match choice {
            Choice::Leave(outcome) => {
                record.outcome = outcome;
            }
            Choice::Forget => {
                self.records.remove(key);
                return Ok(self.machine.forget(key)?);
            }
            Choice::Remove => self.remove(&mut record),
            Choice::Load { content, or_else } => self.load(&mut record, content, or_else),
            Choice::RollBack { kept } => self.roll_back(&mut record, kept),
            Choice::Orphan { kept } => {
                let result = self.bring(&mut record, kept);
                record.outcome = match result {
                    Ok(_) => Outcome::new(Phase::Orphaned, Reason::NotOrdered, ORPHANED),
                    Err(error) => error.outcome(),
                };
            }
        }
        self.hand_over(key, known.as_ref(), &record)?;
        if record.is_tombstone() && record.outcome.message == GONE {
            // The order itself says what became of it.
            self.records.remove(key);
            return Ok(known.map_or(Ok(()), |_| self.machine.forget(key))?);
        }
        if known.as_ref() != Some(&record) {
            self.machine.write_record(&record)?;
        }
        self.records.insert(key.clone(), record);
        Ok(())
    }

    /// An in-tree module that stays away for another Module's sake comes back when that one goes: it is remembered there, and
    /// only then forgotten here.
    fn hand_over(
        &mut self,
        key: &ModuleKey,
        before: Option<&Record>,
        after: &Record,
    ) -> Result<(), StoreError> {
        let released = before.into_iter().flat_map(|before| &before.in_tree);
        for name in released.filter(|name| !after.in_tree.contains(name)) {
            for heir in self.records.values_mut().filter(|heir| heir.key != *key) {
                if heir.keeps_away_in(&self.boot_id).contains(name) && !heir.in_tree.contains(name) {
                    heir.in_tree.push(name.clone());
                    self.machine.write_record(heir)?;
                }
            }
        }
        Ok(())
    }

    /// Has `content` loaded, or leaves what is loaded, or has the predecessor loaded.
    fn load(&self, record: &mut Record, content: &Load, or_else: Option<&Load>) {
        let error = match self.bring(record, content) {
            Ok(reason) => {
                record.failed = None;
                record.outcome = match reason {
                    Reason::Adopted => {
                        Outcome::new(Phase::Loaded, reason, "it was loaded already, as the same build")
                    }
                    Reason::Reloaded => Outcome::new(
                        Phase::Loaded,
                        reason,
                        "something else had unloaded it, and it was loaded again",
                    ),
                    _ => Outcome::new(Phase::Loaded, Reason::Loaded, "loaded"),
                };
                return;
            }
            Err(error) => error,
        };
        let mut outcome = error.outcome();
        // Where the old could not be unloaded, the new was not tried.
        let begun =
            matches!(&error, LoadError::Step { cause, .. } if !matches!(cause, StepError::Remove { .. }));
        // The record's word for what is live is not taken: a run that was killed in the middle may have removed it.
        let live = record.live_in(&self.boot_id).map(|live| live.content.clone());
        let predecessor = live.or_else(|| or_else.cloned()).filter(|old| old != content);
        let predecessor = predecessor.map(|old| self.bring(record, &old).map(drop));
        match predecessor {
            Some(Ok(())) if begun => {
                outcome.phase = Phase::RolledBack;
                record.failed = Some(Failure { content: content.clone(), outcome: outcome.clone() });
            }
            Some(Err(error)) => {
                outcome = Outcome::new(
                    outcome.phase,
                    outcome.reason,
                    &format!("{}; its predecessor: {error}", outcome.message),
                );
            }
            Some(Ok(())) | None => {}
        }
        record.outcome = outcome;
        self.forget_what_went(record);
    }

    fn roll_back(&self, record: &mut Record, kept: &Load) {
        let failed = record.failed.as_ref().map(|failure| failure.outcome.clone());
        record.outcome = match (self.bring(record, kept), failed) {
            (Ok(_), Some(failed)) => failed,
            (Ok(_), None) => {
                Outcome::new(Phase::RolledBack, Reason::KernelRefused, "its successor did not load")
            }
            (Err(error), _) => error.outcome(),
        };
        self.forget_what_went(record);
    }

    /// After a load that failed: what someone else has unloaded meanwhile, or replaced under its name, is not ours to
    /// remember, and why it could not be loaded again says more than that it went.
    fn forget_what_went(&self, record: &mut Record) {
        if record.outcome.phase == Phase::Loaded {
            return;
        }
        let Some(live) = record.live.as_mut().filter(|live| live.boot_id == self.boot_id) else { return };
        let names = live.parts.iter().map(|part| part.piece.name.clone()).collect();
        let Ok(kernel) = self.machine.observe(&names) else { return };
        live.parts.retain(|part| !part.ours || part.is_there(&kernel));
        if !live.parts.iter().any(|part| part.ours) {
            record.live = None;
        }
    }

    /// Makes the kernel and the record agree with `content`; both are as they were when that fails.
    fn bring(&self, record: &mut Record, content: &Load) -> Result<Reason, LoadError> {
        let target = self.machine.resolve(content, record)?;
        let (plan, kernel) = self.plan(Some(&target), record)?;
        let live = record.live_in(&self.boot_id);
        // A soft dependency that did not load with the rest is not tried again and again.
        let settled = plan.only_soft() && live.is_some_and(|live| live.content == *content);
        let mut left_out = plan.soft_inserts();
        if !settled {
            left_out = self.run(record, content, &plan, &target.firmware, &kernel)?;
        }
        // What could not be brought back or released is no failure of this content.
        drop(steps::run_each(&plan.afterwards, self.machine));
        let live = record.live_in(&self.boot_id);
        let again = live.is_some_and(|live| live.content == *content) && plan.inserts();
        let unchanged = live.filter(|_| settled || !plan.inserts());
        let (loaded_at, adopted, reloaded) = match unchanged {
            Some(live) => (live.loaded_at, live.adopted, live.reloaded),
            None => (self.machine.now(), !plan.inserts(), again),
        };
        let mut parts = plan.parts;
        parts.retain(|part| !left_out.contains(&part.piece.name));
        let boot_id = kernel.boot_id;
        self.identify(&mut parts);
        record.live = Some(Live { boot_id, content: content.clone(), parts, loaded_at, adopted, reloaded });
        record.pending = None;
        record.kept = Some(content.clone());
        record.in_tree = plan.in_tree;
        record.firmware = target.firmware;
        record.path_before = self.in_this_boot(plan.path_before);
        Ok(match (reloaded, adopted) {
            (true, _) => Reason::Reloaded,
            (false, true) => Reason::Adopted,
            (false, false) => Reason::Loaded,
        })
    }

    /// Remembers which modules they are, so that what someone else loads later under their names is not taken for them.
    fn identify<'p>(&self, parts: impl IntoIterator<Item = &'p mut Part>) {
        let parts: Vec<_> = parts.into_iter().collect();
        let names = parts.iter().map(|part| part.piece.name.clone()).collect();
        // Where that cannot be seen, their builds have to do.
        let Ok(kernel) = self.machine.observe(&names) else { return };
        for part in parts {
            part.instance = kernel.loaded.get(&part.piece.name).and_then(|loaded| loaded.instance);
        }
    }

    /// Does a plan's steps for `content`, all or none. Returns the soft dependencies that did not load.
    fn run(
        &self,
        record: &mut Record,
        content: &Load,
        plan: &Plan,
        firmware: &BTreeMap<String, Digest>,
        kernel: &Kernel,
    ) -> Result<Vec<KmodName>, LoadError> {
        if plan.steps.is_empty() {
            return Ok(Vec::new());
        }
        steps::verify(&plan.steps, self.machine).map_err(LoadError::Verify)?;
        self.machine.foresee(&plan.replacements(), kernel)?;
        if plan.inserts() {
            self.mark(&record.key, content)?;
        }
        let pending = self.intend(record, plan, firmware)?;
        match steps::run(&plan.steps, self.machine) {
            Ok(left_out) => {
                // What is loaded is owned all the same; its mark only ends a little early.
                if let Err(error) = self.mark_returned(&record.key, content) {
                    log(&format!("{}: begin the time of its mark: {error}", record.key));
                }
                Ok(left_out)
            }
            Err(interrupted) => Err(self.take_back(record, content, interrupted, pending)),
        }
    }

    fn remove(&self, record: &mut Record) {
        record.outcome = match self.take_out(record) {
            Ok(troubles) => {
                let key = record.key.clone();
                *record = Record::new(key);
                let message =
                    troubles.first().map_or_else(|| GONE.to_owned(), |trouble| format!("{GONE}; {trouble}"));
                Outcome::new(Phase::Removed, Reason::Removed, &message)
            }
            Err(error) => error.outcome(),
        };
    }

    fn take_out(&self, record: &mut Record) -> Result<Vec<StepError>, LoadError> {
        let (plan, _) = self.plan(None, record)?;
        if !plan.steps.is_empty() {
            let pending = self.intend(record, &plan, &BTreeMap::new())?;
            if let Err(interrupted) = steps::run(&plan.steps, self.machine) {
                let content = record.live.as_ref().map(|live| live.content.clone());
                return Err(match content {
                    Some(content) => self.take_back(record, &content, interrupted, pending),
                    None => LoadError::Step { cause: interrupted.cause, stuck: Vec::new() },
                });
            }
        }
        Ok(steps::run_each(&plan.afterwards, self.machine))
    }

    fn plan(&self, target: Option<&Target>, record: &Record) -> Result<(Plan, Kernel), LoadError> {
        let in_tree_names = target.map(|target| target.in_tree_to_remove.clone()).unwrap_or_default();
        let in_tree =
            self.machine.host_pieces(&record.in_tree.iter().cloned().chain(in_tree_names).collect());
        let kernel = self.machine.observe(&self.names(target, record))?;
        let linked = self.linked(target, record);
        let others = Others::of(self.records.values(), &record.key, &self.boot_id);
        let firmware_dir = self.machine.firmware_directory();
        let situation = Situation {
            record,
            others: &others,
            kernel: &kernel,
            in_tree: &in_tree,
            linked: &linked,
            firmware_dir: &firmware_dir,
        };
        let plan = plan(target, &situation)?;
        Ok((plan, kernel))
    }

    /// Every module of which it matters what is loaded under its name.
    fn names(&self, target: Option<&Target>, record: &Record) -> BTreeSet<KmodName> {
        let wanted = target.into_iter().flat_map(|target| &target.pieces);
        let live = record.live_in(&self.boot_id).into_iter().flat_map(|live| &live.parts);
        let pending = record.pending_in(&self.boot_id).into_iter().flat_map(|pending| &pending.pieces);
        wanted.chain(live.map(|part| &part.piece)).chain(pending).map(|piece| piece.name.clone()).collect()
    }

    /// The target's firmware files that are where drivers find them; at the first look in a boot, their bytes, too.
    fn linked(&self, target: Option<&Target>, record: &Record) -> BTreeSet<String> {
        let is_known = record.live_in(&self.boot_id).is_some();
        let firmware = target.into_iter().flat_map(|target| &target.firmware);
        let linked = firmware.filter(|(path, digest)| {
            self.machine.has_firmware(path, **digest) && (is_known || self.machine.verify(**digest).is_ok())
        });
        linked.map(|(path, _)| path.clone()).collect()
    }

    fn in_this_boot(&self, path: Option<String>) -> Option<PathBefore> {
        path.map(|path| PathBefore { boot_id: self.boot_id.clone(), path })
    }

    /// Remembers what is about to be done, so that a run that does not end is understood by the next.
    fn intend(
        &self,
        record: &mut Record,
        plan: &Plan,
        firmware: &BTreeMap<String, Digest>,
    ) -> Result<Pending, StoreError> {
        let inserted = plan.steps.iter().filter_map(|step| match step {
            Step::Insert(piece) => Some(piece.clone()),
            _ => None,
        });
        let earlier = record.pending_in(&self.boot_id).into_iter().flat_map(|pending| &pending.pieces);
        let pieces = earlier.cloned().chain(inserted).collect();
        let pending = Pending { boot_id: self.boot_id.clone(), pieces };
        let mut intended =
            Record { pending: Some(pending.clone()), in_tree: plan.in_tree.clone(), ..record.clone() };
        intended.in_tree.extend(record.in_tree.iter().filter(|name| !plan.in_tree.contains(name)).cloned());
        // A path that is about to be put back is remembered until it is.
        intended.path_before = self.in_this_boot(plan.path_before.clone()).or(intended.path_before);
        for (path, digest) in firmware {
            intended.firmware.entry(path.clone()).or_insert(*digest);
        }
        self.machine.write_record(&intended)?;
        Ok(pending)
    }

    /// Takes back a run that failed. What cannot be put back is no longer live, but what is loaded of it stays known.
    fn take_back(
        &self,
        record: &mut Record,
        content: &Load,
        interrupted: Interrupted,
        mut pending: Pending,
    ) -> LoadError {
        // Code that has run may still take the node down: such a mark is cleared after its time like that of a load.
        let mut trouble = if interrupted.has_run() {
            self.mark_returned(&record.key, content).err()
        } else {
            self.unmark(&record.key, content).err()
        };
        let Interrupted { cause, undo } = interrupted;
        let reloaded: BTreeSet<_> = undo.iter().filter_map(Step::inserts).cloned().collect();
        let live = record.live_in(&self.boot_id).map(|live| live.content.clone());
        let live = live.filter(|_| !reloaded.is_empty());
        if let Some(live) = &live {
            // It ran until a moment ago: nothing is held against it.
            let mark = Mark::begin(None, &self.boot_id, self.machine.uptime(), true);
            let write = |mark| self.machine.write_mark(fingerprint(&record.key, live), &mark).err();
            trouble = trouble.or(mark.ok().and_then(write));
        }
        let mut stuck = steps::run_each(&undo, self.machine);
        if let Some(live) = &live {
            trouble = trouble.or(self.mark_returned(&record.key, live).err());
        }
        if stuck.is_empty() {
            // What was put back is ours as before, though it is another of its name.
            let parts = record.live.iter_mut().flat_map(|live| &mut live.parts);
            self.identify(parts.filter(|part| reloaded.contains(&part.piece.name)));
        } else {
            let live = record.live.take().filter(|live| live.boot_id == self.boot_id);
            let parts = live.into_iter().flat_map(|live| live.parts);
            pending.pieces.extend(parts.filter(|part| part.ours).map(|part| part.piece));
            if let Ok(kernel) = self.machine.observe(&BTreeSet::new()) {
                pending.pieces.retain(|piece| kernel.loaded.contains_key(&piece.name));
            }
            record.pending = Some(pending);
        }
        stuck.extend(trouble.map(StepError::Store));
        LoadError::Step { cause, stuck }
    }

    fn mark(&self, key: &ModuleKey, content: &Load) -> Result<(), LoadError> {
        let (fingerprint, now) = (fingerprint(key, content), self.machine.uptime());
        let is_watched = |mark: &Mark| mark.is_doubtful() && mark.due_in(&self.boot_id, now).is_some();
        let marks = self.machine.marks()?;
        let alone = !marks.iter().any(|(other, mark)| *other != fingerprint && is_watched(mark));
        let previous = marks.iter().find(|(known, _)| *known == fingerprint).map(|(_, mark)| mark);
        let mark = Mark::begin(previous, &self.boot_id, now, alone)?;
        Ok(self.machine.write_mark(fingerprint, &mark)?)
    }

    /// The time that a load must survive begins when it has ended, well or not.
    fn mark_returned(&self, key: &ModuleKey, content: &Load) -> Result<(), StoreError> {
        let fingerprint = fingerprint(key, content);
        match self.machine.mark(fingerprint)? {
            Some(mark) => self.machine.write_mark(fingerprint, &mark.returned(self.machine.uptime())),
            None => Ok(()),
        }
    }

    /// No code of it has run: it is as before.
    fn unmark(&self, key: &ModuleKey, content: &Load) -> Result<(), StoreError> {
        let fingerprint = fingerprint(key, content);
        match self.machine.mark(fingerprint)?.and_then(Mark::not_begun) {
            Some(mark) => self.machine.write_mark(fingerprint, &mark),
            None => self.machine.clear_mark(fingerprint),
        }
    }

    /// Removes files and marks that neither the order nor any record needs. Not while a record cannot be read.
    fn collect(&self) -> Result<(), StoreError> {
        if !self.damaged.is_empty() {
            return Ok(());
        }
        let mut contents: Vec<(&ModuleKey, &Load)> = Vec::new();
        for module in self.order.iter().flat_map(|order| &order.modules) {
            if let Wish::Loaded(load) = &module.wish {
                contents.push((&module.key, load));
            }
        }
        for record in self.records.values() {
            let live = record.live.as_ref().map(|live| &live.content);
            contents.extend(record.kept.iter().chain(live).map(|load| (&record.key, load)));
        }
        let bundles = contents.iter().map(|(_, load)| load.bundle).collect();
        let marks = contents.iter().map(|(key, load)| fingerprint(key, load)).collect();
        self.machine.collect(&bundles, &marks)
    }
}
