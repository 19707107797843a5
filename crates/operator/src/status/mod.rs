//! One Module's status: numbers, conditions, kernels, failures.
//!
//! Watches: everything that bears on a Module, gathered over a fraction of a second. Decides:
//! [`tenon_plan::rollup`]. Writes: the status, when it says something else than before.

mod apply;
mod observe;

use tenon_order::ModuleKey;
use tenon_plan::rollup;

use crate::controllers::{Done, Reconciler, WriteError};
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
        apply::apply(context, &observed.module, status).await?;
        Ok(Done::settled(true))
    }
}
