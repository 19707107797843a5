//! Driver toolkits as OpenShift has them, against a real API server: a definition of its kind, an ImageStream like its own, and a
//! node that says of its system what OpenShift's say.
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeMap;
use tenon_test_api::setup;

use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::module_image::ModuleImageStatus;
use tenon_api::reasons;
use tenon_image::testing::{Auth, TestRegistry, layer};
use tenon_lab::claim::comes_true_within;
use tenon_lab::control_plane::Request;
use tenon_test_api::cluster::{Cluster, SOON};

const NODE: &str = "ash";
const OLD: &str = "417.94.202409121747-0";
const VERSION: &str = "417.94.202410090854-0";

/// An OpenShift, as far as it counts here: the kind, its namespace, and the operator's right to read there.
async fn become_openshift(cluster: &Cluster) {
    let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "imagestreams.image.openshift.io",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {
            "group": "image.openshift.io", "scope": "Namespaced",
            "names": {"kind": "ImageStream", "plural": "imagestreams", "singular": "imagestream"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": anything}}],
        },
    });
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "openshift"}});
    for manifest in [definition, namespace] {
        cluster.plane.apply(&manifest.to_string()).await.expect("it is applied");
    }
    let established = ["wait", "--for=condition=Established", "crd/imagestreams.image.openshift.io"];
    cluster.plane.kubectl(&established).await.expect("the kind is served");
    setup::apply(&cluster.plane, &setup::deploy("openshift.yaml")).await;
}

/// Writes the stream as an upgrade of the cluster does.
async fn stream(cluster: &Cluster, tags: &[(&str, &str)]) {
    let tag = |(name, image): &(&str, &str)| {
        json!({
            "name": name, "from": {"kind": "DockerImage", "name": image},
            "importPolicy": {"scheduled": true}, "referencePolicy": {"type": "Source"},
        })
    };
    let stream = json!({
        "apiVersion": "image.openshift.io/v1", "kind": "ImageStream",
        "metadata": {"namespace": "openshift", "name": "driver-toolkit"},
        "spec": {"lookupPolicy": {"local": false}, "tags": tags.iter().map(tag).collect::<Vec<_>>()},
    });
    cluster.plane.apply(&stream.to_string()).await.expect("an ImageStream");
}

/// The kubelet says which system it runs on.
async fn say_system(cluster: &Cluster, system: &str) {
    let status = json!({"status": {"nodeInfo": {"osImage": system}}});
    let params = PatchParams::default();
    cluster.nodes().patch_status(NODE, &params, &Patch::Merge(status)).await.expect("a node's status");
}

async fn apply(cluster: &Cluster, module: &str, build: Value) {
    let spec = json!({"spec": {"moduleLoader": {"container": {"build": build}}}});
    cluster.apply_module(module, &format!("{module}-built:1"), spec).await;
}

async fn waits_because(cluster: &Cluster, module: &str, words: &[&str]) -> ModuleImageStatus {
    comes_true_within(SOON, &format!("{module} waits and says {words:?}"), async || {
        let images = cluster.images().list(&ListParams::default()).await;
        let images = images.map_err(|error| error.to_string())?;
        let meant = images.items.into_iter().find(|image| image.spec.module == module);
        let status = meant.and_then(|image| image.status).unwrap_or_default();
        let message = status.message.clone().unwrap_or_default().to_string();
        let says = words.iter().all(|word| message.contains(word));
        let is_meant = status.reason.as_deref() == Some(reasons::TOOLKIT_UNKNOWN) && says;
        if is_meant { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await
    .unwrap_or_else(|late| panic!("{late}"))
}

async fn jobs(cluster: &Cluster) -> BTreeMap<String, Job> {
    let jobs: Api<Job> = Api::namespaced(cluster.client.clone(), "hall");
    let list = jobs.list(&ListParams::default()).await.expect("a list");
    let there = list.items.into_iter().filter(|job| job.metadata.deletion_timestamp.is_none());
    there.map(|job| (job.name_any(), job)).collect()
}

async fn job_where(cluster: &Cluster, what: &str, holds: impl Fn(&str) -> bool) -> Job {
    comes_true_within(SOON, what, async || {
        let jobs = jobs(cluster).await;
        jobs.values().find(|job| holds(&job.name_any())).cloned().ok_or_else(|| format!("{:?}", jobs.keys()))
    })
    .await
    .unwrap_or_else(|late| panic!("{late}"))
}

/// The image and the arguments of the container that builds.
fn builder(job: &Job) -> (String, Vec<String>) {
    let pod = job.spec.as_ref().and_then(|spec| spec.template.spec.clone()).expect("a pod");
    let containers = pod.init_containers.unwrap_or_default();
    let builds = containers.into_iter().find(|container| container.name == "build").expect("what builds");
    (builds.image.unwrap_or_default(), builds.args.unwrap_or_default())
}

/// What the API server was asked about the kind, by the operator.
fn asked(cluster: &Cluster) -> BTreeMap<Request, u64> {
    let requests = cluster.plane.audit().requests_since(tenon_lab::control_plane::Mark::default());
    let mut requests = requests.expect("the audit log");
    requests
        .retain(|request, _| request.resource == "imagestreams" && request.user.ends_with(":tenon-operator"));
    requests
}

/// `tests/e2e` has the builder; here it counts what it is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_gets_the_toolkit_that_the_cluster_has_for_the_nodes_system_once_it_is_there() {
    let mut cluster = Cluster::start().await;
    cluster.flags = vec!["--look-again=1".to_owned()];
    cluster.stop_operator().await;
    cluster.start_operator().await;
    cluster.add_node(NODE).await;
    let host = cluster.registry.host();
    let (old, new) = (format!("{host}/release:old"), format!("{host}/release:new"));
    cluster.push_driver("release:old", "an old compiler");
    cluster.push_driver("release:new", "a new compiler");
    apply(&cluster, "gauge", json!({"dockerfile": "ARG DTK_AUTO\nFROM ${DTK_AUTO}\nRUN make"})).await;
    waits_because(&cluster, "gauge", &["osImage", &cluster.kernel, "--toolkit-image"]).await;
    assert!(asked(&cluster).is_empty(), "no node is of a system that has toolkits");

    // The nodes are upgraded before the stream, and mend nothing by that.
    become_openshift(&cluster).await;
    stream(&cluster, &[(OLD, &old), ("latest", &old)]).await;
    say_system(&cluster, &format!("Red Hat Enterprise Linux CoreOS {VERSION} (Plow)")).await;
    waits_because(&cluster, "gauge", &["openshift/driver-toolkit has no tag", VERSION]).await;
    assert!(jobs(&cluster).await.is_empty());

    stream(&cluster, &[(OLD, &old), (VERSION, &new), ("latest", &new)]).await;
    let first = job_where(&cluster, "a Job, once the tag is there", |_| true).await;
    let (_, arguments) = builder(&first);
    assert!(arguments.contains(&format!("--build-arg=DTK_AUTO={new}")), "{arguments:?}");
    let pinned = format!("--build-context=$${{DTK_AUTO}}=docker-image://{host}/release@sha256:");
    assert!(arguments.iter().any(|argument| argument.starts_with(&pinned)), "{arguments:?}");

    // What the name stands for counts among what the image is made from.
    cluster.push_driver("release:new", "a newer compiler");
    let second = job_where(&cluster, "another Job instead", |name| name != first.name_any()).await;
    assert_ne!(builder(&second).1, arguments);
    let requests = asked(&cluster);
    let only_reads = requests.keys().all(|request| request.verb == "get" && request.code == 200);
    // The tag was missed for a while, with ten seconds between two looks at least.
    assert!(only_reads && (2..=10).contains(&requests.values().sum::<u64>()), "{requests:?}");
    cluster.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_streams_is_asked_once_and_what_names_a_toolkit_otherwise_is_built() {
    let mut cluster = Cluster::start().await;
    cluster.add_node(NODE).await;
    say_system(&cluster, "Fedora CoreOS 38.20230609.3.0").await;
    let host = cluster.registry.host();
    cluster.push_driver("base:1", "a compiler");
    let git = json!({"uri": "https://git.example/driver.git"});
    apply(&cluster, "gauge", json!({"source": {"git": git}})).await;
    let words = ["--toolkit-image", "build.source.toolkit", "deploy/openshift.yaml"];
    waits_because(&cluster, "gauge", &words).await;
    apply(&cluster, "anvil", json!({"dockerfile": "ARG DTK_AUTO\nFROM ${DTK_AUTO}"})).await;
    waits_because(&cluster, "anvil", &["driver-toolkit"]).await;

    // What has something in its place does not wait.
    let dockerfile = format!("ARG DTK_AUTO={host}/base:1\nFROM ${{DTK_AUTO}}");
    apply(&cluster, "bellows", json!({"dockerfile": dockerfile})).await;
    let by_default = job_where(&cluster, "the default is built on", |name| name.starts_with("bellows")).await;
    assert!(builder(&by_default).1.iter().any(|argument| argument.contains("base@sha256:")));

    // A toolkit that only nodes may pull is taken by its digest.
    let nodes_only = TestRegistry::start().await.expect("a registry");
    let files: &[(&str, &[u8])] = &[("bin/sh", b"a shell")];
    let digest = nodes_only.put_image("release", "1", "amd64", &[layer(files)]);
    nodes_only.require(Auth::Basic("kubelet".to_owned(), "word".to_owned()));
    let toolkit = format!("{}/release@{digest}", nodes_only.host());
    let plain = json!({"insecure": true});
    let build = json!({"source": {"git": git, "toolkit": toolkit}, "baseImageRegistryTLS": plain});
    apply(&cluster, "gauge", build).await;
    let compiles = job_where(&cluster, "it is compiled", |name| name.starts_with("gauge")).await;
    assert_eq!(builder(&compiles).0, toolkit);

    let requests = asked(&cluster);
    let denied = |request: &Request| request.verb == "get" && request.code == 403;
    assert!(requests.keys().all(denied) && requests.values().sum::<u64>() == 1, "{requests:?}");
    cluster.stop_operator().await;
}

/// The manifest that goes with OpenShift gives no more than it is for.
#[tokio::test(flavor = "multi_thread")]
async fn the_operator_may_read_the_one_stream_and_no_other() {
    let cluster = setup::plane_with_definitions().await;
    cluster
        .apply(r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "openshift"}}"#)
        .await
        .expect("a namespace");
    for file in ["namespace.yaml", "rbac/operator.yaml", "openshift.yaml"] {
        setup::apply(&cluster, &setup::deploy(file)).await;
    }
    let reviews: Api<SubjectAccessReview> = Api::all(cluster.client());
    let may = async |verb: &str, name: &str, namespace: &str| {
        let attributes = json!({
            "group": "image.openshift.io", "version": "v1", "resource": "imagestreams",
            "verb": verb, "name": name, "namespace": namespace,
        });
        let user = "system:serviceaccount:tenon-system:tenon-operator";
        let review = json!({"metadata": {}, "spec": {"user": user, "resourceAttributes": attributes}});
        let review = serde_json::from_value(review).expect("a review");
        let reviewed = reviews.create(&PostParams::default(), &review).await.expect("an answer");
        reviewed.status.expect("an answer").allowed
    };
    assert!(may("get", "driver-toolkit", "openshift").await);
    for (verb, name, namespace) in [
        ("get", "cli", "openshift"),
        ("get", "driver-toolkit", "hall"),
        ("list", "", "openshift"),
        ("watch", "", "openshift"),
        ("update", "driver-toolkit", "openshift"),
    ] {
        assert!(!may(verb, name, namespace).await, "{verb} {name} in {namespace}");
    }
}
