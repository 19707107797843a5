//! The label on namespaces that hold Modules, as KMM sets it: an admission policy of the API server's refuses to delete
//! a namespace that bears it, because its drivers would be taken from nodes with it.
//!
//! A namespace is read once, and written when it gets its first Module and when it loses its last. It is labelled before
//! a Module gets its finalizer, and the label goes before the last finalizer does: so a crash between two writes leaves
//! none behind.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tenon_api::labels::{CONTAINS_MODULES, field_manager};
use tenon_order::ModuleKey;
use tracing::{info, warn};

use crate::controllers::WriteError;
use crate::metrics::{Resource, Verb};
use crate::run::Context;
use crate::world::World;

/// What is known of the namespaces: whether they bear the label.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// One lock each: two Modules that come and go at once must not undo each other's label.
    known: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Option<bool>>>>>,
}

impl Namespaces {
    fn of(&self, namespace: &str) -> Arc<tokio::sync::Mutex<Option<bool>>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(namespace.to_owned()).or_default().clone()
    }

    /// There is a Module in the namespace. Returns whether something was written.
    pub(super) async fn mark(&self, context: &Context, namespace: &str) -> Result<bool, WriteError> {
        let labelled = self.of(namespace);
        let mut labelled = labelled.lock().await;
        if *labelled == Some(true) {
            return Ok(false);
        }
        bearable(namespace, set(context, namespace, true, &mut labelled).await)
    }

    /// This Module goes, or is gone. Returns whether something was written.
    pub(super) async fn unmark_after(
        &self,
        context: &Context,
        world: &World,
        key: &ModuleKey,
    ) -> Result<bool, WriteError> {
        let namespace = key.namespace();
        let labelled = self.of(namespace);
        let mut labelled = labelled.lock().await;
        if *labelled == Some(false) || has_others(world, key) {
            return Ok(false);
        }
        bearable(namespace, set(context, namespace, false, &mut labelled).await)
    }
}

/// Whether another Module is to stay in the namespace.
fn has_others(world: &World, key: &ModuleKey) -> bool {
    let index = world.read();
    index.modules().map(|module| &module.metadata).any(|other| {
        other.namespace.as_deref() == Some(key.namespace())
            && other.name.as_deref() != Some(key.name())
            && other.deletion_timestamp.is_none()
    })
}

/// The label is a guard, not a condition: where it cannot be had, drivers are loaded all the same, and a Module goes.
fn bearable(namespace: &str, written: Result<bool, WriteError>) -> Result<bool, WriteError> {
    match written {
        Err(WriteError::Api(kube::Error::Api(status))) if matches!(status.code, 400 | 403 | 405 | 422) => {
            warn!(namespace, reason = status.message, "the namespace's label is not changed");
            Ok(false)
        }
        other => other,
    }
}

async fn set(
    context: &Context,
    namespace: &str,
    present: bool,
    labelled: &mut Option<bool>,
) -> Result<bool, WriteError> {
    let namespaces: Api<Namespace> = Api::all(context.client.clone());
    let Some(known) = namespaces.get_metadata_opt(namespace).await? else {
        // Its objects are on their way out of what is known, too.
        return Ok(false);
    };
    let is = known
        .metadata
        .labels
        .iter()
        .flatten()
        .any(|(key, value)| key == CONTAINS_MODULES && value.is_empty());
    let is_going = known.metadata.deletion_timestamp.is_some();
    if is == present || (present && is_going) {
        *labelled = Some(is);
        return Ok(false);
    }
    let patch = json!({"metadata": {
        "uid": known.metadata.uid,
        "labels": {CONTAINS_MODULES: present.then_some("")},
    }});
    let params =
        PatchParams { field_manager: Some(field_manager::MODULES.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(&patch);
    let call = namespaces.patch_metadata(namespace, &params, &patch);
    context.writes.make(Resource::Namespace, Verb::Patch, call).await?;
    *labelled = Some(present);
    info!(namespace, present, "the namespace's label says whether it has Modules");
    Ok(true)
}
