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
use crate::metrics::{Controller, Metrics};
use crate::queue::Queue;
use crate::run::Context;
use crate::world::World;

pub use observe::{Preflight, wants};

/// How many there are, for the metrics.
///
/// Added up over all replicas, the number is right: by the one that leads alone.
pub fn count(metrics: &Metrics, world: &World, leads: bool) {
    let count = if leads { world.read().preflights().count() } else { 0 };
    metrics.preflights.set(i64::try_from(count).unwrap_or(i64::MAX));
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
        count(&context.metrics, world, true);
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

#[cfg(test)]
mod tests {
    use tenon_api::PreflightValidation;
    use tenon_api::preflight_validation::PreflightValidationSpec;

    use super::*;
    use crate::depot::Assignments;

    /// Defect 20 of KMM: its gauge is 1 from the first one on, for ever.
    #[test]
    fn the_gauge_tells_how_many_there_are() {
        let (world, metrics) = (World::new(Assignments::default()), Metrics::new());
        let shown = || metrics.preflights.get();
        for (name, is_there, expected) in [("a", true, 1), ("b", true, 2), ("a", false, 1), ("b", false, 0)] {
            let object = PreflightValidation::new(name, PreflightValidationSpec::default());
            world.preflight(name, is_there.then_some(object));
            count(&metrics, &world, true);
            assert_eq!(shown(), expected);
        }
    }
}
