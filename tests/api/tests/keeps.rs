//! What never takes a driver from a node, against a real API server: whatever looks absent, is lost, or comes from the past.
#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::NodeModulesConfig;
use tenon_api::node_modules_config::{ModulePhase, NodeModulesConfigStatus};
use tenon_lab::wait;
use tenon_order::{Order, Wish};
use tenon_test_api::cluster::{Cluster, READY_LABEL, SOON, condition, order};

fn removes(order: &Order) -> bool {
    order.modules.iter().any(|module| module.wish == Wish::Removed)
}

fn names(config: &NodeModulesConfig, name: &str) -> bool {
    config.spec.modules.iter().any(|entry| entry.name == name)
}

async fn loaded(cluster: &Cluster, module: &str, nodes: &[&str]) {
    for node in nodes {
        cluster.config_where(node, "the driver is assigned", |config| names(config, module)).await;
        cluster.obey(node, ModulePhase::Loaded).await;
        let label = format!("kmm.node.kubernetes.io/hall.{module}.ready");
        cluster.node_where(node, "the ready label", |node| node.labels().contains_key(&label)).await;
    }
}

/// Another Module comes to the node: whatever happened before it has been looked at.
async fn looked_at(cluster: &Cluster, node: &str, witness: &str) {
    cluster.apply_module(witness, "gauge:v1", Value::Null).await;
    let config = cluster.config_where(node, "another Module comes", |config| names(config, witness)).await;
    assert!(names(&config, "gauge"), "it is still wished: {:#?}", config.spec.modules);
    assert!(!removes(&order(&config).expect("an order")), "nothing is ordered away");
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_04_a_cordon_a_taint_a_silent_api_server_and_a_lost_discovery_label_unload_nothing() {
    const FOUND: &str = "feature.node.kubernetes.io/pci-10de.present";
    let mut cluster = Cluster::start().await;
    cluster.push_driver("gauge:v1", "one");
    cluster.add_node("pine").await;
    let label = |value: &str| format!("{FOUND}{value}");
    cluster.plane.kubectl(&["label", "node", "pine", &label("=true")]).await.expect("a label");
    let wanted = json!({"spec": {"selector": {FOUND: "true"}, "tolerations": []}});
    cluster.apply_module("gauge", "gauge:v1", wanted).await;
    loaded(&cluster, "gauge", &["pine"]).await;

    cluster.plane.kubectl(&["cordon", "pine"]).await.expect("a cordon");
    looked_at(&cluster, "pine", "after-cordon").await;
    cluster.plane.kubectl(&["taint", "node", "pine", "acme.test/broken=:NoExecute"]).await.expect("a taint");
    looked_at(&cluster, "pine", "after-taint").await;
    cluster.plane.restart_apiserver().await.expect("an API server");
    looked_at(&cluster, "pine", "after-silence").await;
    cluster.plane.kubectl(&["label", "node", "pine", &label("-")]).await.expect("no label");
    looked_at(&cluster, "pine", "after-loss").await;
    let node = cluster.nodes().get("pine").await.expect("the node");
    assert!(node.labels().contains_key(READY_LABEL), "it was ready all the time");
    cluster.stop_operator().await;
}

/// Who signed the orders.
async fn keys(cluster: &Cluster) -> Vec<String> {
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "tenon-system");
    let map = maps.get_opt("tenon-order-keys").await.ok().flatten().and_then(|map| map.data);
    map.unwrap_or_default().into_keys().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_order_key_is_made_anew_and_every_order_signed_again_with_equal_content() {
    let mut cluster = Cluster::start().await;
    cluster.push_driver("gauge:v1", "one");
    cluster.add_node("oak").await;
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    loaded(&cluster, "gauge", &["oak"]).await;
    let before = cluster.configs().get("oak").await.expect("the node's object");
    let known = keys(&cluster).await;
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), "tenon-system");
    secrets.delete("tenon-order-key", &DeleteParams::default()).await.expect("a loss");
    wait::until("another key is published", SOON * 2, async || {
        let now = keys(&cluster).await;
        (!now.is_empty() && now != known).then_some(())
    })
    .await
    .expect("a key");
    let after = cluster
        .config_where("oak", "the order is signed anew", |config| config.spec.order != before.spec.order)
        .await;
    let (old, new) = (order(&before).expect("an order"), order(&after).expect("an order"));
    assert!(old.content_eq(&new) && new.generation > old.generation, "{old:?} {new:?}");
    let node = cluster.nodes().get("oak").await.expect("the node");
    assert!(node.labels().contains_key(READY_LABEL), "nothing changes on the node");
    cluster.stop_operator().await;
}

/// What a node that has seen the future says of itself when the cluster has forgotten it: the order that it holds is newer
/// than the cluster's, so nothing that it has is to be found in its object.
async fn report_from_the_future(cluster: &Cluster, node: &str, then: &NodeModulesConfigStatus) {
    cluster
        .report(node, |status| {
            status.order_generation = then.order_generation;
            status.modules.clone_from(&then.modules);
            for module in &mut status.modules {
                module.config = None;
            }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_etcd_was_restored_nothing_is_unloaded_and_the_restored_wish_comes_node_by_node() {
    let nodes = ["elm", "fir"];
    let mut cluster = Cluster::start().await;
    for image in ["gauge:v1", "gauge:v2", "late:v1"] {
        cluster.push_driver(image, image);
    }
    for node in nodes {
        cluster.add_node(node).await;
    }
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    loaded(&cluster, "gauge", &nodes).await;
    let kept = tempfile::tempdir().expect("a folder");
    cluster.stop_operator().await;
    cluster.plane.back_up(&kept.path().join("etcd")).await.expect("a backup");

    cluster.start_operator().await;
    cluster.apply_module("gauge", "gauge:v2", json!({"spec": {"rollout": {"maxUnavailable": 2}}})).await;
    for node in nodes {
        let is_second = |config: &NodeModulesConfig| {
            config.spec.modules.iter().any(|entry| entry.config.container_image.ends_with(":v2"))
        };
        cluster.config_where(node, "the second version is assigned", is_second).await;
        cluster.obey(node, ModulePhase::Loaded).await;
    }
    cluster.apply_module("late", "late:v1", Value::Null).await;
    loaded(&cluster, "late", &nodes).await;
    let future = cluster.configs().list(&ListParams::default()).await.expect("a list").items;
    cluster.stop_operator().await;

    cluster.plane.restore(&kept.path().join("etcd")).await.expect("the past");
    let gauge = cluster.modules().get("gauge").await.expect("the Module of then");
    assert!(cluster.modules().get_opt("late").await.expect("an answer").is_none(), "nobody knows of it");
    assert!(gauge.spec.rollout.is_none());
    // The key is lost, too: the backup may be older than the nodes' keys.
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), "tenon-system");
    secrets.delete("tenon-order-key", &DeleteParams::default()).await.expect("a loss");
    for config in &future {
        let then = config.status.as_ref().expect("a report");
        report_from_the_future(&cluster, &config.name_any(), then).await;
    }
    cluster.start_operator().await;
    let mut changed = Vec::new();
    for _ in nodes {
        let (node, now) = wait::until("the next node's turn", SOON, async || {
            let list = cluster.configs().list(&ListParams::default()).await.ok()?;
            let told = |config: &&NodeModulesConfig| {
                let back = config.spec.modules.iter().any(|entry| entry.replaces.is_some());
                back && !changed.contains(&config.name_any())
            };
            let orders: Vec<_> = list.iter().filter_map(order).collect();
            assert!(!orders.iter().any(removes), "nothing is ordered away: {orders:?}");
            let told: Vec<_> = list.iter().filter(told).collect();
            assert!(told.len() <= 1, "one after the other");
            told.first().map(|config| (config.name_any(), (*config).clone()))
        })
        .await
        .expect("a node's turn");
        let order = order(&now).expect("an order");
        assert!(
            order.modules.iter().all(|module| module.key.name() == "gauge"),
            "of the rest it says nothing"
        );
        // What the order does not name stays, and is reported so.
        let late = now.status.as_ref().and_then(|s| s.modules.iter().find(|m| m.name == "late").cloned());
        cluster.obey(&node, ModulePhase::Loaded).await;
        let mut late = late.expect("it is still there");
        late.phase = Some(ModulePhase::Orphaned);
        cluster.report(&node, |status| status.modules.push(late)).await;
        changed.push(node);
    }
    let module = cluster
        .module_where("gauge", "Ready as it was then", |m| {
            condition(m, "Ready").is_some_and(|(status, ..)| status == "True")
        })
        .await;
    assert_eq!(module.status.expect("a status").rollout.expect("numbers").updated_number, 2);

    // The Module that was forgotten is created again, and takes over what is there.
    cluster.apply_module("late", "late:v1", Value::Null).await;
    wait::until("both nodes have it again", SOON, async || {
        for node in nodes {
            let config = cluster.configs().get_opt(node).await.ok()??;
            let ordered = order(&config).and_then(|order| i64::try_from(order.generation.0).ok());
            if ordered > config.status.as_ref().and_then(|status| status.order_generation) {
                cluster.obey(node, ModulePhase::Loaded).await;
            }
        }
        let late = cluster.modules().get_opt("late").await.ok()??;
        (late.status?.rollout?.updated_number == 2).then_some(())
    })
    .await
    .expect("both nodes");
    let list = cluster.configs().list(&ListParams::default()).await.expect("a list");
    assert!(list.iter().all(|config| !order(config).as_ref().is_some_and(removes)));
    cluster.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_module_waits_for_a_lost_node_by_name_until_its_node_object_is_deleted() {
    let mut cluster = Cluster::start().await;
    cluster.push_driver("gauge:v1", "one");
    for node in ["ash", "yew"] {
        cluster.add_node(node).await;
    }
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    loaded(&cluster, "gauge", &["ash", "yew"]).await;
    cluster.delete_module("gauge").await;
    cluster.config_where("ash", "the removal is ordered", |c| order(c).as_ref().is_some_and(removes)).await;
    cluster.obey("ash", ModulePhase::Loaded).await;
    let module = cluster
        .module_where("gauge", "it names who is left", |m| {
            condition(m, "Ready").is_some_and(|c| c.1 == "Unloading" && c.2.contains("yew"))
        })
        .await;
    assert!(!module.finalizers().is_empty());
    cluster.nodes().delete("yew", &DeleteParams::default()).await.expect("a deletion");
    let gone = wait::until("nothing waits any more", SOON, async || {
        cluster.modules().get_opt("gauge").await.ok()?.is_none().then_some(())
    });
    gone.await.expect("the Module goes");
    cluster.stop_operator().await;
}
