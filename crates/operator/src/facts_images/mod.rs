//! What kernels are, told by images: headers, a kernel's package, a driver toolkit.
//!
//! Watches: the kernels that there are ModuleImages for, and the facts about kernels. Decides:
//! [`tenon_plan::facts_image`]. Writes: one `ConfigMap` per kernel. One image at a time, on the leader alone; an image is
//! pulled once for all kernels that it is to tell, and again only when its name stands for another.

mod apply;
mod looks;
mod observe;
mod read;

use std::sync::Arc;
use std::time::Duration;

use tenon_plan::facts_image::REFRESH;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::run::Context;
use crate::world::World;

use looks::Looks;
use read::{Answer, Reader};

/// Kernels that appear this close together are looked for at once.
const GATHER: Duration = Duration::from_millis(300);

/// Looks for the images of kernels until the operator ends.
pub(crate) async fn follow(context: Context, world: Arc<World>) {
    let reader = Arc::new(Reader::new(&context));
    let mut looks = Looks::default();
    let work = async {
        loop {
            let again = pass(&context, &world, &reader, &mut looks).await;
            let _ = tokio::time::timeout(again, world.kernels_changed.notified()).await;
            tokio::time::sleep(GATHER).await;
        }
    };
    context.shutdown.run_until_cancelled(work).await;
}

/// Looks for every kernel whose time has come; says when the next one's comes.
async fn pass(context: &Context, world: &World, reader: &Arc<Reader>, looks: &mut Looks) -> Duration {
    let wanted = observe::wanted(&world.read());
    looks.retain(|kernel| wanted.contains_key(kernel));
    let mut staged = None;
    for (kernel, known) in &wanted {
        if !looks.is_due(kernel, known.is_some(), Instant::now()) {
            continue;
        }
        let barren = looks.barren(kernel);
        let mut answer = reader.clone().look(context, kernel, known.as_deref(), barren, &mut staged).await;
        if let Answer::Told(told) = &answer {
            match apply::keep(context, world, kernel, told).await {
                Ok(()) => {
                    info!(%kernel, image = told.image, bytes = told.facts.len(), "an image has told what a kernel is");
                }
                Err(error) => answer = Answer::not_kept(&error),
            }
        }
        match &answer {
            Answer::Told(_) => {}
            Answer::Unchanged => debug!(%kernel, "the image is the one that was read"),
            Answer::Missing(missing) => {
                warn!(%kernel, reason = missing.reason, message = missing.message, "what this kernel is could not be read from an image");
                if looks.reason(kernel) != Some(missing.reason) {
                    apply::announce(context, kernel, missing);
                }
            }
        }
        looks.note(kernel, answer, Instant::now());
        context.metrics.facts_images(looks.states());
    }
    context.metrics.facts_images(looks.states());
    looks.next(Instant::now()).unwrap_or(REFRESH)
}
