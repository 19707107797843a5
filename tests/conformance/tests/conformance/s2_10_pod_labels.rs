//! §2.10: a node's label follows the readiness of the plugin's pod.

use std::sync::atomic::Ordering;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use tenon_test_api::cluster::Cluster;

use super::plugins::{Kubelets, add_node, is_ordered_anew, labels_come, pods, pods_come};

const READY: &str = "kmm.node.kubernetes.io/hall.gauge.ready";
const PLUGIN_READY: &str = "kmm.node.kubernetes.io/hall.gauge.device-plugin-ready";

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_label_says_whether_the_plugins_pod_is_ready() {
    let mut cluster = Cluster::start().await;
    let kubelets = Kubelets::start(cluster.client.clone());
    cluster.push_driver("gauge:v1", "one");
    add_node(&cluster, "pine").await;
    // Whoever bears the labels and is no DaemonSet's counts for nothing.
    let impostor: Pod = serde_json::from_value(json!({
        "metadata": {"name": "impostor", "labels": {
            "kmm.node.kubernetes.io/module.name": "gauge", "kmm.node.kubernetes.io/role": "device-plugin"
        }},
        "spec": {"nodeName": "pine", "containers": [{"name": "c", "image": "c.test/c:1"}]}
    }))
    .expect("a pod");
    pods(&cluster).create(&PostParams::default(), &impostor).await.expect("a pod");
    kubelets.ready.store(false, Ordering::SeqCst);
    let plugin = json!({"spec": {"devicePlugin": {"container": {"image": "plugin.test/p:1"}}}});
    cluster.apply_module("gauge", "gauge:v1", plugin).await;
    is_ordered_anew(&cluster, "pine", None).await;
    let plugins = |pods: &[Pod]| pods.iter().filter(|pod| pod.name_any() != "impostor").count();
    let found = pods_come(&cluster, "the plugin's pod is there", |pods| plugins(pods) == 1).await;
    labels_come(&cluster, "pine", &[(READY, "")], &[PLUGIN_READY]).await;
    kubelets.ready.store(true, Ordering::SeqCst);
    labels_come(&cluster, "pine", &[(PLUGIN_READY, "")], &[]).await;
    kubelets.ready.store(false, Ordering::SeqCst);
    labels_come(&cluster, "pine", &[(READY, "")], &[PLUGIN_READY]).await;
    kubelets.ready.store(true, Ordering::SeqCst);
    labels_come(&cluster, "pine", &[(PLUGIN_READY, "")], &[]).await;
    // One that is being deleted is not ready, whatever it says.
    kubelets.ends.store(false, Ordering::SeqCst);
    let name =
        found.iter().map(kube::ResourceExt::name_any).find(|name| name != "impostor").expect("its name");
    pods(&cluster).delete(&name, &DeleteParams::default()).await.expect("a deletion");
    labels_come(&cluster, "pine", &[(READY, "")], &[PLUGIN_READY]).await;
    kubelets.ends.store(true, Ordering::SeqCst);
    labels_come(&cluster, "pine", &[(READY, ""), (PLUGIN_READY, "")], &[]).await;
    cluster.stop_operator().await;
}
