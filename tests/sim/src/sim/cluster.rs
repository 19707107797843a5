//! What users, administrators and faults do to the cluster, and what the garbage collector does.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;
use tenon_api::labels::{LabelKind, annotation};
use tenon_kmod::release::KernelRelease;
use tenon_order::NodeName;
use tenon_plan::node::NodeFacts;

use super::{Event, Sim};
use crate::machine::{Disk, Kmod};
use crate::node::SimNode;
use crate::registry::KERNELS;
use crate::workload::{Act, DISCOVERED};

/// The taint of a node that is cordoned.
const CORDON: &str = "node.kubernetes.io/unschedulable";
/// So long after its last word a node's kubelet is taken for silent, in milliseconds.
const GRACE: u64 = 40_000;

impl Sim {
    /// Nodes, replicas, and the plan of what will be done.
    pub(super) fn populate(&mut self) {
        for at in 0..self.script.nodes {
            let Ok(name) = format!("node-{at}").parse::<NodeName>() else { continue };
            let kernel = KERNELS.first().copied().unwrap_or_default();
            self.nodes.push(SimNode::new(name, kernel));
            if self.script.registers.contains(&at) {
                let delay = self.rng.between(0, 300);
                self.after(delay, Event::Boot(at));
            }
        }
        for at in 0..self.script.replicas {
            self.start_replica(at);
        }
        for (at, act) in std::mem::take(&mut self.script.acts) {
            self.after(at, Event::Act(act));
        }
    }

    /// A Node object for a machine.
    pub(crate) fn new_facts(&mut self, name: &NodeName, kernel: KernelRelease, boot_id: String) -> NodeFacts {
        let labels = [("hall", "a"), (DISCOVERED, "true")];
        NodeFacts {
            name: name.clone(),
            uid: self.api.next_uid(),
            kernel,
            architecture: "amd64".to_owned(),
            boot_id,
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            taints: Vec::new(),
            os_version: None,
        }
    }

    fn change_node(&mut self, at: usize, change: impl FnOnce(&mut NodeFacts)) {
        let Some(name) = self.nodes.get(at).map(|node| node.name.clone()) else { return };
        if let Some(known) = self.api.nodes.get(&name) {
            let mut facts = (**known).clone();
            change(&mut facts);
            self.api.set_node(&name, Some(facts));
        }
    }

    pub(super) fn act(&mut self, act: Act) {
        match act {
            Act::Put(key, wish) => self.api.put_module(&key, wish.module()),
            Act::Delete(key) => self.api.delete_module(&key),
            Act::Retry(key, number) => {
                self.api.annotate_module(&key, annotation::RETRY, number.to_string());
            }
            Act::Label(at, key, value) => self.change_node(at, |facts| {
                match value {
                    Some(value) => facts.labels.insert(key.to_owned(), value.to_owned()),
                    None => facts.labels.remove(key),
                };
            }),
            Act::Taint(at, present) => self.change_node(at, |facts| {
                facts.taints.retain(|taint| taint.key != CORDON);
                facts.taints.extend(present.then(|| Taint {
                    key: CORDON.to_owned(),
                    effect: "NoSchedule".to_owned(),
                    ..Taint::default()
                }));
            }),
            Act::Kill(at) => {
                if let Some(replica) = self.replicas.get_mut(at) {
                    // Nothing of the process goes on; its requests may still arrive.
                    replica.epoch += 1;
                    replica.led = false;
                    replica.tasks.clear();
                    for watch in &mut replica.watches {
                        watch.moving = true;
                    }
                    let delay = self.rng.between(200, 3000);
                    self.after(delay, Event::StartReplica(at));
                }
            }
            Act::Freeze(at, time) => {
                if let Some(until) = self.frozen.get_mut(at) {
                    *until = self.now + time;
                }
                self.prolong(time);
            }
            Act::Skew(at, by) => {
                if let Some(replica) = self.replicas.get_mut(at) {
                    replica.skew = by;
                }
            }
            Act::BreakWatch(at, kind) => self.break_watch(at, kind),
            Act::RegistryDown(time) => {
                self.registry.down = true;
                self.acts_left += 1;
                self.after(time, Event::Act(Act::RegistryUp));
            }
            Act::RegistryUp => self.registry.down = false,
            Act::Tag(reference, version) => drop(self.registry.moved.insert(reference, version)),
            Act::Untag(reference) => drop(self.registry.moved.remove(&reference)),
            Act::RotateKey(kept) => {
                let next = self.keys.iter().max().copied().unwrap_or(0).wrapping_add(1);
                if kept {
                    self.keys.push(next);
                } else {
                    self.keys = vec![next];
                }
                self.spread_keys();
            }
            Act::DropOldKey => {
                let last = self.keys.last().copied();
                self.keys = last.into_iter().collect();
                self.spread_keys();
            }
            Act::Version(at, ref key, version) => self.change_node(at, |facts| {
                let label = LabelKind::VersionModule.key(key.namespace(), key.name());
                match version {
                    Some(version) => facts.labels.insert(label, version.to_string()),
                    None => facts.labels.remove(&label),
                };
            }),
            Act::KillPods(at) => self.kill_pods(at),
            Act::Meddle => self.meddle(),
            Act::Class(name) => {
                self.api.make_class(name);
                let uid = self.api.classes.get(name).and_then(|class| class.metadata.uid.clone());
                self.unseen_classes.insert(name.to_owned());
                self.foreign_classes.extend(uid.map(|uid| (name.to_owned(), uid)));
            }
            Act::Preflight(name, Some(kernel)) => self.api.put_preflight(name, kernel),
            Act::Preflight(name, None) => self.api.delete_preflight(name),
            Act::Backup => self.backup = Some(self.api.configs.clone()),
            Act::Restore => {
                if let Some(backup) = self.backup.clone() {
                    self.restored = true;
                    self.api.restore_configs(&backup);
                }
            }
            act => self.act_on_node(&act),
        }
    }

    /// Faults last at least so much longer.
    fn prolong(&mut self, time: u64) {
        self.faults_end = self.faults_end.max(self.now + time);
    }

    fn break_watch(&mut self, at: usize, kind: crate::api::Kind) {
        let delay = self.rng.between(100, 5000);
        self.list(at, kind, delay);
    }

    fn spread_keys(&mut self) {
        for at in 0..self.replicas.len() {
            if let Some(replica) = self.replicas.get_mut(at) {
                replica.follow_keys(&self.keys);
            }
            self.work(at);
        }
    }

    fn act_on_node(&mut self, act: &Act) {
        match *act {
            Act::Reboot(at, kernel) => {
                let Some(node) = self.nodes.get_mut(at) else { return };
                if let Some(kernel) = kernel.and_then(|kernel| KERNELS.get(kernel)) {
                    node.kernel = kernel;
                }
                if node.machine.is_some() {
                    self.power_cut(at);
                }
            }
            Act::Off(at, time) => self.switch_off(at, time),
            Act::Fuse(at, steps, kill) => {
                if let Some(machine) = self.nodes.get(at).and_then(|node| node.machine.as_ref()) {
                    machine.set_fuse(Some(steps));
                    if kill {
                        self.script.kills.insert(at);
                    }
                }
            }
            Act::KillAgent(at) if self.nodes.get(at).is_some_and(|node| node.agent.is_some()) => {
                self.start_agent(at);
            }
            Act::Wipe(at) => {
                self.switch_off(at, 3000);
                if let Some(node) = self.nodes.get_mut(at) {
                    node.disk = Disk::default();
                }
            }
            Act::Remake(at, wiped) => {
                self.leave(at);
                if let Some(node) = self.nodes.get_mut(at) {
                    if wiped {
                        node.disk = Disk::default();
                    }
                    self.script.registers.insert(at);
                    let delay = self.rng.between(0, 4000);
                    self.after(delay, Event::Boot(at));
                }
            }
            Act::Leave(at) => {
                self.leave(at);
                self.script.registers.remove(&at);
            }
            Act::Join(at) => {
                self.script.registers.insert(at);
                self.after(0, Event::Boot(at));
            }
            Act::Rmmod(at, name) => self.by_hand(at, name, |loaded, name| {
                let held = !crate::machine::holders(loaded, name).is_empty();
                if !held && loaded.get(name).is_some_and(|kmod| kmod.users == 0) {
                    loaded.remove(name);
                }
            }),
            Act::Foreign(at, name) => self.by_hand(at, name, |loaded, name| {
                loaded.entry(name.clone()).or_insert(Kmod {
                    file: None,
                    build_id: Some("foreign".to_owned()),
                    needs: Vec::new(),
                    users: 0,
                    foreign: true,
                    instance: u64::MAX,
                });
            }),
            Act::Use(at, name, time) => {
                self.by_hand(at, name, |loaded, name| {
                    if let Some(kmod) = loaded.get_mut(name) {
                        kmod.users = 1;
                    }
                });
                self.acts_left += 1;
                self.after(time, Event::Act(Act::Unuse(at, name)));
            }
            Act::Unuse(at, name) => self.by_hand(at, name, |loaded, name| {
                if let Some(kmod) = loaded.get_mut(name) {
                    kmod.users = 0;
                }
            }),
            _ => {}
        }
    }

    fn switch_off(&mut self, at: usize, time: u64) {
        let Some(node) = self.nodes.get_mut(at).filter(|node| node.machine.is_some()) else { return };
        node.power_off();
        let boots = node.boots;
        self.after(GRACE, Event::Unreachable(at, boots));
        self.after(time, Event::Boot(at));
        self.prolong(time);
    }

    fn leave(&mut self, at: usize) {
        let Some(node) = self.nodes.get_mut(at) else { return };
        node.power_off();
        let name = node.name.clone();
        self.api.set_node(&name, None);
    }

    fn by_hand(
        &mut self,
        at: usize,
        name: &str,
        change: impl FnOnce(&mut BTreeMap<tenon_order::KmodName, Kmod>, &tenon_order::KmodName),
    ) {
        let machine = self.nodes.get(at).and_then(|node| node.machine.as_ref());
        if let (Some(machine), Ok(name)) = (machine, name.parse()) {
            machine.change_loaded(|loaded| change(loaded, &name));
        }
        self.works += 1;
    }

    /// The garbage collector notices what has lost its owner.
    pub(super) fn notice_garbage(&mut self) {
        if self.collected_at == self.api.writes {
            return;
        }
        self.collected_at = self.api.writes;
        for garbage in self.api.garbage() {
            if garbage.uid().is_some_and(|uid| self.noticed.insert(uid)) {
                let delay = self.rng.between(10, 2000) + self.latency();
                self.after(delay, Event::Collect(garbage));
            }
        }
    }
}
