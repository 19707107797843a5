//! §2.8: the `DaemonSet` of a DRA driver, and its device classes.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::DeviceClass;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tenon_lab::wait;
use tenon_test_api::cluster::{Cluster, SOON, condition};

use super::plugins::{Kubelets, add_node, is_ordered_anew, labels_come, pods_come, sets_come, template};

fn dra(driver: &str, classes: &[&str]) -> Value {
    let classes: Vec<_> = classes
        .iter()
        .map(|name| json!({"name": name, "selectors": [{"cel": {"expression": format!("device.driver == '{driver}'")}}]}))
        .collect();
    json!({"spec": {"dra": {
        "driverName": driver, "container": {"image": "dra.test/d:1"}, "deviceClasses": classes
    }}})
}

async fn classes_come(classes: &Api<DeviceClass>, expected: &[&str]) -> Vec<DeviceClass> {
    wait::until(format!("the classes {expected:?}"), SOON, async || {
        let list = classes.list(&ListParams::default()).await.ok()?.items;
        let names: Vec<_> = list.iter().map(kube::ResourceExt::name_any).collect();
        (names == expected).then_some(list)
    })
    .await
    .unwrap_or_else(|late| panic!("{late}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_23_two_dra_drivers_share_a_node_and_no_class_is_taken_over() {
    let mut cluster = Cluster::start().await;
    let _kubelets = Kubelets::start(cluster.client.clone());
    let classes: Api<DeviceClass> = Api::all(cluster.client.clone());
    cluster.push_driver("gauge:v1", "one");
    add_node(&cluster, "pine").await;
    let foreign: DeviceClass =
        serde_json::from_value(json!({"metadata": {"name": "taken.test"}, "spec": {}})).expect("a class");
    let foreign = classes.create(&PostParams::default(), &foreign).await.expect("a class");

    cluster.apply_module("gauge", "gauge:v1", dra("gauge.test", &["fast.test", "taken.test"])).await;
    let taken = |m: &tenon_api::Module| {
        condition(m, "PluginReady")
            .is_some_and(|told| told.1 == "DeviceClassTaken" && told.2.contains("taken.test"))
    };
    cluster.module_where("gauge", "the class is named", taken).await;
    let known = classes_come(&classes, &["fast.test", "taken.test"]).await;
    let marks: BTreeMap<_, _> = known[0].labels().clone();
    assert_eq!(marks["kmm.node.kubernetes.io/module.name"], "gauge");
    assert_eq!(marks["kmm.node.kubernetes.io/module.namespace"], "hall");
    assert_eq!(known[1].resource_version(), foreign.resource_version(), "it is not touched");

    cluster.apply_module("gauge", "gauge:v1", dra("gauge.test", &["fast.test"])).await;
    cluster.apply_module("meter", "gauge:v1", dra("meter.test", &["meter.test"])).await;
    let both = |config: &tenon_api::NodeModulesConfig| config.spec.modules.len() == 2;
    cluster.config_where("pine", "both drivers are assigned", both).await;
    is_ordered_anew(&cluster, "pine", None).await;
    let ready =
        ["kmm.node.kubernetes.io/hall.gauge.dra-ready", "kmm.node.kubernetes.io/hall.meter.dra-ready"];
    labels_come(&cluster, "pine", &[(ready[0], ""), (ready[1], "")], &[]).await;
    pods_come(&cluster, "both run on the node", |pods| pods.len() == 2).await;
    for set in sets_come(&cluster, 2).await {
        let template = template(&set);
        let (pod, container) = (&template["spec"], &template["spec"]["containers"][0]);
        assert_eq!(
            (&pod["hostNetwork"], &container["ports"], &container["livenessProbe"]),
            (&Value::Null, &Value::Null, &Value::Null),
            "nothing that two could be in each other's way by"
        );
        let variables = container["env"].as_array().expect("variables");
        assert!(variables.contains(&json!({"name": "HEALTHCHECK_PORT", "value": "51515"})), "{variables:?}");
    }
    let module = cluster
        .module_where("gauge", "Ready", |m| condition(m, "Ready").is_some_and(|told| told.0 == "True"))
        .await;
    assert_eq!(module.status.and_then(|status| status.dra).map(|numbers| numbers.available_number), Some(1));

    // Without the field nothing is left of it; of the other Module's nothing is gone.
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    classes_come(&classes, &["meter.test", "taken.test"]).await;
    sets_come(&cluster, 1).await;
    labels_come(&cluster, "pine", &[(ready[1], "")], &[ready[0]]).await;
    let before = cluster.configs().get("pine").await.expect("the node's object").spec.order;
    cluster.delete_module("meter").await;
    pods_come(&cluster, "no pod is left", <[_]>::is_empty).await;
    is_ordered_anew(&cluster, "pine", before.as_ref()).await;
    classes_come(&classes, &["taken.test"]).await;
    let gone = wait::until("the Module is gone", SOON, async || {
        cluster.modules().get_opt("meter").await.ok()?.is_none().then_some(())
    });
    gone.await.unwrap_or_else(|late| panic!("{late}"));
    cluster.stop_operator().await;
}
