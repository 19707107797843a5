//! Images that are built by Jobs, against a real API server with its Job controller. No kubelet runs: the test plays it, so that it
//! says when a Job ends, how, and what a build has left. `tests/e2e/tests/built_in_cluster.rs` has the real builder.
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::module_image::{ImagePhase, ModuleImage, ModuleImageStatus};
use tenon_api::task::Report;
use tenon_api::{Module, NodeModulesConfig, gather, reasons};
use tenon_image::manifest::OCI_LAYER_GZIP;
use tenon_image::testing::{Seen, TestLayout, layer};
use tenon_lab::claim::comes_true_within;
use tenon_lab::jobs;
use tenon_test_api::cluster::{Cluster, SOON, condition, order};
use tenon_test_api::plugin;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::ChildStdout;

const NODE: &str = "ash";
const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/sign/testdata");

async fn start(flags: &[&str]) -> Cluster {
    let mut cluster = Cluster::start().await;
    cluster.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    cluster.stop_operator().await;
    cluster.start_operator().await;
    cluster.add_node(NODE).await;
    cluster
}

fn maps(cluster: &Cluster) -> Api<ConfigMap> {
    Api::namespaced(cluster.client.clone(), "hall")
}

async fn recipe(cluster: &Cluster, dockerfile: &str) {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "recipe" },
        "data": { "dockerfile": dockerfile },
    });
    let params = PatchParams::apply("a-user").force();
    maps(cluster).patch("recipe", &params, &Patch::Apply(map)).await.expect("a ConfigMap");
}

async fn apply(cluster: &Cluster, module: &str, image: &str, build: Value) {
    let spec = json!({ "spec": { "moduleLoader": { "container": { "build": build } } } });
    cluster.apply_module(module, image, spec).await;
}

fn by_recipe() -> Value {
    json!({ "dockerfileConfigMap": { "name": "recipe" }, "baseImageRegistryTLS": { "insecure": true } })
}

fn api(cluster: &Cluster) -> Api<Job> {
    Api::namespaced(cluster.client.clone(), "hall")
}

/// The Jobs that are there and not on their way out, by name.
async fn all_jobs(cluster: &Cluster) -> BTreeMap<String, Job> {
    let list = api(cluster).list(&ListParams::default()).await.expect("a list");
    let there = list.items.into_iter().filter(|job| job.metadata.deletion_timestamp.is_none());
    there.map(|job| (job.name_any(), job)).collect()
}

async fn job_where(cluster: &Cluster, what: &str, holds: impl Fn(&str) -> bool) -> Job {
    comes_true_within(SOON, what, async || {
        let jobs = all_jobs(cluster).await;
        let meant = jobs.values().find(|job| holds(&job.name_any()));
        meant.cloned().ok_or_else(|| format!("there are {:?}", jobs.keys()))
    })
    .await
    .unwrap_or_else(|late| panic!("{late}"))
}

/// Plays the build, which leaves the driver in a layer, and runs what publishes.
async fn build(cluster: &Cluster, job: &str) -> Report {
    let pod = jobs::pod_of(&cluster.client, job, SOON).await.expect("a pod");
    let files = [
        (format!("opt/lib/modules/{}/extra/simple-kmod.ko", cluster.kernel), cluster.driver().to_vec()),
        ("opt/made-by".to_owned(), job.as_bytes().to_vec()),
    ];
    let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let leave = |work: &Path| -> std::io::Result<()> {
        let layout = TestLayout::create(&work.join("image"))?;
        let image = layout.put_image("amd64", &[(OCI_LAYER_GZIP, layer(&files))])?;
        layout.put_index(&[image])
    };
    jobs::run_after(&cluster.client, &pod, leave).await.expect("a pod's end")
}

async fn status_where(
    cluster: &Cluster,
    module: &str,
    what: &str,
    holds: impl Fn(&ModuleImageStatus) -> bool,
) -> ModuleImageStatus {
    comes_true_within(SOON, what, async || {
        let images =
            cluster.images().list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let meant = images.items.into_iter().find(|image: &ModuleImage| image.spec.module == module);
        let status = meant.and_then(|image| image.status).unwrap_or_default();
        if holds(&status) { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await
    .unwrap_or_else(|late| panic!("{late}"))
}

fn because(reason: &'static str) -> impl Fn(&ModuleImageStatus) -> bool {
    move |status| status.reason.as_deref() == Some(reason)
}

fn message(status: &ModuleImageStatus) -> String {
    status.message.clone().unwrap_or_default().to_string()
}

fn arguments(job: &Job) -> Vec<String> {
    let pod = job.spec.as_ref().and_then(|spec| spec.template.spec.clone()).expect("a pod");
    pod.init_containers.unwrap_or_default().remove(0).args.unwrap_or_default()
}

/// Defect 12 of KMM: neither a changed ConfigMap nor a failed build is noticed by itself there.
#[tokio::test(flavor = "multi_thread")]
async fn defect_12_19_what_is_built_is_what_the_config_map_says_now() {
    let cluster = start(&["--look-again=1"]).await;
    let base = format!("{}/base:1", cluster.registry.host());
    apply(&cluster, "gauge", "built:1", by_recipe()).await;
    let status = status_where(&cluster, "gauge", "it waits", because(reasons::CONFIG_MAP_MISSING)).await;
    assert!(message(&status).contains("ConfigMap hall/recipe"), "{status:?}");
    recipe(&cluster, &format!("ARG KERNEL_VERSION\nFROM {base}\nRUN make")).await;
    let status = status_where(&cluster, "gauge", "it waits", because(reasons::IMAGE_ABSENT)).await;
    assert!(message(&status).contains("base:1"), "{status:?}");
    assert!(all_jobs(&cluster).await.is_empty());

    cluster.push_driver("base:1", "one");
    let first = job_where(&cluster, "a Job", |_| true).await;
    let given = arguments(&first);
    let pin = format!("--build-context={base}=docker-image://{}/base@sha256:", cluster.registry.host());
    assert!(given.iter().any(|argument| argument.starts_with(&pin)), "{given:?}");
    // Defect 19: whatever object asks, the Module's name.
    for argument in ["--build-arg=MOD_NAME=gauge", "--build-arg=MOD_NAMESPACE=hall"] {
        assert!(given.iter().any(|given| given == argument), "{given:?}");
    }
    let building = status_where(&cluster, "gauge", "it builds", because(reasons::BUILDING)).await;
    assert_eq!(building.phase, Some(ImagePhase::Building));

    // Changed while it is built: what would come of it is not wanted any more.
    recipe(&cluster, &format!("FROM {base}\nRUN make all")).await;
    let second = job_where(&cluster, "another Job instead", |name| name != first.name_any()).await;
    assert_eq!(all_jobs(&cluster).await.len(), 1, "one build at a time");
    assert!(cluster.registry.manifest("built", "1").is_none());
    assert!(matches!(build(&cluster, &second.name_any()).await, Report::Made { .. }));
    let made =
        status_where(&cluster, "gauge", "it is ready", |status| status.phase == Some(ImagePhase::Ready))
            .await;

    // Changed afterwards, and nobody says so.
    recipe(&cluster, &format!("FROM {base}\nRUN make some")).await;
    let third = job_where(&cluster, "a third one", |name| name != second.name_any()).await;
    build(&cluster, &third.name_any()).await;
    let anew = |status: &ModuleImageStatus| {
        status.phase == Some(ImagePhase::Ready) && status.image_digest != made.image_digest
    };
    status_where(&cluster, "gauge", "it is another image", anew).await;

    // The image that it is built on moves.
    cluster.push_driver("base:1", "two");
    let known = [second.name_any(), third.name_any()];
    let fourth = job_where(&cluster, "a fourth one", |name| !known.iter().any(|known| known == name)).await;
    assert_ne!(arguments(&fourth), arguments(&third));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fails_says_why_and_is_tried_again() {
    let cluster = start(&[]).await;
    apply(&cluster, "gauge", "built:1", json!({ "dockerfile": "FROM scratch\nADD x /" })).await;
    let job = job_where(&cluster, "a Job", |_| true).await.name_any();
    let pod = jobs::pod_of(&cluster.client, &job, SOON).await.expect("a pod");
    let words = format!("{}\nerror: simple.c:7: expected ';'", "noise\n".repeat(300));
    jobs::fail_build(&cluster.client, &pod, 2, &words).await.expect("a pod's end");
    let status = status_where(&cluster, "gauge", "it is told", because(reasons::BUILD_FAILED)).await;
    assert!(message(&status).ends_with("error: simple.c:7: expected ';'"), "{}", message(&status));
    assert!(message(&status).contains(&job) && status.retry_at.is_some());

    // Ten seconds later: the same Job's name, another Job. Its node does not let it work.
    let again = comes_true_within(SOON, "it is tried again", async || {
        let now = jobs::pod_of(&cluster.client, &job, SOON).await.expect("a pod");
        if now.uid() == pod.uid() { Err("the former one".to_owned()) } else { Ok(now) }
    });
    let again = again.await.unwrap_or_else(|late| panic!("{late}"));
    jobs::fail_build(
        &cluster.client,
        &again,
        78,
        "tenon-build: the pod's seccomp profile forbids user namespaces",
    )
    .await
    .expect("a pod's end");
    let status = status_where(&cluster, "gauge", "it is told", because(reasons::BUILDER_CONFINED)).await;
    assert!(message(&status).contains("seccomp"), "{status:?}");
    assert_eq!(status.making.expect("how").failures, 2);

    // What somebody pushes by hand meanwhile is what is used.
    cluster.push_driver("built:1", "by hand");
    apply(&cluster, "gauge", "built:1", json!({ "dockerfile": "FROM scratch\nADD y /" })).await;
    let ready = |status: &ModuleImageStatus| status.phase == Some(ImagePhase::Ready);
    let status = status_where(&cluster, "gauge", "it is used", ready).await;
    assert_eq!(status.making, None, "nobody made it here");
}

/// Nodes that come while an image is made anew get the one of before, also when nothing comes of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_works_is_used_until_there_is_something_else() {
    let mut cluster = start(&["--look-again=1"]).await;
    recipe(&cluster, "FROM scratch\nADD one /").await;
    apply(&cluster, "gauge", "built:1", by_recipe()).await;
    let first = job_where(&cluster, "a Job", |_| true).await.name_any();
    build(&cluster, &first).await;
    let made = status_where(&cluster, "gauge", "it is ready", because(reasons::IMAGE_EXISTS)).await;

    recipe(&cluster, "FROM scratch\nADD two /").await;
    let second = job_where(&cluster, "a Job for the change", |name| name != first).await.name_any();
    let anew = status_where(&cluster, "gauge", "it is made anew", because(reasons::BUILDING)).await;
    let of_before = |status: &ModuleImageStatus| {
        assert_eq!(status.phase, Some(ImagePhase::Ready), "{status:?}");
        assert_eq!((&status.bundle, &status.image_digest), (&made.bundle, &made.image_digest));
    };
    of_before(&anew);
    cluster.add_node("birch").await;
    let bundle = made.bundle.clone().expect("a bundle").digest;
    let gets = |config: &NodeModulesConfig| {
        order(config).is_some_and(|order| format!("{order:?}").contains(bundle.trim_start_matches("sha256:")))
    };
    cluster.config_where("birch", "who comes meanwhile gets the image of before", gets).await;

    let pod = jobs::pod_of(&cluster.client, &second, SOON).await.expect("a pod");
    jobs::fail_build(&cluster.client, &pod, 2, "no such file").await.expect("a pod's end");
    of_before(&status_where(&cluster, "gauge", "it is told", because(reasons::BUILD_FAILED)).await);
    let degraded = |module: &Module| {
        condition(module, "Degraded").filter(|(status, ..)| *status == "True").map(|(.., why)| why.to_owned())
    };
    let module = cluster.module_where("gauge", "somebody should look", |module| degraded(module).is_some());
    let why = degraded(&module.await).unwrap_or_default();
    assert!(why.contains("the image of before is used") && why.contains("no such file"), "{why}");
    cluster.stop_operator().await;
    cluster.start_operator().await;
    recipe(&cluster, "FROM scratch\nADD three /").await;
    let third = job_where(&cluster, "a Job for what is mended", |name| name != first && name != second).await;
    of_before(&status_where(&cluster, "gauge", "it is made anew", because(reasons::BUILDING)).await);
    build(&cluster, &third.name_any()).await;
    let ready = status_where(&cluster, "gauge", "it is ready", because(reasons::IMAGE_EXISTS)).await;
    assert_ne!(ready.image_digest, made.image_digest);
    cluster.module_where("gauge", "all is well again", |module| degraded(module).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_no_node_takes_has_no_turn_and_makes_room_for_one_that_some_node_takes() {
    let cluster = start(&["--jobs-at-once=1"]).await;
    let on = |disk: &str| json!({ "dockerfile": "FROM scratch\nADD x /", "selector": { "disk": disk } });
    apply(&cluster, "gauge", "built:1", on("tape")).await;
    let first = job_where(&cluster, "a Job", |_| true).await;
    apply(&cluster, "anvil", "other:1", on("ssd")).await;
    let second = job_where(&cluster, "the next one", |name| name.starts_with("anvil-")).await;
    assert!(second.metadata.deletion_timestamp.is_none());
    let status = status_where(&cluster, "gauge", "it is told", |status| {
        message(status).contains("0/1 nodes are available")
    })
    .await;
    assert_eq!(status.reason.as_deref(), Some(reasons::BUILDING));

    apply(&cluster, "gauge", "built:1", on("ssd")).await;
    comes_true_within(SOON, "a Job elsewhere", async || {
        let jobs = all_jobs(&cluster).await;
        let job = jobs.get(&first.name_any()).ok_or_else(|| format!("there are {:?}", jobs.keys()))?;
        let pod = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        let selector = pod.and_then(|pod| pod.node_selector.clone()).unwrap_or_default();
        if selector.get("disk").is_some_and(|disk| disk == "ssd") {
            Ok(())
        } else {
            Err(format!("{selector:?}"))
        }
    })
    .await
    .unwrap_or_else(|late| panic!("{late}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_wait_for_their_turn() {
    let cluster = start(&["--jobs-at-once=1"]).await;
    // A node that takes pods; what no node takes has no turn.
    let label = json!({ "metadata": { "labels": { "kubernetes.io/arch": "amd64" } } });
    let room = json!({ "cpu": "4", "memory": "16Gi", "ephemeral-storage": "64Gi", "pods": "9" });
    let room = json!({ "status": { "capacity": room, "allocatable": room } });
    let (nodes, params) = (cluster.nodes(), PatchParams::default());
    nodes.patch(NODE, &params, &Patch::Merge(label)).await.expect("a label");
    nodes.patch_status(NODE, &params, &Patch::Merge(room)).await.expect("a status");
    let dockerfile = json!({ "dockerfile": "FROM scratch\nADD x /" });
    apply(&cluster, "gauge", "built:1", dockerfile.clone()).await;
    let first = job_where(&cluster, "a Job", |_| true).await.name_any();
    apply(&cluster, "anvil", "other:1", dockerfile.clone()).await;
    let status = status_where(&cluster, "anvil", "it waits", because(reasons::QUEUED)).await;
    assert!(message(&status).contains("it is the next"), "{status:?}");
    apply(&cluster, "bellows", "third:1", dockerfile).await;
    let status = status_where(&cluster, "bellows", "it waits", because(reasons::QUEUED)).await;
    assert!(message(&status).contains("before it"), "{status:?}");
    assert_eq!(all_jobs(&cluster).await.len(), 1);
    // Whoever looks on from here sees the Job when it has come.
    let said = plugin::run(cluster.plane.kubeconfig(), &["logs", "bellows", "-n", "hall"]).await;
    assert!(said.code == 0 && said.out.contains("has not begun)"), "{said:?}");
    let args = ["logs", "anvil", "-n", "hall", "--follow"];
    let mut follow = plugin::plugin(cluster.plane.kubeconfig(), &args).await;
    let mut follow = follow.stdout(Stdio::piped()).spawn().expect("the plugin runs");
    let mut lines = BufReader::new(follow.stdout.take().expect("its output")).lines();
    line_with(&mut lines, " has not begun)").await;
    build(&cluster, &first).await;
    let second = job_where(&cluster, "the next one", |name| name != first).await.name_any();
    assert!(second.starts_with("anvil-"), "{second}");
    line_with(&mut lines, "(pod anvil-").await;
    build(&cluster, &second).await;
    let ended = tokio::time::timeout(SOON, follow.wait()).await.expect("an end").expect("a code");
    assert!(ended.success(), "{ended}");
}

/// The next line of an output with this in it.
async fn line_with(lines: &mut Lines<BufReader<ChildStdout>>, part: &str) -> String {
    let found = async {
        while let Some(line) = lines.next_line().await.expect("an output") {
            if line.contains(part) {
                return line;
            }
        }
        panic!("it has ended without {part}")
    };
    tokio::time::timeout(SOON, found).await.unwrap_or_else(|_| panic!("no line with {part}"))
}

/// Defects 9, 13, 15 and 16 of KMM.
#[tokio::test(flavor = "multi_thread")]
async fn defect_09_13_15_16_what_is_built_is_signed_before_anybody_sees_it_and_where_the_module_says() {
    let cluster = start(&[]).await;
    let build_here = json!({ "dockerfile": "FROM scratch\nADD x /", "selector": { "disk": "ssd" } });
    // Without a key there is nothing to be seen.
    let sign = json!({
        "keySecret": { "name": "no-key" }, "certSecret": { "name": "no-cert" },
        "filesToSign": ["/opt/lib/modules/${KERNEL_FULL_VERSION}/extra/*.ko"],
    });
    let spec = json!({ "spec": { "moduleLoader": { "container": { "build": build_here, "sign": sign } } } });
    cluster.apply_module("gauge", "built:1", spec).await;
    let status = status_where(&cluster, "gauge", "it waits", because(reasons::SECRET_MISSING)).await;
    assert!(message(&status).contains("no-key"), "{status:?}");
    assert!(all_jobs(&cluster).await.is_empty() && cluster.registry.manifest("built", "1").is_none());

    for (name, entry, file) in [("no-key", "key", "rsa.key"), ("no-cert", "cert", "rsa.pem")] {
        let content = std::fs::read_to_string(Path::new(KEYS).join(file)).expect("a key");
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": { entry: content },
        });
        let params = PatchParams::apply("a-user").force();
        cluster.secrets().patch(name, &params, &Patch::Apply(secret)).await.expect("a Secret");
    }
    let job = job_where(&cluster, "a Job", |_| true).await;
    assert!(matches!(build(&cluster, &job.name_any()).await, Report::Made { .. }));
    let named = |seen: &&Seen| seen.method == "PUT" && seen.path.ends_with("built/manifests/1");
    assert_eq!(cluster.registry.seen().iter().filter(named).count(), 1, "the name is written once: signed");
    let config = cluster.registry.manifest("built", "1").expect("the image");
    let config: Value = serde_json::from_slice(&config).expect("JSON");
    let layers = config["layers"].as_array().map(Vec::len);
    assert_eq!(layers, Some(2), "what was built, and what was signed in it");
    let selector = job.spec.and_then(|spec| spec.template.spec?.node_selector).unwrap_or_default();
    assert_eq!(selector.get("disk").map(String::as_str), Some("ssd"));
    assert_eq!(selector.get("kubernetes.io/arch").map(String::as_str), Some("amd64"));
    cluster.modules().delete("gauge", &DeleteParams::default()).await.expect("a deletion");

    // A variable without a value is no empty text.
    apply(&cluster, "anvil", "other:1", json!({ "dockerfile": "ARG WHAT\nFROM base:${WHAT}" })).await;
    let status = status_where(&cluster, "anvil", "it is refused", because(reasons::SPEC_INVALID)).await;
    assert!(message(&status).contains("line 2") && message(&status).contains("WHAT"), "{status:?}");

    // One name for two kernels would be built for one of them only.
    cluster.add_node_with("birch", "7.2.0").await;
    apply(&cluster, "anvil", "other:1", json!({ "dockerfile": "FROM scratch" })).await;
    let shared = |status: &ModuleImageStatus| message(status).contains("in two ways");
    let status = status_where(&cluster, "anvil", "they exclude each other", shared).await;
    assert!(message(&status).contains("KERNEL_FULL_VERSION"), "{status:?}");
}

/// What the container that gathers is told to take, by image.
fn gathered(job: &Job) -> String {
    let pod = job.spec.as_ref().and_then(|spec| spec.template.spec.clone()).expect("a pod");
    let containers = pod.init_containers.unwrap_or_default();
    let gathers = containers.into_iter().find(|container| container.name == gather::CONTAINER);
    let variables = gathers.and_then(|container| container.env).unwrap_or_default();
    let told = variables.into_iter().find(|variable| variable.name == gather::VARIABLE);
    told.and_then(|variable| variable.value).expect("what is to be gathered")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_compiled_against_another_module_waits_for_it_and_is_compiled_anew_with_it() {
    let cluster = start(&["--look-again=1"]).await;
    let host = cluster.registry.host();
    let compiled = |of: &str| {
        json!({
            "source": {
                "image": { "reference": format!("{host}/sources:1") },
                "toolkit": format!("{host}/toolkit:1"),
                "artifacts": [{ "module": of, "path": "Module.symvers", "to": "Module.symvers" }],
            },
            "baseImageRegistryTLS": { "insecure": true },
        })
    };
    cluster.push_driver("toolkit:1", "a compiler");
    apply(&cluster, "gauge", "built:1", compiled("anvil")).await;
    let waits = because(reasons::WAITING_FOR_MODULE);
    let status = status_where(&cluster, "gauge", "it waits", waits).await;
    assert!(
        message(&status).contains("Module anvil") && message(&status).contains(&cluster.kernel),
        "{status:?}"
    );
    assert!(all_jobs(&cluster).await.is_empty());

    cluster.push_driver("anvil:1", "one");
    cluster.apply_module("anvil", "anvil:1", json!({})).await;
    let status =
        status_where(&cluster, "gauge", "the sources are missed", because(reasons::IMAGE_ABSENT)).await;
    assert!(message(&status).contains("sources:1"), "{status:?}");
    cluster.push_driver("sources:1", "sources");
    let first = job_where(&cluster, "a Job", |_| true).await;
    let told = gathered(&first);
    for image in ["anvil:1@sha256:", "sources:1@sha256:"] {
        assert!(told.contains(&format!("{host}/{image}")), "{told}");
    }
    assert!(told.contains(&format!("/opt/lib/modules/{}/Module.symvers", cluster.kernel)), "{told}");

    // The other Module moves on; then the sources do.
    cluster.push_driver("anvil:2", "two");
    cluster.apply_module("anvil", "anvil:2", json!({})).await;
    let second = job_where(&cluster, "another Job instead", |name| name != first.name_any()).await;
    assert!(gathered(&second).contains("anvil:2@sha256:"), "{}", gathered(&second));
    cluster.push_driver("sources:1", "other sources");
    let known = [first.name_any(), second.name_any()];
    job_where(&cluster, "a third one", |name| !known.iter().any(|known| known == name)).await;

    apply(&cluster, "bellows", "other:1", compiled("bellows")).await;
    let status = status_where(&cluster, "bellows", "it needs itself", because(reasons::SPEC_INVALID)).await;
    assert!(message(&status).contains("bellows"), "{status:?}");
}
