//! Events of what happened to modules on nodes: on the Node, and on the Module.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use tenon_api::node_modules_config::{NodeModuleStatus, NodeModulesConfigStatus};
use tenon_api::reasons::event;
use tenon_order::{ModuleKey, NodeName};
use tenon_plan::news::{self, Piece};

use super::apply::reference;
use super::observe::Node;
use crate::events::{Notice, Severity};
use crate::metrics::Stage;
use crate::run::Context;

/// What every node has said last. What it said before this process came to lead is no news.
#[derive(Debug, Default)]
pub(super) struct News(Mutex<HashMap<NodeName, NodeModulesConfigStatus>>);

impl News {
    /// Publishes what the node's report says that its last one did not.
    pub(super) fn tell(&self, context: &Context, node: &Node) {
        let status = node.config.as_ref().and_then(|config| config.status.as_ref());
        let name = node.facts.name.clone();
        let (before, after) = {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let before = known.get(&name).cloned();
            // A report that somebody deleted says nothing about the kernel; the agent writes it anew.
            let after = match (status, &before) {
                (None, Some(before)) => before.clone(),
                (status, _) => report(status),
            };
            known.insert(name, after.clone());
            (before, after)
        };
        let Some(before) = before.filter(|before| *before != after) else { return };
        for (module, why) in news::unloaded(&before, &after) {
            tell_of_kernel(context, node, &module, event::MODULE_UNLOADED, why);
        }
        for piece in news::pieces(&before, &after) {
            if piece.reason != event::MODULE_RELOADED {
                context.metrics.failed(Stage::Load, piece.reason);
            }
            publish(context, node, &piece);
        }
    }

    /// The node is gone.
    pub(super) fn forget(&self, name: &NodeName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

/// Of a report, what events are made of: so that little is kept.
fn report(status: Option<&NodeModulesConfigStatus>) -> NodeModulesConfigStatus {
    NodeModulesConfigStatus {
        modules: status.into_iter().flat_map(|status| &status.modules).map(essence).collect(),
        boot_id: status.and_then(|status| status.boot_id.clone()),
        ..NodeModulesConfigStatus::default()
    }
}

fn essence(module: &NodeModuleStatus) -> NodeModuleStatus {
    NodeModuleStatus {
        name: module.name.clone(),
        namespace: module.namespace.clone(),
        bundle: module.bundle.clone(),
        phase: module.phase,
        reason: module.reason.clone(),
        message: module.message.clone(),
        loaded_at: module.loaded_at.clone(),
        boot_id: module.boot_id.clone(),
        ..NodeModuleStatus::default()
    }
}

/// An event on the Node, in KMM's words and with its annotation: what is in its kernel now, or not any more.
pub(super) fn tell_of_kernel(
    context: &Context,
    node: &Node,
    module: &ModuleKey,
    reason: &'static str,
    why: Option<&str>,
) {
    let done = if reason == event::MODULE_LOADED { "loaded into" } else { "unloaded from" };
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    let text = format!("Module {module} {done} the kernel{why}");
    let notice =
        Notice { regarding: reference(node), severity: Severity::Normal, reason, action: "Load", note: text };
    context.events.publish_with(notice, [("module".to_owned(), module.to_string())].into());
}

fn publish(context: &Context, node: &Node, piece: &Piece) {
    let Piece { module, reason, message } = piece;
    let notice =
        |regarding, note| Notice { regarding, severity: Severity::Warning, reason, action: "Load", note };
    context.events.publish(notice(reference(node), format!("Module {module}: {message}")));
    if let Some(object) = node.module(module) {
        let regarding = ObjectReference {
            api_version: Some("kmm.sigs.x-k8s.io/v1beta1".to_owned()),
            kind: Some("Module".to_owned()),
            namespace: object.metadata.namespace.clone(),
            name: object.metadata.name.clone(),
            uid: object.metadata.uid.clone(),
            ..ObjectReference::default()
        };
        context.events.publish(notice(regarding, format!("node {}: {message}", node.facts.name)));
    }
}
