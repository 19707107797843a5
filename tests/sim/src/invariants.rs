//! What must hold after every event. Each invariant is one function, named in the list of reliability goals.
//!
//! They look at what is (the server's objects, the kernels, the disks), not at what any part believes; only S7's
//! second half asks what a replica has seen, for that is what it says.

use std::collections::BTreeMap;

use tenon_api::labels::{LabelKind, ModuleLabel};
use tenon_api::node_modules_config::ModulePhase;
use tenon_order::{Digest, KmodName, Load, ModuleKey, NodeName, Wish};

use crate::api::{Change, KINDS, Kind, Write};
use crate::changes;
use crate::machine::{Effect, IN_TREE, Kmod, SimMachine};
use crate::node::SimNode;
use crate::oracle::{self, Want};
use crate::registry;
use crate::sim::Sim;
use crate::workload::DISCOVERED;

/// By how much a decision's view may be old: the longest that a watch lags here, and a little.
pub const LAG: u64 = 150_000;

/// What was loaded before a piece of work.
#[derive(Debug, Default)]
pub struct Before {
    loaded: BTreeMap<KmodName, Kmod>,
    live: BTreeMap<ModuleKey, Load>,
}

/// Looks at a node before the loader works on it.
pub fn before_work(node: &SimNode, before: &mut Before) {
    if let Some(machine) = &node.machine {
        machine.with_loaded(|loaded| before.loaded.clone_from(loaded));
        before.live = machine.with_disk(|disk| {
            let live = disk.records.iter();
            live.filter_map(|(key, record)| Some((key.clone(), record.live.as_ref()?.content.clone())))
                .collect()
        });
    }
}

/// After the loader has worked on the node at this place.
pub fn after_work(sim: &mut Sim, at: usize) {
    let Some(node) = sim.nodes.get(at) else { return };
    let effects = node.machine.as_ref().map(SimMachine::take_effects).unwrap_or_default();
    if effects.is_empty() {
        return;
    }
    sim.works += 1;
    let name = node.name.clone();
    for effect in &effects {
        sim.tell(|| format!("{name}: {effect:?}"));
        s1_only_its_own_kernel(sim, at, effect);
        s2_only_what_was_verified(sim, at, effect);
        s5_dependencies(sim, at, effect);
        s9_nothing_foreign_unloaded(sim, at, effect);
        rule7_no_third_crash(sim, at, effect);
    }
    s3_only_unwanted_is_unloaded(sim, at);
    s7_label_goes_first(sim, at, &effects);
    w10_plugin_leaves_first(sim, at, &effects);
    w10_nothing_is_loaded_anew(sim, at, &effects);
}

/// S1: nothing is offered to a kernel that it was not made for.
fn s1_only_its_own_kernel(sim: &mut Sim, at: usize, effect: &Effect) {
    let Effect::Insert { name, file: Some(file), .. } = effect else { return };
    let running = sim.nodes.get(at).and_then(|node| node.machine.as_ref()).map(SimMachine::kernel);
    let made_for = registry::file(*file).map(|file| file.kernel);
    if made_for != running {
        sim.violated("S1", format!("node {at}: {name} for {made_for:?} was offered to {running:?}"));
    }
}

/// S2: what is loaded was resolved for the Module before: the order that is held, or a remembered one, names its bundle.
fn s2_only_what_was_verified(sim: &mut Sim, at: usize, effect: &Effect) {
    let Effect::Insert { name, file: Some(file), .. } = effect else { return };
    let Some(machine) = sim.nodes.get(at).and_then(|node| node.machine.as_ref()) else { return };
    let named = machine.with_disk(|disk| {
        let ordered = disk.order.iter().flat_map(|(_, order)| &order.modules);
        let ordered = ordered.filter_map(|module| match &module.wish {
            Wish::Loaded(load) => Some(load.bundle),
            Wish::Removed => None,
        });
        let kept = disk.records.values().flat_map(|record| {
            let live = record.live.as_ref().map(|live| &live.content);
            record.kept.iter().chain(live).map(|load| load.bundle)
        });
        let has = |bundle: Digest| {
            registry::by_digest(bundle)
                .is_some_and(|bundle| bundle.files.iter().any(|known| known.digest == *file))
        };
        ordered.chain(kept).any(has)
    });
    if !named {
        sim.violated("S2", format!("node {at}: a file of {name} was loaded that nobody ordered"));
    }
}

/// S3: what was loaded by Tenon and is gone after the work was unwanted, and the order said so.
fn s3_only_unwanted_is_unloaded(sim: &mut Sim, at: usize) {
    let Some(node) = sim.nodes.get(at) else { return };
    let Some(machine) = node.machine.as_ref().filter(|machine| !machine.is_dead()) else { return };
    let mut lost: Vec<KmodName> = Vec::new();
    machine.with_loaded(|loaded| {
        let gone = |(name, kmod): &(&KmodName, &Kmod)| {
            kmod.file.is_some() && !loaded.contains_key(*name) && name.as_ref() != registry::SHARED
        };
        lost.extend(sim.script.before.loaded.iter().filter(gone).map(|(name, _)| name.clone()));
    });
    for name in lost {
        let owners: Vec<&ModuleKey> = sim
            .script
            .keys
            .iter()
            .filter(|(_, driver)| *driver == name.as_ref())
            .map(|(key, _)| key)
            .collect();
        let justified = machine.with_disk(|disk| {
            let Some((text, order)) = &disk.order else { return false };
            let signed = sim.seals.signed_at(text).unwrap_or_default();
            owners.iter().any(|key| {
                let ordered = order.wish(key) == Some(&Wish::Removed);
                let unwanted = sim.unwanted.get(&((*key).clone(), node.name.clone()));
                ordered && unwanted.is_some_and(|at| *at + LAG >= signed)
            })
        });
        if !justified {
            let message = format!("{}: {name} was unloaded, and nobody had ceased to want it", node.name);
            return sim.violated("S3", message);
        }
    }
}

/// S5: nothing is unloaded below what uses it, nothing is loaded before what it uses, and an in-tree module goes only
/// when its replacement is on the node.
fn s5_dependencies(sim: &mut Sim, at: usize, effect: &Effect) {
    match effect {
        Effect::Remove { name, holders, .. } if !holders.is_empty() => {
            sim.violated("S5", format!("node {at}: {name} was to be unloaded below {holders:?}"));
        }
        Effect::Insert { name, errno: 2, .. } => {
            sim.violated("S5", format!("node {at}: {name} was loaded before what it uses"));
        }
        Effect::Remove { name, .. } if name.as_ref() == IN_TREE => {
            let Some(machine) = sim.nodes.get(at).and_then(|node| node.machine.as_ref()) else { return };
            let ready = machine.with_disk(|disk| {
                let orders = disk.order.iter().flat_map(|(_, order)| &order.modules);
                let mut loads = orders.filter_map(|module| match &module.wish {
                    Wish::Loaded(load) => Some(load),
                    Wish::Removed => None,
                });
                let kept = disk.records.values().filter_map(|record| record.kept.as_ref());
                loads.any(|load| disk.bundles.contains(&load.bundle))
                    || kept.into_iter().any(|load| disk.bundles.contains(&load.bundle))
            });
            if !ready {
                sim.violated("S5", format!("node {at}: {name} made room for what is not there"));
            }
        }
        _ => {}
    }
}

/// S7, first half: while a module is unloaded or replaced on its order, no label says that it is ready.
fn s7_label_goes_first(sim: &mut Sim, at: usize, effects: &[Effect]) {
    let Some(node) = sim.nodes.get(at) else { return };
    let Some(facts) = sim.api.nodes.get(&node.name) else { return };
    if sim.restored {
        return;
    }
    for effect in effects {
        let Effect::Remove { name, was: Some(was), gone: true, .. } = effect else { continue };
        let owners =
            sim.script.keys.iter().filter(|(_, driver)| *driver == name.as_ref() && was.file.is_some());
        for (key, _) in owners {
            let label = LabelKind::Ready.key(key.namespace(), key.name());
            if facts.labels.contains_key(&label) {
                let message = format!("{}: {name} was unloaded while labelled ready", node.name);
                return sim.violated("S7", message);
            }
        }
    }
}

/// W10: while a driver is unloaded or replaced, no pod of its plugin is on the node of which was known when that was decided.
fn w10_plugin_leaves_first(sim: &mut Sim, at: usize, effects: &[Effect]) {
    let Some(node) = sim.nodes.get(at).filter(|_| !sim.restored) else { return };
    let order = node.machine.as_ref().and_then(|machine| machine.with_disk(|disk| disk.order.clone()));
    let Some((text, _)) = order else { return };
    for effect in effects {
        let Effect::Remove { name, was: Some(was), gone: true, .. } = effect else { continue };
        let owners =
            sim.script.keys.iter().filter(|(_, driver)| *driver == name.as_ref() && was.file.is_some());
        for (key, _) in owners {
            let Some(known) = sim.seals.decided(&text, key) else { continue };
            let left = sim.pods_on(&node.name).find(|pod| pod.is_of(key) && pod.lives() && pod.made < known);
            if let Some(pod) = left {
                let message = format!("{}: {name} was unloaded below pod {}", node.name, pod.key.1);
                return sim.violated("W10", message);
            }
        }
    }
}

/// W10: a driver is not unloaded to be loaded again as it was: not for the sake of its plugin, nor for anything else.
fn w10_nothing_is_loaded_anew(sim: &mut Sim, at: usize, effects: &[Effect]) {
    let Some(node) = sim.nodes.get(at) else { return };
    for (key, driver) in &sim.script.keys {
        let of_driver = effects.iter().filter_map(|effect| match effect {
            Effect::Remove { name, was: Some(was), gone: true, .. } if name.as_ref() == *driver => {
                Some((was.file, true))
            }
            Effect::Insert { name, file, errno: 0 } if name.as_ref() == *driver => Some((*file, false)),
            _ => None,
        });
        let of_driver: Vec<_> = of_driver.collect();
        let again = of_driver
            .windows(2)
            .any(|pair| matches!(pair, [(Some(was), true), (Some(is), false)] if was == is));
        let tried_another = effects.iter().any(|effect| {
            matches!(effect, Effect::Insert { name, errno, .. } if name.as_ref() == *driver && *errno != 0)
        });
        let Some(machine) = node.machine.as_ref().filter(|_| again && !tried_another) else { continue };
        let after =
            machine.with_disk(|disk| disk.order.as_ref().and_then(|(_, order)| order.wish(key).cloned()));
        let before = sim.script.before.live.get(key);
        if let (Some(Wish::Loaded(after)), Some(before)) = (after, before)
            && asked(before) == asked(&after)
        {
            let message = format!("{}: {driver} was loaded anew as it was", node.name);
            return sim.violated("W10", message);
        }
    }
}

/// What users have asked of a driver.
fn asked(load: &Load) -> (Digest, Vec<&String>) {
    (load.bundle, load.parameters.iter().filter(|parameter| parameter.starts_with("level=")).collect())
}

/// W10: a device class of somebody else's stays as it is.
fn w10_foreign_classes_stay(sim: &mut Sim) {
    let is_same = |(name, uid): (&String, &String)| {
        let class = sim.api.classes.get(name);
        class.is_some_and(|class| class.metadata.uid.as_ref() == Some(uid) && class.metadata.labels.is_none())
    };
    if let Some((name, _)) = sim.foreign_classes.iter().find(|foreign| !is_same(*foreign)) {
        let message = format!("DeviceClass {name} was somebody else's");
        sim.violated("W10", message);
    }
}

/// W10: a version's plugin may run where that version is loaded, and nowhere else.
fn w10_version_labels_are_true(sim: &mut Sim, write: &Write) {
    let Write::Labels { node, labels, .. } = write else { return };
    let Some(facts) = sim.api.nodes.get(node).filter(|_| !sim.restored) else { return };
    for (key, _) in &sim.script.keys {
        let name = |kind: LabelKind| kind.key(key.namespace(), key.name());
        let Some(Some(version)) = labels.get(&name(LabelKind::VersionSchedulePod)) else { continue };
        let has = |kind| facts.labels.get(&name(kind));
        let is_true = has(LabelKind::Ready).is_some()
            && has(LabelKind::VersionReady) == Some(version)
            && has(LabelKind::VersionWorkerPod) == Some(version);
        if !is_true {
            let message = format!("{node}: the plugin of {key} {version} may run, without that driver");
            return sim.violated("W10", message);
        }
    }
}

/// S9: nothing foreign is unloaded, but what the Module names.
fn s9_nothing_foreign_unloaded(sim: &mut Sim, at: usize, effect: &Effect) {
    let Effect::Remove { name, was: Some(was), gone: true, .. } = effect else { return };
    if was.foreign && name.as_ref() != IN_TREE {
        sim.violated("S9", format!("node {at}: {name} was somebody else's"));
    }
}

/// Rule 7: what has taken the node down twice in a row is not loaded a third time.
fn rule7_no_third_crash(sim: &mut Sim, at: usize, effect: &Effect) {
    let Effect::Panic { file, content } = effect else { return };
    let Some(node) = sim.nodes.get_mut(at) else { return };
    // A node that goes down while the load is put off for that reason has shown that it does so by itself.
    let others = node.cuts.saturating_sub(node.panics.values().map(|(panics, _)| panics).sum());
    let (panics, others_before) = node.panics.entry(*content).or_insert((0, others));
    *panics += 1;
    if *panics > 2 + others - *others_before {
        let message = format!("node {at}: {file} has taken it down for the third time");
        sim.violated("R7", message);
    }
}

/// Before a write takes effect.
pub fn before_write(sim: &mut Sim, writer: Option<&str>, write: &Write) {
    s10_only_the_holder_writes(sim, writer, write);
    s9_preconditions(sim, write);
    s7_label_is_true(sim, write);
    if let Write::Config(config) = write {
        changes::before(sim, config);
    }
}

/// S10: a replica that has lost the lease changes nothing.
fn s10_only_the_holder_writes(sim: &mut Sim, writer: Option<&str>, write: &Write) {
    let Some(writer) = writer else { return };
    let holder = sim.api.lease.as_ref().and_then(|(spec, _)| spec.holder_identity.as_deref());
    if holder != Some(writer) {
        let message = format!("{writer} writes, and {holder:?} holds the lease: {write:?}");
        sim.deposed = Some(message.chars().take(300).collect());
    }
}

/// S9: what is changed is the object that was decided about. Objects are made by server-side apply, which knows no
/// precondition for that: one that is made a second time, late, is put right by the next look, and liveness sees to it.
fn s9_preconditions(sim: &mut Sim, write: &Write) {
    let unseen = match write {
        Write::Config(config) if !is_made(config) => {
            let meta = &config.metadata;
            let name = meta.name.as_ref().and_then(|name| name.parse::<NodeName>().ok());
            let unconditional = meta.uid.is_none() || meta.resource_version.is_none();
            unconditional && name.is_some_and(|name| sim.api.configs.contains_key(&name))
        }
        Write::Labels { uid, version, labels, .. } => {
            uid.is_none() || (version.is_none() && labels.values().any(Option::is_some))
        }
        Write::Finalizers { uid, version, .. } | Write::Report { uid, version, .. } => {
            uid.is_none() || version.is_none()
        }
        Write::DeleteImage { uid, .. }
        | Write::ImageStatus { uid, .. }
        | Write::ModuleStatus { uid, .. }
        | Write::DeleteSet { uid, .. }
        | Write::DeleteClass { uid, .. }
        | Write::PreflightStatus { uid, .. } => uid.is_none(),
        _ => false,
    };
    sim.unseen = unseen;
}

/// Whether this is how the operator makes a node's object: with nothing in it.
fn is_made(config: &tenon_api::NodeModulesConfig) -> bool {
    config.metadata.uid.is_none() && config.spec.modules.is_empty() && config.spec.order.is_none()
}

/// S7 and S15: a label is written for a Module that is on the node, and its key names that Module and no other.
fn s7_label_is_true(sim: &mut Sim, write: &Write) {
    let Write::Labels { node, labels, .. } = write else { return };
    for (key, value) in labels {
        let Some(label) = ModuleLabel::parse(key) else {
            return sim.violated("S9", format!("{key} is no label of ours"));
        };
        let known = sim
            .script
            .keys
            .iter()
            .any(|(module, _)| module.namespace() == label.namespace && module.name() == label.name);
        if !known {
            return sim.violated(
                "S15",
                format!("{key} names {}/{}, which nobody made", label.namespace, label.name),
            );
        }
        if value.is_none() || label.kind != LabelKind::Ready {
            continue;
        }
        let reported = sim.api.configs.get(node).is_some_and(|config| {
            let status = config.status.iter().flat_map(|status| &status.modules);
            status.into_iter().any(|entry| entry.namespace == label.namespace && entry.name == label.name)
        });
        let driver = sim
            .script
            .keys
            .iter()
            .find(|(known, _)| known.namespace() == label.namespace && known.name() == label.name);
        let machine =
            sim.nodes.iter().find(|known| known.name == *node).and_then(|node| node.machine.as_ref());
        let loaded = machine.zip(driver).is_some_and(|(machine, (_, driver))| {
            machine.with_loaded(|loaded| loaded.keys().any(|name| name.as_ref() == *driver))
        });
        if !reported && !loaded && sim.api.nodes.contains_key(node) {
            // An earlier report may have been the reason: what counts is whether it takes effect.
            sim.untrue = Some(format!("{node} is labelled ready for {key}, and nothing of it was reported"));
        }
    }
}

/// After a write; `effective`: it has changed something.
pub fn after_write(sim: &mut Sim, writer: Option<&str>, write: &Write, effective: bool) {
    let (deposed, unseen, untrue) = (sim.deposed.take(), std::mem::take(&mut sim.unseen), sim.untrue.take());
    if !effective {
        return;
    }
    if let Some(message) = deposed {
        sim.violated("S10", message);
    }
    if unseen {
        sim.violated(
            "S9",
            format!("{writer:?} has changed what it has not seen: {:.300}", format!("{write:?}")),
        );
    }
    if let Some(message) = untrue.filter(|_| !sim.restored) {
        sim.violated("S7", message);
    }
    s8_finalizer_goes_last(sim, write);
    w10_foreign_classes_stay(sim);
    w10_version_labels_are_true(sim, write);
    // S6: nobody orders more nodes to give up what they have than users allow.
    match write {
        Write::Config(config) => {
            changes::ordered(sim, config);
            changes::settle(sim);
        }
        Write::Report { .. } => changes::settle(sim),
        _ => {}
    }
}

/// S8: a Module goes when no node that is known has anything of it.
fn s8_finalizer_goes_last(sim: &mut Sim, write: &Write) {
    let Write::Finalizers { key, finalizers, .. } = write else { return };
    if !finalizers.is_empty() || sim.api.modules.contains_key(key) {
        return;
    }
    let held = sim.nodes.iter().find(|node| {
        let Some(config) = sim.api.configs.get(&node.name) else { return false };
        let known = config.status.as_ref().and_then(|status| status.store_id.clone());
        let wished =
            config.spec.modules.iter().any(|m| m.namespace == key.namespace() && m.name == key.name());
        let holds = |disk: &crate::machine::Disk| {
            let same = disk.store.map(|store| store.to_string()) == known;
            let record = disk.records.get(key);
            same && record.is_some_and(|record| !record.is_tombstone() && record.kept.is_some())
        };
        wished || node.machine.as_ref().map_or_else(|| holds(&node.disk), |machine| machine.with_disk(holds))
    });
    if let Some(node) = held {
        let message = format!("Module {key} has gone, and {} still has it", node.name);
        sim.violated("S8", message);
    }
}

/// After every event.
pub fn after_step(sim: &mut Sim) {
    note_wishes(sim);
    s7_label_withdrawn_at_a_new_boot(sim);
}

/// Keeps in mind when users last did not want what.
fn note_wishes(sim: &mut Sim) {
    let mut changed = false;
    for kind in KINDS {
        let head = sim.api.head(kind);
        let Some(looked) = sim.looked.get_mut(kind as usize) else { continue };
        if *looked == head {
            continue;
        }
        let from = std::mem::replace(looked, head);
        changed |= matches!(kind, Kind::Node | Kind::Module);
        if kind == Kind::Module {
            for (key, module) in &sim.api.modules {
                sim.changes.limit(key, changes::limit(module, sim.script.nodes), sim.now);
            }
        }
        for at in from..head {
            if let Some(Change::Node(name, Some(facts), _)) = sim.api.change(kind, at) {
                if facts.labels.contains_key(DISCOVERED) {
                    sim.undiscovered.remove(name);
                } else {
                    sim.undiscovered.entry(name.clone()).or_insert(sim.now);
                }
            }
        }
    }
    if changed {
        changes::settle(sim);
    }
    if !changed && sim.undiscovered.is_empty() {
        return;
    }
    let mut unwanted = Vec::new();
    for (key, _) in &sim.script.keys {
        for (name, facts) in &sim.api.nodes {
            if matches!(oracle::want(sim, key, facts), Want::Nothing) {
                unwanted.push((key.clone(), name.clone()));
            }
        }
    }
    let now = sim.now;
    // What is unwanted stays so until the next change of an object; that is when it is looked at again.
    for (key, name) in std::mem::take(&mut sim.unwanted_now) {
        sim.unwanted.insert((key, name), now);
    }
    for place in &unwanted {
        sim.unwanted.insert(place.clone(), now);
    }
    sim.unwanted_now = unwanted;
}

/// S7, second half: a leader that has seen a new boot and has nothing left to do has withdrawn the label.
fn s7_label_withdrawn_at_a_new_boot(sim: &mut Sim) {
    let untrue =
        sim.replicas.iter().filter(|replica| replica.may_write(sim.now) && replica.is_idle()).find_map(
            |replica| {
                let index = replica.world.read();
                sim.nodes.iter().find_map(|node| {
                    let labelled = sim.api.nodes.get(&node.name)?;
                    let facts = index.node(&node.name).filter(|facts| facts.uid == labelled.uid)?;
                    let status = index.config(&node.name).and_then(|config| config.status.as_ref());
                    let mut ready = sim.script.keys.iter().zip(&sim.script.ready_labels);
                    let (_, key) = ready.find(|((module, _), label)| {
                        let mut entries = status.into_iter().flat_map(|status| &status.modules);
                        labelled.labels.contains_key(*label)
                            && !entries.any(|entry| {
                                entry.namespace == module.namespace()
                                    && entry.name == module.name()
                                    && entry.phase == Some(ModulePhase::Loaded)
                                    && entry.boot_id.as_deref() == Some(facts.boot_id.as_str())
                            })
                    })?;
                    Some(format!(
                        "{} is labelled {key}, and in boot {} nothing says so",
                        node.name, facts.boot_id
                    ))
                })
            },
        );
    if let Some(message) = untrue {
        sim.violated("S7", message);
    }
}
