//! §2.4: what is told of builds and signatures: the documented reasons on the Module, by KMM's source, with its kernel; of what is built
//! and signed, those of both, in their order.

use std::fs;
use std::io;
use std::path::Path;

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tenon_image::manifest::OCI_LAYER_GZIP;
use tenon_image::testing::{TestLayout, layer};
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
    found(cluster, namespace, &format!("involvedObject.kind={kind},reason={reason},source={source}")).await
}

async fn found(cluster: &Cluster, namespace: &str, fields: &str) -> Event {
    comes_true_within(SOON, format!("an event with {fields}"), async || {
        let found = all(cluster, namespace, fields).await.map_err(|error| error.to_string())?;
        found.into_iter().next().ok_or_else(|| "none".to_owned())
    })
    .await
    .unwrap_or_else(|late| panic!("{late}"))
}

async fn all(cluster: &Cluster, namespace: &str, fields: &str) -> Result<Vec<Event>, kube::Error> {
    let events: Api<Event> = Api::namespaced(cluster.client.clone(), namespace);
    Ok(events.list(&ListParams::default().fields(fields)).await?.items)
}

fn has(event: &Event, type_: &str, beginning: &str) {
    let message = event.message.as_deref().unwrap_or_default();
    assert_eq!(event.type_.as_deref(), Some(type_), "{message}");
    assert!(message.starts_with(beginning), "{message}");
}

/// What a build leaves, where the pod has a container that builds: the driver in a layer.
fn built(pod: &Pod, work: &Path, file: &str, driver: &[u8]) -> io::Result<()> {
    if pod.spec.as_ref().is_none_or(|spec| spec.init_containers.is_none()) {
        return Ok(());
    }
    let layout = TestLayout::create(&work.join("image"))?;
    let image = layout.put_image("amd64", &[(OCI_LAYER_GZIP, layer(&[(file, driver)]))])?;
    layout.put_index(&[image])
}

/// Module `anvil`, which is built and then signed.
async fn apply_anvil(cluster: &Cluster, image: &str, sign: &Value) {
    let mut wish = sign.clone();
    wish["spec"]["moduleLoader"]["container"]["build"] = json!({ "dockerfile": "FROM scratch\nADD x /" });
    cluster.apply_module("anvil", image, wish).await;
}

/// The event of that reason on Module `anvil`.
fn on_anvil(reason: &str) -> String {
    format!("involvedObject.kind=Module,involvedObject.name=anvil,reason={reason},source=kmm")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_is_told_of_when_it_is_begun_when_it_is_made_and_when_it_fails() {
    let cluster = Cluster::start().await;
    let (file, driver) =
        (format!("opt/lib/modules/{}/extra/simple-kmod.ko", cluster.kernel), cluster.driver().to_vec());
    let _kubelet =
        jobs::serve_after(cluster.client.clone(), move |pod, work| built(pod, work, &file, &driver));
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

    // Of what is built and signed KMM tells both, and so do we, though it is one Job.
    apply_anvil(&cluster, "anvil:1", &sign).await;
    let mut times = Vec::new();
    for (reason, beginning) in [
        ("BuildCreated", "Build created for kernel "),
        ("BuildSucceeded", "Build job succeeded for kernel "),
        ("SignCreated", "Sign created for kernel "),
        ("SignSucceeded", "Sign job succeeded for kernel "),
    ] {
        let event = found(&cluster, "hall", &on_anvil(reason)).await;
        has(&event, "Normal", &format!("{beginning}{kernel}"));
        times.push(event.event_time.expect("when it was"));
    }
    assert!(times.is_sorted(), "{times:?}");

    // A certificate of another key.
    secret(&cluster, "cert", "cert", "p384.pem").await;
    cluster.apply_module("gauge", "signed:2", sign.clone()).await;
    has(&about("SignFailed").await, "Warning", &format!("Sign job failed for kernel {kernel}"));

    // What was built and cannot be signed was built.
    apply_anvil(&cluster, "anvil:2", &sign).await;
    let failed = found(&cluster, "hall", &on_anvil("SignFailed")).await;
    has(&failed, "Warning", &format!("Sign job failed for kernel {kernel}"));
    let unbuilt = all(&cluster, "hall", &on_anvil("BuildFailed")).await.expect("a list");
    assert!(unbuilt.is_empty(), "{unbuilt:?}");
}
