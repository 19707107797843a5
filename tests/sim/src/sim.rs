//! The run: events in time, each of them one step.

mod cluster;
mod nodes;
mod operator;
mod plugins;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use tenon_order::{Digest, ModuleKey, NodeName, Order};

use crate::api::{ApiServer, COUNT, Change, Kind};
use crate::changes::Changes;
use crate::clock;
use crate::invariants;
use crate::node::{SimNode, Talk, Talked};
use crate::oracle;
use crate::planted::Bug;
use crate::pod::Named;
use crate::registry::Registry;
use crate::replica::{Call, Heard, Replica};
use crate::rng::Rng;
use crate::seal::{Key, Seals};
use crate::workload::{Act, Script, Workload};

/// What a run is made from.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// What users do.
    pub workload: Workload,
    /// Everything random.
    pub seed: u64,
    /// A bug planted on purpose.
    pub bug: Option<Bug>,
    /// Whether every event is told on standard output.
    pub trace: bool,
}

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its name in the list of reliability goals.
    pub invariant: &'static str,
    /// What was seen.
    pub message: String,
    /// When, in simulated milliseconds.
    pub at: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} ms: {}", self.invariant, self.at, self.message)
    }
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Over everything that happened: equal runs, equal hashes.
    pub hash: u64,
    /// How many events there were.
    pub steps: u64,
    /// The first invariant that did not hold.
    pub violation: Option<Violation>,
}

/// A request on its way.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) from: From,
    pub(crate) call: Call,
    /// Whether anybody waits for the answer.
    pub(crate) awaited: bool,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) enum From {
    /// A piece of work of a replica's process.
    Replica { at: usize, epoch: u32, name: String, task: u64 },
    /// An agent.
    Agent { node: usize, epoch: u32 },
}

/// Something that happens.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A user, an administrator or a fault does something.
    Act(Act),
    /// A replica's process starts.
    StartReplica(usize),
    /// It looks after the lease.
    Election(usize, u32),
    /// Its claim of the lease arrives; it expects the lease at this version.
    Claim { at: usize, epoch: u32, name: String, expected: Option<u64>, sent: u64 },
    /// The answer to that.
    Claimed { at: usize, epoch: u32, version: Option<u64>, sent: u64 },
    /// A list of a watch arrives.
    Listed { at: usize, epoch: u32, kind: Kind, opened: u32, objects: Vec<Change>, head: usize },
    /// The next change of a watch arrives.
    Watched(usize, u32, Kind, u32),
    /// Something may be due in its queues.
    Work(usize, u32),
    /// A request arrives at the server, or at the registry.
    Arrive(Box<Request>),
    /// An answer arrives.
    Answer(Box<Request>, Heard),
    /// A node's kubelet says what runs.
    Kubelet(usize, u32),
    /// A node's kubelet has been silent for so long that somebody says so.
    Unreachable(usize, u32),
    /// A node boots.
    Boot(usize),
    /// The loader's process starts.
    StartLoader(usize, u32),
    /// The agent's process starts.
    StartAgent(usize, u32),
    /// The agent's watch brings something.
    AgentWatch(usize, u32),
    /// The agent looks what there is to do.
    AgentTick(usize, u32),
    /// The agent's word arrives at the loader.
    Talk(usize, u32, Talk),
    /// The answer arrives at the agent.
    Talked(usize, u32, Talked),
    /// A transfer ends, well or not.
    Fetched(usize, u32, Digest),
    /// The loader looks at its chores.
    Chores(usize, u32),
    /// The garbage collector looks.
    Collect(Change),
    /// The `DaemonSet` controller looks: at nodes as they were when so much had been written.
    Daemons(BTreeMap<NodeName, std::sync::Arc<tenon_plan::node::NodeFacts>>, u64),
    /// A kubelet looks after a pod.
    Pod(Named),
}

/// The whole cluster.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each says by itself how far a run has come")]
pub struct Sim {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) setup: Setup,
    pub(crate) api: ApiServer,
    pub(crate) registry: Registry,
    pub(crate) seals: Seals,
    /// The keys that are published, the one that signs first.
    pub(crate) keys: Vec<Key>,
    pub(crate) replicas: Vec<Replica>,
    /// Until when each replica does nothing.
    pub(crate) frozen: Vec<u64>,
    pub(crate) nodes: Vec<SimNode>,
    queue: BTreeMap<(u64, u64), Event>,
    serial: u64,
    hash: u64,
    steps: u64,
    /// Acts that are still to come.
    pub(crate) acts_left: usize,
    /// When the last fault ends.
    pub(crate) faults_end: u64,
    pub(crate) script: Script,
    /// When a user last did not want a Module on a node.
    pub(crate) unwanted: BTreeMap<(ModuleKey, NodeName), u64>,
    /// What users do not want now.
    pub(crate) unwanted_now: Vec<(ModuleKey, NodeName)>,
    /// The writer of the write under way does not hold the lease.
    pub(crate) deposed: Option<String>,
    /// The write under way has no precondition.
    pub(crate) unseen: bool,
    /// The write under way labels what is not so.
    pub(crate) untrue: Option<String>,
    /// Numbers of pieces of work.
    pub(crate) task: u64,
    /// What was written when the difference was looked for last.
    pub(crate) compared: Option<(u64, u64)>,
    /// How often a machine was worked on.
    pub(crate) works: u64,
    /// What was written when the collector looked last.
    pub(crate) collected_at: u64,
    /// Since when a node lacks a discovered label.
    pub(crate) undiscovered: BTreeMap<NodeName, u64>,
    /// Objects that the collector has noticed.
    pub(crate) noticed: BTreeSet<String>,
    /// What the object that is being written ordered before.
    pub(crate) ordered_before: Option<std::rc::Rc<Order>>,
    /// When what lags comes at the latest.
    pub(crate) quiet_from: u64,
    /// How often a user has wanted an innocent driver tried again.
    pub(crate) retries: u32,
    /// Who is being changed.
    pub(crate) changes: Changes,
    pub(crate) violation: Option<Violation>,
    pub(crate) backup: Option<BTreeMap<NodeName, std::sync::Arc<tenon_api::NodeModulesConfig>>>,
    pub(crate) restored: bool,
    /// The history up to which changes were looked at.
    pub(crate) looked: [usize; COUNT],
    /// The changes of pods of which kubelets have heard.
    pub(crate) pods_told: usize,
    /// Whether the `DaemonSet` controller is about to look, and what was written when it looked last.
    pub(crate) daemons_look: bool,
    pub(crate) daemons_at: u64,
    /// Device classes that somebody else has made, by their uids.
    pub(crate) foreign_classes: BTreeMap<String, String>,
    /// Those that have come since an operator asked for a class of that name: nobody watches them.
    pub(crate) unseen_classes: BTreeSet<String>,
    /// Whether the operator was started anew at the end.
    pub(crate) restarted: bool,
    /// What the operator has written.
    pub(crate) operator_writes: u64,
    /// What others had written when it was started anew.
    others_wrote: u64,
}

/// The most events of a run: more is a loop.
const MOST_STEPS: u64 = 60_000;
/// So often may something be written after everything was as wished: what was on its way, and what is found to have
/// drifted.
const MOST_UNREST: u32 = 40;
/// So often a user wants an innocent driver tried again.
const MOST_RETRIES: u32 = 3;
/// Within this simulated time everything comes to rest after the last fault.
const PATIENCE: u64 = 20 * 60 * 1000;

/// Plays one run.
pub fn run(setup: Setup) -> Outcome {
    let mut sim = Sim::new(setup);
    let violation = sim.play();
    Outcome { hash: sim.hash, steps: sim.steps, violation }
}

impl Sim {
    /// A cluster in which nothing has happened yet.
    pub fn new(setup: Setup) -> Self {
        let mut rng = Rng::new(setup.seed);
        let script = Script::of(setup.workload, &mut rng);
        clock::set(0, 0);
        let mut sim = Self {
            now: 0,
            setup,
            api: ApiServer::default(),
            registry: Registry::default(),
            seals: Seals::default(),
            keys: vec![1],
            replicas: Vec::new(),
            frozen: vec![0; script.replicas],
            nodes: Vec::new(),
            queue: BTreeMap::new(),
            serial: 0,
            hash: 0xcbf2_9ce4_8422_2325,
            steps: 0,
            acts_left: script.acts.len(),
            faults_end: script.faults_end,
            unwanted: BTreeMap::new(),
            unwanted_now: Vec::new(),
            deposed: None,
            unseen: false,
            untrue: None,
            task: 0,
            compared: None,
            works: 0,
            collected_at: 0,
            undiscovered: BTreeMap::new(),
            noticed: BTreeSet::new(),
            ordered_before: None,
            quiet_from: 0,
            retries: 0,
            changes: Changes::default(),
            violation: None,
            backup: None,
            restored: false,
            looked: [0; COUNT],
            pods_told: 0,
            daemons_look: false,
            daemons_at: 0,
            foreign_classes: BTreeMap::new(),
            unseen_classes: BTreeSet::new(),
            restarted: false,
            operator_writes: 0,
            others_wrote: 0,
            rng,
            script,
        };
        sim.populate();
        sim
    }

    /// Something happens after `delay`.
    pub(crate) fn after(&mut self, delay: u64, event: Event) {
        self.serial += 1;
        self.queue.insert((self.now + delay, self.serial), event);
    }

    /// Whether faults still happen.
    pub(crate) const fn is_faulty(&self) -> bool {
        self.now < self.faults_end
    }

    /// How long a message takes; never more than the time by which a lease outlives its holder's deadline.
    pub(crate) fn latency(&mut self) -> u64 {
        if !self.is_faulty() {
            return self.rng.between(1, 20);
        }
        match self.rng.below(100) {
            0..=79 => self.rng.between(1, 20),
            80..=96 => self.rng.between(20, 400),
            _ => self.rng.between(400, 4000),
        }
    }

    /// How long a watch takes to tell; sometimes much longer.
    pub(crate) fn lag(&mut self) -> u64 {
        if !self.fault(10) {
            return self.latency();
        }
        let lag = self.rng.between(1000, 60_000);
        self.quiet_from = self.quiet_from.max(self.now + lag);
        lag
    }

    /// Something that is counted among the faults and happens so often in a thousand.
    pub(crate) fn fault(&mut self, in_a_thousand: u64) -> bool {
        let chance = self.rng.chance(in_a_thousand);
        chance && self.is_faulty()
    }

    /// An invariant does not hold. The first counts.
    pub(crate) fn violated(&mut self, invariant: &'static str, message: String) {
        let at = self.now;
        self.violation.get_or_insert(Violation { invariant, message, at });
    }

    pub(crate) fn tell(&self, what: impl FnOnce() -> String) {
        if self.setup.trace {
            use std::io::Write as _;
            // Nobody listens: no reason to stop.
            drop(writeln!(std::io::stdout(), "{:>9} ms  {}", self.now, what()));
        }
    }

    fn mix(&mut self, number: u64) {
        self.hash = (self.hash ^ number).wrapping_mul(0x0100_0000_01b3);
    }

    fn play(&mut self) -> Option<Violation> {
        let mut rested: Option<(u64, u64)> = None;
        let mut unrest = 0;
        while let Some(((at, serial), event)) = self.queue.pop_first() {
            self.now = at;
            self.seals.now = at;
            self.steps += 1;
            self.mix(at);
            self.mix(serial);
            self.mix(self.api.writes);
            clock::set(at, 0);
            self.happen(event);
            invariants::after_step(self);
            if let Some(violation) = self.violation.take() {
                return Some(violation);
            }
            if self.steps > MOST_STEPS {
                return Some(self.stuck("L1", "no end of events"));
            }
            if self.acts_left > 0 || self.is_faulty() || at < self.quiet_from {
                continue;
            }
            // Rest: everything as it was wished, and nothing written for a while.
            match rested {
                Some((_, writes)) if writes != self.api.writes => {
                    unrest += 1;
                    if self.restarted && self.others_wrote == self.api.writes - self.operator_writes {
                        return Some(
                            self.stuck("L8", "a restarted operator writes, and nothing has happened"),
                        );
                    }
                    if unrest > MOST_UNREST {
                        return Some(self.stuck("L8", "write after write although everything is as wished"));
                    }
                    rested = None;
                }
                Some((since, _)) if at >= since + self.script.rest && self.restart() => {
                    rested = Some((at, self.api.writes));
                }
                Some((since, _)) if at >= since + self.script.rest => return None,
                None if self.may_have_converged() => {
                    if oracle::difference(self).is_none() {
                        rested = Some((at, self.api.writes));
                    } else {
                        self.want_again();
                    }
                }
                None if at > self.faults_end.max(self.quiet_from) + PATIENCE => {
                    let (invariant, why) = oracle::difference(self).unwrap_or(("L1", String::new()));
                    return Some(self.stuck(invariant, &why));
                }
                Some(_) | None => {}
            }
        }
        Some(self.stuck("L1", "nothing happens any more"))
    }

    /// Where that is part of the plan, all replicas are started anew once everything is at rest; whether they were now. Nothing is
    /// written for it.
    ///
    /// Not where somebody still has something to find out: what users asked for while nobody led, that a registry answers again, or
    /// that a device class is somebody else's by now.
    fn restart(&mut self) -> bool {
        let knows =
            self.replicas.iter().any(|replica| replica.led && replica.caught_up && replica.tasks.is_empty());
        let is_there = |image: &std::sync::Arc<tenon_api::ModuleImage>| {
            image
                .status
                .as_ref()
                .is_some_and(|status| status.phase == Some(tenon_api::module_image::ImagePhase::Ready))
        };
        let is_over = knows && self.unseen_classes.is_empty() && self.api.images.values().all(is_there);
        let restarts = self.script.restarts && is_over && !std::mem::replace(&mut self.restarted, true);
        if restarts {
            self.tell(|| "all replicas are started anew".to_owned());
            // Long enough for the lease to pass on and everything to be looked at.
            self.script.rest = self.script.rest.max(60_000);
            self.others_wrote = self.api.writes - self.operator_writes;
            for at in 0..self.replicas.len() {
                self.start_replica(at);
            }
        }
        restarts
    }

    /// Power cuts may have made a good driver suspected of crashing: that is what a user's wish to try again is for.
    fn want_again(&mut self) {
        if let Some(key) = oracle::suspected_innocent(self).filter(|_| self.retries < MOST_RETRIES) {
            self.retries += 1;
            self.act(Act::Retry(key, 100 + self.retries));
        }
    }

    /// Whether anything has happened since the difference was looked for last.
    fn may_have_converged(&mut self) -> bool {
        let now = Some((self.api.writes, self.works));
        std::mem::replace(&mut self.compared, now) != now
    }

    fn stuck(&self, invariant: &'static str, why: &str) -> Violation {
        Violation { invariant, message: why.to_owned(), at: self.now }
    }

    fn happen(&mut self, event: Event) {
        // A process that is stopped takes note of what happened when it goes on.
        if let Some(at) = replica_of(&event) {
            let until = self.frozen.get(at).copied().unwrap_or_default();
            if until > self.now {
                let delay = until - self.now + self.rng.between(0, 50);
                return self.after(delay, event);
            }
        }
        match event {
            Event::Act(act) => {
                self.acts_left -= 1;
                self.tell(|| format!("ACT {act:?}"));
                self.act(act);
            }
            Event::StartReplica(_)
            | Event::Election(..)
            | Event::Claim { .. }
            | Event::Claimed { .. }
            | Event::Listed { .. }
            | Event::Watched(..)
            | Event::Work(..) => self.operator_event(event),
            Event::Arrive(request) => self.arrive(*request),
            Event::Answer(request, heard) => self.answered(&request, heard),
            Event::Daemons(nodes, writes) => self.daemons(&nodes, writes),
            Event::Pod(key) => self.pod(&key),
            Event::Collect(garbage) => {
                self.tell(|| format!("collected {}", name_of(&garbage)));
                self.api.collect(&garbage);
                self.noticed.remove(&garbage.uid().unwrap_or_default());
            }
            _ => self.node_event(event),
        }
        self.spread();
    }

    /// Watches that are behind are moved on, and garbage is noticed.
    fn spread(&mut self) {
        for at in 0..self.replicas.len() {
            let Some(replica) = self.replicas.get(at) else { continue };
            for kind in replica.behind(&self.api) {
                let delay = self.lag();
                let Some(replica) = self.replicas.get_mut(at) else { continue };
                let epoch = replica.epoch;
                let Some(watch) = replica.watches.get_mut(kind as usize) else { continue };
                watch.moving = true;
                let opened = watch.opened;
                self.after(delay, Event::Watched(at, epoch, kind, opened));
            }
        }
        self.spread_to_agents();
        self.spread_to_plugins();
        self.notice_garbage();
    }
}

const fn replica_of(event: &Event) -> Option<usize> {
    match event {
        Event::Election(at, _)
        | Event::Claimed { at, .. }
        | Event::Listed { at, .. }
        | Event::Watched(at, ..)
        | Event::Work(at, _) => Some(*at),
        Event::Answer(request, _) => match request.from {
            From::Replica { at, .. } => Some(at),
            From::Agent { .. } => None,
        },
        _ => None,
    }
}

/// For people.
pub(crate) fn name_of(change: &Change) -> String {
    match change {
        Change::Node(name, ..) => format!("Node {name}"),
        Change::Module(key, _) => format!("Module {key}"),
        Change::Image(key, ..) => format!("ModuleImage {key}"),
        Change::Config(name, ..) => format!("NodeModulesConfig {name}"),
        Change::Set(key, _) => format!("DaemonSet {}/{}", key.0, key.1),
        Change::Pod(key, _) => format!("Pod {}/{}", key.0, key.1),
        Change::Preflight(name, _) => format!("PreflightValidation {name}"),
    }
}
