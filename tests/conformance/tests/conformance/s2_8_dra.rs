//! §2.8: the `DaemonSet` of a DRA driver, and its device classes.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tenon_lab::wait;
use tenon_test_api::cluster::{Cluster, SOON, condition};

use super::plugins::{
    Kubelets, NAMESPACE, add_node, is_ordered_anew, labels_come, pods, pods_come, sets_come, template,
};

/// For how long it is watched that nothing happens.
const A_WHILE: Duration = Duration::from_secs(2);

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

/// Whoever changes a class of a Module's, or deletes it, finds it as the Module wishes it.
async fn stay_as_wished(classes: &Api<DeviceClass>, wished: &DeviceClass) {
    let name = wished.name_any();
    let by_hand = Patch::Merge(json!({"spec": {"selectors": [{"cel": {"expression": "true"}}]}}));
    classes.patch(&name, &PatchParams::default(), &by_hand).await.expect("a change");
    let is_mended = wait::until("the class is as it was", SOON, async || {
        (classes.get(&name).await.ok()?.spec == wished.spec).then_some(())
    });
    is_mended.await.unwrap_or_else(|late| panic!("{late}"));
    classes.delete(&name, &DeleteParams::default()).await.expect("a deletion");
    let is_made_again = wait::until("the class is made again", SOON, async || {
        let made = classes.get_opt(&name).await.ok()??;
        (made.uid() != wished.uid() && made.spec == wished.spec).then_some(())
    });
    is_made_again.await.unwrap_or_else(|late| panic!("{late}"));
}

/// What a driver on the node would publish.
async fn offer_device(cluster: &Cluster, node: &str, driver: &str) {
    let slice: ResourceSlice = serde_json::from_value(json!({
        "metadata": {"name": format!("{node}-{driver}")},
        "spec": {
            "driver": driver, "nodeName": node, "devices": [{"name": "d0"}],
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
        },
    }))
    .expect("a slice");
    let slices: Api<ResourceSlice> = Api::all(cluster.client.clone());
    slices.create(&PostParams::default(), &slice).await.expect("a slice");
}

/// Runs a pod that has a device of this class by a claim of its own, and waits until the scheduler has reserved it.
async fn use_device(cluster: &Cluster, pod: &str, claim: &str, class: &str) {
    let claims: Api<ResourceClaim> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let one = json!({"name": "one", "exactly": {"deviceClassName": class}});
    let object: ResourceClaim = serde_json::from_value(json!({
        "metadata": {"name": claim}, "spec": {"devices": {"requests": [one]}},
    }))
    .expect("a claim");
    claims.create(&PostParams::default(), &object).await.expect("a claim");
    let object: Pod = serde_json::from_value(json!({"metadata": {"name": pod}, "spec": {
        "containers": [{"name": "user", "image": "user.test/u:1", "resources": {"claims": [{"name": "it"}]}}],
        "resourceClaims": [{"name": "it", "resourceClaimName": claim}],
    }}))
    .expect("a pod");
    pods(cluster).create(&PostParams::default(), &object).await.expect("a pod");
    let reserved = wait::until(format!("claim {claim} is reserved"), SOON, async || {
        let status = claims.get(claim).await.ok()?.status?;
        status.reserved_for.filter(|users| !users.is_empty()).map(drop)
    });
    reserved.await.unwrap_or_else(|late| panic!("{late}"));
}

/// Waits until the Module says that it waits for this pod and its claim.
async fn waits_for(cluster: &Cluster, module: &str, pod: &str, claim: &str) {
    let told = format!("pine: pod {NAMESPACE}/{pod} uses claim {NAMESPACE}/{claim}: ");
    let waits = |module: &tenon_api::Module| {
        condition(module, "Waiting").is_some_and(|waiting| {
            (waiting.0, waiting.1) == ("True", "WaitingForClaims") && waiting.2.starts_with(&told)
        })
    };
    cluster.module_where(module, "the pod and its claim are named", waits).await;
}

/// k#1328, k#1332: those that use devices leave first, then the driver's pod, then the driver; and nobody is evicted.
#[tokio::test(flavor = "multi_thread")]
async fn k1328_k1332_a_dra_driver_leaves_after_the_users_of_its_devices() {
    let mut cluster = Cluster::start().await;
    let _kubelets = Kubelets::start(cluster.client.clone());
    let classes: Api<DeviceClass> = Api::all(cluster.client.clone());
    cluster.push_driver("gauge:v1", "one");
    cluster.push_driver("gauge:v2", "two");
    add_node(&cluster, "pine").await;
    cluster.apply_module("gauge", "gauge:v1", dra("gauge.test", &["gauge.test"])).await;
    let first = is_ordered_anew(&cluster, "pine", None).await;
    let (ready, runs) =
        ("kmm.node.kubernetes.io/hall.gauge.ready", "kmm.node.kubernetes.io/hall.gauge.dra-ready");
    labels_come(&cluster, "pine", &[(ready, ""), (runs, "")], &[]).await;
    offer_device(&cluster, "pine", "gauge.test").await;
    use_device(&cluster, "loom", "thread", "gauge.test").await;

    // A change.
    cluster.apply_module("gauge", "gauge:v2", dra("gauge.test", &["gauge.test"])).await;
    waits_for(&cluster, "gauge", "loom", "thread").await;
    tokio::time::sleep(A_WHILE).await;
    let node = labels_come(&cluster, "pine", &[(ready, ""), (runs, "")], &[]).await;
    assert!(node.spec.is_none_or(|spec| spec.taints.is_none()), "nobody is kept away from the node");
    let order = cluster.configs().get("pine").await.expect("the node's object").spec.order;
    assert_eq!(order, first, "nothing is changed");
    pods_come(&cluster, "the user and the driver's pod", |pods| pods.len() == 2).await;
    pods(&cluster).delete("loom", &DeleteParams::default()).await.expect("a deletion");
    let second = is_ordered_anew(&cluster, "pine", first.as_ref()).await;
    labels_come(&cluster, "pine", &[(ready, ""), (runs, "")], &[]).await;

    // An end, on a node that is being drained.
    use_device(&cluster, "wheel", "yarn", "gauge.test").await;
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    cluster.nodes().patch("pine", &PatchParams::default(), &cordon).await.expect("a cordon");
    cluster.delete_module("gauge").await;
    waits_for(&cluster, "gauge", "wheel", "yarn").await;
    classes_come(&classes, &[]).await;
    tokio::time::sleep(A_WHILE).await;
    pods_come(&cluster, "the user and the driver's pod", |pods| pods.len() == 2).await;
    let order = cluster.configs().get("pine").await.expect("the node's object").spec.order;
    assert_eq!(order, second, "nothing is unloaded");
    pods(&cluster).delete("wheel", &DeleteParams::default()).await.expect("a deletion");
    pods_come(&cluster, "no pod is left", <[_]>::is_empty).await;
    is_ordered_anew(&cluster, "pine", second.as_ref()).await;
    let gone = wait::until("the Module is gone", SOON, async || {
        cluster.modules().get_opt("gauge").await.ok()?.is_none().then_some(())
    });
    gone.await.unwrap_or_else(|late| panic!("{late}"));
    cluster.stop_operator().await;
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
    stay_as_wished(&classes, &known[0]).await;

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

    // Without the field nothing is left of it when nobody uses its devices any more; of the other Module's nothing is gone.
    offer_device(&cluster, "pine", "gauge.test").await;
    use_device(&cluster, "loom", "thread", "fast.test").await;
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    waits_for(&cluster, "gauge", "loom", "thread").await;
    classes_come(&classes, &["meter.test", "taken.test"]).await;
    tokio::time::sleep(A_WHILE).await;
    pods_come(&cluster, "both drivers, and the user", |pods| pods.len() == 3).await;
    pods(&cluster).delete("loom", &DeleteParams::default()).await.expect("a deletion");
    sets_come(&cluster, 1).await;
    labels_come(&cluster, "pine", &[(ready[1], "")], &[ready[0]]).await;
    let is_over = |m: &tenon_api::Module| {
        condition(m, "PluginReady").is_none() && condition(m, "Waiting").is_some_and(|told| told.0 == "False")
    };
    cluster.module_where("gauge", "nothing is told of it any more", is_over).await;

    // A driver of another name does not know to whom the former has given devices; nor does a Module that is deleted meanwhile.
    offer_device(&cluster, "pine", "meter.test").await;
    use_device(&cluster, "wheel", "yarn", "meter.test").await;
    let uid = |set: &k8s_openapi::api::apps::v1::DaemonSet| (set.uid(), set.metadata.generation);
    let set = sets_come(&cluster, 1).await.first().map(uid);
    let mut renamed = dra("ruler.test", &["meter.test"]);
    renamed["spec"]["dra"]["container"]["image"] = json!("dra.test/d:2");
    cluster.apply_module("meter", "gauge:v1", renamed).await;
    waits_for(&cluster, "meter", "wheel", "yarn").await;
    let before = cluster.configs().get("pine").await.expect("the node's object").spec.order;
    cluster.delete_module("meter").await;
    tokio::time::sleep(A_WHILE).await;
    waits_for(&cluster, "meter", "wheel", "yarn").await;
    assert_eq!(sets_come(&cluster, 1).await.first().map(uid), set, "it is as it was");
    let order = cluster.configs().get("pine").await.expect("the node's object").spec.order;
    assert_eq!(order, before, "nothing is unloaded");
    pods(&cluster).delete("wheel", &DeleteParams::default()).await.expect("a deletion");
    pods_come(&cluster, "no pod is left", <[_]>::is_empty).await;
    is_ordered_anew(&cluster, "pine", before.as_ref()).await;
    classes_come(&classes, &["taken.test"]).await;
    let gone = wait::until("the Module is gone", SOON, async || {
        cluster.modules().get_opt("meter").await.ok()?.is_none().then_some(())
    });
    gone.await.unwrap_or_else(|late| panic!("{late}"));
    cluster.stop_operator().await;
}
