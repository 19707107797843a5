//! Writes a Module's status.

use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tenon_api::labels::field_manager;
use tenon_api::{Guarded, Module, ModuleStatus};

use crate::client::readable;
use crate::controllers::WriteError;
use crate::metrics::{Resource, Verb};
use crate::run::Context;
use crate::world::World;

/// Server-side apply of the whole status, to the Module that was summed up and no other of its name.
pub(super) async fn apply(
    context: &Context,
    world: &World,
    module: &Module,
    status: ModuleStatus,
) -> Result<(), WriteError> {
    let modules: Api<Guarded<Module>> =
        Api::namespaced(context.client.clone(), &module.namespace().unwrap_or_default());
    let name = module.name_any();
    let patch = json!({
        "apiVersion": "kmm.sigs.x-k8s.io/v1beta1",
        "kind": "Module",
        "metadata": { "name": name, "uid": module.uid() },
        "status": status,
    });
    let params = PatchParams::apply(field_manager::MODULES).force();
    let patch = Patch::Apply(patch);
    let call = async { readable(modules.patch_status(&name, &params, &patch).await?) };
    let written = context.writes.make(Resource::Module, Verb::Patch, call).await?;
    world.wrote_status(written);
    Ok(())
}
