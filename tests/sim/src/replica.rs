//! One replica of the operator: its own caches, queues and election, and the work that its controllers do.
//!
//! Unchanged: `world::{World, Index, Kind, take_in}`, `nodes::decide`, `queue::Queue`, `lease::election::Election`, `images::misses::Misses`,
//! `depot::Assignments`, what controllers observe (`nodes::Node`, `modules::Provision`, `status::Rollup`) and
//! everything of `tenon_plan`. This file stands for what is left of the controllers: `nodes/apply.rs` (labels, then
//! the object with its order; after a conflict the object is read), `modules/apply.rs` (finalizer, images, deletions,
//! the list before the finalizer goes), `images/mod.rs` and `images/apply.rs` (look, note a miss, write the status),
//! `status/mod.rs`, `workloads/observe.rs` and `workloads/apply.rs` (classes that are nobody's business are not asked for;
//! former `DaemonSet`s go, then classes, then what is wished is applied), `preflight/mod.rs`, and the hand-over between requests in
//! `controllers.rs`. One request is one step.

mod work;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kube::core::ObjectMeta;
use tenon_api::node_modules_config::NodeModulesConfig;
use tenon_api::{Module, ModuleImage, PreflightValidation};
use tenon_operator::depot::Assignments;
use tenon_operator::images::misses::Misses;
use tenon_operator::lease::election::{Election, Timing};
use tenon_operator::world::{
    ImageKey, Kind as _, KnownPod, KnownSet, Node as NodeObject, NodeInfo, NodeSpec, NodeStatus, World,
};
use tenon_order::{Digest, ModuleKey, NodeName, StoreId};
use tenon_plan::node::NodeFacts;

use crate::api::{ApiServer, COUNT, Change, KINDS, Kind};
use crate::clock;
use crate::planted::Bug;
use crate::seal::Key;

pub use work::{Call, Heard, Job, Task};

/// What a replica remembers of a watch.
#[derive(Debug, Default, Clone)]
pub struct Watch {
    /// The place in the history up to which changes were seen; `None` before the first list.
    pub at: Option<usize>,
    /// How often it was opened: what comes of an earlier one is not heard.
    pub opened: u32,
    /// Whether something of it is on its way.
    pub moving: bool,
    /// What is known to be there.
    known: BTreeSet<String>,
}

/// What the controller of plugins has learned: `workloads::Memory`.
#[derive(Debug, Default)]
struct Learned {
    accepted: HashMap<String, i64>,
    with_classes: Option<BTreeSet<ModuleKey>>,
}

/// One replica.
#[derive(Debug)]
pub struct Replica {
    /// Its name in the lease: another for each process.
    pub name: String,
    /// Which process of this replica it is.
    pub epoch: u32,
    /// How wrong its clock is, in milliseconds.
    pub skew: i64,
    /// What it knows.
    pub world: World,
    /// Its watches.
    pub watches: [Watch; COUNT],
    /// Its view of the lease.
    pub election: Election,
    /// Whether it leads, as it knows.
    pub led: bool,
    /// Whether it has begun to list everything anew in order to lead, and whether it has done so.
    pub taking_over: bool,
    /// The same.
    pub caught_up: bool,
    /// The lease's version as it wrote it.
    pub lease: Option<u64>,
    /// Bundles of its depot.
    pub cache: BTreeSet<Digest>,
    /// Which node may have what.
    pub assignments: Assignments,
    /// Work that has begun, by number.
    pub tasks: BTreeMap<u64, Task>,
    /// The key that signs, and all that are its own.
    pub keys: Vec<Key>,
    /// When it will look at its queues by itself.
    pub woken_at: Option<u64>,
    misses: Misses,
    /// Nodes' objects as watches have told of them, for planted bugs.
    told: BTreeMap<NodeName, Arc<NodeModulesConfig>>,
    former_stores: BTreeMap<NodeName, StoreId>,
    learned: Learned,
    bug: Option<Bug>,
}

impl Replica {
    /// A process that has just started.
    pub fn start(name: String, epoch: u32, skew: i64, keys: Vec<Key>, bug: Option<Bug>) -> Self {
        let assignments = Assignments::default();
        let world = World::with_clock(assignments.clone(), clock::clock());
        // The model has no claims.
        world.claims_listed();
        Self {
            election: Election::new(name.clone(), Timing::default()),
            name,
            epoch,
            skew,
            world,
            watches: Default::default(),
            led: false,
            taking_over: false,
            caught_up: false,
            lease: None,
            cache: BTreeSet::new(),
            assignments,
            tasks: BTreeMap::new(),
            keys,
            woken_at: None,
            misses: Misses::with_clock(clock::tokio_instant),
            told: BTreeMap::new(),
            former_stores: BTreeMap::new(),
            learned: Learned::default(),
            bug,
        }
    }

    /// The bug that is planted in it.
    pub const fn bug(&self) -> Option<Bug> {
        self.bug
    }

    /// Whether everything has been listed once.
    pub fn is_complete(&self) -> bool {
        self.watches.iter().all(|watch| watch.at.is_some())
    }

    /// Whether it may write now.
    pub fn may_write(&self, now: u64) -> bool {
        if self.bug == Some(Bug::DeposedLeaderWrites) {
            return self.led;
        }
        self.led && self.election.leads_until().is_some_and(|until| Duration::from_millis(now) < until)
    }

    /// A watch brings a change: what is older than the answer to a write of ours is no news (`world::follow`).
    pub fn watched(&mut self, change: &Change) {
        let outdated = match change {
            Change::Node(key, Some(facts), version) => {
                node_object(facts, *version).is_outdated(key, &self.world)
            }
            Change::Module(key, Some(module)) => module.is_outdated(key, &self.world),
            Change::Image(key, Some(image), _) => image.is_outdated(key, &self.world),
            Change::Config(key, Some(config), _) => config.is_outdated(key, &self.world),
            Change::Preflight(key, Some(preflight)) => preflight.is_outdated(key, &self.world),
            _ => false,
        };
        if !outdated {
            self.see(change);
        }
    }

    /// Something is so.
    pub fn see(&mut self, change: &Change) {
        let Some(watch) = self.watches.get_mut(change.kind() as usize) else { return };
        match change {
            Change::Node(key, Some(facts), version) => {
                watch.known.insert(key.to_string());
                node_object(facts, *version).seen(key, &self.world);
            }
            Change::Node(key, None, version) => {
                watch.known.remove(key.as_ref());
                NodeObject::gone(key, Some(*version), &self.world);
            }
            Change::Module(key, Some(module)) => {
                watch.known.insert(key.to_string());
                (**module).clone().seen(key, &self.world);
            }
            Change::Module(key, None) => {
                watch.known.remove(&key.to_string());
                Module::gone(key, None, &self.world);
            }
            Change::Image(key, Some(image), _) => {
                watch.known.insert(key.to_string());
                (**image).clone().seen(key, &self.world);
            }
            Change::Image(key, None, version) => {
                watch.known.remove(&key.to_string());
                ModuleImage::gone(key, Some(*version), &self.world);
            }
            Change::Config(key, Some(config), _) => {
                watch.known.insert(key.to_string());
                (**config).clone().seen(key, &self.world);
                self.told.insert(key.clone(), config.clone());
                self.remember_store(key, config);
            }
            Change::Config(key, None, version) => {
                self.told.remove(key);
                watch.known.remove(key.as_ref());
                NodeModulesConfig::gone(key, Some(*version), &self.world);
            }
            Change::Set(key, set) => {
                let known = set.as_ref().and_then(|set| KnownSet::of(set));
                note(&mut watch.known, named(key), set.is_some());
                self.world.set(&key.0, &key.1, known);
            }
            Change::Pod(key, pod) => {
                let known = pod.as_ref().and_then(|pod| KnownPod::of(&pod.object()));
                note(&mut watch.known, named(key), pod.is_some());
                if self.bug != Some(Bug::PluginsUnseen) {
                    self.world.pod(&key.0, &key.1, known);
                }
            }
            Change::Preflight(key, preflight) => {
                note(&mut watch.known, key.clone(), preflight.is_some());
                match preflight {
                    Some(preflight) => (**preflight).clone().seen(key, &self.world),
                    None => PreflightValidation::gone(key, None, &self.world),
                }
            }
        }
    }

    fn remember_store(&mut self, key: &NodeName, config: &NodeModulesConfig) {
        let store = config.status.as_ref().and_then(|status| status.store_id.as_ref()?.parse().ok());
        if let Some(store) = store {
            self.former_stores.entry(key.clone()).or_insert(store);
        }
    }

    /// A watch is opened: its list sets out now.
    pub fn open(&mut self, kind: Kind) -> u32 {
        let world = &self.world;
        let answered: Vec<_> = match kind {
            Kind::Node => NodeObject::known(world).iter().map(ToString::to_string).collect(),
            Kind::Module => Module::known(world).iter().map(ToString::to_string).collect(),
            Kind::Image => ModuleImage::known(world).iter().map(ToString::to_string).collect(),
            Kind::Config => NodeModulesConfig::known(world).iter().map(ToString::to_string).collect(),
            Kind::Preflight => PreflightValidation::known(world),
            Kind::Set | Kind::Pod => Vec::new(),
        };
        let Some(watch) = self.watches.get_mut(kind as usize) else { return 0 };
        watch.known.extend(answered);
        watch.opened += 1;
        watch.moving = true;
        watch.opened
    }

    /// Whether this is the watch that is open.
    pub fn is_open(&self, kind: Kind, opened: u32) -> bool {
        self.watches.get(kind as usize).is_some_and(|watch| watch.opened == opened)
    }

    /// A list arrives: what is not in it is gone.
    pub fn listed(&mut self, kind: Kind, objects: &[Change], head: usize) {
        let Some(watch) = self.watches.get_mut(kind as usize) else { return };
        let before = std::mem::take(&mut watch.known);
        watch.at = Some(head);
        watch.moving = false;
        for object in objects {
            self.see(object);
        }
        let Some(watch) = self.watches.get(kind as usize) else { return };
        for gone in before.difference(&watch.known.clone()) {
            match kind {
                Kind::Node => drop(gone.parse().map(|key| NodeObject::gone(&key, None, &self.world))),
                Kind::Module => drop(gone.parse().map(|key| Module::gone(&key, None, &self.world))),
                Kind::Config => {
                    drop(gone.parse().map(|key| NodeModulesConfig::gone(&key, None, &self.world)));
                }
                Kind::Image => {
                    if let Some((namespace, name)) = gone.split_once('/') {
                        let key = ImageKey { namespace: namespace.to_owned(), name: name.to_owned() };
                        ModuleImage::gone(&key, None, &self.world);
                    }
                }
                Kind::Set | Kind::Pod => {
                    let Some((namespace, name)) = gone.split_once('/') else { continue };
                    if kind == Kind::Set {
                        self.world.set(namespace, name, None);
                    } else {
                        self.world.pod(namespace, name, None);
                    }
                }
                Kind::Preflight => PreflightValidation::gone(gone, None, &self.world),
            }
        }
        if self.is_complete() {
            self.world.complete();
        }
    }

    /// Another key signs: `controllers::follow_keys`.
    pub fn follow_keys(&mut self, keys: &[Key]) {
        self.keys = keys.to_vec();
        let mut names = self.world.read().node_names();
        names.sort();
        for name in names {
            self.world.queues.nodes.add(name);
        }
        let mut deleted = self.world.read().deleted_modules();
        deleted.sort();
        for key in deleted {
            self.world.queues.modules.add(key);
        }
    }

    /// What is on its way of its watches, to be moved on: kinds whose history has more than was seen.
    pub fn behind(&self, api: &ApiServer) -> Vec<Kind> {
        let behind = |kind: &Kind| {
            let watch = self.watches.get(*kind as usize);
            watch.is_some_and(|watch| !watch.moving && watch.at.is_some_and(|at| at < api.head(*kind)))
        };
        KINDS.into_iter().filter(behind).collect()
    }
}

/// As what is known of a watch names it.
fn named((namespace, name): &crate::pod::Named) -> String {
    format!("{namespace}/{name}")
}

fn note(known: &mut BTreeSet<String>, key: String, is_there: bool) {
    if is_there {
        known.insert(key);
    } else {
        known.remove(&key);
    }
}

/// A Node object with these facts.
fn node_object(facts: &NodeFacts, version: u64) -> NodeObject {
    NodeObject {
        metadata: ObjectMeta {
            name: Some(facts.name.to_string()),
            uid: Some(facts.uid.clone()),
            resource_version: Some(version.to_string()),
            labels: Some(facts.labels.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec { taints: Some(facts.taints.clone()) }),
        status: Some(NodeStatus {
            node_info: Some(NodeInfo {
                architecture: facts.architecture.clone(),
                boot_id: facts.boot_id.clone(),
                kernel_version: facts.kernel.to_string(),
                operating_system: "linux".to_owned(),
                os_image: String::new(),
            }),
        }),
    }
}
