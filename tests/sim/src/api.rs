//! The API server: objects with uids, resource versions, generations and finalizers, preconditions, the status apart,
//! garbage collection by owner, and a history that watches read at their own pace.
//!
//! What each write does to an object is what server-side apply, a merge patch or a delete of the real one does with
//! the fields that Tenon writes (`k8s.io/apiserver/pkg/endpoints/handlers/patch.go`, `registry/generic/registry/store.go`).
//! Not modelled: pages of lists (one list is one snapshot there, too), admission, field managers other than Tenon's.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::api::resource::v1::DeviceClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, OwnerReference, Time};
use kube::core::ObjectMeta;
use kube::{Resource, ResourceExt};
use tenon_api::module::ModuleStatus;
use tenon_api::module_image::ModuleImageStatus;
use tenon_api::node_modules_config::{NodeModulesConfig, NodeModulesConfigStatus};
use tenon_api::preflight_validation::{PreflightValidationSpec, PreflightValidationStatus};
use tenon_api::{Module, ModuleImage, PreflightValidation, labels};
use tenon_operator::world::{ImageKey, Index};
use tenon_order::{ModuleKey, NodeName};
use tenon_plan::node::NodeFacts;

use crate::clock;
use crate::pod::{Named, SimPod};

/// A kind that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Node.
    Node,
    /// Module.
    Module,
    /// `ModuleImage`.
    Image,
    /// `NodeModulesConfig`.
    Config,
    /// A plugin's `DaemonSet`.
    Set,
    /// A plugin's Pod.
    Pod,
    /// `PreflightValidation`.
    Preflight,
}

/// How many kinds there are.
pub const COUNT: usize = 7;

/// All kinds.
pub const KINDS: [Kind; COUNT] =
    [Kind::Node, Kind::Module, Kind::Image, Kind::Config, Kind::Set, Kind::Pod, Kind::Preflight];

/// What became of an object: its new state, or that it is gone.
#[derive(Debug, Clone)]
pub enum Change {
    /// A node, at this version.
    Node(NodeName, Option<Arc<NodeFacts>>, u64),
    /// A Module.
    Module(ModuleKey, Option<Arc<Module>>),
    /// An image, at this version.
    Image(ImageKey, Option<Arc<ModuleImage>>, u64),
    /// A node's object, at this version.
    Config(NodeName, Option<Arc<NodeModulesConfig>>, u64),
    /// A plugin's `DaemonSet`.
    Set(Named, Option<Arc<DaemonSet>>),
    /// A plugin's pod.
    Pod(Named, Option<Arc<SimPod>>),
    /// A preflight.
    Preflight(String, Option<Arc<PreflightValidation>>),
}

impl Change {
    /// The kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Node(..) => Kind::Node,
            Self::Module(..) => Kind::Module,
            Self::Image(..) => Kind::Image,
            Self::Config(..) => Kind::Config,
            Self::Set(..) => Kind::Set,
            Self::Pod(..) => Kind::Pod,
            Self::Preflight(..) => Kind::Preflight,
        }
    }

    /// The uid of an object that may be collected.
    pub fn uid(&self) -> Option<String> {
        match self {
            Self::Config(_, config, _) => config.as_ref()?.uid(),
            Self::Image(_, image, _) => image.as_ref()?.uid(),
            Self::Set(_, set) => set.as_ref()?.uid(),
            Self::Pod(_, pod) => Some(pod.as_ref()?.uid.clone()),
            Self::Node(..) | Self::Module(..) | Self::Preflight(..) => None,
        }
    }
}

/// A write.
#[derive(Debug, Clone)]
pub enum Write {
    /// A merge patch of a node's labels.
    Labels {
        /// The node.
        node: NodeName,
        /// Only if it is this one.
        uid: Option<String>,
        /// Only if it is as it was in this version.
        version: Option<u64>,
        /// `None` takes a label away.
        labels: BTreeMap<String, Option<String>>,
    },
    /// Server-side apply of a node's object.
    Config(Box<NodeModulesConfig>),
    /// A merge patch of a Module's finalizers.
    Finalizers {
        /// The Module.
        key: ModuleKey,
        /// Only if it is this one.
        uid: Option<String>,
        /// And at this version.
        version: Option<String>,
        /// All of them.
        finalizers: Vec<String>,
    },
    /// Server-side apply of an image's spec.
    Image(Box<ModuleImage>),
    /// A delete.
    DeleteImage {
        /// The image.
        key: ImageKey,
        /// Only if it is this one.
        uid: Option<String>,
    },
    /// Server-side apply of an image's status.
    ImageStatus {
        /// The image.
        key: ImageKey,
        /// Only if it is this one.
        uid: Option<String>,
        /// The status.
        status: Box<ModuleImageStatus>,
    },
    /// Server-side apply of a Module's status.
    ModuleStatus {
        /// The Module.
        key: ModuleKey,
        /// Only if it is this one.
        uid: Option<String>,
        /// The status.
        status: Box<ModuleStatus>,
    },
    /// Server-side apply of a node's object's status: the agent's.
    Report {
        /// The node.
        node: NodeName,
        /// Only if it is this one.
        uid: Option<String>,
        /// And at this version.
        version: Option<String>,
        /// The status.
        status: Box<NodeModulesConfigStatus>,
    },
    /// Server-side apply of a `DaemonSet`, by force.
    Set(Box<DaemonSet>),
    /// A delete in the background.
    DeleteSet {
        /// The `DaemonSet`.
        key: Named,
        /// Only if it is this one.
        uid: Option<String>,
    },
    /// Server-side apply of a device class.
    Class {
        /// The class.
        class: Box<DeviceClass>,
        /// Whether it is taken from whoever has it.
        force: bool,
    },
    /// A delete.
    DeleteClass {
        /// The class.
        name: String,
        /// Only if it is this one.
        uid: Option<String>,
    },
    /// Server-side apply of a preflight's status.
    PreflightStatus {
        /// The preflight.
        name: String,
        /// Only if it is this one.
        uid: Option<String>,
        /// The status.
        status: Box<PreflightValidationStatus>,
    },
}

/// What the API server answers.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Done; the object as it is now.
    Done(Option<Change>),
    /// The precondition does not hold, or there is no such object.
    Conflict,
    /// There is no such object.
    NotFound,
    /// Try again later.
    Busy,
}

/// All objects, and what became of them.
#[derive(Debug, Default)]
pub struct ApiServer {
    version: u64,
    uids: u64,
    /// Nodes, as the few facts that count.
    pub nodes: BTreeMap<NodeName, Arc<NodeFacts>>,
    /// The version of each.
    node_versions: BTreeMap<NodeName, u64>,
    /// Modules.
    pub modules: BTreeMap<ModuleKey, Arc<Module>>,
    /// Images.
    pub images: BTreeMap<ImageKey, Arc<ModuleImage>>,
    /// Nodes' objects.
    pub configs: BTreeMap<NodeName, Arc<NodeModulesConfig>>,
    /// Plugins' `DaemonSet`s.
    pub sets: BTreeMap<Named, Arc<DaemonSet>>,
    /// Their pods.
    pub pods: BTreeMap<Named, Arc<SimPod>>,
    /// Device classes.
    pub classes: BTreeMap<String, DeviceClass>,
    /// Preflights.
    pub preflights: BTreeMap<String, Arc<PreflightValidation>>,
    /// The operator's lease and its version.
    pub lease: Option<(LeaseSpec, u64)>,
    /// Everything that became of objects of each kind, in order.
    history: [Vec<Change>; COUNT],
    /// Effective writes.
    pub writes: u64,
}

impl ApiServer {
    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    /// A new uid.
    pub fn next_uid(&mut self) -> String {
        self.uids += 1;
        format!("uid-{}", self.uids)
    }

    /// How many changes of a kind there were.
    pub fn head(&self, kind: Kind) -> usize {
        self.history.get(kind as usize).map_or(0, Vec::len)
    }

    /// The change at this place of a kind's history.
    pub fn change(&self, kind: Kind, at: usize) -> Option<&Change> {
        self.history.get(kind as usize)?.get(at)
    }

    fn record(&mut self, change: Change) {
        if let Some(history) = self.history.get_mut(change.kind() as usize) {
            history.push(change);
        }
        self.writes += 1;
    }

    /// All objects of a kind, by a consistent list.
    pub fn list(&self, kind: Kind) -> Vec<Change> {
        match kind {
            Kind::Node => self
                .nodes
                .iter()
                .map(|(key, o)| Change::Node(key.clone(), Some(o.clone()), self.node_version(key)))
                .collect(),
            Kind::Module => {
                self.modules.iter().map(|(key, o)| Change::Module(key.clone(), Some(o.clone()))).collect()
            }
            Kind::Image => {
                self.images.iter().map(|(key, o)| Change::Image(key.clone(), Some(o.clone()), 0)).collect()
            }
            Kind::Config => {
                self.configs.iter().map(|(key, o)| Change::Config(key.clone(), Some(o.clone()), 0)).collect()
            }
            Kind::Set => self.sets.iter().map(|(key, o)| Change::Set(key.clone(), Some(o.clone()))).collect(),
            Kind::Pod => self.pods.iter().map(|(key, o)| Change::Pod(key.clone(), Some(o.clone()))).collect(),
            Kind::Preflight => {
                let all = self.preflights.iter();
                all.map(|(key, o)| Change::Preflight(key.clone(), Some(o.clone()))).collect()
            }
        }
    }

    /// A node is there, or has changed, or is gone.
    pub fn set_node(&mut self, name: &NodeName, facts: Option<NodeFacts>) {
        let facts = facts.map(Arc::new);
        if self.nodes.get(name) == facts.as_ref() {
            return;
        }
        match &facts {
            Some(facts) => self.nodes.insert(name.clone(), facts.clone()),
            None => self.nodes.remove(name),
        };
        self.version += 1;
        self.node_versions.insert(name.clone(), self.version);
        self.record(Change::Node(name.clone(), facts, self.version));
    }

    /// The version of a node.
    pub fn node_version(&self, name: &NodeName) -> u64 {
        self.node_versions.get(name).copied().unwrap_or_default()
    }

    /// A user makes or changes a Module's spec; its metadata is the server's.
    pub fn put_module(&mut self, key: &ModuleKey, mut module: Module) {
        let known = self.modules.get(key).cloned();
        module.metadata = match &known {
            Some(known) => known.metadata.clone(),
            None => ObjectMeta {
                name: Some(key.name().to_owned()),
                namespace: Some(key.namespace().to_owned()),
                uid: Some(self.next_uid()),
                generation: Some(0),
                ..ObjectMeta::default()
            },
        };
        module.status = known.as_ref().and_then(|known| known.status.clone());
        if known.is_none_or(|known| known.spec != module.spec) {
            raise(&mut module.metadata);
            self.keep_module(key, module);
        }
    }

    /// A user sets an annotation of a Module.
    pub fn annotate_module(&mut self, key: &ModuleKey, name: &str, value: String) {
        let Some(known) = self.modules.get(key) else { return };
        let mut module = (**known).clone();
        module.annotations_mut().insert(name.to_owned(), value);
        self.keep_module(key, module);
    }

    /// A user deletes a Module.
    pub fn delete_module(&mut self, key: &ModuleKey) {
        let Some(known) = self.modules.get(key) else { return };
        if known.finalizers().is_empty() {
            self.modules.remove(key);
            self.record(Change::Module(key.clone(), None));
        } else if known.metadata.deletion_timestamp.is_none() {
            let mut module = (**known).clone();
            module.metadata.deletion_timestamp = Some(Time(clock::timestamp(clock::wall())));
            raise(&mut module.metadata);
            self.keep_module(key, module);
        }
    }

    fn keep_module(&mut self, key: &ModuleKey, mut module: Module) {
        module.metadata.resource_version = Some(self.next_version());
        let module = Arc::new(module);
        self.modules.insert(key.clone(), module.clone());
        self.record(Change::Module(key.clone(), Some(module)));
    }

    fn keep_image(&mut self, key: &ImageKey, mut image: ModuleImage) -> Change {
        image.metadata.resource_version = Some(self.next_version());
        let image = Arc::new(image);
        self.images.insert(key.clone(), image.clone());
        let change = Change::Image(key.clone(), Some(image), self.version);
        self.record(change.clone());
        change
    }

    fn keep_config(&mut self, key: &NodeName, mut config: NodeModulesConfig) -> Change {
        config.metadata.resource_version = Some(self.next_version());
        let config = Arc::new(config);
        self.configs.insert(key.clone(), config.clone());
        let change = Change::Config(key.clone(), Some(config), self.version);
        self.record(change.clone());
        change
    }

    /// Puts nodes' objects back as they were: a restored backup. Versions go on, as etcd's revision bump has it.
    pub fn restore_configs(&mut self, backup: &BTreeMap<NodeName, Arc<NodeModulesConfig>>) {
        for (key, config) in backup {
            if self.configs.contains_key(key) {
                self.keep_config(key, (**config).clone());
            }
        }
    }

    /// Objects whose owners are all gone.
    pub fn garbage(&self) -> Vec<Change> {
        let node = |owner: &OwnerReference| self.nodes.values().any(|node| node.uid == owner.uid);
        let module = |owner: &OwnerReference| {
            self.modules.values().any(|module| module.metadata.uid.as_ref() == Some(&owner.uid))
        };
        let orphaned = |meta: &ObjectMeta, lives: &dyn Fn(&OwnerReference) -> bool| {
            let owners = meta.owner_references.as_deref().unwrap_or_default();
            !owners.is_empty() && !owners.iter().any(lives)
        };
        let configs = self.configs.iter().filter(|(_, config)| orphaned(&config.metadata, &node));
        let configs = configs.map(|(key, config)| Change::Config(key.clone(), Some(config.clone()), 0));
        let images = self.images.iter().filter(|(_, image)| orphaned(&image.metadata, &module));
        let images = images.map(|(key, image)| Change::Image(key.clone(), Some(image.clone()), 0));
        let sets = self.sets.iter().filter(|(_, set)| orphaned(&set.metadata, &module));
        let sets = sets.map(|(key, set)| Change::Set(key.clone(), Some(set.clone())));
        let pods = self.pods.iter().filter(|(_, pod)| self.is_garbage(pod));
        let pods = pods.map(|(key, pod)| Change::Pod(key.clone(), Some(pod.clone())));
        configs.chain(images).chain(sets).chain(pods).collect()
    }

    /// A pod whose node is gone, or whose `DaemonSet` is and that has not been told to go.
    fn is_garbage(&self, pod: &SimPod) -> bool {
        let owned = || self.sets.values().any(|set| set.metadata.uid.as_ref() == Some(&pod.owner));
        !self.nodes.contains_key(&pod.node) || !pod.is_leaving && !owned()
    }

    /// Collects an object that [`garbage`](Self::garbage) named, if it still is.
    pub fn collect(&mut self, garbage: &Change) {
        // The collector looks at the object and its owners once more (`attemptToDeleteItem` of kube-controller-manager).
        if !self.garbage().iter().any(|other| other.uid() == garbage.uid()) {
            return;
        }
        match garbage {
            Change::Config(key, ..) => {
                self.configs.remove(key);
                self.version += 1;
                self.record(Change::Config(key.clone(), None, self.version));
            }
            Change::Image(key, ..) => {
                self.images.remove(key);
                self.version += 1;
                self.record(Change::Image(key.clone(), None, self.version));
            }
            Change::Set(key, ..) => {
                self.sets.remove(key);
                self.record(Change::Set(key.clone(), None));
            }
            // Nobody is there to end it but where its node is.
            Change::Pod(key, ..) => {
                let node = self.pods.get(key).map(|pod| pod.node.clone());
                if node.is_some_and(|node| self.nodes.contains_key(&node)) {
                    self.change_pod(key, |pod| pod.is_leaving = true);
                } else {
                    self.end_pod(key);
                }
            }
            _ => {}
        }
    }

    /// Does a write, or says why not.
    pub fn write(&mut self, write: &Write) -> Answer {
        match write {
            Write::Labels { node, uid, version, labels } => {
                self.write_labels(node, uid.as_ref(), *version, labels)
            }
            Write::Config(config) => self.apply_config(config),
            Write::Finalizers { key, uid, version, finalizers } => {
                self.write_finalizers(key, uid.as_ref(), version.as_ref(), finalizers)
            }
            Write::Image(image) => self.apply_image(image),
            Write::DeleteImage { key, uid } => match self.images.get(key) {
                None => Answer::NotFound,
                Some(known) if differs(uid.as_ref(), known.meta().uid.as_ref()) => Answer::Conflict,
                Some(_) => {
                    self.images.remove(key);
                    self.version += 1;
                    let change = Change::Image(key.clone(), None, self.version);
                    self.record(change.clone());
                    Answer::Done(Some(change))
                }
            },
            Write::ImageStatus { key, uid, status } => {
                let Some(known) = self.images.get(key) else { return Answer::NotFound };
                if differs(uid.as_ref(), known.meta().uid.as_ref()) {
                    return Answer::Conflict;
                }
                let mut image = (**known).clone();
                if image.status.as_ref() == Some(&**status) {
                    return Answer::Done(Some(Change::Image(key.clone(), Some(known.clone()), 0)));
                }
                image.status = Some((**status).clone());
                Answer::Done(Some(self.keep_image(key, image)))
            }
            Write::ModuleStatus { key, uid, status } => {
                let Some(known) = self.modules.get(key) else { return Answer::NotFound };
                if differs(uid.as_ref(), known.meta().uid.as_ref()) {
                    return Answer::Conflict;
                }
                if known.status.as_ref() != Some(&**status) {
                    let mut module = (**known).clone();
                    module.status = Some((**status).clone());
                    self.keep_module(key, module);
                }
                Answer::Done(Some(Change::Module(key.clone(), self.modules.get(key).cloned())))
            }
            Write::Report { node, uid, version, status } => {
                let Some(known) = self.configs.get(node) else { return Answer::NotFound };
                let meta = known.meta();
                if differs(uid.as_ref(), meta.uid.as_ref())
                    || differs(version.as_ref(), meta.resource_version.as_ref())
                {
                    return Answer::Conflict;
                }
                let mut config = (**known).clone();
                if config.status.as_ref() == Some(&**status) {
                    return Answer::Done(Some(Change::Config(node.clone(), Some(known.clone()), 0)));
                }
                config.status = Some((**status).clone());
                Answer::Done(Some(self.keep_config(node, config)))
            }
            Write::Set(set) => Answer::Done(Some(self.apply_set(set))),
            Write::DeleteSet { key, uid } => match self.sets.get(key) {
                None => Answer::NotFound,
                Some(known) if differs(uid.as_ref(), known.metadata.uid.as_ref()) => Answer::Conflict,
                Some(_) => {
                    self.sets.remove(key);
                    self.record(Change::Set(key.clone(), None));
                    Answer::Done(None)
                }
            },
            Write::Class { class, force } => self.apply_class(class, *force),
            Write::DeleteClass { name, uid } => match self.classes.get(name) {
                None => Answer::NotFound,
                Some(known) if differs(uid.as_ref(), known.metadata.uid.as_ref()) => Answer::Conflict,
                Some(_) => {
                    self.classes.remove(name);
                    self.writes += 1;
                    Answer::Done(None)
                }
            },
            Write::PreflightStatus { name, uid, status } => {
                let Some(known) = self.preflights.get(name) else { return Answer::NotFound };
                if differs(uid.as_ref(), known.meta().uid.as_ref()) {
                    return Answer::Conflict;
                }
                if known.status.as_ref() != Some(&**status) {
                    let mut preflight = (**known).clone();
                    preflight.status = Some((**status).clone());
                    self.keep_preflight(name, preflight);
                }
                Answer::Done(Some(Change::Preflight(name.clone(), self.preflights.get(name).cloned())))
            }
        }
    }

    fn keep_preflight(&mut self, name: &str, mut preflight: PreflightValidation) {
        preflight.metadata.resource_version = Some(self.next_version());
        let preflight = Arc::new(preflight);
        self.preflights.insert(name.to_owned(), preflight.clone());
        self.record(Change::Preflight(name.to_owned(), Some(preflight)));
    }

    /// A user asks whether drivers will be there on a kernel.
    pub fn put_preflight(&mut self, name: &str, kernel: &str) {
        let spec = PreflightValidationSpec {
            kernel_version: kernel.to_owned(),
            ..PreflightValidationSpec::default()
        };
        let mut preflight = PreflightValidation::new(name, spec);
        if let Some(known) = self.preflights.get(name) {
            if known.spec == preflight.spec {
                return;
            }
            preflight.metadata = known.metadata.clone();
            preflight.status.clone_from(&known.status);
        } else {
            preflight.metadata.uid = Some(self.next_uid());
        }
        raise(&mut preflight.metadata);
        self.keep_preflight(name, preflight);
    }

    /// A user has asked enough.
    pub fn delete_preflight(&mut self, name: &str) {
        if self.preflights.remove(name).is_some() {
            self.record(Change::Preflight(name.to_owned(), None));
        }
    }

    fn keep_set(&mut self, key: &Named, mut set: DaemonSet) -> Change {
        set.metadata.resource_version = Some(self.next_version());
        let set = Arc::new(set);
        self.sets.insert(key.clone(), set.clone());
        let change = Change::Set(key.clone(), Some(set));
        self.record(change.clone());
        change
    }

    fn apply_set(&mut self, wanted: &DaemonSet) -> Change {
        let key = (wanted.namespace().unwrap_or_default(), wanted.name_any());
        let mut set = if let Some(known) = self.sets.get(&key) {
            (**known).clone()
        } else {
            let uid = Some(self.next_uid());
            DaemonSet { metadata: ObjectMeta { uid, ..wanted.metadata.clone() }, ..DaemonSet::default() }
        };
        set.metadata.labels.clone_from(&wanted.metadata.labels);
        set.metadata.annotations.clone_from(&wanted.metadata.annotations);
        set.metadata.owner_references.clone_from(&wanted.metadata.owner_references);
        // What somebody else had a say in is ours again.
        set.metadata.managed_fields = Some(vec![managed(labels::field_manager::WORKLOADS)]);
        if set.spec != wanted.spec {
            set.spec.clone_from(&wanted.spec);
            raise(&mut set.metadata);
        }
        match self.sets.get(&key) {
            Some(known) if **known == set => Change::Set(key, Some(known.clone())),
            _ => self.keep_set(&key, set),
        }
    }

    /// Somebody else, or its controller, changes a `DaemonSet`.
    pub fn change_set(&mut self, key: &Named, change: impl FnOnce(&mut DaemonSet)) {
        let Some(known) = self.sets.get(key) else { return };
        let mut set = (**known).clone();
        change(&mut set);
        if set == **known {
            return;
        }
        if set.spec != known.spec {
            set.metadata.managed_fields.get_or_insert_default().push(managed("somebody"));
            raise(&mut set.metadata);
        }
        self.keep_set(key, set);
    }

    fn apply_class(&mut self, wanted: &DeviceClass, force: bool) -> Answer {
        let name = wanted.name_any();
        let mut class = match self.classes.get(&name) {
            Some(known) => {
                if differs(wanted.metadata.uid.as_ref(), known.metadata.uid.as_ref()) {
                    return Answer::Conflict;
                }
                // Its selectors are somebody else's field.
                if !force && !known.labels().contains_key(labels::MODULE_NAME) {
                    return Answer::Conflict;
                }
                known.clone()
            }
            None if wanted.metadata.uid.is_some() => return Answer::Conflict,
            None => {
                let uid = Some(self.next_uid());
                DeviceClass {
                    metadata: ObjectMeta { uid, name: Some(name.clone()), ..ObjectMeta::default() },
                    ..DeviceClass::default()
                }
            }
        };
        class.metadata.labels.clone_from(&wanted.metadata.labels);
        class.metadata.annotations.clone_from(&wanted.metadata.annotations);
        class.spec = wanted.spec.clone();
        if self.classes.get(&name) != Some(&class) {
            self.classes.insert(name, class);
            self.writes += 1;
        }
        Answer::Done(None)
    }

    /// Somebody else makes a device class, in the place of whatever has its name.
    pub fn make_class(&mut self, name: &str) {
        let uid = Some(self.next_uid());
        let metadata = ObjectMeta { uid, name: Some(name.to_owned()), ..ObjectMeta::default() };
        self.classes.insert(name.to_owned(), DeviceClass { metadata, ..DeviceClass::default() });
        self.writes += 1;
    }

    /// The `DaemonSet` controller makes a pod.
    pub fn make_pod(&mut self, set: &DaemonSet, node: &NodeName) {
        let uid = self.next_uid();
        let pod = Arc::new(SimPod::of(set, node, uid, self.head(Kind::Pod)));
        self.pods.insert(pod.key.clone(), pod.clone());
        self.record(Change::Pod(pod.key.clone(), Some(pod)));
    }

    /// A pod changes.
    pub fn change_pod(&mut self, key: &Named, change: impl FnOnce(&mut SimPod)) {
        let Some(known) = self.pods.get(key) else { return };
        let mut pod = (**known).clone();
        change(&mut pod);
        if pod != **known {
            let pod = Arc::new(pod);
            self.pods.insert(key.clone(), pod.clone());
            self.record(Change::Pod(key.clone(), Some(pod)));
        }
    }

    /// A pod is gone.
    pub fn end_pod(&mut self, key: &Named) {
        if self.pods.remove(key).is_some() {
            self.record(Change::Pod(key.clone(), None));
        }
    }

    fn write_labels(
        &mut self,
        name: &NodeName,
        uid: Option<&String>,
        version: Option<u64>,
        labels: &BTreeMap<String, Option<String>>,
    ) -> Answer {
        let Some(known) = self.nodes.get(name) else { return Answer::NotFound };
        let is_as_seen = version.is_none_or(|version| version == self.node_version(name));
        if differs(uid, Some(&known.uid)) || !is_as_seen {
            return Answer::Conflict;
        }
        let mut facts = (**known).clone();
        for (key, value) in labels {
            match value {
                Some(value) => facts.labels.insert(key.clone(), value.clone()),
                None => facts.labels.remove(key),
            };
        }
        self.set_node(name, Some(facts));
        let known = self.nodes.get(name).cloned();
        Answer::Done(Some(Change::Node(name.clone(), known, self.node_version(name))))
    }

    fn apply_config(&mut self, wanted: &NodeModulesConfig) -> Answer {
        let Ok(key) = wanted.name_any().parse::<NodeName>() else { return Answer::NotFound };
        let asked = &wanted.metadata;
        let Some(known) = self.configs.get(&key) else {
            // "uid mismatch: the provided object specified uid …, and no existing object was found"
            if asked.uid.is_some() {
                return Answer::Conflict;
            }
            let mut made = wanted.clone();
            made.metadata.uid = Some(self.next_uid());
            made.metadata.generation = Some(1);
            return Answer::Done(Some(self.keep_config(&key, made)));
        };
        let meta = known.meta();
        if differs(asked.uid.as_ref(), meta.uid.as_ref())
            || differs(asked.resource_version.as_ref(), meta.resource_version.as_ref())
        {
            return Answer::Conflict;
        }
        let mut config = (**known).clone();
        config.metadata.labels.clone_from(&asked.labels);
        config.metadata.owner_references.clone_from(&asked.owner_references);
        if config.spec != wanted.spec {
            config.spec = wanted.spec.clone();
            raise(&mut config.metadata);
        }
        if config == **known {
            return Answer::Done(Some(Change::Config(key, Some(known.clone()), 0)));
        }
        Answer::Done(Some(self.keep_config(&key, config)))
    }

    fn write_finalizers(
        &mut self,
        key: &ModuleKey,
        uid: Option<&String>,
        version: Option<&String>,
        finalizers: &[String],
    ) -> Answer {
        let Some(known) = self.modules.get(key) else { return Answer::NotFound };
        if differs(uid, known.meta().uid.as_ref()) || differs(version, known.meta().resource_version.as_ref())
        {
            return Answer::Conflict;
        }
        let mut module = (**known).clone();
        // "no new finalizers can be added if the object is being deleted"
        if module.metadata.deletion_timestamp.is_some()
            && finalizers.iter().any(|new| !known.finalizers().contains(new))
        {
            return Answer::Conflict;
        }
        module.metadata.finalizers = Some(finalizers.to_vec()).filter(|all| !all.is_empty());
        if module.metadata.deletion_timestamp.is_some() && finalizers.is_empty() {
            self.modules.remove(key);
            self.record(Change::Module(key.clone(), None));
        } else if module.metadata.finalizers != known.metadata.finalizers {
            self.keep_module(key, module);
        }
        Answer::Done(None)
    }

    fn apply_image(&mut self, wanted: &ModuleImage) -> Answer {
        let key = ImageKey::of(wanted);
        let asked = &wanted.metadata;
        let Some(known) = self.images.get(&key) else {
            if asked.uid.is_some() {
                return Answer::Conflict;
            }
            let mut made = wanted.clone();
            made.metadata.uid = Some(self.next_uid());
            made.metadata.generation = Some(1);
            made.status = None;
            return Answer::Done(Some(self.keep_image(&key, made)));
        };
        let meta = known.meta();
        if differs(asked.uid.as_ref(), meta.uid.as_ref())
            || differs(asked.resource_version.as_ref(), meta.resource_version.as_ref())
        {
            return Answer::Conflict;
        }
        let mut image = (**known).clone();
        image.metadata.owner_references.clone_from(&asked.owner_references);
        if image.spec != wanted.spec {
            image.spec = wanted.spec.clone();
            raise(&mut image.metadata);
        }
        if image == **known {
            return Answer::Done(Some(Change::Image(key, Some(known.clone()), 0)));
        }
        Answer::Done(Some(self.keep_image(&key, image)))
    }
}

/// Whether a precondition is set and does not hold.
fn differs(asked: Option<&String>, is: Option<&String>) -> bool {
    asked.is_some_and(|asked| Some(asked) != is)
}

/// Somebody who has a say in what an object wishes.
fn managed(manager: &str) -> ManagedFieldsEntry {
    let fields = k8s_openapi::apimachinery::pkg::apis::meta::v1::FieldsV1(serde_json::json!({"f:spec": {}}));
    ManagedFieldsEntry {
        manager: Some(manager.to_owned()),
        fields_v1: Some(fields),
        ..ManagedFieldsEntry::default()
    }
}

fn raise(meta: &mut ObjectMeta) {
    meta.generation = Some(meta.generation.unwrap_or_default() + 1);
}

/// The key of a Module object.
pub fn key_of(module: &Module) -> Option<ModuleKey> {
    Index::key_of(module)
}
