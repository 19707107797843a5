//! What is loaded and how: the settings that users know from modprobe.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::serde_forms::empty_is_absent;

/// What is loaded and how. The Module's rules over these fields stand where the Module uses them, because a node's
/// object repeats the fields and needs no second check.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Modprobe {
    /// The module to load. Required unless `rawArgs` says everything.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub module_name: Option<String>,

    /// The module's parameters, each `name=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<String>,

    /// The directory in the image that holds `lib/modules/<kernel>`.
    #[serde(default = "default_dir_name")]
    #[schemars(length(max = 256))]
    pub dir_name: String,

    /// Further flags for modprobe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<ModprobeArgs>,

    /// All of modprobe's arguments, in place of those that Tenon would give. Excludes `moduleName`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw_args: Option<ModprobeArgs>,

    /// The directory in the image that holds firmware.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    pub firmware_path: Option<String>,

    /// Modules that need each other without their files saying so: each is loaded after the one that follows it, so
    /// the first, which is `moduleName`, is loaded last and unloaded first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 253)))]
    pub modules_loading_order: Vec<String>,

    /// A directory in the image with further `modprobe.d` files. Not read: a Module with it is `SpecInvalid`.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    pub modprobed_dir: Option<String>,
}

impl Default for Modprobe {
    fn default() -> Self {
        Self {
            module_name: None,
            parameters: Vec::new(),
            dir_name: default_dir_name(),
            args: None,
            raw_args: None,
            firmware_path: None,
            modules_loading_order: Vec::new(),
            modprobed_dir: None,
        }
    }
}

fn default_dir_name() -> String {
    "/opt".to_owned()
}

/// Arguments for loading and for unloading.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ModprobeArgs {
    /// Arguments for loading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub load: Option<Vec<String>>,

    /// Arguments for unloading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub unload: Option<Vec<String>>,
}
