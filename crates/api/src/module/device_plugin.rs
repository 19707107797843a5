//! The device plugin that offers the module's devices to pods.

use k8s_openapi::api::core::v1::Volume;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{CommonContainer, rules};
use crate::serde_forms::empty_is_absent;

/// A device plugin, run by a `DaemonSet` on the nodes that have the module.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(validation = rules::no_probes_on_init_container())]
#[serde(rename_all = "camelCase")]
pub struct DevicePlugin {
    /// The plugin itself.
    pub container: CommonContainer,

    /// What runs before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_container: Option<CommonContainer>,

    /// The pods' service account.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,

    /// Volumes beside the kubelet's device plugin directory, which every plugin gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "rules::volumes")]
    pub volumes: Vec<Volume>,

    /// Whether the pods get their service account's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automount_service_account_token: Option<bool>,
}
