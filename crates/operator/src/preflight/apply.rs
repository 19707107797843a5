//! Writes a PreflightValidation's status.

use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tenon_api::labels::field_manager;
use tenon_api::{Guarded, PreflightValidation, PreflightValidationStatus};

use crate::client::readable;
use crate::controllers::WriteError;
use crate::metrics::{Resource, Verb};
use crate::run::Context;
use crate::world::World;

/// Server-side apply of the whole status, to the object that was looked at and no other of its name.
pub(super) async fn apply(
    context: &Context,
    world: &World,
    preflight: &PreflightValidation,
    status: PreflightValidationStatus,
) -> Result<(), WriteError> {
    let preflights: Api<Guarded<PreflightValidation>> = Api::all(context.client.clone());
    let name = preflight.name_any();
    let patch = json!({
        "apiVersion": "kmm.sigs.x-k8s.io/v1beta2",
        "kind": "PreflightValidation",
        "metadata": { "name": name, "uid": preflight.uid() },
        "status": status,
    });
    let params = PatchParams::apply(field_manager::MODULES).force();
    let patch = Patch::Apply(patch);
    let call = async { readable(preflights.patch_status(&name, &params, &patch).await?) };
    let written = context.writes.make(Resource::PreflightValidation, Verb::Patch, call).await?;
    world.wrote_preflight(written);
    Ok(())
}
