//! §2.15: where KMM goes wrong, and what is right. Others of its defects are tested where the thing itself is, under names of
//! the same form.

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::node_modules_config::ModulePhase;
use tenon_api::{Module, NodeModulesConfig};
use tenon_order::Wish;
use tenon_test_api::cluster::{Cluster, READY_LABEL, condition, order};

fn names(config: &NodeModulesConfig, namespace: &str, name: &str) -> bool {
    config.spec.modules.iter().any(|entry| entry.namespace == namespace && entry.name == name)
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_01_a_module_without_a_loader_any_more_is_unloaded() {
    let mut cluster = Cluster::start().await;
    cluster.push_driver("gauge:v1", "one");
    cluster.add_node("pine").await;
    cluster
        .apply_module(
            "gauge",
            "gauge:v1",
            json!({"spec": {"devicePlugin": {"container": {"image": "r/p:1"}}}}),
        )
        .await;
    cluster.config_where("pine", "it is assigned", |config| names(config, "hall", "gauge")).await;
    cluster.obey("pine", ModulePhase::Loaded).await;
    cluster.node_where("pine", "it is ready", |node| node.labels().contains_key(READY_LABEL)).await;

    let without = json!({"spec": {"moduleLoader": null}});
    cluster
        .modules()
        .patch("gauge", &PatchParams::default(), &Patch::Merge(without))
        .await
        .expect("a change");
    let removes = |config: &NodeModulesConfig| {
        order(config).is_some_and(|order| order.modules.iter().any(|module| module.wish == Wish::Removed))
    };
    let config = cluster.config_where("pine", "its removal is ordered", removes).await;
    assert!(!names(&config, "hall", "gauge"));
    let node = cluster.nodes().get("pine").await.expect("the node");
    assert!(!node.labels().contains_key(READY_LABEL), "the label goes first");
    cluster.obey("pine", ModulePhase::Loaded).await;
    // What is left of it is its plugin.
    let module = cluster.module_where("gauge", "it has nothing to load", |module| {
        condition(module, "Ready").is_some_and(|(_, reason, _)| reason.starts_with("Plugin"))
    });
    assert_eq!(module.await.status.expect("a status").module_loader, None, "and no numbers");
    cluster.stop_operator().await;
}

/// Modules of one name in two namespaces; nodes and Modules whose names run into each other; one Module that may not come to
/// the node.
#[tokio::test(flavor = "multi_thread")]
async fn defect_05_06_08_21_modules_are_told_apart_and_hold_each_other_up_in_nothing() {
    let mut cluster = Cluster::start().await;
    cluster.push_driver("gauge:v1", "one");
    for node in ["a", "a-b"] {
        cluster.add_node(node).await;
    }
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let attic: Namespace =
        serde_json::from_value(json!({"metadata": {"name": "attic"}})).expect("a namespace");
    namespaces.create(&PostParams::default(), &attic).await.expect("a namespace");
    for name in ["c", "b-c", "gauge"] {
        cluster.apply_module(name, "gauge:v1", Value::Null).await;
    }
    let tolerant = cluster.modules().get("gauge").await.expect("the Module").spec.tolerations;
    let elsewhere: Api<Module> = Api::namespaced(cluster.client.clone(), "attic");
    let mut twin = cluster.modules().get("gauge").await.expect("the Module");
    twin.metadata = kube::api::ObjectMeta { name: Some("gauge".to_owned()), ..Default::default() };
    twin.status = None;
    elsewhere.create(&PostParams::default(), &twin).await.expect("its twin");
    let all = |config: &NodeModulesConfig| {
        let modules = [("hall", "c"), ("hall", "b-c"), ("hall", "gauge"), ("attic", "gauge")];
        modules.iter().all(|(namespace, name)| names(config, namespace, name))
    };
    for node in ["a", "a-b"] {
        cluster.config_where(node, "all are assigned", all).await;
        cluster.obey(node, ModulePhase::Loaded).await;
    }
    let ready = |namespace: &str, name: &str| format!("kmm.node.kubernetes.io/{namespace}.{name}.ready");
    let labels = [ready("hall", "c"), ready("hall", "b-c"), ready("hall", "gauge"), ready("attic", "gauge")];
    for node in ["a", "a-b"] {
        let has_all = |node: &k8s_openapi::api::core::v1::Node| {
            labels.iter().all(|label| node.labels().contains_key(label))
        };
        cluster.node_where(node, "all are ready", has_all).await;
    }

    // One of them may not come any more, and one goes: the others' labels and objects are looked after all the same.
    cluster.plane.kubectl(&["taint", "node", "a", "acme.test/a=:NoSchedule"]).await.expect("a taint");
    let intolerant = json!({"spec": {"tolerations": [{"key": "acme.test/b", "operator": "Exists"}]}});
    cluster.modules().patch("c", &PatchParams::default(), &Patch::Merge(intolerant)).await.expect("a change");
    cluster.delete_module("gauge").await;
    let gone = |config: &NodeModulesConfig| !names(config, "hall", "gauge");
    let config = cluster.config_where("a", "one is taken away", gone).await;
    assert!(names(&config, "attic", "gauge") && names(&config, "hall", "b-c"), "{:?}", config.spec);
    assert!(names(&config, "hall", "c"), "what is loaded stays under a taint");
    cluster.obey("a", ModulePhase::Loaded).await;
    let label_of = |namespace: &str| format!("beta.kmm.node.kubernetes.io/{namespace}.gauge.module-in-use");
    let config = cluster
        .config_where("a", "its label goes", |config| !config.labels().contains_key(&label_of("hall")))
        .await;
    assert!(config.labels().contains_key(&label_of("attic")), "{:?}", config.labels());
    let node = cluster.nodes().get("a").await.expect("the node");
    assert!(
        node.labels().contains_key(&ready("attic", "gauge"))
            && !node.labels().contains_key(&ready("hall", "gauge"))
    );
    assert_eq!(
        elsewhere.get("gauge").await.expect("the twin").spec.tolerations,
        tolerant,
        "nobody else's are mixed in"
    );
    cluster.stop_operator().await;
}
