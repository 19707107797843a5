//! Who may write a `NodeModulesConfig`: an agent the status of its own node's, the operator the specs, nobody else.

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tenon_api::NodeModulesConfig;
use tenon_api::kernel_facts::LABEL;
use tenon_api::node_pod::{NAMESPACE, SERVICE_ACCOUNT};
use tenon_lab::control_plane::{Binding, Credential};
use tenon_lab::{ControlPlane, wait};

use tenon_test_api::setup::{HEED, apply, deploy, plane_with_definitions, unbound};

const OWN: &str = "node-a";
const OTHER: &str = "node-b";

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_writes_the_status_of_its_own_node_and_nothing_else() {
    let plane = guarded_plane().await;
    let agent = agent_on(&plane, OWN).await;

    report(&agent, OWN).await.expect("the status of its own node");
    let written = read(&plane, OWN).await;
    assert_eq!(written.status.and_then(|status| status.boot_id).as_deref(), Some("boot-1"));

    assert_forbidden(report(&agent, OTHER).await, "its own node only");
    assert_eq!(read(&plane, OTHER).await.status, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_cannot_write_what_it_should_do() {
    let plane = guarded_plane().await;
    let agent = agent_on(&plane, OWN).await;
    let configs: Api<NodeModulesConfig> = Api::all(agent.clone());

    let spec = json!({"spec": {"order": "forged"}});
    let patch = configs.patch(OWN, &PatchParams::default(), &Patch::Merge(&spec)).await;
    assert_forbidden(patch, "cannot patch resource");
    assert_forbidden(
        configs.create(&PostParams::default(), &config("node-c")).await,
        "cannot create resource",
    );
    assert_forbidden(configs.delete(OWN, &DeleteParams::default()).await.map(drop), "cannot delete resource");

    // What a kernel is, it may tell the depot, which asks for it; it puts no facts into the cluster itself.
    let maps: Api<ConfigMap> = Api::namespaced(agent.clone(), NAMESPACE);
    let mut facts = ConfigMap::default();
    facts.metadata.name = Some("kernel-facts-forged".to_owned());
    facts.metadata.labels = Some([(LABEL.to_owned(), "true".to_owned())].into());
    assert_forbidden(maps.create(&PostParams::default(), &facts).await, "cannot create resource");

    // Through the status it reaches the status alone.
    let both = json!({"spec": {"order": "forged"}, "status": {"bootId": "boot-2"}});
    let written = configs.patch_status(OWN, &PatchParams::default(), &Patch::Merge(&both)).await;
    assert_eq!(written.expect("the status of its own node").spec.order, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn even_with_every_right_an_agent_is_held_to_its_status() {
    let plane = guarded_plane().await;
    // What a careless administrator might grant.
    let binding = ["create", "clusterrolebinding", "careless", "--clusterrole=cluster-admin"];
    let subject = format!("--serviceaccount={NAMESPACE}:{SERVICE_ACCOUNT}");
    plane.kubectl(&[&binding[..], &[subject.as_str()]].concat()).await.expect("a binding");
    let agent = agent_on(&plane, OWN).await;
    let configs: Api<NodeModulesConfig> = Api::all(agent.clone());

    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let patch = configs.patch(OWN, &PatchParams::default(), &Patch::Merge(&label)).await;
    assert_forbidden(patch, "nothing but the status");
    assert_forbidden(
        configs.delete(OTHER, &DeleteParams::default()).await.map(drop),
        "nothing but the status",
    );
    assert_forbidden(report(&agent, OTHER).await, "its own node only");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_names_no_node_writes_nothing() {
    let plane = guarded_plane().await;
    let agent = unbound(&plane, SERVICE_ACCOUNT).await;
    assert_forbidden(report(&agent, OWN).await, "this token names no node");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_operator_writes_specs() {
    let plane = guarded_plane().await;
    let operator = account(&plane, "tenon-operator").await;
    let applied = json!({
        "apiVersion": "kmm.sigs.x-k8s.io/v1beta1",
        "kind": "NodeModulesConfig",
        "metadata": {"name": OWN},
        "spec": {"order": "signed"},
    });
    let params = PatchParams::apply("tenon-nodes").force();
    let configs: Api<NodeModulesConfig> = Api::all(operator);
    let written =
        configs.patch(OWN, &params, &Patch::Apply(&applied)).await.expect("the operator writes specs");
    assert_eq!(written.spec.order.as_deref(), Some("signed"));

    // The administrator, who is allowed everything else.
    let configs: Api<NodeModulesConfig> = Api::all(plane.client());
    let spec = json!({"spec": {"order": "forged"}});
    let patch = configs.patch(OWN, &PatchParams::default(), &Patch::Merge(&spec)).await;
    assert_forbidden(patch, "only Tenon's operator");
    let removal = json!({"spec": {"order": null}});
    let patch = configs.patch(OWN, &PatchParams::default(), &Patch::Merge(&removal)).await;
    assert_forbidden(patch, "only Tenon's operator");
    assert_forbidden(
        configs.create(&PostParams::default(), &config("node-c")).await,
        "only Tenon's operator",
    );

    // What the garbage collector and tools do.
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    configs.patch(OWN, &PatchParams::default(), &Patch::Merge(&label)).await.expect("metadata");
    configs.delete(OWN, &DeleteParams::default()).await.expect("deletion");
}

/// An API server with two nodes, their objects, the accounts, their roles, and the policies in force.
async fn guarded_plane() -> ControlPlane {
    let plane = plane_with_definitions().await;
    for file in ["namespace.yaml", "rbac/agent.yaml", "rbac/operator.yaml"] {
        apply(&plane, &deploy(file)).await;
    }
    let nodes: Api<Node> = Api::all(plane.client());
    let configs: Api<NodeModulesConfig> = Api::all(plane.client());
    for name in [OWN, OTHER] {
        let node: Node = from(json!({"metadata": {"name": name}}));
        nodes.create(&PostParams::default(), &node).await.expect("a node");
        configs.create(&PostParams::default(), &config(name)).await.expect("its object, before the policies");
    }
    apply(&plane, &deploy("rbac/admission.yaml")).await;
    wait_for_policies(&plane).await;
    plane
}

/// A policy is heeded some time after it was created, and each on its own.
async fn wait_for_policies(plane: &ControlPlane) {
    let unbound = unbound(plane, SERVICE_ACCOUNT).await;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let configs: Api<NodeModulesConfig> = Api::all(plane.client());
    let heeded = wait::until("the admission policies are heeded", HEED, async || {
        let params = PatchParams { dry_run: true, ..PatchParams::default() };
        let statuses: Api<NodeModulesConfig> = Api::all(unbound.clone());
        let status = json!({"status": {"bootId": "boot-0"}});
        statuses.patch_status(OWN, &params, &Patch::Merge(&status)).await.is_err().then_some(())?;
        configs.create(&dry, &config("node-c")).await.is_err().then_some(())
    });
    heeded.await.expect("policies in force");
}

/// A client with the token that the kubelet gives to the agent's pod on a node.
async fn agent_on(plane: &ControlPlane, node: &str) -> Client {
    bound(plane, SERVICE_ACCOUNT, node).await
}

async fn account(plane: &ControlPlane, name: &str) -> Client {
    bound(plane, name, OTHER).await
}

async fn bound(plane: &ControlPlane, account: &str, node: &str) -> Client {
    let pods: Api<Pod> = Api::namespaced(plane.client(), NAMESPACE);
    let pod: Pod = from(json!({
        "metadata": {"name": format!("{account}-{node}")},
        "spec": {
            "nodeName": node,
            "serviceAccountName": account,
            "automountServiceAccountToken": false,
            "containers": [{"name": "only", "image": "registry.example/none:1"}],
        },
    }));
    let pod = pods.create(&PostParams::default(), &pod).await.expect("a pod on the node");
    let binding = Binding::Pod { name: pod.name_any(), uid: pod.uid().expect("a uid") };
    let token = plane.token(NAMESPACE, account, None, &binding).await.expect("a token");
    plane.client_as(&Credential::Token(token)).await.expect("a client")
}

/// Reports as the agent does: applies the status under its field manager.
async fn report(agent: &Client, node: &str) -> Result<NodeModulesConfig, kube::Error> {
    let configs: Api<NodeModulesConfig> = Api::all(agent.clone());
    let status = json!({
        "apiVersion": "kmm.sigs.x-k8s.io/v1beta1",
        "kind": "NodeModulesConfig",
        "metadata": {"name": node},
        "status": {"bootId": "boot-1", "keyIds": ["0123456789abcdef"]},
    });
    configs.patch_status(node, &PatchParams::apply("tenon-agent").force(), &Patch::Apply(&status)).await
}

async fn read(plane: &ControlPlane, name: &str) -> NodeModulesConfig {
    Api::<NodeModulesConfig>::all(plane.client()).get(name).await.expect("the object")
}

fn config(name: &str) -> NodeModulesConfig {
    from(json!({
        "apiVersion": "kmm.sigs.x-k8s.io/v1beta1",
        "kind": "NodeModulesConfig",
        "metadata": {"name": name},
        "spec": {},
    }))
}

fn from<T: serde::de::DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).expect("an object")
}

fn assert_forbidden<T: std::fmt::Debug>(answer: Result<T, kube::Error>, words: &str) {
    match answer {
        Err(kube::Error::Api(status)) if status.is_forbidden() && status.message.contains(words) => {}
        other => panic!("wanted a refusal that says {words:?}, got {other:#?}"),
    }
}
