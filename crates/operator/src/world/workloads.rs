//! The pods and `DaemonSet`s of plugins. Of each the few fields are kept that count, and only those that bear a Module's name are
//! watched.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, OwnerReference};
use kube::core::ObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tenon_api::labels::{self, annotation, field_manager, finalizer};
use tenon_order::{ModuleKey, NodeName};
use tenon_plan::rollout;
use tenon_plan::workload::daemon_set::module_label;
use tenon_plan::workload::plan::SetSeen;
use tenon_plan::workload::{PluginPod, Role};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::World;
use super::flight::Ends;

/// How long a watch may be silent before it is opened anew.
const WATCH_SECONDS: u32 = 290;
/// Pods that end this close together are looked at once.
const LOOK_WITHIN: std::time::Duration = std::time::Duration::from_millis(300);

/// A namespaced object.
type Key = (String, String);

/// Of a Pod (`k8s.io/api/core/v1`) what is read here.
#[derive(Debug, Clone, Default, Resource, Deserialize)]
#[resource(inherit = k8s_openapi::api::core::v1::Pod)]
pub struct Pod {
    /// What names it, its labels, its owner.
    pub metadata: ObjectMeta,
    /// Where it runs.
    pub spec: Option<PodSpec>,
    /// How it is.
    pub status: Option<PodStatus>,
}

/// Of a Pod's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// Once it is placed.
    pub node_name: Option<String>,
    /// Of a `DaemonSet`'s pod: the node that it is for.
    pub affinity: Option<k8s_openapi::api::core::v1::Affinity>,
}

/// Of a Pod's status.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct PodStatus {
    /// Whether it has ended.
    pub phase: Option<String>,
    /// Whether it is ready.
    pub conditions: Option<Vec<PodCondition>>,
}

/// Of a Pod's condition.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct PodCondition {
    /// Of what it tells.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, or not.
    pub status: String,
}

/// A plugin's pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPod {
    /// The Module, as its label has it.
    module: String,
    node: Option<NodeName>,
    role: Role,
    is_ready: bool,
    has_ended: bool,
    /// The uid of its `DaemonSet`.
    owner: String,
    /// Its uid.
    pub uid: String,
    /// The finalizers without KMM's, where it waits for that one alone of those that we know.
    pub released: Option<Vec<String>>,
}

impl KnownPod {
    /// `None` for a pod of no `DaemonSet`, or of none that runs plugins.
    pub fn of(pod: &Pod) -> Option<Self> {
        let labels = pod.labels();
        let role = Role::of_label(labels.get(labels::ROLE).map(String::as_str))?;
        let owner = pod.owner_references().iter().find(|owner| owner.kind == "DaemonSet")?;
        // Those of KMM up to 2.6 have no role, but its finalizer; without either it is somebody else's.
        let is_labelled = labels.contains_key(labels::ROLE);
        if !is_labelled && !pod.finalizers().iter().any(|name| name == finalizer::NODE_LABELER) {
            return None;
        }
        let is_leaving = pod.metadata.deletion_timestamp.is_some();
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let says_ready = conditions.iter().any(|told| told.type_ == "Ready" && told.status == "True");
        let is_labeler = |name: &&String| *name == finalizer::NODE_LABELER;
        let waits = is_leaving && pod.finalizers().iter().any(|name| is_labeler(&name));
        Some(Self {
            module: labels.get(labels::MODULE_NAME)?.clone(),
            node: pod.spec.as_ref().and_then(node),
            role,
            is_ready: says_ready && !is_leaving,
            has_ended: matches!(phase, Some("Succeeded" | "Failed")),
            owner: owner.uid.clone(),
            uid: pod.uid()?,
            released: waits
                .then(|| pod.finalizers().iter().filter(|name| !is_labeler(name)).cloned().collect()),
        })
    }
}

/// Where a pod runs, or will.
fn node(spec: &PodSpec) -> Option<NodeName> {
    if let Some(name) = spec.node_name.as_ref().filter(|name| !name.is_empty()) {
        return name.parse().ok();
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let mut fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let field = fields.find(|field| field.key == "metadata.name")?;
    field.values.as_ref()?.first()?.parse().ok()
}

/// A plugin's `DaemonSet`, with the Module that owns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownSet {
    /// The Module.
    pub module: ModuleKey,
    /// The Module's uid.
    pub module_uid: String,
    /// What counts of it.
    pub seen: SetSeen,
    /// The version of what it says.
    pub generation: i64,
    /// The version of the object.
    version: Option<u64>,
}

impl KnownSet {
    /// `None` for one that no Module owns.
    pub fn of(set: &DaemonSet) -> Option<Self> {
        let is_module = |owner: &&OwnerReference| {
            owner.kind == "Module" && owner.api_version.starts_with("kmm.sigs.x-k8s.io/")
        };
        // KMM's are controlled by their Module, too. What only goes with it is somebody else's.
        let is_controller = |owner: &&OwnerReference| owner.controller == Some(true);
        let owner = set.owner_references().iter().filter(is_controller).find(is_module)?;
        let status = set.status.clone().unwrap_or_default();
        let generation = set.metadata.generation.unwrap_or_default();
        let labels = set.labels();
        let selected = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.as_ref());
        let version = selected.into_iter().flatten().find(|(key, _)| key.contains("/version-"));
        Some(Self {
            module: ModuleKey::new(&set.namespace()?, &owner.name).ok()?,
            module_uid: owner.uid.clone(),
            seen: SetSeen {
                name: set.name_any(),
                uid: set.uid()?,
                role: Role::of_label(labels.get(labels::ROLE).map(String::as_str)),
                driver: set.annotations().get(annotation::DRA_DRIVER).cloned(),
                version: version.map(|(_, version)| version.clone()),
                wish: set.annotations().get(annotation::WISH).cloned(),
                is_changed: set.managed_fields().iter().any(is_meddling),
                is_idle: status.observed_generation == Some(generation)
                    && status.desired_number_scheduled == 0
                    && status.current_number_scheduled == 0
                    && status.number_misscheduled == 0,
                is_leaving: set.metadata.deletion_timestamp.is_some(),
            },
            generation,
            version: super::version(set.metadata.resource_version.as_deref()),
        })
    }
}

/// Whether somebody else has a say in what the `DaemonSet` wishes.
fn is_meddling(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref() != Some(field_manager::WORKLOADS)
        && entry.subresource.as_deref().unwrap_or_default().is_empty()
        && entry.fields_v1.as_ref().is_some_and(|fields| fields.0.get("f:spec").is_some())
}

/// All of them.
#[derive(Debug, Default)]
pub struct WorkloadsIndex {
    pods: BTreeMap<Key, KnownPod>,
    pods_on: HashMap<NodeName, BTreeSet<Key>>,
    sets: BTreeMap<Key, KnownSet>,
    /// The uids of `DaemonSet`s that were deleted.
    ended: Ends<String>,
}

impl WorkloadsIndex {
    /// The pods of a Module's plugin on a node that have not ended.
    fn on(&self, node: &NodeName, module: &ModuleKey) -> Vec<PluginPod> {
        let Some(keys) = self.pods_on.get(node) else { return Vec::new() };
        let label = module_label(module.name());
        let pods = keys.iter().filter_map(|key| Some((key, self.pods.get(key)?)));
        let is_its = |(key, pod): &(&Key, &KnownPod)| key.0 == module.namespace() && pod.module == label;
        pods.filter(|one| is_its(one) && !one.1.has_ended)
            .map(|(key, pod)| PluginPod {
                name: format!("{}/{}", key.0, key.1),
                role: pod.role,
                is_ready: pod.is_ready,
            })
            .collect()
    }

    /// The pods of a Module's plugin, with their names.
    fn pods_of(&self, module: &ModuleKey) -> impl Iterator<Item = (&String, &KnownPod)> {
        let label = module_label(module.name());
        let all = self.pods.iter();
        let its = all.filter(move |(key, pod)| key.0 == module.namespace() && pod.module == label);
        its.map(|(key, pod)| (&key.1, pod))
    }

    /// The `DaemonSet`s of a Module; `uid` is the Module's.
    fn sets_of(&self, module: &ModuleKey, uid: &str) -> impl Iterator<Item = &KnownSet> {
        let from = (module.namespace().to_owned(), String::new());
        let near = self.sets.range(from..).take_while(|(key, _)| key.0 == module.namespace());
        near.map(|(_, set)| set).filter(move |set| set.module == *module && set.module_uid == uid)
    }

    fn set_pod(&mut self, key: &Key, pod: Option<KnownPod>) -> Option<(Option<KnownPod>, Option<KnownPod>)> {
        let before = self.pods.get(key).cloned();
        if before == pod {
            return None;
        }
        if let Some(node) = before.as_ref().and_then(|pod| pod.node.as_ref())
            && let Some(keys) = self.pods_on.get_mut(node)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.pods_on.remove(node);
            }
        }
        if let Some(node) = pod.as_ref().and_then(|pod| pod.node.clone()) {
            self.pods_on.entry(node).or_default().insert(key.clone());
        }
        match pod.clone() {
            Some(pod) => self.pods.insert(key.clone(), pod),
            None => self.pods.remove(key),
        };
        Some((before, pod))
    }
}

/// What there is of a Module's plugin.
#[derive(Debug, Default)]
pub struct Workload {
    /// Its `DaemonSet`s, with their generations.
    pub sets: Vec<(SetSeen, i64)>,
    /// The versions that nodes have of the Module, as labels name them, where any of these is of one.
    pub versions: BTreeSet<String>,
    /// Pods that belong to none of them any more.
    pub orphans: usize,
    /// Pods that wait for KMM, by name.
    pub stuck: Vec<(String, KnownPod)>,
}

impl World {
    /// The pods of a Module's plugin on a node that have not ended.
    pub fn plugin_pods(&self, node: &NodeName, module: &ModuleKey) -> Vec<PluginPod> {
        super::lock(&self.workloads).on(node, module)
    }

    /// What there is of a Module's plugin; `uid` is the Module's.
    pub fn workload(&self, module: &ModuleKey, uid: &str) -> Workload {
        let nodes = self.read();
        let index = super::lock(&self.workloads);
        let sets: Vec<_> = index.sets_of(module, uid).collect();
        let is_ordered = sets.iter().any(|set| set.seen.version.is_some());
        // On a node that has fallen silent nobody ends a pod; when it is back, that is the first thing it does.
        let runs = |pod: &KnownPod| {
            let node = pod.node.as_ref().and_then(|node| nodes.node(node));
            node.is_some_and(|node| !rollout::is_silent(node))
        };
        let lives =
            |pod: &&KnownPod| !pod.has_ended && sets.iter().all(|set| set.seen.uid != pod.owner) && runs(pod);
        let stuck = index.pods_of(module).filter(|(_, pod)| pod.released.is_some());
        Workload {
            orphans: index.pods_of(module).map(|(_, pod)| pod).filter(lives).count(),
            stuck: stuck.map(|(name, pod)| (name.clone(), pod.clone())).collect(),
            sets: sets.iter().map(|set| (set.seen.clone(), set.generation)).collect(),
            versions: if is_ordered { nodes.versions_of(module) } else { BTreeSet::new() },
        }
    }

    /// A plugin's pod was seen, or is gone.
    pub fn pod(&self, namespace: &str, name: &str, pod: Option<KnownPod>) {
        let key = (namespace.to_owned(), name.to_owned());
        let Some((before, after)) = super::lock(&self.workloads).set_pod(&key, pod) else { return };
        for node in [&before, &after].into_iter().flatten().filter_map(|pod| pod.node.clone()) {
            self.queues.nodes.add(node);
        }
        let ends = after.as_ref().is_none_or(|pod| pod.has_ended || pod.released.is_some());
        let label = before.or(after).map(|pod| pod.module).unwrap_or_default();
        if ends {
            self.look_at(namespace, &label);
        }
    }

    /// A plugin's `DaemonSet` was seen, or is gone.
    pub fn set(&self, namespace: &str, name: &str, set: Option<KnownSet>) {
        let key = (namespace.to_owned(), name.to_owned());
        let of = |set: &KnownSet| (set.module.clone(), set.seen.driver.clone());
        let after = set.as_ref().map(of);
        let before = {
            let mut index = super::lock(&self.workloads);
            let before = match set {
                Some(set) if index.sets.get(&key) == Some(&set) => return,
                Some(set) => index.sets.insert(key, set),
                None => index.sets.remove(&key),
            };
            if let Some(ended) = before.as_ref().filter(|_| after.is_none()) {
                index.ended.note(ended.seen.uid.clone(), None, (self.clock.steady)());
            }
            before.as_ref().map(of)
        };
        let runs_another = before != after;
        for (module, driver) in [before, after].into_iter().flatten() {
            if driver.is_some() && runs_another {
                self.driver_changes(&module);
            }
            self.queues.workloads.add_within(module, LOOK_WITHIN);
        }
    }

    /// The `DaemonSet`s of a Module, as a decision takes them; `uid` is the Module's.
    pub(super) fn sets_of(&self, module: &ModuleKey, uid: &str) -> Vec<SetSeen> {
        super::lock(&self.workloads).sets_of(module, uid).map(|set| set.seen.clone()).collect()
    }

    /// As [`Self::wrote_config`], of a plugin's `DaemonSet`: its controller may have said more of it meanwhile, and would not say it
    /// again.
    pub fn wrote_set(&self, namespace: &str, name: &str, set: KnownSet) {
        let key = (namespace.to_owned(), name.to_owned());
        let _news = self.take_news();
        let is_past = {
            let index = super::lock(&self.workloads);
            let is_over = || index.ended.is_past(&set.seen.uid, set.version);
            index.sets.get(&key).map_or_else(is_over, |known| known.version > set.version)
        };
        if !is_past {
            self.set(namespace, name, Some(set));
        }
    }

    /// Nodes have these versions of Modules no more: `DaemonSet`s may have stayed for them alone.
    pub(super) fn versions_ended(&self, modules: BTreeSet<ModuleKey>) {
        for module in modules {
            self.queues.workloads.add_within(module, LOOK_WITHIN);
        }
    }

    /// The Modules with this label on their pods.
    fn look_at(&self, namespace: &str, label: &str) {
        let modules: Vec<_> = {
            let index = self.read();
            let keys = index.modules().filter_map(|module| super::Index::key_of(module));
            keys.filter(|key| key.namespace() == namespace && module_label(key.name()) == label).collect()
        };
        for module in modules {
            self.queues.workloads.add_within(module, LOOK_WITHIN);
        }
    }
}

/// A kind of which those are watched that bear a Module's name.
trait Watched: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static {
    fn see(&self, world: &World);
    fn gone(namespace: &str, name: &str, world: &World);
    fn known(world: &World) -> Vec<Key>;
}

impl Watched for Pod {
    fn see(&self, world: &World) {
        world.pod(&self.namespace().unwrap_or_default(), &self.name_any(), KnownPod::of(self));
    }

    fn gone(namespace: &str, name: &str, world: &World) {
        world.pod(namespace, name, None);
    }

    fn known(world: &World) -> Vec<Key> {
        super::lock(&world.workloads).pods.keys().cloned().collect()
    }
}

impl Watched for DaemonSet {
    fn see(&self, world: &World) {
        world.set(&self.namespace().unwrap_or_default(), &self.name_any(), KnownSet::of(self));
    }

    fn gone(namespace: &str, name: &str, world: &World) {
        world.set(namespace, name, None);
    }

    fn known(world: &World) -> Vec<Key> {
        super::lock(&world.workloads).sets.keys().cloned().collect()
    }
}

/// Follows the plugins' pods until `shutdown`; `listed` turns true when all that there were have been seen.
pub async fn follow_pods(
    client: Client,
    world: &World,
    listed: watch::Sender<bool>,
    shutdown: CancellationToken,
) {
    follow::<Pod>(client, world, listed, shutdown).await;
}

/// The same for their `DaemonSet`s.
pub async fn follow_sets(
    client: Client,
    world: &World,
    listed: watch::Sender<bool>,
    shutdown: CancellationToken,
) {
    follow::<DaemonSet>(client, world, listed, shutdown).await;
}

async fn follow<K: Watched>(
    client: Client,
    world: &World,
    listed: watch::Sender<bool>,
    shutdown: CancellationToken,
) {
    // Pods that make images bear a Module's name, too.
    let selector = format!("{},!{}", labels::MODULE_NAME, labels::RESOURCE_TYPE);
    let config = watcher::Config::default().timeout(WATCH_SECONDS).labels(&selector);
    let mut events = Box::pin(watcher(Api::<K>::all(client), config).default_backoff());
    let mut relisted: BTreeSet<Key> = BTreeSet::new();
    while let Some(Some(event)) = shutdown.run_until_cancelled(events.next()).await {
        let _news = world.take_news();
        match event {
            Ok(Event::Init) => relisted.clear(),
            Ok(Event::InitApply(object)) => {
                relisted.insert((object.namespace().unwrap_or_default(), object.name_any()));
                object.see(world);
            }
            Ok(Event::InitDone) => {
                for key in K::known(world).iter().filter(|key| !relisted.contains(*key)) {
                    K::gone(&key.0, &key.1, world);
                }
                listed.send_replace(true);
            }
            Ok(Event::Apply(object)) => object.see(world),
            Ok(Event::Delete(object)) => {
                K::gone(&object.namespace().unwrap_or_default(), &object.name_any(), world);
            }
            Err(error) => warn!(
                kind = %K::kind(&()),
                error = &error as &dyn std::error::Error,
                "a watch was interrupted; it is opened again"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tenon_api::node_modules_config::{NodeModule, NodeModulesConfig, NodeModulesConfigSpec};

    use super::*;
    use crate::depot::Assignments;

    fn pod(change: &serde_json::Value) -> Pod {
        let mut pod = json!({
            "metadata": {
                "name": "gauge-x", "namespace": "lab", "uid": "p-1",
                "labels": {"kmm.node.kubernetes.io/module.name": "gauge", "kmm.node.kubernetes.io/role": "device-plugin"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "gauge", "uid": "d-1"}]
            },
            "spec": {"nodeName": "pine"},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        });
        for (path, value) in change.as_object().unwrap() {
            *pod.pointer_mut(path).unwrap() = value.clone();
        }
        serde_json::from_value(pod).unwrap()
    }

    fn on_pine(world: &World) -> Vec<PluginPod> {
        world.plugin_pods(&"pine".parse().unwrap(), &"lab/gauge".parse().unwrap())
    }

    #[test]
    fn a_plugins_pod_is_on_its_node_until_it_has_ended_or_is_gone() {
        let world = World::new(Assignments::default());
        pod(&json!({})).see(&world);
        assert!(matches!(on_pine(&world).as_slice(), [pod] if pod.is_ready && pod.name == "lab/gauge-x"));
        assert!(world.queues.nodes.try_next().is_ok(), "its node is decided about");
        pod(&json!({"/status/conditions": []})).see(&world);
        assert!(matches!(on_pine(&world).as_slice(), [pod] if !pod.is_ready));
        pod(&json!({"/status/phase": "Failed"})).see(&world);
        assert!(on_pine(&world).is_empty());
        pod(&json!({})).see(&world);
        Pod::gone("lab", "gauge-x", &world);
        assert!(on_pine(&world).is_empty());
    }

    #[test]
    fn a_pod_that_no_node_has_taken_yet_is_where_it_will_be() {
        let fields = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["pine"]}]}
        ]}}});
        let world = World::new(Assignments::default());
        pod(&json!({"/spec": {"affinity": fields}})).see(&world);
        assert_eq!(on_pine(&world).len(), 1);
    }

    #[test]
    fn pods_of_others_are_none_of_a_plugins() {
        let world = World::new(Assignments::default());
        pod(&json!({"/metadata/ownerReferences": []})).see(&world);
        pod(&json!({"/metadata/labels/kmm.node.kubernetes.io~1role": "module-loader"})).see(&world);
        pod(&json!({"/metadata/namespace": "hall"})).see(&world);
        assert!(on_pine(&world).is_empty());
    }

    #[test]
    fn a_pod_that_waits_for_another_operators_finalizer_is_known() {
        let leaving = json!({
            "name": "gauge-x", "namespace": "lab", "uid": "p-1", "deletionTimestamp": "2026-01-01T00:00:00Z",
            "finalizers": ["kmm.node.kubernetes.io/node-labeler", "other.test/x"],
            "labels": {"kmm.node.kubernetes.io/module.name": "gauge"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "gauge", "uid": "d-1"}]
        });
        let world = World::new(Assignments::default());
        pod(&json!({"/metadata": leaving})).see(&world);
        let workload = || world.workload(&"lab/gauge".parse().unwrap(), "m-1");
        assert_eq!(workload().stuck[0].1.released.as_deref(), Some(["other.test/x".to_owned()].as_slice()));
        assert!(!on_pine(&world)[0].is_ready, "KMM's pods had no role once");

        // It is in the way of a new one only where somebody ends it.
        assert_eq!(workload().orphans, 0, "the node is gone");
        pine(&world, &json!([]));
        assert_eq!(workload().orphans, 1);
        pine(&world, &json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}]));
        assert_eq!(workload().orphans, 0, "the node is silent");
    }

    #[test]
    fn the_answer_to_a_write_does_not_make_a_set_what_it_was_before_its_controller_looked() {
        let set = |version: &str, status: &serde_json::Value| {
            let set: DaemonSet = serde_json::from_value(json!({
                "metadata": {
                    "name": "gauge", "namespace": "lab", "uid": "d-1", "generation": 1, "resourceVersion": version,
                    "ownerReferences": [{
                        "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module", "name": "gauge", "uid": "m-1",
                        "controller": true
                    }]
                },
                "status": status
            }))
            .unwrap();
            KnownSet::of(&set).unwrap()
        };
        let status = json!({
            "observedGeneration": 1, "desiredNumberScheduled": 0, "currentNumberScheduled": 0,
            "numberMisscheduled": 0, "numberReady": 0
        });
        let world = World::new(Assignments::default());
        let is_idle = || world.workload(&"lab/gauge".parse().unwrap(), "m-1").sets[0].0.is_idle;
        world.set("lab", "gauge", Some(set("10", &status)));
        world.wrote_set("lab", "gauge", set("9", &json!(null)));
        assert!(is_idle(), "that it is idle is told once");
        world.wrote_set("lab", "gauge", set("11", &json!(null)));
        assert!(!is_idle(), "a later write counts");
        world.set("lab", "gauge", None);
        world.wrote_set("lab", "gauge", set("12", &status));
        assert!(
            world.workload(&"lab/gauge".parse().unwrap(), "m-1").sets.is_empty(),
            "it was deleted meanwhile"
        );
    }

    #[test]
    fn a_modules_plugin_is_looked_at_when_a_node_ceases_to_have_a_version() {
        let world = World::new(Assignments::default());
        let key: ModuleKey = "lab/gauge".parse().unwrap();
        let tell = |version: Option<&str>| {
            let entry = |version: &str| NodeModule {
                namespace: "lab".to_owned(),
                name: "gauge".to_owned(),
                version: Some(version.to_owned()),
                ..NodeModule::default()
            };
            let spec =
                |version| NodeModulesConfigSpec { modules: vec![entry(version)], ..Default::default() };
            let config = version.map(|version| NodeModulesConfig::new("pine", spec(version)));
            world.config(&"pine".parse().unwrap(), config);
            world.read().versions_of(&key).into_iter().collect::<Vec<_>>()
        };
        let is_looked_at = || world.queues.workloads.try_next() != Err(None);
        assert_eq!((tell(Some("1")), is_looked_at()), (vec!["1".to_owned()], false));
        assert_eq!((tell(Some("1")), is_looked_at()), (vec!["1".to_owned()], false));
        assert_eq!((tell(Some("2")), is_looked_at()), (vec!["2".to_owned()], true));
        assert_eq!(tell(None), [""; 0]);
    }

    fn pine(world: &World, taints: &serde_json::Value) {
        let node = json!({
            "metadata": {"name": "pine", "uid": "n-1"}, "spec": {"taints": taints},
            "status": {"nodeInfo": {"architecture": "amd64", "bootID": "b-1", "kernelVersion": "6.1.0-foo",
                "operatingSystem": "linux", "osImage": ""}},
        });
        let node: crate::world::Node = serde_json::from_value(node).unwrap();
        world.see_node(&"pine".parse().unwrap(), node);
    }
}
