//! An image that the registry denies the operator and not the nodes: a pod on a node that the administrator selected takes the
//! driver out of it ([`job`]), and what becomes of the pod decides what is next ([`step`]).
//!
//! The pod is a Job's, so that it ends and goes even where the operator has ended before it.

mod job;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt;
use tenon_api::pull::{CONTAINER, INSTALL_CONTAINER};
use tenon_api::task::{Report, Trouble};
use tenon_api::{ModuleImage, reasons};

use super::Finding;
use super::job::progress;
pub use job::{Settings, job, job_name};

/// Whether an image is one that a node may be asked for: there are no credentials that the registry could be asked with, and
/// nobody but its maker makes it.
pub fn is_for_nodes(image: &ModuleImage) -> bool {
    let spec = &image.spec;
    spec.image_repo_secret.is_none() && spec.build.is_none() && spec.sign.is_none()
}

/// Whether a node may be asked for the image: it [is for nodes](is_for_nodes), and the registry denies it to the operator or does not
/// answer. Who only asks for patience gets it.
pub fn may_help(image: &ModuleImage, finding: &Finding) -> bool {
    let Finding::Missing { reason, retry_after: None, needs_change: false, .. } = finding else {
        return false;
    };
    matches!(*reason, reasons::REGISTRY_DENIED | reasons::REGISTRY_UNREACHABLE) && is_for_nodes(image)
}

/// What is next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// There is no Job: it is made.
    Start,
    /// The pod is on its way, or at work.
    Follow {
        /// The pod that may bring the driver.
        pod: Option<Puller>,
        /// How far it is, in a word.
        reason: &'static str,
        /// The same in a sentence.
        message: String,
    },
    /// The Job is being deleted, and its pod with it.
    Leaving,
    /// Nothing will come of the Job: it is deleted, and what is wrong is told.
    Fail(Failure),
    /// The Job has ended well: what its pod brought is here, unless whoever took it in has ended since.
    Done {
        /// The pod, if nobody has deleted it.
        pod: Option<Puller>,
    },
}

/// A pod that takes a driver out of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Puller {
    /// Its identity, which its token has.
    pub uid: String,
    /// The digest of the image that it runs from, once the kubelet has told.
    pub digest: Option<String>,
}

/// Why nothing will come of a Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One of [`reasons`].
    pub reason: &'static str,
    /// In a sentence.
    pub message: String,
    /// Whether the same will not do again.
    pub needs_change: bool,
}

impl Failure {
    fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message, needs_change: false }
    }
}

/// Decides what is next, by the Job and its pods.
pub fn step(job: Option<&Job>, pods: &[Pod]) -> Step {
    let Some(job) = job else { return Step::Start };
    if job.metadata.deletion_timestamp.is_some() {
        return Step::Leaving;
    }
    // There is one pod, unless somebody else deletes it.
    let pod = pods.last();
    if let Some(failure) = pod.and_then(failure) {
        return Step::Fail(failure);
    }
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let told = |type_: &str| {
        conditions.iter().find(|condition| condition.type_ == type_ && condition.status == "True")
    };
    // The latter comes first, and the former not before the pod has ended: on a node that does not answer, never (KEP-3329).
    if let Some(failed) = told("Failed").or_else(|| told("FailureTarget")) {
        let why = failed.message.clone().unwrap_or_else(|| "it says no more".to_owned());
        return Step::Fail(Failure::new(reasons::PULL_POD_FAILED, format!("{}: {why}", named(job))));
    }
    if told("Complete").is_some() {
        return Step::Done { pod: pod.and_then(puller) };
    }
    follow(job, pod)
}

fn named(job: &Job) -> String {
    format!("Job {}/{}", job.namespace().unwrap_or_default(), job.name_any())
}

fn follow(job: &Job, pod: Option<&Pod>) -> Step {
    let Some(pod) = pod else {
        let message = format!("{} has no pod yet", named(job));
        return Step::Follow { pod: None, reason: reasons::PULLING, message };
    };
    let (reason, message) = if let Some(why) = unscheduled(pod) {
        (reasons::NO_NODE_TO_PULL, format!("the pod of {} finds no node: {why}", named(job)))
    } else {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("a node");
        (reasons::PULLING, format!("{node} pulls it for the operator: {}", named(job)))
    };
    Step::Follow { pod: puller(pod), reason, message }
}

/// Why no node takes a pod, in the scheduler's words.
fn unscheduled(pod: &Pod) -> Option<&str> {
    let mut conditions = pod.status.as_ref()?.conditions.iter().flatten();
    let told = conditions.find(|told| told.type_ == "PodScheduled" && told.status == "False")?;
    Some(told.message.as_deref().unwrap_or("the scheduler does not say why"))
}

fn puller(pod: &Pod) -> Option<Puller> {
    Some(Puller { uid: pod.uid()?, digest: digest(pod) })
}

/// What the kubelet says that the container runs from: `<repository>@sha256:<hex>`. A runtime that knows no more than its own name
/// of an image (`sha256:<hex>`, without a repository) has nothing by which it could be pulled again.
fn digest(pod: &Pod) -> Option<String> {
    let (_, digest) = container(pod, CONTAINER)?.image_id.rsplit_once('@')?;
    Some(digest.to_owned())
}

fn container<'p>(pod: &'p Pod, name: &str) -> Option<&'p ContainerStatus> {
    progress::containers(pod).find(|status| status.name == name)
}

/// Why nothing will come of a pod. What the kubelet would try again for ever is none of it any more: the operator asks again itself,
/// ever later, and the registry first.
fn failure(pod: &Pod) -> Option<Failure> {
    let of = |name| container(pod, name).and_then(|status| status.state.clone()).unwrap_or_default();
    let (install, pull) = (of(INSTALL_CONTAINER), of(CONTAINER));
    if let Some(waiting) = install.waiting.filter(|waiting| is_stuck(waiting.reason.as_deref())) {
        let words = words(waiting.reason, waiting.message);
        let message = format!("the pod's own image (the operator's --maker-image) does not start: {words}");
        return Some(Failure::new(reasons::PULL_POD_FAILED, message));
    }
    if let Some(waiting) = pull.waiting.filter(|waiting| is_stuck(waiting.reason.as_deref())) {
        let reason = waiting_reason(waiting.reason.as_deref());
        return Some(Failure {
            reason,
            message: format!("the kubelet says: {}", words(waiting.reason, waiting.message)),
            needs_change: reason == reasons::REFERENCE_INVALID,
        });
    }
    let ended = [install.terminated, pull.terminated].into_iter().flatten();
    if let Some(ended) = ended.into_iter().find(|ended| ended.exit_code != 0) {
        return Some(ended_badly(ended));
    }
    let status = pod.status.as_ref().filter(|status| status.phase.as_deref() == Some("Failed"))?;
    let words = words(status.reason.clone(), status.message.clone());
    Some(Failure::new(reasons::PULL_POD_FAILED, format!("the pod has failed: {words}")))
}

/// Whether a container that waits for this reason waits in vain: anything but the two by which every container begins.
fn is_stuck(reason: Option<&str>) -> bool {
    reason.is_some_and(|reason| !matches!(reason, "ContainerCreating" | "PodInitializing"))
}

/// The kubelet's reasons (`pkg/kubelet/images/types.go` in Kubernetes); others are about starting a container.
fn waiting_reason(reason: Option<&str>) -> &'static str {
    match reason {
        Some("InvalidImageName") => reasons::REFERENCE_INVALID,
        Some(
            "ErrImagePull"
            | "ImagePullBackOff"
            | "ErrImageNeverPull"
            | "RegistryUnavailable"
            | "SignatureValidationFailed"
            | "ImageInspectError",
        ) => reasons::PULL_FAILED,
        _ => reasons::PULL_POD_FAILED,
    }
}

fn ended_badly(ended: ContainerStateTerminated) -> Failure {
    let said = ended.message.filter(|message| !message.trim().is_empty());
    if let Some(Report::Failed { trouble, message }) = said.as_deref().and_then(Report::read) {
        let reason = if trouble == Trouble::Failed { reasons::PULL_POD_FAILED } else { trouble.reason() };
        return Failure { reason, message: message.to_string(), needs_change: trouble.needs_change() };
    }
    let words = words(ended.reason, said);
    Failure::new(reasons::PULL_POD_FAILED, format!("the pod ended with {}: {words}", ended.exit_code))
}

fn words(reason: Option<String>, message: Option<String>) -> String {
    [reason, message].into_iter().flatten().collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests;
