//! Writes what an image told into a `ConfigMap`, and says where none told anything.

use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use kube::Api;
use kube::api::{Patch, PatchParams};
use tenon_api::kernel_facts::{ARCHITECTURE, BUILD_ID, IMAGE, RELEASE, SOURCE, name_for_image};
use tenon_api::labels::field_manager;

use super::observe::Kernel;
use super::read::{Missing, Told};
use crate::controllers::WriteError;
use crate::events::{Notice, Severity};
use crate::kernel_facts::object;
use crate::metrics::{Resource, Verb};
use crate::run::Context;
use crate::world::World;

/// The operator's own Deployment.
const DEPLOYMENT: &str = "tenon-operator";

/// Writes the kernel's `ConfigMap`. Not by force: what somebody else has put there stays.
pub(super) async fn keep(
    context: &Context,
    world: &World,
    kernel: &Kernel,
    told: &Told,
) -> Result<(), WriteError> {
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &context.args.namespace);
    let name = name_for_image(&kernel.release, &kernel.architecture);
    let patch = Patch::Apply(config_map(&name, kernel, told));
    let params = PatchParams::apply(field_manager::FACTS_IMAGES);
    let call = maps.patch(&name, &params, &patch);
    let written = context.writes.make(Resource::ConfigMap, Verb::Patch, call).await?;
    // Known at once: a watch that lags would have the image read again.
    world.wrote_facts(&name, &written.metadata);
    Ok(())
}

fn config_map(name: &str, kernel: &Kernel, told: &Told) -> ConfigMap {
    let Told { image, facts, build_id, source } = told;
    let annotations = [
        (RELEASE, kernel.release.clone()),
        (ARCHITECTURE, kernel.architecture.clone()),
        (SOURCE, source.to_string()),
        (IMAGE, image.clone()),
    ];
    let build = build_id.iter().map(|build_id| (BUILD_ID, build_id.clone()));
    object(name.to_owned(), annotations.into_iter().chain(build), facts.clone())
}

/// Says why no image told what a kernel is: an event of the operator's, whose flag it is.
pub(super) fn announce(context: &Context, kernel: &Kernel, missing: &Missing) {
    context.events.publish(Notice {
        regarding: ObjectReference {
            api_version: Some("apps/v1".to_owned()),
            kind: Some("Deployment".to_owned()),
            name: Some(DEPLOYMENT.to_owned()),
            namespace: Some(context.args.namespace.clone()),
            ..ObjectReference::default()
        },
        severity: Severity::Warning,
        reason: missing.reason,
        action: "ReadKernelFacts",
        note: format!("kernel {kernel}: {}", missing.message),
    });
}
