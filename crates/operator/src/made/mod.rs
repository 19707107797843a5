//! Images that were made here: remembered, reported when nothing needs them, and deleted where the administrator allows it.
//!
//! Watches: the Jobs that make images, and what names images. Decides: [`tenon_plan::made`]. Writes: one `MadeImage` for each image,
//! and deletes it with what it stands for. On the leader alone, one image after the other.

mod apply;
mod erase;
mod memory;
mod observe;
mod record;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tenon_api::MadeImage;
use tenon_plan::made::{self, Policy, Step};
use tracing::{info, warn};

use crate::args::Unneeded;
use crate::controllers::{Failure, WriteError};
use crate::run::Context;
use crate::world::World;

use erase::{Eraser, Outcome};
use memory::Memory;
use observe::{Needs, needs};

/// What changes this close together is looked at once.
const GATHER: Duration = Duration::from_secs(1);
/// How often it is looked who needs what there is: nobody tells when a node is told to have something else. More often where images
/// are to go sooner than that.
const LOOK: Duration = Duration::from_secs(10);
/// So much more seldom for each node, so that what it costs does not grow with them.
const PER_NODE: Duration = Duration::from_millis(2);
/// How often everything is listed anew.
const ANEW: Duration = Duration::from_mins(10);
/// After what did not succeed.
const AGAIN: Duration = Duration::from_secs(30);
/// Images that are deleted in one go, before it is looked again who needs what.
const AT_ONCE: usize = 8;

/// Looks after the images that were made here until the operator ends.
pub(crate) async fn follow(context: Context, world: Arc<World>) {
    let eraser = Arc::new(Eraser::new());
    let mut memory = Memory::default();
    let work = async {
        loop {
            let again = pass(&context, &world, &eraser, &mut memory).await;
            let _ = tokio::time::timeout(again, world.images_changed.notified()).await;
            tokio::time::sleep(GATHER).await;
        }
    };
    context.shutdown.run_until_cancelled(work).await;
}

/// Looks at everything once; says when to do so again.
async fn pass(context: &Context, world: &World, eraser: &Arc<Eraser>, memory: &mut Memory) -> Duration {
    let mut again = ANEW;
    let mut soon = |within: Duration| again = again.min(within);
    if let Err(error) = memory.refresh(context, ANEW).await {
        warn!(error = &error as &dyn std::error::Error, "the images that were made here cannot be listed");
        return AGAIN;
    }
    if !record::record(context, world, memory).await {
        soon(AGAIN);
    }
    let due = match look(context, world, memory).await {
        (due, Some(within)) => {
            soon(within);
            due
        }
        (due, None) => due,
    };
    for one in due.iter().take(AT_ONCE) {
        if !erase(context, world, eraser, memory, (one, &due)).await {
            soon(AGAIN);
        }
    }
    if memory.all().next().is_some() {
        let nodes = u32::try_from(world.read().node_count()).unwrap_or(u32::MAX);
        soon(LOOK.min(policy(context).after).saturating_add(PER_NODE.saturating_mul(nodes)));
    }
    if due.len() > AT_ONCE {
        soon(Duration::ZERO);
    }
    for one in memory.surplus() {
        info!(image = one.spec.image, digest = one.spec.digest, "too many to remember: it is kept for good");
        if apply::forget(context, &one).await.is_ok() {
            memory.remove(&one);
        }
    }
    if memory.is_in_doubt() {
        soon(AGAIN);
    }
    context.metrics.made_images(memory.all().map(observe::state));
    again
}

/// Tells of each image whether it is needed. Returns those whose time has come, and when the next one's comes.
async fn look(context: &Context, world: &World, memory: &mut Memory) -> (Vec<MadeImage>, Option<Duration>) {
    let (mut due, mut next) = (Vec::new(), None::<Duration>);
    if memory.all().next().is_none() {
        return (due, next);
    }
    let (needs, policy, now) = (needs(world), policy(context), now());
    let mut soon = |within: Duration| next = Some(next.map_or(within, |next| next.min(within)));
    for one in memory.all().cloned().collect::<Vec<_>>() {
        let is_needed = needs.need(&one);
        let settles = memory.settles(&one, is_needed, policy.after);
        match made::step(&one, is_needed, policy, &now) {
            Step::Rest(within) => within.into_iter().for_each(&mut soon),
            Step::Tell(status) => {
                let told = apply::tell(context, &one, status).await;
                soon(if kept(memory, &one, told) { Duration::ZERO } else { AGAIN });
            }
            Step::Erase => match settles {
                Some(left) => soon(left),
                None => due.push(one),
            },
        }
    }
    (due, next)
}

/// Deletes an image whose time has come, or says why it cannot be deleted. Whether that went as it should.
async fn erase(
    context: &Context,
    world: &World,
    eraser: &Arc<Eraser>,
    memory: &mut Memory,
    (one, due): (&MadeImage, &[MadeImage]),
) -> bool {
    let tags = own_tags(one, due, &needs(world));
    match eraser.erase(context, world, one, tags).await {
        Ok(Outcome::Gone) => {
            info!(image = one.spec.image, digest = one.spec.digest, "nothing needed it: it is deleted");
            context.metrics.deleted_images.inc();
            apply::announce_deletion(context, one);
            memory.remove(one);
            true
        }
        // Not before it was seen once more for long enough that nothing does.
        Ok(Outcome::Needed) => {
            memory.is_needed(one);
            true
        }
        Ok(Outcome::Withdrawn) => {
            memory.remove(one);
            true
        }
        Ok(Outcome::Refused { begun, reason, message }) => {
            let known = one.status.as_ref().and_then(|status| status.reason.as_deref());
            if known != Some(reason) {
                warn!(image = one.spec.image, reason, message, "nothing needs it, and it cannot be deleted");
                apply::announce_refusal(context, one, reason, &message);
            }
            let one = begun.as_deref().unwrap_or(one);
            let status = made::refused(one, reason, message, &now());
            let told = apply::tell(context, one, status).await;
            kept(memory, one, told)
        }
        Err(error) => kept(memory, one, Err(error)),
    }
}

/// The tags that go with an image: its own, and those of others of the same content whose time has come as well. Not one that
/// anything names.
fn own_tags(one: &MadeImage, due: &[MadeImage], needs: &Needs) -> BTreeSet<String> {
    let same = due.iter().filter(|other| other.spec.digest == one.spec.digest);
    let unnamed = same.filter(|other| !needs.needs_name(&other.spec.image));
    unnamed.filter_map(|other| observe::canonical(&other.spec.image)).collect()
}

/// Takes over what a write came to: an object that is not there any more, or is another, is not remembered.
fn kept(memory: &mut Memory, one: &MadeImage, told: Result<MadeImage, WriteError>) -> bool {
    match told {
        Ok(told) if told.metadata.deletion_timestamp.is_some() => {
            memory.remove(one);
            true
        }
        Ok(told) => {
            memory.put(told);
            true
        }
        Err(error) if error.is_conflict() => {
            memory.remove(one);
            // Or the API server was asked too much at once.
            memory.doubt();
            true
        }
        Err(error) => {
            if !error.is_not_leader() {
                // It may have been written all the same, and nobody would write over it what is known already.
                memory.doubt();
                warn!(
                    image = one.spec.image,
                    error = &error as &dyn std::error::Error,
                    "what becomes of an image cannot be written"
                );
            }
            false
        }
    }
}

fn policy(context: &Context) -> Policy {
    Policy { delete: context.args.unneeded_images == Unneeded::Delete, after: context.args.unneeded_after.0 }
}

/// The time as statuses hold it: whole seconds.
fn now() -> Time {
    Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default())
}
