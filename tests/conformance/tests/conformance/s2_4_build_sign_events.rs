//! §2.4: what is told of builds and signatures: the documented reasons on the Module, by KMM's source, with its kernel.

use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;
use tenon_lab::claim::comes_true_within;
use tenon_lab::jobs;
use tenon_test_api::cluster::{Cluster, SOON};

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/sign/testdata");

async fn secret(cluster: &Cluster, name: &str, entry: &str, file: &str) {
    let content = fs::read_to_string(Path::new(KEYS).join(file)).expect("a key");
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": { entry: content },
    });
    let params = PatchParams::apply("a-user").force();
    cluster.secrets().patch(name, &params, &Patch::Apply(secret)).await.expect("a Secret");
}

/// The event of that reason on Module `gauge`, found as scripts find it: in the core API, by reason and source.
pub(crate) async fn event(
    cluster: &Cluster,
    namespace: &str,
    kind: &str,
    reason: &str,
    source: &str,
) -> Event {
    let events: Api<Event> = Api::namespaced(cluster.client.clone(), namespace);
    let fields = format!("involvedObject.kind={kind},reason={reason},source={source}");
    comes_true_within(SOON, format!("an event {reason} on a {kind}"), async || {
        let found = events.list(&ListParams::default().fields(&fields)).await;
        let found = found.map_err(|error| error.to_string())?;
        found.items.into_iter().next().ok_or_else(|| format!("none of {fields}"))
    })
    .await
    .unwrap_or_else(|late| panic!("{late}"))
}

fn has(event: &Event, type_: &str, beginning: &str) {
    let message = event.message.as_deref().unwrap_or_default();
    assert_eq!(event.type_.as_deref(), Some(type_), "{message}");
    assert!(message.starts_with(beginning), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_is_told_of_when_it_is_begun_when_it_is_made_and_when_it_fails() {
    let cluster = Cluster::start().await;
    let _kubelet = jobs::serve(cluster.client.clone());
    cluster.add_node("ash").await;
    cluster.push_driver("plain:1", "one");
    secret(&cluster, "key", "key", "rsa.key").await;
    secret(&cluster, "cert", "cert", "rsa.pem").await;
    let sign = json!({ "spec": { "moduleLoader": { "container": { "sign": {
        "keySecret": { "name": "key" }, "certSecret": { "name": "cert" },
        "unsignedImage": format!("{}/plain:1", cluster.registry.host()),
        "filesToSign": ["/opt/lib/modules/${KERNEL_FULL_VERSION}/extra/*.ko"],
    }}}}});
    cluster.apply_module("gauge", "signed:1", sign.clone()).await;
    let kernel = &cluster.kernel;
    let about = |reason: &'static str| event(&cluster, "hall", "Module", reason, "kmm");
    let created = about("SignCreated").await;
    has(&created, "Normal", &format!("Sign created for kernel {kernel}"));
    let annotations = created.metadata.annotations.unwrap_or_default();
    assert_eq!(annotations.get("kernel-version"), Some(kernel));
    let succeeded = about("SignSucceeded").await;
    has(&succeeded, "Normal", &format!("Sign job succeeded for kernel {kernel}"));
    assert_eq!(succeeded.involved_object.name.as_deref(), Some("gauge"));

    // A certificate of another key.
    secret(&cluster, "cert", "cert", "p384.pem").await;
    cluster.apply_module("gauge", "signed:2", sign).await;
    has(&about("SignFailed").await, "Warning", &format!("Sign job failed for kernel {kernel}"));
}
