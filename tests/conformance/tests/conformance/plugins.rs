//! What the tests of plugins have in common: a cluster whose `DaemonSet`s get their pods from the real controller and their places from
//! the real scheduler, and a kubelet that is played.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::node_modules_config::ModulePhase;
use tenon_lab::wait;
use tenon_test_api::cluster::{Cluster, SOON, order};
use tokio::task::JoinSet;

pub(crate) const NAMESPACE: &str = "hall";
/// How often the played kubelets look.
const LOOK: Duration = Duration::from_millis(200);

/// Pods of plugins, run in writing only.
pub(crate) struct Kubelets {
    /// Whether pods are ready.
    pub(crate) ready: Arc<AtomicBool>,
    /// Whether pods end when they should.
    pub(crate) ends: Arc<AtomicBool>,
    _task: JoinSet<()>,
}

impl Kubelets {
    pub(crate) fn start(client: Client) -> Self {
        let (ready, ends) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
        let mut task = JoinSet::new();
        let flags = (ready.clone(), ends.clone());
        task.spawn(async move {
            let pods: Api<Pod> = Api::namespaced(client, NAMESPACE);
            loop {
                // What goes wrong is tried again in the next turn; a test that waits for it says what is missing.
                if let Ok(list) = pods.list(&ListParams::default()).await {
                    for pod in list {
                        run(&pods, &pod, flags.0.load(Ordering::SeqCst), flags.1.load(Ordering::SeqCst))
                            .await;
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Self { ready, ends, _task: task }
    }
}

async fn run(pods: &Api<Pod>, pod: &Pod, is_ready: bool, may_end: bool) {
    let name = pod.name_any();
    if pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).is_none() {
        return;
    }
    if pod.metadata.deletion_timestamp.is_some() {
        if may_end {
            let _ = pods.delete(&name, &DeleteParams::default().grace_period(0)).await;
        }
        return;
    }
    let status = if is_ready { "True" } else { "False" };
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    if conditions.into_iter().any(|told| told.type_ == "Ready" && told.status == status) {
        return;
    }
    let patch = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]}});
    let _ = pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await;
}

/// A node that takes pods, beside what [`Cluster::add_node`] makes.
pub(crate) async fn add_node(cluster: &Cluster, name: &str) {
    cluster.add_node(name).await;
    let room = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
    let patch = Patch::Merge(json!({"status": {"capacity": room, "allocatable": room}}));
    cluster.nodes().patch_status(name, &PatchParams::default(), &patch).await.expect("a node's room");
}

/// Sets a label of a node, or takes it away.
pub(crate) async fn label(cluster: &Cluster, node: &str, key: &str, value: Option<&str>) {
    let patch = Patch::Merge(json!({"metadata": {"labels": {key: value}}}));
    cluster.nodes().patch(node, &PatchParams::default(), &patch).await.expect("a label");
}

/// Waits until the node has these labels, and has not those.
pub(crate) async fn labels_come(cluster: &Cluster, node: &str, has: &[(&str, &str)], lacks: &[&str]) -> Node {
    let what = format!("{node} has {has:?} and lacks {lacks:?}");
    let holds = |node: &Node| {
        has.iter().all(|(key, value)| node.labels().get(*key).is_some_and(|known| known == value))
            && lacks.iter().all(|key| !node.labels().contains_key(*key))
    };
    cluster.node_where(node, &what, holds).await
}

/// Waits until the node is ordered something else than `before`, and does so. Returns the order's text.
pub(crate) async fn is_ordered_anew(
    cluster: &Cluster,
    node: &str,
    before: Option<&String>,
) -> Option<String> {
    let is_new = |order: Option<&String>| order.is_some() && order != before;
    let config = cluster.config_where(node, "a new order", |c| is_new(c.spec.order.as_ref())).await;
    assert!(order(&config).is_some(), "an order that can be read");
    cluster.obey(node, ModulePhase::Loaded).await;
    config.spec.order
}

pub(crate) fn daemon_sets(cluster: &Cluster) -> Api<DaemonSet> {
    Api::namespaced(cluster.client.clone(), NAMESPACE)
}

pub(crate) fn pods(cluster: &Cluster) -> Api<Pod> {
    Api::namespaced(cluster.client.clone(), NAMESPACE)
}

/// Waits until the namespace has as many `DaemonSet`s, and returns them.
pub(crate) async fn sets_come(cluster: &Cluster, count: usize) -> Vec<DaemonSet> {
    wait::until(format!("{count} DaemonSets"), SOON, async || {
        let list = daemon_sets(cluster).list(&ListParams::default()).await.ok()?.items;
        (list.len() == count).then_some(list)
    })
    .await
    .unwrap_or_else(|late| panic!("{late}"))
}

/// Waits until the pods are like this, and returns them.
pub(crate) async fn pods_come(cluster: &Cluster, what: &str, holds: impl Fn(&[Pod]) -> bool) -> Vec<Pod> {
    wait::until(what.to_owned(), SOON, async || {
        let list = pods(cluster).list(&ListParams::default()).await.ok()?.items;
        holds(&list).then_some(list)
    })
    .await
    .unwrap_or_else(|late| panic!("{late}"))
}

/// Whether a pod's kubelet says that it is ready.
pub(crate) fn says_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|told| told.type_ == "Ready" && told.status == "True")
}

/// The pod's template of a `DaemonSet`.
pub(crate) fn template(set: &DaemonSet) -> Value {
    serde_json::to_value(set.spec.as_ref().expect("a spec").template.clone()).expect("a template as JSON")
}

/// The names of `DaemonSet`s.
pub(crate) fn names(sets: &[DaemonSet]) -> BTreeSet<String> {
    sets.iter().map(kube::ResourceExt::name_any).collect()
}
