//! `Module` (`kmm.sigs.x-k8s.io/v1beta1`): a user's wish that certain nodes have a kernel module.

mod build;
mod common_container;
mod device_plugin;
mod dra;
mod inspection;
mod loader;
mod modprobe;
mod rollout;
mod rules;
mod sign;
mod status;
mod validation;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LocalObjectReference, Toleration};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

pub use build::{Artifact, Build, BuildArg, BuildSource, ClaimSource, GitSource, ImageSource, KanikoParams};
pub use common_container::CommonContainer;
pub use device_plugin::DevicePlugin;
pub use dra::{Dra, DraDeviceClass};
pub use inspection::{Inspection, Predicted};
pub use loader::{KernelMapping, ModuleContainer, ModuleLoader, RegistryTls};
pub use modprobe::{Modprobe, ModprobeArgs};
pub use rollout::Rollout;
pub use sign::{Sign, SignatureHash};
pub use status::{
    KernelPhase, KernelStatus, MAX_FAILURES, MAX_KERNELS, ModuleStatus, NodeFailure, RolloutNumbers,
    RolloutStatus,
};
pub use validation::Validation;

/// What a Module asks for.
#[expect(clippy::duplicated_attributes, reason = "each printer column has a type of its own")]
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "kmm.sigs.x-k8s.io",
    version = "v1beta1",
    kind = "Module",
    plural = "modules",
    shortname = "kmod",
    category = "tenon",
    namespaced,
    status = "ModuleStatus",
    derive = "PartialEq",
    doc = "A kernel module from outside the kernel tree that the selected nodes should have loaded.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether every selected node has the module"
    ),
    printcolumn(
        name = "Loaded",
        type_ = "integer",
        json_path = ".status.moduleLoader.availableNumber",
        description = "Nodes that have it loaded as wished"
    ),
    printcolumn(
        name = "Desired",
        type_ = "integer",
        json_path = ".status.moduleLoader.desiredNumber",
        description = "Nodes that were told to load it"
    ),
    printcolumn(
        name = "Nodes",
        type_ = "integer",
        json_path = ".status.moduleLoader.nodesMatchingSelectorNumber",
        description = "Nodes that match the selector"
    ),
    printcolumn(
        name = "Updated",
        type_ = "integer",
        json_path = ".status.rollout.updatedNumber",
        description = "Nodes that have its present content",
        priority = 1
    ),
    printcolumn(
        name = "Unavailable",
        type_ = "integer",
        json_path = ".status.rollout.unavailableNumber",
        description = "Nodes that are without it because it is being changed",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is ready or not, in a word"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "Why it is ready or not, in a sentence",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = rules::not_device_plugin_and_dra())]
#[serde(rename_all = "camelCase")]
pub struct ModuleSpec {
    /// Labels that a node must have to be selected; with no label every node is.
    pub selector: BTreeMap<String, String>,

    /// How the module gets into the kernel. Without it only the device plugin or the DRA driver runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_loader: Option<ModuleLoader>,

    /// The device plugin that runs where the module is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_plugin: Option<DevicePlugin>,

    /// The DRA (dynamic resource allocation) driver that runs where the module is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dra: Option<Dra>,

    /// A Secret of type `kubernetes.io/dockerconfigjson` in the Module's namespace: credentials to pull all images
    /// that the Module names, and to push those that are built or signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_repo_secret: Option<LocalObjectReference>,

    /// Taints that the module, its build and its plugins tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "rules::tolerations")]
    pub tolerations: Vec<Toleration>,

    /// What a prediction is good for that a kernel will refuse the module: `Enforce` touches no node with that kernel,
    /// `Warn` goes on and says so. By default `Enforce` for the kernels of known distributions and `Warn` for others.
    /// Tenon's own field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inspection: Option<Inspection>,

    /// Any change of this number has all images looked at, and where needed built, again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_rebuild_trigger_generation: Option<i64>,

    /// How a changed module comes to the nodes that have it already. Tenon's own field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
}
