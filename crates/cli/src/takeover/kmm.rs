//! By what KMM's objects are told from everybody else's.

use kube::core::ObjectMeta;
use tenon_api::labels::{self, finalizer};

/// Of its kinds, and of those that Tenon has from it.
pub(crate) const GROUP: &str = "kmm.sigs.x-k8s.io";
/// The name of its operator's Lease.
pub(crate) const LEASE: &str = "kmm.sigs.x-k8s.io";
/// How its Deployments' names begin.
const DEPLOYMENTS: &str = "kmm-operator-";
/// Those of its hub, which may go on serving other clusters.
const HUB: &str = "kmm-operator-hub-";

/// Its admission webhooks, each by its name and path. Those of its hub are left alone.
const WEBHOOKS: [(&str, &str); 3] = [
    ("vmodule.kb.io", "/validate-kmm-sigs-x-k8s-io-v1beta1-module"),
    ("vpreflightvalidation.kb.io", "/validate-kmm-sigs-x-k8s-io-v1beta2-preflightvalidation"),
    ("namespace-deletion.kmm.sigs.k8s.io", "/validate--v1-namespace"),
];

/// Finalizers that nobody but KMM takes away.
const FINALIZERS: [&str; 4] =
    [finalizer::WORKER_POD, finalizer::NODE_LABELER, finalizer::GC_DELAY, finalizer::JOB_EVENT];

/// What a worker pod does to its node.
const WORKER_ACTION: &str = "kmm.node.kubernetes.io/worker-action";
/// The value of [`WORKER_ACTION`] where it unloads.
const UNLOAD: &str = "Unload";

/// Whether a Deployment is one of its operator's, by name.
pub(crate) fn is_deployment(name: &str) -> bool {
    name.starts_with(DEPLOYMENTS) && !name.starts_with(HUB)
}

/// Whether an admission webhook is one of its operator's.
pub(crate) fn is_webhook(name: &str, path: &str) -> bool {
    WEBHOOKS.contains(&(name, path))
}

/// What a pod of KMM's is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It loads a module, or has.
    Loader,
    /// It unloads one, or has.
    Unloader,
    /// It pulls, builds or signs an image.
    Maker,
    /// It is a device plugin's or DRA driver's; a `DaemonSet` has made it.
    Plugin,
}

impl Role {
    /// By who owns it, and what it bears. `None`: it is none of KMM's.
    pub(crate) fn of(pod: &ObjectMeta) -> Option<Self> {
        let owned_by = |kinds: &[&str]| {
            let mut owners = pod.owner_references.iter().flatten();
            owners.any(|owner| is_of_group(&owner.api_version) && kinds.contains(&owner.kind.as_str()))
        };
        let label = |key: &str| pod.labels.as_ref().and_then(|labels| labels.get(key));
        let is_of_set = || {
            let mut owners = pod.owner_references.iter().flatten();
            owners.any(|owner| owner.kind == "DaemonSet")
        };
        if owned_by(&["NodeModulesConfig"]) {
            let unloads = label(WORKER_ACTION).is_some_and(|action| action == UNLOAD);
            return Some(if unloads { Self::Unloader } else { Self::Loader });
        }
        if owned_by(&["ModuleImagesConfig", "ModuleBuildSignConfig"]) {
            return Some(Self::Maker);
        }
        if owned_by(&["Module"]) && label(labels::RESOURCE_TYPE).is_some() {
            return Some(Self::Maker);
        }
        let has_labeler = finalizers(pod).any(|name| name == finalizer::NODE_LABELER);
        (has_labeler && label(labels::MODULE_NAME).is_some() && is_of_set()).then_some(Self::Plugin)
    }
}

fn is_of_group(api_version: &str) -> bool {
    api_version.split_once('/').is_some_and(|(group, _)| group == GROUP)
}

/// The name of the owner of this kind.
pub(crate) fn owner<'m>(meta: &'m ObjectMeta, kind: &str) -> Option<&'m str> {
    let mut owners = meta.owner_references.iter().flatten();
    owners.find(|owner| owner.kind == kind).map(|owner| owner.name.as_str())
}

fn finalizers(meta: &ObjectMeta) -> impl Iterator<Item = &String> {
    meta.finalizers.iter().flatten()
}

/// Whether KMM's finalizers hold it.
pub(crate) fn is_held(meta: &ObjectMeta) -> bool {
    finalizers(meta).any(|name| FINALIZERS.contains(&name.as_str()))
}

/// Its finalizers without KMM's.
pub(crate) fn others_finalizers(meta: &ObjectMeta) -> Vec<String> {
    finalizers(meta).filter(|name| !FINALIZERS.contains(&name.as_str())).cloned().collect()
}
