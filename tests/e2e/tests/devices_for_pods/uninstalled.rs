//! Tenon is uninstalled as `docs/operations.md` says, and the driver stays in the kernel with its device.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use tenon_api::node_pod::NAMESPACE;

use super::Site;
use super::vendors::{ACCELERATOR, ANSWER};

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy");

pub(crate) async fn tenon_goes_and_the_driver_stays(site: &Site) {
    let before = found(site).await;
    assert!(before.ends_with(ANSWER), "{before}");
    delete(site, &["node.yaml", "operator.yaml", "rbac", "flow-schemas.yaml"]).await;
    no_pod_is_left(site, NAMESPACE).await;
    site.shell_says("pidof tenon-agent tenon-loader tenon-operator || true", "").await;
    assert_eq!(found(site).await, before, "no program of Tenon's runs");

    let [namespace, name] = ACCELERATOR;
    let none = r#"{"metadata":{"finalizers":null}}"#;
    site.kubectl(&["--namespace", namespace, "patch", "module", name, "--type", "merge", "--patch", none])
        .await;
    delete(site, &["crds", "namespace.yaml"]).await;
    no_pod_is_left(site, namespace).await;
    assert_eq!(
        found(site).await,
        before,
        "there is no object of Tenon's, and the plugin has gone with its Module"
    );
}

/// What tells this load of the driver from another (a device's node is made anew with it), what is on disk for the next boot, and
/// what the device says.
async fn found(site: &Site) -> String {
    let record = format!("/var/lib/tenon/modules/{}.json", ACCELERATOR.join("/"));
    site.shell(&format!("busybox stat -c '%i %Z' /dev/lab-accel && ls {record} && cat /dev/lab-accel")).await
}

/// Deletes what these files of `deploy/` hold.
async fn delete(site: &Site, files: &[&str]) {
    for file in files {
        site.kubectl(&["delete", "--timeout=4m", "--filename", &format!("{DEPLOY}/{file}")]).await;
    }
}

async fn no_pod_is_left(site: &Site, namespace: &str) {
    let pods: Api<Pod> = Api::namespaced(site.lab.plane().client(), namespace);
    site.becomes(format!("no pod is left in {namespace}"), async || {
        let left = pods.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} pods")) }
    })
    .await;
}
