//! What the Jobs say that make a Module's images.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use serde::Serialize;
use tenon_api::module_image::{ImagePhase, Making, ModuleImage};
use tenon_api::task::CONTAINER;
use tenon_api::{labels, reasons};
use tenon_order::ModuleKey;
use tenon_plan::provision::job::progress;

use super::shown::{copy, say};
use super::{Args, LogsError, OF_JOBS};
use crate::answer;
use crate::seen::JOB_NAME;

/// How often an image and a pod are looked at that have not begun.
const LOOK: Duration = Duration::from_secs(1);

pub(super) async fn logs(args: &Args, module: &str) -> Result<(), LogsError> {
    let (client, key) = args.cluster.connect(module).await?;
    let source = Source { client, args, key };
    let images = source.images().await?;
    if images.is_empty() {
        return Err(LogsError::NoImage { module: source.key, kernel: args.kernel.clone() });
    }
    if let Some(format) = args.output {
        let mut all = Vec::new();
        for image in &images {
            all.push(source.said(image).await?);
        }
        return Ok(answer::say(&answer::written(&all, format)?)?);
    }
    for image in images {
        Box::pin(source.show(image)).await?;
    }
    Ok(())
}

/// Where it is read.
struct Source<'a> {
    client: Client,
    args: &'a Args,
    key: ModuleKey,
}

impl Source<'_> {
    /// The Module's images that are meant.
    async fn images(&self) -> Result<Vec<ModuleImage>, LogsError> {
        let images: Api<ModuleImage> = Api::namespaced(self.client.clone(), self.key.namespace());
        let of_module = format!("{}={}", labels::MODULE_NAME, labels::value(self.key.name()));
        let list = images.list(&ListParams::default().labels(&of_module)).await;
        let mut images = list.map_err(self.failed("the images"))?.items;
        let kernel = self.args.kernel.as_ref();
        images.retain(|image| kernel.is_none_or(|kernel| *kernel == image.spec.kernel));
        Ok(images)
    }

    /// What could not be read.
    fn failed(&self, what: &str) -> impl FnOnce(kube::Error) -> LogsError + use<> {
        LogsError::read(format!("{what} of Module {}", self.key))
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), self.key.namespace())
    }

    /// The Job's last pod.
    async fn pod(&self, making: &Making) -> Result<Option<Pod>, LogsError> {
        let of_job = format!("{JOB_NAME}={}", making.job);
        let list = self.pods().list(&ListParams::default().labels(&of_job)).await;
        let pods = list.map_err(self.failed("the pods"))?.items;
        Ok(pods.into_iter().max_by_key(|pod| pod.metadata.creation_timestamp.clone()))
    }

    /// The containers of a pod that are meant, in the order in which they run.
    fn containers(&self, pod: &Pod) -> Vec<&'static str> {
        let meant = |container: &&str| self.args.means(container);
        containers(pod).into_iter().filter(meant).collect()
    }

    /// How an image stands, and the log of what makes it. What has not begun is waited for, if that is wanted.
    async fn show(&self, mut image: ModuleImage) -> Result<(), LogsError> {
        say(&heading(&image))?;
        let mut told = None;
        loop {
            let making = image.status.as_ref().and_then(|status| status.making.as_ref());
            let pod = match making {
                Some(making) => self.pod(making).await?,
                None => None,
            };
            let waits = self.args.follow && is_underway(&image);
            if let Some(pod) = pod {
                let is_over = self.show_pod(pod).await?;
                if is_over || !waits {
                    return Ok(());
                }
            } else {
                let why = absence(&image, self.job(&image).await?.as_ref());
                let now = (why, standing(&image));
                match &told {
                    // The heading has said how it stands, and that there is no Job.
                    None if waits || making.is_some() => say(&format!("({})", now.0))?,
                    Some(before) if *before != now => say(&format!("({}; {})", now.0, now.1))?,
                    None | Some(_) => {}
                }
                told = Some(now);
            }
            if !waits {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
            let images: Api<ModuleImage> = Api::namespaced(self.client.clone(), self.key.namespace());
            let now = images.get_opt(&image.name_any()).await.map_err(self.failed("an image"))?;
            let Some(now) = now else { return say("(its ModuleImage has gone: no node needs it any more)") };
            image = now;
        }
    }

    /// The Job that makes an image, or made it. Who may not read it is told of the rest.
    async fn job(&self, image: &ModuleImage) -> Result<Option<Job>, LogsError> {
        let making = image.status.as_ref().and_then(|status| status.making.as_ref());
        let Some(making) = making else { return Ok(None) };
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), self.key.namespace());
        match jobs.get_opt(&making.job).await {
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
            read => read.map_err(self.failed("the Job")),
        }
    }

    /// Shows what a pod's containers say; false where the pod has gone before they have begun.
    async fn show_pod(&self, mut pod: Pod) -> Result<bool, LogsError> {
        let containers = self.containers(&pod);
        if containers.is_empty() {
            say(&format!("(pod {} has no such container)", pod.name_any()))?;
        }
        for container in containers {
            match self.begun(pod, container).await? {
                Begun::Yes(now) => pod = *now,
                Begun::No => return Ok(true),
                Begun::Gone => return Ok(false),
            }
            self.stream(&pod, container).await?;
        }
        Ok(true)
    }

    /// Waits until a container has begun, if that is wanted, and says what is in its way.
    async fn begun(&self, mut pod: Pod, container: &str) -> Result<Begun, LogsError> {
        let mut told = None;
        while !progress::has_begun(&pod, container) {
            if progress::has_ended(&pod) {
                return Ok(Begun::No);
            }
            let why =
                progress::hindrance(&pod).unwrap_or_else(|| format!("container {container} has not begun"));
            if told.as_ref() != Some(&why) {
                say(&format!("(pod {} waits: {why})", pod.name_any()))?;
            }
            if !self.args.follow {
                return Ok(Begun::No);
            }
            told = Some(why);
            tokio::time::sleep(LOOK).await;
            let now = self.pods().get_opt(&pod.name_any()).await.map_err(self.failed("a pod"))?;
            let Some(now) = now else {
                say(&format!("(pod {} has gone)", pod.name_any()))?;
                return Ok(Begun::Gone);
            };
            pod = now;
        }
        Ok(Begun::Yes(Box::new(pod)))
    }

    async fn stream(&self, pod: &Pod, container: &str) -> Result<(), LogsError> {
        let (pods, name) = (self.pods(), pod.name_any());
        match pods.log_stream(&name, &self.args.part(container)).await {
            Ok(log) => copy(log, &name).await,
            // It waits for its image, or for a node.
            Err(kube::Error::Api(status)) => say(&format!("(pod {name} has no log yet: {})", status.message)),
            Err(source) => Err(self.failed("the log")(source)),
        }
    }

    async fn said(&self, image: &ModuleImage) -> Result<Said, LogsError> {
        let mut said = Said::of(image);
        let Some(making) = image.status.as_ref().and_then(|status| status.making.as_ref()) else {
            return Ok(said);
        };
        let Some(pod) = self.pod(making).await? else {
            said.waits = is_underway(image).then_some(absence(image, self.job(image).await?.as_ref()));
            return Ok(said);
        };
        said.pod = Some(pod.name_any());
        for name in self.containers(&pod) {
            if !progress::has_begun(&pod, name) {
                said.waits = progress::hindrance(&pod).filter(|_| !progress::has_ended(&pod));
                break;
            }
            match self.pods().logs(&pod.name_any(), &self.args.part(name)).await {
                Ok(log) => said.containers.push(ContainerSaid { name, log }),
                Err(kube::Error::Api(status)) => said.waits = Some(status.message),
                Err(source) => return Err(self.failed("the log")(source)),
            }
        }
        Ok(said)
    }
}

/// Whether a container has begun.
enum Begun {
    /// So far its pod is.
    Yes(Box<Pod>),
    /// There is nothing to read.
    No,
    /// Nor is its pod there any more.
    Gone,
}

/// Whether an image is being made, or waits for something.
fn is_underway(image: &ModuleImage) -> bool {
    let status = image.status.as_ref();
    let renewing = status.and_then(|status| status.making.as_ref()).is_some_and(|making| making.renewing);
    match status.and_then(|status| status.phase) {
        None | Some(ImagePhase::Waiting | ImagePhase::Building | ImagePhase::Signing) => true,
        Some(ImagePhase::Ready | ImagePhase::Failed) => renewing,
    }
}

/// Why there is no pod: it has not come yet, or has gone.
fn absence(image: &ModuleImage, job: Option<&Job>) -> String {
    let status = image.status.as_ref();
    let Some(making) = status.and_then(|status| status.making.as_ref()) else {
        return if is_underway(image) {
            "no Job has begun yet".to_owned()
        } else {
            "there is no Job".to_owned()
        };
    };
    let name = &making.job;
    let reason = status.and_then(|status| status.reason.as_deref());
    let has_failed = matches!(reason, Some(reasons::BUILD_FAILED | reasons::SIGN_FAILED));
    match job {
        Some(job) if has_ended(job) => format!("Job {name} has ended, and its pod has gone"),
        Some(_) => format!("Job {name} has begun, and has no pod yet"),
        None if is_underway(image) && !has_failed => format!("Job {name} has not begun"),
        None => format!("Job {name} has gone: those that have ended are kept for an hour"),
    }
}

fn has_ended(job: &Job) -> bool {
    let mut conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| {
        matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True"
    })
}

/// How an image stands, in a line.
fn standing(image: &ModuleImage) -> String {
    let status = image.status.clone().unwrap_or_default();
    let phase = status.phase.unwrap_or_default();
    let message = status.message.map(|message| message.to_string()).unwrap_or_default();
    format!("{phase:?}: {message}")
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

impl Said {
    /// How the image stands.
    fn of(image: &ModuleImage) -> Self {
        let status = image.status.clone().unwrap_or_default();
        Self {
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
        }
    }
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

/// The containers of a pod, in the order in which they run.
fn containers(pod: &Pod) -> Vec<&'static str> {
    let before = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
    let has = |name: &&str| before.is_some_and(|all| all.iter().any(|container| container.name == *name));
    OF_JOBS.into_iter().filter(|name| *name == CONTAINER || has(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};
    use tenon_api::module_image::ModuleImageSpec;

    fn image(status: &Value) -> ModuleImage {
        let spec = ModuleImageSpec {
            kernel: "6.1.0".to_owned(),
            architecture: "amd64".to_owned(),
            image: "registry.test/gauge:1".to_owned(),
            ..ModuleImageSpec::default()
        };
        let status = serde_json::from_value(status.clone()).unwrap();
        ModuleImage { status, ..ModuleImage::new("gauge-1", spec) }
    }

    #[test]
    fn a_heading_says_how_an_image_stands() {
        let image = image(&json!({ "phase": "Signing", "message": "it signs",
            "making": { "inputs": "", "job": "gauge-sign-0", "failures": 2 } }));
        let expected = "==> kernel 6.1.0 (amd64): Signing, Job gauge-sign-0, 2 failed before\n    registry.test/gauge:1\n    it signs";
        assert_eq!(heading(&image), expected);
    }

    fn made(phase: &str, reason: &str, renewing: bool) -> Value {
        json!({ "phase": phase, "reason": reason, "making": { "inputs": "", "job": "j", "renewing": renewing } })
    }

    fn job(condition: Option<&str>) -> Job {
        let conditions: Vec<_> =
            condition.iter().map(|type_| json!({ "type": type_, "status": "True" })).collect();
        serde_json::from_value(json!({ "metadata": {}, "status": { "conditions": conditions } })).unwrap()
    }

    const GONE: &str = "Job j has gone: those that have ended are kept for an hour";

    #[rstest]
    #[case::new(Value::Null, None, true, "no Job has begun yet")]
    #[case::something_is_missing(json!({ "phase": "Waiting" }), None, true, "no Job has begun yet")]
    #[case::made_elsewhere(json!({ "phase": "Ready" }), None, false, "there is no Job")]
    #[case::queued(made("Waiting", "Queued", false), None, true, "Job j has not begun")]
    #[case::just_made(
        made("Building", "Building", false),
        Some(job(None)),
        true,
        "Job j has begun, and has no pod yet"
    )]
    #[case::has_ended(
        made("Signing", "Signing", false),
        Some(job(Some("Complete"))),
        true,
        "Job j has ended, and its pod has gone"
    )]
    #[case::waits_to_be_tried_again(made("Waiting", "BuildFailed", false), None, true, GONE)]
    #[case::long_ago(made("Ready", "Exists", false), None, false, GONE)]
    #[case::will_not_do(made("Failed", "SignFailed", false), None, false, GONE)]
    #[case::made_anew(made("Ready", "Queued", true), None, true, "Job j has not begun")]
    fn what_has_not_begun_is_not_what_has_gone(
        #[case] status: Value,
        #[case] job: Option<Job>,
        #[case] underway: bool,
        #[case] expected: &str,
    ) {
        let image = image(&status);
        assert_eq!((is_underway(&image), absence(&image, job.as_ref()).as_str()), (underway, expected));
    }
}
