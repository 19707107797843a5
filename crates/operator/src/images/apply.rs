//! Writes an image's status, and tells of a new trouble by an event on the Module.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tenon_api::labels::field_manager;
use tenon_api::module::Predicted;
use tenon_api::module_image::{KernelVerdict, ModuleImageStatus};
use tenon_api::{Guarded, ModuleImage, reasons};
use tenon_plan::inspect::{self, verdict};
use tenon_plan::provision::{self, Finding, Look};
use tracing::info;

use super::make;
use super::pull::is_under_way;
use crate::client::readable;
use crate::controllers::WriteError;
use crate::events::{Annotations, Notice, Severity};
use crate::metrics::{Resource, Stage, Verb};
use crate::run::Context;
use crate::world::World;

/// The time as statuses hold it: whole seconds.
pub(super) fn now() -> Time {
    Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default())
}

/// Writes the status that follows from the look, if it differs; returns whether it did.
pub(super) async fn apply(
    context: &Context,
    world: &World,
    image: &ModuleImage,
    look: &Look,
    verdicts: Vec<KernelVerdict>,
) -> Result<bool, WriteError> {
    let now = now();
    let mut status = provision::status(image, look, &now);
    if matches!(look.finding, Finding::Packed { .. }) {
        status = verdict::report(image, status, verdicts, &now);
    }
    write_and_tell(context, world, image, &look.finding, &status).await
}

/// Writes that an image which was packed is not to be had again for a node that asks for it; returns whether that is news.
pub(super) async fn vanished(
    context: &Context,
    world: &World,
    image: &ModuleImage,
    finding: Finding,
) -> Result<bool, WriteError> {
    let known = image.status.as_ref();
    let look = Look {
        finding,
        making: known.and_then(|status| status.making.clone()),
        retry_at: known.and_then(|status| status.retry_at.clone()),
    };
    let status = provision::vanished(image, &look, &now());
    write_and_tell(context, world, image, &look.finding, &status).await
}

async fn write_and_tell(
    context: &Context,
    world: &World,
    image: &ModuleImage,
    finding: &Finding,
    status: &ModuleImageStatus,
) -> Result<bool, WriteError> {
    if !write(context, world, image, status).await? {
        return Ok(false);
    }
    match finding {
        Finding::Packed { image_digest, bundle } => {
            info!(
                image = image.spec.image,
                digest = image_digest,
                bundle = bundle.digest,
                bytes = bundle.size,
                "packed"
            );
            make::tell_made(context, image, image_digest);
        }
        Finding::Making { .. } => {}
        Finding::Missing { reason, message, .. } => {
            let known = image.status.as_ref().and_then(|status| status.reason.as_deref());
            if known != Some(*reason) {
                info!(image = image.spec.image, reason, message, "not to be had");
                // A failed Job is told of when it is noted.
                if status.making.is_none() && !is_under_way(reason) {
                    context.metrics.failed(Stage::Find, reason);
                    announce(context, image, reason, message);
                }
            }
        }
    }
    Ok(true)
}

/// Writes other verdicts on an image that is as it was; returns whether they differ.
pub(super) async fn judged(
    context: &Context,
    world: &World,
    image: &ModuleImage,
    verdicts: Vec<KernelVerdict>,
) -> Result<bool, WriteError> {
    let status = image.status.clone().unwrap_or_default();
    write(context, world, image, &verdict::report(image, status, verdicts, &now())).await
}

async fn write(
    context: &Context,
    world: &World,
    image: &ModuleImage,
    status: &ModuleImageStatus,
) -> Result<bool, WriteError> {
    if image.status.as_ref() == Some(status) {
        return Ok(false);
    }
    let images: Api<Guarded<ModuleImage>> =
        Api::namespaced(context.client.clone(), &image.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": "tenon.dev/v1alpha1",
        "kind": "ModuleImage",
        "metadata": { "name": image.name_any(), "uid": image.uid() },
        "status": status,
    });
    let params = PatchParams::apply(field_manager::IMAGES).force();
    let (name, patch) = (image.name_any(), Patch::Apply(patch));
    let call = async { readable(images.patch_status(&name, &params, &patch).await?) };
    let written = context.writes.make(Resource::ModuleImage, Verb::Patch, call).await?;
    world.wrote_image(written);
    announce_refusal(context, image, status);
    Ok(true)
}

/// Tells of a kernel that will refuse the driver, once for each that was not known before to do so.
fn announce_refusal(context: &Context, image: &ModuleImage, status: &ModuleImageStatus) {
    let known = image.status.as_ref().map(|status| status.verdicts.as_slice()).unwrap_or_default();
    let fails = |verdict: &&KernelVerdict| verdict.result == Predicted::Fails;
    let told = |verdict: &KernelVerdict| {
        known
            .iter()
            .filter(fails)
            .any(|old| (&old.build_id, &old.errno) == (&verdict.build_id, &verdict.errno))
    };
    if let Some(verdict) = status.verdicts.iter().filter(fails).find(|verdict| !told(verdict)) {
        announce(context, image, reasons::WILL_NOT_LOAD, &inspect::sentence(verdict));
    }
}

fn announce(context: &Context, image: &ModuleImage, reason: &'static str, message: &str) {
    tell(context, image, Severity::Warning, reason, format!("kernel {}: {message}", image.spec.kernel));
}

/// Tells of an image by an event on its Module.
pub(super) fn tell(
    context: &Context,
    image: &ModuleImage,
    severity: Severity,
    reason: &'static str,
    note: String,
) {
    let Some(module) = image.owner_references().iter().find(|owner| owner.kind == "Module") else { return };
    let notice = Notice {
        regarding: ObjectReference {
            api_version: Some(module.api_version.clone()),
            kind: Some(module.kind.clone()),
            name: Some(module.name.clone()),
            namespace: image.namespace(),
            uid: Some(module.uid.clone()),
            ..ObjectReference::default()
        },
        severity,
        reason,
        action: "Provision",
        note,
    };
    context.events.publish_with(notice, annotations(image));
}

/// What KMM's events tell programs: the kernel. Of a pod they tell as well; ours is its Job's, which is named.
fn annotations(image: &ModuleImage) -> Annotations {
    let mut annotations = Annotations::from([("kernel-version".to_owned(), image.spec.kernel.clone())]);
    let making = image.status.as_ref().and_then(|status| status.making.as_ref());
    annotations.extend(making.map(|making| ("job-name".to_owned(), making.job.clone())));
    annotations
}
