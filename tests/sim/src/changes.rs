//! S6: at most so many nodes of a Module are ordered to give up what they have.
//!
//! Counted off the server's objects by history, not by what the operator notes in them: a node is changing from the order
//! that names other content than it serves, until it has reported on that order or a later one that it has this content. A
//! node on which a bad driver has failed stays counted, so a rollout of one stops.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tenon_api::node_modules_config::{ModulePhase, NodeModuleStatus, NodeModulesConfig};
use tenon_order::{Load, ModuleKey, NodeName, Order, Wish};
use tenon_plan::node::NodeFacts;

use crate::invariants::LAG;
use crate::sim::Sim;

/// Nodes that are being changed, and the limits that users set.
#[derive(Debug, Default)]
pub struct Changes {
    changing: BTreeSet<(ModuleKey, NodeName)>,
    /// Nodes that were deleted in the midst of a change: one that comes back goes on with it, whoever is being changed by now.
    left: BTreeSet<(ModuleKey, NodeName)>,
    /// What each Module's limit was, and since when.
    limits: BTreeMap<ModuleKey, Vec<(u64, usize)>>,
}

impl Changes {
    /// How many nodes of the Module are being changed, or have failed to.
    pub fn count(&self, key: &ModuleKey) -> usize {
        self.changing.iter().filter(|(module, _)| module == key).count()
    }

    /// Whether this one is.
    pub fn has(&self, key: &ModuleKey, node: &NodeName) -> bool {
        self.changing.contains(&(key.clone(), node.clone()))
    }

    /// The Module's limit is this from now on.
    pub fn limit(&mut self, key: &ModuleKey, limit: usize, now: u64) {
        let limits = self.limits.entry(key.clone()).or_default();
        if limits.last().is_none_or(|(_, known)| *known != limit) {
            limits.push((now, limit));
        }
    }

    /// The limit as it is.
    pub fn allowed(&self, key: &ModuleKey) -> usize {
        self.limits.get(key).and_then(|limits| limits.last()).map_or(0, |(_, limit)| *limit)
    }

    /// The highest limit that somebody may still take for the present one.
    fn allowed_lately(&self, key: &ModuleKey, now: u64) -> usize {
        let limits = self.limits.get(key).map(Vec::as_slice).unwrap_or_default();
        let ended = |at: usize| limits.get(at + 1).is_some_and(|(end, _)| *end + LAG < now);
        let valid = limits.iter().enumerate().filter(|(at, _)| !ended(*at)).map(|(_, (_, limit))| *limit);
        valid.max().unwrap_or(0)
    }
}

/// On how many of these nodes a change may take the Module away at a time, as users read it.
pub fn limit(module: &tenon_api::Module, nodes: usize) -> usize {
    let wish = module.spec.rollout.as_ref().and_then(|rollout| rollout.max_unavailable.clone());
    let percent = |percent: usize| nodes * percent / 100;
    let limit = match wish.unwrap_or_else(|| IntOrString::String("10%".to_owned())) {
        IntOrString::Int(number) => usize::try_from(number).unwrap_or(0),
        IntOrString::String(text) => percent(text.trim_end_matches('%').parse().unwrap_or(0)),
    };
    limit.max(1)
}

/// Before a node's object is written by the operator.
pub fn before(sim: &mut Sim, config: &NodeModulesConfig) {
    let name = config.metadata.name.as_ref().and_then(|name| name.parse::<NodeName>().ok());
    let known = name.and_then(|name| sim.api.configs.get(&name));
    sim.ordered_before = known.and_then(|known| order_of(sim, known));
}

/// After a node's object was written by the operator.
pub fn ordered(sim: &mut Sim, config: &NodeModulesConfig) {
    let Some(name) = config.metadata.name.as_ref().and_then(|name| name.parse::<NodeName>().ok()) else {
        return;
    };
    let (Some(config), Some(facts)) =
        (sim.api.configs.get(&name).cloned(), sim.api.nodes.get(&name).cloned())
    else {
        return;
    };
    let order = order_of(sim, &config);
    for (key, _) in sim.script.keys.clone() {
        let wished = order.as_deref().and_then(|order| load(order, &key, &facts));
        let before = sim.ordered_before.as_deref().and_then(|order| order.wish(&key));
        if wished.is_some_and(|wished| before == Some(&Wish::Loaded(wished.clone()))) {
            continue;
        }
        let place = (key.clone(), name.clone());
        if !wished.is_some_and(|wished| gives_up(&config, &key, wished, &facts)) {
            continue;
        }
        let came_back = sim.changes.left.remove(&place);
        let is_new = sim.changes.changing.insert(place) && !came_back;
        let (count, allowed) = (sim.changes.count(&key), sim.changes.allowed_lately(&key, sim.now));
        if is_new && count > allowed && !sim.restored {
            let nodes: Vec<_> = sim.changes.changing.iter().map(|(_, node)| node.to_string()).collect();
            return sim
                .violated("S6", format!("{key} is being changed on {count} nodes of {allowed}: {nodes:?}"));
        }
    }
}

/// After a report, or when a node has changed: who is not being changed any more.
pub fn settle(sim: &mut Sim) {
    if sim.changes.changing.is_empty() {
        return;
    }
    let mut changing = std::mem::take(&mut sim.changes.changing);
    changing.retain(|(key, name)| {
        let (Some(config), Some(facts)) = (sim.api.configs.get(name), sim.api.nodes.get(name)) else {
            sim.changes.left.insert((key.clone(), name.clone()));
            return false;
        };
        let order = order_of(sim, config);
        let Some((order, wished)) =
            order.as_deref().and_then(|order| Some((order, load(order, key, facts)?)))
        else {
            return false;
        };
        let status = config.status.as_ref();
        let taken = status.and_then(|status| status.order_generation).unwrap_or_default();
        let has_it = reported(config, key).is_some_and(|reported| has(reported) && is_same(reported, wished));
        !has_it || i64::try_from(order.generation.0).is_ok_and(|generation| taken < generation)
    });
    sim.changes.changing = changing;
}

fn order_of(sim: &Sim, config: &NodeModulesConfig) -> Option<std::rc::Rc<Order>> {
    sim.seals.read(config.spec.order.as_deref()?)
}

/// What the order has the node load of the Module, if it is for the kernel that runs.
fn load<'o>(order: &'o Order, key: &ModuleKey, facts: &NodeFacts) -> Option<&'o Load> {
    match order.wish(key)? {
        Wish::Loaded(load) if load.kernel == facts.kernel.as_str() => Some(load),
        _ => None,
    }
}

fn reported<'c>(config: &'c NodeModulesConfig, key: &ModuleKey) -> Option<&'c NodeModuleStatus> {
    let mut modules = config.status.iter().flat_map(|status| &status.modules);
    modules.find(|entry| entry.namespace == key.namespace() && entry.name == key.name())
}

/// Whether the node has what it reports, or had it until something of its own took it: a power cut, say, after which it is not
/// tried at once.
fn has(reported: &NodeModuleStatus) -> bool {
    match reported.phase {
        Some(ModulePhase::Loaded) => true,
        // With its settings: it came up once.
        Some(ModulePhase::Failed) => reported.config.is_some(),
        _ => false,
    }
}

fn is_same(reported: &NodeModuleStatus, wished: &Load) -> bool {
    reported.bundle.as_ref().and_then(|bundle| bundle.parse().ok()) == Some(wished.bundle)
        && reported.parameters == wished.parameters
}

/// Whether the node serves, by its last word, another content than is wished, and would go on to after a boot.
fn gives_up(config: &NodeModulesConfig, key: &ModuleKey, wished: &Load, facts: &NodeFacts) -> bool {
    let Some(reported) = reported(config, key) else { return false };
    let for_this = reported.bundle.as_ref().and_then(|bundle| bundle.parse().ok());
    let for_this =
        for_this.and_then(crate::registry::by_digest).is_some_and(|b| b.kernel == facts.kernel.as_str());
    let serves = matches!(reported.phase, Some(ModulePhase::Loaded | ModulePhase::RolledBack))
        || reported.boot_id.as_deref() == Some(facts.boot_id.as_str());
    serves && for_this && !is_same(reported, wished)
}
