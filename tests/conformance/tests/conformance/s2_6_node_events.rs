//! §2.6: what is told of modules on nodes: `ModuleLoaded` and `ModuleUnloaded` on the Node, in KMM's words; and what KMM does not tell.

use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tenon_api::node_modules_config::ModulePhase;
use tenon_lab::claim::comes_true_within;
use tenon_test_api::cluster::{Cluster, READY_LABEL, SOON};

use crate::s2_4_build_sign_events::event;

async fn is_told(cluster: &Cluster, reason: &str) -> bool {
    let events: Api<Event> = Api::namespaced(cluster.client.clone(), "default");
    let fields = format!("involvedObject.kind=Node,reason={reason}");
    let found = events.list(&ListParams::default().fields(&fields)).await.expect("events");
    !found.items.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_26_a_load_is_told_of_on_the_node_and_so_is_why_one_fails() {
    let cluster = Cluster::start().await;
    cluster.add_node("ash").await;
    cluster.push_driver("gauge:1", "one");
    cluster.apply_module("gauge", "gauge:1", json!({})).await;
    cluster.config_where("ash", "the node is told", |config| !config.spec.modules.is_empty()).await;

    // The kernel refuses it: its words are in the node's object, in the Module's status and in an event on each.
    cluster.obey("ash", ModulePhase::Failed).await;
    let module = cluster.module_where("gauge", "the failure is told", |module| {
        module.status.as_ref().is_some_and(|status| !status.failures.is_empty())
    });
    let failures = module.await.status.expect("a status").failures;
    assert_eq!(
        (failures[0].node.as_str(), failures[0].message.to_string().as_str()),
        ("ash", "as the kernel said")
    );
    for (namespace, kind) in [("default", "Node"), ("hall", "Module")] {
        let failed = event(&cluster, namespace, kind, "ModuleLoadFailed", "tenon-operator").await;
        assert_eq!(failed.type_.as_deref(), Some("Warning"));
        assert!(
            failed.message.as_deref().is_some_and(|text| text.ends_with("as the kernel said")),
            "{failed:?}"
        );
    }

    cluster.obey("ash", ModulePhase::Loaded).await;
    cluster.node_where("ash", "it is ready", |node| node.labels().contains_key(READY_LABEL)).await;
    let loaded = event(&cluster, "default", "Node", "ModuleLoaded", "kmm").await;
    assert_eq!(loaded.type_.as_deref(), Some("Normal"));
    assert_eq!(loaded.message.as_deref(), Some("Module hall/gauge loaded into the kernel"));
    let annotation =
        |event: &Event| event.metadata.annotations.as_ref().and_then(|all| all.get("module").cloned());
    assert_eq!(annotation(&loaded).as_deref(), Some("hall/gauge"));

    // What is in use stays in the kernel, and nobody says otherwise.
    cluster.delete_module("gauge").await;
    cluster
        .config_where("ash", "the node is told to remove it", |config| config.spec.modules.is_empty())
        .await;
    cluster
        .report("ash", |status| {
            (status.modules[0].phase, status.modules[0].reason) =
                (Some(ModulePhase::InUse), Some("InUse".to_owned()));
        })
        .await;
    event(&cluster, "default", "Node", "ModuleInUse", "tenon-operator").await;
    assert!(!is_told(&cluster, "ModuleUnloaded").await, "it is in the kernel");

    cluster.obey("ash", ModulePhase::Removed).await;
    let unloaded = event(&cluster, "default", "Node", "ModuleUnloaded", "kmm").await;
    let message = unloaded.message.clone().unwrap_or_default();
    assert_eq!(message, "Module hall/gauge unloaded from the kernel");
    assert_eq!(annotation(&unloaded).as_deref(), Some("hall/gauge"));
    comes_true_within(SOON, "the Module goes", async || {
        let module = cluster.modules().get_opt("gauge").await.map_err(|error| error.to_string())?;
        module.map_or(Ok(()), |module| Err(format!("{:?}", module.status)))
    })
    .await
    .unwrap_or_else(|late| panic!("{late}"));
}
