//! §2.11: what PreflightValidations come to, with the operator at work; and defects 2, 3 and 19 of §2.15.

use std::path::Path;
use std::process::Stdio;

use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::module::Predicted;
use tenon_api::preflight_validation::{
    OldStage, OldStatus, PreflightModule, PreflightValidationSpec, VerificationStage, VerificationStatus,
};
use tenon_api::task::Report;
use tenon_api::{PreflightValidation, PreflightValidationStatus, ShortMessage, reasons};
use tenon_image::manifest::OCI_LAYER_GZIP;
use tenon_image::testing::{TestLayout, layer};
use tenon_lab::claim::{Broken, comes_true_within};
use tenon_lab::control_plane::Mark;
use tenon_lab::jobs;
use tenon_test_api::cluster::{Cluster, SOON, condition, order};
use tenon_test_api::facts;
use tenon_test_api::plugin::{self, Said};
use tokio::process::Command;

const NODE: &str = "oak";
/// What the node runs. The driver's kernel is the next one, which no node runs.
const OLD_KERNEL: &str = "5.10.0-1-amd64";
const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/sign/testdata");
const OPERATOR: &str = "system:serviceaccount:tenon-system:tenon-operator";

fn preflights(cluster: &Cluster) -> Api<PreflightValidation> {
    Api::all(cluster.client.clone())
}

async fn ask(cluster: &Cluster, name: &str, push: bool) {
    let spec = PreflightValidationSpec {
        kernel_version: cluster.kernel.clone(),
        push_built_image: push,
        architecture: Some("amd64".to_owned()),
    };
    let object = PreflightValidation::new(name, spec);
    preflights(cluster).create(&PostParams::default(), &object).await.expect("a PreflightValidation");
}

async fn status_where(
    cluster: &Cluster,
    name: &str,
    what: &str,
    holds: impl Fn(&PreflightValidationStatus) -> bool,
) -> PreflightValidationStatus {
    comes_true_within(SOON, what, async || {
        let object = preflights(cluster).get(name).await.map_err(|error| error.to_string())?;
        let status = object.status.unwrap_or_default();
        if holds(&status) { Ok(status) } else { Err(format!("{status:#?}")) }
    })
    .await
    .unwrap_or_else(|late: Broken| panic!("{late}"))
}

/// What is said of one Module, once it is said with this reason.
async fn told(cluster: &Cluster, name: &str, module: &str, reason: &str) -> PreflightModule {
    let is_it = |told: &PreflightModule| told.name == module && told.reason.as_deref() == Some(reason);
    let what = format!("{name} says {reason} of {module}");
    let status = status_where(cluster, name, &what, |status| status.modules.iter().any(is_it)).await;
    status.modules.into_iter().find(is_it).expect("the Module")
}

fn words(told: &PreflightModule) -> &str {
    told.status_reason.as_ref().map(ShortMessage::as_str).unwrap_or_default()
}

/// A Module of this spec, as it stands.
async fn apply_spec(cluster: &Cluster, name: &str, spec: Value) {
    let manifest = json!({
        "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module", "metadata": { "name": name }, "spec": spec,
    });
    let params = PatchParams::apply("a-user").force();
    cluster.modules().patch(name, &params, &Patch::Apply(manifest)).await.expect("a Module");
}

async fn apply_plugin_only(cluster: &Cluster) {
    let plugin = json!({ "container": { "image": "registry.test/plugin:1" } });
    apply_spec(cluster, "plug", json!({ "selector": { "hall": "b" }, "devicePlugin": plugin })).await;
}

/// A Module whose image is built where it does not exist.
async fn apply_to_build(cluster: &Cluster) {
    let build = json!({ "build": { "dockerfile": "ARG KERNEL_VERSION\nFROM scratch\nADD x /" } });
    cluster
        .apply_module(
            "mouse",
            "built:1",
            json!({ "spec": {
                "selector": { "kubernetes.io/os": "none" }, "moduleLoader": { "container": build },
            }}),
        )
        .await;
}

async fn put_secret(cluster: &Cluster, name: &str, entry: &str, file: &str) {
    let content = std::fs::read_to_string(Path::new(KEYS).join(file)).expect("a key");
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": { entry: content },
    });
    let params = PatchParams::apply("a-user").force();
    cluster.secrets().patch(name, &params, &Patch::Apply(secret)).await.expect("a Secret");
}

async fn jobs_of(cluster: &Cluster) -> Vec<Job> {
    let jobs: Api<Job> = Api::namespaced(cluster.client.clone(), "hall");
    jobs.list(&ListParams::default()).await.expect("a list").items
}

/// Runs a Job's pod as a kubelet would, with a builder before it that leaves the driver.
async fn play(cluster: &Cluster, job: &Job) -> Report {
    let pod = jobs::pod_of(&cluster.client, &job.name_any(), SOON).await.expect("a pod");
    let file = format!("opt/lib/modules/{}/extra/simple-kmod.ko", cluster.kernel);
    let files = [(file.as_str(), cluster.driver())];
    let leave = |work: &Path| -> std::io::Result<()> {
        let layout = TestLayout::create(&work.join("image"))?;
        let image = layout.put_image("amd64", &[(OCI_LAYER_GZIP, layer(&files))])?;
        layout.put_index(&[image])
    };
    jobs::run_after(&cluster.client, &pod, leave).await.expect("a pod's end")
}

/// The kernels that the Module has images for.
async fn kernels_of(cluster: &Cluster, module: &str) -> Result<Vec<String>, String> {
    let images = cluster.images().list(&ListParams::default()).await.map_err(|error| error.to_string())?;
    let of_it = images.items.into_iter().filter(|image| image.spec.module == module);
    Ok(of_it.map(|image| image.spec.kernel).collect())
}

async fn until_kernels(cluster: &Cluster, module: &str, expected: &[&str]) {
    comes_true_within(SOON, format!("{module} has images for {expected:?}"), async || {
        let kernels = kernels_of(cluster, module).await?;
        if kernels == expected { Ok(()) } else { Err(format!("{kernels:?}")) }
    })
    .await
    .unwrap_or_else(|late: Broken| panic!("{late}"));
}

/// What the operator has written since, by resource.
fn written(cluster: &Cluster, since: Mark) -> Vec<(String, u64)> {
    let writes = cluster.plane.audit().writes_since(since).expect("the audit log");
    let by_it = writes.into_iter().filter(|(write, _)| write.user == OPERATOR);
    by_it.map(|(write, count)| (write.resource, count)).collect()
}

/// What the plugin says and its exit code.
async fn plugin(cluster: &Cluster, args: &[&str]) -> (i32, String, String) {
    let Said { code, out, err } = plugin::run(cluster.plane.kubeconfig(), args).await;
    println!("$ kubectl tenon {}\n{err}{out}", args.join(" "));
    (code, out, err)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_says_what_a_node_with_that_kernel_would_get_and_touches_none() {
    let cluster = Cluster::start().await;
    cluster.add_node_with(NODE, OLD_KERNEL).await;
    cluster.push_driver("gauge:v1", "one");
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    let no_module = |module: &tenon_api::Module| {
        condition(module, "Degraded").is_some_and(|(status, ..)| status == "True")
    };
    cluster.module_where("gauge", "the image has nothing for the node's kernel", no_module).await;
    let mark = cluster.plane.audit().mark();

    // The image is there, and nobody knows the kernel: that is said, and not that all is well.
    ask(&cluster, "next", false).await;
    let gauge = told(&cluster, "next", "gauge", reasons::NOT_PREDICTED).await;
    assert_eq!(gauge.verification_status, VerificationStatus::Success);
    assert!(
        words(&gauge).starts_with("verified image exists; ") && words(&gauge).contains("unknown"),
        "{gauge:?}"
    );
    // Facts decide.
    facts::say(&cluster, false).await;
    let gauge = told(&cluster, "next", "gauge", reasons::WILL_NOT_LOAD).await;
    assert_eq!(gauge.verification_status, VerificationStatus::Failure);
    assert!(!gauge.verdict.is_empty() && words(&gauge).contains("the kernel will refuse it"), "{gauge:?}");
    facts::say(&cluster, true).await;
    let gauge = told(&cluster, "next", "gauge", reasons::WILL_LOAD).await;
    assert_eq!(words(&gauge), "verified image exists, and the kernel will load it");

    // As a program of the other version reads it.
    let status =
        status_where(&cluster, "next", "both forms", |status| status.cr_statuses.contains_key("hall/gauge"))
            .await;
    let old = &status.cr_statuses["hall/gauge"];
    assert_eq!((old.verification_status, old.verification_stage), (OldStatus::True, OldStage::Done));
    assert_eq!(status.result, Some(VerificationStatus::Success));

    // From a terminal.
    let (code, said, _) = plugin(&cluster, &["preflight", &cluster.kernel]).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("hall/gauge") && said.contains("Loads"), "{said}");
    let narrow =
        json!({ "kernelMappings": [{ "literal": "5.4.0-none", "containerImage": "registry.test/x:1" }] });
    let narrow = json!({ "spec": { "selector": { "hall": "b" }, "moduleLoader": { "container": narrow } } });
    cluster.apply_module("narrow", "x:1", narrow).await;
    let missing = told(&cluster, "next", "narrow", reasons::NO_MAPPING).await;
    assert!(words(&missing).starts_with("mapping not found"), "{missing:?}");
    let (code, said, _) = plugin(&cluster, &["preflight", &cluster.kernel]).await;
    let next = format!("next: add a literal or a regexp for kernel {}", cluster.kernel);
    assert!(code == 1 && said.contains("Lost") && said.contains(&next), "{code}: {said}");
    let (code, said, _) = plugin(&cluster, &["preflight", &cluster.kernel, "-o", "json"]).await;
    let answer: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        (code, &answer["result"], &answer["modules"][1]["name"]),
        (1, &json!("Failure"), &json!("narrow"))
    );
    let (code, _, aside) = plugin(&cluster, &["preflight", "6.1"]).await;
    assert!(code == 2 && aside.contains("at least three parts"), "{code}: {aside}");
    let left = preflights(&cluster).list(&ListParams::default()).await.expect("a list");
    assert_eq!(left.iter().map(PreflightValidation::name_any).collect::<Vec<_>>(), ["next"]);

    from_a_pipeline(&cluster).await;

    // What only it has wanted goes with it; what a node wants stays.
    assert_eq!(kernels_of(&cluster, "gauge").await.expect("images").len(), 2);
    preflights(&cluster).delete("next", &DeleteParams::default()).await.expect("a deletion");
    until_kernels(&cluster, "gauge", &[OLD_KERNEL]).await;
    let written = written(&cluster, mark);
    let of = |resource: &str| -> u64 {
        written.iter().filter(|(written, _)| written == resource).map(|(_, count)| count).sum()
    };
    assert!(of("preflightvalidations") > 0, "the log tells of the operator: {written:?}");
    assert_eq!((of("nodes"), of("nodemodulesconfigs")), (0, 0), "{written:?}");
}

/// The names of the PreflightValidations that are there.
async fn asked(cluster: &Cluster) -> Vec<String> {
    let list = preflights(cluster).list(&ListParams::default()).await.expect("a list");
    list.iter().map(PreflightValidation::name_any).collect()
}

/// Somebody who may make PreflightValidations, and not delete them.
async fn may_ask_only(cluster: &Cluster, user: &str) {
    let kinds = ["preflightvalidations", "preflightvalidations/status"];
    let group = "rbac.authorization.k8s.io";
    let role = json!({
        "apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": { "name": user },
        "rules": [{ "apiGroups": ["kmm.sigs.x-k8s.io"], "resources": kinds, "verbs": ["create", "get"] }],
    });
    let binding = json!({
        "apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": { "name": user },
        "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": user },
        "subjects": [{ "apiGroup": group, "kind": "User", "name": user }],
    });
    for object in [role, binding] {
        cluster.plane.apply(&object.to_string()).await.expect("a right");
    }
}

/// Nothing but a verdict ends with the code of one, and who is stopped leaves nothing.
async fn from_a_pipeline(cluster: &Cluster) {
    let kernel = cluster.kernel.as_str();
    let (code, _, aside) = plugin(cluster, &["preflight", kernel, "--context", "none"]).await;
    assert_eq!(code, 3, "{aside}");
    let (code, _, aside) = plugin(cluster, &["preflight", kernel, "--as", "nobody"]).await;
    assert!(code == 3 && aside.contains("ask for the rights"), "{code}: {aside}");
    // What cannot be taken back is told of, and leaves the verdict as it is.
    may_ask_only(cluster, "asker").await;
    let kept = comes_true_within(SOON, "the right counts", async || {
        let (code, _, aside) = plugin(cluster, &["preflight", kernel, "--as", "asker"]).await;
        if aside.contains("error: create") { Err(aside) } else { Ok((code, aside)) }
    });
    let (code, aside) = kept.await.unwrap_or_else(|late: Broken| panic!("{late}"));
    assert!(
        code == 1 && aside.contains("remove it yourself: kubectl delete preflightvalidation "),
        "{aside}"
    );

    // What is built by nobody is not decided.
    apply_to_build(cluster).await;
    let left = asked(cluster).await;
    for signal in ["TERM", "HUP", "INT"] {
        let args = ["preflight", kernel];
        let mut command = plugin::plugin(cluster.plane.kubeconfig(), &args).await;
        let running = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the plugin runs");
        comes_true_within(SOON, "it has asked", async || match asked(cluster).await.len() {
            more if more > left.len() => Ok(()),
            as_before => Err(format!("{as_before}")),
        })
        .await
        .unwrap_or_else(|late: Broken| panic!("{late}"));
        let id = running.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status().await.expect("kill");
        assert!(sent.success());
        let ended = running.wait_with_output().await.expect("its end");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.code() == Some(3) && said.contains("stopped"), "{signal}: {ended:?}");
        assert_eq!(asked(cluster).await, left, "{signal}: {said}");
    }
    cluster.delete_module("mouse").await;
    for name in left.iter().filter(|name| *name != "next") {
        preflights(cluster).delete(name, &DeleteParams::default()).await.expect("a deletion");
    }
}

/// KMM's controller panics at the first Module without `moduleLoader`, at every look, and no other Module is verified.
#[tokio::test(flavor = "multi_thread")]
async fn defect_02_a_module_without_module_loader_keeps_no_preflight_from_its_work() {
    let cluster = Cluster::start().await;
    apply_plugin_only(&cluster).await;
    cluster.push_driver("gauge:v1", "one");
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    ask(&cluster, "next", false).await;
    let plug = told(&cluster, "next", "plug", reasons::NO_MODULE_LOADER).await;
    assert_eq!(
        (plug.verification_status, plug.verification_stage),
        (VerificationStatus::Success, VerificationStage::Done)
    );
    assert_eq!(words(&plug), "nothing to verify: the Module has no moduleLoader");
    told(&cluster, "next", "gauge", reasons::NOT_PREDICTED).await;
    assert_eq!(kernels_of(&cluster, "plug").await.expect("images"), Vec::<String>::new());
}

/// KMM's preflight waits for ever where nothing makes a missing image, and two preflights write the same object in turns. Its
/// builds are given the name of a helping object for the Module's (defect 19).
#[tokio::test(flavor = "multi_thread")]
async fn defect_03_what_is_missing_fails_and_any_number_may_ask_at_once() {
    let cluster = Cluster::start().await;
    let selector = json!({ "spec": { "selector": { "hall": "b" } } });
    cluster.apply_module("absent", "absent:1", selector).await;
    apply_to_build(&cluster).await;
    ask(&cluster, "look", false).await;
    let absent = told(&cluster, "look", "absent", reasons::IMAGE_ABSENT).await;
    assert_eq!(absent.verification_status, VerificationStatus::Failure);
    assert!(words(&absent).starts_with("verified image does not exist"), "{absent:?}");
    told(&cluster, "look", "mouse", reasons::BUILDING).await;
    let [tried] = jobs_of(&cluster).await.try_into().expect("one Job, on trial");
    assert!(matches!(play(&cluster, &tried).await, Report::Tried { .. }));
    let mouse = told(&cluster, "look", "mouse", reasons::NOT_PUSHED).await;
    assert_eq!(mouse.verification_status, VerificationStatus::Success);
    assert!(cluster.registry.manifest("built", "1").is_none(), "nothing was to be pushed");

    // Another asks to have it made, while the first still asks; and a third of the same kind as the first.
    ask(&cluster, "make", true).await;
    ask(&cluster, "look-too", false).await;
    let building = told(&cluster, "make", "mouse", reasons::BUILDING).await;
    assert_eq!(building.verification_status, VerificationStatus::InProgress);
    assert!(words(&building).starts_with("verification is not finished yet"), "{building:?}");
    let mut made = jobs_of(&cluster).await;
    made.retain(|job| job.name_any() != tried.name_any());
    let [job] = made.as_slice() else { panic!("one Job more: {made:?}") };
    let pod = job.spec.as_ref().and_then(|spec| spec.template.spec.clone()).expect("a pod");
    let given = pod.init_containers.unwrap_or_default().remove(0).args.unwrap_or_default();
    assert!(given.iter().any(|given| given == "--build-arg=MOD_NAME=mouse"), "{given:?}");
    let report = play(&cluster, job).await;
    assert!(matches!(report, Report::Made { .. }), "{report:?}");
    for name in ["look", "make", "look-too"] {
        let mouse = told(&cluster, name, "mouse", reasons::NOT_PREDICTED).await;
        assert!(words(&mouse).starts_with("verified image exists"), "{mouse:?}");
    }

    // Each wants it on its own.
    preflights(&cluster).delete("make", &DeleteParams::default()).await.expect("a deletion");
    preflights(&cluster).delete("look-too", &DeleteParams::default()).await.expect("a deletion");
    told(&cluster, "look", "mouse", reasons::NOT_PREDICTED).await;
    until_kernels(&cluster, "mouse", &[cluster.kernel.as_str()]).await;
    preflights(&cluster).delete("look", &DeleteParams::default()).await.expect("a deletion");
    until_kernels(&cluster, "mouse", &[]).await;
}

/// KMM pushes what a preflight with `pushBuiltImage: false` builds, and the next node with that kernel is given it.
#[tokio::test(flavor = "multi_thread")]
async fn mgmt_20900_what_is_not_to_be_pushed_is_built_and_signed_and_stays_out_of_the_registry() {
    let cluster = Cluster::start().await;
    for (name, entry, file) in [("key", "key", "rsa.key"), ("cert", "cert", "rsa.pem")] {
        put_secret(&cluster, name, entry, file).await;
    }
    let container = json!({
        "build": { "dockerfile": "FROM scratch\nADD x /" },
        "sign": {
            "keySecret": { "name": "key" }, "certSecret": { "name": "cert" },
            "filesToSign": ["/opt/lib/modules/${KERNEL_FULL_VERSION}/extra/*.ko"],
        },
    });
    let spec = json!({ "spec": { "moduleLoader": { "container": container } } });
    cluster.apply_module("mouse", "built:1", spec).await;
    ask(&cluster, "next", false).await;
    told(&cluster, "next", "mouse", reasons::BUILDING).await;
    let [tried] = jobs_of(&cluster).await.try_into().expect("one Job");
    let Report::Tried { message } = play(&cluster, &tried).await else { panic!("it was to be tried") };
    assert!(message.as_str().starts_with("1 modules signed"), "{message}");

    let mouse = told(&cluster, "next", "mouse", reasons::NOT_PUSHED).await;
    assert_eq!(
        (mouse.verification_status, mouse.verification_stage, mouse.predicted),
        (VerificationStatus::Success, VerificationStage::Done, Some(Predicted::Unknown))
    );
    assert!(
        words(&mouse).starts_with("verified build succeeded: ") && words(&mouse).contains("built and signed"),
        "{mouse:?}"
    );
    assert!(cluster.registry.manifest("built", "1").is_none(), "the registry has no such tag");
    // Fine it is not called.
    let (code, said, _) = plugin(&cluster, &["preflight", &cluster.kernel]).await;
    assert!(code == 3 && said.contains("Unknown") && said.contains("--push-built-image"), "{code}: {said}");
    assert_eq!(jobs_of(&cluster).await.len(), 1, "what was tried is not tried again");

    // A node with that kernel has it made in earnest, and is given nothing before.
    cluster.add_node(NODE).await;
    let building = |module: &tenon_api::Module| {
        condition(module, "Ready").is_some_and(|(_, reason, _)| reason == reasons::BUILDING)
    };
    cluster.module_where("mouse", "it is built for the node", building).await;
    let config = cluster.configs().get(NODE).await.expect("the node's object");
    assert!(config.spec.modules.is_empty(), "{:?}", config.spec);
    let mut made = jobs_of(&cluster).await;
    made.retain(|job| job.name_any() != tried.name_any());
    let [job] = made.as_slice() else { panic!("one Job more: {made:?}") };
    assert!(matches!(play(&cluster, job).await, Report::Made { fresh: true, .. }));
    assert!(cluster.registry.manifest("built", "1").is_some());
    cluster.config_where(NODE, "the driver is assigned", |config| order(config).is_some()).await;
    told(&cluster, "next", "mouse", reasons::NOT_PREDICTED).await;
}
