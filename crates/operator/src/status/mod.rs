//! One Module's status: numbers, conditions, kernels, failures.
//!
//! Watches: everything that bears on a Module, gathered over a fraction of a second. Decides:
//! [`tenon_plan::rollup`]. Writes: the status, when it says something else than before.

mod apply;
mod observe;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tenon_api::{Module, ModuleStatus, reasons};
use tenon_order::ModuleKey;
use tenon_plan::rollup;

use crate::controllers::{Done, Reconciler, WriteError};
use crate::events::{Notice, Severity};
use crate::metrics::Controller;
use crate::queue::Queue;
use crate::run::Context;
use crate::world::World;

pub use observe::Rollup;

/// The controller of one Module's status.
#[derive(Debug)]
pub struct Status;

impl Reconciler for Status {
    type Key = ModuleKey;
    type Error = WriteError;

    const CONTROLLER: Controller = Controller::Status;
    const CONCURRENCY: usize = 4;

    fn queue(world: &World) -> &Queue<ModuleKey> {
        &world.queues.status
    }

    async fn reconcile(&self, context: &Context, world: &World, key: ModuleKey) -> Result<Done, WriteError> {
        let Some(observed) = Rollup::of(&world.read(), &key) else {
            return Ok(Done::settled(false));
        };
        let status = rollup::status(&observed.view(world.now()));
        if observed.module.status.as_ref() == Some(&status) {
            return Ok(Done::settled(false));
        }
        let paused = newly_paused(observed.module.status.as_ref(), &status);
        apply::apply(context, world, &observed.module, status).await?;
        if let Some(note) = paused {
            announce(context, &observed.module, note);
        }
        Ok(Done::settled(true))
    }
}

/// Why a change was stopped, if it was not stopped before.
fn newly_paused(before: Option<&ModuleStatus>, after: &ModuleStatus) -> Option<String> {
    let message = |status: &ModuleStatus| {
        let paused = |condition: &&Condition| condition.type_ == reasons::condition::ROLLOUT_PAUSED;
        status.conditions.iter().find(paused).map(|condition| condition.message.clone())
    };
    message(after).filter(|_| before.and_then(message).is_none())
}

fn announce(context: &Context, module: &Module, note: String) {
    context.events.publish(Notice {
        regarding: ObjectReference {
            api_version: Some("kmm.sigs.x-k8s.io/v1beta1".to_owned()),
            kind: Some("Module".to_owned()),
            namespace: module.metadata.namespace.clone(),
            name: module.metadata.name.clone(),
            uid: module.metadata.uid.clone(),
            ..ObjectReference::default()
        },
        severity: Severity::Warning,
        reason: reasons::event::ROLLOUT_PAUSED,
        action: "RollOut",
        note,
    });
}
