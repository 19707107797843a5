//! One ModuleImage: found in its registry, or made by a Job; read, packed for the nodes.
//!
//! Watches: ModuleImages, the Jobs that make images, and what the depot is asked for and lacks. Decides:
//! [`tenon_plan::provision`]. Writes: the image's status; Jobs; the depot's cache. Whatever is wrong with one image is that image's status and no other's.

mod apply;
mod find;
mod foresight;
mod inspect;
mod make;
pub mod misses;
mod observe;
mod pull;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::ResourceExt;
use tenon_api::module_image::{KernelVerdict, Making};
use tenon_api::task::Algorithm;
use tenon_api::{ModuleImage, reasons};
use tenon_plan::provision::making::{self, JobSeen, JobState};
use tenon_plan::provision::{self, Finding, Look};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::controllers::{Done, Reconciler, WriteError};
use crate::metrics::{Controller, Outcome};
use crate::queue::{Next, Queue};
use crate::registries::failed;
use crate::run::Context;
use crate::world::{ImageKey, World};

use find::{Finder, IsOutdated};
use foresight::{Foresight, Wanted};
use make::{Turns, Unwanted};
use misses::Misses;
use pull::Pulls;

/// When to try again to judge an image whose bundle is not to be had.
const JUDGE_AGAIN: Duration = Duration::from_secs(30);
/// When to look for an image again out of whose repository something is being deleted.
const ERASED_SOON: Duration = Duration::from_secs(1);
/// How often a Job is asked after that has not told that it has ended.
const FOLLOW_AGAIN: Duration = Duration::from_secs(20);
/// Bundles that are made again at once because nodes ask for them.
const SUPPLIED_AT_ONCE: usize = 2;
/// Bundles whose modules are read at once: a module may have 192 MiB, and is held in memory.
const READ_AT_ONCE: usize = 1;

/// The images controller, and what it remembers between two looks at an image.
#[derive(Debug)]
pub struct Images {
    finder: Arc<Finder>,
    foresight: Foresight,
    misses: Misses,
    /// What nodes pull.
    pulls: Pulls,
    /// Whose turn it is to have a Job.
    jobs: Turns,
    /// When it was looked at last what an image was made from.
    looked: Mutex<BTreeMap<ImageKey, Instant>>,
    /// Bundles that are being made again, and turns to do so.
    supplying: Mutex<BTreeSet<String>>,
    turns: Semaphore,
}

/// When to look again at what an image was made from.
enum Again {
    /// It was not made here.
    Never,
    /// After this time.
    At(Duration),
    /// It is other than it was.
    Now,
}

impl Images {
    /// Works with the depot's cache and the registries' settings.
    pub fn new(context: &Context) -> Self {
        let reading = Arc::new(Semaphore::new(READ_AT_ONCE));
        Self {
            finder: Arc::new(Finder::new(context, reading.clone())),
            foresight: Foresight::new(reading),
            misses: Misses::default(),
            pulls: Pulls::default(),
            jobs: Turns::new(context.args.jobs_at_once.into()),
            looked: Mutex::default(),
            supplying: Mutex::default(),
            turns: Semaphore::new(SUPPLIED_AT_ONCE),
        }
    }

    /// Makes again what nodes are assigned and this replica's depot does not have. Each on its own: one slow registry
    /// holds up no other bundle.
    pub async fn supply(self: Arc<Self>, context: Context, world: Arc<World>) {
        let mut tasks = JoinSet::new();
        while let Some(wanted) = context.shutdown.run_until_cancelled(context.wanted.take()).await {
            while tasks.try_join_next().is_some() {}
            let images = observe::with_bundles(&world.read(), &wanted);
            for image in images {
                let (images, context) = (self.clone(), context.clone());
                let world = world.clone();
                tasks.spawn(async move { images.supply_once(&context, &world, &image).await });
            }
        }
    }

    /// Whether what an image was made from is other than it was. Nobody tells: base images move in their registries, and neither
    /// `ConfigMap`s nor Secrets are watched.
    async fn look_again(&self, context: &Context, world: &World, image: &Arc<ModuleImage>) -> Again {
        if provision::has_vanished(image) {
            return Again::Now;
        }
        let made = image.status.as_ref().and_then(|status| status.making.as_ref());
        let is_renewed = making::can_be_made(image) && !image.spec.trial;
        let Some(made) = made.filter(|_| is_renewed) else { return Again::Never };
        if made.renewing {
            return Again::Now;
        }
        let every = Duration::from_secs(context.args.look_again.into());
        let key = ImageKey::of(image);
        let last = *self.looked().entry(key.clone()).or_insert_with(Instant::now);
        if let Some(left) = every.checked_sub(last.elapsed()).filter(|left| !left.is_zero()) {
            return Again::At(left);
        }
        self.looked().insert(key, Instant::now());
        match self.wanted(context, world, image).await {
            Ok(wanted) if wanted.making.inputs != made.inputs => Again::Now,
            // What cannot be looked at now is as it was.
            _ => Again::At(every),
        }
    }

    fn looked(&self) -> MutexGuard<'_, BTreeMap<ImageKey, Instant>> {
        // Nothing panics while it holds the lock.
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for an image that can be made, and makes it where it is not there.
    async fn find_or_make(
        &self,
        context: &Context,
        world: &World,
        image: &Arc<ModuleImage>,
    ) -> Result<Look, WriteError> {
        // Before the image is looked for: what has ended by now has left it there.
        let jobs = jobs_of(world, image);
        let wanted = self.wanted(context, world, image).await.map(Arc::new);
        if let Ok(wanted) = &wanted
            && jobs.iter().any(|job| job.name == wanted.making.job && job.state == JobState::Running)
        {
            let (turns, now) = ((&*jobs, &self.jobs), apply::now());
            return make::make(context, world, image, wanted, Vec::new(), turns, &now).await;
        }
        let ours = Arc::new(AtomicBool::new(false));
        let is_outdated: IsOutdated = {
            let (image, jobs, ours) = (image.clone(), jobs.clone(), ours.clone());
            let wanted = wanted.as_ref().map(Arc::clone).map_err(|unwanted| unwanted.passing);
            Box::new(move |labels| {
                ours.store(making::is_ours(labels), Ordering::Release);
                match &wanted {
                    Ok(wanted) => make::is_outdated(&image, labels, wanted, &jobs),
                    Err(passing) => make::may_be_outdated(&image, labels, *passing),
                }
            })
        };
        let known = image.status.as_ref().and_then(|status| status.making.clone());
        match (self.finder.find(context, image, None, is_outdated).await, wanted) {
            (finding, wanted) if is_absent(&finding) => {
                self.make(context, world, image, wanted.as_deref(), &jobs).await
            }
            (finding @ Finding::Packed { .. }, Ok(wanted)) => {
                let retry = known.as_ref().and_then(|known| known.retry);
                // What somebody else has made is no news about what would be made here.
                let made = ours.load(Ordering::Acquire).then(|| Making { retry, ..wanted.making.clone() });
                Ok(Look { finding, making: made, retry_at: None })
            }
            (finding @ Finding::Packed { .. }, Err(_)) => {
                // From what it was made is not known: so it is looked at again.
                let made = known.filter(|known| !known.renewing);
                let made = made.or_else(|| ours.load(Ordering::Acquire).then(Making::default));
                Ok(Look { finding, making: made, retry_at: None })
            }
            (finding, _) => Ok(unmade(image, finding)),
        }
    }

    /// Looks for an image, and has made what is not there, to see whether that succeeds. What is there is not made anew.
    async fn find_or_try(
        &self,
        context: &Context,
        world: &World,
        image: &Arc<ModuleImage>,
    ) -> Result<Look, WriteError> {
        // Before the image is looked for, as whenever it may be made.
        let jobs = jobs_of(world, image);
        let finding = self.finder.find(context, image, None, Box::new(|_| false)).await;
        if !is_absent(&finding) {
            return Ok(finding.into());
        }
        let wanted = self.wanted(context, world, image).await;
        self.make(context, world, image, wanted.as_ref(), &jobs).await
    }

    /// What the image would be made from, unless another image is to be made under its name.
    async fn wanted(
        &self,
        context: &Context,
        world: &World,
        image: &Arc<ModuleImage>,
    ) -> Result<make::Wanted, Unwanted> {
        match make::conflict(world, image) {
            Some(finding) => Err(Unwanted { finding, passing: false }),
            None => self.finder.wanted(context, world, image).await,
        }
    }

    /// Has an image made that is not there, or says why it cannot be.
    async fn make(
        &self,
        context: &Context,
        world: &World,
        image: &ModuleImage,
        wanted: Result<&make::Wanted, &Unwanted>,
        jobs: &[JobSeen],
    ) -> Result<Look, WriteError> {
        match wanted {
            Ok(wanted) => {
                let lacking = self.lacking(context, world, image).await;
                make::make(context, world, image, wanted, lacking, (jobs, &self.jobs), &apply::now()).await
            }
            Err(why) => Ok(unmade(image, why.finding.clone())),
        }
    }

    /// What the kernel was built without, as far as that is known.
    async fn lacking(&self, context: &Context, world: &World, image: &ModuleImage) -> Vec<Algorithm> {
        match verdicts_wanted(context, world, image) {
            Some(facts) => self.foresight.lacking(context, &facts).await,
            None => Vec::new(),
        }
    }

    /// Writes what a look came to, with the verdicts on it; whether that is news.
    async fn tell(
        &self,
        context: &Context,
        world: &World,
        image: &ModuleImage,
        look: &Look,
    ) -> Result<bool, WriteError> {
        let verdicts = self.judge(context, world, image, &look.finding).await;
        apply::apply(context, world, image, look, verdicts).await
    }

    /// The verdicts on what was just packed.
    async fn judge(
        &self,
        context: &Context,
        world: &World,
        image: &ModuleImage,
        finding: &Finding,
    ) -> Vec<KernelVerdict> {
        let Finding::Packed { bundle, .. } = finding else { return Vec::new() };
        let wanted = verdicts_wanted(context, world, image);
        let Some((wanted, digest)) = wanted.zip(bundle.digest.parse().ok()) else { return Vec::new() };
        self.foresight.verdicts(context, digest, &wanted).await.unwrap_or_default()
    }

    /// Makes the verdicts of an image anew where facts, or the way in which it is loaded, have changed since.
    async fn judge_anew(
        &self,
        context: &Context,
        world: &World,
        image: &Arc<ModuleImage>,
    ) -> Result<Done, WriteError> {
        let Some((bundle, _)) = provision::bundle(image) else { return Ok(Done::settled(false)) };
        let known = image.status.as_ref().map(|status| status.verdicts.as_slice()).unwrap_or_default();
        let Some(wanted) = verdicts_wanted(context, world, image) else {
            return Ok(Done::settled(false));
        };
        let Ok(digest) = bundle.digest.parse() else { return Ok(Done::settled(false)) };
        if wanted.is_answered(&bundle.digest, known) {
            return Ok(Done::settled(false));
        }
        let mut verdicts = self.foresight.verdicts(context, digest, &wanted).await;
        if verdicts.is_none() {
            self.supply_once(context, world, image).await;
            verdicts = self.foresight.verdicts(context, digest, &wanted).await;
        }
        let Some(verdicts) = verdicts else {
            warn!(
                image = image.spec.image,
                bundle = bundle.digest,
                "a bundle that is to be judged is not to be had"
            );
            return Ok(Done { outcome: Outcome::Waiting, next: Next::After(JUDGE_AGAIN) });
        };
        Ok(Done::settled(apply::judged(context, world, image, verdicts).await?))
    }

    /// Nodes ask again and again until they are served; one answer is enough.
    async fn supply_once(&self, context: &Context, world: &World, image: &Arc<ModuleImage>) {
        let Some((bundle, _)) = provision::bundle(image) else { return };
        let busy = || self.supplying.lock().unwrap_or_else(PoisonError::into_inner);
        if busy().insert(bundle.digest.clone()) {
            self.supply_one(context, world, image).await;
            busy().remove(&bundle.digest);
        }
    }

    async fn supply_one(&self, context: &Context, world: &World, image: &Arc<ModuleImage>) {
        let Some((bundle, digest)) = provision::bundle(image) else { return };
        let Ok(_turn) = self.turns.acquire().await else { return };
        if bundle.digest.parse().is_ok_and(|digest| context.cache.contains(&digest)) {
            return;
        }
        info!(
            image = image.spec.image,
            bundle = bundle.digest,
            "a node asks for a bundle that the depot lacks"
        );
        // Whatever it was made from: these are its files.
        let found = Box::pin(self.find_or_pull(context, world, image, Some(digest))).await;
        let found = found.unwrap_or_else(|error| failed(reasons::PULL_POD_FAILED, &error));
        match found {
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
            // What is only looked for is not made.
            Finding::Making { .. } => {}
            // Nodes ask again.
            Finding::Missing { reason, .. } if pull::is_under_way(reason) => {}
            Finding::Missing { reason, ref message, .. } => {
                warn!(
                    image = image.spec.image,
                    reason, message, "a bundle that nodes ask for cannot be made again"
                );
                tell_vanished(context, world, image, reason, found).await;
            }
        }
    }

    /// Looks for what has vanished: for the same, and where that is gone for good, for what its reference stands for by now. Nobody
    /// has asked for the content of a tag that was moved while its registry was away.
    async fn find_again(
        &self,
        context: &Context,
        world: &World,
        image: &Arc<ModuleImage>,
    ) -> Result<Finding, WriteError> {
        let known = provision::bundle(image).filter(|_| provision::has_vanished(image));
        if let Some((_, digest)) = known {
            let same = self.find_or_pull(context, world, image, Some(digest)).await?;
            if !matches!(same, Finding::Missing { reason: reasons::IMAGE_ABSENT, .. }) {
                return Ok(same);
            }
        }
        self.find_or_pull(context, world, image, None).await
    }
}

/// Has an image's status say that a node asks for what is not to be had any more. From then on the image is looked for, or made where it can be.
async fn tell_vanished(
    context: &Context,
    world: &World,
    image: &ModuleImage,
    reason: &str,
    finding: Finding,
) {
    let key = ImageKey::of(image);
    // A node may ask for the image that its Module had before: no object tells of that one.
    let is_told = |known: &Arc<ModuleImage>| known.uid() == image.uid() && known.status == image.status;
    let Some(image) = observe::image(&world.read(), &key).filter(is_told) else { return };
    // What can be made is made anew when it is gone, not when its registry is away.
    let is_underway = provision::has_vanished(&image) || provision::renewal(&image).is_some();
    if is_underway || making::can_be_made(&image) && reason != reasons::IMAGE_ABSENT {
        return;
    }
    match apply::vanished(context, world, &image, finding).await {
        Ok(_) => world.queues.images.add(key),
        // Nodes ask again.
        Err(error) => {
            warn!(image = image.spec.image, error = &error as &dyn std::error::Error, "not told");
        }
    }
}

/// The Jobs that make an image.
fn jobs_of(world: &World, image: &ModuleImage) -> Vec<JobSeen> {
    world.jobs_of(&image.namespace().unwrap_or_default(), &image.spec.image)
}

/// Whether an image is not there, so that it may be made.
fn is_absent(finding: &Finding) -> bool {
    matches!(finding, Finding::Missing { reason: reasons::IMAGE_ABSENT, needs_change: false, .. })
}

/// What was found of an image of which nothing is being made. What is known of its making stays: a hiccup is no reason to try again any
/// sooner.
fn unmade(image: &ModuleImage, finding: Finding) -> Look {
    let status = image.status.as_ref();
    let making = status.and_then(|status| status.making.clone());
    Look { finding, making, retry_at: status.and_then(|status| status.retry_at.clone()) }
}

/// The questions about an image.
fn verdicts_wanted(context: &Context, world: &World, image: &ModuleImage) -> Option<Wanted> {
    Wanted::of(&world.read(), image, &context.signatures)
}

impl Reconciler for Images {
    type Key = ImageKey;
    type Error = WriteError;

    const CONTROLLER: Controller = Controller::Images;
    /// Each may hold a connection and spool files.
    const CONCURRENCY: usize = 4;
    /// A driver's image may be gigabytes behind a slow line; what is downloaded should not be thrown away.
    const PATIENCE: Duration = Duration::from_hours(6);

    fn queue(world: &World) -> &Queue<ImageKey> {
        &world.queues.images
    }

    /// Looks for the image, unless its status says already what became of its present spec.
    async fn reconcile(&self, context: &Context, world: &World, key: ImageKey) -> Result<Done, WriteError> {
        let Some(image) = observe::image(&world.read(), &key) else {
            self.misses.forget(&key);
            self.looked().remove(&key);
            self.abandon_pulls(context, &key, None).await;
            return Ok(Done::settled(false));
        };
        if observe::is_being_erased(world, &image) {
            return Ok(Done { outcome: Outcome::Waiting, next: Next::After(ERASED_SOON) });
        }
        if provision::bundle(&image).is_some() {
            let judged = self.judge_anew(context, world, &image).await?;
            if judged.outcome == Outcome::Changed {
                return Ok(Done { next: Next::After(Duration::ZERO), ..judged });
            }
            let next = match self.look_again(context, world, &image).await {
                Again::Now => None,
                Again::At(after) if judged.next == Next::AwaitChange => Some(Next::After(after)),
                Again::At(_) | Again::Never => Some(judged.next),
            };
            if let Some(next) = next {
                self.misses.forget(&key);
                return Ok(Done { next, ..judged });
            }
        }
        let generation = image.metadata.generation;
        if let Some(left) = self.misses.wait(&key, generation) {
            return Ok(Done { outcome: Outcome::Waiting, next: Next::After(left) });
        }
        let look = if image.spec.trial {
            self.find_or_try(context, world, &image).await?
        } else if making::can_be_made(&image) {
            self.find_or_make(context, world, &image).await?
        } else {
            self.find_again(context, world, &image).await?.into()
        };
        let again = match &look.finding {
            // It tells when it has ended; a watch may be behind.
            Finding::Making { .. } => {
                self.misses.forget(&key);
                Some(FOLLOW_AGAIN)
            }
            finding => self.misses.note(&key, generation, finding),
        };
        let done = Done::settled(self.tell(context, world, &image, &look).await?);
        self.pulls.told(&key);
        Ok(match again {
            Some(after) => Done { outcome: Outcome::Waiting, next: Next::After(after) },
            // What can be made is looked at again.
            None if look.making.is_some() => Done { next: Next::After(FOLLOW_AGAIN), ..done },
            None => done,
        })
    }
}
