//! Where the module comes from: one image per kernel, chosen by the first mapping that fits.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{Build, Modprobe, Sign, Validation, rules};
use crate::serde_forms::{empty_is_absent, is_false};

/// How the module gets into the kernel.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ModuleLoader {
    /// The module's images and how it is loaded from them.
    pub container: ModuleContainer,

    /// Accepted for compatibility: no pod runs to load a module, so no account is used.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,

    /// What must be there after the load before a node counts as ready. Tenon's own field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::validation_paths_below_dev_or_sys())]
    #[x_kube(validation = rules::validation_paths_are_straight())]
    #[x_kube(validation = rules::validation_paths_can_be_seen())]
    #[x_kube(validation = rules::validation_paths_are_unique())]
    pub validation: Option<Validation>,
}

/// The module's images and how it is loaded from them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(validation = rules::image_somewhere())]
#[x_kube(validation = rules::one_in_tree_field())]
#[x_kube(validation = rules::in_tree_list_not_beside_mappings_single())]
#[x_kube(validation = rules::in_tree_single_not_beside_mappings_list())]
#[x_kube(validation = rules::container_signs_some_files())]
#[x_kube(validation = rules::container_signs_below_dir_name())]
#[x_kube(validation = rules::mappings_sign_some_files())]
#[x_kube(validation = rules::mappings_sign_below_dir_name())]
#[serde(rename_all = "camelCase")]
pub struct ModuleContainer {
    /// How to build images that do not exist, unless a mapping says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Build>,

    /// How to sign modules, unless a mapping says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign: Option<Sign>,

    /// Opts in to ordered upgrade: a node loads this version once its label
    /// `kmm.node.kubernetes.io/version-module.<namespace>.<name>` names it. It may be set and taken
    /// back at any time; nothing is unloaded by that alone.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::version_is_label_value())]
    pub version: Option<String>,

    /// The image for mappings that name none. May use template variables such as `${KERNEL_FULL_VERSION}`.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = rules::image_has_tag_or_digest())]
    pub container_image: Option<String>,

    /// Taken from manifests written for KMM, without effect: nodes pull no module images.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<String>,

    /// Which image goes with which kernel; the first that fits a node's kernel is taken.
    #[schemars(length(min = 1, max = 256))]
    pub kernel_mappings: Vec<KernelMapping>,

    /// What is loaded and how.
    #[x_kube(validation = rules::module_name_or_raw_args())]
    #[x_kube(validation = rules::raw_args_without_module_name())]
    #[x_kube(validation = rules::loading_order_has_two())]
    #[x_kube(validation = rules::loading_order_is_unique())]
    #[x_kube(validation = rules::loading_order_needs_module_name())]
    #[x_kube(validation = rules::loading_order_starts_with_module_name())]
    pub modprobe: Modprobe,

    /// How the image's registry is spoken to.
    #[serde(default, rename = "registryTLS", skip_serializing_if = "Option::is_none")]
    pub registry_tls: Option<RegistryTls>,

    /// Deprecated: use `inTreeModulesToRemove`.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    pub in_tree_module_to_remove: Option<String>,

    /// Modules of the kernel's own tree that are unloaded before this one is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_tree_modules_to_remove: Option<Vec<String>>,
}

/// The image for some kernels, and what is particular about them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(validation = rules::literal_or_regexp())]
#[x_kube(validation = rules::not_literal_and_regexp())]
#[x_kube(validation = rules::one_in_tree_field())]
#[serde(rename_all = "camelCase")]
pub struct KernelMapping {
    /// The kernel release that this mapping is for, exactly.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub literal: Option<String>,

    /// The kernel releases that this mapping is for: an RE2 expression, matched anywhere in the release.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = rules::regexp_compiles())]
    pub regexp: Option<String>,

    /// The image for these kernels; without it the container's. May use template variables.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = rules::image_has_tag_or_digest())]
    pub container_image: Option<String>,

    /// How to build the image if it does not exist; merged over the container's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Build>,

    /// How to sign the modules; merged over the container's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign: Option<Sign>,

    /// How the image's registry is spoken to; replaces the container's as a whole.
    #[serde(default, rename = "registryTLS", skip_serializing_if = "Option::is_none")]
    pub registry_tls: Option<RegistryTls>,

    /// Deprecated: use `inTreeModulesToRemove`.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    pub in_tree_module_to_remove: Option<String>,

    /// Modules of the kernel's own tree that are unloaded first; replaces the container's list, also when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_tree_modules_to_remove: Option<Vec<String>>,
}

/// How far a registry is trusted without proof.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct RegistryTls {
    /// Speak plain HTTP.
    #[serde(default, skip_serializing_if = "is_false")]
    pub insecure: bool,

    /// Accept any certificate.
    #[serde(default, rename = "insecureSkipTLSVerify", skip_serializing_if = "is_false")]
    pub insecure_skip_tls_verify: bool,
}
