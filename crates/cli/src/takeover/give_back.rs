//! What has to be done before KMM serves a cluster that Tenon has served: values in, a plan out.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use kube::core::ObjectMeta;
use serde_json::{Map, Value, json};
use tenon_api::labels::{LabelKind, ModuleLabel, STARTUP_TAINT, annotation};
use tenon_api::node_modules_config::{
    NodeModule, NodeModuleStatus, NodeModulesConfig, NodeModulesConfigSpec, NodeModulesConfigStatus,
};

use super::plan::{Kind, Plan, Refusal, Request, Step};

const CONFIG: Kind =
    Kind { name: "NodeModulesConfig", api: "/apis/kmm.sigs.x-k8s.io/v1beta1", plural: "nodemodulesconfigs" };
const MODULE: Kind = Kind { name: "Module", api: "/apis/kmm.sigs.x-k8s.io/v1beta1", plural: "modules" };
const NODE: Kind = Kind { name: "Node", api: "/api/v1", plural: "nodes" };
const SET: Kind = Kind { name: "DaemonSet", api: "/apis/apps/v1", plural: "daemonsets" };
const JOB: Kind = Kind { name: "Job", api: "/apis/batch/v1", plural: "jobs" };
const CLASS: Kind = Kind { name: "DeviceClass", api: "/apis/resource.k8s.io/v1", plural: "deviceclasses" };
const DEFINITION: Kind = Kind {
    name: "CustomResourceDefinition",
    api: "/apis/apiextensions.k8s.io/v1",
    plural: "customresourcedefinitions",
};

/// Of everything that is Tenon's alone.
const DOMAIN: &str = "tenon.dev/";

/// What stands in a cluster that Tenon has served.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// What of Tenon still runs, or would keep others from writing.
    pub(crate) in_force: Vec<String>,
    /// Nodes' objects.
    pub(crate) configs: Vec<NodeModulesConfig>,
    /// Nodes.
    pub(crate) nodes: Vec<Node>,
    /// Modules.
    pub(crate) modules: Vec<ObjectMeta>,
    /// `DaemonSet`s, anybody's.
    pub(crate) sets: Vec<ObjectMeta>,
    /// Jobs that make images for Tenon.
    pub(crate) jobs: Vec<ObjectMeta>,
    /// Device classes, anybody's.
    pub(crate) classes: Vec<ObjectMeta>,
    /// Definitions of kinds that Tenon alone has.
    pub(crate) definitions: Vec<ObjectMeta>,
}

/// Decides.
pub(crate) fn plan(seen: &Seen) -> Plan {
    let next = "kubectl delete -f deploy/node.yaml -f deploy/operator.yaml -f deploy/rbac -f deploy/flow-schemas.yaml; \
                that unloads nothing";
    let refusals = seen
        .in_force
        .iter()
        .map(|what| Refusal { because: format!("{what} is still there"), next: next.to_owned() });
    let mut steps = Vec::new();
    steps.extend(seen.jobs.iter().filter_map(|meta| deleted(JOB, meta, "KMM makes images by itself")));
    let sets = seen.sets.iter().filter(|meta| is_wished(meta));
    steps.extend(
        sets.filter_map(|meta| deleted(SET, meta, "KMM makes its own, and could not change this one")),
    );
    steps.extend(seen.classes.iter().filter(|meta| is_wished(meta)).filter_map(|meta| unmarked(CLASS, meta)));
    steps.extend(seen.configs.iter().filter_map(config));
    steps.extend(seen.nodes.iter().filter_map(node));
    steps.extend(seen.modules.iter().filter_map(|meta| unmarked(MODULE, meta)));
    let kinds = seen.definitions.iter();
    steps
        .extend(kinds.filter_map(|meta| deleted(DEFINITION, meta, "Tenon's own kind; its objects go along")));
    Plan { refusals: refusals.collect(), steps, left: left() }
}

fn left() -> Vec<String> {
    [
        "next: apply KMM's definitions (kubectl apply --server-side --force-conflicts), then the rest of KMM, and scale it up",
        "Namespace tenon-system (keys, facts about kernels) and /var/lib/tenon on the nodes are left to you: once KMM serves, \
         kubectl delete -f deploy/namespace.yaml",
    ]
    .map(str::to_owned)
    .into()
}

/// `None` for what is going already.
fn deleted(kind: Kind, meta: &ObjectMeta, why: &'static str) -> Option<Step> {
    let step = Step { object: kind.object(meta), what: "deleted", why, requests: vec![kind.delete(meta)] };
    meta.deletion_timestamp.is_none().then_some(step)
}

/// Whether it was made from what a Module wishes.
fn is_wished(meta: &ObjectMeta) -> bool {
    meta.annotations.as_ref().is_some_and(|known| known.contains_key(annotation::WISH))
}

/// Tenon's own annotations go.
fn unmarked(kind: Kind, meta: &ObjectMeta) -> Option<Step> {
    let gone =
        nulls(meta.annotations.iter().flatten().map(|(key, _)| key).filter(|key| key.starts_with(DOMAIN)))?;
    Some(Step {
        object: kind.object(meta),
        what: "annotations removed",
        why: "they mean nothing to KMM",
        requests: vec![kind.merge(meta, &json!({ "annotations": gone }), json!({}))],
    })
}

/// A null for each key; `None` without any.
fn nulls<'k>(keys: impl Iterator<Item = &'k String>) -> Option<Value> {
    let nulls: Map<_, _> = keys.map(|key| (key.clone(), Value::Null)).collect();
    (!nulls.is_empty()).then_some(Value::Object(nulls))
}

/// Whether a label is one that Tenon sets and that KMM does not know: names that are too long are hashed.
fn is_foreign(key: &str) -> bool {
    let is_hashed = || {
        LabelKind::of_key(key).is_some_and(|kind| kind != LabelKind::VersionModule)
            && ModuleLabel::parse(key).is_none()
    };
    key.starts_with(DOMAIN) || is_hashed()
}

fn foreign_labels(labels: Option<&BTreeMap<String, String>>) -> Option<Value> {
    nulls(labels.into_iter().flatten().map(|(key, _)| key).filter(|key| is_foreign(key)))
}

fn node(node: &Node) -> Option<Step> {
    let labels = foreign_labels(node.metadata.labels.as_ref());
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let kept =
        taints.map(|taints| taints.iter().filter(|taint| taint.key != STARTUP_TAINT).collect::<Vec<_>>());
    let is_tainted = kept.as_ref().map(Vec::len) != taints.map(Vec::len);
    if labels.is_none() && !is_tainted {
        return None;
    }
    let metadata = labels.map_or_else(|| json!({}), |labels| json!({ "labels": labels }));
    let spec = if is_tainted { json!({ "spec": { "taints": kept } }) } else { json!({}) };
    Some(Step {
        object: NODE.object(&node.metadata),
        what: "labels and taints removed",
        why: "they are Tenon's, and KMM would not take them away",
        requests: vec![NODE.merge(&node.metadata, &metadata, spec)],
    })
}

/// A node's object in KMM's form: it finds loaded, in this boot and with these settings, what is.
fn config(known: &NodeModulesConfig) -> Option<Step> {
    let spec =
        NodeModulesConfigSpec { modules: known.spec.modules.iter().map(kmms_entry).collect(), order: None };
    let is_named = |entry: &&NodeModuleStatus| {
        let mut named = known.spec.modules.iter();
        named.any(|one| one.namespace == entry.namespace && one.name == entry.name)
    };
    let before = known.status.clone().unwrap_or_default();
    let loaded = before.modules.iter().filter(is_named).filter_map(kmms_status).collect();
    let status = NodeModulesConfigStatus { modules: loaded, ..NodeModulesConfigStatus::default() };
    let labels = foreign_labels(known.metadata.labels.as_ref());
    let mut requests = Vec::new();
    // The status first: an object without Tenon's fields in its spec is done with.
    if status != before {
        let body = json!({ "metadata": { "uid": known.metadata.uid }, "status": {
            "conditions": null, "storeId": null, "bootId": null, "kernelVersion": null, "kernelBuildId": null,
            "orderGeneration": null, "keyIds": null, "modules": status.modules,
        } });
        requests.push(Request::Merge { path: format!("{}/status", CONFIG.path(&known.metadata)), body });
    }
    if spec != known.spec || labels.is_some() {
        let body = json!({
            "metadata": { "uid": known.metadata.uid, "labels": labels.unwrap_or_else(|| json!({})) },
            "spec": { "order": null, "modules": spec.modules },
        });
        requests.push(Request::Merge { path: CONFIG.path(&known.metadata), body });
    }
    (!requests.is_empty()).then(|| Step {
        object: CONFIG.object(&known.metadata),
        what: "brought into KMM's form",
        why: "KMM finds loaded what is loaded, and loads nothing anew",
        requests,
    })
}

/// Field by field, so that none of ours that is still to come stays behind.
fn kmms_entry(entry: &NodeModule) -> NodeModule {
    let entry = entry.clone();
    NodeModule {
        name: entry.name,
        namespace: entry.namespace,
        config: entry.config,
        image_repo_secret: entry.image_repo_secret,
        service_account_name: entry.service_account_name,
        tolerations: entry.tolerations,
        version: entry.version,
        ..NodeModule::default()
    }
}

/// The same; `None` for what is not loaded: of such KMM's status says nothing.
fn kmms_status(entry: &NodeModuleStatus) -> Option<NodeModuleStatus> {
    let entry = entry.clone();
    Some(NodeModuleStatus {
        name: entry.name,
        namespace: entry.namespace,
        config: Some(entry.config?),
        image_repo_secret: entry.image_repo_secret,
        service_account_name: entry.service_account_name,
        tolerations: entry.tolerations,
        version: entry.version,
        boot_id: Some(entry.boot_id?),
        ..NodeModuleStatus::default()
    })
}
