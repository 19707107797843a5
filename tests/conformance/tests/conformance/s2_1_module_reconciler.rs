//! §2.1: which nodes a Module is for, and what it says of them.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tenon_api::Module;
use tenon_api::node_modules_config::ModulePhase;
use tenon_test_api::cluster::{Cluster, condition};

/// No kubelet runs, so nodes are soon tainted as unreachable.
fn unreachable() -> Value {
    json!([
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists"},
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists"},
    ])
}

fn numbers(module: &Module) -> Option<(i32, i32, i32)> {
    let numbers = module.status.as_ref()?.module_loader?;
    Some((numbers.nodes_matching_selector_number, numbers.desired_number, numbers.available_number))
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_chosen_by_label_and_taint_and_counted() {
    let mut cluster = Cluster::start().await;
    cluster.push_driver("gauge:v1", "one");
    for name in ["plain", "wanted", "tainted", "pressed", "preferred", "evicting"] {
        cluster.add_node(name).await;
    }
    for change in [
        ["label", "node", "wanted", "role=driver"],
        ["taint", "node", "tainted", "acme.test/a=b:NoSchedule"],
        ["taint", "node", "pressed", "node.kubernetes.io/memory-pressure=:NoSchedule"],
        ["taint", "node", "preferred", "acme.test/a=b:PreferNoSchedule"],
        ["taint", "node", "evicting", "acme.test/a=b:NoExecute"],
    ] {
        cluster.plane.kubectl(&change).await.expect("a change of a node");
    }
    let wanted = |selector: Value, tolerations: Value| json!({"spec": {"selector": selector, "tolerations": tolerations}});
    let also = |toleration: Value| {
        let mut all = unreachable();
        all.as_array_mut().expect("a list").push(toleration);
        all
    };
    let cases = [
        // A pressure is tolerated by every Module, a preference by nobody's leave.
        ("all", wanted(json!({}), unreachable()), 4),
        ("one", wanted(json!({"role": "driver"}), unreachable()), 1),
        (
            "equal",
            wanted(
                json!({}),
                also(
                    json!({"key": "acme.test/a", "operator": "Equal", "value": "b", "effect": "NoSchedule"}),
                ),
            ),
            5,
        ),
        (
            "other",
            wanted(json!({}), also(json!({"key": "acme.test/a", "operator": "Equal", "value": "c"}))),
            4,
        ),
        ("exists", wanted(json!({}), also(json!({"key": "acme.test/a", "operator": "Exists"}))), 6),
        ("any", wanted(json!({}), json!([{"operator": "Exists"}])), 6),
        ("none", wanted(json!({"role": "nobody"}), unreachable()), 0),
    ];
    for (name, spec, _) in &cases {
        cluster.apply_module(name, "gauge:v1", spec.clone()).await;
    }
    for (name, _, matching) in cases {
        let counted = |module: &Module| numbers(module) == Some((matching, matching, 0));
        cluster.module_where(name, &format!("{matching} nodes"), counted).await;
    }
    // An empty selector means every node, as a Module says it that never said more.
    let empty = json!({"spec": {"selector": null}});
    let params = PatchParams::default();
    cluster.modules().patch("all", &params, &Patch::Merge(empty)).await.expect_err("a selector is asked for");

    for node in ["plain", "wanted"] {
        cluster.obey(node, ModulePhase::Loaded).await;
    }
    cluster.module_where("one", "its node has it", |module| numbers(module) == Some((1, 1, 1))).await;
    let ready = cluster.module_where("one", "it is ready", |module| {
        condition(module, "Ready").is_some_and(|(status, ..)| status == "True")
    });
    ready.await;
    cluster
        .module_where("all", "two of its nodes have it", |module| numbers(module) == Some((4, 4, 2)))
        .await;
    cluster.stop_operator().await;
}
