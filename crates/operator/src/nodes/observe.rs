//! Everything that counts for one node, out of the index.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tenon_api::Module;
use tenon_api::labels::{LabelKind, ModuleLabel};
use tenon_api::module_image::ModuleImage;
use tenon_api::node_modules_config::NodeModulesConfig;
use tenon_order::{KeyId, ModuleKey, NodeName, Order, read_unverified};
use tenon_plan::assign::{Candidate, Observed};
use tenon_plan::inspect::{self, Peer};
use tenon_plan::node::NodeFacts;
use tenon_plan::resolve::{ResolveError, Resolved, resolve};
use tenon_plan::rollout::Turn;
use tenon_plan::workload::PluginPod;
use tenon_plan::workload::claim::Users;

use crate::world::{ImageKey, Index, World};

/// One node, held on to while it is decided about.
#[derive(Debug)]
pub struct Node {
    /// The node.
    pub facts: Arc<NodeFacts>,
    /// Its object.
    pub config: Option<Arc<NodeModulesConfig>>,
    version: Option<u64>,
    order: Option<Order>,
    unproven: Option<Order>,
    candidates: Vec<Held>,
    now: u64,
}

#[derive(Debug)]
struct Held {
    key: ModuleKey,
    module: Option<Arc<Module>>,
    resolved: Option<Result<Resolved, ResolveError>>,
    image: Option<Arc<ModuleImage>>,
    undiscovered_for: Option<u64>,
    peers: Vec<Seen>,
    pods: Vec<PluginPod>,
    users: Users,
}

/// A node, and its object.
type Seen = (Arc<NodeFacts>, Option<Arc<NodeModulesConfig>>);

impl Node {
    /// `None` when the node is gone or is none that loads modules. `read_own` reads an order that bears one of our
    /// signatures.
    pub fn of(world: &World, name: &NodeName, read_own: impl Fn(&str) -> Option<Order>) -> Option<Self> {
        // Before the facts, so that these are never older: else a label would be set on a node that has changed since.
        let version = world.node_version(name);
        let index = world.read();
        let facts = index.node(name)?.clone();
        let config = index.config(name).cloned();
        let text = config.as_ref().and_then(|config| config.spec.order.as_deref());
        let order = text.and_then(read_own);
        let unproven = text.filter(|_| order.is_none()).and_then(|text| read_unverified(text).ok());
        let mut keys: BTreeSet<_> = index.modules_of(name).collect();
        keys.extend(unproven.iter().flat_map(|order| &order.modules).map(|module| &module.key));
        let candidates = keys.into_iter().map(|key| held(world, &index, key, &facts)).collect();
        let now = world.now();
        Some(Self { facts, config, version, order, unproven, candidates, now })
    }

    /// The same, as the decision takes it.
    pub fn view(&self) -> Observed<'_> {
        self.view_with(&BTreeMap::new())
    }

    /// The same, with the answers to what was asked for.
    pub fn view_with(&self, turns: &BTreeMap<ModuleKey, Turn>) -> Observed<'_> {
        Observed {
            node: &self.facts,
            config: self.config.as_deref(),
            order: self.order.clone(),
            unproven: self.unproven.as_ref(),
            modules: self.candidates.iter().map(|held| held.view(turns)).collect(),
            now: self.now,
        }
    }

    /// A Module that bears on the node.
    pub fn module(&self, key: &ModuleKey) -> Option<&Module> {
        self.candidates.iter().find(|held| held.key == *key)?.module.as_deref()
    }

    /// The Module whose ready label this is.
    pub fn module_of(&self, label: &str) -> Option<ModuleKey> {
        let is_its = |key: &&ModuleKey| LabelKind::Ready.key(key.namespace(), key.name()) == label;
        let known = self.candidates.iter().map(|held| &held.key).find(is_its).cloned();
        known.or_else(|| {
            let label = ModuleLabel::parse(label).filter(|label| label.kind == LabelKind::Ready)?;
            ModuleKey::new(&label.namespace, &label.name).ok()
        })
    }

    /// On which version of the Node these labels may be written; `None`: on any. What is taken away goes whatever has
    /// happened; what is set is true of the node as it was seen, and may not be any more when it has booted since.
    pub fn labels_version(&self, labels: &BTreeMap<String, Option<String>>) -> Option<u64> {
        self.version.filter(|_| labels.values().all(Option::is_some))
    }

    /// The version of the node's object.
    pub fn version(&self) -> Option<&str> {
        self.config.as_ref()?.metadata.resource_version.as_deref()
    }

    /// The keys that the node's loader knows.
    pub fn known_keys(&self) -> Vec<KeyId> {
        let status = self.config.as_ref().and_then(|config| config.status.as_ref());
        status.into_iter().flat_map(|status| &status.key_ids).filter_map(|id| id.parse().ok()).collect()
    }
}

impl Held {
    fn view(&self, turns: &BTreeMap<ModuleKey, Turn>) -> Candidate<'_> {
        Candidate {
            key: self.key.clone(),
            module: self.module.as_deref(),
            resolved: self.resolved.clone(),
            image: self.image.as_deref(),
            undiscovered_for: self.undiscovered_for,
            peers: self.peers.iter().map(|(node, config)| Peer { node, config: config.as_deref() }).collect(),
            turn: turns.get(&self.key).copied().unwrap_or_default(),
            pods: &self.pods,
            users: &self.users,
        }
    }
}

fn held(world: &World, index: &Index, key: &ModuleKey, facts: &NodeFacts) -> Held {
    let module = index.module(key).cloned();
    let image = ImageKey {
        namespace: key.namespace().to_owned(),
        name: ModuleImage::name_for(key.name(), facts.kernel.as_str(), &facts.architecture),
    };
    let image = index.image(&image).cloned();
    let warned = image.as_ref().is_some_and(|image| inspect::asks_for_peers(image));
    let peers = index.nodes_of(key).filter(|name| warned && **name != facts.name);
    Held {
        peers: peers
            .filter_map(|name| Some((index.node(name)?.clone(), index.config(name).cloned())))
            .collect(),
        users: module.as_ref().map_or(Users::Nobody, |module| world.users(&facts.name, module)),
        resolved: module.as_ref().map(|module| resolve(module, &facts.kernel)),
        module,
        image,
        undiscovered_for: index.undiscovered_for(key, &facts.name, world.steady()),
        pods: world.plugin_pods(&facts.name, key),
        key: key.clone(),
    }
}
