//! What became of a Job: why it failed, what keeps it from running, and how it is deleted.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, ListParams, Preconditions, PropagationPolicy};
use kube::{Api, ResourceExt};
use tenon_api::module_image::Making;
use tenon_api::task::{self, Report, Trouble};
use tenon_api::{ModuleImage, ShortMessage, gather, message, reasons};
use tenon_plan::provision::job::progress;
use tenon_plan::provision::making::{self, JobSeen, JobState};
use tenon_plan::provision::{Finding, Look};
use tracing::{info, warn};

use super::Words;
use crate::controllers::WriteError;
use crate::metrics::{Resource, Stage, Verb};
use crate::run::Context;
use crate::world::{ImageKey, World};

/// Deletes a Job, and its pod before it: what runs must have ended before another begins.
pub(super) async fn clear(context: &Context, image: &ModuleImage, job: &JobSeen) -> Result<(), WriteError> {
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &image.namespace().unwrap_or_default());
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        preconditions: Some(Preconditions { uid: Some(job.uid.clone()), resource_version: None }),
        ..DeleteParams::default()
    };
    let call = jobs.delete(&job.name, &params);
    match context.writes.make(Resource::Job, Verb::Delete, call).await {
        Err(WriteError::Api(kube::Error::Api(status))) if status.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

/// Why a Job has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    reason: &'static str,
    message: String,
    needs_change: bool,
}

/// A Job has ended, and the image is not there: why, and when to try again.
pub(super) async fn note(
    context: &Context,
    image: &ModuleImage,
    job: &JobSeen,
    known: Making,
    now: &Time,
) -> Look {
    let pods = pods_of(context, image, job).await.ok();
    let second = Words::second(image).filter(|_| is_beyond_build(job, pods.as_deref().unwrap_or_default()));
    let words = second.unwrap_or_else(|| Words::of(image));
    let Failure { reason, message, needs_change } = if job.state == JobState::Succeeded {
        let message = format!("Job {} has ended well, but the registry does not have the image", job.name);
        Failure { reason: words.failed, message, needs_change: false }
    } else {
        why(image, job, pods.as_deref(), words.failed)
    };
    let failures = known.failures.saturating_add(1);
    let retry_at = making::later(now, making::again_after(failures, needs_change));
    warn!(image = image.spec.image, job = job.name, reason, message, failures, "an image was not made");
    let stage = Stage::of(image);
    context.metrics.making_ended(stage, &ImageKey::of(image));
    context.metrics.failed(stage, reason);
    if let Some(second) = second {
        super::tell_built(context, image, &job.name, second);
    }
    words.tell_failed(context, image, &message);
    Look {
        finding: Finding::Missing { reason, message, needs_change, retry_after: None },
        making: Some(Making { failures, failed: Some(job.uid.clone()), ..known }),
        retry_at: Some(retry_at),
    }
}

/// Whether what failed was not the build, but what signs its result and publishes it: its container begins once all before it have
/// ended well. A kubelet that ends a pod early says of a container that never began that it ended, but not when it began.
fn is_beyond_build(job: &JobSeen, pods: &[Pod]) -> bool {
    let began = |pod: &Pod| {
        let state =
            progress::containers(pod).find(|status| status.name == task::CONTAINER)?.state.as_ref()?;
        let ended = state.terminated.as_ref().is_some_and(|ended| ended.started_at.is_some());
        Some(state.running.is_some() || ended)
    };
    job.state == JobState::Succeeded || pods.iter().any(|pod| began(pod).unwrap_or_default())
}

/// A Job that was to publish nothing has done all else.
pub(super) fn tried(context: &Context, image: &ModuleImage, known: Making) -> Look {
    let (words, second) = (Words::of(image), Words::second(image));
    let signed = second.map(|second| format!(" and {}", second.done)).unwrap_or_default();
    let (name, done) = (&image.spec.image, words.done);
    let message = format!("{name} was {done}{signed} by Job {}, and is not pushed", known.job);
    info!(image = name, job = known.job, "an image was made on trial");
    context.metrics.making_ended(Stage::of(image), &ImageKey::of(image));
    if let Some(second) = second {
        super::tell_built(context, image, &known.job, second);
    }
    second.unwrap_or(words).tell_succeeded(context, image, "it was not to be pushed");
    let making = Making { failures: 0, failed: None, ..known };
    Look { finding: super::not_pushed(message), making: Some(making), retry_at: None }
}

/// The pods of this very Job.
async fn pods_of(context: &Context, image: &ModuleImage, job: &JobSeen) -> Result<Vec<Pod>, kube::Error> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &image.namespace().unwrap_or_default());
    let params = ListParams::default().labels(&format!("batch.kubernetes.io/controller-uid={}", job.uid));
    Ok(pods.list(&params).await?.items)
}

/// Why a Job has failed, by what its pods have left: what ended them before their time, the program's report, the builder's last
/// words, or what Kubernetes says. `None`: nobody could be asked for the pods.
fn why(image: &ModuleImage, job: &JobSeen, pods: Option<&[Pod]>, otherwise: &'static str) -> Failure {
    let failed = |message| Failure { reason: otherwise, message, needs_change: false };
    let gone = pods.is_some_and(<[Pod]>::is_empty);
    let pods = pods.unwrap_or_default();
    let report = |container| {
        let told = pods.iter().rev().find_map(|pod| terminated(pod, container)).and_then(said);
        (told.as_deref().and_then(Report::read), told)
    };
    if let (Some(Report::Failed { trouble, message }), _) = report(gather::CONTAINER) {
        return reported(trouble, &message, otherwise);
    }
    if let Some((how, pod)) = pods.iter().rev().find_map(|pod| Some((progress::cut_short(image, pod)?, pod)))
    {
        return failed(with_last_words(format!("Job {}: {how}", job.name), &last_words(pod)));
    }
    if let Some(failed) = pods.iter().rev().find_map(|pod| built_badly(job, pod)) {
        return failed;
    }
    let (read, told) = report(task::CONTAINER);
    match read {
        Some(Report::Failed { trouble, message }) => return reported(trouble, &message, otherwise),
        // It says that it succeeded, and Kubernetes that it did not.
        Some(Report::Made { message, .. } | Report::Tried { message }) => return failed(message.to_string()),
        None => {}
    }
    let kubernetes = if job.message.is_empty() { "Kubernetes says no more" } else { &job.message };
    // The deadline of a Job, too, deletes what its kubelet has not ended.
    let gone = if gone { "; its pod is gone: it was deleted, or its node was" } else { "" };
    failed(with_last_words(format!("Job {} failed: {kubernetes}{gone}", job.name), &told.unwrap_or_default()))
}

/// The end of a log says why, its beginning does not.
fn with_last_words(begin: String, words: &str) -> String {
    let words = words.trim();
    if words.is_empty() {
        return begin;
    }
    let begin = format!("{begin}; its last words: ");
    let room = message::MAX_BYTES.saturating_sub(begin.len());
    format!("{begin}{}", message::end(words, room))
}

/// What the container has left that was the last to end badly.
fn last_words(pod: &Pod) -> String {
    let ended = progress::containers(pod).filter_map(|status| status.state.as_ref()?.terminated.as_ref());
    let ended = ended.filter(|ended| ended.exit_code != 0).last();
    ended.and_then(said).unwrap_or_default()
}

fn reported(trouble: Trouble, message: &ShortMessage, otherwise: &'static str) -> Failure {
    let reason = if trouble == Trouble::Failed { otherwise } else { trouble.reason() };
    Failure { reason, message: message.to_string(), needs_change: trouble.needs_change() }
}

/// How programs say `ENOSPC`.
const DISK_FULL: &str = "No space left on device";

/// What the container that builds has left, when it was that one that failed.
fn built_badly(job: &JobSeen, pod: &Pod) -> Option<Failure> {
    let failed = |container| terminated(pod, container).filter(|ended| ended.exit_code != 0);
    // What gathers leaves a report, unless it is killed.
    let fetched = failed(task::FETCH_CONTAINER).or_else(|| failed(gather::CONTAINER));
    let fetching = fetched.is_some();
    let what = if fetching { "the sources were not fetched" } else { "the build failed" };
    let ended = fetched.or_else(|| failed(task::BUILD_CONTAINER))?;
    let words = said(ended).unwrap_or_default();
    // Anybody's program may end with this code.
    if ended.exit_code == task::CONFINED && words.contains(task::BUILDER_SAYS) {
        return Some(Failure {
            reason: reasons::BUILDER_CONFINED,
            message: words.trim().to_owned(),
            needs_change: false,
        });
    }
    let how = match ended.reason.as_deref() {
        Some("OOMKilled") if fetching => "it needs more memory than the 1Gi that it may have".to_owned(),
        Some("OOMKilled") => "it needs more memory than build.resources.limits.memory allows".to_owned(),
        _ if words.contains(DISK_FULL) => {
            format!("the disk of its node is full, exit code {}", ended.exit_code)
        }
        _ => format!("exit code {}", ended.exit_code),
    };
    let message = with_last_words(format!("Job {}: {what}, {how}", job.name), &words);
    Some(Failure { reason: reasons::BUILD_FAILED, message, needs_change: false })
}

fn terminated<'p>(pod: &'p Pod, container: &str) -> Option<&'p ContainerStateTerminated> {
    progress::containers(pod).find(|status| status.name == container)?.state.as_ref()?.terminated.as_ref()
}

fn said(ended: &ContainerStateTerminated) -> Option<String> {
    ended.message.clone().filter(|message| !message.is_empty())
}

/// What keeps the pod of a Job from running.
#[derive(Debug)]
pub(super) struct Hindrance {
    /// In a sentence.
    pub(super) why: String,
    /// Whether no node has taken it.
    pub(super) unplaced: bool,
    /// Whether its node is of no use: what is not known to run is in nobody's way.
    pub(super) bereft: bool,
}

/// What keeps the pod of a Job from running, or from ending: quota and policies keep it from being made, its image or a node may be
/// missing, or its node says no more.
pub(super) async fn hindrance(
    context: &Context,
    world: &World,
    image: &ModuleImage,
    job: &JobSeen,
) -> Option<Hindrance> {
    let found = pods_of(context, image, job).await.ok()?;
    let leaving = job.state == JobState::Leaving;
    let Some(pod) = found.first() else {
        let why = format!("it has no pod: `kubectl describe job {}` says why", job.name);
        // It may come in a moment.
        return (!leaving).then_some(Hindrance { why, unplaced: false, bereft: false });
    };
    if let Some(why) = bereavement(world, pod) {
        return Some(Hindrance { why, unplaced: false, bereft: true });
    }
    let why = format!("its pod waits: {}", progress::hindrance(pod).filter(|_| !leaving)?);
    Some(Hindrance { why, unplaced: progress::is_unplaced(pod), bereft: false })
}

fn bereavement(world: &World, pod: &Pod) -> Option<String> {
    let node = progress::node_of(pod)?;
    let facts = world.read().node(&node.parse().ok()?).cloned();
    progress::bereavement(node, facts.as_deref())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    #[rstest]
    #[case::waits(json!({ "waiting": { "reason": "PodInitializing" } }), false)]
    #[case::runs(json!({ "running": { "startedAt": "2026-01-01T00:00:00Z" } }), true)]
    #[case::failed(
        json!({ "terminated": { "exitCode": 1, "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:01Z" } }),
        true
    )]
    // As a kubelet has it that ends a pod at its deadline while it builds.
    #[case::never_begun(
        json!({ "terminated": { "exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": null, "finishedAt": null } }),
        false
    )]
    fn only_what_has_begun_to_sign_has_failed_to(#[case] state: Value, #[case] expected: bool) {
        let ended = json!({ "terminated": { "exitCode": 0, "startedAt": "2026-01-01T00:00:00Z" } });
        let status = |name: &str, state: &Value| json!([{ "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state }]);
        let pod: Pod = serde_json::from_value(json!({ "metadata": { "name": "p" }, "status": {
            "initContainerStatuses": status(task::BUILD_CONTAINER, &ended),
            "containerStatuses": status(task::CONTAINER, &state),
        }}))
        .unwrap();
        let failed = JobSeen {
            name: "gauge-build-1".to_owned(),
            uid: "u".to_owned(),
            module: "gauge".to_owned(),
            placement: String::new(),
            state: JobState::Failed,
            message: String::new(),
        };
        assert_eq!(is_beyond_build(&failed, &[pod]), expected);
        assert!(!is_beyond_build(&failed, &[]), "of a pod that is gone nothing is known");
        assert!(is_beyond_build(&JobSeen { state: JobState::Succeeded, ..failed }, &[]));
    }
}
