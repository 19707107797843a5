//! What a node is to the decisions: the few facts of a Node object that count, and whether a Module wants it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Taint, Toleration};
use tenon_api::Module;
use tenon_api::labels::{LabelKind, STARTUP_TAINT};
use tenon_kmod::release::KernelRelease;
use tenon_order::NodeName;

use crate::provision::toolkit::OsVersion;

/// The few facts of a Node object that count.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeFacts {
    /// Its name.
    pub name: NodeName,
    /// Its uid: a node made anew under the same name is another node.
    pub uid: String,
    /// The kernel that its kubelet reports (`uname -r`).
    pub kernel: KernelRelease,
    /// Its architecture, as Kubernetes names it.
    pub architecture: String,
    /// The running boot; another after each restart.
    pub boot_id: String,
    /// All its labels: selectors are the user's.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// The version of its operating system, where driver toolkits are named by it.
    pub os_version: Option<OsVersion>,
}

/// Labels that a discovery tool sets from what it finds, and loses while it restarts.
const DISCOVERED: &str = "feature.node.kubernetes.io/";

/// How long a discovered label must stay away before its loss counts, in milliseconds.
pub const DISCOVERY_GRACE: u64 = 10 * 60 * 1000;

/// Whether a Module wants a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Its selector matches and every taint is tolerated.
    Selected,
    /// Labels that the selector asks for are missing or different, and nobody but an administrator does that.
    Unselected,
    /// The selector's labels are there, but for some that a discovery tool looks after.
    Undiscovered,
    /// The selector matches, but nothing new comes to the node: this taint is not tolerated.
    Tainted(String),
    /// The selector matches, but the node's version label names another version, which is given here.
    OtherVersion(String),
    /// The Module has a version and the node has no version label.
    NoVersion,
}

/// Whether `module` wants `node`.
pub fn select(module: &Module, node: &NodeFacts) -> Selection {
    let missing = module.spec.selector.iter().filter(|(key, value)| node.labels.get(*key) != Some(*value));
    let (discovered, own): (Vec<_>, Vec<_>) = missing.partition(|(key, _)| key.starts_with(DISCOVERED));
    if !own.is_empty() {
        return Selection::Unselected;
    }
    if !discovered.is_empty() {
        return Selection::Undiscovered;
    }
    if let Some(version) = version(module) {
        match node.labels.get(&version_label(module)) {
            None => return Selection::NoVersion,
            Some(other) if other != version => return Selection::OtherVersion(other.clone()),
            Some(_) => {}
        }
    }
    untolerated(module, node)
        .next()
        .map_or(Selection::Selected, |taint| Selection::Tainted(taint.key.clone()))
}

/// Whether a node counts as one of the Module's, whatever its version label says: KMM's `nodesMatchingSelectorNumber`.
pub fn is_targeted(module: &Module, node: &NodeFacts) -> bool {
    match select(module, node) {
        Selection::Selected => true,
        Selection::NoVersion | Selection::OtherVersion(_) => untolerated(module, node).next().is_none(),
        Selection::Unselected | Selection::Undiscovered | Selection::Tainted(_) => false,
    }
}

/// The taints that keep the Module from the node.
pub fn untolerated<'n>(module: &'n Module, node: &'n NodeFacts) -> impl Iterator<Item = &'n Taint> {
    node.taints.iter().filter(|taint| repels(taint) && !tolerated(taint, &module.spec.tolerations))
}

/// The Module's version, when its upgrade is ordered by labels.
pub fn version(module: &Module) -> Option<&str> {
    module.spec.module_loader.as_ref().and_then(|loader| loader.container.version.as_deref())
}

/// The label of nodes by which they get a version of the Module.
pub fn version_label(module: &Module) -> String {
    let name = module.metadata.name.as_deref().unwrap_or_default();
    let namespace = module.metadata.namespace.as_deref().unwrap_or_default();
    LabelKind::VersionModule.key(namespace, name)
}

fn repels(taint: &Taint) -> bool {
    matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
}

/// With which a pod that a driver waits for runs where pods wait for the driver: the two must not wait for each other.
pub fn tolerates_startup() -> Toleration {
    Toleration {
        key: Some(STARTUP_TAINT.to_owned()),
        operator: Some("Exists".to_owned()),
        ..Toleration::default()
    }
}

/// Taints that Kubernetes and clouds give a node that is only coming up (`k8s.io/api/core/v1`, `k8s.io/cloud-provider/api`): while one
/// of them is there, it is not settled yet which Modules the node gets.
const STARTING: [&str; 3] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/network-unavailable",
    "node.cloudprovider.kubernetes.io/uninitialized",
];

/// Whether the node is coming up still.
pub fn is_starting(node: &NodeFacts) -> bool {
    starting(node).next().is_some()
}

/// The taints by which it is.
pub fn starting(node: &NodeFacts) -> impl Iterator<Item = &Taint> {
    node.taints.iter().filter(|taint| STARTING.contains(&taint.key.as_str()))
}

/// Pressure on a node is no reason to withhold a driver from it, as in KMM.
const TOLERATED_ALWAYS: [&str; 3] = [
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/pid-pressure",
];

/// The scheduler's rule (`k8s.io/api/core/v1`, `Toleration.ToleratesTaint`).
fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    let pressure = taint.effect == "NoSchedule" && TOLERATED_ALWAYS.contains(&taint.key.as_str());
    // It waits for drivers; they must not wait for it.
    let starting = taint.key == STARTUP_TAINT;
    pressure
        || starting
        || tolerations.iter().any(|toleration| {
            let effect = toleration.effect.as_deref().unwrap_or_default();
            let key = toleration.key.as_deref().unwrap_or_default();
            let same_effect = effect.is_empty() || effect == taint.effect;
            let same_key = key.is_empty() || key == taint.key;
            let same_value = match toleration.operator.as_deref().unwrap_or_default() {
                "Exists" => true,
                "" | "Equal" => {
                    !key.is_empty()
                        && toleration.value.as_deref().unwrap_or_default()
                            == taint.value.as_deref().unwrap_or_default()
                }
                _ => false,
            };
            same_effect && same_key && same_value
        })
}
