//! One Module: its finalizer, its ModuleImages, and its namespace's label.
//!
//! Watches: Modules, their ModuleImages, the kernels of their nodes, PreflightValidations. Decides: [`tenon_plan::provision`] and
//! [`tenon_plan::removal`]. Writes: the finalizer, the ModuleImages' specs, the label.

mod apply;
mod namespaces;
mod observe;

use std::time::Duration;

use tenon_api::node_modules_config::NodeModulesConfig;
use tenon_order::ModuleKey;
use tenon_plan::removal::Finalizer;
use tenon_plan::{provision, removal};

use crate::controllers::{Done, Reconciler};
use crate::metrics::Controller;
use crate::queue::{Next, Queue};
use crate::run::Context;
use crate::world::World;

use namespaces::Namespaces;

pub use apply::ApplyError;
pub use observe::Provision;

/// How often a deleted Module is looked at that waits for its nodes.
const LEAVING_AGAIN: Duration = Duration::from_secs(30);

/// Whether some node has the Module, or may be told to any moment, by all that is known. To be asked before the consistent
/// list that says no: what was on its way when this was asked is in the list, or in what is known by now.
pub fn is_known_to_be_held(
    world: &World,
    key: &ModuleKey,
    holds: impl Fn(&NodeModulesConfig) -> bool,
) -> bool {
    world.may_be_ordered(key) || world.read().configs().any(|config| holds(config))
}

/// The controller of one Module's finalizer and images.
#[derive(Debug, Default)]
pub struct Modules {
    namespaces: Namespaces,
}

impl Reconciler for Modules {
    type Key = ModuleKey;
    type Error = ApplyError;

    const CONTROLLER: Controller = Controller::Modules;
    const CONCURRENCY: usize = 8;

    fn queue(world: &World) -> &Queue<ModuleKey> {
        &world.queues.modules
    }

    async fn reconcile(&self, context: &Context, world: &World, key: ModuleKey) -> Result<Done, ApplyError> {
        let observed = Provision::of(&world.read(), &key);
        let Some(observed) = observed else {
            // Whoever took its finalizer away, its namespace may be free now.
            let changed = apply::leave_namespace(context, world, &key, &self.namespaces).await?;
            return Ok(Done::settled(changed));
        };
        let finalizer = removal::finalizer(&observed.module);
        let images: Vec<_> = observed.images.iter().map(AsRef::as_ref).collect();
        let images = provision::images(&observed.module, &observed.targets, &images);
        let leaving = finalizer == Finalizer::RemoveIfGone;
        let changed =
            apply::apply(context, world, &key, &observed, &self.namespaces, finalizer, images).await?;
        let settled = Done::settled(changed);
        // Most of what a deleted Module waits for comes as an event; what does not (a node's object that is collected
        // after its node) is looked for.
        Ok(if leaving { Done { next: Next::After(LEAVING_AGAIN), ..settled } } else { settled })
    }
}
