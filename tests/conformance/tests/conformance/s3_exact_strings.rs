//! §3: what other programs look for, letter by letter. No constant of ours stands here.

use k8s_openapi::api::core::v1::{Event, Namespace};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tenon_api::node_modules_config::ModulePhase;
use tenon_lab::wait;
use tenon_test_api::cluster::{Cluster, SOON};

async fn told(cluster: &Cluster, node: &str, reason: &str, message: &str) {
    let events: Api<Event> = Api::default_namespaced(cluster.client.clone());
    let mut last = Vec::new();
    let what = format!("{reason} on {node}");
    let found = wait::until(&what, SOON, async || {
        last = events.list(&ListParams::default()).await.ok()?.items;
        let is_it = |event: &Event| {
            event.involved_object.kind.as_deref() == Some("Node")
                && event.involved_object.name.as_deref() == Some(node)
                && event.reason.as_deref() == Some(reason)
                && event.message.as_deref().is_some_and(|said| said.starts_with(message))
        };
        last.iter().any(is_it).then_some(())
    });
    found.await.unwrap_or_else(|late| panic!("{late}; there are {last:#?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_finalizers_owners_and_events_are_those_of_kmm() {
    let mut cluster = Cluster::start().await;
    cluster.push_driver("gauge:v1", "one");
    cluster.add_node("pine").await;
    let version = "kmm.node.kubernetes.io/version-module.hall.gauge=v1";
    cluster.plane.kubectl(&["label", "node", "pine", version]).await.expect("a version");
    let ordered = json!({"spec": {"moduleLoader": {"container": {"version": "v1"}}}});
    cluster.apply_module("gauge", "gauge:v1", ordered).await;
    let config =
        cluster.config_where("pine", "it is assigned", |config| !config.spec.modules.is_empty()).await;
    for label in ["hall.gauge.module-configured", "hall.gauge.module-in-use"] {
        let label = format!("beta.kmm.node.kubernetes.io/{label}");
        assert_eq!(config.labels().get(&label).map(String::as_str), Some(""), "{:?}", config.labels());
    }
    let owner = config.owner_references().first().expect("an owner");
    assert_eq!(
        (owner.kind.as_str(), owner.name.as_str(), owner.controller.unwrap_or_default()),
        ("Node", "pine", false)
    );
    let entry = config.spec.modules.first().expect("an entry");
    assert_eq!(
        (entry.namespace.as_str(), entry.name.as_str(), entry.version.as_deref()),
        ("hall", "gauge", Some("v1"))
    );
    assert_eq!(entry.config.kernel_version, cluster.kernel.trim_end_matches('+'));

    let module = cluster.modules().get("gauge").await.expect("the Module");
    assert_eq!(module.finalizers(), ["kmm.node.kubernetes.io/module-finalizer"]);
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let hall = namespaces.get("hall").await.expect("the namespace");
    assert_eq!(hall.labels().get("kmm.node.k8s.io/contains-modules").map(String::as_str), Some(""));

    cluster.obey("pine", ModulePhase::Loaded).await;
    let node = cluster
        .node_where("pine", "it is ready", |node| {
            node.labels().contains_key("kmm.node.kubernetes.io/hall.gauge.ready")
        })
        .await;
    assert_eq!(node.labels()["kmm.node.kubernetes.io/hall.gauge.ready"], "");
    let versioned = |node: &k8s_openapi::api::core::v1::Node| {
        node.labels()
            .get("kmm.node.kubernetes.io/hall.gauge.version.ready")
            .is_some_and(|value| value == "v1")
    };
    cluster.node_where("pine", "so is its version", versioned).await;
    told(&cluster, "pine", "ModuleLoaded", "Module hall/gauge loaded into the kernel").await;

    cluster.delete_module("gauge").await;
    cluster
        .node_where("pine", "no label is left", |node| {
            !node.labels().keys().any(|key| key.starts_with("kmm.node.kubernetes.io/hall.gauge"))
        })
        .await;
    let removal = |config: &tenon_api::NodeModulesConfig| config.spec.modules.is_empty();
    cluster.config_where("pine", "it is taken away", removal).await;
    cluster.obey("pine", ModulePhase::Loaded).await;
    told(&cluster, "pine", "ModuleUnloaded", "Module hall/gauge ").await;
    cluster
        .config_where("pine", "its labels go", |config| {
            !config.labels().keys().any(|key| key.contains("hall.gauge"))
        })
        .await;
    cluster.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_secret_has_dockers_key() {
    let mut cluster = Cluster::start().await;
    cluster.add_node("pine").await;
    let secret = json!({"spec": {"imageRepoSecret": {"name": "pull"}}});
    cluster.apply_module("gauge", "gauge:v1", secret).await;
    let create = ["-n", "hall", "create", "secret", "generic", "pull", "--from-literal=config.json={}"];
    cluster.plane.kubectl(&create).await.expect("a Secret");
    let says = |word: &'static str| {
        move |module: &tenon_api::Module| {
            let conditions = module.status.iter().flat_map(|status| &status.conditions);
            conditions.into_iter().any(|condition| condition.message.contains(word))
        }
    };
    cluster.module_where("gauge", "it misses the key", says(".dockerconfigjson")).await;
    let patch = json!({"stringData": {".dockerconfigjson": "{\"auths\":{}}"}});
    let params = kube::api::PatchParams::default();
    cluster.secrets().patch("pull", &params, &kube::api::Patch::Merge(patch)).await.expect("the key");
    cluster.push_driver("gauge:v1", "one");
    cluster.config_where("pine", "it is assigned", |config| !config.spec.modules.is_empty()).await;
    cluster.stop_operator().await;
}
