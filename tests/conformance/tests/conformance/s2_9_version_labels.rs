//! §2.9: the version labels of an ordered upgrade, in their order; §2.15, 7: also of a Module with dots in its name.

use serde_json::{Value, json};
use tenon_test_api::cluster::{Cluster, condition};

use super::plugins::{Kubelets, add_node, is_ordered_anew, label, labels_come, names, sets_come};

const USERS: &str = "kmm.node.kubernetes.io/version-module.hall.gauge.v2.x";
const WORKER: &str = "beta.kmm.node.kubernetes.io/version-worker-pod.hall.gauge.v2.x";
const SCHEDULE: &str = "beta.kmm.node.kubernetes.io/version-schedule-pod.hall.gauge.v2.x";
const FORMER: &str = "beta.kmm.node.kubernetes.io/version-device-plugin.hall.gauge.v2.x";
const READY: &str = "kmm.node.kubernetes.io/hall.gauge.v2.x.ready";
const VERSION_READY: &str = "kmm.node.kubernetes.io/hall.gauge.v2.x.version.ready";
const PLUGIN_READY: &str = "kmm.node.kubernetes.io/hall.gauge.v2.x.device-plugin-ready";

fn wish(version: Option<&str>) -> Value {
    let mut wish = json!({"spec": {"devicePlugin": {"container": {"image": "plugin.test/p:1"}}}});
    if let Some(version) = version {
        wish["spec"]["moduleLoader"] = json!({"container": {"version": version}});
    }
    wish
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_07_a_module_with_dots_is_upgraded_in_order_and_may_begin_and_cease_to_be() {
    let mut cluster = Cluster::start().await;
    let _kubelets = Kubelets::start(cluster.client.clone());
    cluster.push_driver("gauge:v1", "one");
    cluster.push_driver("gauge:v2", "two");
    for node in ["pine", "oak"] {
        add_node(&cluster, node).await;
    }
    cluster.apply_module("gauge.v2.x", "gauge:v1", wish(None)).await;
    let mut orders = Vec::new();
    for node in ["pine", "oak"] {
        orders.push(is_ordered_anew(&cluster, node, None).await);
        labels_come(&cluster, node, &[(READY, ""), (PLUGIN_READY, "")], &[WORKER, SCHEDULE]).await;
    }
    let unordered = names(&sets_come(&cluster, 1).await);

    // It gets a version: nobody loses anything, and whoever is labelled goes over without a reload.
    cluster.apply_module("gauge.v2.x", "gauge:v1", wish(Some("1"))).await;
    let waits = |m: &tenon_api::Module| {
        let step =
            format!("kubectl label --overwrite node NODE {USERS}=1 when its turn has come (oak, pine)");
        condition(m, "Waiting")
            .is_some_and(|told| told.1 == "WaitingForVersionLabel" && told.2.ends_with(&step))
    };
    cluster.module_where("gauge.v2.x", "nodes wait for their label", waits).await;
    for node in ["pine", "oak"] {
        label(&cluster, node, USERS, Some("1")).await;
        let all = [(READY, ""), (VERSION_READY, "1"), (WORKER, "1"), (SCHEDULE, "1"), (PLUGIN_READY, "")];
        labels_come(&cluster, node, &all, &[FORMER]).await;
    }
    for (node, order) in ["pine", "oak"].iter().zip(&orders) {
        let config = cluster.configs().get(node).await.expect("the node's object");
        assert_eq!(&config.spec.order, order, "{node} has loaded nothing anew");
        assert_eq!(config.spec.modules[0].version.as_deref(), Some("1"));
    }
    let first = names(&sets_come(&cluster, 1).await);
    assert!(first.is_disjoint(&unordered), "there are never two for one node: {first:?}");

    // An upgrade, one node after the other: each version has its plugin.
    cluster.apply_module("gauge.v2.x", "gauge:v2", wish(Some("2"))).await;
    let both = names(&sets_come(&cluster, 2).await);
    assert!(first.is_subset(&both));
    label(&cluster, "pine", USERS, Some("2")).await;
    is_ordered_anew(&cluster, "pine", orders[0].as_ref()).await;
    let second = [(READY, ""), (VERSION_READY, "2"), (WORKER, "2"), (SCHEDULE, "2"), (PLUGIN_READY, "")];
    labels_come(&cluster, "pine", &second, &[]).await;
    labels_come(&cluster, "oak", &[(READY, ""), (SCHEDULE, "1"), (PLUGIN_READY, "")], &[]).await;
    label(&cluster, "oak", USERS, Some("2")).await;
    is_ordered_anew(&cluster, "oak", orders[1].as_ref()).await;
    labels_come(&cluster, "oak", &second, &[]).await;
    let last = names(&sets_come(&cluster, 1).await);
    assert!(last.is_disjoint(&first), "the former version's goes with its last node: {last:?}");

    // Without its label a node has neither driver nor plugin.
    let before = cluster.configs().get("oak").await.expect("the node's object").spec.order;
    label(&cluster, "oak", USERS, None).await;
    is_ordered_anew(&cluster, "oak", before.as_ref()).await;
    labels_come(&cluster, "oak", &[], &[READY, WORKER, SCHEDULE, PLUGIN_READY]).await;

    // It loses its version: those that have the driver keep it, the others get it.
    let kept = cluster.configs().get("pine").await.expect("the node's object").spec.order;
    let before = cluster.configs().get("oak").await.expect("the node's object").spec.order;
    cluster.apply_module("gauge.v2.x", "gauge:v2", wish(None)).await;
    is_ordered_anew(&cluster, "oak", before.as_ref()).await;
    for node in ["pine", "oak"] {
        labels_come(&cluster, node, &[(READY, ""), (PLUGIN_READY, "")], &[WORKER, SCHEDULE, VERSION_READY])
            .await;
    }
    let config = cluster.configs().get("pine").await.expect("the node's object");
    assert_eq!(config.spec.order, kept);
    assert_eq!(names(&sets_come(&cluster, 1).await), unordered);
    cluster.stop_operator().await;
}
