//! One ModuleImage: found in its registry, read, packed for the nodes.
//!
//! Watches: ModuleImages, and what the depot is asked for and lacks. Decides: [`tenon_plan::provision`]. Writes: the
//! image's status; the depot's cache. Whatever is wrong with one image is that image's status and no other's.

mod apply;
mod find;
mod inspect;
mod observe;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tenon_api::ModuleImage;
use tenon_plan::provision::{self, Finding};
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use crate::controllers::{Done, Reconciler, WriteError};
use crate::metrics::{Controller, Outcome};
use crate::queue::{Next, Queue};
use crate::run::Context;
use crate::world::{ImageKey, World};

use find::Finder;

/// Bundles that are made again at once because nodes ask for them.
const SUPPLIED_AT_ONCE: usize = 2;

/// The images controller, and what it remembers between two looks at an image.
#[derive(Debug)]
pub struct Images {
    finder: Arc<Finder>,
    /// Why and how often in a row an image was not to be had. Another reason is a change: the count starts anew.
    misses: Mutex<HashMap<ImageKey, (&'static str, u32)>>,
    supplying: Semaphore,
}

impl Images {
    /// Works with the depot's cache and the registries' settings.
    pub fn new(context: &Context) -> Self {
        Self {
            finder: Arc::new(Finder::new(context)),
            misses: Mutex::default(),
            supplying: Semaphore::new(SUPPLIED_AT_ONCE),
        }
    }

    /// Makes again what nodes are assigned and this replica's depot does not have.
    pub async fn supply(&self, context: &Context, world: &World) {
        while let Some(wanted) = context.shutdown.run_until_cancelled(context.wanted.take()).await {
            let images = observe::with_bundles(&world.read(), &wanted);
            futures::future::join_all(images.iter().map(|image| self.supply_one(context, image))).await;
        }
    }

    async fn supply_one(&self, context: &Context, image: &Arc<ModuleImage>) {
        let Some((bundle, digest)) = provision::bundle(image) else { return };
        let Ok(_turn) = self.supplying.acquire().await else { return };
        if bundle.digest.parse().is_ok_and(|digest| context.cache.contains(&digest)) {
            return;
        }
        info!(
            image = image.spec.image,
            bundle = bundle.digest,
            "a node asks for a bundle that the depot lacks"
        );
        match self.finder.find(context, image, Some(digest)).await {
            Finding::Packed { bundle: made, .. } if made.digest == bundle.digest => {}
            Finding::Packed { bundle: made, .. } => {
                // The same image's digest gives the same files: another list means other rules of selection.
                warn!(
                    image = image.spec.image,
                    expected = bundle.digest,
                    made = made.digest,
                    "another bundle came out"
                );
            }
            Finding::Missing { reason, message, .. } => {
                warn!(
                    image = image.spec.image,
                    reason, message, "a bundle that nodes ask for cannot be made again"
                );
            }
        }
    }

    fn count(&self, key: &ImageKey, finding: &Finding) -> u32 {
        let mut misses = self.misses.lock().unwrap_or_else(PoisonError::into_inner);
        match finding {
            Finding::Packed { .. } => {
                misses.remove(key);
                0
            }
            Finding::Missing { reason, .. } => {
                let known =
                    misses.get(key).filter(|(known, _)| known == reason).map_or(0, |(_, count)| *count);
                let count = known.saturating_add(1);
                misses.insert(key.clone(), (*reason, count));
                debug!(image = %key, reason, misses = count, "not to be had");
                count
            }
        }
    }

    fn forget(&self, key: &ImageKey) {
        self.misses.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

impl Reconciler for Images {
    type Key = ImageKey;
    type Error = WriteError;

    const CONTROLLER: Controller = Controller::Images;
    /// Each may hold a connection and spool files.
    const CONCURRENCY: usize = 4;

    fn queue(world: &World) -> &Queue<ImageKey> {
        &world.queues.images
    }

    /// Looks for the image, unless its status says already what became of its present spec.
    async fn reconcile(&self, context: &Context, world: &World, key: ImageKey) -> Result<Done, WriteError> {
        let Some(image) = observe::image(&world.read(), &key) else {
            self.forget(&key);
            return Ok(Done::settled(false));
        };
        if provision::bundle(&image).is_some() {
            self.forget(&key);
            return Ok(Done::settled(false));
        }
        let finding = self.finder.find(context, &image, None).await;
        let misses = self.count(&key, &finding);
        let changed = apply::apply(context, world, &image, &finding).await?;
        let done = Done::settled(changed);
        Ok(match provision::retry_after(&finding, misses) {
            Some(after) => Done { outcome: Outcome::Waiting, next: Next::After(after) },
            None => done,
        })
    }
}
