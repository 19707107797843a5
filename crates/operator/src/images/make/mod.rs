//! Makes an image that does not exist: what it would be made from ([`wanted`]), the Job that does it ([`start`]), and what came
//! of it ([`ended`]).

mod ended;
mod start;
mod toolkits;
mod turns;
mod wanted;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use tenon_api::module_image::{ImagePhase, Making};
use tenon_api::task::{Algorithm, Trouble};
use tenon_api::{Module, ModuleImage, ModuleImageStatus, labels, reasons};
use tenon_order::ModuleKey;
use tenon_plan::provision::making::{self, JobSeen, JobState, Step};
use tenon_plan::provision::{Finding, Look, job};
use tenon_plan::retry::Retry;

use crate::controllers::WriteError;
use crate::events::Severity;
use crate::images::apply;
use crate::metrics::Stage;
use crate::run::Context;
use crate::world::{ImageKey, World};

use ended::Hindrance;

pub(super) use toolkits::Toolkits;
pub(super) use turns::Turns;
pub(super) use wanted::{Unwanted, Wanted, around, conflict, wanted};

/// Whether an image that exists is to be made anew: by its labels, or because a Secret is another one than it was, or may be.
pub(super) fn is_outdated(
    image: &ModuleImage,
    labels: &BTreeMap<String, String>,
    wanted: &Wanted,
    jobs: &[JobSeen],
) -> bool {
    if making::is_outdated(labels, image.spec.sign.as_ref(), Some(&wanted.inputs.source)) {
        return true;
    }
    let just_made = jobs.iter().any(|job| job.name == wanted.making.job && job.state == JobState::Succeeded);
    // What was to be made and is not known to have been made says nothing of what is there.
    let made = image.status.as_ref().filter(|status| status.phase == Some(ImagePhase::Ready));
    let made = made.and_then(|status| status.making.as_ref()).filter(|made| !made.renewing);
    // Who does not know by which Secret it was made has a Job look, which leaves what is right as it is.
    let same = made.is_some_and(|made| made.inputs == wanted.making.inputs);
    // What is only built has no Secret that its labels do not tell of.
    making::is_ours(labels) && image.spec.sign.is_some() && !same && !just_made
}

/// The same while it is not known what it would be made from: what may be known in a moment is waited for.
pub(super) fn may_be_outdated(image: &ModuleImage, labels: &BTreeMap<String, String>, passing: bool) -> bool {
    let by_request = making::is_outdated(labels, image.spec.sign.as_ref(), None);
    by_request || (passing && making::is_ours(labels))
}

/// Brings an image one step nearer to being made. `jobs` were looked at before the image was looked for and not found.
pub(super) async fn make(
    context: &Context,
    world: &World,
    image: &ModuleImage,
    wanted: &Wanted,
    lacking: Vec<Algorithm>,
    (jobs, turns): (&[JobSeen], &Turns),
    now: &Time,
) -> Result<Look, WriteError> {
    let status = image.status.as_ref();
    let known = status
        .and_then(|status| status.making.clone())
        .filter(|known| known.inputs == wanted.making.inputs)
        .unwrap_or_else(|| wanted.making.clone());
    let module = module_of(world, image);
    let wish = module.as_deref().and_then(Retry::number_of);
    // A new generation (the rebuild trigger, perhaps) or a user's wish is tried at once.
    let current =
        status.filter(|status| status.resolved_from == image.metadata.generation && known.retry == wish);
    let retry_at = current.and_then(|status| status.retry_at.as_ref());
    let known = Making { retry: wish, ..known };
    if image.spec.trial
        && let Some(tried) = current.and_then(|status| tried_before(status, &known))
    {
        return Ok(Look { finding: tried, making: Some(known), retry_at: None });
    }
    let following = |making: Making| Look {
        finding: Finding::Making { message: format!("Job {} {}", making.job, wanted.told) },
        making: Some(making),
        retry_at: None,
    };
    let whose = labels::value(&image.spec.module);
    // A user who wants another try does not want to wait for one that hangs.
    let told = status.and_then(|status| status.making.as_ref()).filter(|told| told.job == wanted.making.job);
    let hangs = |job: &&JobSeen| job.name == wanted.making.job && job.state == JobState::Running;
    if let Some(job) = jobs.iter().find(hangs).filter(|_| told.is_some_and(|told| told.retry != wish)) {
        ended::clear(context, image, job).await?;
        return Ok(following(known));
    }
    match making::step(Some(&known), retry_at, (&whose, &wanted.making.job), jobs, now.0) {
        Step::Follow => {
            let look = following(known);
            let running = jobs.iter().find(|job| matches!(job.state, JobState::Running | JobState::Leaving));
            // Not at once: a pod takes a moment to start.
            match running.filter(|_| status.is_some_and(is_being_told)) {
                Some(job) => follow(context, world, image, job, look).await,
                None => Ok(look),
            }
        }
        // Another look may have begun one meanwhile.
        Step::Start if is_being_made(world, image) => Ok(following(known)),
        Step::Start => {
            let turn = match turns.ask(&ImageKey::of(image), world.running_jobs()) {
                Ok(turn) => turn,
                Err(before) => {
                    return Ok(Look { finding: queued(before), making: Some(known), retry_at: None });
                }
            };
            let started = start::start(context, world, image, wanted, lacking).await?;
            drop(turn);
            match started {
                Ok(()) => Ok(following(known)),
                Err(finding) => Ok(Look { finding, making: Some(known), retry_at: None }),
            }
        }
        Step::Clear(job) => {
            ended::clear(context, image, &job).await?;
            Ok(following(known))
        }
        Step::Note(job) if image.spec.trial && job.state == JobState::Succeeded => {
            Ok(ended::tried(context, image, known))
        }
        Step::Note(job) => Ok(ended::note(context, image, &job, known, now).await),
        // What is known stays as it is said.
        Step::Wait(_) => Ok(Look { finding: said(status), making: Some(known), retry_at: retry_at.cloned() }),
    }
}

/// A Job that runs, or should, or is being deleted: what is in its way is said, and a pod that no node takes makes room for one that
/// asks for another.
async fn follow(
    context: &Context,
    world: &World,
    image: &ModuleImage,
    job: &JobSeen,
    mut look: Look,
) -> Result<Look, WriteError> {
    let hindrance = ended::hindrance(context, world, image, job).await;
    let is = |what: fn(&Hindrance) -> bool| hindrance.as_ref().is_some_and(what);
    let unplaced = is(|hindrance| hindrance.unplaced);
    let idle = unplaced || is(|hindrance| hindrance.bereft);
    world.job_is_placed(&image.namespace().unwrap_or_default(), &job.name, !idle);
    // Another Module's Job, which makes an image of the same name, is that Module's.
    let own = look.making.as_ref().is_some_and(|making| making.job == job.name);
    if own && unplaced && job.placement != job::placement(image, module_of(world, image).as_deref()) {
        ended::clear(context, image, job).await?;
    } else if let (Some(hindrance), Finding::Making { message }) = (hindrance, &mut look.finding) {
        // What is made next waits for the end of what was begun before.
        let whose = if own { String::new() } else { format!("Job {}: ", job.name) };
        *message = format!("{message}; {whose}{}", hindrance.why);
    }
    Ok(look)
}

fn is_being_told(status: &ModuleImageStatus) -> bool {
    matches!(status.reason.as_deref(), Some(reasons::BUILDING | reasons::SIGNING))
}

/// What a trial has come to, if it was of the same: the Job need not be there any more.
fn tried_before(status: &ModuleImageStatus, known: &Making) -> Option<Finding> {
    let making = status.making.as_ref()?;
    let same = status.reason.as_deref() == Some(reasons::NOT_PUSHED) && making.inputs == known.inputs;
    let message = status.message.as_ref().map(ToString::to_string).unwrap_or_default();
    same.then(|| not_pushed(message))
}

/// Whoever published it since is found when it is looked for again.
fn not_pushed(message: String) -> Finding {
    Finding::Missing { reason: reasons::NOT_PUSHED, message, needs_change: false, retry_after: None }
}

/// As many Jobs work as may.
fn queued(before: usize) -> Finding {
    let before = match before {
        0 => "it is the next".to_owned(),
        1 => "one image is before it".to_owned(),
        many => format!("{many} images are before it"),
    };
    Finding::Missing {
        reason: reasons::QUEUED,
        message: format!(
            "as many Jobs make images as may at a time (the operator's --jobs-at-once); {before}"
        ),
        needs_change: false,
        retry_after: None,
    }
}

/// Whether some Job makes the image now.
fn is_being_made(world: &World, image: &ModuleImage) -> bool {
    let jobs = world.jobs_of(&image.namespace().unwrap_or_default(), &image.spec.image);
    jobs.iter().any(|job| matches!(job.state, JobState::Running | JobState::Leaving))
}

/// The Module that the image is for.
pub(super) fn module_of(world: &World, image: &ModuleImage) -> Option<Arc<Module>> {
    let owner = image.owner_references().iter().find(|owner| owner.kind == "Module")?;
    let key = ModuleKey::new(&image.namespace()?, &owner.name).ok()?;
    world.read().module(&key).cloned()
}

/// What the status says of the last failure.
fn said(status: Option<&ModuleImageStatus>) -> Finding {
    let message = status.and_then(|status| status.message.as_ref()).map(ToString::to_string);
    let reason = status.and_then(|status| status.reason.as_deref()).unwrap_or_default();
    let failed = status.is_some_and(|status| status.phase == Some(ImagePhase::Failed));
    Finding::Missing {
        reason: known_reason(reason),
        message: message.unwrap_or_default(),
        needs_change: failed,
        retry_after: None,
    }
}

/// The reason that a status holds, as one of ours.
fn known_reason(reason: &str) -> &'static str {
    let of_builds = [reasons::BUILD_FAILED, reasons::BUILDER_CONFINED];
    let known = Trouble::ALL.map(Trouble::reason).into_iter().chain(of_builds);
    known.into_iter().find(|known| *known == reason).unwrap_or(reasons::SIGN_FAILED)
}

/// What one step of making an image is called: it is built, or signed. One Job does both.
struct Words {
    work: &'static str,
    /// What was done to the image when all went well.
    done: &'static str,
    /// The event of its beginning.
    created: &'static str,
    /// The event of its good end.
    succeeded: &'static str,
    /// The reason of its failure where nobody knows better, and the event.
    failed: &'static str,
    failed_event: &'static str,
}

const BUILD: Words = Words {
    work: "Build",
    done: "built",
    created: reasons::event::BUILD_CREATED,
    succeeded: reasons::event::BUILD_SUCCEEDED,
    failed: reasons::BUILD_FAILED,
    failed_event: reasons::event::BUILD_FAILED,
};
const SIGN: Words = Words {
    work: "Sign",
    done: "signed",
    created: reasons::event::SIGN_CREATED,
    succeeded: reasons::event::SIGN_SUCCEEDED,
    failed: reasons::SIGN_FAILED,
    failed_event: reasons::event::SIGN_FAILED,
};

impl Words {
    /// Of the first step, with which a Job begins.
    fn of(image: &ModuleImage) -> &'static Self {
        if image.spec.build.is_some() { &BUILD } else { &SIGN }
    }

    /// Of what is signed after it was built, by the same Job.
    fn second(image: &ModuleImage) -> Option<&'static Self> {
        (image.spec.build.is_some() && image.spec.sign.is_some()).then_some(&SIGN)
    }

    fn tell_created(&self, context: &Context, image: &ModuleImage, job: &str) {
        let note = format!("{} created for kernel {}: Job {job}", self.work, image.spec.kernel);
        apply::tell(context, image, Severity::Normal, self.created, note);
    }

    fn tell_succeeded(&self, context: &Context, image: &ModuleImage, how: &str) {
        let note = format!("{} job succeeded for kernel {}: {how}", self.work, image.spec.kernel);
        apply::tell(context, image, Severity::Normal, self.succeeded, note);
    }

    fn tell_failed(&self, context: &Context, image: &ModuleImage, why: &str) {
        let note = format!("{} job failed for kernel {}: {why}", self.work, image.spec.kernel);
        apply::tell(context, image, Severity::Warning, self.failed_event, note);
    }
}

/// Tells that a Job has built an image, and that what it does with it next has begun: nothing says so before the Job has ended.
fn tell_built(context: &Context, image: &ModuleImage, job: &str, next: &Words) {
    BUILD.tell_succeeded(context, image, &format!("in Job {job}"));
    next.tell_created(context, image, job);
}

/// Tells that an image was made, if it was said before that it is being made: every step in its turn.
pub(super) fn tell_made(context: &Context, image: &ModuleImage, how: &str) {
    let Some(status) = image.status.as_ref().filter(|status| is_being_told(status)) else { return };
    context.metrics.making_ended(Stage::of(image), &ImageKey::of(image));
    let is_built = status.reason.as_deref() == Some(reasons::BUILDING);
    let job = status.making.as_ref().map(|making| making.job.as_str()).unwrap_or_default();
    match Words::second(image) {
        Some(second) if is_built => {
            tell_built(context, image, job, second);
            second.tell_succeeded(context, image, how);
        }
        _ if is_built => BUILD.tell_succeeded(context, image, how),
        _ => SIGN.tell_succeeded(context, image, how),
    }
}
