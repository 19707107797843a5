//! The same of what runs beside drivers, and of preflights.

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::ResourceExt as _;
use tenon_api::labels::{self, LabelKind};
use tenon_api::node_modules_config::{NodeModule, NodeModulesConfig};
use tenon_api::preflight_validation::VerificationStatus;
use tenon_api::{Module, PreflightValidation};
use tenon_order::ModuleKey;
use tenon_plan::node::NodeFacts;
use tenon_plan::workload::Role;
use tenon_plan::workload::daemon_set::daemon_set;

use crate::pod::{self, SimPod};
use crate::sim::Sim;

type Difference = Option<(&'static str, String)>;

/// What is not as it was wished.
pub(super) fn difference(sim: &Sim) -> Difference {
    let api = &sim.api;
    let known = |uid: &String| api.modules.values().any(|module| module.metadata.uid.as_ref() == Some(uid));
    let orphan = api.sets.values().find(|set| !set.owner_references().iter().any(|owner| known(&owner.uid)));
    if let Some(set) = orphan {
        return Some(("L4", format!("DaemonSet {} has outlived its Module", set.name_any())));
    }
    api.modules
        .iter()
        .find_map(|(key, module)| sets(sim, key, module))
        .or_else(|| pods(sim))
        .or_else(|| labels(sim))
        .or_else(|| classes(sim))
        .or_else(|| api.preflights.values().find_map(|preflight| verdict(sim, preflight)))
}

fn sets(sim: &Sim, key: &ModuleKey, module: &Module) -> Difference {
    let wished = daemon_set(module);
    let its = |owner: &str| module.metadata.uid.as_deref() == Some(owner);
    let mut found = false;
    for set in sim.api.sets.values().filter(|set| set.owner_references().iter().any(|owner| its(&owner.uid)))
    {
        if let Some(wished) = wished.as_ref().filter(|wished| wished.name_any() == set.name_any()) {
            found = true;
            if wished.spec != set.spec {
                return Some(("L1", format!("DaemonSet {} of {key} is not as wished", set.name_any())));
            }
            continue;
        }
        let selector = pod::selector(set);
        let is_needed = sim.api.nodes.values().any(|node| pod::fits(&selector, &node.labels))
            || sim.api.configs.values().any(|config| has_version_of(config, key, set));
        if !is_needed || wished.is_none() {
            return Some(("L4", format!("DaemonSet {} of {key} is not wished any more", set.name_any())));
        }
    }
    let missing = wished.filter(|_| !found)?;
    Some(("L1", format!("DaemonSet {} of {key} is not there", missing.name_any())))
}

/// Whether a node is told to have the version whose plugin the `DaemonSet` runs.
fn has_version_of(config: &NodeModulesConfig, key: &ModuleKey, set: &DaemonSet) -> bool {
    let schedule = LabelKind::VersionSchedulePod.key(key.namespace(), key.name());
    let version = pod::selector(set).remove(&schedule);
    let is_its = |entry: &&NodeModule| entry.namespace == key.namespace() && entry.name == key.name();
    config.spec.modules.iter().filter(is_its).any(|entry| entry.version.is_some() && entry.version == version)
}

fn pods(sim: &Sim) -> Difference {
    let stray = |pod: &&SimPod| {
        let set = sim.api.sets.values().find(|set| set.metadata.uid.as_ref() == Some(&pod.owner));
        let node = sim.api.nodes.get(&pod.node);
        let fits = set.zip(node).is_some_and(|(set, node)| pod::fits(&pod::selector(set), &node.labels));
        !fits || !pod.is_ready || pod.is_leaving
    };
    if let Some(pod) = sim.api.pods.values().map(AsRef::as_ref).find(stray) {
        return Some(("L1", format!("pod {} on {} is not as it should be", pod.key.1, pod.node)));
    }
    for set in sim.api.sets.values() {
        let selector = pod::selector(set);
        let lacks = |node: &&NodeFacts| {
            pod::fits(&selector, &node.labels)
                && !sim.pods_on(&node.name).any(|pod| Some(&pod.owner) == set.metadata.uid.as_ref())
        };
        if let Some(node) = sim.api.nodes.values().map(AsRef::as_ref).find(lacks) {
            return Some(("L1", format!("{} has no pod of DaemonSet {}", node.name, set.name_any())));
        }
    }
    None
}

fn labels(sim: &Sim) -> Difference {
    let is_up =
        |node: &&NodeFacts| sim.nodes.iter().any(|known| known.name == node.name && known.machine.is_some());
    for node in sim.api.nodes.values().map(AsRef::as_ref).filter(is_up) {
        for (key, _) in &sim.script.keys {
            let expected = expected(sim, key, node);
            let wrong = expected.into_iter().find(|(kind, value)| {
                node.labels.get(&kind.key(key.namespace(), key.name())) != value.as_ref()
            });
            if let Some((kind, value)) = wrong {
                return Some(("L1", format!("{}: {kind:?} of {key} is not {value:?}", node.name)));
            }
        }
    }
    None
}

/// The labels for a Module's plugin that follow from what is there.
fn expected(sim: &Sim, key: &ModuleKey, node: &NodeFacts) -> Vec<(LabelKind, Option<String>)> {
    let value = |kind: LabelKind| node.labels.get(&kind.key(key.namespace(), key.name()));
    let module = sim.api.modules.get(key);
    let role = module.and_then(|module| Role::of(module));
    let is_ready = value(LabelKind::Ready).is_some();
    let runs = |asked: Role| {
        let runs = sim.pods_on(&node.name).any(|pod| {
            pod.is_of(key)
                && pod.is_ready
                && pod.labels.get(labels::ROLE).map(String::as_str) == Some(asked.as_str())
        });
        (role == Some(asked) && is_ready && runs).then(String::new)
    };
    let mut expected = vec![
        (LabelKind::DevicePluginReady, runs(Role::DevicePlugin)),
        (LabelKind::DraReady, runs(Role::Dra)),
    ];
    if is_ready || module.is_none() {
        let target = role == Some(Role::DevicePlugin) && is_ready;
        let version = value(LabelKind::VersionReady).cloned();
        expected.extend([
            (LabelKind::DevicePluginTarget, target.then(String::new)),
            (LabelKind::VersionWorkerPod, version.clone()),
            (LabelKind::VersionSchedulePod, version),
        ]);
    }
    expected
}

fn classes(sim: &Sim) -> Difference {
    let wishes = |module: &Module, name: &str| {
        Role::of(module) == Some(Role::Dra)
            && module.spec.dra.iter().flat_map(|dra| &dra.device_classes).any(|class| class.name == name)
    };
    for (name, class) in &sim.api.classes {
        let is_foreign = sim.foreign_classes.get(name) == class.metadata.uid.as_ref();
        if !is_foreign && !sim.api.modules.values().any(|module| wishes(module, name)) {
            return Some(("L4", format!("DeviceClass {name} is not wished any more")));
        }
    }
    let modules = sim.api.modules.values().filter(|module| Role::of(module) == Some(Role::Dra));
    let mut all = modules.flat_map(|module| module.spec.dra.iter().flat_map(|dra| &dra.device_classes));
    let missing = all.find(|class| !sim.api.classes.contains_key(&class.name))?;
    Some(("L1", format!("DeviceClass {} is not there", missing.name)))
}

/// A preflight has its last word, about all Modules that there are.
fn verdict(sim: &Sim, preflight: &PreflightValidation) -> Difference {
    let (name, status) = (preflight.name_any(), preflight.status.as_ref());
    if status.and_then(|status| status.observed_generation) != preflight.metadata.generation {
        return Some(("W12", format!("the status of preflight {name} is about an earlier generation")));
    }
    let told: Vec<_> = status
        .into_iter()
        .flat_map(|status| &status.modules)
        .map(|module| format!("{}/{}", module.namespace, module.name))
        .collect();
    let there: Vec<_> = sim.api.modules.keys().map(ToString::to_string).collect();
    let open = status.and_then(|status| status.result) == Some(VerificationStatus::InProgress);
    if open || told != there {
        return Some(("W12", format!("preflight {name}: in progress {open}, about {told:?} of {there:?}")));
    }
    let kernel = &preflight.spec.kernel_version;
    let wrong = status.into_iter().flat_map(|status| &status.modules).find(|told| {
        let key = ModuleKey::new(&told.namespace, &told.name).ok();
        let loader = key.and_then(|key| sim.api.modules.get(&key)?.spec.module_loader.as_ref());
        let mappings = loader.into_iter().flat_map(|loader| &loader.container.kernel_mappings);
        let is_mapped = mappings.into_iter().any(|mapping| mapping.literal.as_ref() == Some(kernel));
        !is_mapped && told.verification_status != VerificationStatus::Failure
    });
    let wrong = wrong?;
    Some((
        "W12",
        format!("preflight {name}: {} has no image for {kernel}, and is said to have one", wrong.name),
    ))
}
