//! Modules at a glance, and the nodes of one of them: what is said of each, before it is a table.

use kube::ResourceExt as _;
use serde::Serialize;
use tenon_api::Module;
use tenon_api::module::{KernelPhase, KernelStatus};

use crate::seen::Seen;
use crate::standing::{self, NodeStanding, State};

/// One Module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ModuleRow {
    pub(super) namespace: String,
    pub(super) module: String,
    pub(super) state: State,
    pub(super) reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) message: String,
    /// Nodes that should have it.
    pub(super) nodes: i32,
    /// Nodes that have what it asks for now.
    pub(super) loaded: i32,
    /// Nodes that are without it because it is being changed there.
    pub(super) unavailable: i32,
    pub(super) kernels: Vec<KernelRow>,
}

/// One kernel of a Module's nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KernelRow {
    pub(super) kernel: String,
    pub(super) architecture: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) image: Option<String>,
    /// How far its image is, in a word.
    pub(super) phase: String,
    pub(super) state: State,
    pub(super) nodes: i32,
    pub(super) loaded: i32,
}

/// One node of a Module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeRow {
    pub(super) node: String,
    pub(super) kernel: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
    pub(super) state: State,
    pub(super) reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) message: String,
}

/// All Modules that were read, by name.
pub(super) fn modules(seen: &Seen) -> Vec<ModuleRow> {
    let mut rows: Vec<_> = seen.modules.iter().map(|module| row(seen, module)).collect();
    rows.sort_by(|one, other| (&one.namespace, &one.module).cmp(&(&other.namespace, &other.module)));
    rows
}

/// One of them.
pub(super) fn row(seen: &Seen, module: &Module) -> ModuleRow {
    let why = standing::of_module(module, seen.now);
    let status = module.status.clone().unwrap_or_default();
    let numbers = status.module_loader.unwrap_or_default();
    let rollout = status.rollout.unwrap_or_default();
    ModuleRow {
        namespace: module.namespace().unwrap_or_default(),
        module: module.name_any(),
        state: why.state,
        reason: why.reason,
        message: why.message,
        nodes: numbers.nodes_matching_selector_number,
        loaded: rollout.updated_number,
        unavailable: rollout.unavailable_number,
        kernels: status.kernels.iter().map(|kernel| kernel_row(seen, module, kernel)).collect(),
    }
}

fn kernel_row(seen: &Seen, module: &Module, status: &KernelStatus) -> KernelRow {
    let mut images = seen.images_of(module);
    let image = images.find(|image| {
        image.spec.kernel == status.kernel
            && image.spec.architecture == status.architecture
            && Some(&image.spec.image) == status.image.as_ref()
    });
    let reason = image.and_then(|image| image.status.as_ref()?.reason.clone());
    let (phase, state) = match status.phase {
        KernelPhase::Ready => ("Ready".to_owned(), State::Ready),
        KernelPhase::NoMapping => ("NoMapping".to_owned(), State::Trouble),
        KernelPhase::Failed => (reason.unwrap_or_else(|| "Failed".to_owned()), State::Trouble),
        KernelPhase::Waiting => {
            let reason = reason.unwrap_or_else(|| "Waiting".to_owned());
            let state =
                if reason == "Waiting" { State::Underway } else { standing::advice::on(&reason).state };
            (reason, state)
        }
    };
    KernelRow {
        kernel: status.kernel.clone(),
        architecture: status.architecture.clone(),
        image: status.image.clone(),
        phase,
        state,
        nodes: status.nodes,
        loaded: status.loaded,
    }
}

/// The nodes of a Module, by name.
pub(super) fn nodes(seen: &Seen, module: &Module) -> Vec<NodeRow> {
    standing::nodes_of(seen, module).0.into_iter().map(node_row).collect()
}

fn node_row(node: NodeStanding) -> NodeRow {
    NodeRow {
        node: node.node,
        kernel: node.kernel,
        image: node.image,
        version: node.version,
        state: node.why.state,
        reason: node.why.reason,
        message: node.why.message,
    }
}
