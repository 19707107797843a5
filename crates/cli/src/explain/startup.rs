//! The start-up taint of a node, which keeps pods away until its drivers are there: what it still waits for.

use k8s_openapi::api::core::v1::Node;
use tenon_api::labels::STARTUP_TAINT;
use tenon_plan::{node as plan_node, startup};

use super::apart;
use super::finding::Finding;
use crate::seen::{self, Seen};
use crate::standing::{self, State};

/// `None` where the node has no such taint.
pub(super) fn explain(seen: &Seen, node: &Node) -> Option<Finding> {
    let taints = node.spec.as_ref()?.taints.as_ref()?;
    let taint = taints.iter().find(|taint| taint.key == STARTUP_TAINT)?;
    let facts = waits_for(seen, node);
    let step = match (facts.is_empty(), seen.gaps.is_empty()) {
        (false, _) => None,
        (true, true) => Some(
            "the operator takes it away; if it stays, look at the operator: kubectl -n tenon-system logs deploy/tenon-operator",
        ),
        (true, false) => Some("it may wait for what could not be read"),
    };
    Some(Finding {
        about: format!("taint {}", apart::text(taint)),
        state: State::Underway,
        message: "pods that do not tolerate it stay away until the node's drivers are ready".to_owned(),
        facts,
        step: step.map(str::to_owned),
        ..Finding::default()
    })
}

/// What is to be or to go first.
fn waits_for(seen: &Seen, node: &Node) -> Vec<String> {
    let Some(facts) = seen::facts(node) else {
        return vec!["waits for the node's kubelet to say which kernel it runs".to_owned()];
    };
    let starting = plan_node::starting(&facts);
    let starting = starting.map(|taint| format!("waits for the taint {} to go", apart::text(taint)));
    let awaited = seen.modules.iter().filter(|module| startup::is_awaited(module, &facts));
    let modules = awaited.map(|module| {
        let (nodes, _) = standing::nodes_of(seen, module);
        let why = nodes.into_iter().find(|node| node.node == facts.name.as_ref()).map(|node| node.why);
        let why = why.filter(|why| why.state != State::Ready);
        // Loaded, but for the label that says so.
        let reason = why.map_or_else(|| "its label comes next".to_owned(), |why| why.reason);
        format!("waits for Module {}: {reason}", seen::key(module))
    });
    starting.chain(modules).collect()
}
