//! `kubectl tenon gather` on a cluster in which secrets lie about: none of them is in the archive, whatever else is.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::Command;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Secret};
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::preflight_validation::{PreflightValidation, PreflightValidationSpec};
use tenon_lab::claim::comes_true_within;
use tenon_lab::jobs;
use tenon_lab::programs::{Program, program};
use tenon_test_api::cluster::{Cluster, SOON, condition};

/// In every secret that must not be met; none of its forms may be.
const CANARY: &str = "CANARY";

async fn secret(cluster: &Cluster, name: &str, type_: &str, data: Value) {
    let secret: Secret = serde_json::from_value(json!({
        "metadata": { "name": name }, "type": type_, "stringData": data,
    }))
    .unwrap();
    cluster.secrets().create(&PostParams::default(), &secret).await.unwrap();
}

/// Secrets in all the places where people have them.
async fn plant(cluster: &Cluster) {
    let auth = "am9lOkNBTkFSWS1wdWxs";
    let config = json!({ "auths": { "registry.example": {
        "username": "joe", "password": "CANARY-of-pulls", "auth": auth } } });
    let pull = json!({ ".dockerconfigjson": config.to_string() });
    secret(cluster, "pull", "kubernetes.io/dockerconfigjson", pull).await;
    let key = "-----BEGIN PRIVATE KEY-----\nCANARY/line/one\nCANARY/line/two\n-----END PRIVATE KEY-----\n";
    secret(cluster, "key", "Opaque", json!({ "key": key, "cert": "CANARY-certificate" })).await;

    cluster.add_node("ash").await;
    let more = json!({
        "metadata": { "annotations": { "note": "see https://joe:CANARY-in-url@git.example/notes" } },
        "spec": {
            "imageRepoSecret": { "name": "pull" },
            "moduleLoader": { "container": { "build": {
                "dockerfileConfigMap": { "name": "recipe" },
                "buildArgs": [{ "name": "LICENCE", "value": "CANARY-argument" }],
            } } },
        },
    });
    cluster.apply_module("gauge", "gauge:none", more).await;
    // What a Job is given: arguments, and a Dockerfile.
    let more = json!({ "spec": { "moduleLoader": { "container": { "build": {
        "dockerfile": "FROM scratch\nENV LICENCE=CANARY-in-dockerfile\nADD x /",
        "buildArgs": [{ "name": "LICENCE", "value": "CANARY argument\nCANARY-line" }],
    } } } } });
    cluster.apply_module("built", "built:1", more).await;
    let mut preflight = PreflightValidation::new(
        "next",
        PreflightValidationSpec { kernel_version: "6.99.0-next".to_owned(), ..Default::default() },
    );
    preflight.annotations_mut().insert("ci.example/api-token".to_owned(), "CANARY".to_owned());
    let preflights: Api<PreflightValidation> = Api::all(cluster.client.clone());
    preflights.create(&PostParams::default(), &preflight).await.unwrap();
    // As an operator or a Job might say it: a token, and what stands in a Secret.
    let events: Api<Event> = Api::namespaced(cluster.client.clone(), "hall");
    let event: Event = serde_json::from_value(json!({
        "metadata": { "name": "gauge.1" }, "reason": "Odd", "type": "Warning",
        "involvedObject": { "kind": "Module", "namespace": "hall", "name": "gauge" },
        "message": "push: Authorization: Bearer CANARY.token.x; login joe CANARY-of-pulls; key is CANARY/line/two; end of words",
    }))
    .unwrap();
    events.create(&PostParams::default(), &event).await.unwrap();
}

/// All that is to be met in the archive has been made: it is looked at once.
async fn settle(cluster: &Cluster) {
    let waits = |module: &_| condition(module, "Ready").is_some_and(|(status, ..)| status == "False");
    cluster.module_where("gauge", "it says what is missing", waits).await;
    cluster.config_where("ash", "it is there", |_| true).await;
    let made = comes_true_within(SOON, "there are an image of each Module, and a Job", async || {
        let images =
            cluster.images().list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let modules: Vec<_> = images.items.into_iter().map(|image| image.spec.module).collect();
        let jobs: Api<Job> = Api::namespaced(cluster.client.clone(), "hall");
        let jobs = jobs.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let is_there = |name: &str| modules.iter().any(|module| module == name);
        match jobs.items.first() {
            Some(job) if is_there("gauge") && is_there("built") => Ok(job.name_any()),
            job => Err(format!("images of {modules:?}; a Job: {}", job.is_some())),
        }
    });
    let job = made.await.unwrap_or_else(|late| panic!("{late}"));
    jobs::pod_of(&cluster.client, &job, SOON).await.unwrap();
}

async fn gather(cluster: &Cluster, to: &std::path::Path) -> std::process::Output {
    let program = tokio::task::spawn_blocking(|| program(Program::Cli)).await.unwrap().unwrap();
    let mut command = Command::new(program);
    command.arg("gather").arg("--to").arg(to).arg("--kubeconfig").arg(cluster.plane.kubeconfig());
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

/// The archive's files, by name; `gzip` and `tar` are the machine's own.
fn files(archive: &std::path::Path) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let unpacked =
        Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(folder.path()).status().unwrap();
    assert!(unpacked.success());
    let (mut files, mut folders) = (BTreeMap::new(), vec![folder.path().join("tenon-gather")]);
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut text = String::new();
            std::fs::File::open(&path).unwrap().read_to_string(&mut text).unwrap();
            let name = path.strip_prefix(folder.path().join("tenon-gather")).unwrap();
            files.insert(name.display().to_string(), text);
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_for_support_has_what_helps_and_no_secret() {
    let cluster = Cluster::start().await;
    plant(&cluster).await;
    settle(&cluster).await;
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("all.tar.gz");
    let output = gather(&cluster, &to).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let files = files(&to);
    // Base64 of the canary, wherever in three bytes it begins.
    let forms = [CANARY, "Q0FOQVJZ", "NBTkFSW", "DQU5BUl"];
    for (name, text) in &files {
        for form in forms {
            let place =
                text.find(form).map(|at| text[at.saturating_sub(60)..].chars().take(90).collect::<String>());
            assert_eq!(place, None, "{name} has {form}");
        }
    }
    let read = |name: &str| -> Value { serde_json::from_str(&files[name]).unwrap() };
    let has = |file: &str, pointer: &str, expected: &str| {
        let objects = read(file);
        let mut found = objects.as_array().unwrap().iter().map(|object| object.pointer(pointer));
        assert!(found.any(|value| value == Some(&json!(expected))), "{expected} in {objects:#}");
    };
    has("objects/modules.json", "/metadata/name", "gauge");
    has("objects/nodes.json", "/nodeInfo/kernelVersion", &cluster.kernel);
    has("objects/nodemodulesconfigs.json", "/metadata/name", "ash");
    has("objects/moduleimages.json", "/spec/module", "gauge");
    has("objects/preflightvalidations.json", "/metadata/name", "next");
    has("objects/preflightvalidations.json", "/metadata/annotations/ci.example~1api-token", "<redacted>");
    // What a Job is given is there, but for the values.
    for (file, pod) in [("objects/jobs.json", "/spec/template"), ("objects/pods-of-jobs.json", "")] {
        let found = read(file);
        let builds = found.as_array().unwrap().iter().any(|object| {
            let pod = object.pointer(pod).unwrap();
            let arguments = pod.pointer("/spec/initContainers/0/args").and_then(Value::as_array);
            arguments.is_some_and(|all| all.contains(&json!("--build-arg=LICENCE=<redacted>")))
                && pod["metadata"]["annotations"]["tenon.dev/dockerfile"] == "<left out: a Dockerfile>"
        });
        assert!(builds, "{file}: {found:#}");
    }
    let secrets = read("objects/secrets.json");
    let key = secrets.as_array().unwrap().iter().find(|secret| secret["name"] == "key").unwrap();
    assert_eq!((&key["namespace"], &key["entries"]), (&json!("hall"), &json!(["cert", "key"])));
    assert!(files["objects/events.json"].contains("end of words"), "the rest of a message stays");
    assert!(files["explain/hall.gauge.txt"].contains("hall/gauge"), "{}", files["explain/hall.gauge.txt"]);
    assert!(files.contains_key("versions.json") && files.contains_key("gaps.txt"));

    // What is there is not overwritten.
    let again = gather(&cluster, &to).await;
    assert!(!again.status.success(), "{}", String::from_utf8_lossy(&again.stdout));
}
