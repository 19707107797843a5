//! §1.8, beside what users are refused: what the operator itself may not write, whatever its rights say. Each policy is tried to be
//! broken with the operator's own token.

use kube::Client;
use serde_json::{Value, json};
use tenon_lab::wait;
use tenon_test_api::cluster::{Cluster, SOON};
use tenon_test_api::setup::unbound;

const PODS: &str = "/api/v1/namespaces/hall/pods";
const SETS: &str = "/apis/apps/v1/namespaces/hall/daemonsets";
const CLASSES: &str = "/apis/resource.k8s.io/v1/deviceclasses";
const NAME: &str = "kmm.node.kubernetes.io/module.name";
const NAMESPACE: &str = "kmm.node.kubernetes.io/module.namespace";
const LABELER: &str = "kmm.node.kubernetes.io/node-labeler";

/// A write that is only tried: nothing comes of it.
struct Write {
    what: &'static str,
    method: &'static str,
    path: String,
    body: Value,
}

fn create(what: &'static str, kind: &str, body: Value) -> Write {
    Write { what, method: "POST", path: kind.to_owned(), body }
}

fn patch(what: &'static str, kind: &str, name: &str, body: Value) -> Write {
    Write { what, method: "PATCH", path: format!("{kind}/{name}"), body }
}

fn delete(what: &'static str, kind: &str, name: &str) -> Write {
    Write { what, method: "DELETE", path: format!("{kind}/{name}"), body: json!({}) }
}

/// The refusal, if it is one.
async fn attempt(client: &Client, write: &Write) -> Result<(), String> {
    let kind = match (write.method, &write.body) {
        ("PATCH", Value::Array(_)) => "application/json-patch+json",
        ("PATCH", _) => "application/merge-patch+json",
        _ => "application/json",
    };
    let request = http::Request::builder()
        .method(write.method)
        .uri(format!("{}?dryRun=All", write.path))
        .header(http::header::CONTENT_TYPE, kind)
        .body(write.body.to_string().into_bytes())
        .expect("a request");
    client.request::<Value>(request).await.map(drop).map_err(|error| error.to_string())
}

fn daemon_set(name: &str, metadata: &Value) -> Value {
    let mut set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"nodeSelector": {"nowhere": ""}, "containers": [{"name": "c", "image": "c.test/c:1"}]},
        },
    }});
    set["metadata"]["name"] = json!(name);
    set["metadata"]["namespace"] = json!("hall");
    set
}

fn class(name: &str, labels: &Value) -> Value {
    let metadata = json!({"name": name, "labels": labels});
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": metadata, "spec": {}})
}

fn of_gauge() -> Value {
    json!({NAME: "gauge", NAMESPACE: "hall"})
}

fn of_pods() -> (Vec<Write>, Vec<Write>) {
    let change = |what, metadata: Value| patch(what, PODS, "guest", json!({ "metadata": metadata }));
    let image = json!([{"op": "replace", "path": "/spec/containers/0/image", "value": "evil.test/c:1"}]);
    let refused = vec![
        change("a label of a pod", json!({"labels": {"app": "other"}})),
        change("an annotation of a pod", json!({"annotations": {"a": "b"}})),
        change("a finalizer more", json!({"finalizers": [LABELER, "other.test/x", "other.test/y"]})),
        change("somebody else's finalizer", json!({"finalizers": [LABELER]})),
        change("all finalizers", json!({"finalizers": []})),
        change(
            "an owner of a pod",
            json!({"ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "x", "uid": "u"}
            ]}),
        ),
        patch("the image of a pod", PODS, "guest", image),
    ];
    (refused, vec![change("KMM's finalizer", json!({"finalizers": ["other.test/x"]}))])
}

fn of_sets(owner: &Value) -> (Vec<Write>, Vec<Write>) {
    let controlled = json!({"labels": {NAME: "gauge"}, "ownerReferences": [owner]});
    let mut mere_owner = owner.clone();
    mere_owner["controller"] = json!(false);
    let not_controlled = json!({"labels": {NAME: "gauge"}, "ownerReferences": [mere_owner]});
    let change = |what, name, metadata: &Value| patch(what, SETS, name, json!({ "metadata": metadata }));
    let refused = vec![
        create("a DaemonSet of nobody's", SETS, daemon_set("new", &json!({"labels": {NAME: "gauge"}}))),
        create("one without a label", SETS, daemon_set("new", &json!({ "ownerReferences": [owner] }))),
        create("one that no Module controls", SETS, daemon_set("new", &not_controlled)),
        change("a label of somebody else's", "foreign", &json!({"labels": {"a": "b"}})),
        change("somebody else's, made a Module's", "foreign", &controlled),
        change("a Module's, given away", "own", &json!({ "ownerReferences": null })),
        delete("somebody else's", SETS, "foreign"),
    ];
    let let_through = vec![
        create("a Module's DaemonSet", SETS, daemon_set("new", &controlled)),
        change("an annotation of it", "own", &json!({"annotations": {"a": "b"}})),
        delete("it, in the end", SETS, "own"),
    ];
    (refused, let_through)
}

fn of_classes() -> (Vec<Write>, Vec<Write>) {
    let label =
        |what, name, labels: Value| patch(what, CLASSES, name, json!({"metadata": {"labels": labels}}));
    let refused = vec![
        create("a class of nobody's", CLASSES, class("new.test", &json!({}))),
        create("one with half a mark", CLASSES, class("new.test", &json!({NAME: "gauge"}))),
        label("somebody else's, made a Module's", "foreign.test", of_gauge()),
        patch("what somebody else's says", CLASSES, "foreign.test", json!({"spec": {"selectors": []}})),
        label("a Module's, given away", "own.test", json!({NAME: null})),
        label("a Module's, handed to another", "own.test", json!({NAME: "meter"})),
        delete("somebody else's", CLASSES, "foreign.test"),
    ];
    let let_through = vec![
        create("a Module's class", CLASSES, class("new.test", &of_gauge())),
        patch("what it says", CLASSES, "own.test", json!({"metadata": {"annotations": {"a": "b"}}})),
        delete("it, in the end", CLASSES, "own.test"),
    ];
    (refused, let_through)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_writes_no_pod_no_daemon_set_and_no_class_that_is_not_a_modules() {
    let mut cluster = Cluster::start().await;
    cluster.stop_operator().await;
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    let module = cluster.modules().get("gauge").await.expect("the Module");
    let owner = json!({"apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module", "name": "gauge",
        "uid": module.metadata.uid, "controller": true});
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "guest", "namespace": "hall", "finalizers": [LABELER, "other.test/x"]},
        "spec": {"containers": [{"name": "c", "image": "c.test/c:1"}]}});
    let controlled = json!({"labels": {NAME: "gauge"}, "ownerReferences": [owner]});
    for object in [
        pod,
        daemon_set("foreign", &json!({})),
        daemon_set("own", &controlled),
        class("foreign.test", &json!({})),
        class("own.test", &of_gauge()),
    ] {
        cluster.plane.apply(&object.to_string()).await.expect("an object");
    }

    let operator = unbound(&cluster.plane, "tenon-operator").await;
    for ((refused, let_through), says) in [
        (of_pods(), "changes nothing of a pod but"),
        (of_sets(&owner), "writes no DaemonSet but"),
        (of_classes(), "writes no DeviceClass but"),
    ] {
        let heeded = wait::until(format!("the policy that says {says:?} is heeded"), SOON, async || {
            attempt(&operator, refused.first()?).await.err()
        });
        heeded.await.unwrap_or_else(|late| panic!("{late}"));
        for write in &refused {
            let refusal = attempt(&operator, write).await.expect_err(write.what);
            assert!(refusal.contains(says), "{}: {refusal}", write.what);
        }
        for write in &let_through {
            attempt(&operator, write).await.unwrap_or_else(|error| panic!("{}: {error}", write.what));
        }
    }
}
