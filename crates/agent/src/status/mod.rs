//! What a node's status should say. Pure: facts in, the whole status out.
//!
//! The status is computed as a whole and written only when [`differs`] says so; computing it again from its own result
//! changes nothing. A module that was removed is not listed: that it is gone while `orderGeneration` has reached the
//! order's is the confirmation.

mod entry;
mod ready;

use std::collections::BTreeMap;

use jiff::Timestamp;
use tenon_api::node_modules_config::{NodeModuleStatus, NodeModulesConfigSpec, NodeModulesConfigStatus};
use tenon_api::reasons::condition;
use tenon_order::wire::Refusal;
use tenon_order::{Digest, Generation, ModuleKey, NodeReport, Phase, read_unverified};

use crate::validation::{self, Validations};

/// Everything that a status is made of.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// What the operator wishes.
    pub spec: &'a NodeModulesConfigSpec,
    /// What the status says now.
    pub previous: &'a NodeModulesConfigStatus,
    /// What the loader said last; `None` before it said anything.
    pub report: Option<&'a NodeReport>,
    /// The running kernel's GNU build-id, where it shows one.
    pub build_id: Option<&'a str>,
    /// What stands between the order and the loader.
    pub obstacle: Option<&'a Obstacle>,
    /// Bundles that are not on the node yet, and what is to be said of that.
    pub bundles: &'a BTreeMap<Digest, String>,
    /// What was found of what must be there after loads.
    pub validations: &'a Validations,
    /// The time, for the condition's last transition.
    pub now: Timestamp,
}

/// What stands between the order and the loader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// The loader does not answer.
    Unreachable(String),
    /// The loader refused the order.
    Refused {
        /// Why.
        reason: Refusal,
        /// Why in the loader's words.
        message: String,
    },
    /// The loader has been at it for so long that people will ask.
    Working,
}

impl Facts<'_> {
    /// The place of the spec's order in the sequence; `None` without an order that can be read.
    fn ordered(&self) -> Option<Generation> {
        let order = self.spec.order.as_deref()?;
        read_unverified(order).ok().map(|order| order.generation)
    }

    /// Whether the loader holds exactly the spec's order.
    fn is_current(&self) -> bool {
        let held = self.report.and_then(|report| report.generation);
        held.is_some() && held == self.ordered()
    }
}

/// The status that these facts make.
pub fn compute(facts: &Facts<'_>) -> NodeModulesConfigStatus {
    let modules = modules(facts);
    let ready = ready::condition(facts, &modules);
    let Some(report) = facts.report else {
        // Nothing new is known, except that nothing is known.
        let mut same = facts.previous.clone();
        same.key_ids.sort();
        return NodeModulesConfigStatus { modules, conditions: vec![ready], ..same };
    };
    let mut key_ids: Vec<_> = report.key_ids.iter().map(ToString::to_string).collect();
    key_ids.sort();
    key_ids.dedup();
    NodeModulesConfigStatus {
        modules,
        conditions: vec![ready],
        store_id: Some(report.store.to_string()),
        boot_id: Some(report.boot_id.clone()),
        kernel_version: Some(report.kernel.clone()),
        kernel_build_id: facts.build_id.map(str::to_owned),
        order_generation: report
            .generation
            .map(|Generation(number)| i64::try_from(number).unwrap_or(i64::MAX)),
        key_ids,
    }
}

/// Whether `new` says anything that `old` does not. What others may have put beside it does not count.
pub fn differs(old: &NodeModulesConfigStatus, new: &NodeModulesConfigStatus) -> bool {
    let mut old = old.clone();
    old.conditions.retain(|known| known.type_ == condition::READY);
    sort(&mut old.modules);
    old.key_ids.sort();
    old != *new
}

/// Whether the operator has to learn this before it can sign an order that the loader accepts.
pub fn registration_differs(old: &NodeModulesConfigStatus, report: &NodeReport) -> bool {
    let known = |keys: &[String]| report.key_ids.iter().all(|key| keys.contains(&key.to_string()));
    old.store_id.as_deref() != Some(report.store.to_string().as_str())
        || old.boot_id.as_deref() != Some(report.boot_id.as_str())
        || old.kernel_version.as_deref() != Some(report.kernel.as_str())
        || !known(&old.key_ids)
}

fn modules(facts: &Facts<'_>) -> Vec<NodeModuleStatus> {
    let mut modules: Vec<_> = match facts.report {
        Some(report) => {
            let questions = validation::questions(facts.spec, report, &facts.previous.modules);
            let outcome =
                |key| validation::about(&questions, key).map(|question| facts.validations.outcome(question));
            let there = report.modules.iter().filter(|module| module.phase != Phase::Removed);
            let own = there.map(|module| entry::of(module, report, facts, outcome(&module.key)));
            own.chain(inherited(report, facts)).collect()
        }
        None => facts.previous.modules.clone(),
    };
    sort(&mut modules);
    modules
}

/// What KMM has said of this boot, of modules that the loader has not been told about yet. The operator goes by it for that long,
/// so that no label comes off while the node changes hands.
fn inherited<'f>(
    report: &'f NodeReport,
    facts: &'f Facts<'_>,
) -> impl Iterator<Item = NodeModuleStatus> + 'f {
    let order = facts.spec.order.as_deref().filter(|_| facts.is_current());
    let order = order.and_then(|order| read_unverified(order).ok());
    let is_open = move |entry: &&NodeModuleStatus| {
        let Ok(key) = ModuleKey::new(&entry.namespace, &entry.name) else { return false };
        let is_reported = report.modules.iter().any(|module| module.key == key);
        let is_wished = || {
            let mut wishes = facts.spec.modules.iter();
            wishes.any(|wish| wish.namespace == entry.namespace && wish.name == entry.name)
        };
        !is_reported && order.as_ref().is_none_or(|order| order.wish(&key).is_none() && is_wished())
    };
    let of_this_boot = |entry: &&NodeModuleStatus| {
        entry.is_kmms() && entry.boot_id.as_deref() == Some(report.boot_id.as_str())
    };
    facts.previous.modules.iter().filter(of_this_boot).filter(is_open).cloned()
}

fn sort(modules: &mut [NodeModuleStatus]) {
    modules.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
}

#[cfg(test)]
mod tests;
