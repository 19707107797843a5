//! What was read of a cluster, to be told of: plain objects, and what could not be read.

mod read;

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use tenon_api::labels;
use tenon_api::node_modules_config::{NodeModule, NodeModuleStatus, NodeModulesConfigStatus};
use tenon_api::{Module, ModuleImage, NodeModulesConfig};
use tenon_order::{ModuleKey, read_unverified};
use tenon_plan::node::NodeFacts;
use tenon_plan::provision::toolkit::OsVersion;

pub(crate) use read::{Reader, SeenError, api, of_module};

/// What was read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// The Modules that are told of.
    pub(crate) modules: Vec<Module>,
    /// Their images.
    pub(crate) images: Vec<ModuleImage>,
    /// Nodes, by name: those that a Module selects, and those that have it.
    pub(crate) nodes: BTreeMap<String, Node>,
    /// The nodes' objects, by name.
    pub(crate) configs: BTreeMap<String, NodeModulesConfig>,
    /// Jobs that make images.
    pub(crate) jobs: Vec<Job>,
    /// Their pods.
    pub(crate) pods: Vec<Pod>,
    /// Pods of Modules' plugins, those that make images left out; of a Module that is not named nobody looked, or may look.
    pub(crate) plugin_pods: BTreeMap<ModuleKey, Vec<Pod>>,
    /// Tenon's own pods on nodes; `None` where nobody looked.
    pub(crate) node_pods: Option<Vec<Pod>>,
    /// Some of all nodes, where no node is selected: what a selector might have meant.
    pub(crate) others: Vec<Node>,
    /// What could not be read, each in one line.
    pub(crate) gaps: Vec<String>,
    /// When.
    pub(crate) now: Timestamp,
}

impl Seen {
    /// The Module's images.
    pub(crate) fn images_of<'s>(&'s self, module: &'s Module) -> impl Iterator<Item = &'s ModuleImage> {
        let name = module.metadata.name.as_deref();
        self.images.iter().filter(move |image| {
            image.metadata.namespace == module.metadata.namespace && Some(image.spec.module.as_str()) == name
        })
    }

    /// The Job of this name.
    pub(crate) fn job(&self, name: &str) -> Option<&Job> {
        self.jobs.iter().find(|job| job.metadata.name.as_deref() == Some(name))
    }

    /// The last pod of the Job of this name.
    pub(crate) fn pod_of(&self, job: &str) -> Option<&Pod> {
        let is_its = |pod: &&Pod| pod.labels().get(JOB_NAME).is_some_and(|name| name == job);
        self.pods.iter().filter(is_its).max_by_key(|pod| pod.metadata.creation_timestamp.clone())
    }

    /// Tenon's own pod on a node.
    pub(crate) fn node_pod(&self, node: &str) -> NodePod<'_> {
        let is_its = |pod: &&Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node);
        match &self.node_pods {
            None => NodePod::Unknown,
            Some(pods) => pods.iter().find(is_its).map_or(NodePod::Absent, NodePod::There),
        }
    }
}

/// Tenon's own pod on a node.
#[derive(Debug)]
pub(crate) enum NodePod<'s> {
    /// Nobody looked, or may look.
    Unknown,
    /// There is none.
    Absent,
    /// This one.
    There(&'s Pod),
}

/// The label by which Kubernetes marks the pods of a Job (`k8s.io/api/batch/v1`, `JobNameLabel`).
pub(crate) const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// A Module's name.
pub(crate) fn key(module: &Module) -> ModuleKey {
    let namespace = module.namespace().unwrap_or_default();
    // What the API server has under a name has a name.
    ModuleKey::new(&namespace, &module.name_any()).unwrap_or_else(|_| unnamed())
}

#[expect(clippy::expect_used, reason = "a constant that is right")]
fn unnamed() -> ModuleKey {
    "default/unnamed".parse().expect("a name")
}

/// What counts of a Node; `None` for one that is no Linux node, or whose kubelet has not reported.
pub(crate) fn facts(node: &Node) -> Option<NodeFacts> {
    let info = node.status.as_ref()?.node_info.as_ref()?;
    (info.operating_system == "linux").then_some(())?;
    Some(NodeFacts {
        name: node.metadata.name.as_deref()?.parse().ok()?,
        uid: node.metadata.uid.clone().unwrap_or_default(),
        kernel: info.kernel_version.parse().ok()?,
        architecture: info.architecture.clone(),
        boot_id: info.boot_id.clone(),
        labels: node.metadata.labels.clone().unwrap_or_default(),
        taints: node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default(),
        os_version: OsVersion::of(&info.os_image),
    })
}

/// What a node is told of a Module.
pub(crate) fn entry<'c>(config: &'c NodeModulesConfig, key: &ModuleKey) -> Option<&'c NodeModule> {
    config.spec.modules.iter().find(|entry| entry.namespace == key.namespace() && entry.name == key.name())
}

/// What a node reports of a Module.
pub(crate) fn reported<'c>(config: &'c NodeModulesConfig, key: &ModuleKey) -> Option<&'c NodeModuleStatus> {
    let mut reported = config.status.iter().flat_map(|status| &status.modules);
    reported.find(|reported| reported.namespace == key.namespace() && reported.name == key.name())
}

/// Whether a node has an order that it has not answered. Whose order it is, is the loader's to ask: here it is only told of.
pub(crate) fn is_open(config: &NodeModulesConfig) -> bool {
    let order = config.spec.order.as_deref().and_then(|text| read_unverified(text).ok());
    let taken = |status: &NodeModulesConfigStatus| status.order_generation;
    let taken = config.status.as_ref().and_then(taken).unwrap_or_default();
    order.is_some_and(|order| i64::try_from(order.generation.0).is_ok_and(|ordered| ordered > taken))
}

/// The pods of Tenon's own DaemonSet.
pub(crate) fn node_pods_selector() -> String {
    format!("{}={},{}=node", labels::APP_NAME, labels::PRODUCT, labels::COMPONENT)
}
