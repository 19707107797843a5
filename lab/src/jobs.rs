//! Runs the pods of Jobs that make images, where no kubelet does: with the program that they would run, in this process.
//!
//! In: a pod that nobody runs. Out: its Secrets in a folder as they would be mounted, its task done, and its end reported as a
//! kubelet reports it. [`serve`] does so for every such pod that comes.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::labels;
use tenon_api::task::{BUILD_CONTAINER, CONTAINER, Report, VARIABLE};
use tenon_image::registry::{Proxies, Transport};
use tenon_maker::task::{self, Mounts};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::claim::{Broken, comes_true_within};

/// How often it is looked for pods.
const LOOK: Duration = Duration::from_millis(100);

/// Why a pod was not run.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Its Secrets, or its status.
    #[error("{action} of pod {pod}")]
    Api {
        /// What was attempted.
        action: &'static str,
        /// Which.
        pod: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
    /// What would be mounted.
    #[error("mount what a pod asks for")]
    Mount(#[from] io::Error),
    /// Work that ran aside.
    #[error("the work was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
    /// The report.
    #[error("write a report")]
    Report(#[from] serde_json::Error),
}

/// Runs pods from now on, until it is dropped.
pub fn serve(client: Client) -> JoinSet<()> {
    serve_after(client, |_, _| Ok(()))
}

/// The same for pods with containers before the one that reports: what they leave is left by `before`, in the folder where the pod
/// may write.
pub fn serve_after(
    client: Client,
    before: impl Fn(&Pod, &Path) -> io::Result<()> + Send + Sync + 'static,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            looks.tick().await;
            for pod in waiting(&client, None).await.unwrap_or_default() {
                // It is there in the next turn, too, if anything went wrong.
                let _ = run_after(&client, &pod, |work| before(&pod, work)).await;
            }
        }
    });
    tasks
}

/// The pods that nobody has run yet: of one Job, or of all.
pub async fn waiting(client: &Client, job: Option<&str>) -> Result<Vec<Pod>, kube::Error> {
    let job = job.map_or_else(String::new, |job| format!(",batch.kubernetes.io/job-name={job}"));
    let selector = format!("{}={}{job}", labels::MANAGED_BY, labels::PRODUCT);
    let pods: Api<Pod> = Api::all(client.clone());
    let waits = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        phase == Some("Pending") && pod.metadata.deletion_timestamp.is_none()
    };
    Ok(pods.list(&ListParams::default().labels(&selector)).await?.items.into_iter().filter(waits).collect())
}

/// A pod of a Job that nobody has run yet, as soon as there is one, and within the time at the latest.
pub async fn pod_of(client: &Client, job: &str, within: Duration) -> Result<Pod, Broken> {
    comes_true_within(within, "the Job has a pod", async || {
        let waiting = waiting(client, Some(job)).await.map_err(|error| error.to_string())?;
        waiting.into_iter().next().ok_or_else(|| "there is none".to_owned())
    })
    .await
}

/// Runs a pod to its end, and reports it.
pub async fn run(client: &Client, pod: &Pod) -> Result<Report, JobError> {
    run_after(client, pod, |_| Ok(())).await
}

/// The same for a pod with containers before the one that reports: what they leave is left by `before`, in the folder where the
/// pod may write.
pub async fn run_after(
    client: &Client,
    pod: &Pod,
    before: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<Report, JobError> {
    let folder = tempfile::tempdir()?;
    mount(client, pod, folder.path()).await?;
    before(&folder.path().join("work"))?;
    let at = |name: &str| folder.path().join(name);
    let mounts =
        Mounts { key: at("key"), certificate: at("cert"), registry: at("registry"), work: at("work") };
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let mut variables = container.and_then(|container| container.env.as_ref()).into_iter().flatten();
    let variable = variables.find(|variable| variable.name == VARIABLE);
    let (given, runtime) = (variable.and_then(|variable| variable.value.clone()), Handle::current());
    let program = move || {
        let transport = Transport::new(Proxies::from_variables(|_| None));
        runtime.block_on(task::run(given.as_deref(), &transport, &mounts))
    };
    let report = tokio::task::spawn_blocking(program).await?;
    let code = i32::from(matches!(report, Report::Failed { .. }));
    end(client, pod, code, &serde_json::to_string(&report)?).await?;
    Ok(report)
}

/// Each volume that is a Secret, in a folder of the volume's name; one that is empty, too.
async fn mount(client: &Client, pod: &Pod, folder: &Path) -> Result<(), JobError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let place = folder.join(&volume.name);
        fs::create_dir(&place)?;
        let Some(name) = volume.secret.as_ref().and_then(|secret| secret.secret_name.as_deref()) else {
            continue;
        };
        let failed = |source| JobError::Api { action: "read the Secrets", pod: pod.name_any(), source };
        let secret = secrets.get_opt(name).await.map_err(failed)?;
        for (entry, content) in secret.and_then(|secret| secret.data).into_iter().flatten() {
            fs::write(place.join(entry), content.0)?;
        }
    }
    Ok(())
}

/// Reports that a pod's container has ended with this code, and these last words.
pub async fn end(client: &Client, pod: &Pod, code: i32, words: &str) -> Result<(), JobError> {
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    report(client, pod, &json!({ "phase": phase, "containerStatuses": [ended(CONTAINER, code, words)] }))
        .await
}

/// Reports that the container that builds has failed with this code, and these last words, so that no other has begun.
pub async fn fail_build(client: &Client, pod: &Pod, code: i32, words: &str) -> Result<(), JobError> {
    let status = json!({
        "phase": "Failed",
        "initContainerStatuses": [ended(BUILD_CONTAINER, code, words)],
        "containerStatuses": [{
            "name": CONTAINER, "image": "maker", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": "PodInitializing" } },
        }],
    });
    report(client, pod, &status).await
}

fn ended(container: &str, code: i32, words: &str) -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({
        "name": container, "image": container, "imageID": "", "ready": false, "restartCount": 0,
        "state": { "terminated": {
            "exitCode": code, "message": words, "reason": "Ended", "startedAt": now, "finishedAt": now,
        }},
    })
}

async fn report(client: &Client, pod: &Pod, status: &Value) -> Result<(), JobError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let patch = Patch::Strategic(json!({ "status": status }));
    let reported = pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await;
    let failed = |source| JobError::Api { action: "report the end", pod: pod.name_any(), source };
    reported.map(drop).map_err(failed)
}
