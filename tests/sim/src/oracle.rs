//! How the cluster should be once everything has come to rest, by what users wished and by nothing that Tenon thinks.

mod plugins;

use tenon_api::Module;
use tenon_api::labels::LabelKind;
use tenon_api::node_modules_config::{ModulePhase, NodeModuleStatus};
use tenon_order::{KmodName, ModuleKey};
use tenon_plan::node::NodeFacts;

use crate::machine::{Kmod, SimMachine};
use crate::node::SimNode;
use crate::registry::{self, Bundle, Temper};
use crate::sim::Sim;
use crate::workload::DISCOVERED;

/// A discovered label counts as lost after so long.
const GRACE: u64 = 10 * 60 * 1000;

/// What users want of a Module on a node.
#[derive(Debug, Clone, Copy)]
pub enum Want {
    /// This, loaded.
    Load(&'static Bundle),
    /// What is there stays there, and nothing new comes.
    Keep,
    /// Nothing of it.
    Nothing,
}

/// What users want of the Module `key` on the node, by the objects themselves.
pub fn want(sim: &Sim, key: &ModuleKey, node: &NodeFacts) -> Want {
    let Some(module) = sim.api.modules.get(key) else { return Want::Nothing };
    let Some(loader) = module.spec.module_loader.as_ref() else { return Want::Nothing };
    if module.metadata.deletion_timestamp.is_some() {
        return Want::Nothing;
    }
    let container = &loader.container;
    if let Some(version) = &container.version {
        let label = LabelKind::VersionModule.key(key.namespace(), key.name());
        match node.labels.get(&label) {
            // What came without a version stays until the node is labelled.
            None if !lacks_own(module, node) && has_unversioned(sim, key, node) => return Want::Keep,
            None => return Want::Nothing,
            Some(other) if other != version && !lacks_own(module, node) => return Want::Keep,
            Some(_) => {}
        }
    }
    let mapped = container
        .kernel_mappings
        .iter()
        .any(|mapping| mapping.literal.as_deref() == Some(node.kernel.as_str()));
    let lacks = |key: &String, value: &String| node.labels.get(key) != Some(value);
    let unlike: Vec<&String> =
        module.spec.selector.iter().filter(|(key, value)| lacks(key, value)).map(|(key, _)| key).collect();
    if !mapped || unlike.iter().any(|key| *key != DISCOVERED) {
        return Want::Nothing;
    }
    if !unlike.is_empty() {
        let since = sim.undiscovered.get(&node.name).copied().unwrap_or(sim.now);
        return if sim.now < since + GRACE { Want::Keep } else { Want::Nothing };
    }
    if !node.taints.is_empty() {
        return Want::Keep;
    }
    let image = container.container_image.as_deref().unwrap_or_default();
    let image = image.replace("${KERNEL_FULL_VERSION}", node.kernel.as_str());
    match sim.registry.ask(&image) {
        registry::Answer::Found(bundle) => Want::Load(bundle),
        _ => Want::Keep,
    }
}

/// Whether the node lacks a label that nobody but an administrator sets.
fn lacks_own(module: &Module, node: &NodeFacts) -> bool {
    let mut asked = module.spec.selector.iter();
    asked.any(|(key, value)| *key != DISCOVERED && node.labels.get(key) != Some(value))
}

fn has_unversioned(sim: &Sim, key: &ModuleKey, node: &NodeFacts) -> bool {
    let config = sim.api.configs.get(&node.name);
    let mut entries = config.into_iter().flat_map(|config| &config.spec.modules);
    let entry = entries.find(|entry| entry.namespace == key.namespace() && entry.name == key.name());
    entry.is_some_and(|entry| entry.version.is_none())
}

/// What is not as it was wished, and which goal that touches; `None` when everything is.
pub fn difference(sim: &Sim) -> Option<(&'static str, String)> {
    leftovers(sim)
        .or_else(|| {
            let nodes = sim.nodes.iter().filter_map(|node| Some((node, node.machine.as_ref()?)));
            nodes.into_iter().find_map(|(node, machine)| of_node(sim, node, machine))
        })
        .or_else(|| statuses(sim))
        .or_else(|| plugins::difference(sim))
}

fn leftovers(sim: &Sim) -> Option<(&'static str, String)> {
    let api = &sim.api;
    for (key, module) in &api.modules {
        if module.metadata.deletion_timestamp.is_some() {
            return Some(("L4", format!("Module {key} is deleted and still there")));
        }
    }
    for (key, image) in &api.images {
        let owner = ModuleKey::new(&key.namespace, &image.spec.module).ok();
        if owner.is_none_or(|owner| !api.modules.contains_key(&owner)) {
            return Some(("L4", format!("ModuleImage {key} has outlived its Module")));
        }
    }
    for (name, config) in &api.configs {
        let Some(node) = api.nodes.get(name) else {
            return Some(("L5", format!("NodeModulesConfig {name} has outlived its node")));
        };
        let owners = config.metadata.owner_references.iter().flatten();
        if !owners.into_iter().any(|owner| owner.uid == node.uid) {
            return Some(("L5", format!("NodeModulesConfig {name} belongs to a former node")));
        }
    }
    None
}

fn of_node(sim: &Sim, node: &SimNode, machine: &SimMachine) -> Option<(&'static str, String)> {
    let facts = sim.api.nodes.get(&node.name)?;
    if facts.boot_id != machine.boot_name() {
        return Some(("L2", format!("{} has booted and its kubelet has not said so", node.name)));
    }
    if !sim.api.configs.contains_key(&node.name) {
        return Some(("L1", format!("{} has no NodeModulesConfig", node.name)));
    }
    sim.script.keys.iter().find_map(|(key, driver)| of_module(sim, node, machine, facts, key, driver))
}

fn of_module(
    sim: &Sim,
    node: &SimNode,
    machine: &SimMachine,
    facts: &NodeFacts,
    key: &ModuleKey,
    driver: &'static str,
) -> Option<(&'static str, String)> {
    let name: KmodName = driver.parse().ok()?;
    let loaded = machine.with_loaded(|loaded| loaded.get(&name).cloned());
    let label = facts.labels.contains_key(&LabelKind::Ready.key(key.namespace(), key.name()));
    let config = sim.api.configs.get(&node.name)?;
    let is_it = |entry: &&NodeModuleStatus| entry.namespace == key.namespace() && entry.name == key.name();
    let reported = config.status.as_ref().and_then(|status| status.modules.iter().find(is_it));
    let phase = reported.and_then(|reported| reported.phase);
    let at = &node.name;
    let is = |file| loaded.as_ref().is_some_and(|kmod: &Kmod| kmod.file == Some(file));
    match want(sim, key, facts) {
        Want::Load(bundle) => {
            let main = bundle.main()?;
            let foreign = loaded.as_ref().is_some_and(|kmod| kmod.foreign);
            if is_held_back(sim, key, node) && !is(main.digest) && label {
                let former = loaded.as_ref().and_then(|kmod| registry::file(kmod.file?));
                if former.is_some_and(|file| file.name == name) && phase == Some(ModulePhase::Loaded) {
                    return None;
                }
            }
            if main.temper == Temper::Good && !foreign {
                if !is(main.digest) {
                    return Some((
                        "L1",
                        format!("{at}: {driver} v{} is not loaded, but {loaded:?}", bundle.of.1),
                    ));
                }
                if !label || phase != Some(ModulePhase::Loaded) {
                    return Some(("L1", format!("{at}: {key} is loaded; label {label}, phase {phase:?}")));
                }
            } else {
                let told = matches!(
                    phase,
                    Some(ModulePhase::Failed | ModulePhase::RolledBack | ModulePhase::CrashSuspected)
                );
                if label || !told {
                    return Some(("L1", format!("{at}: {key} cannot load; label {label}, phase {phase:?}")));
                }
            }
        }
        Want::Keep => {}
        Want::Nothing => {
            // Of two Modules with one driver, another may want it.
            let others = sim.script.keys.iter().filter(|(other, theirs)| other != key && *theirs == driver);
            let wanted =
                others.into_iter().any(|(other, _)| !matches!(want(sim, other, facts), Want::Nothing));
            let orphan = !sim.api.modules.contains_key(key) && phase == Some(ModulePhase::Orphaned);
            if loaded.as_ref().is_some_and(|kmod| !kmod.foreign) && !wanted && !orphan {
                return Some(("L4", format!("{at}: {driver} of {key} is still loaded, phase {phase:?}")));
            }
            let entry = config
                .spec
                .modules
                .iter()
                .any(|entry| entry.namespace == key.namespace() && entry.name == key.name());
            if label || entry || (reported.is_some() && !orphan) {
                return Some((
                    "L4",
                    format!("{at}: {key} is not wanted; label {label}, spec {entry}, phase {phase:?}"),
                ));
            }
        }
    }
    None
}

/// A Module whose good driver a node has ceased to load, because it was switched off again and again in the midst of that.
pub fn suspected_innocent(sim: &Sim) -> Option<ModuleKey> {
    let suspected = |config: &tenon_api::NodeModulesConfig, key: &ModuleKey| {
        let mut entries = config.status.iter().flat_map(|status| &status.modules);
        let is_it = |entry: &&NodeModuleStatus| {
            entry.namespace == key.namespace()
                && entry.name == key.name()
                && entry.phase == Some(ModulePhase::CrashSuspected)
        };
        entries.any(|entry| is_it(&entry))
    };
    let keys = sim.script.keys.iter().map(|(key, _)| key);
    let mut innocent = keys.filter(|key| {
        sim.api.nodes.iter().any(|(name, facts)| {
            let good = match want(sim, key, facts) {
                Want::Load(bundle) => bundle.main().is_some_and(|main| main.temper == Temper::Good),
                _ => false,
            };
            good && sim.api.configs.get(name).is_some_and(|config| suspected(config, key))
        })
    });
    innocent.next().cloned()
}

/// Whether a change has failed on as many nodes as may be without the driver, and this is none of them.
fn is_held_back(sim: &Sim, key: &ModuleKey, node: &SimNode) -> bool {
    sim.changes.count(key) >= sim.changes.allowed(key) && !sim.changes.has(key, &node.name)
}

/// What Modules say of themselves.
fn statuses(sim: &Sim) -> Option<(&'static str, String)> {
    for (key, module) in &sim.api.modules {
        let status = module.status.as_ref();
        if status.and_then(|status| status.observed_generation) != module.metadata.generation {
            return Some(("L6", format!("the status of {key} is about an earlier generation")));
        }
        let numbers = status.and_then(|status| status.module_loader.as_ref());
        let label = LabelKind::Ready.key(key.namespace(), key.name());
        let labelled = sim.api.nodes.values().filter(|node| node.labels.contains_key(&label)).count();
        let available = numbers.map_or(0, |numbers| numbers.available_number);
        if usize::try_from(available) != Ok(labelled) {
            return Some((
                "L6",
                format!("{key} says that {available} nodes have it, {labelled} are labelled"),
            ));
        }
    }
    None
}
