//! Writes the status, and nothing else.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::core::Resource as _;
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tenon_api::node_modules_config::{NodeModulesConfig, NodeModulesConfigStatus};
use tokio::time::timeout;

/// The field manager of everything that an agent writes.
pub const MANAGER: &str = "tenon-agent";

/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// What became of a write.
#[derive(Debug)]
pub enum Outcome {
    /// Done; this is the object now.
    Written(Box<NodeModulesConfig>),
    /// The object is not the one that the status was computed from. This is what it is now; `None`: it is gone.
    Outdated(Option<Box<NodeModulesConfig>>),
}

/// Why a status was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The API server refused or did not answer.
    #[error("write the status of NodeModulesConfig {name}")]
    Write {
        /// The object.
        name: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not say what the object is now.
    #[error("read NodeModulesConfig {name}")]
    Read {
        /// The object.
        name: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server was silent.
    #[error("write the status of NodeModulesConfig {name}: no answer within {} s", PATIENCE.as_secs())]
    Silent {
        /// The object.
        name: String,
    },
}

/// Writes `status` to the very object that it was computed from.
pub async fn write(
    api: &Api<NodeModulesConfig>,
    object: &NodeModulesConfig,
    status: &NodeModulesConfigStatus,
) -> Result<Outcome, WriteError> {
    let name = object.name_any();
    match timeout(PATIENCE, patch(api, &name, object, status)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(WriteError::Silent { name }),
    }
}

async fn patch(
    api: &Api<NodeModulesConfig>,
    name: &str,
    object: &NodeModulesConfig,
    status: &NodeModulesConfigStatus,
) -> Result<Outcome, WriteError> {
    let body = json!({
        "apiVersion": NodeModulesConfig::api_version(&()),
        "kind": NodeModulesConfig::kind(&()),
        // Preconditions: an object made anew, or changed since, is another one.
        "metadata": {
            "name": name,
            "uid": object.metadata.uid,
            "resourceVersion": object.metadata.resource_version,
        },
        "status": status,
    });
    let params = PatchParams::apply(MANAGER).force();
    match api.patch_status(name, &params, &Patch::Apply(body)).await {
        Ok(written) => Ok(Outcome::Written(trim(written))),
        Err(kube::Error::Api(problem)) if problem.is_conflict() || problem.is_not_found() => {
            let current = api.get_opt(name).await;
            let current = current
                .map_err(|source| WriteError::Read { name: name.to_owned(), source: Box::new(source) })?;
            Ok(Outcome::Outdated(current.map(trim)))
        }
        Err(source) => Err(WriteError::Write { name: name.to_owned(), source: Box::new(source) }),
    }
}

fn trim(mut object: NodeModulesConfig) -> Box<NodeModulesConfig> {
    object.managed_fields_mut().clear();
    Box::new(object)
}
