//! What became of a Module: KMM's numbers, and beside them why.
#![expect(clippy::struct_field_names, reason = "numbers are called what other programs call them")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::serde_forms::empty_is_absent;

/// The most kernels that a status lists.
pub const MAX_KERNELS: usize = 32;

/// The most failing nodes that a status lists.
pub const MAX_FAILURES: usize = 8;

/// What became of a Module.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ModuleStatus {
    /// The `metadata.generation` that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Ready`, `Degraded` and `Waiting`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// How far the module is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_loader: Option<RolloutNumbers>,

    /// How far a changed module is on the nodes that have it. Tenon's own field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,

    /// How far the device plugin is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_plugin: Option<RolloutNumbers>,

    /// How far the DRA driver is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dra: Option<RolloutNumbers>,

    /// The `imageRebuildTriggerGeneration` that was last acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_rebuild_trigger_generation: Option<i64>,

    /// The kernels of the selected nodes: those with trouble first, then by number of nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["kernel".into(), "architecture".into()]))]
    pub kernels: Vec<KernelStatus>,

    /// Some of the nodes on which the module does not load.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["node".into()]))]
    pub failures: Vec<NodeFailure>,
}

/// How many nodes should have something and how many do.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RolloutNumbers {
    /// Nodes that match the selector and whose taints are tolerated.
    #[serde(default)]
    pub nodes_matching_selector_number: i32,

    /// Nodes that were told to have it.
    #[serde(default)]
    pub desired_number: i32,

    /// Nodes that have it as wished.
    #[serde(default)]
    pub available_number: i32,
}

/// How far a changed module is.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// Nodes that have the present content loaded.
    pub updated_number: i32,

    /// Nodes that are without the module because it is being changed there, or because the change failed there.
    pub unavailable_number: i32,

    /// Nodes that keep their former content until it is their turn.
    pub waiting_number: i32,

    /// How many may be unavailable at a time.
    pub allowed_number: i32,
}

/// One kernel of the selected nodes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KernelStatus {
    /// The kernel release.
    pub kernel: String,

    /// The nodes' architecture, as Kubernetes names it (`amd64`).
    pub architecture: String,

    /// The image for it, with all variables replaced.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,

    /// How far its image is.
    pub phase: KernelPhase,

    /// Why the phase is not `Ready`, or why nodes lack the module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<crate::ShortMessage>,

    /// Whether the module will load there, as far as that can be computed; absent before there is an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction: Option<super::Predicted>,

    /// Selected nodes with this kernel.
    pub nodes: i32,

    /// Of these, those that have the module loaded as wished.
    pub loaded: i32,
}

/// How far a kernel's image is.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KernelPhase {
    /// The image is there and can be loaded from.
    Ready,
    /// Something is missing or under way; see the message.
    #[default]
    Waiting,
    /// It cannot become ready without a change; see the message.
    Failed,
    /// No mapping is for this kernel.
    NoMapping,
}

/// A node on which the module does not load.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeFailure {
    /// The node's name.
    pub node: String,

    /// Why, in a word; one of [`crate::reasons`].
    pub reason: String,

    /// Why, in the words of the node's kernel or loader.
    pub message: crate::ShortMessage,
}
