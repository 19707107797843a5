//! Writes the status, and nothing else.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::core::Resource as _;
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tenon_api::Guarded;
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
    api: &Api<Guarded<NodeModulesConfig>>,
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
    api: &Api<Guarded<NodeModulesConfig>>,
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
    let patch = Patch::Apply(body);
    let write = async { readable(api.patch_status(name, &params, &patch).await?) };
    match write.await {
        Ok(written) => Ok(Outcome::Written(written)),
        Err(kube::Error::Api(problem)) if problem.is_conflict() || problem.is_not_found() => {
            let read = async { api.get_opt(name).await?.map(readable).transpose() };
            let failed = |source| WriteError::Read { name: name.to_owned(), source: Box::new(source) };
            Ok(Outcome::Outdated(read.await.map_err(failed)?))
        }
        Err(source) => Err(WriteError::Write { name: name.to_owned(), source: Box::new(source) }),
    }
}

/// An object that cannot be read tells nothing of what became of it.
fn readable(object: Guarded<NodeModulesConfig>) -> Result<Box<NodeModulesConfig>, kube::Error> {
    object.object().map(Box::new).map_err(kube::Error::SerdeError)
}
