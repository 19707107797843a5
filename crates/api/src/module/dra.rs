//! The DRA driver (dynamic resource allocation) that offers the module's devices to pods.

use k8s_openapi::api::core::v1::Volume;
use k8s_openapi::api::resource::v1::{DeviceClassConfiguration, DeviceSelector};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{CommonContainer, rules};
use crate::serde_forms::empty_is_absent;

/// A DRA driver, run by a `DaemonSet` on the nodes that have the module. Needs Kubernetes 1.34.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(validation = rules::no_probes_on_init_container())]
#[serde(rename_all = "camelCase")]
pub struct Dra {
    /// The driver itself.
    pub container: CommonContainer,

    /// What runs before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_container: Option<CommonContainer>,

    /// The pods' service account.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,

    /// Volumes beside the kubelet's plugin directories, which every driver gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "rules::volumes")]
    pub volumes: Vec<Volume>,

    /// Whether the pods get their service account's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automount_service_account_token: Option<bool>,

    /// The driver's name, a DNS subdomain.
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::is_dns_subdomain())]
    pub driver_name: String,

    /// The device classes to create for the driver.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub device_classes: Vec<DraDeviceClass>,
}

/// A device class to create.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DraDeviceClass {
    /// Its name, a DNS subdomain.
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::is_dns_subdomain())]
    pub name: String,

    /// Which devices belong to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub selectors: Vec<DeviceSelector>,

    /// Settings that its devices get.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub config: Vec<DeviceClassConfiguration>,
}
