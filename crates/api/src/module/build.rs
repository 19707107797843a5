//! How an image that does not exist is built.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::LocalObjectReference;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::RegistryTls;
use crate::serde_forms::empty_is_absent;

/// How an image that does not exist is built.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Build {
    /// A ConfigMap in the Module's namespace whose key `dockerfile` holds the Dockerfile.
    pub dockerfile_config_map: LocalObjectReference,

    /// Build arguments, beside those that every build gets (`KERNEL_VERSION`, `KERNEL_FULL_VERSION`, `MOD_NAME`,
    /// `MOD_NAMESPACE`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub build_args: Vec<BuildArg>,

    /// Secrets in the Module's namespace that the build may read, each below `/run/secrets/<name>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<LocalObjectReference>,

    /// How the registry of the base images is spoken to.
    #[serde(default, rename = "baseImageRegistryTLS", skip_serializing_if = "Option::is_none")]
    pub base_image_registry_tls: Option<RegistryTls>,

    /// Accepted for compatibility: Tenon does not build with kaniko.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kaniko_params: Option<KanikoParams>,

    /// Labels that a node must have to run the build.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
}

/// One build argument.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BuildArg {
    /// The argument's name.
    pub name: String,

    /// The argument's value.
    pub value: String,
}

/// Settings of kaniko, another project's builder.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct KanikoParams {
    /// The tag of its image.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}
