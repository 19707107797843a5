//! What a node's object says now, and what a new wish would mean by it.

use std::collections::BTreeSet;

use tenon_api::labels::LabelKind;
use tenon_api::node_modules_config::{
    NodeModule, NodeModuleStatus, NodeModulesConfig, NodeModulesConfigStatus, Replaced,
};
use tenon_api::reasons;
use tenon_order::{Load, ModuleKey, Order, StoreId, Wish};

use super::order::load;
use super::{Observed, Waiting};
use crate::node::NodeFacts;
use crate::rollout::{self, Standing};

/// How far ahead of our clock, in milliseconds, a node's generation may be before a human must look at it.
pub(super) const MOST_AHEAD: u64 = 24 * 60 * 60 * 1000;

/// What it means for the node to be ordered something.
#[derive(Debug)]
pub(super) enum Change {
    /// Nothing: it is told so already.
    None,
    /// Nothing is taken from it.
    Free,
    /// It is without its driver already because of us, and stays counted.
    Counted(Replaced),
    /// Its driver is taken away.
    Disruptive(Replaced),
}

/// What the node's object says now.
pub(super) struct Assigned<'a> {
    pub(super) node: &'a NodeFacts,
    pub(super) config: Option<&'a NodeModulesConfig>,
    pub(super) status: Option<&'a NodeModulesConfigStatus>,
    order: Option<&'a Order>,
    now: u64,
}

impl<'a> Assigned<'a> {
    pub(super) fn of(observed: &'a Observed<'_>) -> Self {
        let config = observed.config;
        Self {
            node: observed.node,
            config,
            status: config.and_then(|config| config.status.as_ref()),
            order: observed.order.as_ref(),
            now: observed.now,
        }
    }

    pub(super) fn entry(&self, key: &ModuleKey) -> Option<&'a NodeModule> {
        let mut entries = self.config.into_iter().flat_map(|config| &config.spec.modules);
        entries.find(|entry| entry.namespace == key.namespace() && entry.name == key.name())
    }

    pub(super) fn reported(&self, key: &ModuleKey) -> Option<&'a NodeModuleStatus> {
        rollout::report(self.status, key.namespace(), key.name())
    }

    pub(super) fn statuses(&self) -> impl Iterator<Item = &'a NodeModuleStatus> + use<'a> {
        self.status.into_iter().flat_map(|status| &status.modules)
    }

    pub(super) fn store(&self) -> Option<StoreId> {
        self.status?.store_id.as_ref()?.parse().ok()
    }

    fn reported_generation(&self) -> u64 {
        let reported = self.status.and_then(|status| status.order_generation);
        reported.and_then(|generation| u64::try_from(generation).ok()).unwrap_or_default()
    }

    /// The order, if the node takes it. A node that holds a later one (etcd was restored), or has another store, does not.
    pub(super) fn in_force(&self) -> Option<&'a Order> {
        let reported = self.reported_generation();
        self.order.filter(|order| Some(order.store) == self.store() && order.generation.0 >= reported)
    }

    /// Whether what the node has reported of the Module may be taken for what is so: an order that the node has not answered
    /// may have been carried out meanwhile. A label that is there stays, as long as the order does not take the module away.
    pub(super) fn stays(&self, key: &ModuleKey) -> bool {
        let Some(order) = self.order else { return true };
        let label = LabelKind::Ready.key(key.namespace(), key.name());
        let is_answered = || self.in_force().is_none() || self.reported_generation() >= order.generation.0;
        order.wish(key) != Some(&Wish::Removed) && (self.node.labels.contains_key(&label) || is_answered())
    }

    /// Whether the node may have something of the Module by an order that is not proven ours, and has not said otherwise.
    pub(super) fn may_follow(&self, order: Option<&Order>, key: &ModuleKey) -> bool {
        let follows = |order: &&Order| {
            let is_answered = self.reported_generation() >= order.generation.0;
            self.store() == Some(order.store) && !is_answered
        };
        order.filter(follows).is_some_and(|order| order.wish(key).is_some())
    }

    /// What the order in force has the node load.
    pub(super) fn told(&self, key: &ModuleKey) -> Option<&'a Load> {
        match self.in_force()?.wish(key)? {
            Wish::Loaded(load) => Some(load),
            Wish::Removed => None,
        }
    }

    /// What it means for the node to be ordered `entry`.
    pub(super) fn change(&self, entry: &NodeModule, key: &ModuleKey) -> Change {
        if self.told(key).is_some_and(|told| load(entry, self.node).as_ref() == Some(told)) {
            return Change::None;
        }
        let present = self.entry(key);
        let order = self.next_generation();
        let standing =
            present.map_or(Standing::Free, |present| rollout::standing(present, self.status, self.node));
        if standing == Standing::Unavailable {
            let bundle = present.and_then(|present| present.replaces.as_ref()?.bundle.clone());
            return Change::Counted(Replaced { bundle, order });
        }
        let reported = self.reported(key);
        if rollout::takes_away(entry, reported, self.node) {
            let bundle = reported.and_then(|reported| reported.bundle.clone());
            return Change::Disruptive(Replaced { bundle, order });
        }
        Change::Free
    }

    /// The generation of the next order.
    pub(super) fn generation(&self) -> Result<u64, Waiting> {
        let reported = self.reported_generation();
        if reported > self.now + MOST_AHEAD {
            return Err(Waiting::new(
                reasons::GENERATION_AHEAD,
                format!(
                    "the node holds an order of generation {reported}, more than a day ahead of the clock; run `tenon-loader reset` in the node's loader container"
                ),
            ));
        }
        let last = self.order.map_or(0, |order| order.generation.0);
        Ok(reported.max(self.now).max(last) + 1)
    }

    /// The same, as the node's object says it.
    fn next_generation(&self) -> i64 {
        self.generation().ok().and_then(|generation| i64::try_from(generation).ok()).unwrap_or(i64::MAX)
    }

    /// Removals that the present order asks for and the node has not confirmed: it confirms by a report at that
    /// order's generation, or a later one, that does not name the module.
    pub(super) fn unconfirmed(&self, observed: &Observed<'_>) -> BTreeSet<ModuleKey> {
        let Some(order) = &observed.order else { return BTreeSet::new() };
        let acted_upon = self.reported_generation() >= order.generation.0;
        let same_store = self.store() == Some(order.store);
        let removals = order.modules.iter().filter(|module| module.wish == Wish::Removed);
        removals
            .map(|module| module.key.clone())
            // Another store never held the module.
            .filter(|key| same_store && (!acted_upon || self.reported(key).is_some()))
            .collect()
    }
}
