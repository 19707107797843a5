//! What the operator knows of the cluster: the kinds of objects that count, indexed both ways, and the queues that their changes feed.
//!
//! Watches call [`World`] synchronously; it stores what counts and says which keys are to be looked at again. No
//! change costs more than what it touches: a node's event its Modules, a Module's event its nodes. Nothing is taken to
//! be gone because a list failed: only an event of its deletion, or a complete list without it, says so.

mod claims;
mod classes;
mod erasing;
mod facts;
#[cfg(test)]
mod fixture;
mod flight;
mod index;
mod jobs;
mod leaving;
mod node;
mod preflights;
mod takeover;
mod watch;
mod workloads;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use kube::ResourceExt;
use tenon_api::node_modules_config::NodeModulesConfig;
use tenon_api::{Module, ModuleImage};
use tenon_order::{Digest, ModuleKey, NodeName};
use tenon_plan::assign::Waiting;
use tenon_plan::node::NodeFacts;
use tenon_plan::rollout::Turn;
use tenon_plan::workload::Problem;
use tokio::sync::{Notify, watch as channel};
use tokio::time::Instant;

pub use claims::{ClaimsIndex, follow_claims};
pub use classes::follow_classes;
pub use erasing::Erasing;
pub use facts::{FactsIndex, KnownFacts, follow_facts};
pub use index::Index;
pub use jobs::{JobsIndex, KnownJob, follow_jobs};
pub use node::{Node, NodeInfo, NodeSpec, NodeStatus};
pub use takeover::{catch_up, take_in};
pub use watch::{Kind, Listed, follow, now};
pub use workloads::{
    KnownPod, KnownSet, Pod, PodCondition, PodSpec, PodStatus, Workload, WorkloadsIndex, follow_pods,
    follow_sets,
};

use crate::depot::{Assignments, Build, Kernels, RunningKernel};
use crate::queue::Queue;
use flight::{Ends, Orders};

/// Changes of one Module that come this close together are rolled up once, where it has few nodes.
const ROLL_UP_WITHIN: Duration = Duration::from_millis(300);
/// So much longer for each node that it has, so that what its status costs does not grow with them: while all of them load
/// it, they report for as long as there are nodes.
const ROLL_UP_PER_NODE: Duration = Duration::from_millis(1);
/// Nobody is to wait longer for a status.
const ROLL_UP_AT_MOST: Duration = Duration::from_secs(5);
/// New kernels that appear this close together are provisioned for at once.
const PROVISION_WITHIN: Duration = Duration::from_millis(100);

/// The name of a ModuleImage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ImageKey {
    /// The key of an object.
    pub fn of(image: &ModuleImage) -> Self {
        Self { namespace: image.namespace().unwrap_or_default(), name: image.name_any() }
    }
}

impl fmt::Display for ImageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What is to be looked at.
#[derive(Debug)]
pub struct Queues {
    /// Modules whose finalizer and images may have to change.
    pub modules: Queue<ModuleKey>,
    /// Images to look for.
    pub images: Queue<ImageKey>,
    /// Nodes whose object or labels may have to change.
    pub nodes: Queue<NodeName>,
    /// Modules whose status may have to change.
    pub status: Queue<ModuleKey>,
    /// Modules whose plugins may have to change.
    pub workloads: Queue<ModuleKey>,
    /// PreflightValidations whose status may have to change.
    pub preflights: Queue<String>,
}

impl Queues {
    fn with_clock(clock: fn() -> Instant) -> Self {
        Self {
            modules: Queue::with_clock(clock),
            images: Queue::with_clock(clock),
            nodes: Queue::with_clock(clock),
            status: Queue::with_clock(clock),
            workloads: Queue::with_clock(clock),
            preflights: Queue::with_clock(clock),
        }
    }
}

/// What is known, and what is to be looked at.
#[derive(Debug)]
pub struct World {
    index: RwLock<Index>,
    /// What is to be looked at.
    pub queues: Queues,
    /// Which node may have which bundle: follows the nodes' objects.
    assignments: Assignments,
    /// Nodes whose objects are to be read before they are decided about.
    doubted: Mutex<HashSet<NodeName>>,
    /// Nodes that are themselves to be read before that.
    nodes_doubted: Mutex<HashSet<NodeName>>,
    /// Which node runs which build of a kernel: follows what agents report.
    kernels: Kernels,
    /// Woken when the kernels that there are images for change, or the facts about kernels.
    pub kernels_changed: Notify,
    /// Woken when an image or a Job that makes one is there, is another, or is gone.
    pub images_changed: Notify,
    /// Repositories out of which something is being deleted.
    erasing: Mutex<BTreeSet<String>>,
    clock: Clock,
    began: Instant,
    /// Held by whoever brings news, until it is known or was found to be old. If two of one object came at once, each would find its
    /// own to be the newer, and the older would stay: for good, if it is an answer that tells of what a watch has just told the end of.
    news: Mutex<()>,
    /// The versions of Nodes that are known, by a watch or by the answer to a write of ours.
    node_versions: Mutex<HashMap<NodeName, u64>>,
    /// Nodes, their objects, images and facts that were deleted.
    ended_nodes: Mutex<Ends<NodeName>>,
    ended_configs: Mutex<Ends<NodeName>>,
    ended_images: Mutex<Ends<ImageKey>>,
    ended_facts: Mutex<Ends<String>>,
    /// Orders that no object shows yet.
    orders: Mutex<Orders>,
    /// The Jobs that make images.
    jobs: Mutex<JobsIndex>,
    /// The pods and `DaemonSet`s of plugins.
    workloads: Mutex<WorkloadsIndex>,
    /// The claims of devices that are in use.
    claims: Mutex<ClaimsIndex>,
    /// Whether there has been a Module with a DRA driver.
    has_dra: channel::Sender<bool>,
}

/// Where the world's times come from.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Milliseconds since 1970.
    pub wall: fn() -> u64,
    /// For what is to happen later.
    pub steady: fn() -> Instant,
}

impl World {
    /// An empty world, which keeps the depot's assignments.
    pub fn new(assignments: Assignments) -> Self {
        Self::with_clock(assignments, Clock { wall: now, steady: Instant::now })
    }

    /// The same by another clock.
    pub fn with_clock(assignments: Assignments, clock: Clock) -> Self {
        Self {
            index: RwLock::default(),
            queues: Queues::with_clock(clock.steady),
            assignments,
            doubted: Mutex::default(),
            nodes_doubted: Mutex::default(),
            kernels: Kernels::default(),
            kernels_changed: Notify::new(),
            images_changed: Notify::new(),
            erasing: Mutex::default(),
            clock,
            began: (clock.steady)(),
            news: Mutex::default(),
            node_versions: Mutex::default(),
            ended_nodes: Mutex::default(),
            ended_configs: Mutex::default(),
            ended_images: Mutex::default(),
            ended_facts: Mutex::default(),
            orders: Mutex::default(),
            jobs: Mutex::default(),
            workloads: Mutex::default(),
            claims: Mutex::default(),
            has_dra: channel::Sender::new(false),
        }
    }

    /// The same, keeping what the depot knows of the nodes' kernels.
    #[must_use]
    pub fn with_kernels(self, kernels: Kernels) -> Self {
        Self { kernels, ..self }
    }

    /// Milliseconds since 1970, by the world's clock.
    pub fn now(&self) -> u64 {
        (self.clock.wall)()
    }

    /// Milliseconds since this world began, by a clock that nobody sets: for what is to last some time.
    pub fn steady(&self) -> u64 {
        let since = (self.clock.steady)().saturating_duration_since(self.began);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// What is known now. Hold it briefly: watches wait for it.
    pub fn read(&self) -> RwLockReadGuard<'_, Index> {
        // A panic elsewhere leaves the index as it was: its changes do not panic.
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here until the guard goes nobody else brings news. What watches and answers bring begins with this; what they call does not.
    fn take_news(&self) -> MutexGuard<'_, ()> {
        lock(&self.news)
    }

    /// A node was seen, or is gone.
    pub fn node(&self, name: &NodeName, facts: Option<NodeFacts>) {
        let before = self.architectures_in_question();
        let (touched, waiting) = {
            let mut index = self.write();
            let touched = index.set_node(name, facts, self.steady());
            let waiting: Vec<_> =
                touched.modules.iter().flat_map(|module| index.waiting_for_a_first(module)).collect();
            (touched, waiting)
        };
        // Which of them goes first is decided by all of them.
        for node in waiting {
            self.queues.nodes.add(node);
        }
        self.look_at_architectures_again(before.as_ref(), &touched.targets);
        self.see_kernel(name);
        self.pass_turns_on(&touched.modules);
        self.touch(Some(name), touched.modules, touched.targets);
    }

    /// What the node and its object say of its kernel, to the depot.
    fn see_kernel(&self, name: &NodeName) {
        // Held until it is told, so that nothing older is told afterwards.
        let index = self.read();
        let known = index.node(name).zip(index.config(name));
        self.kernels.set_node(name, known.and_then(|(node, config)| running(node, config)));
    }

    /// A Module was seen, or is gone.
    pub fn module(&self, key: &ModuleKey, module: Option<Module>) {
        if module.as_ref().is_some_and(|module| module.spec.dra.is_some()) {
            self.has_dra.send_if_modified(|has_dra| !std::mem::replace(has_dra, true));
        }
        let mut rivals = self.rivals(key);
        let nodes = self.write().set_module(key, module.map(Arc::new), self.steady());
        self.look_at_preflights_again();
        rivals.extend(self.rivals(key));
        for rival in rivals {
            self.roll_up(rival);
        }
        // How modules are loaded is part of what is predicted.
        let images: Vec<_> = self.read().images_of(key).map(|image| ImageKey::of(image)).collect();
        for image in images {
            self.queues.images.add(image);
        }
        self.queues.modules.add(key.clone());
        self.queues.workloads.add(key.clone());
        self.queues.status.add_within(key.clone(), ROLL_UP_WITHIN);
        for node in nodes {
            self.queues.nodes.add(node);
        }
    }

    /// The Modules whose status names this one, or may come to.
    fn rivals(&self, key: &ModuleKey) -> BTreeSet<ModuleKey> {
        self.read().modules_touching(key).cloned().collect()
    }

    /// A Module was seen whose status or labels alone differ: they are kept, and a status that is not the one that is known
    /// is held against the facts. It may be a late write of ours, or somebody else's.
    fn refresh_module(&self, key: &ModuleKey, module: Module) {
        let is_same = |known: &Module| {
            known.status == module.status && known.metadata.generation == module.metadata.generation
        };
        let same = self.read().module(key).is_some_and(|known| is_same(known));
        self.write().refresh_module(key, Arc::new(module));
        if !same {
            self.roll_up(key.clone());
        }
    }

    /// As [`Self::wrote_config`], of a Module's status.
    pub fn wrote_status(&self, module: Module) {
        let _news = self.take_news();
        let Some(key) = Index::key_of(&module) else { return };
        let Some(known) = self.read().module(&key).filter(|known| is_later(&module, &***known)).cloned()
        else {
            return;
        };
        // With its version, so that no late event brings the former status back, to be replaced once more.
        if watch::is_same_wish(&known, &module) {
            // What was wished is wished again, with another wish between of which nobody has told: the status is about the former.
            let is_another = known.metadata.generation != module.metadata.generation;
            self.write().refresh_module(&key, Arc::new(module));
            if is_another {
                self.roll_up(key);
            }
        } else {
            self.module(&key, Some(module));
        }
    }

    /// Somebody has tried to see to a Module's plugin, and could not: its status waits no longer for that.
    pub fn plugin_tried(&self, key: &ModuleKey) {
        if self.write().look_at_plugin(key) {
            self.roll_up(key.clone());
        }
    }

    /// The same of a node.
    pub fn node_tried(&self, name: &NodeName) {
        let waiting = self.write().look_at_node(name);
        for module in waiting {
            self.roll_up(module);
        }
    }

    /// Why a Module's plugin is not there as wished, if it is not.
    pub fn plugin_problem(&self, key: &ModuleKey, problem: Option<Problem>) {
        if self.write().set_plugin_problem(key, problem) {
            self.roll_up(key.clone());
        }
    }

    /// What has to leave a node before drivers do that are to be changed or removed there.
    pub fn leaving(&self, node: &NodeName, waiting: BTreeMap<ModuleKey, Waiting>) {
        let changed = self.write().set_leaving(node, waiting);
        for module in changed {
            self.roll_up(module);
        }
    }

    /// Facts about a kernel were seen under this name, or are gone: the verdicts on its images are made anew.
    pub fn facts(&self, name: &str, facts: Option<KnownFacts>) {
        let about = |facts: &KnownFacts| (facts.release.clone(), facts.evidence.build_id.clone());
        self.kernels.set_facts(name, facts.as_ref().map(about));
        let images = {
            let mut index = self.write();
            let releases = index.set_facts(name, facts);
            let concerned = index.images().filter(|image| releases.contains(&image.spec.kernel));
            concerned.map(|image| ImageKey::of(image)).collect::<Vec<_>>()
        };
        for image in images {
            self.queues.images.add(image);
        }
        self.kernels_changed.notify_one();
    }

    /// A ModuleImage was seen, or is gone.
    pub fn image(&self, key: &ImageKey, image: Option<ModuleImage>) {
        let (touched, no_longer_alone) = {
            let mut index = self.write();
            let known = index.image(key).cloned();
            let touched = index.set_image(key, image.map(Arc::new).as_ref());
            let came_or_went = known.is_some() != index.image(key).is_some();
            let about = came_or_went.then(|| index.image(key).cloned().or(known)).flatten();
            (touched, about.map(|image| index.few_images_for_kernel_of(&image)).unwrap_or_default())
        };
        self.kernels_changed.notify_one();
        self.images_changed.notify_one();
        self.queues.images.add(key.clone());
        for other in no_longer_alone {
            self.queues.images.add(other);
        }
        self.look_at_preflights_again();
        for module in touched.modules {
            self.queues.modules.add_within(module.clone(), PROVISION_WITHIN);
            self.roll_up(module);
        }
        for node in touched.nodes {
            self.queues.nodes.add(node);
        }
    }

    /// A watch or a list brought a node's object.
    ///
    /// Both may lag behind what is known from our own writes: what is older changes nothing, for by what was true before a
    /// change somebody would be given the turn that it has taken. But it may also be that time has gone back, when etcd
    /// was restored: so the node is in doubt, and its object is read before anything is decided about it.
    pub fn config_seen(&self, name: &NodeName, config: NodeModulesConfig) {
        let known = self.read().config(name).cloned();
        match known {
            Some(known) if known.metadata.resource_version == config.metadata.resource_version => {}
            Some(known) if !is_newer(&config, &*known) => self.doubt(name),
            _ => self.config(name, Some(config)),
        }
    }

    /// A node's object is gone, says a watch; `version` is that of its deletion, unless a list lacks it.
    ///
    /// It goes with its Node. If that is still there by what is known, a watch may be behind: the Node is read before an
    /// object is made for it, which would be collected, and made, again and again.
    pub fn config_gone(&self, name: &NodeName, version: Option<u64>) {
        lock(&self.ended_configs).note(name.clone(), version, (self.clock.steady)());
        if self.read().node(name).is_some() {
            lock(&self.nodes_doubted).insert(name.clone());
        }
        self.config(name, None);
    }

    /// The same of an image.
    fn image_gone(&self, key: &ImageKey, version: Option<u64>) {
        lock(&self.ended_images).note(key.clone(), version, (self.clock.steady)());
        self.image(key, None);
    }

    /// Whether a state of a node's object is earlier than its end, of which a watch has told.
    fn is_past(&self, name: &NodeName, config: &NodeModulesConfig) -> bool {
        let version = version(config.metadata.resource_version.as_deref());
        lock(&self.ended_configs).is_past(name, version)
    }

    /// What the API server answered to a write of ours: known at once, without waiting for the watch. A watch that lags
    /// would otherwise have the same thing written again.
    pub fn wrote_config(&self, config: NodeModulesConfig) {
        let Ok(name) = config.name_any().parse() else { return };
        let _news = self.take_news();
        let known = self.read().config(&name).cloned();
        let is_news = known.map_or_else(|| !self.is_past(&name, &config), |known| is_newer(&config, &*known));
        if is_news {
            self.config(&name, Some(config));
        }
    }

    /// What a consistent read brought that was begun when the version `before` was known. It counts as long as nothing
    /// newer has come meanwhile.
    pub fn config_read(&self, name: &NodeName, before: Option<&str>, config: Option<NodeModulesConfig>) {
        let _news = self.take_news();
        let known = self.read().config(name).cloned();
        let version = |config: &NodeModulesConfig| config.resource_version();
        if config.as_ref().and_then(version) == known.as_deref().and_then(version) {
            return;
        }
        let is_as_before = known.as_deref().and_then(version).as_deref() == before;
        let newer =
            || known.as_ref().zip(config.as_ref()).is_some_and(|(known, config)| is_newer(config, &**known));
        let is_past = || known.is_none() && config.as_ref().is_some_and(|config| self.is_past(name, config));
        if (is_as_before || newer()) && !is_past() {
            self.config(name, config);
        }
    }

    /// Has a node's object read before the node is decided about.
    pub fn doubt(&self, name: &NodeName) {
        lock(&self.doubted).insert(name.clone());
        self.queues.nodes.add(name.clone());
    }

    /// Has a Node read before it is decided about: its labels may not be what is known of them, or it may be gone.
    pub fn doubt_node(&self, name: &NodeName) {
        lock(&self.nodes_doubted).insert(name.clone());
        self.queues.nodes.add(name.clone());
    }

    /// Whether the node's object is to be read first; whoever asks does so.
    pub fn is_doubted(&self, name: &NodeName) -> bool {
        lock(&self.doubted).remove(name)
    }

    /// Whether the Node is to be read first; whoever asks does so.
    pub fn is_node_doubted(&self, name: &NodeName) -> bool {
        lock(&self.nodes_doubted).remove(name)
    }

    /// This is what there is of a node's object, or that there is none.
    pub fn config(&self, name: &NodeName, config: Option<NodeModulesConfig>) {
        let version = config.as_ref().and_then(|config| config.metadata.resource_version.as_deref());
        lock(&self.orders).known(name, version);
        match &config {
            Some(config) => self.assignments.set(name, bundles(config)),
            None => self.assignments.remove(name),
        }
        let (modules, waiting, ended) = {
            let mut index = self.write();
            let ended = index.versions_ending(name, config.as_ref());
            let modules = index.set_config(name, config.map(Arc::new), self.steady());
            let waiting: Vec<_> =
                modules.iter().flat_map(|module| index.waiting_for_a_first(module)).collect();
            (modules, waiting, ended)
        };
        self.versions_ended(ended);
        self.see_kernel(name);
        self.pass_turns_on(&modules);
        self.touch(Some(name), modules, BTreeSet::new());
        for node in waiting {
            self.queues.nodes.add(node);
        }
    }

    /// Asks for a node's turns to be changed, decided about by this version of its object.
    pub fn ask_turns(
        &self,
        name: &NodeName,
        modules: &BTreeSet<ModuleKey>,
        version: Option<&str>,
    ) -> BTreeMap<ModuleKey, Turn> {
        if modules.is_empty() {
            BTreeMap::new()
        } else {
            self.write().ask(name, modules, version, self.steady())
        }
    }

    /// A node wants no turn but for these Modules. Returns when to say so again, where a turn is not free yet.
    pub fn give_turns_back(&self, name: &NodeName, but: &BTreeSet<ModuleKey>) -> Option<Duration> {
        let (freed, again) = self.write().give_back(name, but, self.steady());
        self.pass_turns_on(&freed);
        again.map(Duration::from_millis)
    }

    /// Wakes the nodes whose turn has come.
    fn pass_turns_on(&self, modules: &BTreeSet<ModuleKey>) {
        let next = self.write().next_turns(modules);
        for node in next {
            self.queues.nodes.add(node);
        }
    }

    /// As [`Self::wrote_config`], of labels that were written to a node; `None` took a label away. `version` is the node's
    /// after that: what the watch tells of earlier ones is no news.
    ///
    /// Only what we wrote is taken over: the rest of the answer may be older than what the watch has brought meanwhile.
    pub fn wrote_labels(
        &self,
        name: &NodeName,
        uid: &str,
        written: &BTreeMap<String, Option<String>>,
        version: Option<u64>,
    ) {
        let _news = self.take_news();
        let Some(known) = self.read().node(name).filter(|known| known.uid == uid).cloned() else { return };
        // What the watch has told of since has our write in it, or has undone it.
        if version.is_some() && self.node_version(name) > version {
            return;
        }
        lock(&self.node_versions).extend(version.map(|version| (name.clone(), version)));
        let mut facts = NodeFacts::clone(&known);
        for (key, value) in written {
            match value {
                Some(value) => facts.labels.insert(key.clone(), value.clone()),
                None => facts.labels.remove(key),
            };
        }
        if facts != *known {
            self.node(name, Some(facts));
        }
    }

    /// The version of a Node that is known.
    pub fn node_version(&self, name: &NodeName) -> Option<u64> {
        lock(&self.node_versions).get(name).copied()
    }

    /// What a consistent read brought of a Node that was begun when the version `before` was known. It counts as long as
    /// nothing newer has come meanwhile.
    pub fn node_read(&self, name: &NodeName, before: Option<u64>, node: Option<Node>) {
        let _news = self.take_news();
        let known = self.node_version(name);
        let Some(node) = node else {
            if known == before {
                // Its version stays known: what a watch that is behind tells of its life is no news.
                self.node(name, None);
            }
            return;
        };
        let read = version(node.metadata.resource_version.as_deref());
        let is_past = || known.is_none() && lock(&self.ended_nodes).is_past(name, read);
        if read != known && (known == before || read > known) && !is_past() {
            self.see_node(name, node);
        }
    }

    /// What a consistent list brought of a Node: news, if the watch has not got as far, nor told of its end.
    fn node_listed(&self, node: Node) {
        let Some(name) = Node::key(&node.metadata) else { return };
        let _news = self.take_news();
        let listed = version(node.metadata.resource_version.as_deref());
        let is_news = match self.node_version(&name) {
            Some(known) => listed > Some(known),
            None => !lock(&self.ended_nodes).is_past(&name, listed),
        };
        if is_news {
            self.see_node(&name, node);
        }
    }

    /// The same of a Node.
    fn node_gone(&self, name: &NodeName, version: Option<u64>) {
        lock(&self.node_versions).remove(name);
        lock(&self.ended_nodes).note(name.clone(), version, (self.clock.steady)());
        self.node(name, None);
    }

    /// This is what there is of a Node.
    fn see_node(&self, name: &NodeName, node: Node) {
        let version = version(node.metadata.resource_version.as_deref());
        let facts = node::project(node);
        // A heartbeat changes nothing that counts.
        if self.read().node(name).map(|known| &**known) != facts.as_ref() {
            self.node(name, facts);
        }
        // Afterwards: a version never stands for facts that are not known yet.
        lock(&self.node_versions).extend(version.map(|version| (name.clone(), version)));
    }

    /// A node is about to be ordered these Modules, by a write that changes this version of its object.
    pub fn will_order(&self, name: &NodeName, version: Option<&str>, modules: BTreeSet<ModuleKey>) {
        lock(&self.orders).decided(name, version, modules, (self.clock.steady)());
    }

    /// Whether an order that names the Module may be on its way to some node's object.
    pub fn may_be_ordered(&self, module: &ModuleKey) -> bool {
        lock(&self.orders).name(module, (self.clock.steady)())
    }

    /// As [`Self::wrote_config`].
    pub fn wrote_image(&self, image: ModuleImage) {
        let key = ImageKey::of(&image);
        let _news = self.take_news();
        let known = self.read().image(&key).cloned();
        let made = version(image.metadata.resource_version.as_deref());
        let is_past = || lock(&self.ended_images).is_past(&key, made);
        if known.map_or_else(|| !is_past(), |known| is_newer(&image, &*known)) {
            self.image(&key, Some(image));
        }
    }

    /// The Module's status may differ.
    fn roll_up(&self, module: ModuleKey) {
        let nodes = u32::try_from(self.read().count_nodes_of(&module)).unwrap_or(u32::MAX);
        let within =
            ROLL_UP_WITHIN.saturating_add(ROLL_UP_PER_NODE.saturating_mul(nodes)).min(ROLL_UP_AT_MOST);
        self.queues.status.add_within(module, within);
    }

    fn touch(&self, node: Option<&NodeName>, modules: BTreeSet<ModuleKey>, targets: BTreeSet<ModuleKey>) {
        if let Some(node) = node {
            self.queues.nodes.add(node.clone());
        }
        for module in targets {
            self.queues.modules.add_within(module, PROVISION_WITHIN);
        }
        for module in modules {
            if self.read().module(&module).is_none_or(|module| module.metadata.deletion_timestamp.is_some()) {
                self.queues.modules.add_within(module.clone(), PROVISION_WITHIN);
            }
            self.roll_up(module);
        }
    }

    /// Everything has been listed once: what is not assigned by now is not assigned.
    pub fn complete(&self) {
        self.assignments.complete();
        self.kernels.complete();
    }
}

/// Nothing panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether an object is an earlier state of the one that is known: the answer to a write of ours may be ahead of the watch.
/// Not for what a list says: after the cluster was restored from a backup, versions begin anew further down.
fn is_older<K: ResourceExt>(object: &K, known: &K) -> bool {
    object.uid() == known.uid() && is_newer(known, object)
}

/// An object's version. Those of one kind are numbers that grow (KEP-5504).
pub(crate) fn version(resource_version: Option<&str>) -> Option<u64> {
    resource_version.and_then(|version| version.parse().ok())
}

/// Whether an object is newer than the one that is known.
fn is_newer<K: ResourceExt>(object: &K, known: &K) -> bool {
    let version = |object: &K| version(object.meta().resource_version.as_deref());
    version(object) > version(known)
}

/// Whether an object is a later state of the one that is known.
fn is_later<K: ResourceExt>(object: &K, known: &K) -> bool {
    object.uid() == known.uid() && is_newer(object, known)
}

/// The build of the kernel that a node runs. Its agent says which build; that it may be one of this release says its
/// kubelet, whose word an agent cannot change.
fn running(node: &NodeFacts, config: &NodeModulesConfig) -> Option<RunningKernel> {
    let status = config.status.as_ref()?;
    let release = status.kernel_version.clone().filter(|release| release == node.kernel.as_str())?;
    Some(RunningKernel {
        build: Build { release, build_id: status.kernel_build_id.clone()? },
        architecture: node.architecture.clone(),
        uid: node.uid.clone(),
    })
}

/// The bundles that a node may have: those of its spec.
fn bundles(config: &NodeModulesConfig) -> impl Iterator<Item = Digest> {
    config.spec.modules.iter().filter_map(|entry| entry.bundle.as_ref()?.parse().ok())
}
