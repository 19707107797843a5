//! §10: what KMM's users report, where it is about behaviour; by the numbers of their reports. Those about namespaces that are
//! stuck (k#708, k#719) are in `s1_8_admission.rs`; that a cordon unloads (k#1271) is KMM's fourth defect.

use kube::ResourceExt as _;
use serde_json::{Value, json};
use tenon_api::node_modules_config::ModulePhase;
use tenon_api::{Module, NodeModulesConfig};
use tenon_test_api::cluster::{Cluster, READY_LABEL, condition};

fn is_ready(module: &Module) -> bool {
    condition(module, "Ready").is_some_and(|(status, ..)| status == "True")
}

/// Names of 41 characters with their namespaces and no more; labels of Kubernetes have 63.
#[tokio::test(flavor = "multi_thread")]
async fn k444_k607_k1306_names_are_as_long_as_kubernetes_allows() {
    let mut cluster = Cluster::start().await;
    cluster.push_driver("gauge:v1", "one");
    let node = format!("{}.example", "n".repeat(60));
    cluster.add_node(&node).await;
    let long = format!("{}.{}", "gauge".repeat(12), "x".repeat(150));
    let names = [long.clone(), format!("{long}y"), "driver.v2.example".to_owned()];
    for name in &names {
        cluster.apply_module(name, "gauge:v1", Value::Null).await;
    }
    let all = |config: &NodeModulesConfig| config.spec.modules.len() == names.len();
    cluster.config_where(&node, "all are assigned", all).await;
    cluster.obey(&node, ModulePhase::Loaded).await;
    for name in &names {
        cluster.module_where(name, "it is ready", is_ready).await;
    }
    let labelled = cluster.node_where(&node, "each has a label of its own", |node| {
        node.labels().keys().filter(|key| key.starts_with("kmm.node.kubernetes.io/hall.")).count()
            == names.len()
    });
    let labelled = labelled.await;
    assert!(labelled.labels().contains_key("kmm.node.kubernetes.io/hall.driver.v2.example.ready"));
    for name in &names {
        cluster.delete_module(name).await;
    }
    cluster.config_where(&node, "all are taken away", |config| config.spec.modules.is_empty()).await;
    cluster.obey(&node, ModulePhase::Loaded).await;
    tenon_lab::wait::until("nothing is left", tenon_test_api::cluster::SOON, async || {
        cluster.leftovers().await.is_empty().then_some(())
    })
    .await
    .expect("nothing is left");
    cluster.stop_operator().await;
}

/// A node that comes back from a boot: what it said before counts no more, and the driver comes back without anybody's doing.
#[tokio::test(flavor = "multi_thread")]
async fn k494_k911_k913_k945_k1083_after_a_boot_a_node_is_ready_when_it_says_so_again() {
    let mut cluster = Cluster::start().await;
    cluster.push_driver("gauge:v1", "one");
    cluster.add_node("pine").await;
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    let config =
        cluster.config_where("pine", "it is assigned", |config| !config.spec.modules.is_empty()).await;
    cluster.obey("pine", ModulePhase::Loaded).await;
    cluster.node_where("pine", "it is ready", |node| node.labels().contains_key(READY_LABEL)).await;

    let booted = json!({"status": {"nodeInfo": {"bootID": "another-boot"}}});
    let params = kube::api::PatchParams::default();
    cluster.nodes().patch_status("pine", &params, &kube::api::Patch::Merge(booted)).await.expect("a boot");
    cluster
        .node_where("pine", "nothing is known of it", |node| !node.labels().contains_key(READY_LABEL))
        .await;
    let after = cluster.configs().get("pine").await.expect("its object");
    assert_eq!(after.spec.order, config.spec.order, "its loader has its order already");
    let reported = |status: &mut tenon_api::node_modules_config::NodeModulesConfigStatus| {
        status.boot_id = Some("another-boot".to_owned());
        for module in &mut status.modules {
            module.boot_id = Some("another-boot".to_owned());
        }
    };
    cluster.report("pine", reported).await;
    cluster.node_where("pine", "it is ready again", |node| node.labels().contains_key(READY_LABEL)).await;
    cluster.stop_operator().await;
}

/// A node's label goes and comes back, while another Module stays.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_has_follows_its_labels_and_touches_no_other_module() {
    let mut cluster = Cluster::start().await;
    cluster.push_driver("gauge:v1", "one");
    cluster.add_node("pine").await;
    cluster.plane.kubectl(&["label", "node", "pine", "role=a"]).await.expect("a label");
    cluster.apply_module("gauge", "gauge:v1", json!({"spec": {"selector": {"role": "a"}}})).await;
    cluster.apply_module("anvil", "gauge:v1", Value::Null).await;
    let has =
        |config: &NodeModulesConfig, name: &str| config.spec.modules.iter().any(|entry| entry.name == name);
    cluster
        .config_where("pine", "both are assigned", |config| has(config, "gauge") && has(config, "anvil"))
        .await;
    cluster.obey("pine", ModulePhase::Loaded).await;
    cluster.node_where("pine", "it is ready", |node| node.labels().contains_key(READY_LABEL)).await;

    cluster.plane.kubectl(&["label", "node", "pine", "role-"]).await.expect("no label");
    let config = cluster.config_where("pine", "one goes", |config| !has(config, "gauge")).await;
    assert!(has(&config, "anvil"));
    cluster.obey("pine", ModulePhase::Loaded).await;
    cluster.plane.kubectl(&["label", "node", "pine", "role=a"]).await.expect("a label");
    cluster.config_where("pine", "it comes back", |config| has(config, "gauge")).await;
    cluster.obey("pine", ModulePhase::Loaded).await;
    cluster.module_where("gauge", "it is ready", is_ready).await;
    cluster.stop_operator().await;
}
