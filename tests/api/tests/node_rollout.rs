//! A new version of the node's pod reaches a cluster as the shipped DaemonSet allows: a tenth of the nodes at a time.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tenon_api::node_pod::NAMESPACE;
use tenon_lab::control_plane::Extent;
use tenon_lab::{ControlPlane, wait};
use tokio::sync::watch;

const NODES: usize = 30;
const TENTH: usize = 3;
const SOON: Duration = Duration::from_mins(3);

/// What was seen of the nodes' pods.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// By node: the image of the agent that is ready there.
    ready: BTreeMap<String, String>,
    /// The fewest nodes that had a ready pod at a time, since all had one for the first time.
    fewest: Option<usize>,
}

fn deployed(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name)).unwrap()
}

async fn add_node(client: Client, name: &str) {
    let nodes: Api<Node> = Api::all(client);
    let labels = json!({ "kubernetes.io/os": "linux", "kubernetes.io/hostname": name });
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": labels } });
    nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    let room = json!({ "cpu": "4", "memory": "4Gi", "pods": "110" });
    let status = json!({ "status": {
        "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "" }],
        "capacity": room, "allocatable": room,
    }});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready =
        conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// Plays every node's kubelet: what is bound becomes ready, what is to go goes. Tells what is ready where after each change.
async fn play(client: Client, told: watch::Sender<Seen>) {
    let pods: Api<Pod> = Api::namespaced(client, NAMESPACE);
    let mut changes = watcher(pods.clone(), watcher::Config::default()).default_backoff().boxed();
    let mut known: BTreeMap<String, Pod> = BTreeMap::new();
    while let Some(event) = changes.next().await {
        let pod = match event {
            Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => pod,
            Ok(watcher::Event::Delete(pod)) => {
                known.remove(&pod.name_any());
                told.send_modify(|seen| seen.look(&known));
                continue;
            }
            _ => continue,
        };
        let name = pod.name_any();
        if pod.metadata.deletion_timestamp.is_some() {
            // It may be gone already.
            let _ = pods.delete(&name, &DeleteParams::default().grace_period(0)).await;
        } else if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) && !is_ready(&pod) {
            let status = json!({ "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } });
            let _ = pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await;
        }
        known.insert(name, pod);
        told.send_modify(|seen| seen.look(&known));
    }
}

impl Seen {
    fn look(&mut self, pods: &BTreeMap<String, Pod>) {
        let ready = pods.values().filter(|pod| is_ready(pod)).filter_map(|pod| pod.spec.as_ref());
        let agents = ready.filter_map(|spec| {
            let agent = spec.containers.iter().find(|container| container.name == "agent")?;
            Some((spec.node_name.clone()?, agent.image.clone()?))
        });
        self.ready = agents.collect();
        let now = self.ready.len();
        self.fewest = self.fewest.map_or((now == NODES).then_some(NODES), |fewest| Some(fewest.min(now)));
    }

    fn all_run(&self, tag: &str) -> bool {
        self.ready.len() == NODES && self.ready.values().all(|image| image.ends_with(&format!(":{tag}")))
    }
}

async fn until_all_run(told: &mut watch::Receiver<Seen>, tag: &str) -> Seen {
    let all = tokio::time::timeout(SOON, told.wait_for(|seen| seen.all_run(tag))).await;
    all.expect("the version is on every node in time").unwrap().clone()
}

#[tokio::test]
async fn a_new_version_of_the_node_pod_is_away_from_a_tenth_of_the_nodes_at_most() {
    let plane = ControlPlane::start_extent(Extent::Full).await.unwrap();
    let client = plane.client();
    for file in ["namespace.yaml", "rbac/agent.yaml"] {
        plane.apply(&deployed(file)).await.unwrap();
    }
    for number in 0..NODES {
        add_node(client.clone(), &format!("loom-{number}")).await;
    }
    let nodes: Api<Node> = Api::all(client.clone());
    wait::until("the nodes", SOON, async || {
        let nodes = nodes.list(&ListParams::default()).await.ok()?;
        // The controllers take the taint of a node that has not reported away a moment later.
        let free = |node: &&Node| node.spec.as_ref().is_none_or(|spec| spec.taints.is_none());
        (nodes.iter().filter(free).count() == NODES).then_some(())
    })
    .await
    .unwrap();
    let (sender, mut told) = watch::channel(Seen::default());
    let kubelets = tokio::spawn(play(client, sender));
    let manifest = deployed("node.yaml");
    let tag = env!("CARGO_PKG_VERSION");
    plane.apply(&manifest).await.unwrap();
    until_all_run(&mut told, tag).await;

    plane.apply(&manifest.replace(&format!(":{tag}\n"), ":next\n")).await.unwrap();
    let fewest = until_all_run(&mut told, "next").await.fewest.unwrap();
    assert!((NODES - TENTH..NODES).contains(&fewest), "of {NODES} nodes only {fewest} had their pod");
    kubelets.abort();
}
