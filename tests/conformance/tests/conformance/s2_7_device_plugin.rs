//! §2.7: the `DaemonSet` of a device plugin, and its labels; §7: what leaves and comes in which order.

use std::sync::atomic::Ordering;

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::ResourceExt as _;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tenon_lab::claim::{Broken, comes_true_within};
use tenon_test_api::cluster::{Cluster, SOON, condition};
use tenon_test_api::plugin::run;

use super::plugins::{
    Kubelets, NAMESPACE, add_node, daemon_sets, is_ordered_anew, label, labels_come, names, pods, pods_come,
    says_ready, sets_come, template,
};

const READY: &str = "kmm.node.kubernetes.io/hall.gauge.ready";
const TARGET: &str = "kmm.node.kubernetes.io/hall.gauge.device-plugin-target";
const PLUGIN_READY: &str = "kmm.node.kubernetes.io/hall.gauge.device-plugin-ready";

fn plugin(image: &str) -> Value {
    json!({"spec": {"devicePlugin": {"container": {"image": image}}}})
}

/// How often Tenon, and whoever plays the agents, has written of nodes.
fn node_writes(cluster: &Cluster, since: tenon_lab::control_plane::audit::Mark) -> u64 {
    let writes = cluster.plane.audit().writes_since(since).expect("the audit log");
    let counted = writes.into_iter().filter(|(write, _)| {
        let is_by_us = write.user.contains("tenon");
        let is_report = write.resource == "nodemodulesconfigs" && write.subresource == "status";
        write.code < 300 && (is_by_us && write.resource.starts_with("node") || is_report)
    });
    counted.map(|(_, count)| count).sum()
}

/// Where the namespace forbids its pods, that is said beforehand. Gives the moment before the Module came.
async fn comes_where_it_is_forbidden(cluster: &Cluster) -> tenon_lab::control_plane::audit::Mark {
    let enforce = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(cluster.client.clone());
    let patched = namespaces.patch(NAMESPACE, &PatchParams::default(), &Patch::Merge(enforce)).await;
    patched.expect("a namespace's label");
    let mark = cluster.plane.audit().mark();
    cluster.apply_module("gauge", "gauge:v1", plugin("plugin.test/p:1")).await;
    let forbidden = |m: &tenon_api::Module| {
        condition(m, "PluginReady")
            .is_some_and(|(holds, reason, _)| (holds, reason) == ("False", "PodSecurityForbids"))
    };
    cluster.module_where("gauge", "the namespace is named", forbidden).await;
    let allow = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": null}}});
    let patched = namespaces.patch(NAMESPACE, &PatchParams::default(), &Patch::Merge(allow)).await;
    patched.expect("a namespace's label");
    mark
}

/// What keeps the plugin's pod from being ready is told, in its kubelet's words, and needs somebody.
async fn its_kubelet_is_quoted(cluster: &Cluster) {
    let list = pods(cluster).list(&ListParams::default()).await.expect("pods").items;
    let pod = list.iter().find(|pod| pod.metadata.deletion_timestamp.is_none()).expect("the plugin's pod");
    let waits = |container: Value| json!({"status": {"containerStatuses": [container]}});
    let container = json!({
        "name": "device-plugin", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"plugin.test/p:2\""}}
    });
    let (params, patch) = (PatchParams::default(), Patch::Strategic(waits(container)));
    pods(cluster).patch_status(&pod.name_any(), &params, &patch).await.expect("a pod's status");
    comes_true_within(SOON, "the kubelet is quoted", async || {
        let said = run(cluster.plane.kubeconfig(), &["explain", "gauge", "-n", NAMESPACE]).await;
        let parts = [
            "✗ node pine: PluginStarting",
            "> ImagePullBackOff: Back-off pulling image \"plugin.test/p:2\"",
            "next: correct the image in spec.devicePlugin.container.image",
        ];
        let is_told = said.code == 1 && parts.iter().all(|part| said.out.contains(part));
        if is_told { Ok(()) } else { Err(said.whole()) }
    })
    .await
    .unwrap_or_else(|late: Broken| panic!("{late}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_plugin_comes_after_its_driver_and_leaves_before_it() {
    let mut cluster = Cluster::start().await;
    let kubelets = Kubelets::start(cluster.client.clone());
    cluster.push_driver("gauge:v1", "one");
    cluster.push_driver("gauge:v2", "two");
    add_node(&cluster, "pine").await;

    let mark = comes_where_it_is_forbidden(&cluster).await;
    let set = sets_come(&cluster, 1).await.remove(0);
    assert!(set.name_any().starts_with("gauge-device-plugin-"), "{}", set.name_any());
    let first = is_ordered_anew(&cluster, "pine", None).await;
    labels_come(&cluster, "pine", &[(READY, ""), (TARGET, ""), (PLUGIN_READY, "")], &[]).await;
    // The log has a write a moment after its effect is there.
    comes_true_within(SOON, "assign, report, labels, the plugin's label", async || {
        match node_writes(&cluster, mark) {
            count @ ..4 => Err(format!("{count} writes")),
            count => Ok(count),
        }
    })
    .await
    .map_or_else(|late: Broken| panic!("{late}"), |count| assert_eq!(count, 4));
    // The namespace is looked at again by the way: a change of the plugin, which touches nothing else.
    let mark = cluster.plane.audit().mark();
    cluster.apply_module("gauge", "gauge:v1", plugin("plugin.test/p:2")).await;
    let is_second = |pods: &[k8s_openapi::api::core::v1::Pod]| {
        let image =
            |pod: &k8s_openapi::api::core::v1::Pod| pod.spec.as_ref()?.containers.first()?.image.clone();
        pods.len() == 1
            && pods.iter().all(|pod| image(pod).as_deref() == Some("plugin.test/p:2") && says_ready(pod))
    };
    pods_come(&cluster, "the plugin rolls", is_second).await;
    let ready = |m: &tenon_api::Module| condition(m, "Ready").is_some_and(|told| told.0 == "True");
    // What its label says is of the new pod.
    kubelets.ready.store(false, Ordering::SeqCst);
    labels_come(&cluster, "pine", &[(READY, ""), (TARGET, "")], &[PLUGIN_READY]).await;
    its_kubelet_is_quoted(&cluster).await;
    kubelets.ready.store(true, Ordering::SeqCst);
    labels_come(&cluster, "pine", &[(READY, ""), (TARGET, ""), (PLUGIN_READY, "")], &[]).await;
    let module = cluster.module_where("gauge", "Ready", ready).await;
    let status = module.status.expect("a status");
    let numbers = status.device_plugin.expect("numbers");
    assert_eq!(
        (numbers.nodes_matching_selector_number, numbers.desired_number, numbers.available_number),
        (1, 1, 1)
    );
    let config = cluster.configs().get("pine").await.expect("the node's object");
    assert_eq!(config.spec.order, first, "the driver is not reloaded for the plugin's sake");
    let order_writes = cluster.plane.audit().writes_since(mark).expect("the audit log");
    assert!(
        order_writes.iter().all(|(write, _)| write.resource != "nodemodulesconfigs"),
        "nothing is said to the node: {order_writes:#?}"
    );

    // A restart writes nothing.
    cluster.stop_operator().await;
    let mark = cluster.plane.audit().mark();
    cluster.start_operator().await;
    cluster.apply_module("noise", "noise:absent", json!({"spec": {"selector": {"no": "such-node"}}})).await;
    cluster.module_where("noise", "the operator works again", |m| condition(m, "Ready").is_some()).await;
    let writes = cluster.plane.audit().writes_since(mark).expect("the audit log");
    let by_tenon: Vec<_> = writes
        .iter()
        .filter(|(write, _)| write.user.contains("tenon"))
        .filter(|(write, _)| ["nodes", "nodemodulesconfigs", "daemonsets"].contains(&write.resource.as_str()))
        .collect();
    assert!(by_tenon.is_empty(), "{by_tenon:#?}");
    cluster.delete_module("noise").await;

    // A change of the driver: the plugin goes first, however long it takes.
    kubelets.ends.store(false, Ordering::SeqCst);
    let mark = cluster.plane.audit().mark();
    cluster.apply_module("gauge", "gauge:v2", plugin("plugin.test/p:2")).await;
    labels_come(&cluster, "pine", &[], &[READY, PLUGIN_READY]).await;
    let leaves = |pods: &[k8s_openapi::api::core::v1::Pod]| {
        pods.iter().all(|pod| pod.metadata.deletion_timestamp.is_some())
    };
    pods_come(&cluster, "its controller takes the plugin away", leaves).await;
    // A cordon in the midst of it holds up nothing.
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    cluster.nodes().patch("pine", &PatchParams::default(), &cordon).await.expect("a cordon");
    let ended = json!({"metadata": {"annotations": {"test/looked": "again"}}});
    cluster.nodes().patch("pine", &PatchParams::default(), &Patch::Merge(ended)).await.expect("a node");
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let config = cluster.configs().get("pine").await.expect("the node's object");
    assert_eq!(config.spec.order, first, "nothing is unloaded under the plugin's feet");
    kubelets.ends.store(true, Ordering::SeqCst);
    is_ordered_anew(&cluster, "pine", first.as_ref()).await;
    labels_come(&cluster, "pine", &[(READY, ""), (PLUGIN_READY, "")], &[]).await;
    let cost = node_writes(&cluster, mark);
    assert!(cost <= 7, "{cost} writes");

    // And on removal, after which nothing is left.
    let before = cluster.configs().get("pine").await.expect("the node's object").spec.order;
    cluster.delete_module("gauge").await;
    pods_come(&cluster, "no pod is left", <[_]>::is_empty).await;
    is_ordered_anew(&cluster, "pine", before.as_ref()).await;
    let gone = tenon_lab::wait::until("nothing is left", tenon_test_api::cluster::SOON, async || {
        let sets = daemon_sets(&cluster).list(&ListParams::default()).await.ok()?.items;
        (sets.is_empty() && cluster.leftovers().await.is_empty()).then_some(())
    })
    .await;
    assert!(gone.is_ok(), "{:#?}", cluster.leftovers().await);
    cluster.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_22_a_daemon_set_with_another_selector_is_replaced() {
    let mut cluster = Cluster::start().await;
    let _kubelets = Kubelets::start(cluster.client.clone());
    cluster.push_driver("gauge:v1", "one");
    add_node(&cluster, "pine").await;
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    is_ordered_anew(&cluster, "pine", None).await;
    labels_come(&cluster, "pine", &[(READY, "")], &[]).await;
    cluster.stop_operator().await;
    // As KMM up to 2.6 makes it, whose finalizer nobody takes off any more.
    let module = cluster.modules().get("gauge").await.expect("the Module");
    let mine = json!({"kmm.node.kubernetes.io/module.name": "gauge"});
    let set: DaemonSet = serde_json::from_value(json!({
        "metadata": {
            "generateName": "gauge-device-plugin-", "labels": mine,
            "ownerReferences": [{
                "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module", "name": "gauge",
                "uid": module.uid(), "controller": true, "blockOwnerDeletion": true
            }]
        },
        "spec": {
            "selector": {"matchLabels": mine},
            "template": {
                "metadata": {"labels": mine, "finalizers": ["kmm.node.kubernetes.io/node-labeler"]},
                "spec": {
                    "nodeSelector": {"kubernetes.io/os": "linux"},
                    "containers": [{"name": "device-plugin", "image": "plugin.test/p:0"}]
                }
            }
        }
    }))
    .expect("a DaemonSet");
    let theirs = daemon_sets(&cluster).create(&PostParams::default(), &set).await.expect("a DaemonSet");
    cluster.apply_module("gauge", "gauge:v1", plugin("plugin.test/p:1")).await;
    pods_come(&cluster, "theirs runs", |pods| pods.len() == 1).await;
    cluster.start_operator().await;
    let is_ours = |pods: &[k8s_openapi::api::core::v1::Pod]| {
        let role =
            |pod: &k8s_openapi::api::core::v1::Pod| pod.labels().get("kmm.node.kubernetes.io/role").cloned();
        pods.len() == 1 && pods.iter().all(|pod| role(pod).as_deref() == Some("device-plugin"))
    };
    let left = pods_come(&cluster, "theirs is gone, with its finalizer", is_ours).await;
    assert!(left.iter().all(|pod| pod.finalizers().is_empty()), "and ours has none");
    labels_come(&cluster, "pine", &[(READY, ""), (PLUGIN_READY, ""), (TARGET, "")], &[]).await;
    let sets = sets_come(&cluster, 1).await;
    assert!(!names(&sets).contains(&theirs.name_any()), "{:?}", names(&sets));
    let selector = sets[0].spec.as_ref().expect("a spec").selector.match_labels.clone().expect("labels");
    assert_eq!(selector.len(), 2, "{selector:?}");
    cluster.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_driver_the_plugin_runs_on_all_nodes_and_with_one_where_it_is_ready() {
    let mut cluster = Cluster::start().await;
    let _kubelets = Kubelets::start(cluster.client.clone());
    add_node(&cluster, "pine").await;
    let only_plugin = json!({
        "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module", "metadata": {"name": "gauge"},
        "spec": {
            "selector": {"kubernetes.io/os": "linux"},
            "devicePlugin": {"container": {"image": "plugin.test/p:1", "securityContext": {"runAsUser": 7}}}
        }
    });
    let params = PatchParams::apply("a-user").force();
    cluster.modules().patch("gauge", &params, &Patch::Apply(only_plugin)).await.expect("a Module");
    labels_come(&cluster, "pine", &[(PLUGIN_READY, ""), (TARGET, "")], &[READY]).await;
    let ready = |m: &tenon_api::Module| {
        condition(m, "Ready").is_some_and(|(holds, reason, _)| (holds, reason) == ("True", "PluginRunning"))
    };
    cluster.module_where("gauge", "Ready", ready).await;
    let set = sets_come(&cluster, 1).await.remove(0);
    let container = &template(&set)["spec"]["containers"][0];
    assert_eq!(container["securityContext"], json!({"runAsUser": 7}), "and no privilege beside it");
    // With a driver (k#1330) it is the same DaemonSet, elsewhere.
    cluster.push_driver("gauge:v1", "one");
    cluster.apply_module("gauge", "gauge:v1", plugin("plugin.test/p:1")).await;
    pods_come(&cluster, "it waits for the driver", <[_]>::is_empty).await;
    is_ordered_anew(&cluster, "pine", None).await;
    labels_come(&cluster, "pine", &[(PLUGIN_READY, ""), (READY, "")], &[]).await;
    let sets = sets_come(&cluster, 1).await;
    assert_eq!(sets[0].uid(), set.uid());
    // Another's change of it does not last.
    let meddling = json!({"spec": {"template": {"spec": {"priorityClassName": "system-cluster-critical"}}}});
    let name = set.name_any();
    daemon_sets(&cluster)
        .patch(&name, &PatchParams::default(), &Patch::Merge(meddling))
        .await
        .expect("a change");
    let is_back =
        tenon_lab::wait::until("the DaemonSet is as wished", tenon_test_api::cluster::SOON, async || {
            let set = daemon_sets(&cluster).get_opt(&name).await.ok()??;
            (template(&set)["spec"]["priorityClassName"] == "system-node-critical").then_some(())
        });
    is_back.await.unwrap_or_else(|late| panic!("{late}"));
    // A node that is not selected any more.
    let before = cluster.configs().get("pine").await.expect("the node's object").spec.order;
    label(&cluster, "pine", "kubernetes.io/os", Some("other")).await;
    is_ordered_anew(&cluster, "pine", before.as_ref()).await;
    labels_come(&cluster, "pine", &[], &[PLUGIN_READY, READY, TARGET]).await;
    assert!(pods(&cluster).list(&ListParams::default()).await.expect("pods").items.is_empty());
    cluster.stop_operator().await;
}
