//! What is planned, from what stands in the cluster.

use k8s_openapi::api::core::v1::Node;
use kube::core::ObjectMeta;
use rstest::rstest;
use serde_json::{Value, json};
use tenon_api::NodeModulesConfig;

use super::adopt::{self, Behind, Definition, Deployment, Pod, Webhooks};
use super::give_back;
use super::kmm::Role;
use super::plan::{Answer, Plan, Request};
use crate::terminal::Look;

fn meta(value: Value) -> ObjectMeta {
    serde_json::from_value(value).expect("metadata")
}

/// A pod of this owner, with these finalizers.
fn pod(owner: &str, finalizers: &[&str], labels: Value) -> Pod {
    let api = match owner {
        "DaemonSet" => "apps/v1",
        "Job" => "batch/v1",
        _ => "kmm.sigs.x-k8s.io/v1beta1",
    };
    let mut known = json!({
        "name": "p", "namespace": "hall", "uid": "u-1", "resourceVersion": "7",
        "finalizers": finalizers.iter().map(|name| format!("kmm.node.kubernetes.io/{name}")).collect::<Vec<_>>(),
        "ownerReferences": [{ "apiVersion": api, "kind": owner, "name": "it", "uid": "o-1" }],
    });
    known["labels"] = labels;
    Pod { meta: meta(known), has_ended: false }
}

fn told(plan: &Plan) -> Vec<(&str, &str)> {
    plan.steps.iter().map(|step| (step.object.as_str(), step.what)).collect()
}

fn adopting(seen: &adopt::Seen) -> Plan {
    adopt::plan(seen, false)
}

#[test]
fn a_cluster_without_kmm_needs_nothing() {
    let plan = adopting(&adopt::Seen::default());
    assert_eq!((plan.refusals.len(), plan.steps.len()), (0, 0));
}

#[rstest]
#[case::scaled(1, 1, None, "scale deployment/kmm-operator-controller --replicas 0")]
#[case::starting(1, 0, None, "never delete KMM by its manifests")]
#[case::ending(0, 1, None, "in a moment")]
#[case::kept_by_olm(0, 1, Some("kmm.v2"), "ClusterServiceVersion kmm.v2")]
fn a_running_kmm_is_refused_with_what_to_do(
    #[case] wished: i32,
    #[case] present: i32,
    #[case] olm: Option<&str>,
    #[case] next: &str,
) {
    let (namespace, name) = ("kmm-operator-system".to_owned(), "kmm-operator-controller".to_owned());
    let mut deployment = Deployment { namespace, name, wished, present, olm: olm.map(str::to_owned) };
    let seen = adopt::Seen { deployments: vec![deployment.clone()], ..Default::default() };
    let plan = adopting(&seen);
    assert!(plan.refusals[0].next.contains(next), "{:?}", plan.refusals);
    (deployment.wished, deployment.present) = (0, 0);
    let plan = adopting(&adopt::Seen { deployments: vec![deployment], ..Default::default() });
    assert_eq!(plan.refusals, []);
    assert!(plan.left.last().unwrap().contains("kmm-operator-system"), "{:?}", plan.left);
}

#[test]
fn a_lease_that_is_renewed_is_refused() {
    let renewed = vec![("elsewhere".to_owned(), "kmm-abc".to_owned())];
    let plan = adopting(&adopt::Seen { renewed, ..Default::default() });
    assert!(plan.refusals[0].because.contains("kmm-abc renews the Lease elsewhere/kmm.sigs.x-k8s.io"));
}

#[test]
fn an_unload_under_way_is_waited_for_or_left() {
    let unloader = pod(
        "NodeModulesConfig",
        &["nodemodulesconfig-reconciler"],
        json!({ "kmm.node.kubernetes.io/worker-action": "Unload" }),
    );
    let ended = Pod { has_ended: true, ..unloader.clone() };
    let seen = adopt::Seen { pods: vec![unloader], ..Default::default() };
    assert!(adopting(&seen).refusals[0].because.contains("hall/p is unloading"));
    assert_eq!(adopt::plan(&seen, true).refusals, []);
    let plan = adopting(&adopt::Seen { pods: vec![ended], ..Default::default() });
    assert_eq!((plan.refusals.len(), plan.steps.len()), (0, 1));

    let leaving = adopt::Seen { leaving: vec!["hall/gauge".to_owned()], ..Default::default() };
    assert!(adopting(&leaving).refusals[0].next.contains("--leave-unloads"));
    assert_eq!(adopt::plan(&leaving, true).refusals, []);
}

#[test]
fn an_ordered_change_in_its_midst_is_told() {
    let behind = Behind { module: "hall/gauge".to_owned(), node: "ash".to_owned(), version: "1".to_owned() };
    let plan = adopting(&adopt::Seen { behind: vec![behind], ..Default::default() });
    assert_eq!(plan.refusals, []);
    assert!(plan.left[1].contains("node ash has version 1 of Module hall/gauge"), "{:?}", plan.left);
}

#[test]
fn what_kmm_loaded_before_it_noted_boots_is_dated_first() {
    let undated = vec!["ash".to_owned(), "oak".to_owned()];
    let plan = adopting(&adopt::Seen { undated, ..Default::default() });
    assert!(plan.refusals[0].because.contains("on ash, oak:"), "{:?}", plan.refusals);
    assert!(plan.refusals[0].next.contains("2.4"));
}

#[rstest]
#[case::loader(pod("NodeModulesConfig", &["nodemodulesconfig-reconciler"], json!({})), "finalizer removed, deleted")]
#[case::puller(pod("ModuleImagesConfig", &[], json!({})), "deleted")]
#[case::builder(pod("ModuleBuildSignConfig", &["gc-delay", "job-event-finalizer"], json!({})), "finalizer removed, deleted")]
#[case::plugin(pod("DaemonSet", &["node-labeler"], json!({ "kmm.node.kubernetes.io/module.name": "gauge" })), "finalizer removed")]
fn kmms_pods_are_released(#[case] pod: Pod, #[case] what: &str) {
    let plan = adopting(&adopt::Seen { pods: vec![pod], ..Default::default() });
    assert_eq!(told(&plan), [("Pod hall/p", what)]);
    for request in &plan.steps[0].requests {
        match request {
            Request::Merge { body, .. } => {
                let is_it = json!({ "uid": "u-1", "resourceVersion": "7", "finalizers": [] });
                assert_eq!(body["metadata"], is_it);
            }
            Request::Delete { path, uid } => {
                assert_eq!((path.as_str(), uid.as_deref()), ("/api/v1/namespaces/hall/pods/p", Some("u-1")));
            }
            Request::Apply { .. } => panic!("{request:?}"),
        }
    }
}

#[rstest]
#[case::ours(pod("Job", &[], json!({ "kmm.node.kubernetes.io/resource-type": "BuildImage" })))]
#[case::a_plugin_that_is_free(pod("DaemonSet", &[], json!({ "kmm.node.kubernetes.io/module.name": "gauge" })))]
#[case::somebody_elses(pod("DaemonSet", &["node-labeler"], json!({})))]
#[case::by_name_alone(Pod { meta: meta(json!({ "name": "kmm-worker-pine-gauge", "namespace": "hall" })), ..Pod::default() })]
fn others_pods_are_left_alone(#[case] pod: Pod) {
    assert_eq!(Role::of(&pod.meta), None);
    assert_eq!(adopting(&adopt::Seen { pods: vec![pod], ..Default::default() }).steps, []);
}

#[test]
fn others_finalizers_stay_and_what_is_going_is_not_deleted_again() {
    let mut pod = pod("NodeModulesConfig", &["nodemodulesconfig-reconciler"], json!({}));
    pod.meta.finalizers.as_mut().unwrap().push("other.test/x".to_owned());
    pod.meta.deletion_timestamp = Some(serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap());
    let plan = adopting(&adopt::Seen { pods: vec![pod.clone()], ..Default::default() });
    let [Request::Merge { body, .. }] = plan.steps[0].requests.as_slice() else { panic!("{plan:?}") };
    assert_eq!(body["metadata"]["finalizers"], json!(["other.test/x"]));
    pod.meta.finalizers = None;
    assert_eq!(adopting(&adopt::Seen { pods: vec![pod], ..Default::default() }).steps, []);
}

#[test]
fn only_webhooks_that_are_all_kmms_go() {
    let hook = |name: &str, path: &str| (name.to_owned(), path.to_owned());
    let module = hook("vmodule.kb.io", "/validate-kmm-sigs-x-k8s-io-v1beta1-module");
    let namespace = hook("namespace-deletion.kmm.sigs.k8s.io", "/validate--v1-namespace");
    let config =
        |name: &str, hooks: Vec<(String, String)>| Webhooks { meta: meta(json!({ "name": name })), hooks };
    let webhooks = vec![
        config("kmms", vec![module.clone(), namespace]),
        config("mixed", vec![module, hook("other.test", "/")]),
        config("another-vmodule", vec![hook("vmodule.kb.io", "/validate-acme-test-v1-module")]),
        config("empty", Vec::new()),
    ];
    let plan = adopting(&adopt::Seen { webhooks, ..Default::default() });
    assert_eq!(told(&plan), [("ValidatingWebhookConfiguration kmms", "deleted")]);
}

#[test]
fn definitions_that_differ_are_replaced_and_never_deleted() {
    let definition = |name: &str, differs, has_webhook| Definition {
        meta: meta(json!({ "name": name })),
        wished: json!({ "kind": "CustomResourceDefinition" }),
        differs,
        has_webhook,
    };
    let definitions = vec![
        definition("same", false, false),
        definition("other", true, false),
        definition("hooked", true, true),
    ];
    let plan = adopting(&adopt::Seen { definitions, ..Default::default() });
    assert_eq!(plan.steps.len(), 2);
    assert!(matches!(plan.steps[0].requests.as_slice(), [Request::Apply { .. }]));
    let [Request::Merge { body, .. }, Request::Apply { .. }] = plan.steps[1].requests.as_slice() else {
        panic!("{plan:?}")
    };
    assert_eq!(body["spec"]["conversion"], json!({ "strategy": "None", "webhook": null }));
}

#[test]
fn records_of_images_go_but_for_the_hubs() {
    let of = |name: &str, owner: &str| {
        meta(json!({ "name": name, "namespace": "hall", "ownerReferences": [
            { "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": owner, "name": "it", "uid": "o-1" }] }))
    };
    let seen = adopt::Seen {
        images: vec![of("gauge", "Module"), of("far", "ManagedClusterModule")],
        builds: vec![of("gauge", "ModuleImagesConfig"), of("far", "ModuleImagesConfig")],
        ..Default::default()
    };
    let expected =
        [("ModuleBuildSignConfig hall/gauge", "deleted"), ("ModuleImagesConfig hall/gauge", "deleted")];
    assert_eq!(told(&adopting(&seen)), expected);
}

#[test]
fn what_is_told_says_what_would_be_and_what_was_done() {
    let seen = adopt::Seen { pods: vec![pod("ModuleImagesConfig", &[], json!({}))], ..Default::default() };
    let answer = |dry_run, done| {
        let Plan { refusals, steps, left } = adopting(&seen);
        Answer { dry_run, refusals, steps, done, left }
    };
    assert!(answer(true, 0).text(Look::PLAIN).ends_with("1 to do; nothing was changed\n"));
    let done = answer(false, 1).text(Look::PLAIN);
    assert!(
        done.contains("Pod hall/p   deleted") && done.contains("1 of 1 done\nnext: install Tenon"),
        "{done}"
    );
    let cut = answer(false, 0).text(Look::PLAIN);
    assert!(cut.ends_with("0 of 1 done\n"), "{cut}");
    assert_eq!(answer(false, 1).for_programs()["steps"][0]["done"], true);
}

fn config(mut value: Value) -> NodeModulesConfig {
    let mut whole = json!({ "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "NodeModulesConfig" });
    whole["metadata"] = json!({ "name": "pine", "uid": "u-1" });
    whole["spec"] = value["spec"].take();
    whole["status"] = value["status"].take();
    serde_json::from_value(whole).expect("a node's object")
}

fn loading() -> Value {
    json!({ "kernelVersion": "6.1.0", "containerImage": "r.test/g:1", "imagePullPolicy": "IfNotPresent",
        "insecurePull": false, "modprobe": { "moduleName": "gauge", "dirName": "/opt" } })
}

#[test]
fn a_nodes_object_is_given_back_in_kmms_form_and_then_left_alone() {
    let ours = config(json!({
        "spec": { "order": "signed", "modules": [
            { "name": "gauge", "namespace": "hall", "config": loading(), "bundle": "sha256:b", "generation": 3,
              "validation": { "paths": ["/dev/gauge0"] } },
            { "name": "failed", "namespace": "hall", "config": loading(), "bundle": "sha256:c" },
        ] },
        "status": { "storeId": "00", "bootId": "boot-1", "orderGeneration": 9, "modules": [
            { "name": "gauge", "namespace": "hall", "config": loading(), "bundle": "sha256:b", "bootId": "boot-1", "phase": "Loaded" },
            { "name": "failed", "namespace": "hall", "bundle": "sha256:c", "phase": "Failed" },
            { "name": "orphan", "namespace": "hall", "config": loading(), "bootId": "boot-1", "phase": "Orphaned" },
        ] },
    }));
    let plan = give_back::plan(&give_back::Seen { configs: vec![ours], ..Default::default() });
    let [Request::Merge { body: status, .. }, Request::Merge { body: spec, .. }] =
        plan.steps[0].requests.as_slice()
    else {
        panic!("{plan:?}")
    };
    let gauge = json!({ "name": "gauge", "namespace": "hall", "config": loading(), "bootId": "boot-1" });
    assert_eq!(status["status"]["modules"], json!([gauge]), "what is not loaded, or nobody's, is not told");
    assert_eq!(status["status"]["storeId"], Value::Null);
    assert_eq!(spec["spec"]["order"], Value::Null);
    let entry = |name: &str| json!({ "name": name, "namespace": "hall", "config": loading() });
    assert_eq!(spec["spec"]["modules"], json!([entry("gauge"), entry("failed")]));

    let theirs = config(json!({
        "spec": { "modules": [entry("gauge"), entry("failed")] }, "status": { "modules": [gauge] },
    }));
    let again = give_back::plan(&give_back::Seen { configs: vec![theirs], ..Default::default() });
    assert_eq!(again.steps, []);
}

#[test]
fn a_node_keeps_kmms_labels_and_everybody_elses() {
    let node: Node = serde_json::from_value(json!({
        "metadata": { "name": "pine", "uid": "u-1", "resourceVersion": "7", "labels": {
            "kmm.node.kubernetes.io/hall.gauge.ready": "", "rack": "4", "tenon.dev/hold": "fan",
            "kmm.node.kubernetes.io/hall.a-name-that-is_0123456789abcdef.ready": "",
        } },
        "spec": { "taints": [{ "key": "tenon.dev/drivers-not-ready", "effect": "NoSchedule" }, { "key": "own", "effect": "NoExecute" }] },
    }))
    .expect("a node");
    let plan = give_back::plan(&give_back::Seen { nodes: vec![node], ..Default::default() });
    let [Request::Merge { body, .. }] = plan.steps[0].requests.as_slice() else { panic!("{plan:?}") };
    let gone = json!({ "tenon.dev/hold": null, "kmm.node.kubernetes.io/hall.a-name-that-is_0123456789abcdef.ready": null });
    assert_eq!(body["metadata"]["labels"], gone);
    assert_eq!(body["spec"]["taints"], json!([{ "key": "own", "effect": "NoExecute" }]));
    let free: Node = serde_json::from_value(json!({ "metadata": { "name": "oak" } })).expect("a node");
    assert_eq!(give_back::plan(&give_back::Seen { nodes: vec![free], ..Default::default() }).steps, []);
}

#[test]
fn what_is_tenons_alone_goes_and_a_running_tenon_is_refused() {
    let marked = |name: &str| {
        meta(json!({ "name": name, "namespace": "hall", "annotations": { "tenon.dev/wish": "x" } }))
    };
    let seen = give_back::Seen {
        in_force: vec!["DaemonSet tenon-system/tenon-node".to_owned()],
        sets: vec![marked("gauge-device-plugin"), meta(json!({ "name": "vendors", "namespace": "hall" }))],
        jobs: vec![meta(json!({ "name": "build", "namespace": "hall" }))],
        modules: vec![
            meta(
                json!({ "name": "gauge", "namespace": "hall", "annotations": { "tenon.dev/paused": "true", "a": "b" } }),
            ),
            meta(json!({ "name": "plain", "namespace": "hall" })),
        ],
        definitions: vec![meta(json!({ "name": "madeimages.tenon.dev" }))],
        ..Default::default()
    };
    let plan = give_back::plan(&seen);
    assert!(plan.refusals[0].because.contains("tenon-node") && plan.refusals[0].next.contains("deploy/rbac"));
    let expected = [
        ("Job hall/build", "deleted"),
        ("DaemonSet hall/gauge-device-plugin", "deleted"),
        ("Module hall/gauge", "annotations removed"),
        ("CustomResourceDefinition madeimages.tenon.dev", "deleted"),
    ];
    assert_eq!(told(&plan), expected);
}
