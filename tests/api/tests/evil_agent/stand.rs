//! A cluster with two nodes: `ash`, whose agent is the enemy's, and `elm`, which is not. And a picture of everything that
//! must stay as it is.

use std::collections::BTreeMap;

use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::labels::{LabelKind, ModuleLabel};
use tenon_api::node_modules_config::ModulePhase;
use tenon_api::node_pod::{DEPOT_AUDIENCE, NAMESPACE, SERVICE_ACCOUNT};
use tenon_lab::control_plane::{Binding, Credential};
use tenon_lab::wait;

use tenon_test_api::cluster::{Cluster, SOON, condition, order};

pub(crate) const OWN: &str = "ash";
pub(crate) const OTHER: &str = "elm";

/// The Module of both nodes, and the one that only the other node has.
pub(crate) const SHARED: &str = "gauge";
pub(crate) const FOREIGN: &str = "secretive";

pub(crate) struct Stand {
    pub(crate) cluster: Cluster,
    pods: BTreeMap<&'static str, Binding>,
}

impl Stand {
    /// Both nodes have their drivers, and everything rests.
    pub(crate) async fn start() -> Self {
        let cluster = Cluster::start().await;
        cluster.push_driver("gauge:v1", "shared");
        cluster.push_driver("secretive:v1", "another content");
        for node in [OWN, OTHER] {
            cluster.add_node(node).await;
        }
        cluster.plane.kubectl(&["label", "node", OTHER, "hall=b"]).await.expect("a label");
        cluster.apply_module(SHARED, "gauge:v1", Value::Null).await;
        let only_other = json!({"spec": {"selector": {"hall": "b"}}});
        cluster.apply_module(FOREIGN, "secretive:v1", only_other).await;
        let mut stand = Self { cluster, pods: BTreeMap::new() };
        for (node, modules) in [(OWN, 1), (OTHER, 2)] {
            stand.loaded(node, modules).await;
            let pod = stand.cluster.agent_pod(node).await;
            stand.pods.insert(node, pod);
        }
        for module in [SHARED, FOREIGN] {
            let ready =
                |module: &tenon_api::Module| condition(module, "Ready").is_some_and(|c| c.0 == "True");
            stand.cluster.module_where(module, "it is ready", ready).await;
        }
        stand
    }

    /// The node has so many Modules, has loaded them, and is labelled.
    pub(crate) async fn loaded(&self, node: &str, modules: usize) {
        let has = |config: &tenon_api::NodeModulesConfig| {
            let ordered = order(config).is_some_and(|order| order.modules.len() == modules);
            ordered && config.spec.modules.len() == modules
        };
        self.cluster.config_where(node, "its modules are assigned", has).await;
        self.cluster.obey(node, ModulePhase::Loaded).await;
        let labelled = |node: &k8s_openapi::api::core::v1::Node| {
            let ready =
                |key: &&String| ModuleLabel::parse(key).is_some_and(|label| label.kind == LabelKind::Ready);
            node.labels().keys().filter(ready).count() == modules
        };
        self.cluster.node_where(node, "its ready labels", labelled).await;
    }

    /// A token of the node's agent: for the API server, or for another audience.
    pub(crate) async fn token(&self, node: &str, audience: Option<&str>) -> String {
        let binding = self.pods.get(node).expect("a node");
        let token = self.cluster.plane.token(NAMESPACE, SERVICE_ACCOUNT, audience, binding).await;
        token.expect("a token")
    }

    /// A client of the API server with this token.
    pub(crate) async fn client(&self, token: String) -> Client {
        self.cluster.plane.client_as(&Credential::Token(token)).await.expect("a client")
    }

    pub(crate) async fn depot_token(&self, node: &str) -> String {
        self.token(node, Some(DEPOT_AUDIENCE)).await
    }

    /// Everything that must stay as it is, by path. What others than Tenon keep up to date all the time is left out.
    pub(crate) async fn picture(&self) -> BTreeMap<String, Value> {
        let mut picture = BTreeMap::new();
        for (path, exactly) in KEPT {
            let list = get(&self.cluster.client, path).await;
            let items = list.get("items").and_then(Value::as_array).cloned();
            for mut item in items.expect("a list") {
                let metadata = item.get("metadata").cloned().unwrap_or_default();
                let text = |key| metadata.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
                let name = format!("{path} {}/{}", text("namespace"), text("name"));
                if !exactly && let Some(object) = item.as_object_mut() {
                    object.remove("status");
                    object.insert(
                        "metadata".to_owned(),
                        json!({"uid": metadata["uid"], "labels": metadata["labels"], "finalizers": metadata["finalizers"]}),
                    );
                    // Taints of a node without a kubelet.
                    if *path == "/api/v1/nodes" {
                        object.remove("spec");
                    }
                }
                picture.insert(name, item);
            }
        }
        picture
    }

    /// The same, once nothing changes any more.
    pub(crate) async fn picture_at_rest(&self) -> BTreeMap<String, Value> {
        let mut last = BTreeMap::new();
        wait::until("everything rests", SOON, async || {
            let now = self.picture().await;
            (std::mem::replace(&mut last, now.clone()) == now).then_some(now)
        })
        .await
        .expect("rest")
    }
}

/// What is kept a picture of, and whether every byte of it counts.
const KEPT: &[(&str, bool)] = &[
    ("/apis/kmm.sigs.x-k8s.io/v1beta1/nodemodulesconfigs", true),
    ("/apis/kmm.sigs.x-k8s.io/v1beta1/modules", true),
    ("/apis/tenon.dev/v1alpha1/moduleimages", true),
    ("/apis/tenon.dev/v1alpha1/madeimages", true),
    ("/api/v1/namespaces/tenon-system/secrets", true),
    ("/api/v1/namespaces/tenon-system/configmaps", true),
    ("/api/v1/namespaces/tenon-system/pods", false),
    ("/api/v1/nodes", false),
    ("/api/v1/namespaces", false),
    ("/apis/apps/v1/namespaces/tenon-system/deployments", true),
    ("/apis/apps/v1/namespaces/tenon-system/daemonsets", true),
    ("/apis/batch/v1/jobs", true),
    ("/apis/coordination.k8s.io/v1/namespaces/tenon-system/leases", true),
    ("/apis/rbac.authorization.k8s.io/v1/clusterroles", false),
    ("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", false),
    ("/apis/rbac.authorization.k8s.io/v1/namespaces/tenon-system/roles", true),
    ("/apis/rbac.authorization.k8s.io/v1/namespaces/tenon-system/rolebindings", true),
    ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", false),
    ("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies", false),
    ("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings", false),
    ("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", true),
    ("/apis/certificates.k8s.io/v1/certificatesigningrequests", true),
];

async fn get(client: &Client, path: &str) -> Value {
    let request = Request::get(path).body(Vec::new()).expect("a request");
    client.request::<Value>(request).await.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What must be the same is.
pub(crate) fn assert_same(what: &str, before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) {
    for key in before.keys().chain(after.keys()) {
        assert_eq!(before.get(key), after.get(key), "{what} changed {key}");
    }
}

/// Sends one request as it is; gives the status and the beginning of the answer.
pub(crate) async fn send(
    client: &Client,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> (u16, Vec<u8>) {
    let mut request = Request::builder().method(method.parse::<Method>().expect("a method")).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body)).expect("a request");
    let response: Response<Body> = client.send(request).await.expect("an answer");
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a whole answer").to_bytes();
    (status, body.to_vec())
}
