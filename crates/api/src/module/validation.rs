//! `spec.moduleLoader.validation`: what must be there after the load before the module counts as ready.
//!
//! The rules of its paths stand where a Module has it: a NodeModulesConfig repeats what was accepted there.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What must be there after the load before a node counts as ready. Until then the driver is loaded, and the node's label
/// `….ready` is withheld. What was there once may go again: that is reported and withdraws nothing.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Validation {
    /// Device nodes (`/dev/…`, by the names that the kernel gives them) and paths below `/sys`. All of them must be there.
    #[schemars(length(min = 1, max = 8), inner(length(max = 128)))]
    pub paths: Vec<String>,

    /// After how many seconds a path that is still missing is a failure; 60 where it is not set. A path that appears later
    /// ends the failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: Option<i32>,
}

impl Validation {
    /// After how many seconds a path that is missing is a failure, where the Module does not say.
    pub const DEFAULT_TIMEOUT: u64 = 60;

    /// After how many seconds a path that is missing is a failure.
    pub fn timeout(&self) -> u64 {
        let wished = self.timeout_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        wished.unwrap_or(Self::DEFAULT_TIMEOUT)
    }
}
