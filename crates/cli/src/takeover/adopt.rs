//! What has to be done before Tenon serves a cluster that KMM has served: values in, a plan out.

use std::collections::BTreeSet;

use kube::core::ObjectMeta;
use serde_json::{Value, json};

use super::kmm::{self, Role};
use super::plan::{Kind, Plan, Refusal, Request, Step};

const DEFINITION: Kind = Kind {
    name: "CustomResourceDefinition",
    api: "/apis/apiextensions.k8s.io/v1",
    plural: "customresourcedefinitions",
};
const WEBHOOKS: Kind = Kind {
    name: "ValidatingWebhookConfiguration",
    api: "/apis/admissionregistration.k8s.io/v1",
    plural: "validatingwebhookconfigurations",
};
const POD: Kind = Kind { name: "Pod", api: "/api/v1", plural: "pods" };
const IMAGES: Kind = Kind {
    name: "ModuleImagesConfig",
    api: "/apis/kmm.sigs.x-k8s.io/v1beta1",
    plural: "moduleimagesconfigs",
};
const BUILDS: Kind = Kind {
    name: "ModuleBuildSignConfig",
    api: "/apis/kmm.sigs.x-k8s.io/v1beta1",
    plural: "modulebuildsignconfigs",
};

/// What stands in a cluster that KMM has served.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Its Deployments.
    pub(crate) deployments: Vec<Deployment>,
    /// Namespaces in which its Lease is being renewed, and by whom.
    pub(crate) renewed: Vec<(String, String)>,
    /// Definitions of its group that are there, and that Tenon has, too.
    pub(crate) definitions: Vec<Definition>,
    /// Configurations of validating webhooks, anybody's.
    pub(crate) webhooks: Vec<Webhooks>,
    /// Pods, anybody's.
    pub(crate) pods: Vec<Pod>,
    /// `ModuleImagesConfig`s.
    pub(crate) images: Vec<ObjectMeta>,
    /// `ModuleBuildSignConfig`s.
    pub(crate) builds: Vec<ObjectMeta>,
    /// Modules that are being deleted while some node has them.
    pub(crate) leaving: Vec<String>,
    /// Nodes on which KMM loaded something without noting in which boot.
    pub(crate) undated: Vec<String>,
    /// Nodes that have another version of a Module than it asks for.
    pub(crate) behind: Vec<Behind>,
}

/// A node on which an ordered change has not come to its end.
#[derive(Debug, Clone)]
pub(crate) struct Behind {
    pub(crate) module: String,
    pub(crate) node: String,
    pub(crate) version: String,
}

/// A Deployment of KMM's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deployment {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// How many pods it is to have.
    pub(crate) wished: i32,
    /// How many it has.
    pub(crate) present: i32,
    /// The Operator Lifecycle Manager's object that it belongs to.
    pub(crate) olm: Option<String>,
}

/// A definition that both have.
#[derive(Debug, Clone)]
pub(crate) struct Definition {
    pub(crate) meta: ObjectMeta,
    /// Tenon's.
    pub(crate) wished: Value,
    /// Whether it says something else than Tenon's.
    pub(crate) differs: bool,
    /// Whether a webhook converts its versions.
    pub(crate) has_webhook: bool,
}

/// A configuration of webhooks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Webhooks {
    pub(crate) meta: ObjectMeta,
    /// Names and paths.
    pub(crate) hooks: Vec<(String, String)>,
}

/// A pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pod {
    pub(crate) meta: ObjectMeta,
    /// Whether it has come to its end; known of unloaders only.
    pub(crate) has_ended: bool,
}

/// Decides.
pub(crate) fn plan(seen: &Seen, leave_unloads: bool) -> Plan {
    let mut refusals = running(seen);
    refusals.extend(undated(seen));
    if !leave_unloads {
        refusals.extend(unloading(seen));
    }
    // What would refuse or lose our writes goes first.
    let mut steps: Vec<_> = seen.webhooks.iter().filter_map(webhooks).collect();
    steps.extend(seen.definitions.iter().filter_map(definition));
    let hubs = hubs(seen);
    steps.extend(seen.pods.iter().filter_map(|pod| released(pod, &hubs)));
    let is_ours = |meta: &&ObjectMeta| !hubs.contains(&key(meta, meta.name.as_deref().unwrap_or_default()));
    steps.extend(seen.builds.iter().filter(is_ours).filter_map(|meta| record(BUILDS, meta)));
    steps.extend(seen.images.iter().filter(is_ours).filter_map(|meta| record(IMAGES, meta)));
    Plan { refusals, steps, left: left(seen) }
}

/// KMM's operator is still at work, or might be at any moment.
fn running(seen: &Seen) -> Vec<Refusal> {
    let scaled = seen.deployments.iter().filter(|one| one.wished > 0 || one.present > 0);
    let scaled = scaled.map(|one| {
        let Deployment { namespace, name, wished, present, olm } = one;
        let scale = format!("kubectl -n {namespace} scale deployment/{name} --replicas 0");
        let next = match olm {
            Some(owner) => format!(
                "the Operator Lifecycle Manager keeps it: delete KMM's Subscription and ClusterServiceVersion {owner}, \
                 which leaves the definitions and the Modules"
            ),
            None if *wished == 0 => "its pods are ending: run the same command again in a moment".to_owned(),
            None => format!("{scale}; never delete KMM by its manifests, its definitions would take all Modules along"),
        };
        let because = format!("KMM's Deployment {namespace}/{name} has {present} pods and is to have {wished}");
        Refusal { because, next }
    });
    let renewed = seen.renewed.iter().map(|(namespace, holder)| Refusal {
        because: format!("KMM's operator is running: {holder} renews the Lease {namespace}/{}", kmm::LEASE),
        next: format!("scale its Deployment in namespace {namespace} to 0"),
    });
    scaled.chain(renewed).collect()
}

/// KMM has begun to unload something.
fn unloading(seen: &Seen) -> Vec<Refusal> {
    const STAYS: &str = "with --leave-unloads it is left loaded where it still is";
    let pods = seen.pods.iter().filter(|pod| !pod.has_ended && Role::of(&pod.meta) == Some(Role::Unloader));
    let pods = pods.map(|pod| Refusal {
        because: format!("KMM's {} is unloading a module", POD.object(&pod.meta)),
        next: format!("wait for its end, which needs no operator; where it fails again and again, {STAYS}"),
    });
    let modules = seen.leaving.iter().map(|module| Refusal {
        because: format!("Module {module} is being deleted, and KMM has not unloaded it everywhere"),
        next: format!("let KMM run until it is gone; {STAYS}"),
    });
    pods.chain(modules).collect()
}

/// Before 2.4 KMM did not say in which boot it had loaded something, and nobody could tell what is there from what was.
fn undated(seen: &Seen) -> Option<Refusal> {
    let some: Vec<_> = seen.undated.iter().take(5).map(String::as_str).collect();
    let more = if seen.undated.len() > some.len() { ", …" } else { "" };
    (!some.is_empty()).then(|| Refusal {
        because: format!(
            "KMM has not noted in which boot it loaded modules on {}{more}: nodes would be taken for without them",
            some.join(", ")
        ),
        next: "update KMM to 2.4 or later first, and let it run until each entry of every NodeModulesConfig's status has a bootId; \
               of a node that is down for good, delete the NodeModulesConfig"
            .to_owned(),
    })
}

fn webhooks(config: &Webhooks) -> Option<Step> {
    let is_kmms =
        !config.hooks.is_empty() && config.hooks.iter().all(|(name, path)| kmm::is_webhook(name, path));
    is_kmms.then(|| Step {
        object: WEBHOOKS.object(&config.meta),
        what: "deleted",
        why: "nobody answers any more, so every write of a Module would be refused",
        requests: vec![WEBHOOKS.delete(&config.meta)],
    })
}

fn definition(known: &Definition) -> Option<Step> {
    if !known.differs && !known.has_webhook {
        return None;
    }
    let none = json!({ "spec": { "conversion": { "strategy": "None", "webhook": null } } });
    let unhook = known.has_webhook.then(|| DEFINITION.merge(&known.meta, &json!({}), none));
    let apply = Request::Apply { path: DEFINITION.path(&known.meta), body: known.wished.clone() };
    Some(Step {
        object: DEFINITION.object(&known.meta),
        what: "replaced by Tenon's",
        why: "KMM's drops fields that Tenon needs; every object stays",
        requests: unhook.into_iter().chain([apply]).collect(),
    })
}

fn released(pod: &Pod, hubs: &BTreeSet<String>) -> Option<Step> {
    let meta = &pod.meta;
    let role = Role::of(meta)?;
    let (deletes, why) = match role {
        Role::Loader => (true, "KMM's worker pod; its end unloads nothing"),
        Role::Unloader if pod.has_ended => (true, "KMM's worker pod, at its end"),
        Role::Unloader => (true, "KMM has begun to unload; what is loaded stays"),
        Role::Maker => {
            let owner = ["ModuleImagesConfig", "ModuleBuildSignConfig"]
                .into_iter()
                .find_map(|kind| kmm::owner(meta, kind));
            if owner.is_some_and(|owner| hubs.contains(&key(meta, owner))) {
                return None;
            }
            (true, "Tenon finds and makes images by itself")
        }
        Role::Plugin => (false, "nobody else would take it away, and the pod could never end"),
    };
    let held = kmm::is_held(meta);
    let release = || POD.merge(meta, &json!({ "finalizers": kmm::others_finalizers(meta) }), json!({}));
    let what = match (held, deletes) {
        (true, true) => "finalizer removed, deleted",
        (true, false) => "finalizer removed",
        (false, _) => "deleted",
    };
    let is_leaving = meta.deletion_timestamp.is_some();
    let delete = (deletes && !is_leaving).then(|| POD.delete(meta));
    let requests: Vec<_> = held.then(release).into_iter().chain(delete).collect();
    (!requests.is_empty()).then(|| Step { object: POD.object(meta), what, why, requests })
}

fn record(kind: Kind, meta: &ObjectMeta) -> Option<Step> {
    let finalizers = || kind.merge(meta, &json!({ "finalizers": kmm::others_finalizers(meta) }), json!({}));
    let release = kmm::is_held(meta).then(finalizers);
    let delete = meta.deletion_timestamp.is_none().then(|| kind.delete(meta));
    let requests: Vec<_> = release.into_iter().chain(delete).collect();
    (!requests.is_empty()).then(|| Step {
        object: kind.object(meta),
        what: "deleted",
        why: "KMM's record of images; Tenon keeps its own",
        requests,
    })
}

/// Records of images that belong to KMM's hub.
fn hubs(seen: &Seen) -> BTreeSet<String> {
    let is_hubs = |meta: &&ObjectMeta| kmm::owner(meta, "ManagedClusterModule").is_some();
    let images = seen.images.iter().filter(is_hubs);
    images.map(|meta| key(meta, meta.name.as_deref().unwrap_or_default())).collect()
}

fn key(meta: &ObjectMeta, name: &str) -> String {
    format!("{}/{name}", meta.namespace.as_deref().unwrap_or_default())
}

fn left(seen: &Seen) -> Vec<String> {
    let namespaces: BTreeSet<_> = seen.deployments.iter().map(|one| one.namespace.as_str()).collect();
    let mut left = vec![
        "next: install Tenon (kubectl apply --server-side of deploy/); its loaders adopt what is loaded"
            .to_owned(),
    ];
    left.extend(seen.behind.iter().map(|Behind { module, node, version }| {
        format!(
            "node {node} has version {version} of Module {module}, which asks for another: driver and plugin stay, but after a boot nothing \
             loads the driver before the node's label asks for the Module's version. Better let KMM finish the change first"
        )
    }));
    left.extend(namespaces.into_iter().map(|namespace| {
        format!(
            "KMM's namespace {namespace} is left to you: once Tenon serves, kubectl delete namespace {namespace}. Not by KMM's \
             manifests: its definitions are in them, and all Modules would go"
        )
    }));
    left
}
