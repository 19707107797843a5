//! §2.15, defect 11: an image that was there and is no more.

use http::Request;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::module_image::ImagePhase;
use tenon_api::node_modules_config::ModulePhase;
use tenon_api::node_pod::{DEPOT_AUDIENCE, DEPOT_CONFIG_MAP, NAMESPACE, SERVICE_ACCOUNT};
use tenon_api::{ModuleImage, NodeModulesConfig};
use tenon_lab::wait;
use tenon_test_api::cluster::{Cluster, READY_LABEL, SOON, condition};

/// The depot, as a node's agent asks it.
async fn depot(cluster: &Cluster, node: &str) -> Client {
    let binding = cluster.agent_pod(node).await;
    let token = cluster.plane.token(NAMESPACE, SERVICE_ACCOUNT, Some(DEPOT_AUDIENCE), &binding).await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let data = maps.get(DEPOT_CONFIG_MAP).await.expect("the depot's ConfigMap").data.expect("data");
    let authority = ByteString(data["ca.crt"].clone().into_bytes());
    let config: Kubeconfig = serde_json::from_value(json!({
        "clusters": [{"name": "d", "cluster": {
            "server": data["addresses"].trim(), "certificate-authority-data": authority,
        }}],
        "users": [{"name": "d", "user": {"token": token.expect("a token")}}],
        "contexts": [{"name": "d", "context": {"cluster": "d", "user": "d"}}],
        "current-context": "d",
    }))
    .expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await;
    let mut config = config.expect("a config");
    // Every answer counts, also one that says to come back.
    config.default_retry = false;
    Client::try_from(config).expect("a client")
}

/// The status of the depot's answer, if it answers.
async fn fetch(depot: &Client, bundle: &str) -> Option<u16> {
    let request = Request::get(format!("/v1/bundles/{bundle}")).body(Body::empty()).expect("a request");
    Some(depot.send(request).await.ok()?.status().as_u16())
}

fn bundle(config: &NodeModulesConfig) -> Option<&String> {
    config.spec.modules.first()?.bundle.as_ref()
}

/// Waits for what the image's object says, while a node asks for its bundle.
async fn image_says(cluster: &Cluster, depot: &Client, bundle: &str, reason: &str) -> ModuleImage {
    let told = wait::until(format!("the image's object says {reason}"), SOON, async || {
        fetch(depot, bundle).await;
        let image = cluster.images().list(&ListParams::default()).await.ok()?.items.pop()?;
        let said = image.status.as_ref()?.reason.as_deref() == Some(reason);
        said.then_some(image)
    });
    told.await.unwrap_or_else(|late| panic!("{late}"))
}

/// k#1198: the registry has lost what it had, and the operator's cache with it. Nodes that have the driver keep it; for others the
/// objects say what is missing, and it goes on by itself when that is back.
#[tokio::test(flavor = "multi_thread")]
async fn defect_11_an_image_that_has_vanished_is_named_where_a_node_still_needs_it() {
    let mut cluster = Cluster::start().await;
    cluster.push_driver("gauge:v1", "one");
    cluster.add_node("pine").await;
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    cluster.config_where("pine", "it is assigned", |config| config.spec.order.is_some()).await;
    cluster.obey("pine", ModulePhase::Loaded).await;
    cluster.node_where("pine", "it is ready", |node| node.labels().contains_key(READY_LABEL)).await;
    let is_ready = |m: &tenon_api::Module| condition(m, "Ready").is_some_and(|told| told.0 == "True");
    cluster.module_where("gauge", "it is ready", is_ready).await;
    let before = cluster.configs().get("pine").await.expect("the node's object").spec;

    cluster.stop_operator().await;
    std::fs::remove_dir_all(cluster.cache.path().join("bundles")).expect("the depot's folder");
    let image = cluster.images().list(&ListParams::default()).await.expect("images").items.remove(0);
    let digest = image.status.and_then(|status| status.image_digest).expect("a digest");
    assert!(cluster.registry.lose_manifest("gauge", &digest), "it was there");
    cluster.start_operator().await;
    cluster.add_node("oak").await;
    let config = cluster.config_where("oak", "it is assigned", |config| bundle(config).is_some()).await;
    let bundle = bundle(&config).expect("a bundle").clone();
    let oak = depot(&cluster, "oak").await;
    let status = image_says(&cluster, &oak, &bundle, "ImageAbsent").await.status.expect("a status");
    assert_eq!(status.phase, Some(ImagePhase::Ready), "what was packed counts");
    assert_eq!(status.bundle.map(|known| known.digest).as_ref(), Some(&bundle));
    assert_eq!(fetch(&oak, &bundle).await, Some(503), "the depot has nothing to give");
    let named = |m: &tenon_api::Module| {
        condition(m, "Waiting").is_some_and(|told| {
            (told.0, told.1) == ("True", "ImageAbsent") && told.2.contains(&cluster.kernel)
        })
    };
    cluster.module_where("gauge", "the Module says so", named).await;
    let node = cluster.nodes().get("pine").await.expect("the node");
    assert!(node.labels().contains_key(READY_LABEL), "what is loaded is as good as it was");
    assert_eq!(cluster.configs().get("pine").await.expect("the node's object").spec, before);

    cluster.push_driver("gauge:v1", "one");
    image_says(&cluster, &oak, &bundle, "Exists").await;
    let served = wait::until("the node is served", SOON, async || {
        fetch(&oak, &bundle).await.filter(|status| *status == 200)
    });
    served.await.unwrap_or_else(|late| panic!("{late}"));
    let is_over = |m: &tenon_api::Module| condition(m, "Waiting").is_some_and(|told| told.0 == "False");
    cluster.module_where("gauge", "nothing is missing", is_over).await;
    cluster.stop_operator().await;
}
