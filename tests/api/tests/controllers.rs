//! The operator's controllers against a real API server: what is written when, what is never written, and what becomes
//! of every kind of bad image. The nodes' agents are played; real ones are in `tests/e2e`.
#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use tenon_api::node_modules_config::ModulePhase;
use tenon_image::testing::{Auth, Fault, Route, layer};
use tenon_lab::wait;
use tenon_order::Wish;
use tenon_test_api::cluster::{Cluster, READY_LABEL, SOON, condition, order};

/// Writes by the operator and the agents on the two kinds that cost per node.
fn node_writes(cluster: &Cluster, since: tenon_lab::control_plane::audit::Mark) -> Vec<(String, u64)> {
    let writes = cluster.plane.audit().writes_since(since).expect("the audit log");
    let counted = |resource: &str| matches!(resource, "nodes" | "nodemodulesconfigs");
    // The agents are played by the administrator; kube-controller-manager has its own business with nodes.
    let by_us = |user: &str| user.contains("tenon") || user == "lab-admin";
    writes
        .into_iter()
        .filter(|(write, _)| counted(&write.resource) && by_us(&write.user) && write.code < 300)
        .map(|(write, count)| {
            (format!("{} {} {}/{}", write.user, write.verb, write.resource, write.subresource), count)
        })
        .collect()
}

/// All writes but leases and events, by anybody of Tenon.
fn tenon_writes(cluster: &Cluster, since: tenon_lab::control_plane::audit::Mark) -> Vec<String> {
    let writes = cluster.plane.audit().writes_since(since).expect("the audit log");
    writes
        .into_iter()
        .filter(|(write, _)| {
            write.user.contains("tenon") && !matches!(write.resource.as_str(), "leases" | "events")
        })
        .map(|(write, count)| format!("{count} x {write:?}"))
        .collect()
}

fn sum(writes: &[(String, u64)]) -> u64 {
    writes.iter().map(|(_, count)| count).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_comes_changes_and_goes_with_few_writes_and_leaves_nothing() {
    let mut cluster = Cluster::start().await;
    cluster.push_driver("gauge:v1", "one");
    cluster.push_driver("gauge:v2", "two");
    cluster.add_node("pine").await;

    let mark = cluster.plane.audit().mark();
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    let first =
        cluster.config_where("pine", "the driver is assigned", |config| order(config).is_some()).await;
    let digest = first.spec.modules[0].image_digest.clone().expect("a digest");
    assert!(digest.starts_with("sha256:"), "nodes see digests only: {digest}");
    cluster.obey("pine", ModulePhase::Loaded).await;
    cluster.node_where("pine", "the ready label", |node| node.labels().contains_key(READY_LABEL)).await;
    let module = cluster
        .module_where("gauge", "Ready", |m| condition(m, "Ready").is_some_and(|c| c.0 == "True"))
        .await;
    let numbers = module.status.as_ref().and_then(|status| status.module_loader).expect("numbers");
    assert_eq!(
        (numbers.nodes_matching_selector_number, numbers.desired_number, numbers.available_number),
        (1, 1, 1)
    );
    let writes = node_writes(&cluster, mark);
    assert_eq!(sum(&writes), 3, "assign, report, label: {writes:#?}");

    // A restart finds everything as it should be and writes nothing.
    cluster.stop_operator().await;
    let mark = cluster.plane.audit().mark();
    cluster.start_operator().await;
    cluster.apply_module("noise", "noise:absent", json!({"spec": {"selector": {"no": "such-node"}}})).await;
    cluster.module_where("noise", "the operator works again", |m| condition(m, "Ready").is_some()).await;
    let unrelated = |write: &String| write.contains("noise");
    let writes: Vec<_> = tenon_writes(&cluster, mark).into_iter().filter(|write| !unrelated(write)).collect();
    assert!(writes.is_empty(), "a second reconcile writes nothing: {writes:#?}");
    cluster.delete_module("noise").await;

    let mark = cluster.plane.audit().mark();
    cluster.apply_module("gauge", "gauge:v2", Value::Null).await;
    let before = first.spec.order.clone();
    let second = cluster.config_where("pine", "the new order", |config| config.spec.order != before).await;
    assert!(order(&second).expect("an order").generation > order(&first).expect("an order").generation);
    let node = cluster.nodes().get("pine").await.expect("the node");
    assert!(!node.labels().contains_key(READY_LABEL), "the label is withdrawn before the order that unloads");
    cluster.obey("pine", ModulePhase::Loaded).await;
    cluster.node_where("pine", "the ready label again", |node| node.labels().contains_key(READY_LABEL)).await;
    let writes = node_writes(&cluster, mark);
    assert_eq!(sum(&writes), 4, "withdraw, assign, report, label: {writes:#?}");

    let mark = cluster.plane.audit().mark();
    cluster.delete_module("gauge").await;
    let removal = |config: &tenon_api::NodeModulesConfig| {
        order(config).is_some_and(|order| order.modules.iter().any(|module| module.wish == Wish::Removed))
    };
    cluster.config_where("pine", "the removal is ordered", removal).await;
    assert!(cluster.modules().get_opt("gauge").await.expect("an answer").is_some(), "it waits for the node");
    cluster.obey("pine", ModulePhase::Loaded).await;
    let gone =
        wait::until("nothing is left", SOON, async || cluster.leftovers().await.is_empty().then_some(()))
            .await;
    assert!(gone.is_ok(), "{:#?}", cluster.leftovers().await);
    let writes = node_writes(&cluster, mark);
    assert_eq!(sum(&writes), 4, "withdraw, order, report, tidy up: {writes:#?}");
    cluster.stop_operator().await;
}

/// What a Module's status should come to say.
struct Trouble {
    name: &'static str,
    reason: &'static str,
    says: &'static str,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_image_is_a_named_state_of_its_own_module_and_heals() {
    let mut cluster = Cluster::start().await;
    cluster.add_node("oak").await;
    cluster.push_driver("good:1", "good");
    let driver = cluster.driver().to_vec();
    let half = driver.get(..driver.len() / 2).expect("half a module").to_vec();
    let mut foreign = driver.clone();
    foreign[18] = 183; // EM_AARCH64 in e_machine
    cluster.push("truncated:1", &[("a.ko", half.as_slice())]);
    cluster.push("foreign:1", &[("a.ko", foreign.as_slice())]);
    cluster.push("text:1", &[("a.ko", b"#!/bin/sh\n".as_slice())]);
    cluster.registry.put_image(
        "other-kernel",
        "1",
        "amd64",
        &[layer(&[("opt/lib/modules/1.2.3/a.ko", &driver)])],
    );
    cluster.registry.put_image("other-arch", "1", "arm64", &[layer(&[("opt/a", b"")])]);
    cluster.registry.put_image("climbing", "1", "amd64", &[layer(&[("opt/../../etc/passwd", b"root")])]);
    let troubles = [
        Trouble { name: "absent", reason: "ImageAbsent", says: "push it" },
        Trouble { name: "truncated", reason: "ImageInvalid", says: "a.ko" },
        Trouble { name: "foreign", reason: "ImageInvalid", says: "arm64" },
        Trouble { name: "text", reason: "ImageInvalid", says: "a.ko" },
        Trouble { name: "other-kernel", reason: "NoModuleForKernel", says: "1.2.3" },
        Trouble { name: "other-arch", reason: "ImageAbsent", says: "arm64" },
        Trouble { name: "climbing", reason: "ImageInvalid", says: ".." },
    ];
    for trouble in &troubles {
        cluster.apply_module(trouble.name, &format!("{}:1", trouble.name), Value::Null).await;
    }
    cluster.apply_module("good", "good:1", Value::Null).await;
    for Trouble { name, reason, says } in &troubles {
        let module = cluster
            .module_where(name, &format!("the state {reason}"), |m| {
                condition(m, "Ready").is_some_and(|c| c.1 == *reason)
            })
            .await;
        let (_, _, message) = condition(&module, "Ready").expect("a condition");
        assert!(message.contains(says), "{name}: {message}");
    }
    let config = cluster
        .config_where("oak", "the good Module is assigned", |c| {
            c.spec.modules.iter().any(|m| m.name == "good")
        })
        .await;
    assert_eq!(config.spec.modules.len(), 1, "and no other");

    // Each is mended in the registry alone: nobody touches a Module.
    for Trouble { name, .. } in &troubles {
        cluster.push_driver(&format!("{name}:1"), name);
    }
    let healed = |config: &tenon_api::NodeModulesConfig| config.spec.modules.len() == troubles.len() + 1;
    cluster.config_where("oak", "all are assigned once mended", healed).await;
    cluster.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_in_trouble_is_a_named_state_and_heals() {
    let mut cluster = Cluster::start().await;
    cluster.add_node("elm").await;
    let faults = [
        (Fault::Status(401, None), "RegistryDenied"),
        (Fault::Status(429, Some(("Retry-After", "1".to_owned()))), "RegistryUnreachable"),
        (Fault::Status(500, None), "RegistryUnreachable"),
        (Fault::Close, "RegistryUnreachable"),
        (Fault::Hang, "RegistryUnreachable"),
        (Fault::Corrupt, "ImageInvalid"),
    ];
    for (number, (fault, reason)) in faults.into_iter().enumerate() {
        let name = format!("driver-{number}");
        cluster.push_driver(&format!("{name}:1"), &name);
        cluster.registry.inject(Route::Manifest, usize::MAX, fault.clone());
        cluster.apply_module(&name, &format!("{name}:1"), Value::Null).await;
        cluster
            .module_where(&name, &format!("{reason} after {fault:?}"), |m| {
                condition(m, "Ready").is_some_and(|c| c.1 == reason)
            })
            .await;
        cluster.registry.heal();
        cluster
            .config_where("elm", "it is assigned once mended", |c| {
                c.spec.modules.iter().any(|m| m.name == name)
            })
            .await;
    }
    cluster.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_secret_that_is_missing_or_malformed_is_waited_for() {
    let mut cluster = Cluster::start().await;
    cluster.add_node("ash").await;
    cluster.push_driver("gauge:v1", "one");
    cluster.registry.require(Auth::Basic("user".to_owned(), "word".to_owned()));
    cluster.apply_module("gauge", "gauge:v1", json!({"spec": {"imageRepoSecret": {"name": "pull"}}})).await;
    let reason = |reason: &'static str| {
        move |m: &tenon_api::Module| condition(m, "Ready").is_some_and(|c| c.1 == reason)
    };
    let module = cluster.module_where("gauge", "the missing Secret", reason("SecretMissing")).await;
    assert!(condition(&module, "Waiting").expect("a condition").2.contains("Secret hall/pull"));

    let secret = |data: &[u8]| -> Secret {
        let mut secret = Secret { type_: Some("Opaque".to_owned()), ..Secret::default() };
        secret.metadata.name = Some("pull".to_owned());
        secret.data = Some([(".dockerconfigjson".to_owned(), ByteString(data.to_vec()))].into());
        secret
    };
    let replace = async |data: &[u8]| {
        let _ = cluster.secrets().delete("pull", &DeleteParams::default()).await;
        cluster.secrets().create(&PostParams::default(), &secret(data)).await.expect("a Secret");
    };
    replace(b"{\"auths\": 3}").await;
    let module = cluster.module_where("gauge", "the malformed Secret", reason("SecretMalformed")).await;
    assert!(condition(&module, "Waiting").expect("a condition").2.contains("auths"));
    let config = |password: &str| json!({"auths": {cluster.registry.host(): {"username": "user", "password": password}}});
    replace(config("wrong").to_string().as_bytes()).await;
    cluster.module_where("gauge", "the wrong password", reason("RegistryDenied")).await;
    replace(config("word").to_string().as_bytes()).await;
    cluster.config_where("ash", "it is assigned once mended", |config| !config.spec.modules.is_empty()).await;
    cluster.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_26_a_failing_node_shows_in_the_modules_status() {
    let mut cluster = Cluster::start().await;
    cluster.add_node("fir").await;
    cluster.add_node("yew").await;
    cluster.push_driver("gauge:v1", "one");
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    for (node, phase) in [("fir", ModulePhase::Loaded), ("yew", ModulePhase::Failed)] {
        cluster.config_where(node, "the driver is assigned", |config| order(config).is_some()).await;
        cluster.obey(node, phase).await;
    }
    let module = cluster
        .module_where("gauge", "Degraded", |m| condition(m, "Degraded").is_some_and(|c| c.0 == "True"))
        .await;
    let (_, _, message) = condition(&module, "Degraded").expect("a condition");
    assert!(message.contains("yew") && message.contains("as the kernel said"), "{message}");
    cluster.node_where("fir", "the good node is ready", |node| node.labels().contains_key(READY_LABEL)).await;
    let table = cluster.plane.kubectl(&["-n", "hall", "get", "modules"]).await.expect("a table");
    assert!(table.contains("gauge") && table.contains("LoadFailed"), "{table}");
    cluster.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_made_anew_under_its_name_gets_an_order_of_its_own() {
    let mut cluster = Cluster::start().await;
    cluster.add_node("larch").await;
    cluster.push_driver("gauge:v1", "one");
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    let first =
        cluster.config_where("larch", "the driver is assigned", |config| order(config).is_some()).await;
    cluster.obey("larch", ModulePhase::Loaded).await;
    cluster.nodes().delete("larch", &DeleteParams::default()).await.expect("a deletion");
    wait::until("the old object is collected", SOON, async || {
        let left = cluster.configs().get_opt("larch").await.ok()?;
        left.is_none_or(|config| config.uid() != first.uid()).then_some(())
    })
    .await
    .expect("garbage collection");
    cluster.add_node("larch").await;
    let second =
        cluster.config_where("larch", "the new node's order", |config| order(config).is_some()).await;
    assert_ne!(second.uid(), first.uid());
    assert!(second.status.expect("a status").modules.is_empty(), "nothing of the old node's report is left");
    let node = cluster.nodes().get("larch").await.expect("the node");
    assert!(!node.labels().contains_key(READY_LABEL));
    tokio::time::timeout(Duration::from_secs(30), cluster.stop_operator()).await.expect("a graceful end");
}
