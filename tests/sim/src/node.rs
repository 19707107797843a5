//! One node: its machine, the loader's process on it, and the agent.
//!
//! Unchanged: the agent's `cycle::Cycle` with its `status` and `backoff`, the loader's `work` (with `decide`, `plan`,
//! `record`) and `session::Holder`. This file stands for `agent/run.rs` (do the step, take note of what came of it),
//! `loader/session.rs` (keys, then the order's admission, then what is missing) and `loader/chores.rs` (the load
//! after a boot, the clearing of marks; not its own looks for what has disappeared: the agent's are slower and find it,
//! too).

use std::collections::BTreeMap;

use tenon_agent::backoff::Dice;
use tenon_agent::cycle::Cycle;
use tenon_agent::watch::Seen;
use tenon_loader::report::report_on;
use tenon_loader::session::{Holder, RequestError, is_postponed};
use tenon_loader::work;
use tenon_order::wire::Refusal;
use tenon_order::{Digest, NodeName, NodeReport, Wish};

use crate::clock;
use crate::machine::{Disk, SimMachine, contents};
use crate::planted::Bug;
use crate::seal::{Key, Seals};

/// Milliseconds that a started loader waits for the agent: `serve::PATIENCE`.
const PATIENCE: u64 = 10_000;

/// After so long a load that was postponed is tried: `chores::POSTPONED`.
const POSTPONED: u64 = 5_000;

/// What the agent says to the loader.
#[derive(Debug, Clone)]
pub enum Talk {
    /// Who are you?
    Connect,
    /// An order.
    Tell(String),
    /// A bundle.
    Supply(Digest),
    /// Carry out what is held.
    Apply,
    /// The same, for want of an order.
    Silent,
    /// How do things stand?
    Look,
}

/// What came of it.
#[derive(Debug, Clone)]
pub enum Talked {
    /// There is a connection.
    Connected(NodeReport),
    /// The order is kept.
    Accepted(Digest, Vec<Digest>),
    /// It is not.
    Refused(Digest, Refusal),
    /// The bundle is there.
    Supplied(Digest),
    /// Done.
    Applied(NodeReport),
    /// Done, for want of an order.
    LoadedFromStore(NodeReport),
    /// So.
    Looked(NodeReport),
    /// It could not be done.
    CannotFollow,
    /// There is no connection any more.
    Lost,
}

/// An agent's process.
#[derive(Debug)]
pub struct Agent {
    /// What it decides by.
    pub cycle: Cycle,
    /// The place in the history up to which its watch has come; `None` before the first list.
    pub watch: Option<usize>,
    /// Whether something is on its way.
    pub moving: bool,
    /// What was seen last and not taken note of.
    pub inbox: Option<Seen>,
    /// Whether there is a connection to the loader.
    pub link: bool,
    /// Whether it waits for a write.
    pub writing: bool,
    /// The bundle that is on its way.
    pub fetching: Option<Digest>,
    /// When it looks again by itself.
    pub tick: Option<u64>,
}

/// One node.
#[derive(Debug)]
pub struct SimNode {
    /// Its name.
    pub name: NodeName,
    /// What runs; `None` while it is off.
    pub machine: Option<SimMachine>,
    /// The disk while it is off.
    pub disk: Disk,
    /// The kernel of the next boot.
    pub kernel: &'static str,
    /// How often it has booted.
    pub boots: u32,
    /// Raised whenever the agent or the loader starts anew: what was under way before is void.
    pub epoch: u32,
    /// The agent.
    pub agent: Option<Agent>,
    /// When the loader loads what the store holds without waiting longer.
    pub boot_at: Option<u64>,
    /// When the loader looks at marks.
    pub mark_at: Option<u64>,
    /// How often it went down without a driver's doing.
    pub cuts: u32,
    /// How often each content has taken it down, and how often something else had when it did so first.
    pub panics: BTreeMap<Digest, (u32, u32)>,
}

impl SimNode {
    /// A node that is off.
    pub fn new(name: NodeName, kernel: &'static str) -> Self {
        Self {
            name,
            machine: None,
            disk: Disk::default(),
            kernel,
            boots: 0,
            epoch: 0,
            agent: None,
            boot_at: None,
            mark_at: None,
            cuts: 0,
            panics: BTreeMap::new(),
        }
    }

    /// It boots; nothing of ours runs yet.
    pub fn boot(&mut self, now: u64, bug: Option<Bug>) {
        self.boots += 1;
        self.epoch += 1;
        let disk = std::mem::take(&mut self.disk);
        self.machine = Some(SimMachine::boot(disk, self.kernel, self.boot_id(), now, bug));
    }

    /// The id of the latest boot.
    pub fn boot_id(&self) -> String {
        format!("{}-boot-{}", self.name, self.boots)
    }

    /// It goes down.
    pub fn power_off(&mut self) {
        self.epoch += 1;
        self.cuts += 1;
        self.agent = None;
        if let Some(machine) = self.machine.take() {
            self.disk = machine.disk();
        }
    }

    /// The loader's process starts: a store is drawn where there is none.
    pub fn start_loader(&mut self, now: u64, draw: [u8; 16]) {
        self.epoch += 1;
        let Some(machine) = &self.machine else { return };
        machine.revive();
        machine.at(now);
        let boot_id = machine.boot_name().to_owned();
        let awaits = machine.change_disk(|disk| {
            disk.store.get_or_insert(tenon_order::StoreId::from_bytes(draw));
            disk.records.values().any(|record| record.awaits_boot(&boot_id))
        });
        self.boot_at = awaits.then_some(now + PATIENCE);
        self.mark_at = Some(now);
        if let Some(agent) = &mut self.agent {
            agent.link = false;
        }
    }

    /// The agent's process starts.
    pub fn start_agent(&mut self, now: u64, dice: u64) {
        self.epoch += 1;
        self.agent = Some(Agent {
            cycle: Cycle::new(clock::instant(now), Dice::new(dice)),
            watch: None,
            moving: false,
            inbox: None,
            link: false,
            writing: false,
            fetching: None,
            tick: None,
        });
    }

    /// The loader's answer. `mounted` are the published keys.
    pub fn answer(&mut self, talk: &Talk, mounted: &[Key], seals: &Seals, now: u64) -> Talked {
        let Some(machine) = &self.machine else { return Talked::Lost };
        machine.at(now);
        if !mounted.is_empty() && matches!(talk, Talk::Connect | Talk::Tell(_)) {
            machine.change_disk(|disk| disk.keys = mounted.to_vec());
        }
        match talk {
            Talk::Connect => report_on(machine).map_or(Talked::Lost, Talked::Connected),
            Talk::Look => report_on(machine).map_or(Talked::CannotFollow, Talked::Looked),
            Talk::Supply(bundle) => {
                machine.change_disk(|disk| disk.bundles.insert(*bundle));
                Talked::Supplied(*bundle)
            }
            Talk::Apply => self.apply(now).map_or(Talked::CannotFollow, Talked::Applied),
            Talk::Silent => self.apply(now).map_or(Talked::CannotFollow, Talked::LoadedFromStore),
            Talk::Tell(text) => {
                let digest = Digest::of(text.as_bytes());
                match self.take_order(text, seals) {
                    Ok(missing) => {
                        self.forget_panics();
                        if self.boot_at.is_some() {
                            drop(self.apply(now));
                        }
                        self.mark_at = Some(now);
                        Talked::Accepted(digest, missing)
                    }
                    Err(refusal) => Talked::Refused(digest, refusal),
                }
            }
        }
    }

    /// What is not ordered any more may be ordered anew: it is a new attempt then.
    fn forget_panics(&mut self) {
        let Some(machine) = &self.machine else { return };
        let ordered: Vec<_> = machine.with_disk(|disk| {
            let orders = disk.order.iter();
            orders.flat_map(|(_, order)| contents(order)).map(|(_, content)| content).collect()
        });
        self.panics.retain(|content, _| ordered.contains(content));
    }

    fn take_order(&self, text: &str, seals: &Seals) -> Result<Vec<Digest>, Refusal> {
        let machine = self.machine.as_ref().ok_or(Refusal::StoreFailed)?;
        machine.change_disk(|disk| {
            if disk.keys.is_empty() {
                return Err(Refusal::NoKeys);
            }
            let order = seals.verify(text, &disk.keys).ok_or(Refusal::Signature)?;
            let store = disk.store.ok_or(Refusal::StoreFailed)?;
            let held = disk.order.as_ref().map(|(text, order)| (text.as_str(), order.generation));
            let holder = Holder { node: &self.name, kept: disk.node.as_ref(), store, held };
            holder.admit(text, &order).map_err(|error| RequestError::refusal(&error))?;
            disk.node = Some(self.name.clone());
            disk.order = Some((text.to_owned(), (*order).clone()));
            let loads = order.modules.iter().filter_map(|module| match &module.wish {
                Wish::Loaded(load) => Some(load.bundle),
                Wish::Removed => None,
            });
            let mut missing: Vec<_> = loads.filter(|bundle| !disk.bundles.contains(bundle)).collect();
            missing.sort();
            missing.dedup();
            Ok(missing)
        })
    }

    /// The work itself.
    pub fn apply(&mut self, now: u64) -> Option<NodeReport> {
        self.boot_at = None;
        self.mark_at = Some(now);
        let machine = self.machine.as_ref()?;
        machine.at(now);
        let report = work::apply_on(machine).ok();
        if report.as_ref().is_some_and(is_postponed) {
            self.boot_at = Some(now + POSTPONED);
        }
        report
    }

    /// What has come due of the loader's chores; whether the work was done.
    pub fn chores(&mut self, now: u64) -> bool {
        let mut worked = false;
        if self.boot_at.is_some_and(|at| at <= now) {
            drop(self.apply(now));
            worked = true;
        }
        let dead = self.machine.as_ref().is_none_or(SimMachine::is_dead);
        if !dead && self.mark_at.is_some_and(|at| at <= now) {
            self.mark_at = None;
            if let Some(machine) = &self.machine {
                machine.at(now);
                let due = work::clear_marks_on(machine).ok().flatten();
                self.mark_at = due.map(|seconds| now + seconds.max(1) * 1000);
            }
        }
        worked
    }

    /// When a chore is due.
    pub fn chore_at(&self) -> Option<u64> {
        self.machine.as_ref()?;
        self.boot_at.into_iter().chain(self.mark_at).min()
    }
}
