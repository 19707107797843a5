//! `spec.rollout`: how a changed module comes to the nodes that have it already.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// How a changed module comes to the nodes that have it already.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// On how many of the Module's nodes a change may take the module away at a time: a number, or a percentage of
    /// these nodes, rounded down, but never less than one. Without it 10%. First loads are not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "number_or_percentage")]
    pub max_unavailable: Option<IntOrString>,
}

/// None at all would be a rollout that never begins.
fn number_or_percentage(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "minimum": 1,
        "pattern": "^([1-9][0-9]?|100)%$",
    })
}
