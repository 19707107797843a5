//! The container of a device plugin or a DRA driver.

use k8s_openapi::api::core::v1::{EnvVar, Probe, ResourceRequirements, SecurityContext, VolumeMount};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::serde_forms::empty_is_absent;

/// A container of a device plugin's or a DRA driver's pod.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CommonContainer {
    /// The image.
    pub image: String,

    /// The command, in place of the image's entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,

    /// The command's arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,

    /// Environment variables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,

    /// When the image is pulled: `Always`, `IfNotPresent` or `Never`.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<String>,

    /// What it needs and what it may use at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Where the pod's volumes are seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["mountPath".into()]))]
    pub volume_mounts: Vec<VolumeMount>,

    /// Tells whether it has started. Not for init containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_probe: Option<Probe>,

    /// Tells whether it is alive. Not for init containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness_probe: Option<Probe>,

    /// Its privileges; without this it runs privileged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<SecurityContext>,
}
