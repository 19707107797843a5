//! A plugin's pod, as the few facts that count, and what its `DaemonSet` says of it.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::ResourceExt as _;
use kube::core::ObjectMeta;
use tenon_api::labels::{self, annotation};
use tenon_operator::world::{Pod, PodCondition, PodSpec, PodStatus};
use tenon_order::{ModuleKey, NodeName};
use tenon_plan::workload::daemon_set::module_label;

use crate::clock;

/// A namespaced object.
pub type Named = (String, String);

/// One pod.
#[derive(Debug, Clone, PartialEq)]
pub struct SimPod {
    /// Namespace and name.
    pub key: Named,
    /// Its uid.
    pub uid: String,
    /// The uid of its `DaemonSet`.
    pub owner: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The labels that its node must have.
    pub selector: BTreeMap<String, String>,
    /// What its `DaemonSet` wished when it was made.
    pub wish: Option<String>,
    /// Where it is.
    pub node: NodeName,
    /// Whether it says that it is ready.
    pub is_ready: bool,
    /// Whether its node's kubelet has refused it.
    pub has_failed: bool,
    /// Whether it is being deleted.
    pub is_leaving: bool,
    /// Its place in the history of pods.
    pub made: usize,
}

impl SimPod {
    /// A new pod of the `DaemonSet`, for this node.
    pub fn of(set: &DaemonSet, node: &NodeName, uid: String, made: usize) -> Self {
        let template = set.spec.as_ref().map(|spec| &spec.template);
        let labels = template.and_then(|template| template.metadata.as_ref()?.labels.clone());
        Self {
            key: (set.namespace().unwrap_or_default(), format!("{}-{uid}", set.name_any())),
            uid,
            owner: set.uid().unwrap_or_default(),
            labels: labels.unwrap_or_default(),
            selector: selector(set),
            wish: wish(set),
            node: node.clone(),
            is_ready: false,
            has_failed: false,
            is_leaving: false,
            made,
        }
    }

    /// Whether it runs, or will.
    pub const fn lives(&self) -> bool {
        !self.has_failed
    }

    /// Whether it runs the plugin of this Module.
    pub fn is_of(&self, module: &ModuleKey) -> bool {
        self.key.0 == module.namespace()
            && self.labels.get(labels::MODULE_NAME) == Some(&module_label(module.name()))
    }

    /// As the operator's watch brings it.
    pub fn object(&self) -> Pod {
        let owner = OwnerReference {
            kind: "DaemonSet".to_owned(),
            uid: self.owner.clone(),
            controller: Some(true),
            ..OwnerReference::default()
        };
        let ready = PodCondition { type_: "Ready".to_owned(), status: "True".to_owned() };
        Pod {
            metadata: ObjectMeta {
                namespace: Some(self.key.0.clone()),
                name: Some(self.key.1.clone()),
                uid: Some(self.uid.clone()),
                labels: Some(self.labels.clone()),
                owner_references: Some(vec![owner]),
                deletion_timestamp: self.is_leaving.then(|| Time(clock::timestamp(clock::EPOCH))),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec { node_name: Some(self.node.to_string()), affinity: None }),
            status: Some(PodStatus {
                phase: Some(if self.has_failed { "Failed" } else { "Running" }.to_owned()),
                conditions: self.is_ready.then(|| vec![ready]),
            }),
        }
    }
}

/// The labels that a node must have for the `DaemonSet`'s pods.
pub fn selector(set: &DaemonSet) -> BTreeMap<String, String> {
    let template = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    template.and_then(|pod| pod.node_selector.clone()).unwrap_or_default()
}

/// What tells pods of its present template from those of a former one.
pub fn wish(set: &DaemonSet) -> Option<String> {
    set.annotations().get(annotation::WISH).cloned()
}

/// Whether a node with these labels is one of the `DaemonSet`'s, or the pod's.
pub fn fits(selector: &BTreeMap<String, String>, node: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| node.get(key) == Some(value))
}
