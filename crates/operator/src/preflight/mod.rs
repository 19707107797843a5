//! One PreflightValidation's status.
//!
//! Watches: PreflightValidations, and the Modules and images that they are about. Decides: [`tenon_plan::preflight`]. Writes:
//! the status, when it says something else than before. The images themselves are the business of
//! [`modules`](crate::modules), to which a preflight is one more reason to want one; a Node or its object is read and written by
//! nothing here.

mod apply;
mod observe;

use tenon_plan::preflight;

use crate::controllers::{Done, Reconciler, WriteError};
use crate::metrics::Controller;
use crate::queue::Queue;
use crate::run::Context;
use crate::world::World;

pub use observe::{Preflight, wants};

/// How many there are, for the metrics.
pub fn count(context: &Context, world: &World) {
    let count = world.read().preflights().count();
    context.metrics.kmm.preflights.set(i64::try_from(count).unwrap_or(i64::MAX));
}

/// The controller of one PreflightValidation's status.
#[derive(Debug)]
pub struct Preflights;

impl Reconciler for Preflights {
    type Key = String;
    type Error = WriteError;

    const CONTROLLER: Controller = Controller::Preflights;
    const CONCURRENCY: usize = 1;

    fn queue(world: &World) -> &Queue<String> {
        &world.queues.preflights
    }

    async fn reconcile(&self, context: &Context, world: &World, key: String) -> Result<Done, WriteError> {
        count(context, world);
        let Some(observed) = Preflight::of(&world.read(), &key) else {
            return Ok(Done::settled(false));
        };
        let status = preflight::status(&observed.preflight, &observed.views(), &observe::time(world.now()));
        if observed.preflight.status.as_ref() == Some(&status) {
            return Ok(Done::settled(false));
        }
        apply::apply(context, world, &observed.preflight, status).await?;
        Ok(Done::settled(true))
    }
}
