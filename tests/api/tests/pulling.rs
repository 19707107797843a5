//! Images that the registry denies the operator, against a real API server with its Job controller, the real depot, and the program that
//! runs in the pods. No kubelet runs: the test plays it, so that it says what becomes of a pod, and when.
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::fs;
use std::path::Path;
use tenon_test_api::setup;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::module_image::{ImagePhase, ModuleImageStatus};
use tenon_api::node_pod::{DEPOT_CONFIG_MAP, NAMESPACE};
use tenon_api::pull::{ADDRESSES, AUDIENCE, AUTHORITY, CONTAINER, SERVICE_ACCOUNT, TOKEN, VARIABLE};
use tenon_api::{labels, reasons};
use tenon_image::testing::Auth;
use tenon_lab::claim::comes_true_within;
use tenon_lab::control_plane::Binding;
use tenon_lab::jobs;
use tenon_maker::pull::{self, Places, PullError};
use tenon_test_api::cluster::{Cluster, SOON};

const DIGEST: &str = "sha256:0123456789012345678901234567890123456789012345678901234567890123";

/// A cluster whose registry denies the operator, with a Module whose image is there.
async fn start() -> Cluster {
    let mut cluster = Cluster::start().await;
    setup::apply(&cluster.plane, &setup::deploy("rbac/puller.yaml")).await;
    cluster.stop_operator().await;
    cluster.flags = vec!["--pull-through-nodes=pulls=yes".to_owned()];
    cluster.start_operator().await;
    cluster.add_node("ash").await;
    cluster.push_driver("gauge:1", "one");
    cluster.registry.require(Auth::Basic("user".to_owned(), "word".to_owned()));
    cluster.apply_module("gauge", "gauge:1", Value::Null).await;
    cluster
}

fn api(cluster: &Cluster) -> Api<Job> {
    Api::namespaced(cluster.client.clone(), NAMESPACE)
}

/// The Job that is there and not on its way out, unless it is this one.
async fn job_but(cluster: &Cluster, but: &str) -> Job {
    comes_true_within(SOON, "there is a Job", async || {
        let jobs = api(cluster).list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        let mut others = jobs.into_iter().filter(|job| job.metadata.deletion_timestamp.is_none());
        others.find(|job| job.uid().as_deref() != Some(but)).ok_or_else(|| "there is none".to_owned())
    })
    .await
    .unwrap_or_else(|late| panic!("{late}"))
}

async fn pod(cluster: &Cluster, job: &Job) -> Pod {
    jobs::pod_of(&cluster.client, &job.name_any(), SOON).await.expect("a pod")
}

async fn no_job_is_left(cluster: &Cluster) {
    comes_true_within(SOON, "no Job is left", async || {
        let jobs = api(cluster).list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        if jobs.is_empty() { Ok(()) } else { Err(format!("{} are", jobs.len())) }
    })
    .await
    .unwrap_or_else(|late| panic!("{late}"));
}

async fn status_where(
    cluster: &Cluster,
    what: &str,
    holds: impl Fn(&ModuleImageStatus) -> bool,
) -> ModuleImageStatus {
    comes_true_within(SOON, what, async || {
        let images =
            cluster.images().list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let status = images.items.first().and_then(|image| image.status.clone()).unwrap_or_default();
        if holds(&status) { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await
    .unwrap_or_else(|late| panic!("{late}"))
}

/// Waits until it is said that the image is not to be had for this reason; gives the words.
async fn says(cluster: &Cluster, reason: &str) -> String {
    let status = status_where(cluster, reason, |status| status.reason.as_deref() == Some(reason)).await;
    status.message.unwrap_or_default().to_string()
}

/// Says of the pod's second container what a kubelet would.
async fn report(cluster: &Cluster, pod: &Pod, phase: &str, image_id: &str, state: Value) {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let status = json!({ "status": { "phase": phase, "containerStatuses": [{
        "name": CONTAINER, "image": "", "imageID": image_id, "ready": false, "restartCount": 0, "state": state,
    }]}});
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(status))
        .await
        .expect("a pod's status");
}

async fn has_ended(cluster: &Cluster, pod: &Pod, digest: &str) {
    let image_id = format!("{}/gauge@{digest}", cluster.registry.host());
    let now = "2026-01-01T00:00:00Z";
    let ended = json!({ "terminated": { "exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now } });
    report(cluster, pod, "Succeeded", &image_id, ended).await;
}

/// Runs the pod's program on an image with these files for the driver's kernel, as this pod.
async fn bring(
    cluster: &Cluster,
    task_of: &Pod,
    pod: &Pod,
    files: &[(&str, &[u8])],
) -> Result<String, PullError> {
    let (root, access) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    for (name, bytes) in files {
        let path = root.path().join("opt/lib/modules").join(&cluster.kernel).join(name);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a folder");
        fs::write(path, bytes).expect("a file");
    }
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let depot = maps.get(DEPOT_CONFIG_MAP).await.expect("the depot's addresses").data.unwrap_or_default();
    for name in [ADDRESSES, AUTHORITY] {
        fs::write(access.path().join(name), depot.get(name).expect("an entry")).expect("a file");
    }
    let binding = Binding::Pod { name: pod.name_any(), uid: pod.uid().unwrap_or_default() };
    let token =
        cluster.plane.token(NAMESPACE, SERVICE_ACCOUNT, Some(AUDIENCE), &binding).await.expect("a token");
    fs::write(access.path().join(TOKEN), token).expect("a file");
    let container = task_of.spec.as_ref().and_then(|spec| spec.containers.first());
    let mut variables = container.and_then(|container| container.env.as_ref()).into_iter().flatten();
    let task =
        variables.find(|variable| variable.name == VARIABLE).and_then(|variable| variable.value.clone());
    let places = Places { root: root.path().to_owned(), access: access.path().to_owned() };
    pull::run(task.as_deref(), &places).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pod_brings_is_packed_and_a_restart_at_any_step_converges() {
    let mut cluster = start().await;
    let job = job_but(&cluster, "").await;
    assert!(says(&cluster, reasons::PULLING).await.contains(&job.name_any()));
    let restart = async |cluster: &mut Cluster| {
        cluster.stop_operator().await;
        cluster.start_operator().await;
    };
    // Before the pod has begun: the Job is found again.
    restart(&mut cluster).await;
    let first = pod(&cluster, &job).await;
    let files = [("extra/simple-kmod.ko", cluster.driver()), ("modules.order", b"one".as_slice())];
    bring(&cluster, &first, &first, &files).await.expect("it is brought");
    // After it was brought, and before it was packed: it is brought again.
    restart(&mut cluster).await;
    has_ended(&cluster, &first, DIGEST).await;
    let second = job_but(&cluster, &job.uid().unwrap_or_default()).await;
    let again = pod(&cluster, &second).await;
    let files = [("extra/simple-kmod.ko", cluster.driver()), ("modules.order", b"one".as_slice())];
    bring(&cluster, &again, &again, &files).await.expect("it is brought again");
    has_ended(&cluster, &again, DIGEST).await;
    let status =
        status_where(&cluster, "it is packed", |status| status.phase == Some(ImagePhase::Ready)).await;
    assert_eq!(status.image_digest.as_deref(), Some(DIGEST));
    let through_a_node = status.bundle.expect("a bundle").digest;
    no_job_is_left(&cluster).await;
    restart(&mut cluster).await;
    no_job_is_left(&cluster).await;
    // The registry's own layers give the same bundle.
    cluster.registry.require(Auth::Open);
    cluster.push_driver("gauge:2", "one");
    cluster.apply_module("gauge", "gauge:2", Value::Null).await;
    let is_another = |status: &ModuleImageStatus| {
        status.phase == Some(ImagePhase::Ready) && status.image_digest.as_deref() != Some(DIGEST)
    };
    let status = status_where(&cluster, "it is read from the registry", is_another).await;
    assert_eq!(status.bundle.expect("a bundle").digest, through_a_node);
    cluster.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_10_a_pod_that_is_stuck_is_named_and_cleared_away_and_tried_again() {
    let mut cluster = start().await;
    let job = job_but(&cluster, "").await;
    let stuck = pod(&cluster, &job).await;
    let words = "Back-off pulling image: 401 Unauthorized";
    report(
        &cluster,
        &stuck,
        "Pending",
        "",
        json!({ "waiting": { "reason": "ImagePullBackOff", "message": words } }),
    )
    .await;
    let message = says(&cluster, reasons::PULL_FAILED).await;
    assert!(message.contains(words), "{message}");
    // It goes, and after a while there is another.
    let next = job_but(&cluster, &job.uid().unwrap_or_default()).await;
    let cannot_start = pod(&cluster, &next).await;
    let words = "exec /.tenon-program/tenon-maker: exec format error";
    let state = json!({ "waiting": { "reason": "RunContainerError", "message": words } });
    report(&cluster, &cannot_start, "Pending", "", state).await;
    let message = says(&cluster, reasons::PULL_POD_FAILED).await;
    assert!(message.contains(words), "{message}");
    // The Module goes, and nothing of it stays.
    job_but(&cluster, &next.uid().unwrap_or_default()).await;
    cluster.delete_module("gauge").await;
    no_job_is_left(&cluster).await;
    cluster.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_brings_anything_and_what_is_no_driver_is_refused() {
    let mut cluster = start().await;
    let job = job_but(&cluster, "").await;
    let expected = pod(&cluster, &job).await;
    // A pod of the same account, of which nothing is expected, is not waited for here.
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let mut stranger = expected.clone();
    stranger.metadata = kube::core::ObjectMeta { name: Some("stranger".to_owned()), ..Default::default() };
    stranger.status = None;
    let stranger = pods.create(&PostParams::default(), &stranger).await.expect("a pod");
    let files = [("extra/simple-kmod.ko", cluster.driver())];
    let brings = bring(&cluster, &expected, &stranger, &files);
    let refused = tokio::time::timeout(std::time::Duration::from_secs(6), brings).await;
    assert!(refused.is_err(), "it is told to come back, for ever: {refused:?}");
    // The one that is expected brings what is no module.
    bring(&cluster, &expected, &expected, &[("extra/simple-kmod.ko", b"no module")])
        .await
        .expect("it is taken");
    has_ended(&cluster, &expected, DIGEST).await;
    let message = says(&cluster, reasons::IMAGE_INVALID).await;
    assert!(message.contains("simple-kmod.ko is no loadable kernel module"), "{message}");
    cluster.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pod_passes_the_strictest_pod_security() {
    let mut cluster = start().await;
    let job = job_but(&cluster, "").await;
    let spec = job.spec.and_then(|spec| spec.template.spec).expect("a pod's spec");
    let level = ["pod-security.kubernetes.io/enforce=restricted"];
    let line = [["label", "namespace", "hall"].as_slice(), &level].concat();
    cluster.plane.kubectl(&line).await.expect("a label");
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": { "name": SERVICE_ACCOUNT, "namespace": "hall" } });
    cluster.plane.apply(&account.to_string()).await.expect("an account");
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "hall");
    let mut strict = Pod { spec: Some(spec), ..Pod::default() };
    strict.metadata.name = Some("strict".to_owned());
    strict.metadata.labels = Some([(labels::PART_OF.to_owned(), "nobody".to_owned())].into());
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    pods.create(&dry, &strict).await.expect("it is admitted");
    cluster.stop_operator().await;
}
