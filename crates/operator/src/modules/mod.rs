//! One Module: its finalizer and its ModuleImages.
//!
//! Watches: Modules, their ModuleImages, the kernels of their nodes. Decides: [`tenon_plan::provision`] and
//! [`tenon_plan::removal`]. Writes: the finalizer, the ModuleImages' specs.

mod apply;
mod observe;

use tenon_order::ModuleKey;
use tenon_plan::{provision, removal};

use crate::controllers::{Done, Reconciler};
use crate::metrics::Controller;
use crate::queue::Queue;
use crate::run::Context;
use crate::world::World;

pub use apply::ApplyError;

/// The controller of one Module's finalizer and images.
#[derive(Debug)]
pub struct Modules;

impl Reconciler for Modules {
    type Key = ModuleKey;
    type Error = ApplyError;

    const CONTROLLER: Controller = Controller::Modules;
    const CONCURRENCY: usize = 8;

    fn queue(world: &World) -> &Queue<ModuleKey> {
        &world.queues.modules
    }

    async fn reconcile(&self, context: &Context, world: &World, key: ModuleKey) -> Result<Done, ApplyError> {
        let Some(observed) = observe::Provision::of(&world.read(), &key) else {
            return Ok(Done::settled(false));
        };
        let finalizer = removal::finalizer(&observed.module);
        let images: Vec<_> = observed.images.iter().map(AsRef::as_ref).collect();
        let images = provision::images(&observed.module, &observed.targets, &images);
        apply::apply(context, world, &key, &observed, finalizer, images).await.map(Done::settled)
    }
}
