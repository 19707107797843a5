//! Writes `MadeImage`s, and tells of them by events.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;
use tenon_api::labels::field_manager;
use tenon_api::{Guarded, MadeImage, MadeImageStatus, reasons};

use crate::client::readable;
use crate::controllers::WriteError;
use crate::events::{Notice, Severity};
use crate::metrics::{Resource, Verb};
use crate::run::Context;

const API_VERSION: &str = "tenon.dev/v1alpha1";
const KIND: &str = "MadeImage";

/// Makes the object, unless it is there.
pub(super) async fn remember(context: &Context, made: &MadeImage) -> Result<MadeImage, WriteError> {
    let params = PatchParams::apply(field_manager::MADE_IMAGES).force();
    let (api, name, patch) = (api(context, made), made.name_any(), Patch::Apply(made));
    let call = async { readable(api.patch(&name, &params, &patch).await?) };
    context.writes.make(Resource::MadeImage, Verb::Patch, call).await
}

/// Writes the status of this very object: a conflict where it is gone, or another.
pub(super) async fn tell(
    context: &Context,
    made: &MadeImage,
    status: MadeImageStatus,
) -> Result<MadeImage, WriteError> {
    let patch = Patch::Apply(json!({
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": { "name": made.name_any(), "uid": made.uid() },
        "status": status,
    }));
    let params = PatchParams::apply(field_manager::MADE_IMAGES).force();
    let (api, name) = (api(context, made), made.name_any());
    let call = async { readable(api.patch_status(&name, &params, &patch).await?) };
    context.writes.make(Resource::MadeImage, Verb::Patch, call).await
}

/// Deletes this very object, if it is there: a conflict where it is another.
pub(super) async fn forget(context: &Context, made: &MadeImage) -> Result<(), WriteError> {
    let same = Preconditions { uid: made.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
    let (api, name) = (api(context, made), made.name_any());
    let call = api.delete(&name, &params);
    match context.writes.make(Resource::MadeImage, Verb::Delete, call).await {
        Err(WriteError::Api(kube::Error::Api(status))) if status.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

/// Says that an image is gone.
pub(super) fn announce_deletion(context: &Context, made: &MadeImage) {
    let note = format!("nothing needed {}: {} is deleted", made.spec.image, made.spec.digest);
    announce(context, made, Severity::Normal, reasons::event::IMAGE_DELETED, note);
}

/// Says why an image cannot be deleted.
pub(super) fn announce_refusal(context: &Context, made: &MadeImage, reason: &'static str, why: &str) {
    let note = format!("nothing needs {}, and it cannot be deleted: {why}", made.spec.image);
    announce(context, made, Severity::Warning, reason, note);
}

fn announce(context: &Context, made: &MadeImage, severity: Severity, reason: &'static str, note: String) {
    context.events.publish(Notice {
        regarding: ObjectReference {
            api_version: Some(API_VERSION.to_owned()),
            kind: Some(KIND.to_owned()),
            name: made.metadata.name.clone(),
            namespace: made.metadata.namespace.clone(),
            uid: made.uid(),
            ..ObjectReference::default()
        },
        severity,
        reason,
        action: "CleanUp",
        note,
    });
}

fn api(context: &Context, made: &MadeImage) -> Api<Guarded<MadeImage>> {
    Api::namespaced(context.client.clone(), &made.namespace().unwrap_or_default())
}
