//! The claims that hold devices of DRA drivers for somebody. They are followed from when there is a Module with such a driver: a
//! cluster without one never asks for them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::StreamExt;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tenon_api::Module;
use tenon_order::{ModuleKey, NodeName};
use tenon_plan::rollout;
use tenon_plan::workload::claim::{InUse, Users};
use tenon_plan::workload::plan::{self, SetSeen};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Index, World, lock};

/// How long a watch may be silent before it is opened anew.
const WATCH_SECONDS: u32 = 290;

/// A namespaced object.
type Key = (String, String);

/// Those that are in use.
#[derive(Debug, Default)]
pub struct ClaimsIndex {
    /// Whether all that there were have been seen.
    is_listed: bool,
    claims: BTreeMap<Key, InUse>,
    on: HashMap<NodeName, BTreeSet<Key>>,
}

impl ClaimsIndex {
    /// The nodes for which it makes a difference.
    fn set(&mut self, key: &Key, claim: Option<InUse>) -> BTreeSet<NodeName> {
        let before = self.claims.get(key);
        if before == claim.as_ref() {
            return BTreeSet::new();
        }
        let nodes = [before, claim.as_ref()].into_iter().flatten().map(|claim| claim.node.clone()).collect();
        if let Some(before) = self.claims.remove(key)
            && let Some(keys) = self.on.get_mut(&before.node)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.on.remove(&before.node);
            }
        }
        if let Some(claim) = claim {
            self.on.entry(claim.node.clone()).or_default().insert(key.clone());
            self.claims.insert(key.clone(), claim);
        }
        nodes
    }

    fn users(&self, node: &NodeName, drivers: &BTreeSet<String>) -> Users {
        if drivers.is_empty() {
            return Users::Nobody;
        }
        if !self.is_listed {
            return Users::Unknown;
        }
        let keys = self.on.get(node).into_iter().flatten();
        Users::among(keys.filter_map(|key| self.claims.get(key)), drivers)
    }
}

impl World {
    /// Who uses devices of the Module's DRA driver on a node: of the one that it asks for, and of those that still run for it.
    pub fn users(&self, node: &NodeName, module: &Module) -> Users {
        let drivers = plan::drivers(module, &self.sets(module));
        lock(&self.claims).users(node, &drivers)
    }

    /// Whether somebody does on any node whose kubelet could end it.
    pub fn is_in_use(&self, key: &ModuleKey, module: &Module) -> bool {
        !self.in_use(key, module).is_empty()
    }

    /// Of the Module's DRA drivers those whose devices somebody uses on such a node, and who, in a sentence.
    pub fn in_use(&self, key: &ModuleKey, module: &Module) -> BTreeMap<String, String> {
        let drivers = plan::drivers(module, &self.sets(module));
        let nodes = self.read();
        let answers = |name: &&NodeName| nodes.node(name).is_some_and(|node| !rollout::is_silent(node));
        let of = |driver: String| {
            let only = BTreeSet::from([driver]);
            let claims = lock(&self.claims);
            let users = |node: &NodeName| Some((node.clone(), claims.users(node, &only).sentence()?));
            let used: BTreeMap<_, _> = nodes.nodes_of(key).filter(answers).filter_map(users).collect();
            let (node, sentence) = used.first_key_value()?;
            let others = match used.len() - 1 {
                0 => String::new(),
                others => format!(" (and {others} more)"),
            };
            Some((only.into_iter().next()?, format!("{node}{others}: {sentence}")))
        };
        drivers.into_iter().filter_map(of).collect()
    }

    /// The Module's `DaemonSet`s. As long as none was seen that has to do with DRA, nobody looks.
    fn sets(&self, module: &Module) -> Vec<SetSeen> {
        let key = Index::key_of(module).filter(|_| *self.has_dra.borrow());
        key.map(|key| self.sets_of(&key, module.metadata.uid.as_deref().unwrap_or_default()))
            .unwrap_or_default()
    }

    /// A `DaemonSet` of the Module runs a DRA driver, or another one, or does so no more: other claims count.
    pub(super) fn driver_changes(&self, module: &ModuleKey) {
        self.has_dra.send_if_modified(|has_dra| !std::mem::replace(has_dra, true));
        let nodes: Vec<_> = self.read().nodes_of(module).cloned().collect();
        for node in nodes {
            self.queues.nodes.add(node);
        }
    }

    /// A claim was seen, or is gone.
    pub fn claim(&self, namespace: &str, name: &str, claim: Option<InUse>) {
        let key = (namespace.to_owned(), name.to_owned());
        let nodes = lock(&self.claims).set(&key, claim);
        self.look_at_users_of(nodes);
    }

    /// All claims that there were have been seen.
    pub fn claims_listed(&self) {
        if !std::mem::replace(&mut lock(&self.claims).is_listed, true) {
            let nodes = self.read().nodes().map(|node| node.name.clone()).collect();
            self.look_at_users_of(nodes);
        }
    }

    /// Nodes on which somebody has begun or ceased to use devices.
    fn look_at_users_of(&self, nodes: BTreeSet<NodeName>) {
        let waiting: BTreeSet<_> = {
            let index = self.read();
            let waits = |key: &&ModuleKey| index.module(key).is_some_and(|module| self.waits(module));
            nodes.iter().flat_map(|node| index.modules_of(node)).filter(waits).cloned().collect()
        };
        for module in waiting {
            self.queues.workloads.add(module.clone());
            self.queues.modules.add(module);
        }
        for node in nodes {
            self.queues.nodes.add(node);
        }
    }

    /// Whether the Module, or a DRA driver that it does not ask for any more, goes when nobody uses its devices.
    fn waits(&self, module: &Module) -> bool {
        let sets = self.sets(module);
        let is_leaving = module.metadata.deletion_timestamp.is_some();
        is_leaving && !plan::drivers(module, &sets).is_empty()
            || sets.iter().any(|set| plan::is_former(module, set))
    }
}

/// Follows the claims, from when a Module has a DRA driver until `shutdown`.
pub async fn follow_claims(client: Client, world: &World, shutdown: CancellationToken) {
    let mut wanted = world.has_dra.subscribe();
    let Some(Ok(_)) = shutdown.run_until_cancelled(wanted.wait_for(|wanted| *wanted)).await else { return };
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let mut events = Box::pin(watcher(Api::<ResourceClaim>::all(client), config).default_backoff());
    let mut relisted: BTreeSet<Key> = BTreeSet::new();
    while let Some(Some(event)) = shutdown.run_until_cancelled(events.next()).await {
        match event {
            Ok(Event::Init) => relisted.clear(),
            Ok(Event::InitApply(claim)) => {
                relisted.insert((claim.namespace().unwrap_or_default(), claim.name_any()));
                see(world, &claim);
            }
            Ok(Event::InitDone) => {
                let known: Vec<Key> = lock(&world.claims).claims.keys().cloned().collect();
                for (namespace, name) in known.iter().filter(|key| !relisted.contains(*key)) {
                    world.claim(namespace, name, None);
                }
                world.claims_listed();
            }
            Ok(Event::Apply(claim)) => see(world, &claim),
            Ok(Event::Delete(claim)) => {
                world.claim(&claim.namespace().unwrap_or_default(), &claim.name_any(), None);
            }
            Err(watcher::Error::InitialListFailed(kube::Error::Api(status))) if status.is_not_found() => {
                debug!("the cluster has no such kind as ResourceClaim: nobody uses devices by one");
                world.claims_listed();
            }
            Err(error) => warn!(
                kind = "ResourceClaim",
                error = &error as &dyn std::error::Error,
                "a watch was interrupted; it is opened again"
            ),
        }
    }
}

fn see(world: &World, claim: &ResourceClaim) {
    world.claim(&claim.namespace().unwrap_or_default(), &claim.name_any(), InUse::of(claim));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::depot::Assignments;

    fn pine() -> NodeName {
        "pine".parse().unwrap()
    }

    fn module(spec: &Value) -> Module {
        serde_json::from_value(json!({
            "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module",
            "metadata": {"namespace": "lab", "name": "gauge"}, "spec": spec,
        }))
        .unwrap()
    }

    fn dra() -> Module {
        module(&json!({"selector": {}, "dra": {
            "driverName": "gauge.test", "container": {"image": "d"}, "deviceClasses": []
        }}))
    }

    fn used(driver: &str, node: &str) -> InUse {
        InUse {
            claim: "hall/c".to_owned(),
            node: node.parse().unwrap(),
            drivers: [driver.to_owned()].into(),
            user: "pod hall/x".to_owned(),
        }
    }

    #[test]
    fn before_all_claims_are_known_any_may_be_in_use_but_only_of_a_dra_driver() {
        let world = World::new(Assignments::default());
        assert_eq!(world.users(&pine(), &module(&json!({"selector": {}}))), Users::Nobody);
        assert_eq!(world.users(&pine(), &dra()), Users::Unknown);
        world.claims_listed();
        assert_eq!(world.users(&pine(), &dra()), Users::Nobody);
    }

    #[test]
    fn a_driver_counts_as_long_as_a_daemon_set_runs_it_whatever_the_module_asks_for() {
        let world = World::new(Assignments::default());
        world.claims_listed();
        world.claim("hall", "c", Some(used("gauge.test", "pine")));
        let mut plain = module(&json!({"selector": {}}));
        plain.metadata.uid = Some("m-1".to_owned());
        assert_eq!(world.users(&pine(), &plain), Users::Nobody);
        let set = serde_json::from_value(json!({"metadata": {
            "name": "gauge-dra", "namespace": "lab", "uid": "d-1",
            "labels": {"kmm.node.kubernetes.io/role": "dra"}, "annotations": {"tenon.dev/dra-driver": "gauge.test"},
            "ownerReferences": [{
                "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module", "name": "gauge", "uid": "m-1",
                "controller": true
            }],
        }}))
        .unwrap();
        world.set("lab", "gauge-dra", crate::world::KnownSet::of(&set));
        assert!(matches!(world.users(&pine(), &plain), Users::Known { others: 0, .. }));
        assert!(world.waits(&plain), "it is looked at when the claim is over");
        assert!(*world.has_dra.borrow(), "claims are followed for its sake");
        world.set("lab", "gauge-dra", None);
        assert_eq!(world.users(&pine(), &plain), Users::Nobody);
    }

    #[test]
    fn a_claim_counts_on_its_node_for_its_driver_until_nobody_has_it() {
        let world = World::new(Assignments::default());
        world.claims_listed();
        world.claim("hall", "c", Some(used("gauge.test", "pine")));
        assert!(world.queues.nodes.try_next().is_ok(), "the node is decided about");
        assert!(matches!(world.users(&pine(), &dra()), Users::Known { others: 0, .. }));
        assert_eq!(world.users(&"oak".parse().unwrap(), &dra()), Users::Nobody);
        world.claim("hall", "c", Some(used("meter.test", "pine")));
        assert_eq!(world.users(&pine(), &dra()), Users::Nobody);
        world.claim("hall", "c", Some(used("gauge.test", "oak")));
        assert!(matches!(world.users(&"oak".parse().unwrap(), &dra()), Users::Known { .. }));
        world.claim("hall", "c", None);
        assert_eq!(world.users(&"oak".parse().unwrap(), &dra()), Users::Nobody);
        assert!(lock(&world.claims).on.is_empty());
    }
}
