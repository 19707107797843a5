//! `PreflightValidation` (`kmm.sigs.x-k8s.io`): will the drivers be there on a kernel that no node runs yet?
//!
//! KMM has two versions of this kind, and a webhook that converts between them. Here both are served with one schema, and
//! the operator writes the status in either form: see `docs/decisions/two-versions-without-conversion.md`.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::{Reason, Rule};
use kube::{CustomResource, CustomResourceExt as _, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ShortMessage;
use crate::module::Predicted;
use crate::module_image::VerdictReason;
use crate::serde_forms::{empty_is_absent, is_false};

/// The version that KMM deprecates.
const OLD_VERSION: &str = "v1beta1";

/// Which kernel.
#[expect(clippy::duplicated_attributes, reason = "each printer column has a type of its own")]
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[kube(
    group = "kmm.sigs.x-k8s.io",
    version = "v1beta2",
    kind = "PreflightValidation",
    plural = "preflightvalidations",
    shortname = "pfv",
    category = "tenon",
    status = "PreflightValidationStatus",
    derive = "PartialEq",
    doc = "Whether every Module's driver will be there on a kernel that no node needs to run. No node is touched.",
    printcolumn(name = "Kernel", type_ = "string", json_path = ".spec.kernelVersion"),
    printcolumn(
        name = "Result",
        type_ = "string",
        json_path = ".status.result",
        description = "Whether all drivers will be there"
    ),
    printcolumn(
        name = "Modules",
        type_ = "integer",
        json_path = ".status.total",
        description = "Modules that are looked at"
    ),
    printcolumn(
        name = "Failed",
        type_ = "integer",
        json_path = ".status.failed",
        description = "Modules whose driver would be lost"
    ),
    printcolumn(
        name = "Unpredicted",
        type_ = "integer",
        json_path = ".status.unpredicted",
        description = "Modules whose image exists, and nobody knows whether the kernel will load it"
    ),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PreflightValidationSpec {
    /// The kernel, as `uname -r` names it.
    #[schemars(length(max = 64))]
    #[x_kube(validation = is_not_empty())]
    #[x_kube(validation = has_three_parts())]
    #[x_kube(validation = is_a_release())]
    pub kernel_version: String,

    /// Whether images that do not exist, and are built and signed as they would be for a node with this kernel, are pushed under
    /// the names that the Modules give them. If not, nothing is written to a registry, and what is in them is not inspected.
    #[serde(default, skip_serializing_if = "is_false")]
    pub push_built_image: bool,

    /// Tenon's: for which architecture, as Kubernetes names it (`amd64`). Without it, the one that the kernel's name ends in; or
    /// those of the nodes that each Module selects.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub architecture: Option<String>,
}

fn rule(expression: &str, message: &str) -> Rule {
    Rule::new(expression).message(message).reason(Reason::FieldValueInvalid)
}

fn is_not_empty() -> Rule {
    Rule::new("self != ''")
        .message("kernelVersion must be set: the kernel as uname -r names it")
        .reason(Reason::FieldValueRequired)
}

/// KMM's rule, in its own alphabet.
fn has_three_parts() -> Rule {
    rule(
        "self == '' || self.replace(',', '.').replace('-', '.').split('.').size() >= 3",
        "kernelVersion must have at least three parts between '.', ',' and '-', as 6.1.0-57-amd64 has: give what uname -r prints",
    )
}

fn is_a_release() -> Rule {
    rule(
        "self == '' || self.matches('^[!-.0-~]+$')",
        "kernelVersion must be what uname -r prints: no space, no '/', nothing but ASCII",
    )
}

/// What is known of the drivers, for programs of either version.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PreflightValidationStatus {
    /// Tenon's: of all Modules together, the worst.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<VerificationStatus>,

    /// Tenon's: the result in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<ShortMessage>,

    /// Tenon's: the `metadata.generation` of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Tenon's: how many Modules there are.
    #[serde(default)]
    pub total: i32,

    /// Tenon's: how many of them fail.
    #[serde(default)]
    pub failed: i32,

    /// Tenon's: how many are not decided yet.
    #[serde(default)]
    pub in_progress: i32,

    /// Tenon's: how many succeed because their image exists, while nobody knows whether the kernel will load it.
    #[serde(default)]
    pub unpredicted: i32,

    /// Each Module, as programs of `v1beta2` read it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["namespace".into(), "name".into()]))]
    pub modules: Vec<PreflightModule>,

    /// The same as programs of `v1beta1` read it, by `namespace/name`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cr_statuses: BTreeMap<String, CrStatus>,
}

/// One Module, as `v1beta2` tells it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PreflightModule {
    /// The Module's name.
    pub name: String,

    /// Its namespace.
    pub namespace: String,

    /// How it stands.
    pub verification_status: VerificationStatus,

    /// How far that is known.
    pub verification_stage: VerificationStage,

    /// Why: KMM's words, then what there is to say beyond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<ShortMessage>,

    /// When status or stage have changed last.
    pub last_transition_time: Time,

    /// Tenon's: why, in a word; one of [`crate::reasons`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,

    /// Tenon's: the image that the Module names for this kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,

    /// Tenon's: the architecture that this is about; of several the worst.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,

    /// Tenon's: whether the kernel will load what is in the image; absent where there is nothing to predict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<Predicted>,

    /// Tenon's: why that is predicted, the most telling first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub verdict: Vec<VerdictReason>,
}

/// How a Module stands.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VerificationStatus {
    /// The driver will be there.
    Success,
    /// That is not decided yet.
    InProgress,
    /// It will not, as things are.
    Failure,
}

/// How far that is known.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VerificationStage {
    /// The image is being looked for, or made.
    Image,
    /// It is known.
    Done,
}

/// One Module, as `v1beta1` tells it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CrStatus {
    /// Whether the driver will be there.
    pub verification_status: OldStatus,

    /// How far that is known.
    pub verification_stage: OldStage,

    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<ShortMessage>,

    /// When status or stage have changed last.
    pub last_transition_time: Time,
}

/// Whether the driver will be there, in the words of `v1beta1`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OldStatus {
    /// It will.
    True,
    /// It will not, or that is not known yet.
    False,
}

/// How far that is known, in the words of `v1beta1`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OldStage {
    /// The image is being looked for.
    Image,
    /// It is being built.
    Build,
    /// Its modules are being signed.
    Sign,
    /// It is not there as things are; it is looked at again by itself.
    Requeued,
    /// It is there.
    Done,
}

/// The definition, with both versions.
pub(crate) fn definition() -> CustomResourceDefinition {
    let mut definition = PreflightValidation::crd();
    let old = definition.spec.versions.first().cloned().map(|mut version| {
        OLD_VERSION.clone_into(&mut version.name);
        version.storage = false;
        version.deprecated = Some(true);
        version.deprecation_warning = Some(
            "kmm.sigs.x-k8s.io/v1beta1 PreflightValidation is deprecated; use v1beta2 and read status.modules"
                .to_owned(),
        );
        version
    });
    definition.spec.versions.extend(old);
    definition
}

impl PreflightModule {
    /// The same for programs of `v1beta1`.
    pub fn old(&self) -> CrStatus {
        let (verification_status, verification_stage) = match self.verification_status {
            VerificationStatus::Success => (OldStatus::True, OldStage::Done),
            VerificationStatus::Failure => (OldStatus::False, OldStage::Requeued),
            VerificationStatus::InProgress => (
                OldStatus::False,
                match self.reason.as_deref() {
                    Some(crate::reasons::BUILDING) => OldStage::Build,
                    Some(crate::reasons::SIGNING) => OldStage::Sign,
                    _ => OldStage::Image,
                },
            ),
        };
        CrStatus {
            verification_status,
            verification_stage,
            status_reason: self.status_reason.clone(),
            last_transition_time: self.last_transition_time.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_served_with_one_schema_and_one_is_stored() {
        let versions = definition().spec.versions;
        let named: Vec<_> = versions
            .iter()
            .map(|version| {
                (version.name.as_str(), version.served, version.storage, version.deprecated == Some(true))
            })
            .collect();
        assert_eq!(named, [("v1beta2", true, true, false), ("v1beta1", true, false, true)]);
        let [new, old] = versions.as_slice() else { unreachable!("two versions") };
        assert_eq!(new.schema, old.schema);
        assert_eq!(new.subresources, old.subresources);
    }
}
