//! `kubectl tenon logs`: what the Jobs say that make a Module's images.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use futures::AsyncBufReadExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, LogParams};
use kube::{Api, Client, ResourceExt as _};
use serde::Serialize;
use tenon_api::module_image::{ImagePhase, Making, ModuleImage};
use tenon_api::task::{BUILD_CONTAINER, CONTAINER, FETCH_CONTAINER};
use tenon_api::{gather, labels};
use tenon_order::ModuleKey;
use tenon_plan::provision::job::progress;

use crate::answer::{self, AnswerError, Format};
use crate::cluster::{ClusterArgs, ClusterError, block_on, is_silent};
use crate::failure::Failure;
use crate::terminal::{self, PlainPieces};

/// How often a pod that does not run yet is looked at.
const LOOK: Duration = Duration::from_secs(1);

const LONG_ABOUT: &str = "Show what the Jobs say that make a Module's images.

For each kernel of the Module's nodes: the log of the last Job that made its image, or is making it, and how it stands. Jobs \
that have ended are kept for an hour; of those that are gone only what the ModuleImage says is left.";

#[derive(Debug, clap::Args)]
#[command(long_about = LONG_ABOUT)]
pub(crate) struct Args {
    /// The Module
    module: String,
    /// Only the image for this kernel, as `uname -r` prints it
    #[arg(long, value_name = "RELEASE")]
    kernel: Option<String>,
    /// Go on until the Jobs have ended
    #[arg(short, long, conflicts_with = "output")]
    follow: bool,
    /// For programs
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogsError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("read {what} of Module {module}")]
    Read { what: &'static str, module: ModuleKey, source: Box<kube::Error> },
    #[error("read the log of pod {pod}")]
    Stream { pod: String, source: std::io::Error },
    #[error("Module {module} has no image{}", kernel.as_ref().map_or_else(String::new, |kernel| format!(" for kernel {kernel}")))]
    NoImage { module: ModuleKey, kernel: Option<String> },
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error("write to standard output")]
    Output(#[source] std::io::Error),
}

impl LogsError {
    pub(crate) fn into_failure(self) -> Failure {
        let passing = match &self {
            Self::Read { source, .. } => is_silent(source),
            Self::Stream { .. } => true,
            _ => false,
        };
        let hint = match &self {
            Self::NoImage { module, .. } => Some(format!(
                "kubectl get moduleimages -n {} shows what there is; is {} right, and does it select a node?",
                module.namespace(),
                module.name()
            )),
            _ => None,
        };
        Failure::new(self).hint(hint).passing(passing)
    }
}

pub(crate) fn run(args: &Args) -> Result<(), LogsError> {
    block_on(logs(args))?
}

async fn logs(args: &Args) -> Result<(), LogsError> {
    let (client, key) = args.cluster.connect(&args.module).await?;
    let read = |what| {
        let module = key.clone();
        move |source| LogsError::Read { what, module, source: Box::new(source) }
    };
    let images: Api<ModuleImage> = Api::namespaced(client.clone(), key.namespace());
    let of_module = format!("{}={}", labels::MODULE_NAME, labels::value(key.name()));
    let list = images.list(&ListParams::default().labels(&of_module)).await.map_err(read("the images"))?;
    let is_meant =
        |image: &&ModuleImage| args.kernel.as_ref().is_none_or(|kernel| *kernel == image.spec.kernel);
    let images: Vec<_> = list.items.iter().filter(is_meant).collect();
    if images.is_empty() {
        return Err(LogsError::NoImage { module: key.clone(), kernel: args.kernel.clone() });
    }
    if let Some(format) = args.output {
        let mut all = Vec::new();
        for image in images {
            all.push(said(&client, &key, image).await?);
        }
        return Ok(answer::say(&answer::written(&all, format)?)?);
    }
    for image in images {
        say(&heading(image))?;
        let making = image.status.as_ref().and_then(|status| status.making.as_ref());
        if let Some(making) = making {
            match pod(&client, &key, making).await.map_err(read("the pods"))? {
                Some(pod) => show(&client, &key, &pod, args.follow).await?,
                None => say("(the Job has no pod, or has gone: those that have ended are kept for an hour)")?,
            }
        }
    }
    Ok(())
}

/// What is said of one image, for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    kernel: String,
    architecture: String,
    image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<ImagePhase>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<String>,
    failures: i32,
    /// The Job's last pod, if it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    /// What is in its way.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits: Option<String>,
    /// In the order in which they run.
    containers: Vec<ContainerSaid>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerSaid {
    name: &'static str,
    /// Not text, perhaps; what is none in it is replaced.
    log: String,
}

async fn said(client: &Client, key: &ModuleKey, image: &ModuleImage) -> Result<Said, LogsError> {
    let status = image.status.clone().unwrap_or_default();
    let mut said = Said {
        kernel: image.spec.kernel.clone(),
        architecture: image.spec.architecture.clone(),
        image: image.spec.image.clone(),
        phase: status.phase,
        reason: status.reason,
        message: status.message.map(|message| message.to_string()),
        job: status.making.as_ref().map(|making| making.job.clone()),
        failures: status.making.as_ref().map_or(0, |making| making.failures),
        pod: None,
        waits: None,
        containers: Vec::new(),
    };
    let Some(making) = status.making else { return Ok(said) };
    let read = |what| {
        let module = key.clone();
        move |source| LogsError::Read { what, module, source: Box::new(source) }
    };
    let Some(pod) = pod(client, key, &making).await.map_err(read("the pods"))? else { return Ok(said) };
    let pods: Api<Pod> = Api::namespaced(client.clone(), key.namespace());
    said.pod = Some(pod.name_any());
    for name in containers(&pod) {
        if !progress::has_begun(&pod, name) {
            said.waits = progress::hindrance(&pod).filter(|_| !progress::has_ended(&pod));
            break;
        }
        let params = LogParams { container: Some(name.to_owned()), ..LogParams::default() };
        match pods.logs(&pod.name_any(), &params).await {
            Ok(log) => said.containers.push(ContainerSaid { name, log }),
            Err(kube::Error::Api(status)) => said.waits = Some(status.message),
            Err(source) => return Err(read("the log")(source)),
        }
    }
    Ok(said)
}

/// Which image, and how it stands.
fn heading(image: &ModuleImage) -> String {
    let status = image.status.clone().unwrap_or_default();
    let making = status.making.as_ref();
    let by = match making {
        Some(making) if making.failures > 0 => {
            format!("Job {}, {} failed before", making.job, counted(making.failures))
        }
        Some(making) => format!("Job {}", making.job),
        None if status.phase == Some(ImagePhase::Ready) => "made elsewhere".to_owned(),
        None => "no Job".to_owned(),
    };
    let phase = status.phase.map_or_else(|| "Waiting".to_owned(), |phase| format!("{phase:?}"));
    let message = status.message.map(|message| message.to_string()).unwrap_or_default();
    format!(
        "==> kernel {} ({}): {phase}, {by}\n    {}\n    {message}",
        image.spec.kernel, image.spec.architecture, image.spec.image
    )
}

fn counted(failures: i32) -> String {
    if failures == 1 { "one".to_owned() } else { failures.to_string() }
}

/// The Job's last pod.
async fn pod(client: &Client, key: &ModuleKey, making: &Making) -> Result<Option<Pod>, kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), key.namespace());
    let of_job = format!("batch.kubernetes.io/job-name={}", making.job);
    let list = pods.list(&ListParams::default().labels(&of_job)).await?;
    Ok(list.items.into_iter().max_by_key(|pod| pod.metadata.creation_timestamp.clone()))
}

async fn show(client: &Client, key: &ModuleKey, pod: &Pod, follow: bool) -> Result<(), LogsError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), key.namespace());
    let mut pod = pod.clone();
    for container in containers(&pod) {
        match begun(&pods, key, pod, container, follow).await? {
            Some(now) => pod = now,
            None => return Ok(()),
        }
        stream(&pods, key, &pod, container, follow).await?;
    }
    Ok(())
}

/// The containers of a pod, in the order in which they run.
fn containers(pod: &Pod) -> Vec<&'static str> {
    let before = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
    let has = |name: &&str| before.is_some_and(|all| all.iter().any(|container| container.name == *name));
    [FETCH_CONTAINER, gather::CONTAINER, BUILD_CONTAINER].into_iter().filter(has).chain([CONTAINER]).collect()
}

/// Waits until a container has begun, if that is wanted, and says what is in its way; `None` when there is nothing to read.
async fn begun(
    pods: &Api<Pod>,
    key: &ModuleKey,
    mut pod: Pod,
    container: &str,
    follow: bool,
) -> Result<Option<Pod>, LogsError> {
    let mut told = None;
    while !progress::has_begun(&pod, container) {
        if progress::has_ended(&pod) {
            return Ok(None);
        }
        let why = progress::hindrance(&pod).unwrap_or_else(|| format!("container {container} has not begun"));
        if told.as_ref() != Some(&why) {
            say(&format!("(pod {} waits: {why})", pod.name_any()))?;
        }
        if !follow {
            return Ok(None);
        }
        told = Some(why);
        tokio::time::sleep(LOOK).await;
        let failed =
            |source| LogsError::Read { what: "a pod", module: key.clone(), source: Box::new(source) };
        let Some(now) = pods.get_opt(&pod.name_any()).await.map_err(failed)? else {
            say("(the pod has gone)")?;
            return Ok(None);
        };
        pod = now;
    }
    Ok(Some(pod))
}

async fn stream(
    pods: &Api<Pod>,
    key: &ModuleKey,
    pod: &Pod,
    container: &str,
    follow: bool,
) -> Result<(), LogsError> {
    let params = LogParams { container: Some(container.to_owned()), follow, ..LogParams::default() };
    let name = pod.name_any();
    let log = match pods.log_stream(&name, &params).await {
        Ok(log) => log,
        // It waits for its image, or for a node.
        Err(kube::Error::Api(status)) => {
            return say(&format!("(pod {name} has no log yet: {})", status.message));
        }
        Err(source) => {
            return Err(LogsError::Read { what: "the log", module: key.clone(), source: Box::new(source) });
        }
    };
    let failed = |source| LogsError::Stream { pod: name.clone(), source };
    let mut log = std::pin::pin!(log);
    let mut output = std::io::stdout();
    // As it comes: a line may be as long as the log, and need not be text.
    let mut last = b'\n';
    let mut shown = output.is_terminal().then(PlainPieces::default);
    loop {
        let piece = log.fill_buf().await.map_err(failed)?;
        let Some(end) = piece.last() else { break };
        last = *end;
        let written = match &mut shown {
            Some(pieces) => output.write_all(pieces.next(piece).as_bytes()),
            None => output.write_all(piece),
        };
        written.and_then(|()| output.flush()).map_err(LogsError::Output)?;
        let read = piece.len();
        log.consume_unpin(read);
    }
    if last == b'\n' { Ok(()) } else { say("") }
}

/// What a build says is a stranger's text: to a file it goes as it is, to a terminal without what commands one.
fn say(line: &str) -> Result<(), LogsError> {
    let mut output = std::io::stdout();
    if output.is_terminal() {
        writeln!(output, "{}", terminal::plain_lines(line)).map_err(LogsError::Output)
    } else {
        writeln!(output, "{line}").map_err(LogsError::Output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenon_api::module_image::{ModuleImageSpec, ModuleImageStatus};

    #[test]
    fn a_heading_says_how_an_image_stands() {
        let spec = ModuleImageSpec {
            kernel: "6.1.0".to_owned(),
            architecture: "amd64".to_owned(),
            image: "registry.test/gauge:1".to_owned(),
            ..ModuleImageSpec::default()
        };
        let mut image = ModuleImage::new("gauge-1", spec);
        image.status = Some(ModuleImageStatus {
            phase: Some(ImagePhase::Signing),
            message: Some("it signs".into()),
            making: Some(Making { job: "gauge-sign-0".to_owned(), failures: 2, ..Making::default() }),
            ..ModuleImageStatus::default()
        });
        let expected = "==> kernel 6.1.0 (amd64): Signing, Job gauge-sign-0, 2 failed before\n    registry.test/gauge:1\n    it signs";
        assert_eq!(heading(&image), expected);
    }
}
