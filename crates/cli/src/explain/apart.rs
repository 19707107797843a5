//! Nodes that a Module's selector means and that do not get it all the same: for a taint, or for a label that a discovery tool has not
//! set. Either may be meant so; whoever wonders why nothing happens there is told.

use k8s_openapi::api::core::v1::Taint;
use tenon_api::Module;
use tenon_plan::node::{self, NodeFacts, Selection};

use super::finding::Finding;
use super::module::named;
use crate::seen::{self, Seen};

/// Groups of nodes that are told of.
const MOST_GROUPS: usize = 4;

/// The taint that a cordon sets (`k8s.io/api/core/v1`, `TaintNodeUnschedulable`).
const CORDON: &str = "node.kubernetes.io/unschedulable";
/// Taints of these come and go with what they stand for.
const SYSTEM: [&str; 2] = ["node.kubernetes.io/", "node.cloudprovider.kubernetes.io/"];

/// That a Module is kept from a node; `None` where it is not, or has no business there.
pub(super) fn of_node(module: &Module, facts: &NodeFacts) -> Option<Finding> {
    let message = reason(module, facts)?;
    let about = format!("Module {}", seen::key(module));
    Some(Finding { about, message, note: true, step: Some(way_out(module, facts)), ..Finding::default() })
}

/// The nodes that a Module is kept from, those together that it is kept from alike.
pub(super) fn groups(seen: &Seen, module: &Module) -> Vec<Finding> {
    let key = seen::key(module);
    let has_it = |name: &str| {
        let config = seen.configs.get(name);
        config.is_some_and(|config| {
            seen::entry(config, &key).is_some() || seen::reported(config, &key).is_some()
        })
    };
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for (name, node) in seen.nodes.iter().filter(|(name, _)| !has_it(name)) {
        let Some(reason) = seen::facts(node).and_then(|facts| reason(module, &facts)) else { continue };
        match groups.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, members)) => members.push(name),
            None => groups.push((reason, vec![name])),
        }
    }
    let left: usize = groups.iter().skip(MOST_GROUPS).map(|(_, nodes)| nodes.len()).sum();
    let mut findings: Vec<_> = groups
        .into_iter()
        .take(MOST_GROUPS)
        .map(|(message, nodes)| Finding { about: named(&nodes), message, note: true, ..Finding::default() })
        .collect();
    if let Some(last) = findings.last_mut().filter(|_| left > 0) {
        last.facts.push(format!("and {left} more nodes, for other taints or labels"));
    }
    findings
}

/// What keeps the Module from the node.
fn reason(module: &Module, facts: &NodeFacts) -> Option<String> {
    if module.metadata.deletion_timestamp.is_some() {
        return None;
    }
    match node::select(module, facts) {
        Selection::Tainted(_) => {
            let taints: Vec<_> = node::untolerated(module, facts).map(text).collect();
            let are = if taints.len() == 1 { "taint" } else { "taints" };
            let verb = if taints.len() == 1 { "is" } else { "are" };
            Some(format!(
                "selector matches; {are} {} {verb} not tolerated (spec.tolerations)",
                taints.join(", ")
            ))
        }
        Selection::Undiscovered => {
            let lacks =
                module.spec.selector.iter().filter(|(key, value)| facts.labels.get(*key) != Some(*value));
            let lacks: Vec<_> = lacks.map(|(key, value)| format!("{key}={value}")).collect();
            Some(format!(
                "selector matches but for {}, which a discovery tool sets: nothing comes before it does",
                lacks.join(", ")
            ))
        }
        Selection::Selected | Selection::Unselected | Selection::OtherVersion(_) | Selection::NoVersion => {
            None
        }
    }
}

/// What is to be done, if the Module is to be on the node.
fn way_out(module: &Module, facts: &NodeFacts) -> String {
    let node = &facts.name;
    let Some(taint) = node::untolerated(module, facts).next() else {
        return format!(
            "compare spec.selector with the node's labels: kubectl get node {node} --show-labels"
        );
    };
    if taint.key == CORDON {
        return format!("kubectl uncordon {node}");
    }
    if SYSTEM.iter().any(|system| taint.key.starts_with(system)) {
        return format!("mend what the taint {} stands for: kubectl describe node {node}", taint.key);
    }
    let key = seen::key(module);
    format!(
        "tolerate it in spec.tolerations of Module {key}, or take it away: kubectl taint node {node} {}:{}-",
        taint.key, taint.effect
    )
}

/// A taint, as kubectl writes it.
pub(super) fn text(taint: &Taint) -> String {
    let value = taint.value.as_deref().filter(|value| !value.is_empty());
    let value = value.map(|value| format!("={value}")).unwrap_or_default();
    format!("{}{value}:{}", taint.key, taint.effect)
}
