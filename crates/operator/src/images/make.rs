//! Makes an image that does not exist: what it would be made from, the Job that does it, and what came of it.
//!
//! The Secret with the private key is never read: its metadata say which version it is, and that is all that is asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions, PropagationPolicy};
use kube::{Api, ResourceExt};
use tenon_api::module::Sign;
use tenon_api::module_image::{ImagePhase, Making};
use tenon_api::task::{self, Algorithm, Place, Report, SignTask, Task, Trouble};
use tenon_api::{Module, ModuleImage, labels, reasons};
use tenon_image::ImageReference;
use tenon_image::registry::{Registry, RegistryError, Transport};
use tenon_order::ModuleKey;
use tenon_plan::provision::job::{Settings, sign_job};
use tenon_plan::provision::making::{self, JobSeen, JobState, SignInputs, Step};
use tenon_plan::provision::{Finding, Look};
use tenon_plan::retry::Retry;
use tracing::{info, warn};

use super::apply;
use crate::controllers::WriteError;
use crate::events::Severity;
use crate::metrics::{Resource, Verb};
use crate::registries::{self, TIMING, chain, failed};
use crate::run::Context;
use crate::world::World;

/// What a Job's program is to know of the way to registries.
const PROXIES: [&str; 6] = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"];

/// The most bytes of a task: Linux starts no program with a longer variable (128 KiB, `MAX_ARG_STRLEN`).
const MOST_TASK: usize = 100 * 1024;

/// What an image is to be made from, once that is known.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) sign: Sign,
    /// The image whose modules are signed, by its digest.
    source: ImageReference,
    pub(super) inputs: SignInputs,
    /// The Job that makes it, and the hash that it is named after.
    pub(super) making: Making,
    hash: tenon_order::Digest,
}

/// Why it is not known what an image is to be made from.
#[derive(Debug)]
pub(super) struct Unwanted {
    pub(super) finding: Finding,
    /// Whether it may be known in a moment.
    pub(super) passing: bool,
}

impl Unwanted {
    pub(super) fn passing(finding: Finding) -> Self {
        Self { finding, passing: true }
    }

    fn lasting(finding: Finding) -> Self {
        Self { finding, passing: false }
    }
}

/// Finds out what the image is to be made from: another image's digest, and which versions of the Secrets there are.
pub(super) async fn wanted(
    context: &Context,
    transport: &Transport,
    image: &ModuleImage,
    sign: Sign,
) -> Result<Wanted, Unwanted> {
    let source = source(image, &sign).map_err(Unwanted::lasting)?;
    let namespace = image.namespace().unwrap_or_default();
    let version = async |name: &str, field: &str| version(context, &namespace, name, field).await;
    let key = version(&sign.key_secret.name, "sign.keySecret").await?;
    let certificate = version(&sign.cert_secret.name, "sign.certSecret").await?;
    let secret = image.spec.image_repo_secret.as_ref().map(|secret| secret.name.as_str());
    let keyring = registries::keyring(context, &namespace, secret, "spec.imageRepoSecret").await;
    let keyring = keyring.map_err(Unwanted::lasting)?;
    let asked = sign.unsigned_image_registry_tls.unwrap_or_default();
    let tls = registries::tls(context, &source, asked).await.map_err(Unwanted::passing)?;
    let registry = Registry::new(transport, &tls, keyring, TIMING)
        .map_err(|error| Unwanted::lasting(failed(reasons::REGISTRY_UNREACHABLE, &error)))?;
    let digest = registry.resolve(&source).await.map_err(|error| {
        let passing = matches!(error, RegistryError::Unreachable { .. } | RegistryError::Disk { .. });
        let (absent, denied) = ("push it, or correct sign.unsignedImage", "check spec.imageRepoSecret");
        Unwanted { finding: registries::missing(&error, absent, denied), passing }
    })?;
    let inputs = SignInputs { source: digest, key, certificate };
    let hash = inputs.hash(image, &sign);
    let making =
        Making { inputs: hash.to_string(), job: making::job_name(image, &hash), ..Making::default() };
    Ok(Wanted { sign, source: source.with_digest(digest), inputs, making, hash })
}

fn source(image: &ModuleImage, sign: &Sign) -> Result<ImageReference, Finding> {
    let invalid = |message: String| Finding::Missing {
        reason: reasons::SPEC_INVALID,
        message,
        needs_change: true,
        retry_after: None,
    };
    let Some(unsigned) = &sign.unsigned_image else {
        let message = "sign.unsignedImage is not set: name the image whose modules are to be signed";
        return Err(invalid(message.to_owned()));
    };
    let source: ImageReference =
        unsigned.parse().map_err(|error| invalid(format!("sign.unsignedImage: {}", chain(&error))))?;
    if *unsigned == image.spec.image {
        let message = format!(
            "sign.unsignedImage and containerImage are both {unsigned}: the signed image needs a name of its own"
        );
        return Err(invalid(message));
    }
    if image.spec.image.contains('@') {
        let message = format!(
            "containerImage {} names a digest, which what is signed gets only when it is signed: name a tag",
            image.spec.image
        );
        return Err(invalid(message));
    }
    Ok(source)
}

/// What another ModuleImage of the namespace wants otherwise of an image of this name: there can be only one.
pub(super) fn conflict(world: &World, image: &ModuleImage) -> Option<Finding> {
    let index = world.read();
    let other = index.images().find(|other| {
        other.metadata.namespace == image.metadata.namespace
            && other.spec.image == image.spec.image
            && other.spec.sign.is_some()
            && other.spec.sign != image.spec.sign
    })?;
    Some(Finding::Missing {
        reason: reasons::SPEC_INVALID,
        message: format!(
            "{} is to be made in two ways: Module {} for kernel {} signs otherwise; give each a containerImage of its own",
            image.spec.image, other.spec.module, other.spec.kernel
        ),
        needs_change: true,
        retry_after: None,
    })
}

/// Which Secret it is, and which version of it.
async fn version(context: &Context, namespace: &str, name: &str, field: &str) -> Result<String, Unwanted> {
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let waiting = |message| Finding::Missing {
        reason: reasons::SECRET_MISSING,
        message,
        needs_change: false,
        retry_after: None,
    };
    match secrets.get_metadata_opt(name).await {
        Ok(Some(secret)) => Ok(format!(
            "{}/{}",
            secret.uid().unwrap_or_default(),
            secret.resource_version().unwrap_or_default()
        )),
        Ok(None) => {
            let message = format!("Secret {namespace}/{name} ({field}) does not exist; create it");
            Err(Unwanted::lasting(waiting(message)))
        }
        Err(error) => {
            let message = format!("Secret {namespace}/{name} ({field}) cannot be read: {}", chain(&error));
            Err(Unwanted::passing(waiting(message)))
        }
    }
}

/// Whether an image that exists is to be made anew: by its labels, or because a Secret is another one than it was, or may be.
pub(super) fn is_outdated(
    image: &ModuleImage,
    labels: &BTreeMap<String, String>,
    wanted: &Wanted,
    jobs: &[JobSeen],
) -> bool {
    if making::is_outdated(labels, &wanted.sign, Some(&wanted.inputs.source)) {
        return true;
    }
    let just_made = jobs.iter().any(|job| job.name == wanted.making.job && job.state == JobState::Succeeded);
    // What was to be made and is not known to have been made says nothing of what is there.
    let made = image.status.as_ref().filter(|status| status.phase == Some(ImagePhase::Ready));
    let made = made.and_then(|status| status.making.as_ref());
    // Who does not know by which Secret it was made has a Job look, which leaves what is right as it is.
    let same = made.is_some_and(|made| made.inputs == wanted.making.inputs);
    making::is_ours(labels) && !same && !just_made
}

/// The same while it is not known what it would be made from: what may be known in a moment is waited for.
pub(super) fn may_be_outdated(labels: &BTreeMap<String, String>, sign: &Sign, passing: bool) -> bool {
    making::is_outdated(labels, sign, None) || (passing && making::is_ours(labels))
}

/// Brings an image one step nearer to being made. `jobs` were looked at before the image was looked for and not found.
pub(super) async fn make(
    context: &Context,
    world: &World,
    image: &ModuleImage,
    wanted: &Wanted,
    lacking: Vec<Algorithm>,
    jobs: &[JobSeen],
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
    let following = |making: Making| Look {
        finding: Finding::Making {
            message: format!("Job {} signs modules of {}", making.job, wanted.source),
        },
        making: Some(making),
        retry_at: None,
    };
    let whose = labels::value(&image.spec.module);
    // A user who wants another try does not want to wait for one that hangs.
    let told = status.and_then(|status| status.making.as_ref()).filter(|told| told.job == wanted.making.job);
    let hangs = |job: &&JobSeen| job.name == wanted.making.job && job.state == JobState::Running;
    if let Some(job) = jobs.iter().find(hangs).filter(|_| told.is_some_and(|told| told.retry != wish)) {
        clear(context, image, job).await?;
        return Ok(following(known));
    }
    match making::step(Some(&known), retry_at, (&whose, &wanted.making.job), jobs, now.0) {
        Step::Follow => {
            let mut look = following(known);
            // Not at once: a pod takes a moment to start.
            if status.is_some_and(|status| status.phase == Some(ImagePhase::Signing))
                && let Some(why) = hindrance(context, image, jobs).await
                && let Finding::Making { message } = &mut look.finding
            {
                *message = format!("{message}; {why}");
            }
            Ok(look)
        }
        // Another look may have begun one meanwhile.
        Step::Start if is_being_made(world, image) => Ok(following(known)),
        Step::Start => match start(context, world, image, wanted, lacking).await? {
            Ok(()) => Ok(following(known)),
            Err(finding) => Ok(Look { finding, making: Some(known), retry_at: None }),
        },
        Step::Clear(job) => {
            clear(context, image, &job).await?;
            Ok(following(known))
        }
        Step::Note(job) => Ok(note(context, image, &job, known, now).await),
        // What is known stays as it is said.
        Step::Wait(_) => Ok(Look { finding: said(status), making: Some(known), retry_at: retry_at.cloned() }),
    }
}

/// Whether some Job makes the image now.
fn is_being_made(world: &World, image: &ModuleImage) -> bool {
    let jobs = world.jobs_of(&image.namespace().unwrap_or_default(), &image.spec.image);
    jobs.iter().any(|job| matches!(job.state, JobState::Running | JobState::Leaving))
}

/// The Module that the image is for.
fn module_of(world: &World, image: &ModuleImage) -> Option<Arc<Module>> {
    let owner = image.owner_references().iter().find(|owner| owner.kind == "Module")?;
    let key = ModuleKey::new(&image.namespace()?, &owner.name).ok()?;
    world.read().module(&key).cloned()
}

/// What the status says of the last failure.
fn said(status: Option<&tenon_api::ModuleImageStatus>) -> Finding {
    let message = status.and_then(|status| status.message.as_ref()).map(ToString::to_string);
    let reason = status.and_then(|status| status.reason.as_deref()).unwrap_or_default();
    let failed = status.is_some_and(|status| status.phase == Some(ImagePhase::Failed));
    Finding::Missing {
        reason: Trouble::ALL
            .map(Trouble::reason)
            .into_iter()
            .find(|known| *known == reason)
            .unwrap_or(reasons::SIGN_FAILED),
        message: message.unwrap_or_default(),
        needs_change: failed,
        retry_after: None,
    }
}

/// Makes the Job, unless it is there: nobody else makes one of this name.
async fn start(
    context: &Context,
    world: &World,
    image: &ModuleImage,
    wanted: &Wanted,
    lacking: Vec<Algorithm>,
) -> Result<Result<(), Finding>, WriteError> {
    let place = async |reference: &ImageReference, asked| -> Result<Place, Finding> {
        let tls = registries::tls(context, reference, asked).await?;
        Ok(Place {
            image: reference.to_string(),
            plain_http: tls.plain_http,
            skip_verify: tls.skip_verify,
            authority: tls.authority.map(|pem| String::from_utf8_lossy(&pem).into_owned()),
        })
    };
    let to: Result<ImageReference, _> = image.spec.image.parse();
    let to = match to {
        Ok(to) => place(&to, image.spec.registry_tls.unwrap_or_default()).await,
        Err(error) => Err(failed(reasons::REFERENCE_INVALID, &error)),
    };
    let from = place(&wanted.source, wanted.sign.unsigned_image_registry_tls.unwrap_or_default()).await;
    let (to, from) = match (to, from) {
        (Ok(to), Ok(from)) => (to, from),
        (Err(finding), _) | (_, Err(finding)) => return Ok(Err(finding)),
    };
    let task = Task::Sign(SignTask {
        from,
        to,
        files: wanted.sign.files_to_sign.clone(),
        hash: wanted.sign.hash.unwrap_or_default(),
        request: making::request(&wanted.sign),
        lacking,
    });
    if serde_json::to_string(&task).is_ok_and(|text| text.len() > MOST_TASK) {
        return Ok(Err(Finding::Missing {
            reason: reasons::SPEC_INVALID,
            message: format!(
                "what the Job would be told has more than {MOST_TASK} bytes: shorten sign.filesToSign, or the \
                 operator's --registry ca-file"
            ),
            needs_change: true,
            retry_after: None,
        }));
    }
    let environment =
        PROXIES.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))).collect();
    let settings = Settings { image: context.args.maker_image.to_string(), environment };
    let (namespace, module) = (image.namespace().unwrap_or_default(), module_of(world, image));
    let tolerations = module.as_ref().map(|module| module.spec.tolerations.as_slice());
    let job = sign_job(image, &wanted.sign, &wanted.hash, &task, tolerations, &settings);
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &namespace);
    let params =
        PostParams { field_manager: Some(labels::field_manager::IMAGES.to_owned()), ..PostParams::default() };
    match context.writes.make(Resource::Job, Verb::Create, jobs.create(&params, &job)).await {
        Ok(made) => {
            info!(image = image.spec.image, job = made.name_any(), "a Job signs its modules");
            world.job(&namespace, &made.name_any(), crate::world::KnownJob::of(&made));
            let note = format!("signing started for kernel {}: Job {}", image.spec.kernel, made.name_any());
            apply::tell(context, image, Severity::Normal, reasons::event::SIGN_CREATED, note);
            Ok(Ok(()))
        }
        Err(WriteError::Api(kube::Error::Api(status))) if status.is_already_exists() => {
            Ok(claimed(&jobs, wanted).await)
        }
        Err(WriteError::Api(kube::Error::Api(status))) if [400, 403, 422].contains(&status.code) => {
            // A quota, or a policy of the namespace's.
            let message =
                format!("the Job that signs cannot be made in namespace {namespace}: {}", status.message);
            Ok(Err(Finding::Missing {
                reason: reasons::SIGN_FAILED,
                message,
                needs_change: false,
                retry_after: None,
            }))
        }
        Err(error) => Err(error),
    }
}

/// Whether the Job that has this name is the one.
async fn claimed(jobs: &Api<Job>, wanted: &Wanted) -> Result<(), Finding> {
    let known = jobs.get_metadata_opt(&wanted.making.job).await;
    let known = known.map_err(|error| failed(reasons::SIGN_FAILED, &error))?;
    let hash = |metadata: &kube::core::PartialObjectMeta<Job>| {
        metadata.annotations().get(labels::annotation::LAST_HASH).cloned()
    };
    match known {
        Some(known) if hash(&known).as_ref() != Some(&wanted.making.inputs) => Err(Finding::Missing {
            reason: reasons::SIGN_FAILED,
            message: format!(
                "there is a Job {} already, and it is not Tenon's: delete it",
                wanted.making.job
            ),
            needs_change: false,
            retry_after: None,
        }),
        // Ours: the watch will tell of it. Or gone again: it is made in the next turn.
        _ => Ok(()),
    }
}

/// Deletes a Job, and its pod before it: what runs must have ended before another begins.
async fn clear(context: &Context, image: &ModuleImage, job: &JobSeen) -> Result<(), WriteError> {
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

/// A Job has ended, and the image is not there: why, and when to try again.
async fn note(context: &Context, image: &ModuleImage, job: &JobSeen, known: Making, now: &Time) -> Look {
    let report = match job.state {
        JobState::Succeeded => Report::Failed {
            trouble: Trouble::Failed,
            message: format!("Job {} has ended well, but the registry does not have the image", job.name)
                .into(),
        },
        _ => report(context, image, job).await,
    };
    let (reason, message, needs_change) = match report {
        Report::Failed { trouble, message } => {
            (trouble.reason(), message.to_string(), trouble.needs_change())
        }
        // It says that it succeeded, and Kubernetes that it did not.
        Report::Made { message, .. } => (reasons::SIGN_FAILED, message.to_string(), false),
    };
    let failures = known.failures.saturating_add(1);
    let retry_at = making::later(now, making::again_after(failures, needs_change));
    warn!(image = image.spec.image, job = job.name, reason, message, failures, "modules were not signed");
    let note = format!("kernel {}: {message}", image.spec.kernel);
    apply::tell(context, image, Severity::Warning, reasons::event::SIGN_FAILED, note);
    Look {
        finding: Finding::Missing { reason, message, needs_change, retry_after: None },
        making: Some(Making { failures, failed: Some(job.uid.clone()), ..known }),
        retry_at: Some(retry_at),
    }
}

/// The pods of this very Job.
async fn pods_of(context: &Context, image: &ModuleImage, job: &JobSeen) -> Result<Vec<Pod>, kube::Error> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &image.namespace().unwrap_or_default());
    let params = ListParams::default().labels(&format!("batch.kubernetes.io/controller-uid={}", job.uid));
    Ok(pods.list(&params).await?.items)
}

/// What the pod of a failed Job has left: its report, its last words, or what Kubernetes says.
async fn report(context: &Context, image: &ModuleImage, job: &JobSeen) -> Report {
    let found = pods_of(context, image, job).await.unwrap_or_default();
    let mut messages = found.iter().filter_map(last_words);
    let told = messages.next_back();
    if let Some(report) = told.as_deref().and_then(Report::read) {
        return report;
    }
    let kubernetes = if job.message.is_empty() { "it says no more" } else { &job.message };
    let message = match told {
        Some(words) => format!("Job {} failed: {kubernetes}; its last words: {}", job.name, words.trim()),
        None => format!("Job {} failed: {kubernetes}", job.name),
    };
    Report::Failed { trouble: Trouble::Failed, message: message.into() }
}

/// What keeps the pod of a running Job from running: quota and policies keep it from being made, its image or a node may be
/// missing.
async fn hindrance(context: &Context, image: &ModuleImage, jobs: &[JobSeen]) -> Option<String> {
    let job = jobs.iter().find(|job| job.state == JobState::Running)?;
    let found = pods_of(context, image, job).await.ok()?;
    let Some(pod) = found.first() else {
        return Some(format!("it has no pod: `kubectl describe job {}` says why", job.name));
    };
    let status = pod.status.as_ref().filter(|status| status.phase.as_deref() == Some("Pending"))?;
    let mut containers = status.container_statuses.iter().flatten();
    let waiting = containers.find_map(|container| container.state.as_ref()?.waiting.clone());
    let unscheduled = || {
        let mut conditions = status.conditions.iter().flatten();
        conditions.find(|condition| condition.status == "False")?.message.clone()
    };
    let why = waiting.and_then(|waiting| waiting.message.or(waiting.reason)).or_else(unscheduled)?;
    Some(format!("its pod waits: {why}"))
}

fn last_words(pod: &Pod) -> Option<String> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    let container = containers.iter().find(|container| container.name == task::CONTAINER)?;
    container.state.as_ref()?.terminated.as_ref()?.message.clone().filter(|message| !message.is_empty())
}
