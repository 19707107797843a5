//! What an administrator reaches for on the first day: a pause, a node that is left alone, a taint that keeps pods away until the
//! drivers are ready; and the definitions of another operator, on which ours refuses to run.
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::labels::STARTUP_TAINT;
use tenon_api::node_modules_config::{ModulePhase, NodeModulesConfig};
use tenon_lab::claim::comes_true_within;
use tenon_operator::definitions::{DefinitionError, are_ours};
use tenon_order::Wish;
use tenon_test_api::cluster::{Cluster, READY_LABEL, SOON, condition, order};
use tenon_test_api::plugin;
use tenon_test_api::setup::plane_with_definitions;

const NODE: &str = "pine";
/// Long enough for what should not happen: on an idle machine an order takes milliseconds.
const WHILE: Duration = Duration::from_secs(3);

async fn kubectl_tenon(cluster: &Cluster, args: &[&str]) -> String {
    let said = plugin::run(cluster.plane.kubeconfig(), args).await;
    assert_eq!(said.code, 0, "{args:?}: {}", said.err);
    said.out
}

async fn taint(cluster: &Cluster, keys: &[&str]) {
    let taints: Vec<_> = keys.iter().map(|key| json!({ "key": key, "effect": "NoSchedule" })).collect();
    let patch = Patch::Merge(json!({ "spec": { "taints": taints } }));
    cluster.nodes().patch(NODE, &PatchParams::default(), &patch).await.expect("a taint");
}

async fn has_taint(cluster: &Cluster, key: &str) -> bool {
    let node = cluster.nodes().get(NODE).await.expect("the node");
    node.spec.and_then(|spec| spec.taints).unwrap_or_default().iter().any(|taint| taint.key == key)
}

async fn order_text(cluster: &Cluster) -> Option<String> {
    cluster.configs().get(NODE).await.expect("the node's object").spec.order
}

fn orders_removal(config: &NodeModulesConfig) -> bool {
    order(config).is_some_and(|order| order.modules.iter().any(|module| module.wish == Wish::Removed))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_startup_taint_goes_with_the_last_driver_and_what_is_paused_stays_as_it_is() {
    let mut cluster = Cluster::start().await;
    cluster.push_driver("gauge:v1", "one");
    cluster.push_driver("gauge:v2", "two");
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    cluster.join(NODE, &cluster.kernel.clone()).await;
    taint(&cluster, &["example.com/first", STARTUP_TAINT, "example.com/last"]).await;
    cluster.register(NODE, &cluster.kernel.clone()).await;

    cluster.config_where(NODE, "the driver is assigned", |config| order(config).is_some()).await;
    tokio::time::sleep(WHILE).await;
    assert!(has_taint(&cluster, STARTUP_TAINT).await, "the driver is not loaded yet");
    let told = kubectl_tenon(&cluster, &["explain", &format!("node/{NODE}")]).await;
    let waits = "… taint tenon.dev/drivers-not-ready:NoSchedule: ";
    assert!(told.contains(waits) && told.contains("waits for Module hall/gauge: NotApplied"), "{told}");
    cluster.obey(NODE, ModulePhase::Loaded).await;
    let is_gone = comes_true_within(SOON, "the taint goes", async || {
        if has_taint(&cluster, STARTUP_TAINT).await { Err("it is there".to_owned()) } else { Ok(()) }
    });
    is_gone.await.unwrap_or_else(|late| panic!("{late}"));
    let node = cluster.nodes().get(NODE).await.expect("the node");
    assert!(node.labels().contains_key(READY_LABEL), "pods that come find the label");
    assert!(has_taint(&cluster, "example.com/first").await && has_taint(&cluster, "example.com/last").await);

    module_is_paused(&cluster).await;
    node_is_left_alone(&cluster).await;
    cluster.stop_operator().await;
}

async fn module_is_paused(cluster: &Cluster) {
    let before = order_text(cluster).await;
    let said = kubectl_tenon(cluster, &["pause", "gauge", "-n", "hall"]).await;
    assert!(said.contains("hall/gauge is paused"), "{said}");
    cluster.apply_module("gauge", "gauge:v2", Value::Null).await;
    let module = cluster
        .module_where("gauge", "the pause is told", |module| {
            condition(module, "Ready").is_some_and(|(_, reason, _)| reason == "Paused")
        })
        .await;
    let (_, _, message) = condition(&module, "Paused").expect("a condition of its own");
    assert!(message.contains("kubectl tenon resume"), "{message}");
    tokio::time::sleep(WHILE).await;
    assert_eq!(order_text(cluster).await, before);
    let told = plugin::run(cluster.plane.kubeconfig(), &["explain", "gauge", "-n", "hall"]).await.whole();
    assert!(told.contains("Paused") && told.contains("kubectl tenon resume gauge -n hall"), "{told}");

    kubectl_tenon(cluster, &["resume", "gauge", "-n", "hall"]).await;
    cluster.config_where(NODE, "the change is ordered", |config| config.spec.order != before).await;
    cluster.obey(NODE, ModulePhase::Loaded).await;
    cluster.node_where(NODE, "the label", |node| node.labels().contains_key(READY_LABEL)).await;
}

async fn node_is_left_alone(cluster: &Cluster) {
    let before = order_text(cluster).await;
    kubectl_tenon(cluster, &["pause", "--node", NODE]).await;
    // Nodes and Modules come by different ways: another Module shows that the operator has heard of the node's label.
    cluster.apply_module("witness", "gauge:v1", Value::Null).await;
    cluster
        .module_where("witness", "the hold is told", |module| {
            condition(module, "Ready").is_some_and(|(_, _, message)| message.contains("resume --node"))
        })
        .await;
    cluster.delete_module("witness").await;
    cluster.delete_module("gauge").await;
    let is_told = comes_true_within(SOON, "the Module says what it waits for", async || {
        let module = cluster.modules().get("gauge").await.map_err(|error| error.to_string())?;
        match condition(&module, "Ready") {
            Some((_, "Unloading", message)) if message.contains("resume --node") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    is_told.await.unwrap_or_else(|late| panic!("{late}"));
    tokio::time::sleep(WHILE).await;
    assert_eq!(order_text(cluster).await, before, "a node on hold unloads nothing");

    kubectl_tenon(cluster, &["resume", "--node", NODE]).await;
    cluster.config_where(NODE, "the removal is ordered", orders_removal).await;
    cluster.obey(NODE, ModulePhase::Loaded).await;
    let is_gone = comes_true_within(SOON, "the Module goes", async || {
        let module = cluster.modules().get_opt("gauge").await.map_err(|error| error.to_string())?;
        if module.is_some() { Err("it is there".to_owned()) } else { Ok(()) }
    });
    is_gone.await.unwrap_or_else(|late| panic!("{late}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_would_drop_orders_is_refused() {
    let plane = plane_with_definitions().await;
    let ours = tokio::time::timeout(SOON, are_ours(&plane.client())).await.expect("an answer in time");
    assert!(ours.is_ok());

    let definitions: Api<CustomResourceDefinition> = Api::all(plane.client());
    let mut theirs = definitions.get("nodemodulesconfigs.kmm.sigs.x-k8s.io").await.expect("the definition");
    for version in &mut theirs.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let spec = schema.and_then(|schema| schema.properties.as_mut()?.get_mut("spec"));
        spec.and_then(|spec| spec.properties.as_mut()?.remove("order")).expect("a field for orders");
        version.additional_printer_columns = None;
    }
    theirs.metadata.managed_fields = None;
    definitions.replace(&theirs.name_any(), &PostParams::default(), &theirs).await.expect("a definition");
    let refused = comes_true_within(SOON, "the definition is refused", async || {
        match are_ours(&plane.client()).await {
            Ok(()) => Err("the API server still shows ours".to_owned()),
            Err(error) => Ok(error),
        }
    });
    let DefinitionError::Foreign = refused.await.unwrap_or_else(|late| panic!("{late}"));
    assert!(DefinitionError::Foreign.to_string().contains("deploy/crds"));
}
