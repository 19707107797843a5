//! Images that are made by Jobs, against a real API server with its Job controller. No kubelet runs: the test plays it, with the
//! program that the Jobs' pods would run, so that it says when a Job ends, and how.
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::module_image::{ImagePhase, ModuleImage, ModuleImageStatus};
use tenon_api::task::Report;
use tenon_api::{labels, node_pod, reasons};
use tenon_lab::claim::comes_true_within;
use tenon_lab::jobs;
use tenon_test_api::cluster::{Cluster, SOON};
use tenon_test_api::plugin::{self, Said};

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/sign/testdata");
const NODE: &str = "ash";

async fn secret(cluster: &Cluster, name: &str, entry: &str, file: &str, mark: &str) {
    let content = fs::read_to_string(Path::new(KEYS).join(file)).expect("a key");
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": name, "annotations": { "mark": mark } },
        "stringData": { entry: content },
    });
    let params = PatchParams::apply("a-user").force();
    cluster.secrets().patch(name, &params, &Patch::Apply(secret)).await.expect("a Secret");
}

/// A cluster with a node, a driver `plain:1`, a key, and a Module that wants `signed:1`.
async fn start() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.add_node(NODE).await;
    cluster.push_driver("plain:1", "one");
    secret(&cluster, "key", "key", "rsa.key", "1").await;
    secret(&cluster, "cert", "cert", "rsa.pem", "1").await;
    apply(&cluster, &json!({})).await;
    cluster
}

async fn apply(cluster: &Cluster, more: &Value) {
    let sign = json!({ "spec": { "moduleLoader": { "container": { "sign": {
        "keySecret": { "name": "key" }, "certSecret": { "name": "cert" },
        "unsignedImage": format!("{}/plain:1", cluster.registry.host()),
        "filesToSign": ["/opt/lib/modules/${KERNEL_FULL_VERSION}/extra/*.ko"],
    }}}}});
    let mut all = sign;
    if let (Some(spec), Some(more)) = (all.pointer_mut("/spec"), more.as_object()) {
        for (key, value) in more {
            spec[key] = value.clone();
        }
    }
    cluster.apply_module("gauge", "signed:1", all).await;
}

fn api(cluster: &Cluster) -> Api<Job> {
    Api::namespaced(cluster.client.clone(), "hall")
}

/// The Jobs that are there and not on their way out.
async fn job_names(cluster: &Cluster) -> Vec<String> {
    let list = api(cluster).list(&ListParams::default()).await.expect("a list");
    let there = list.items.iter().filter(|job| job.metadata.deletion_timestamp.is_none());
    there.map(kube::ResourceExt::name_any).collect()
}

async fn job_where(cluster: &Cluster, what: &str, holds: impl Fn(&str) -> bool) -> String {
    comes_true_within(SOON, what, async || match job_names(cluster).await.as_slice() {
        [one] if holds(one) => Ok(one.clone()),
        others => Err(format!("there are {others:?}")),
    })
    .await
    .unwrap_or_else(|late| panic!("{late}"))
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

async fn ready(cluster: &Cluster) -> ModuleImageStatus {
    status_where(cluster, "the image is ready", |status| status.phase == Some(ImagePhase::Ready)).await
}

async fn run(cluster: &Cluster, job: &str) -> Report {
    let pod = jobs::pod_of(&cluster.client, job, SOON).await.expect("a pod");
    jobs::run(&cluster.client, &pod).await.expect("a pod's end")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_made_once_and_anew_when_what_it_is_made_from_changes() {
    let mut cluster = start().await;
    let first = job_where(&cluster, "a Job", |_| true).await;
    let status = status_where(&cluster, "it signs", |status| status.phase == Some(ImagePhase::Signing)).await;
    assert_eq!(status.making.expect("how").job, first);
    // Who starts anew finds the Job, and makes no other.
    cluster.stop_operator().await;
    cluster.start_operator().await;
    // Another certificate, of the same key: what would be made from the former one is not made.
    secret(&cluster, "cert", "cert", "rsa.pem", "2").await;
    trigger(&cluster, 1).await;
    let second = job_where(&cluster, "another Job instead", |name| name != first).await;
    assert!(cluster.registry.manifest("signed", "1").is_none(), "nothing is seen before it is signed");
    assert!(matches!(run(&cluster, &second).await, Report::Made { .. }));
    let made = ready(&cluster).await;

    // The same image under the same name, whoever looks again.
    cluster.stop_operator().await;
    cluster.start_operator().await;
    trigger(&cluster, 2).await;
    let again = status_where(&cluster, "it was looked at again", |status| {
        status.phase == Some(ImagePhase::Ready) && status.resolved_from > made.resolved_from
    })
    .await;
    assert_eq!(
        (again.image_digest, job_names(&cluster).await),
        (made.image_digest.clone(), vec![second.clone()])
    );

    // The unsigned image is another one meanwhile.
    cluster.push_driver("plain:1", "two");
    trigger(&cluster, 3).await;
    let third = comes_true_within(SOON, "a Job for the new content", async || {
        let names = job_names(&cluster).await;
        names.iter().find(|name| **name != second).cloned().ok_or_else(|| format!("{names:?}"))
    });
    let third = third.await.unwrap_or_else(|late| panic!("{late}"));
    run(&cluster, &third).await;
    let anew = status_where(&cluster, "it is another image", |status| {
        status.phase == Some(ImagePhase::Ready) && status.image_digest != made.image_digest
    })
    .await;
    assert_ne!(anew.bundle, made.bundle);

    // A key that cannot sign is told of; what is there is not taken for what it would have made.
    secret(&cluster, "cert", "cert", "p384.pem", "3").await;
    trigger(&cluster, 4).await;
    let fourth = comes_true_within(SOON, "a Job for the new certificate", async || {
        let names = job_names(&cluster).await;
        let new = names.iter().find(|name| **name != second && **name != third);
        new.cloned().ok_or_else(|| format!("{names:?}"))
    });
    let fourth = fourth.await.unwrap_or_else(|late| panic!("{late}"));
    run(&cluster, &fourth).await;
    let noted = |status: &ModuleImageStatus| status.reason.as_deref() == Some(reasons::SECRET_MALFORMED);
    status_where(&cluster, "the failure is noted", noted).await;
    cluster.stop_operator().await;
    cluster.start_operator().await;
    // As long as who starts anew needs to look at it, twice over.
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        let phase = status_where(&cluster, "a status", |_| true).await.phase;
        assert_ne!(phase, Some(ImagePhase::Ready), "the former image is taken for the new one");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    secret(&cluster, "cert", "cert", "rsa.pem", "4").await;
    trigger(&cluster, 5).await;
    let fifth = comes_true_within(SOON, "a Job for the mended certificate", async || {
        let names = job_names(&cluster).await;
        let new = names.iter().find(|name| ![&second, &third, &fourth].contains(name));
        new.cloned().ok_or_else(|| format!("{names:?}"))
    });
    let fifth = fifth.await.unwrap_or_else(|late| panic!("{late}"));
    run(&cluster, &fifth).await;
    let mended = ready(&cluster).await;
    assert_eq!(mended.image_digest, anew.image_digest, "equal content, equal digest");
}

/// What `kubectl tenon` says.
async fn cli(cluster: &Cluster, arguments: &[&str]) -> String {
    let args = [arguments, &["-n", "hall"]].concat();
    let Said { code, out, err } = plugin::run(cluster.plane.kubeconfig(), &args).await;
    assert_eq!(code, 0, "{err}");
    out
}

/// Has the Module's images looked at again.
async fn trigger(cluster: &Cluster, number: i64) {
    apply(cluster, &json!({ "imageRebuildTriggerGeneration": number })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_noted_and_tried_again() {
    let cluster = start().await;
    let job = job_where(&cluster, "a Job", |_| true).await;
    // Killed for its memory: no report, and nothing is known but what Kubernetes says.
    let pod = jobs::pod_of(&cluster.client, &job, SOON).await.expect("a pod");
    jobs::end(&cluster.client, &pod, 137, "out of memory, perhaps").await.expect("a pod's end");
    let status = status_where(&cluster, "the failure is noted", |status| {
        status.reason.as_deref() == Some(reasons::SIGN_FAILED)
    })
    .await;
    let message = status.message.expect("why").to_string();
    assert!(message.contains(&job) && message.contains("out of memory, perhaps"), "{message}");
    assert!(status.retry_at.is_some());
    assert_eq!(status.making.expect("how").failures, 1);
    // Nobody has to wait who knows better.
    let said = cli(&cluster, &["retry", "gauge"]).await;
    assert!(said.contains("hall/gauge: its image for"), "{said}");
    // The same is tried by a Job of the same name.
    let failed = pod.metadata.labels.clone().unwrap_or_default();
    let uid = |labels: &std::collections::BTreeMap<String, String>| {
        labels.get("batch.kubernetes.io/controller-uid").cloned()
    };
    let next = comes_true_within(SOON, "another try", async || {
        let pod = jobs::pod_of(&cluster.client, &job, SOON).await.expect("a pod");
        let found = uid(&pod.metadata.labels.clone().unwrap_or_default());
        if found == uid(&failed) { Err("the former one".to_owned()) } else { Ok(()) }
    });
    next.await.unwrap_or_else(|late| panic!("{late}"));
    let said = cli(&cluster, &["logs", "gauge"]).await;
    assert!(said.contains(&format!("Signing, Job {job}, one failed before")), "{said}");
    assert!(said.contains("(pod gauge-sign-"), "{said}");
    run(&cluster, &job).await;
    let status = ready(&cluster).await;
    assert_eq!(status.making.expect("how").failures, 0);
    let said = cli(&cluster, &["retry", "gauge"]).await;
    assert!(said.contains("nothing to try again"), "{said}");
    a_node_that_says_nothing(&cluster).await;
}

/// No kubelet runs: of a node's pod it is said what is missing.
async fn a_node_that_says_nothing(cluster: &Cluster) {
    let logs = async |node: &str, more: &[&str]| {
        let args = [&["logs", node][..], more].concat();
        plugin::run(cluster.plane.kubeconfig(), &args).await
    };
    let said = logs("node/none", &[]).await;
    assert!(said.code == 1 && said.err.contains("there is no node none"), "{said:?}");
    let said = logs("node/ash", &["-c", "loader"]).await;
    assert!(said.code == 1 && said.err.contains("no pod of DaemonSet tenon-node is on node ash"), "{said:?}");
    let said = logs("node/ash", &["--kernel", "6.1.0"]).await;
    assert!(said.code == 2 && said.err.contains("--kernel is for Modules"), "{said:?}");

    let template =
        node_pod::pod_template(node_pod::Images { agent: "none.test/a:1", loader: "none.test/l:1" });
    let mut pod = Pod { metadata: template.metadata.unwrap_or_default(), spec: template.spec, status: None };
    pod.metadata.name = Some("tenon-node-x".to_owned());
    pod.spec.as_mut().expect("a spec").node_name = Some(NODE.to_owned());
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), node_pod::NAMESPACE);
    pods.create(&PostParams::default(), &pod).await.expect("a pod");
    let said = logs("node/ash", &["--tail", "9"]).await;
    let expected = "container loader of pod tenon-node-x has not begun: the pod is Pending";
    assert!(said.code == 3 && said.err.contains(expected), "{said:?}");
    let said = logs("node/ash", &["-c", "agent", "--previous"]).await;
    assert!(said.code == 1 && said.err.contains("there is no former log"), "{said:?}");
    let said = logs("no/ash", &["-o", "json"]).await;
    let told: Value = serde_json::from_str(&said.out).expect("JSON");
    let told = ["/pod", "/containers/1/name"].map(|at| told.pointer(at).and_then(Value::as_str));
    assert_eq!(told, [Some("tenon-node-x"), Some("agent")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_exists_is_used_whoever_made_it() {
    let cluster = Cluster::start().await;
    cluster.add_node(NODE).await;
    cluster.push_driver("signed:1", "made elsewhere");
    apply(&cluster, &json!({})).await;
    let status = ready(&cluster).await;
    assert_eq!(status.making, None);
    assert!(job_names(&cluster).await.is_empty());
}

/// A site from which only a mirror can be reached: images by tag and by digest, and what is made from one.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_mirror_has_is_read_there_and_what_is_made_is_published_where_its_name_says() {
    let mut cluster = Cluster::start().await;
    let host = cluster.registry.host();
    cluster.flags = vec![format!("--mirror=quay.invalid/acme={host}/mirrored,only")];
    cluster.stop_operator().await;
    cluster.start_operator().await;
    cluster.add_node(NODE).await;
    cluster.push_driver("mirrored/plain:1", "one");
    let image = |name: &str| {
        json!({ "spec": { "moduleLoader": { "container": {
            "kernelMappings": [{ "regexp": "^.+$", "containerImage": format!("quay.invalid/acme/{name}") }],
        }}}})
    };
    cluster.apply_module("gauge", "", image("plain:1")).await;
    let by_tag = ready(&cluster).await;
    let digest = by_tag.image_digest.clone().expect("a digest");
    cluster.apply_module("gauge", "", image(&format!("plain@{digest}"))).await;
    let pinned = status_where(&cluster, "it is looked for again", |status| {
        status.phase == Some(ImagePhase::Ready) && status.resolved_from != by_tag.resolved_from
    })
    .await;
    assert_eq!((&pinned.image_digest, &pinned.bundle), (&by_tag.image_digest, &by_tag.bundle));

    secret(&cluster, "key", "key", "rsa.key", "1").await;
    secret(&cluster, "cert", "cert", "rsa.pem", "1").await;
    let sign = json!({ "spec": { "moduleLoader": { "container": { "sign": {
        "keySecret": { "name": "key" }, "certSecret": { "name": "cert" },
        "unsignedImage": "quay.invalid/acme/plain:1",
        "filesToSign": ["/opt/lib/modules/${KERNEL_FULL_VERSION}/extra/*.ko"],
    }}}}});
    cluster.apply_module("gauge", "signed:1", sign).await;
    let job = job_where(&cluster, "a Job", |_| true).await;
    assert!(matches!(run(&cluster, &job).await, Report::Made { .. }));
    assert!(cluster.registry.manifest("signed", "1").is_some());
    status_where(&cluster, "the signed one is used", |status| {
        status.phase == Some(ImagePhase::Ready) && status.making.is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_made_says_so_and_begins_nothing() {
    let cluster = Cluster::start().await;
    cluster.add_node(NODE).await;
    apply(&cluster, &json!({})).await;
    let reason =
        |reason: &'static str| move |status: &ModuleImageStatus| status.reason.as_deref() == Some(reason);
    status_where(&cluster, "no key", reason(reasons::SECRET_MISSING)).await;
    secret(&cluster, "key", "key", "rsa.key", "1").await;
    secret(&cluster, "cert", "cert", "rsa.pem", "1").await;
    let status = status_where(&cluster, "nothing to sign", reason(reasons::IMAGE_ABSENT)).await;
    assert!(status.message.expect("why").as_str().contains("sign.unsignedImage"));
    // Somebody else's Job of the name that ours would have is left alone.
    assert!(job_names(&cluster).await.is_empty());
    cluster.push_driver("plain:1", "one");
    let job = job_where(&cluster, "a Job", |_| true).await;
    let ours = api(&cluster).get(&job).await.expect("the Job");
    let expected = [(labels::RESOURCE_TYPE, "SignImage"), (labels::MODULE_NAME, "gauge")];
    for (label, value) in expected {
        assert_eq!(ours.labels().get(label).map(String::as_str), Some(value));
    }
    let tolerates = ours.spec.and_then(|spec| spec.template.spec?.tolerations).unwrap_or_default();
    let tolerates: Vec<_> = tolerates.iter().map(|one| one.key.as_deref()).collect();
    assert_eq!(
        tolerates,
        [None, Some(labels::STARTUP_TAINT)],
        "what the Module does, and nodes that wait for it"
    );

    // Another Module wants another image of the same name.
    let other = json!({ "spec": { "moduleLoader": { "container": { "sign": {
        "keySecret": { "name": "key" }, "certSecret": { "name": "cert" }, "hash": "sha512",
        "unsignedImage": format!("{}/plain:1", cluster.registry.host()), "filesToSign": ["/opt/*.ko"],
    }}}}});
    cluster.apply_module("other", "signed:1", other).await;
    comes_true_within(SOON, "both say that there can be only one", async || {
        let images =
            cluster.images().list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let says = |image: &&ModuleImage| {
            let status = image.status.clone().unwrap_or_default();
            status.reason.as_deref() == Some(reasons::SPEC_INVALID)
                && status.message.is_some_and(|message| message.as_str().contains("in two ways"))
        };
        let count = images.items.iter().filter(says).count();
        if count == 2 { Ok(()) } else { Err(format!("{count} do: {:?}", images.items)) }
    })
    .await
    .unwrap_or_else(|late| panic!("{late}"));
    assert_eq!(job_names(&cluster).await, [job]);
}
