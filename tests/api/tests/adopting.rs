//! A cluster changes hands: from KMM to Tenon, and back; and Tenon leaves it altogether. Nothing is unloaded by any of it.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::core::GroupVersionKind;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::node_modules_config::{ModulePhase, NodeModulesConfig};
use tenon_api::{Module, labels};
use tenon_lab::claim::comes_true_within;
use tenon_order::Wish;
use tenon_test_api::cluster::{Cluster, READY_LABEL, SOON, order};
use tenon_test_api::plugin::{self, Said};
use tenon_test_api::setup;
use tokio::task::JoinHandle;

const NODE: &str = "pine";
const KMMS_NAMESPACE: &str = "kmm-operator-system";
const WORKER: &str = "kmm-worker-pine-gauge";
const DEPRECATED: &str = "kmm.node.kubernetes.io/gauge.ready";
const CONFIGS: &str = "nodemodulesconfigs.kmm.sigs.x-k8s.io";
/// Long enough for what should not happen.
const WHILE: Duration = Duration::from_secs(3);

async fn tenon(cluster: &Cluster, args: &[&str]) -> Said {
    plugin::run(cluster.plane.kubeconfig(), args).await
}

async fn becomes(what: &str, holds: impl AsyncFnMut() -> Result<(), String>) {
    comes_true_within(SOON, what, holds).await.unwrap_or_else(|late| panic!("{late}"));
}

/// As KMM's controllers write: neither by server-side apply nor under our names.
fn by_kmm() -> PatchParams {
    PatchParams { field_manager: Some("manager".to_owned()), ..PatchParams::default() }
}

fn create_by_kmm() -> PostParams {
    PostParams { field_manager: Some("manager".to_owned()), ..PostParams::default() }
}

fn kmms(cluster: &Cluster, kind: &str, plural: &str) -> Api<DynamicObject> {
    let gvk = GroupVersionKind::gvk("kmm.sigs.x-k8s.io", "v1beta1", kind);
    Api::namespaced_with(cluster.client.clone(), "hall", &ApiResource::from_gvk_with_plural(&gvk, plural))
}

/// The definition in KMM's form: of a node's object nothing but what KMM says of it, and its versions converted by its webhook.
fn in_kmms_form(mut ours: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut ours.spec.versions {
        version.additional_printer_columns = None;
    }
    ours.spec.names.categories = None;
    match ours.spec.names.kind.as_str() {
        "NodeModulesConfig" => {
            let entry = json!({ "type": "object", "required": ["config", "name", "namespace"], "properties": {
                "name": { "type": "string" }, "namespace": { "type": "string" },
                "serviceAccountName": { "type": "string" }, "version": { "type": "string" },
                "bootId": { "type": "string" },
                "config": { "type": "object", "required": ["containerImage", "insecurePull", "kernelVersion", "modprobe"],
                    "x-kubernetes-preserve-unknown-fields": true },
            } });
            let modules =
                json!({ "type": "object", "properties": { "modules": { "type": "array", "items": entry } } });
            let schema = json!({ "type": "object", "properties": { "spec": modules, "status": modules } });
            ours.spec.versions[0].schema =
                serde_json::from_value(json!({ "openAPIV3Schema": schema })).expect("a schema");
        }
        "PreflightValidation" => {
            let conversion = json!({ "strategy": "Webhook", "webhook": {
                "conversionReviewVersions": ["v1beta2", "v1beta1"],
                "clientConfig": { "service": { "name": "kmm-operator-webhook-service", "namespace": KMMS_NAMESPACE, "path": "/convert" } },
            } });
            ours.spec.conversion = serde_json::from_value(conversion).expect("a conversion");
        }
        _ => {}
    }
    ours
}

/// Kinds that KMM alone has.
fn record(kind: &str, plural: &str) -> CustomResourceDefinition {
    let version = json!({ "name": "v1beta1", "served": true, "storage": true, "subresources": { "status": {} },
        "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } } });
    serde_json::from_value(json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.kmm.sigs.x-k8s.io") },
        "spec": { "group": "kmm.sigs.x-k8s.io", "scope": "Namespaced", "versions": [version],
            "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List") } },
    }))
    .expect("a definition")
}

/// Puts KMM's definitions where Tenon's are.
async fn apply_kmms_definitions(cluster: &Cluster) {
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    for ours in tenon_api::crds().into_iter().filter(|crd| crd.spec.group == "kmm.sigs.x-k8s.io") {
        let name = ours.name_any();
        let mut theirs = in_kmms_form(ours);
        theirs.metadata.resource_version =
            definitions.get(&name).await.expect("a definition").resource_version();
        definitions.replace(&name, &create_by_kmm(), &theirs).await.expect("KMM's definition");
    }
    for theirs in [
        record("ModuleImagesConfig", "moduleimagesconfigs"),
        record("ModuleBuildSignConfig", "modulebuildsignconfigs"),
    ] {
        let patch = Patch::Apply(&theirs);
        let params = PatchParams::apply("manager").force();
        definitions.patch(&theirs.name_any(), &params, &patch).await.expect("KMM's definition");
    }
    becomes("KMM's definition drops what is Tenon's", async || {
        let probe: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "NodeModulesConfig",
            "metadata": { "name": "probe" }, "spec": { "modules": [], "order": "x" },
        }))
        .expect("an object");
        let configs: Api<DynamicObject> =
            Api::all_with(cluster.client.clone(), &ApiResource::erase::<NodeModulesConfig>(&()));
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let kept = configs.create(&dry, &probe).await.map_err(|error| error.to_string())?;
        if kept.data.pointer("/spec/order").is_some() { Err("it is kept".to_owned()) } else { Ok(()) }
    })
    .await;
}

/// How KMM says that a module is loaded.
fn loading(cluster: &Cluster) -> Value {
    json!({
        "kernelVersion": cluster.kernel, "containerImage": format!("{}/gauge:v1", cluster.registry.host()),
        "imagePullPolicy": "IfNotPresent", "insecurePull": false,
        "modprobe": { "moduleName": "simple-kmod", "dirName": "/opt" },
    })
}

/// A cluster that KMM serves: one node, on which it has loaded the Module, and all that it keeps for that.
async fn served_by_kmm() -> Cluster {
    let mut cluster = Cluster::start().await;
    cluster.stop_operator().await;
    delete(&cluster, &["rbac/admission.yaml"]).await;
    apply_kmms_definitions(&cluster).await;
    cluster.push_driver("gauge:v1", "one");
    cluster.join(NODE, &cluster.kernel.clone()).await;
    let labels = json!({ "metadata": { "labels": { READY_LABEL: "", DEPRECATED: "" } } });
    cluster.nodes().patch(NODE, &by_kmm(), &Patch::Merge(labels)).await.expect("KMM's labels");
    module(&cluster).await;
    nodes_object(&cluster).await;
    worker(&cluster).await;
    records(&cluster).await;
    operator(&cluster).await;
    cluster
}

async fn module(cluster: &Cluster) {
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    let held = json!({ "metadata": { "finalizers": ["kmm.node.kubernetes.io/module-finalizer"] } });
    cluster.modules().patch("gauge", &by_kmm(), &Patch::Merge(held)).await.expect("KMM's finalizer");
    let status = json!({ "status": { "moduleLoader": {
        "nodesMatchingSelectorNumber": 1, "desiredNumber": 1, "availableNumber": 1,
    } } });
    cluster.modules().patch_status("gauge", &by_kmm(), &Patch::Merge(status)).await.expect("KMM's status");
}

async fn nodes_object(cluster: &Cluster) {
    let node = cluster.nodes().get(NODE).await.expect("the node");
    let boot_id = node.status.and_then(|status| status.node_info).expect("what the node is").boot_id;
    let entry = json!({ "name": "gauge", "namespace": "hall", "serviceAccountName": "old-loader", "config": loading(cluster) });
    let config: NodeModulesConfig = serde_json::from_value(json!({
        "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "NodeModulesConfig",
        "metadata": { "name": NODE, "labels": {
            "beta.kmm.node.kubernetes.io/hall.gauge.module-configured": "",
            "beta.kmm.node.kubernetes.io/hall.gauge.module-in-use": "",
        }, "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": NODE, "uid": node.metadata.uid }] },
        "spec": { "modules": [entry] },
    }))
    .expect("a node's object");
    becomes("Tenon's policies are gone", async || {
        let made = cluster.configs().create(&create_by_kmm(), &config).await;
        made.map(drop).map_err(|error| error.to_string())
    })
    .await;
    let mut loaded = entry;
    loaded["bootId"] = json!(boot_id);
    let status = json!({ "status": { "modules": [loaded] } });
    cluster.configs().patch_status(NODE, &by_kmm(), &Patch::Merge(status)).await.expect("KMM's status");
}

/// A worker that has come to its end, and that KMM has not seen to any more.
async fn worker(cluster: &Cluster) {
    let owner = cluster.configs().get(NODE).await.expect("the node's object").metadata.uid;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": WORKER, "finalizers": ["kmm.node.kubernetes.io/nodemodulesconfig-reconciler"],
            "labels": { "app.kubernetes.io/part-of": "kmm", "app.kubernetes.io/component": "worker", "kmm.node.kubernetes.io/worker-action": "Load" },
            "ownerReferences": [{ "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "NodeModulesConfig", "name": NODE, "uid": owner, "controller": true }] },
        "spec": { "nodeName": NODE, "containers": [{ "name": "worker", "image": "kmm.test/worker:1" }] },
    }))
    .expect("a pod");
    let bystander = |name: &str| {
        let mut pod = pod.clone();
        pod.metadata.name = Some(name.to_owned());
        (pod.metadata.owner_references, pod.metadata.finalizers) = (None, None);
        pod
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "hall");
    becomes("pods may be made", async || match accounts.get("default").await {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    })
    .await;
    pods(cluster).create(&create_by_kmm(), &pod).await.expect("a worker");
    pods(cluster)
        .create(&create_by_kmm(), &bystander("kmm-worker-look-alike"))
        .await
        .expect("somebody's pod");
}

fn pods(cluster: &Cluster) -> Api<Pod> {
    Api::namespaced(cluster.client.clone(), "hall")
}

async fn records(cluster: &Cluster) {
    let mut owner = ("Module", cluster.modules().get("gauge").await.expect("the Module").metadata.uid);
    for (kind, plural) in
        [("ModuleImagesConfig", "moduleimagesconfigs"), ("ModuleBuildSignConfig", "modulebuildsignconfigs")]
    {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": kind,
            "metadata": { "name": "gauge", "ownerReferences": [
                { "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": owner.0, "name": "gauge", "uid": owner.1 }] },
            "spec": { "images": [] },
        }))
        .expect("a record");
        let api = kmms(cluster, kind, plural);
        let mut uid = None;
        becomes("KMM's records can be made", async || {
            uid =
                api.create(&create_by_kmm(), &object).await.map_err(|error| error.to_string())?.metadata.uid;
            Ok(())
        })
        .await;
        owner = (kind, uid);
    }
}

/// Its operator, and the webhook that is answered by it.
async fn operator(cluster: &Cluster) {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "kmm-operator-controller", "namespace": KMMS_NAMESPACE },
        "spec": { "replicas": 1, "selector": { "matchLabels": { "control-plane": "controller" } }, "template": {
            "metadata": { "labels": { "control-plane": "controller" } },
            "spec": { "containers": [{ "name": "manager", "image": "kmm.test/operator:1" }] } } },
    });
    let hook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": "kmm-operator-validating-webhook-configuration" },
        "webhooks": [{
            "name": "vmodule.kb.io", "failurePolicy": "Fail", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "rules": [{ "apiGroups": ["kmm.sigs.x-k8s.io"], "apiVersions": ["v1beta1"], "operations": ["CREATE", "UPDATE"], "resources": ["modules"] }],
            "clientConfig": { "service": { "name": "kmm-operator-webhook-service", "namespace": KMMS_NAMESPACE,
                "path": "/validate-kmm-sigs-x-k8s-io-v1beta1-module" } },
        }],
    });
    cluster.plane.kubectl(&["create", "namespace", KMMS_NAMESPACE]).await.expect("KMM's namespace");
    for object in [deployment, hook] {
        cluster.plane.apply(&object.to_string()).await.expect("KMM's operator");
    }
}

/// The version of every object that could be touched.
async fn versions(cluster: &Cluster) -> BTreeMap<String, String> {
    let kinds = "crd,validatingwebhookconfigurations,modules,nodemodulesconfigs,moduleimagesconfigs,modulebuildsignconfigs";
    let all = cluster.plane.kubectl(&["get", kinds, "-A", "-o", "json"]).await.expect("what there is");
    let all: Value = serde_json::from_str(&all).expect("JSON");
    let items = all["items"].as_array().expect("a list").iter();
    let mut versions: BTreeMap<_, _> = items
        .map(|item| {
            let meta = &item["metadata"];
            (format!("{} {}", item["kind"], meta["name"]), meta["resourceVersion"].to_string())
        })
        .collect();
    let pod = pods(cluster).get(WORKER).await.expect("the worker");
    versions.insert(WORKER.to_owned(), pod.resource_version().unwrap_or_default());
    versions
}

async fn touch_module(cluster: &Cluster) -> Result<Module, kube::Error> {
    let patch = Patch::Merge(json!({ "metadata": { "annotations": { "example.com/touched": "yes" } } }));
    cluster.modules().patch("gauge", &PatchParams::default(), &patch).await
}

/// Deletes what these files of `deploy/` hold.
async fn delete(cluster: &Cluster, files: &[&str]) {
    for file in files {
        let path = setup::deploy(file).display().to_string();
        let args = ["delete", "--ignore-not-found", "--timeout=80s", "-f", &path];
        cluster.plane.kubectl(&args).await.unwrap_or_else(|error| panic!("delete {file}: {error:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_kmms_is_taken_over_and_given_back_and_nothing_is_unloaded() {
    let mut cluster = served_by_kmm().await;
    let uid = cluster.modules().get("gauge").await.expect("the Module").metadata.uid;
    refused_while_kmm_runs(&cluster).await;
    adopted(&cluster).await;
    let labels = watch_label(&cluster).await;
    tenon_serves(&mut cluster).await;
    let labels = labels.stop().await;
    assert!(labels.iter().all(|has_it| *has_it), "the ready label stays all the while: {labels:?}");
    Box::pin(given_back(&mut cluster)).await;
    let module = cluster.modules().get("gauge").await.expect("the Module");
    assert_eq!(module.metadata.uid, uid, "it is the same all the while");
}

async fn refused_while_kmm_runs(cluster: &Cluster) {
    let renewals = renew_lease(cluster).await;
    let said = tenon(cluster, &["adopt"]).await;
    renewals.abort();
    assert_eq!(said.code, 1, "{}", said.whole());
    for told in [
        "Deployment kmm-operator-system/kmm-operator-controller",
        "--replicas 0",
        "kmm-pod renews the Lease kmm-operator-system/kmm.sigs.x-k8s.io",
        "nothing was changed",
    ] {
        assert!(said.out.contains(told), "{told}: {}", said.whole());
    }
    let lease: Api<Lease> = Api::namespaced(cluster.client.clone(), KMMS_NAMESPACE);
    lease.delete("kmm.sigs.x-k8s.io", &DeleteParams::default()).await.expect("no lease");
    let scale = ["-n", KMMS_NAMESPACE, "scale", "deployment/kmm-operator-controller", "--replicas", "0"];
    cluster.plane.kubectl(&scale).await.expect("no operator");
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), KMMS_NAMESPACE);
    becomes("KMM's pods are gone", async || {
        let deployment = deployments.get("kmm-operator-controller").await.map_err(|e| e.to_string())?;
        let status = deployment.status.unwrap_or_default();
        let is_seen = status.observed_generation == deployment.metadata.generation;
        if is_seen && status.replicas.unwrap_or_default() == 0 { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
}

async fn renew_lease(cluster: &Cluster) -> JoinHandle<()> {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), KMMS_NAMESPACE);
    let lease: Lease = serde_json::from_value(json!({
        "metadata": { "name": "kmm.sigs.x-k8s.io" }, "spec": { "holderIdentity": "kmm-pod", "leaseTransitions": 0 },
    }))
    .expect("a lease");
    leases.create(&PostParams::default(), &lease).await.expect("a lease");
    tokio::spawn(async move {
        for transitions in 1.. {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let renewed = Patch::Merge(json!({ "spec": { "leaseTransitions": transitions } }));
            // Where it is gone, so is this task's purpose.
            let _ = leases.patch("kmm.sigs.x-k8s.io", &PatchParams::default(), &renewed).await;
        }
    })
}

async fn adopted(cluster: &Cluster) {
    assert!(touch_module(cluster).await.is_err(), "nobody answers KMM's webhook");
    let before = versions(cluster).await;
    let said = tenon(cluster, &["adopt", "--dry-run"]).await;
    assert_eq!(said.code, 0, "{}", said.whole());
    for told in [
        "ValidatingWebhookConfiguration kmm-operator-validating-webhook-configuration",
        "CustomResourceDefinition nodemodulesconfigs.kmm.sigs.x-k8s.io",
        "CustomResourceDefinition preflightvalidations.kmm.sigs.x-k8s.io",
        "Pod hall/kmm-worker-pine-gauge",
        "ModuleImagesConfig hall/gauge",
        "ModuleBuildSignConfig hall/gauge",
        "nothing was changed",
    ] {
        assert!(said.out.contains(told), "{told}: {}", said.whole());
    }
    assert!(!said.out.contains("look-alike"), "{}", said.out);
    assert_eq!(versions(cluster).await, before, "a dry run changes nothing");

    let said = tenon(cluster, &["adopt", "-o", "json"]).await;
    assert_eq!(said.code, 0, "{}", said.whole());
    let answer: Value = serde_json::from_str(&said.out).expect("JSON");
    let steps = answer["steps"].as_array().expect("steps");
    assert!(steps.iter().all(|step| step["done"] == true), "{answer}");
    assert!(answer["left"].to_string().contains(KMMS_NAMESPACE), "{answer}");

    let pod = pods(cluster).get(WORKER).await.expect("the worker, which no kubelet ends");
    assert!(pod.finalizers().is_empty() && pod.metadata.deletion_timestamp.is_some());
    let other = pods(cluster).get("kmm-worker-look-alike").await.expect("somebody's pod");
    assert_eq!(other.metadata.deletion_timestamp, None);
    becomes("Modules can be written", async || {
        touch_module(cluster).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    let again = tenon(cluster, &["adopt"]).await;
    assert_eq!(again.code, 0, "{}", again.whole());
    assert!(again.out.starts_with("there is nothing to do"), "{}", again.out);
    assert!(again.out.contains("kubectl delete namespace kmm-operator-system"), "{}", again.out);
    // As somebody does who installs Tenon now: none of its fields is another's.
    let path = setup::deploy("crds").display().to_string();
    let applied = cluster.plane.kubectl(&["apply", "--server-side", "-f", &path]).await;
    applied.expect("no conflict with what has been applied by adopt");
}

/// What becomes of the ready label.
struct Watched {
    stop: tokio::sync::oneshot::Sender<()>,
    seen: JoinHandle<Vec<bool>>,
}

impl Watched {
    async fn stop(self) -> Vec<bool> {
        self.stop.send(()).expect("it watches");
        self.seen.await.expect("what was seen")
    }
}

async fn watch_label(cluster: &Cluster) -> Watched {
    let node = cluster.nodes().get(NODE).await.expect("the node");
    let has_it = |node: &Node| node.labels().contains_key(READY_LABEL);
    let mut seen = vec![has_it(&node)];
    let params = WatchParams::default().fields(&format!("metadata.name={NODE}")).timeout(280);
    let version = node.resource_version().unwrap_or_default();
    let nodes = cluster.nodes();
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let seen = tokio::spawn(async move {
        let mut events = nodes.watch(&params, &version).await.expect("a watch").boxed();
        loop {
            tokio::select! {
                _ = &mut stopped => return seen,
                event = events.next() => match event {
                    Some(Ok(WatchEvent::Modified(node))) => seen.push(has_it(&node)),
                    other => panic!("the watch of the node ended: {other:?}"),
                },
            }
        }
    });
    Watched { stop, seen }
}

async fn tenon_serves(cluster: &mut Cluster) {
    setup::apply(&cluster.plane, &setup::deploy("rbac/admission.yaml")).await;
    cluster.start_operator().await;
    cluster.node_where(NODE, "the old label goes", |node| !node.labels().contains_key(DEPRECATED)).await;
    cluster.register(NODE, &cluster.kernel.clone()).await;
    let ordered = cluster.config_where(NODE, "it is ordered", |config| order(config).is_some()).await;
    let wishes: Vec<_> = order(&ordered).into_iter().flat_map(|order| order.modules).collect();
    assert!(matches!(wishes.as_slice(), [only] if matches!(only.wish, Wish::Loaded(_))), "{wishes:?}");
    let [entry] = ordered.spec.modules.as_slice() else { panic!("{:?}", ordered.spec) };
    assert_eq!(entry.service_account_name, None, "what KMM wrote, and nobody wishes, is gone");
    cluster.obey(NODE, ModulePhase::Loaded).await;
    cluster
        .module_where("gauge", "Tenon says so", |module| {
            module.status.as_ref().is_some_and(|status| {
                status.module_loader.as_ref().is_some_and(|loader| loader.available_number == 1)
            })
        })
        .await;
    let settled = cluster.configs().get(NODE).await.expect("the node's object");
    let managers: Vec<_> =
        settled.managed_fields().iter().filter_map(|entry| entry.manager.clone()).collect();
    assert!(!managers.contains(&"manager".to_owned()), "{managers:?}");
    tokio::time::sleep(WHILE).await;
    let later = cluster.configs().get(NODE).await.expect("the node's object");
    assert_eq!(later.resource_version(), settled.resource_version(), "then nothing is written any more");
    assert!(cluster.nodes().get(NODE).await.expect("the node").labels().contains_key(READY_LABEL));
}

async fn given_back(cluster: &mut Cluster) {
    let said = tenon(cluster, &["give-back"]).await;
    assert_eq!(said.code, 1, "{}", said.whole());
    assert!(said.out.contains("tenon-only-the-operator-writes-specs is still there"), "{}", said.out);
    cluster.stop_operator().await;
    delete(cluster, &["rbac", "flow-schemas.yaml"]).await;
    let before = versions(cluster).await;
    let said = tenon(cluster, &["give-back", "--dry-run"]).await;
    assert_eq!(said.code, 0, "{}", said.whole());
    assert!(said.out.contains("NodeModulesConfig pine"), "{}", said.out);
    assert_eq!(versions(cluster).await, before, "a dry run changes nothing");
    // The API server may take a moment to forget Tenon's policies.
    becomes("the cluster is given back", async || match tenon(cluster, &["give-back"]).await {
        said if said.code == 0 => Ok(()),
        said => Err(said.whole()),
    })
    .await;
    let again = tenon(cluster, &["give-back"]).await;
    assert!(again.code == 0 && again.out.contains("nothing to do"), "{}", again.whole());

    apply_kmms_definitions(cluster).await;
    let raw: Api<DynamicObject> =
        Api::all_with(cluster.client.clone(), &ApiResource::erase::<NodeModulesConfig>(&()));
    let config = raw.get(NODE).await.expect("the node's object").data;
    assert_eq!(config["spec"]["order"], Value::Null);
    let (wished, loaded) = (&config["spec"]["modules"][0], &config["status"]["modules"][0]);
    assert_eq!(wished["config"], loading(cluster), "in KMM's words");
    assert_eq!(loaded["config"], wished["config"], "it is loaded as wished, so KMM loads nothing anew");
    let node = cluster.nodes().get(NODE).await.expect("the node");
    let boot_id = node.status.as_ref().and_then(|status| status.node_info.as_ref()).map(|info| &info.boot_id);
    assert_eq!(loaded["bootId"].as_str(), boot_id.map(String::as_str), "in this boot");
    assert!(node.labels().contains_key(READY_LABEL));
    assert!(node.labels().keys().all(|key| !key.starts_with("tenon.dev/")));
    let module = cluster.modules().get("gauge").await.expect("the Module");
    assert_eq!(module.finalizers(), [labels::finalizer::MODULE]);
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    for name in ["moduleimages.tenon.dev", "madeimages.tenon.dev"] {
        becomes("Tenon's own kinds go", async || match definitions.get_opt(name).await {
            Ok(None) => Ok(()),
            other => Err(format!("{:?}", other.map(|found| found.map(|crd| crd.status)))),
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenon_is_uninstalled_and_nothing_is_asked_of_a_node_nor_left_behind() {
    let mut cluster = Cluster::start().await;
    cluster.push_driver("gauge:v1", "one");
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    cluster.add_node(NODE).await;
    cluster.config_where(NODE, "the driver is assigned", |config| order(config).is_some()).await;
    cluster.obey(NODE, ModulePhase::Loaded).await;
    cluster.node_where(NODE, "the label", |node| node.labels().contains_key(READY_LABEL)).await;
    cluster.stop_operator().await;
    let before = cluster.configs().get(NODE).await.expect("the node's object");

    // As docs/operations.md says.
    delete(&cluster, &["operator.yaml", "rbac", "flow-schemas.yaml"]).await;
    let finalizers = [
        "-n",
        "hall",
        "patch",
        "module",
        "gauge",
        "--type",
        "merge",
        "-p",
        r#"{"metadata":{"finalizers":null}}"#,
    ];
    cluster.plane.kubectl(&finalizers).await.expect("no finalizer");
    let after = cluster.configs().get(NODE).await.expect("the node's object");
    assert_eq!(after.spec, before.spec, "nobody has asked the node for anything else");
    assert!(matches!(
        order(&after).expect("an order").modules.as_slice(),
        [only] if matches!(only.wish, Wish::Loaded(_))
    ));
    // Each ends only when what it names is gone.
    delete(&cluster, &["crds", "namespace.yaml"]).await;
    let definitions = cluster.plane.kubectl(&["get", "crd", "-o", "name"]).await.expect("definitions");
    assert!(!definitions.contains(CONFIGS) && !definitions.contains("tenon.dev"), "{definitions}");
    let namespaces = cluster.plane.kubectl(&["get", "namespaces", "-o", "name"]).await.expect("namespaces");
    assert!(!namespaces.contains("tenon-system"), "{namespaces}");
    assert!(cluster.nodes().get(NODE).await.is_ok(), "the node is none of Tenon's");
}
