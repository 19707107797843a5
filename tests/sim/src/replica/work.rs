//! What a replica that leads works on, request by request.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::resource::v1::DeviceClass;
use kube::ResourceExt as _;
use tenon_api::labels::finalizer;
use tenon_api::module_image::BundleStatus;
use tenon_api::node_modules_config::NodeModulesConfig;
use tenon_api::{Module, ModuleImage, reasons};
use tenon_operator::controllers::Reconciler as _;
use tenon_operator::images::Images;
use tenon_operator::modules::{self, Modules, Provision};
use tenon_operator::nodes::{self, Node, Nodes};
use tenon_operator::preflight::{Preflight, Preflights};
use tenon_operator::queue::Next;
use tenon_operator::status::{Rollup, Status};
use tenon_operator::workloads::Workloads;
use tenon_operator::world::{ImageKey, KnownSet, Node as NodeObject, Workload as SeenWorkload, take_in};
use tenon_order::{Digest, ModuleKey, NodeName, Order, Wish};
use tenon_plan::assign::{Assignment, OrderChange, assign};
use tenon_plan::preflight;
use tenon_plan::provision::{self, Finding};
use tenon_plan::removal::{self, Finalizer};
use tenon_plan::rollout::{self, Standing, Turn};
use tenon_plan::rollup;
use tenon_plan::workload::class::{self, Classes};
use tenon_plan::workload::plan::{self as plugin, Plan, SetSeen};
use tenon_plan::workload::{Problem, Role};

use super::{Replica, node_object};
use crate::api::{Answer, Change, Write};
use crate::clock;
use crate::planted::Bug;
use crate::registry::{self, Registry};
use crate::seal::{self, Seals};

/// How often a deleted Module is looked at that waits for its nodes: `modules::LEAVING_AGAIN`.
const LEAVING_AGAIN: Duration = Duration::from_secs(30);

/// How often a plugin is looked at that is not there as wished: `workloads::AGAIN`.
const PLUGIN_AGAIN: Duration = Duration::from_mins(1);

/// What is worked on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    /// Everything, before anything is changed.
    TakeOver,
    /// A Module's finalizer and images.
    Module(ModuleKey),
    /// An image.
    Image(ImageKey),
    /// A node.
    Node(NodeName),
    /// A Module's status.
    Status(ModuleKey),
    /// A Module's plugin.
    Plugin(ModuleKey),
    /// A preflight's status.
    Preflight(String),
}

/// One request of a piece of work.
#[derive(Debug, Clone)]
pub enum Call {
    /// A write.
    Write(Write),
    /// A consistent list of all Nodes, before this replica leads.
    ListNodes,
    /// The same of Modules.
    ListModules,
    /// A consistent list of all nodes' objects, before that, or before a finalizer goes.
    ListConfigs,
    /// A node's object that is in doubt.
    GetConfig(NodeName),
    /// A Node whose labels are in doubt.
    GetNode(NodeName),
    /// A look into the registry.
    Find(Arc<ModuleImage>),
    /// The owners of all device classes that bear a Module's mark.
    ListClasses,
    /// The device classes that bear the mark, and those of these names.
    GetClasses(BTreeMap<String, String>, Vec<String>),
}

/// A piece of work that has begun.
#[derive(Debug)]
pub struct Task {
    key: Job,
    calls: VecDeque<Call>,
    next: Next,
    /// The Module whose finalizer goes when the list says so.
    leaving: Option<Arc<Module>>,
    /// The version of the node's object that was known when it was asked for anew.
    before: Option<String>,
    /// That of the Node.
    node_before: Option<u64>,
    /// Whether it is still to be decided about.
    undecided: bool,
    /// The Nodes that were listed, and the Modules.
    listed: (Vec<NodeObject>, Vec<Module>),
    /// A Module and its plugin, until its device classes are known.
    plugin: Option<(Arc<Module>, SeenWorkload)>,
    /// Why the plugin is not there as wished.
    problem: Option<Problem>,
}

impl Task {
    const fn new(key: Job, calls: VecDeque<Call>) -> Self {
        Self {
            key,
            calls,
            next: Next::AwaitChange,
            leaving: None,
            before: None,
            node_before: None,
            undecided: false,
            listed: (Vec::new(), Vec::new()),
            plugin: None,
            problem: None,
        }
    }
}

/// What an answer to a call was.
#[derive(Debug, Clone)]
pub enum Heard {
    /// To a write.
    Written(Answer),
    /// To a list, or a read.
    Nodes(Vec<Change>),
    /// To a list.
    Modules(Vec<Arc<Module>>),
    /// To a list.
    Listed(Vec<Arc<NodeModulesConfig>>),
    /// To a read.
    Read(Option<Arc<NodeModulesConfig>>),
    /// Of a look into the registry.
    Found(Box<Finding>),
    /// To a list of device classes.
    Classes(Vec<DeviceClass>),
    /// Nothing.
    Lost,
    /// The replica does not lead.
    NotLeader,
}

impl Replica {
    /// Whether more work of this kind can begin, and the next key; else when there will be some.
    pub fn take(&self) -> Result<Job, Option<u64>> {
        let running = |is: fn(&Job) -> bool| self.tasks.values().filter(|task| is(&task.key)).count();
        let mut due: Option<u64> = None;
        if running(|key| matches!(key, Job::Module(_))) < Modules::CONCURRENCY {
            match self.world.queues.modules.try_next() {
                Ok(key) => return Ok(Job::Module(key)),
                Err(at) => due = earliest(due, at),
            }
        }
        if running(|key| matches!(key, Job::Image(_))) < Images::CONCURRENCY {
            match self.world.queues.images.try_next() {
                Ok(key) => return Ok(Job::Image(key)),
                Err(at) => due = earliest(due, at),
            }
        }
        if running(|key| matches!(key, Job::Node(_))) < Nodes::CONCURRENCY {
            match self.world.queues.nodes.try_next() {
                Ok(key) => return Ok(Job::Node(key)),
                Err(at) => due = earliest(due, at),
            }
        }
        if running(|key| matches!(key, Job::Status(_))) < Status::CONCURRENCY {
            match self.world.queues.status.try_next() {
                Ok(key) => return Ok(Job::Status(key)),
                Err(at) => due = earliest(due, at),
            }
        }
        if running(|key| matches!(key, Job::Plugin(_))) < Workloads::CONCURRENCY {
            match self.world.queues.workloads.try_next() {
                Ok(key) => return Ok(Job::Plugin(key)),
                Err(at) => due = earliest(due, at),
            }
        }
        if running(|key| matches!(key, Job::Preflight(_))) < Preflights::CONCURRENCY {
            match self.world.queues.preflights.try_next() {
                Ok(key) => return Ok(Job::Preflight(key)),
                Err(at) => due = earliest(due, at),
            }
        }
        Err(due)
    }

    /// Whether no node is to be looked at, now or later.
    pub fn is_idle(&self) -> bool {
        self.is_complete() && self.world.queues.nodes.is_idle()
    }

    /// Begins to work on a key: observes, decides, and says what is to be asked.
    pub fn begin(&mut self, key: Job) -> Task {
        let task = match &key {
            Job::TakeOver => Some(Task::new(Job::TakeOver, lists())),
            Job::Module(module) => self.begin_module(module),
            Job::Image(image) => self.begin_image(image),
            Job::Node(node) => {
                let doubted = self.world.is_doubted(node);
                let read = doubted.then(|| Call::GetConfig(node.clone()));
                Some(Task { undecided: true, ..Task::new(key.clone(), read.into_iter().collect()) })
            }
            Job::Status(module) => self.begin_status(module),
            Job::Plugin(module) => self.begin_plugin(module),
            Job::Preflight(name) => self.begin_preflight(name),
        };
        task.unwrap_or_else(|| Task::new(key, VecDeque::new()))
    }

    fn begin_module(&self, key: &ModuleKey) -> Option<Task> {
        let observed = Provision::of(&self.world.read(), key)?;
        let finalizer = removal::finalizer(&observed.module);
        let images: Vec<_> = observed.images.iter().map(AsRef::as_ref).collect();
        let images = provision::images(&observed.module, &observed.targets, &images);
        let mut calls = VecDeque::new();
        if finalizer == Finalizer::Add {
            calls.push_back(Call::Write(finalizers(key, &observed.module, true)));
        }
        calls.extend(images.apply.into_iter().map(|image| Call::Write(Write::Image(Box::new(image)))));
        calls.extend(
            images
                .delete
                .into_iter()
                .map(|image| Call::Write(Write::DeleteImage { key: ImageKey::of(&image), uid: image.uid() })),
        );
        let leaving = finalizer == Finalizer::RemoveIfGone;
        if leaving {
            calls.push_back(Call::ListConfigs);
        }
        Some(Task {
            next: if leaving { Next::After(LEAVING_AGAIN) } else { Next::AwaitChange },
            leaving: leaving.then_some(observed.module),
            ..Task::new(Job::Module(key.clone()), calls)
        })
    }

    fn begin_image(&self, key: &ImageKey) -> Option<Task> {
        let image = self.world.read().image(key).cloned();
        let image = image.filter(|image| image.metadata.deletion_timestamp.is_none());
        let Some(image) = image.filter(|image| provision::bundle(image).is_none()) else {
            self.misses.forget(key);
            return None;
        };
        let mut task = Task::new(Job::Image(key.clone()), VecDeque::new());
        match self.misses.wait(key, image.metadata.generation) {
            Some(left) => task.next = Next::After(left),
            None => task.calls.push_back(Call::Find(image)),
        }
        Some(task)
    }

    /// `nodes::Nodes::reconcile`, from what is known to what is to be written.
    fn decide_node(&self, key: &NodeName, seals: &mut Seals) -> Option<(VecDeque<Call>, Next)> {
        let read_own = |text: &str| Some((*seals.verify(text, &self.keys)?).clone());
        let Some(observed) = Node::of(&self.world, key, read_own) else {
            self.world.leaving(key, BTreeMap::new());
            return None;
        };
        let before = observed.view().order;
        let (mut assignment, given_back) = if self.bug == Some(Bug::TurnsNotReserved) {
            self.decide_unreserved(&observed)
        } else {
            nodes::decide(&self.world, &observed)
        };
        let reasons = [reasons::WAITING_FOR_CLAIMS, reasons::WAITING_FOR_PLUGIN];
        let leaving = assignment.waiting.iter().filter(|(_, waiting)| reasons.contains(&&*waiting.reason));
        self.world.leaving(key, leaving.map(|(key, waiting)| (key.clone(), waiting.clone())).collect());
        let again = assignment.again_after.map(Duration::from_millis).into_iter().chain(given_back).min();
        let mut calls = VecDeque::new();
        if self.bug == Some(Bug::DropsRemovals) && assignment.config.is_none() {
            calls.extend(dropped_removals(&observed, before.as_ref()));
        }
        if self.bug == Some(Bug::KeepsReadyLabels) {
            let status = observed.config.as_ref().and_then(|config| config.status.as_ref());
            let booted = status.and_then(|status| status.boot_id.as_ref()) != Some(&observed.facts.boot_id);
            assignment.labels.retain(|_, value| value.is_some() || !booted);
        }
        if !assignment.labels.is_empty() {
            let uid = (self.bug != Some(Bug::LabelsWithoutUid)).then(|| observed.facts.uid.clone());
            let labels = std::mem::take(&mut assignment.labels);
            let version = observed.labels_version(&labels);
            calls.push_back(Call::Write(Write::Labels { node: key.clone(), uid, version, labels }));
        }
        if let Some(mut config) = assignment.config {
            let known = observed.config.as_ref().and_then(|config| config.spec.order.clone());
            config.spec.order = match assignment.order {
                OrderChange::Keep => known,
                OrderChange::Withdraw => None,
                OrderChange::Replace(mut order) => {
                    self.spoil(&mut order, before.as_ref(), key);
                    let published = observed.known_keys();
                    let next = self.keys.iter().rev().find(|key| published.contains(&seal::id(**key)));
                    let former = known;
                    // On a node that has fallen silent nobody ends a pod.
                    let is_silent = rollout::is_silent(&observed.facts);
                    let pods = self.watches.get(crate::api::Kind::Pod as usize).and_then(|watch| watch.at);
                    let pods = pods.filter(|_| !is_silent).unwrap_or_default();
                    next.or(self.keys.first()).map(|key| seals.sign(&order, *key, pods, former.as_deref()))
                }
            };
            if self.bug == Some(Bug::NoPreconditions) {
                config.metadata.uid = None;
                config.metadata.resource_version = None;
            }
            calls.push_back(Call::Write(Write::Config(Box::new(config))));
        }
        if self.bug == Some(Bug::LabelsLast) {
            calls = calls.into_iter().rev().collect();
        }
        Some((calls, again.map_or(Next::AwaitChange, Next::After)))
    }

    /// A planted bug: turns are counted off the objects that are known, and nobody remembers that one was given.
    fn decide_unreserved(&self, observed: &Node) -> (Assignment, Option<Duration>) {
        let first = assign(&observed.view());
        if first.asks.is_empty() {
            return (first, None);
        }
        let index = self.world.read();
        let unavailable = |key: &ModuleKey| {
            let is_it = |config: &&Arc<NodeModulesConfig>| {
                let node = config.name_any().parse().ok().and_then(|name| index.node(&name));
                let mut entries = config.spec.modules.iter();
                let entry = entries.find(|e| e.namespace == key.namespace() && e.name == key.name());
                node.zip(entry).is_some_and(|(node, entry)| {
                    rollout::standing(entry, config.status.as_ref(), node) == Standing::Unavailable
                })
            };
            index.configs().filter(is_it).count()
        };
        let turn = |key: &ModuleKey| {
            let allowed = index.module(key).map_or(0, |m| rollout::allowed(m, index.count_told(key)));
            let unavailable = unavailable(key);
            if unavailable < allowed { Turn::Given } else { Turn::Refused { unavailable, allowed } }
        };
        let turns: BTreeMap<_, _> = first.asks.iter().map(|key| (key.clone(), turn(key))).collect();
        (assign(&observed.view_with(&turns)), Some(Duration::from_secs(2)))
    }

    /// Planted bugs of orders.
    fn spoil(&self, order: &mut Order, before: Option<&Order>, node: &NodeName) {
        match self.bug {
            Some(Bug::GenerationNotRaised) => {
                order.generation.0 = before.map_or(0, |order| order.generation.0) + 1;
            }
            Some(Bug::SignsForFormerStore) => {
                if let Some(store) = self.former_stores.get(node) {
                    order.store = *store;
                }
            }
            _ => {}
        }
    }

    /// `workloads::observe`, up to the first request. Namespaces are not modelled.
    fn begin_plugin(&self, key: &ModuleKey) -> Option<Task> {
        let module = self.world.read().module(key).cloned()?;
        let seen = self.world.workload(key, &module.uid().unwrap_or_default());
        let wishes = Role::of(&module) == Some(Role::Dra);
        let asked = module.spec.dra.iter().flat_map(|dra| &dra.device_classes).filter(|_| wishes);
        let get = Call::GetClasses(class::mark(&module), asked.map(|asked| asked.name.clone()).collect());
        let calls = match &self.learned.with_classes {
            None => VecDeque::from([Call::ListClasses, get]),
            Some(with) if wishes || with.contains(key) => VecDeque::from([get]),
            Some(_) => VecDeque::new(),
        };
        Some(Task { plugin: Some((module, seen)), ..Task::new(Job::Plugin(key.clone()), calls) })
    }

    /// `workloads::apply`, with the classes that are known.
    fn decide_plugin(
        &self,
        key: &ModuleKey,
        module: &Module,
        seen: &SeenWorkload,
        known: &[DeviceClass],
    ) -> (VecDeque<Call>, Option<Problem>) {
        let accepted = |set: &SetSeen, generation: i64| {
            self.learned.accepted.get(&set.uid).is_some_and(|accepted| *accepted == generation)
        };
        let sets: Vec<_> = seen
            .sets
            .iter()
            .map(|(set, generation)| SetSeen {
                is_changed: set.is_changed && !accepted(set, *generation),
                ..set.clone()
            })
            .collect();
        let in_use = self.world.in_use(key, module);
        let (versions, orphans) = (&seen.versions, seen.orphans);
        let observed =
            plugin::Observed { module, sets: &sets, versions, orphans, enforces: None, in_use: &in_use };
        let Plan { apply, mut delete, problem } = plugin::plan(&observed);
        if self.bug == Some(Bug::FormerSetsStay) {
            delete.retain(|set| set.version.is_none());
        }
        let Classes { apply: apply_classes, delete: delete_classes, taken } = class::classes(module, known);
        let namespace = key.namespace();
        let mut calls: VecDeque<_> = delete
            .into_iter()
            .map(|set| {
                Call::Write(Write::DeleteSet { key: (namespace.to_owned(), set.name), uid: Some(set.uid) })
            })
            .collect();
        calls.extend(
            delete_classes
                .iter()
                .map(|class| Call::Write(Write::DeleteClass { name: class.name_any(), uid: class.uid() })),
        );
        if module.metadata.deletion_timestamp.is_some() && !delete_classes.is_empty() {
            self.world.queues.modules.add(key.clone());
        }
        calls.extend(apply_classes.into_iter().map(|class| {
            let mine = known.iter().find(|known| known.name_any() == class.name_any());
            let force = mine.is_some() || self.bug == Some(Bug::ClassesByForce);
            Call::Write(Write::Class { class: Box::new(class), force })
        }));
        calls.extend(apply.map(|set| Call::Write(Write::Set(Box::new(set)))));
        (calls, problem.or(taken.into_iter().next()))
    }

    fn begin_preflight(&self, name: &str) -> Option<Task> {
        let observed = Preflight::of(&self.world.read(), name)?;
        let second = clock::timestamp(self.world.now() / 1000 * 1000);
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(second);
        let status = preflight::status(&observed.preflight, &observed.views(), &now);
        let mut calls = VecDeque::new();
        let is_told = self.bug == Some(Bug::PreflightToldOnce) && observed.preflight.status.is_some();
        if observed.preflight.status.as_ref() != Some(&status) && !is_told {
            let uid = observed.preflight.uid();
            let status = Box::new(status);
            calls.push_back(Call::Write(Write::PreflightStatus { name: name.to_owned(), uid, status }));
        }
        Some(Task::new(Job::Preflight(name.to_owned()), calls))
    }

    fn begin_status(&self, key: &ModuleKey) -> Option<Task> {
        let observed = Rollup::of(&self.world.read(), key)?;
        let status = rollup::status(&observed.view(self.world.now()));
        let mut calls = VecDeque::new();
        if observed.module.status.as_ref() != Some(&status) {
            let uid = observed.module.uid();
            calls.push_back(Call::Write(Write::ModuleStatus {
                key: key.clone(),
                uid,
                status: Box::new(status),
            }));
        }
        Some(Task::new(Job::Status(key.clone()), calls))
    }

    /// What the task asks next; `None` when it is done, and then its key is given back.
    pub fn advance(&mut self, number: u64, seals: &mut Seals) -> Option<Call> {
        loop {
            let task = self.tasks.get_mut(&number)?;
            let Some(call) = task.calls.pop_front() else {
                let undecided = std::mem::take(&mut task.undecided);
                if let Some((module, seen)) = task.plugin.take()
                    && let Job::Plugin(key) = task.key.clone()
                {
                    // Nobody has asked for classes: it has none.
                    let (calls, problem) = self.decide_plugin(&key, &module, &seen, &[]);
                    let task = self.tasks.get_mut(&number)?;
                    (task.calls, task.problem) = (calls, problem);
                    if !task.calls.is_empty() {
                        continue;
                    }
                }
                let task = self.tasks.get_mut(&number)?;
                let decided = match task.key.clone() {
                    Job::Node(node) if undecided && self.world.is_node_doubted(&node) => {
                        task.undecided = true;
                        task.node_before = self.world.node_version(&node);
                        return Some(Call::GetNode(node));
                    }
                    Job::Node(node) if undecided => self.decide_node(&node, seals),
                    _ => None,
                };
                let Some((calls, next)) = decided else {
                    self.finish(number, None);
                    return None;
                };
                let task = self.tasks.get_mut(&number)?;
                (task.calls, task.next) = (calls, next);
                continue;
            };
            match (&call, task.key.clone()) {
                (Call::GetConfig(name), _) => {
                    task.before = self.world.read().config(name).and_then(|config| config.resource_version());
                }
                (Call::ListConfigs, Job::Module(key)) => {
                    // First by what is known, which costs nothing.
                    let holds = |config: &NodeModulesConfig| is_held(&key, config, seals);
                    let by_stale_list = self.bug == Some(Bug::FinalizerByStaleList);
                    let held = if by_stale_list {
                        self.told.values().any(|config| holds(config))
                    } else {
                        modules::is_known_to_be_held(&self.world, &key, holds)
                    };
                    if held {
                        continue;
                    }
                    if by_stale_list {
                        let leaving = self.tasks.get(&number).and_then(|task| task.leaving.clone())?;
                        return Some(Call::Write(finalizers(&key, &leaving, false)));
                    }
                }
                _ => {}
            }
            return Some(call);
        }
    }

    /// An answer to the task's call.
    #[expect(clippy::too_many_lines, reason = "one arm for each kind of answer")]
    pub fn heard(&mut self, number: u64, call: &Call, heard: Heard, seals: &Seals) {
        let Some(task) = self.tasks.get_mut(&number) else { return };
        match (call, heard) {
            (Call::Write(write), Heard::Written(Answer::Done(change))) => match change {
                Some(Change::Node(name, _, version)) => {
                    if let Write::Labels { uid: Some(uid), labels, .. } = write {
                        self.world.wrote_labels(&name, uid, labels, Some(version));
                    }
                }
                Some(Change::Config(_, Some(config), _)) => self.world.wrote_config((*config).clone()),
                Some(Change::Image(_, Some(image), _)) => self.world.wrote_image((*image).clone()),
                Some(Change::Module(_, Some(module))) if matches!(write, Write::ModuleStatus { .. }) => {
                    self.world.wrote_status((*module).clone());
                }
                Some(Change::Set((namespace, name), Some(set))) => {
                    if let Some(known) = KnownSet::of(&set) {
                        self.learned.accepted.insert(known.seen.uid.clone(), known.generation);
                        self.world.wrote_set(&namespace, &name, known);
                    }
                }
                Some(Change::Preflight(_, Some(preflight))) => {
                    self.world.wrote_preflight((*preflight).clone());
                }
                _ => {}
            },
            (
                Call::Write(Write::DeleteImage { .. } | Write::DeleteSet { .. } | Write::DeleteClass { .. }),
                Heard::Written(Answer::NotFound),
            ) => {}
            (Call::GetConfig(name), Heard::Read(config)) => {
                let config = config.map(|config| (*config).clone());
                self.world.config_read(name, task.before.as_deref(), config);
            }
            (Call::GetNode(name), Heard::Nodes(nodes)) => {
                self.world.node_read(name, task.node_before, nodes.iter().find_map(node_of));
            }
            (Call::ListNodes, Heard::Nodes(nodes)) => {
                task.listed.0 = nodes.iter().filter_map(node_of).collect();
            }
            (Call::ListModules, Heard::Modules(modules)) => {
                task.listed.1 = modules.iter().map(|module| (**module).clone()).collect();
            }
            (Call::ListConfigs, Heard::Listed(configs)) => {
                if let Job::Module(key) = task.key.clone() {
                    let held = configs.iter().any(|config| is_held(&key, config, seals));
                    if let Some(module) = task.leaving.take().filter(|_| !held) {
                        task.calls.push_back(Call::GetClasses(class::mark(&module), Vec::new()));
                        task.leaving = Some(module);
                    }
                } else {
                    let (nodes, modules) = std::mem::take(&mut task.listed);
                    let (nodes, configs) = if self.bug == Some(Bug::TurnsByStaleList) {
                        let index = self.world.read();
                        let known = index.nodes().map(|facts| node_object(facts, 0)).collect();
                        (known, index.configs().map(|config| (**config).clone()).collect())
                    } else {
                        (nodes, configs.iter().map(|config| (**config).clone()).collect())
                    };
                    let unclear = take_in(&self.world, nodes, modules, configs);
                    task.calls.extend(unclear.into_iter().map(Call::GetConfig));
                }
            }
            (Call::ListClasses, Heard::Classes(all)) => {
                let owner = |class: &DeviceClass| {
                    let label = |key| class.labels().get(key);
                    let (namespace, name) =
                        (tenon_api::labels::MODULE_NAMESPACE, tenon_api::labels::MODULE_NAME);
                    ModuleKey::new(label(namespace)?, label(name)?).ok()
                };
                let owners = all.iter().filter_map(owner).collect();
                let with = self.learned.with_classes.get_or_insert(owners);
                if let Some((module, _)) = &task.plugin
                    && let Job::Plugin(key) = &task.key
                    && Role::of(module) != Some(Role::Dra)
                    && !with.contains(key)
                {
                    task.calls.clear();
                }
            }
            (Call::GetClasses(..), Heard::Classes(known)) => match (task.key.clone(), task.plugin.take()) {
                (Job::Plugin(key), Some((module, seen))) => {
                    if let Some(with) = &mut self.learned.with_classes {
                        if Role::of(&module) == Some(Role::Dra) || !known.is_empty() {
                            with.insert(key.clone());
                        } else {
                            with.remove(&key);
                        }
                    }
                    let (calls, problem) = self.decide_plugin(&key, &module, &seen, &known);
                    if let Some(task) = self.tasks.get_mut(&number) {
                        (task.calls, task.problem) = (calls, problem);
                    }
                }
                (Job::Module(key), _) => {
                    if let Some(module) = task.leaving.take().filter(|_| known.is_empty()) {
                        task.calls.push_back(Call::Write(finalizers(&key, &module, false)));
                    }
                }
                _ => {}
            },
            (Call::Find(image), Heard::Found(finding)) => self.found(number, image, &finding),
            (_, heard) => self.failed(number, call, &heard),
        }
    }

    fn failed(&mut self, number: u64, call: &Call, heard: &Heard) {
        let Some(task) = self.tasks.get_mut(&number) else { return };
        if task.key == Job::TakeOver {
            // `catch_up` begins anew until it has got everything.
            task.calls = lists();
            return;
        }
        let doubted = match call {
            Call::GetConfig(name) => Some(name.clone()),
            Call::Write(Write::Config(config)) if !matches!(heard, Heard::NotLeader) => {
                config.name_any().parse().ok()
            }
            _ => None,
        };
        if let Some(name) = doubted {
            self.world.doubt(&name);
        }
        let labels_doubted = match call {
            Call::GetNode(name) => Some(name),
            Call::Write(Write::Labels { node, .. }) if !matches!(heard, Heard::NotLeader) => Some(node),
            _ => None,
        };
        if let Some(name) = labels_doubted {
            self.world.doubt_node(name);
        }
        self.finish(number, Some(Next::Backoff));
    }

    fn found(&mut self, number: u64, image: &ModuleImage, finding: &Finding) {
        let Some(task) = self.tasks.get_mut(&number) else { return };
        let key = ImageKey::of(image);
        if let Finding::Packed { bundle, .. } = finding {
            self.cache.extend(bundle.digest.parse::<Digest>());
        }
        let again = self.misses.note(&key, image.metadata.generation, finding);
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(clock::timestamp(
            clock::wall() / 1000 * 1000,
        ));
        let status = provision::status(image, &finding.clone().into(), &now);
        task.next = again.map_or(Next::AwaitChange, Next::After);
        if image.status.as_ref() != Some(&status) {
            let status = Box::new(status);
            task.calls.push_back(Call::Write(Write::ImageStatus { key, uid: image.uid(), status }));
        }
    }

    fn finish(&mut self, number: u64, next: Option<Next>) {
        let Some(task) = self.tasks.remove(&number) else { return };
        let next = next.unwrap_or(task.next);
        let queues = &self.world.queues;
        match &task.key {
            Job::Module(key) => queues.modules.done(key, next),
            Job::Image(key) => queues.images.done(key, next),
            Job::Node(key) => {
                if next == Next::Backoff {
                    self.world.node_tried(key);
                }
                queues.nodes.done(key, next);
            }
            Job::Status(key) => queues.status.done(key, next),
            Job::Plugin(key) => {
                let next = if next == Next::AwaitChange && task.problem.is_some() {
                    Next::After(PLUGIN_AGAIN)
                } else {
                    next
                };
                if next == Next::Backoff {
                    self.world.plugin_tried(key);
                } else {
                    self.world.plugin_problem(key, task.problem);
                }
                queues.workloads.done(key, next);
            }
            Job::Preflight(name) => queues.preflights.done(name, next),
            Job::TakeOver => self.caught_up = true,
        }
    }

    /// What looking for an image comes to.
    pub fn find(image: &ModuleImage, registry: &Registry) -> Finding {
        match registry.ask(&image.spec.image) {
            registry::Answer::Found(bundle) => Finding::Packed {
                image_digest: bundle.image.clone(),
                bundle: BundleStatus { digest: bundle.digest.to_string(), size: 9, files: 2 },
            },
            registry::Answer::Absent => missing(reasons::IMAGE_ABSENT),
            registry::Answer::Silent => missing(reasons::REGISTRY_UNREACHABLE),
        }
    }
}

/// A planted bug: the next write takes an order to remove away, answered or not.
fn dropped_removals(observed: &Node, order: Option<&Order>) -> Option<Call> {
    let removes = order?.modules.iter().any(|module| module.wish == Wish::Removed);
    let mut config = (**observed.config.as_ref().filter(|_| removes)?).clone();
    config.spec.order = None;
    Some(Call::Write(Write::Config(Box::new(config))))
}

/// What is listed before a replica leads.
fn lists() -> VecDeque<Call> {
    VecDeque::from([Call::ListNodes, Call::ListModules, Call::ListConfigs])
}

fn node_of(change: &Change) -> Option<NodeObject> {
    match change {
        Change::Node(_, Some(facts), version) => Some(node_object(facts, *version)),
        _ => None,
    }
}

fn missing(reason: &'static str) -> Finding {
    Finding::Missing { reason, message: "not to be had".to_owned(), needs_change: false, retry_after: None }
}

fn earliest(due: Option<u64>, at: Option<tokio::time::Instant>) -> Option<u64> {
    let at = at.map(|at| clock::millis(at.into_std()));
    due.into_iter().chain(at).min()
}

fn finalizers(key: &ModuleKey, module: &Module, present: bool) -> Write {
    let mut finalizers: Vec<_> =
        module.finalizers().iter().filter(|name| *name != finalizer::MODULE).cloned().collect();
    finalizers.extend(present.then(|| finalizer::MODULE.to_owned()));
    Write::Finalizers { key: key.clone(), uid: module.uid(), version: module.resource_version(), finalizers }
}

/// As `modules/apply.rs` asks it.
fn is_held(key: &ModuleKey, config: &NodeModulesConfig, seals: &Seals) -> bool {
    let order = config.spec.order.as_deref().and_then(|order| seals.read(order));
    removal::is_held(key, config, order.as_deref())
}
