//! What runs plugins: the `DaemonSet` controller and the kubelets.
//!
//! The controller does what `k8s.io/kubernetes/pkg/controller/daemon` does with what counts here: it makes a pod where the node
//! selector fits and none is, not even one that is leaving; tells those to leave that fit no more, have failed, or are of a former
//! template (one at a time); and says whether it has looked. Taints are no matter: its pods tolerate a cordon and a silent node, and no
//! other taint is modelled. It sees nodes as they were some time ago. A kubelet looks at the node selector once more before it starts
//! a pod, and refuses one that does not fit (`lifecycle.PredicateAdmitHandler`).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use kube::ResourceExt as _;
use tenon_order::NodeName;
use tenon_plan::node::NodeFacts;

use super::{Event, Sim};
use crate::api::{Change, Kind};
use crate::pod::{self, Named, SimPod};

/// Nodes as they were.
type Nodes = BTreeMap<NodeName, Arc<NodeFacts>>;

impl Sim {
    /// The controller will look again, and kubelets hear of their pods.
    pub(super) fn spread_to_plugins(&mut self) {
        let head = self.api.head(Kind::Pod);
        for at in std::mem::replace(&mut self.pods_told, head)..head {
            let Some(Change::Pod(key, Some(pod))) = self.api.change(Kind::Pod, at) else { continue };
            let (key, is_leaving, is_new) = (key.clone(), pod.is_leaving, pod.made == at);
            if is_leaving || is_new {
                let delay = self.rng.between(20, 1500) + self.lag_of_kubelet();
                self.after(delay, Event::Pod(key));
            }
        }
        let has_any = !self.api.sets.is_empty() || !self.api.pods.is_empty();
        if self.daemons_look || self.daemons_at == self.api.writes || !has_any {
            return;
        }
        self.daemons_look = true;
        let nodes = self.api.nodes.clone();
        let (writes, delay) = (self.api.writes, self.lag_of_kubelet());
        self.after(delay, Event::Daemons(nodes, writes));
    }

    /// Mostly soon; sometimes long after.
    fn lag_of_kubelet(&mut self) -> u64 {
        if self.fault(50) { self.rng.between(500, 20_000) } else { self.latency() }
    }

    pub(super) fn daemons(&mut self, nodes: &Nodes, writes: u64) {
        self.daemons_look = false;
        self.daemons_at = writes;
        let sets: Vec<_> = self.api.sets.values().cloned().collect();
        for set in sets {
            self.daemon(&set, nodes);
        }
    }

    fn daemon(&mut self, set: &DaemonSet, nodes: &Nodes) {
        let selector = pod::selector(set);
        let uid = set.uid().unwrap_or_default();
        let (mut desired, mut current, mut misscheduled) = (0, 0, 0);
        let mut former = Vec::new();
        let mut is_whole = true;
        for (name, facts) in nodes {
            let here: Vec<_> = self.pods_on(name).filter(|pod| pod.owner == uid).cloned().collect();
            let fits = pod::fits(&selector, &facts.labels);
            desired += i32::from(fits);
            current += i32::from(fits && !here.is_empty());
            misscheduled += i32::from(!fits && !here.is_empty());
            if fits && here.is_empty() {
                self.api.make_pod(set, name);
            }
            is_whole &= !fits || here.iter().any(|pod| pod.is_ready && !pod.is_leaving);
            for pod in here.into_iter().filter(|pod| !pod.is_leaving) {
                if !fits || pod.has_failed {
                    self.api.change_pod(&pod.key, |pod| pod.is_leaving = true);
                } else if pod.wish != pod::wish(set) {
                    former.push(pod);
                }
            }
        }
        // One at a time may be away, and one that is not ready is no loss.
        for pod in former {
            if is_whole || !pod.is_ready {
                is_whole &= !pod.is_ready;
                self.api.change_pod(&pod.key, |pod| pod.is_leaving = true);
            }
        }
        let status = DaemonSetStatus {
            observed_generation: set.metadata.generation,
            desired_number_scheduled: desired,
            current_number_scheduled: current,
            number_misscheduled: misscheduled,
            ..DaemonSetStatus::default()
        };
        let key = (set.namespace().unwrap_or_default(), set.name_any());
        self.api.change_set(&key, |set| set.status = Some(status));
    }

    /// The pods on a node.
    pub(crate) fn pods_on<'a>(&'a self, node: &'a NodeName) -> impl Iterator<Item = &'a Arc<SimPod>> {
        self.api.pods.values().filter(move |pod| pod.node == *node)
    }

    /// The kubelet of a pod's node does what there is to do about it.
    pub(super) fn pod(&mut self, key: &Named) {
        let Some(pod) = self.api.pods.get(key).cloned() else { return };
        let is_up = self.nodes.iter().any(|node| node.name == pod.node && node.machine.is_some());
        if !is_up {
            return;
        }
        if pod.is_leaving {
            return self.api.end_pod(key);
        }
        let node = self.api.nodes.get(&pod.node);
        if node.is_some_and(|node| pod::fits(&pod.selector, &node.labels)) {
            self.api.change_pod(key, |pod| pod.is_ready = !pod.has_failed);
        } else {
            self.api.change_pod(key, |pod| pod.has_failed = true);
        }
    }

    /// A node has booted: what ran there is started anew.
    pub(super) fn restart_pods(&mut self, node: &NodeName) {
        self.unready_pods(node);
        let keys: Vec<_> = self.pods_on(node).map(|pod| pod.key.clone()).collect();
        for key in keys {
            let delay = self.rng.between(20, 1500) + self.latency();
            self.after(delay, Event::Pod(key));
        }
    }

    /// Nothing on the node is ready any more.
    pub(super) fn unready_pods(&mut self, node: &NodeName) {
        let keys: Vec<_> = self.pods_on(node).map(|pod| pod.key.clone()).collect();
        for key in keys {
            self.api.change_pod(&key, |pod| pod.is_ready = false);
        }
    }

    /// Somebody deletes the plugins' pods on a node.
    pub(super) fn kill_pods(&mut self, at: usize) {
        let Some(name) = self.nodes.get(at).map(|node| node.name.clone()) else { return };
        let keys: Vec<_> = self.pods_on(&name).map(|pod| pod.key.clone()).collect();
        for key in keys {
            self.api.change_pod(&key, |pod| pod.is_leaving = true);
        }
    }

    /// Somebody changes the plugins' `DaemonSet`s.
    pub(super) fn meddle(&mut self) {
        let keys: Vec<_> = self.api.sets.keys().cloned().collect();
        for key in keys {
            self.api.change_set(&key, |set| {
                let containers = set.spec.as_mut().and_then(|spec| spec.template.spec.as_mut());
                for container in containers.into_iter().flat_map(|pod| &mut pod.containers) {
                    container.image = Some("reg.test/meddled".to_owned());
                }
            });
        }
    }
}
