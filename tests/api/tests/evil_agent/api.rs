//! Attempts at the API server: with the agent's own token, and with tokens that are none of its.

use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tenon_api::NodeModulesConfig;
use tenon_api::node_pod::{DEPOT_AUDIENCE, NAMESPACE, SERVICE_ACCOUNT};
use tenon_lab::control_plane::Binding;
use tenon_lab::wait;

use crate::stand::{FOREIGN, OTHER, OWN, Stand, assert_same, send};
use tenon_test_api::cluster::{SOON, order};

const MERGE: &str = "application/merge-patch+json";
const JSON: &str = "application/json";
const CONFIGS: &str = "/apis/kmm.sigs.x-k8s.io/v1beta1/nodemodulesconfigs";
const OPERATOR: &str = "system:serviceaccount:tenon-system:tenon-operator";

struct Attempt {
    what: &'static str,
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
    denied_with: &'static [u16],
}

fn attempt(what: &'static str, method: &'static str, path: &str, body: &Value) -> Attempt {
    let form = match method {
        "PATCH" => MERGE,
        _ => JSON,
    };
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    Attempt {
        what,
        method,
        path: path.to_owned(),
        headers: vec![("content-type", form)],
        body,
        denied_with: &[403],
    }
}

impl Attempt {
    fn with(mut self, headers: &[(&'static str, &'static str)]) -> Self {
        for (name, value) in headers {
            self.headers.retain(|(known, _)| known != name);
            self.headers.push((name, value));
        }
        self
    }

    fn denied_with(self, denied_with: &'static [u16]) -> Self {
        Self { denied_with, ..self }
    }
}

/// On objects that say what nodes have and should have.
fn on_nodes_objects() -> Vec<Attempt> {
    let (own, other) = (format!("{CONFIGS}/{OWN}"), format!("{CONFIGS}/{OTHER}"));
    let (own_status, other_status) = (format!("{own}/status"), format!("{other}/status"));
    let status = json!({"status": {"bootId": "forged", "modules": []}});
    let spec = json!({"spec": {"order": "forged", "modules": []}});
    let whole = |name: &str| {
        json!({
            "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "NodeModulesConfig", "metadata": {"name": name},
            "spec": {}, "status": {"bootId": "forged"},
        })
    };
    let finalizers = json!({"metadata": {"finalizers": ["evil.test/stay"]}});
    let labels = json!({"metadata": {"labels": {"kmm.node.kubernetes.io/hall.gauge.ready": ""}}});
    let steps = json!([{"op": "replace", "path": "/status/bootId", "value": "forged"}]);
    let huge = |bytes: usize| json!({"status": {"bootId": "b".repeat(bytes)}});
    let apply = format!("{other_status}?fieldManager=tenon-agent&force=true");
    vec![
        attempt("another node's status, merged", "PATCH", &other_status, &status),
        attempt("another node's status, applied", "PATCH", &apply, &whole(OTHER))
            .with(&[("content-type", "application/apply-patch+yaml")]),
        attempt("another node's status, by steps", "PATCH", &other_status, &steps)
            .with(&[("content-type", "application/json-patch+json")]),
        attempt("another node's status, replaced", "PUT", &other_status, &whole(OTHER)),
        attempt("another node's status under its own name", "PATCH", &other_status, &whole(OWN))
            .denied_with(&[400]),
        attempt("another node's spec", "PATCH", &other, &spec),
        attempt("another node's labels", "PATCH", &other, &labels),
        attempt("another node's finalizers", "PATCH", &other, &finalizers),
        attempt("another node's object, deleted", "DELETE", &other, &Value::Null),
        attempt("all objects, deleted", "DELETE", CONFIGS, &Value::Null),
        attempt("its own spec", "PATCH", &own, &spec),
        attempt("its own spec, replaced", "PUT", &own, &whole(OWN)),
        attempt("its own labels", "PATCH", &own, &labels),
        attempt("its own annotations", "PATCH", &own, &json!({"metadata": {"annotations": {"a": "b"}}})),
        attempt("its own finalizers", "PATCH", &own, &finalizers),
        attempt("its own owner", "PATCH", &own, &json!({"metadata": {"ownerReferences": null}})),
        attempt("its own object, deleted", "DELETE", &own, &Value::Null),
        attempt("its own status, replaced", "PUT", &own_status, &whole(OWN)),
        attempt("an object for a node that is not there", "POST", CONFIGS, &whole("oak")),
        attempt(
            "a status with nonsense",
            "PATCH",
            &own_status,
            &json!({"status": {"modules": [{"phase": "Evil"}]}}),
        )
        .denied_with(&[422]),
        attempt(
            "a status with a long message",
            "PATCH",
            &own_status,
            &json!({"status": {"modules": [{
                "namespace": "hall", "name": "gauge", "phase": "Failed", "message": "x".repeat(30_000),
            }]}}),
        )
        .denied_with(&[422]),
        attempt("a status of two MiB", "PATCH", &own_status, &huge(2 << 20)).denied_with(&[413, 500]),
        attempt("a status of four MiB", "PATCH", &own_status, &huge(4 << 20)).denied_with(&[413]),
        attempt("another node's status as the operator", "PATCH", &other_status, &status)
            .with(&[("impersonate-user", OPERATOR)]),
        attempt("another node's spec as an administrator", "PATCH", &other, &spec)
            .with(&[("impersonate-user", "admin"), ("impersonate-group", "system:masters")]),
        attempt("another node's status as that node's agent", "PATCH", &other_status, &status).with(&[
            ("impersonate-user", "system:serviceaccount:tenon-system:tenon-agent"),
            ("impersonate-extra-authentication.kubernetes.io%2fnode-name", OTHER),
        ]),
    ]
}

/// A path below the core API.
fn core(rest: &str) -> String {
    format!("/api/v1/{rest}")
}

/// A path below the core API in Tenon's namespace.
fn own(rest: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/{rest}")
}

fn rbac(rest: &str) -> String {
    format!("/apis/rbac.authorization.k8s.io/v1/{rest}")
}

fn admission(rest: &str) -> String {
    format!("/apis/admissionregistration.k8s.io/v1/{rest}")
}

fn named(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

/// On keys, settings and Nodes.
fn on_secrets_and_nodes() -> Vec<Attempt> {
    let label = json!({"metadata": {"labels": {"kmm.node.kubernetes.io/hall.gauge.ready": "", "hall": "b"}}});
    vec![
        attempt("the key that signs orders", "GET", &own("secrets/tenon-order-key"), &Value::Null),
        attempt("the depot's key", "GET", &own("secrets/tenon-serving-cert"), &Value::Null),
        attempt("the namespace's Secrets", "GET", &own("secrets"), &Value::Null),
        attempt("all Secrets", "GET", &core("secrets"), &Value::Null),
        attempt("all Secrets, watched", "GET", &core("secrets?watch=true"), &Value::Null),
        attempt(
            "the list of keys",
            "PATCH",
            &own("configmaps/tenon-order-keys"),
            &json!({"data": {"evil": "key"}}),
        ),
        attempt(
            "the depot's addresses",
            "PATCH",
            &own("configmaps/tenon-depot"),
            &json!({"data": {"addresses": "x"}}),
        ),
        attempt(
            "facts about kernels",
            "POST",
            &own("configmaps"),
            &json!({
                "metadata": {"name": "kernel-facts-evil", "labels": {"tenon.dev/kernel-facts": "true"}},
            }),
        ),
        attempt("all ConfigMaps", "GET", &core("configmaps"), &Value::Null),
        attempt("all Nodes", "GET", &core("nodes"), &Value::Null),
        attempt("its own Node's labels", "PATCH", &core(&format!("nodes/{OWN}")), &label),
        attempt("another Node's labels", "PATCH", &core(&format!("nodes/{OTHER}")), &label),
        attempt(
            "its own Node's kernel",
            "PATCH",
            &core(&format!("nodes/{OWN}/status")),
            &json!({
                "status": {"nodeInfo": {"kernelVersion": "6.6.6"}},
            }),
        ),
        attempt("another Node, deleted", "DELETE", &core(&format!("nodes/{OTHER}")), &Value::Null),
        attempt("another Node's kubelet", "GET", &core(&format!("nodes/{OTHER}/proxy/pods")), &Value::Null),
    ]
}

/// On pods, and the tokens and leases by which others are known.
fn on_pods() -> Vec<Attempt> {
    let token = json!({"spec": {"audiences": ["tenon-depot"]}});
    let pod = json!({
        "metadata": {"name": "evil"},
        "spec": {"containers": [{"name": "c", "image": "evil:1", "securityContext": {"privileged": true}}]},
    });
    let other_pod = format!("pods/tenon-node-{OTHER}");
    vec![
        attempt("a privileged pod", "POST", &own("pods"), &pod),
        attempt(
            "a program in another node's pod",
            "POST",
            &own(&format!("{other_pod}/exec?command=sh")),
            &Value::Null,
        ),
        attempt("another node's pod, attached", "POST", &own(&format!("{other_pod}/attach")), &Value::Null),
        attempt(
            "another node's pod's ports",
            "POST",
            &own(&format!("{other_pod}/portforward")),
            &Value::Null,
        ),
        attempt(
            "a container in another node's pod",
            "PATCH",
            &own(&format!("{other_pod}/ephemeralcontainers")),
            &json!({
                "spec": {"ephemeralContainers": [{"name": "evil", "image": "evil:1"}]},
            }),
        ),
        attempt(
            "another node's pod, evicted",
            "POST",
            &own(&format!("{other_pod}/eviction")),
            &named(&other_pod),
        ),
        attempt("another node's pod, deleted", "DELETE", &own(&other_pod), &Value::Null),
        attempt(
            "its own pod, bound to another node",
            "POST",
            &own(&format!("pods/tenon-node-{OWN}/binding")),
            &json!({
                "metadata": {"name": format!("tenon-node-{OWN}")}, "target": {"kind": "Node", "name": OTHER},
            }),
        ),
        attempt("a token of the operator", "POST", &own("serviceaccounts/tenon-operator/token"), &token),
        attempt("a token of agents", "POST", &own("serviceaccounts/tenon-agent/token"), &token),
        attempt(
            "the operator's leadership",
            "PATCH",
            "/apis/coordination.k8s.io/v1/namespaces/tenon-system/leases/tenon-operator",
            &json!({"spec": {"holderIdentity": "evil"}}),
        ),
        attempt(
            "a Lease that stops the operator",
            "POST",
            "/apis/coordination.k8s.io/v1/namespaces/tenon-system/leases",
            &named("kmm.sigs.x-k8s.io"),
        ),
    ]
}

/// On Modules and what is known of their images.
fn on_modules() -> Vec<Attempt> {
    let kmm = |rest: &str| format!("/apis/kmm.sigs.x-k8s.io/v1beta1/namespaces/hall/{rest}");
    let images = "/apis/tenon.dev/v1alpha1/namespaces/hall/moduleimages";
    vec![
        attempt("a Module", "POST", &kmm("modules"), &named("evil")),
        attempt("a Module's image", "PATCH", &kmm("modules/gauge"), &json!({"spec": {"selector": {}}})),
        attempt("a Module, deleted", "DELETE", &kmm("modules/gauge"), &Value::Null),
        attempt(
            "a Module's status",
            "PATCH",
            &kmm("modules/gauge/status"),
            &json!({"status": {"conditions": []}}),
        ),
        attempt("all Modules", "GET", &kmm("modules"), &Value::Null),
        attempt("what images hold", "POST", images, &named("evil")),
        attempt("verdicts on all images", "DELETE", images, &Value::Null),
        attempt("an event", "POST", "/apis/events.k8s.io/v1/namespaces/tenon-system/events", &named("evil")),
    ]
}

/// On the rules that hold it, and on workloads.
fn on_rules() -> Vec<Attempt> {
    let everything = json!({"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    let subjects = json!([{"kind": "ServiceAccount", "name": SERVICE_ACCOUNT, "namespace": NAMESPACE}]);
    let admin = json!({
        "metadata": {"name": "evil"}, "subjects": subjects,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
    });
    vec![
        attempt(
            "a definition",
            "PATCH",
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/nodemodulesconfigs.kmm.sigs.x-k8s.io",
            &json!({"spec": {"scope": "Namespaced"}}),
        ),
        attempt(
            "the policy that holds it",
            "DELETE",
            &admission("validatingadmissionpolicies/tenon-agents-report-on-their-own-node"),
            &Value::Null,
        ),
        attempt(
            "the policy's binding",
            "DELETE",
            &admission("validatingadmissionpolicybindings/tenon-agents-report-on-their-own-node"),
            &Value::Null,
        ),
        attempt(
            "a webhook that changes everything",
            "POST",
            &admission("mutatingwebhookconfigurations"),
            &named("evil"),
        ),
        attempt("its own role, grown", "PATCH", &rbac("clusterroles/tenon-agent"), &everything),
        attempt("a binding to the administrator's role", "POST", &rbac("clusterrolebindings"), &admin),
        attempt("the same in one namespace", "POST", &rbac("namespaces/tenon-system/rolebindings"), &admin),
        attempt(
            "a certificate",
            "POST",
            "/apis/certificates.k8s.io/v1/certificatesigningrequests",
            &named("evil"),
        ),
        attempt(
            "the node pod's image",
            "PATCH",
            "/apis/apps/v1/namespaces/tenon-system/daemonsets/tenon-node",
            &json!({"spec": {"paused": true}}),
        ),
        attempt(
            "the operator's image",
            "PATCH",
            "/apis/apps/v1/namespaces/tenon-system/deployments/tenon-operator",
            &json!({"spec": {"replicas": 0}}),
        ),
        attempt("a Job", "POST", "/apis/batch/v1/namespaces/tenon-system/jobs", &named("evil")),
        attempt(
            "the namespace",
            "PATCH",
            &core("namespaces/tenon-system"),
            &json!({"metadata": {"labels": {"a": "b"}}}),
        ),
        attempt(
            "whose a token is",
            "POST",
            "/apis/authentication.k8s.io/v1/tokenreviews",
            &json!({"spec": {"token": "x"}}),
        ),
    ]
}

/// What the agent does all day.
async fn report(stand: &Stand, token: String) -> Result<NodeModulesConfig, kube::Error> {
    let configs: Api<NodeModulesConfig> = Api::all(stand.client(token).await);
    let status = json!({"status": {"bootId": "5f9e8c4e-0000-4000-8000-000000000001"}});
    let params = PatchParams { field_manager: Some("tenon-agent".to_owned()), ..PatchParams::default() };
    configs.patch_status(OWN, &params, &Patch::Merge(status)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_denies_everything_but_the_status_of_its_own_node() {
    let mut stand = Stand::start().await;
    let token = stand.token(OWN, None).await;
    report(&stand, token.clone()).await.expect("its own status is the agent's");
    let client = stand.client(token).await;
    let before = stand.picture_at_rest().await;
    let families = [on_nodes_objects(), on_secrets_and_nodes(), on_pods(), on_modules(), on_rules()];
    let attempts: Vec<_> = families.into_iter().flatten().collect();
    assert!(attempts.len() >= 70);
    for Attempt { what, method, path, headers, body, denied_with } in attempts {
        let (status, answer) = send(&client, method, &path, &headers, body).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(denied_with.contains(&status), "{what}: {status}: {answer:.500}");
        assert_same(what, &before, &stand.picture().await);
    }
    stand.cluster.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_not_a_node_pods_write_nothing() {
    let mut stand = Stand::start().await;
    let plane = &stand.cluster.plane;
    let unbound = plane.token(NAMESPACE, SERVICE_ACCOUNT, None, &Binding::None).await.expect("a token");
    let anothers = plane.token("hall", "default", None, &Binding::None).await.expect("a token");
    let real = stand.token(OWN, None).await;
    // The payload of one token under the signature of another.
    let parts = |token: &str| token.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (mine, others) = (parts(&real), parts(&stand.token(OTHER, None).await));
    let [head, _, signature] = mine.as_slice() else { panic!("a token has three parts") };
    let [_, payload, _] = others.as_slice() else { panic!("a token has three parts") };
    let before = stand.picture_at_rest().await;
    let cases = [
        ("a token that names no node", unbound, 403),
        ("another account's token", anothers, 403),
        ("the depot's token", stand.token(OWN, Some(DEPOT_AUDIENCE)).await, 401),
        ("a token patched together", format!("{head}.{payload}.{signature}"), 401),
        ("a token without signature", format!("eyJhbGciOiJub25lIn0.{payload}."), 401),
    ];
    for (what, token, expected) in cases {
        match report(&stand, token).await {
            Err(kube::Error::Api(status)) => assert_eq!(status.code, expected, "{what}: {}", status.message),
            other => panic!("{what}: {other:?}"),
        }
        assert_same(what, &before, &stand.picture().await);
    }
    report(&stand, real).await.expect("its own status is the agent's");
    stand.cluster.stop_operator().await;
}

/// What concerns the other node: its object, its labels, what it should have.
async fn others(stand: &Stand) -> Vec<Value> {
    let picture = stand.picture_at_rest().await;
    picture
        .into_iter()
        .filter(|(key, _)| key.ends_with(&format!("/{OTHER}")))
        .map(|(_, value)| value)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_in_its_own_status_change_nothing_for_another_node() {
    let mut stand = Stand::start().await;
    let configs: Api<NodeModulesConfig> = Api::all(stand.client(stand.token(OWN, None).await).await);
    let store = stand.cluster.configs().get(OTHER).await.expect("an object").status.and_then(|s| s.store_id);
    let loaded = |name: &str| json!({"namespace": "hall", "name": name, "phase": "Loaded"});
    let before = others(&stand).await;
    let images =
        stand.cluster.images().list(&kube::api::ListParams::default()).await.expect("a list").items.len();
    let lies = [
        ("that it has another node's store", json!({"storeId": store})),
        ("that it runs another kernel", json!({"kernelVersion": "6.6.6-evil", "kernelBuildId": "00ff"})),
        ("that it holds the last of all orders", json!({"orderGeneration": i64::MAX})),
        ("that its loader knows other keys", json!({"keyIds": ["00112233445566ff"]})),
        ("that it has what only another node should have", json!({"modules": [loaded(FOREIGN)]})),
        (
            "that everything fails",
            json!({"modules": [{
                "namespace": "hall", "name": "gauge", "phase": "Failed", "message": "x".repeat(500),
            }]}),
        ),
        (
            "a thousand modules",
            json!({
                "modules": (0..1000).map(|n| loaded(&format!("m{n}"))).collect::<Vec<_>>(),
            }),
        ),
    ];
    for (lie, status) in lies {
        let patch = Patch::Merge(json!({"spec": {"order": "forged"}, "status": status}));
        let written = configs.patch_status(OWN, &PatchParams::default(), &patch).await;
        let written = written.unwrap_or_else(|error| panic!("{lie}: {error}"));
        assert_ne!(written.spec.order.as_deref(), Some("forged"), "{lie}: a status is no way to the spec");
        assert_eq!(others(&stand).await, before, "{lie}");
    }
    // The operator has seen all of it when what comes after it is done.
    let only_other = json!({"spec": {"selector": {"hall": "b"}}});
    stand.cluster.push_driver("witness:v1", "witness");
    stand.cluster.apply_module("witness", "witness:v1", only_other).await;
    stand.loaded(OTHER, 3).await;
    let config = stand.cluster.configs().get(OTHER).await.expect("an object");
    assert_eq!(order(&config).expect("an order").node.as_ref(), OTHER);
    let all = wait::until("the images", SOON, async || {
        let images = stand.cluster.images().list(&kube::api::ListParams::default()).await.ok()?.items;
        (images.len() == images_with(images.as_slice())).then_some(images.len())
    });
    assert_eq!(all.await.expect("images"), images + 1, "no image for a kernel that only an agent speaks of");
    stand.cluster.stop_operator().await;
}

/// Images for kernels that kubelets report.
fn images_with(images: &[tenon_api::ModuleImage]) -> usize {
    images.iter().filter(|image| !image.spec.kernel.contains("evil")).count()
}
