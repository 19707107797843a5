//! The operator reads Secrets by name, and only in the namespaces that the administrator has named.

use serde_json::json;
use tenon_image::testing::Auth;
use tenon_test_api::cluster::{Cluster, condition};

const READS: &str = "tenon-operator-secrets";

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_a_namespace_that_was_not_named_is_a_named_wait_that_ends_with_the_binding() {
    let mut cluster = Cluster::start().await;
    cluster.plane.kubectl(&["delete", "clusterrolebinding", READS]).await.expect("it is there");
    cluster.add_node("ash").await;
    cluster.push_driver("gauge:v1", "one");
    cluster.registry.require(Auth::Basic("user".to_owned(), "word".to_owned()));
    let config = json!({"auths": {cluster.registry.host(): {"username": "user", "password": "word"}}});
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": "pull", "namespace": "hall"}, "stringData": {".dockerconfigjson": config.to_string()},
    });
    cluster.plane.apply(&secret.to_string()).await.expect("a Secret");
    cluster.apply_module("gauge", "gauge:v1", json!({"spec": {"imageRepoSecret": {"name": "pull"}}})).await;
    let module = cluster
        .module_where("gauge", "the Secret cannot be read", |module| {
            condition(module, "Ready").is_some_and(|ready| ready.1 == "SecretMissing")
        })
        .await;
    let message = condition(&module, "Waiting").expect("a condition").2.to_owned();
    assert!(message.contains("hall/pull") && message.contains(READS), "{message}");
    let role = format!("--clusterrole={READS}");
    let line =
        ["create", "rolebinding", READS, "-n", "hall", &role, "--serviceaccount=tenon-system:tenon-operator"];
    cluster.plane.kubectl(&line).await.expect("a binding");
    cluster.config_where("ash", "it is assigned", |config| !config.spec.modules.is_empty()).await;
    // Its own keys and certificates it reads by a role of its own.
    let own = [
        "auth",
        "can-i",
        "get",
        "secret/tenon-order-key",
        "-n",
        "tenon-system",
        "--as=system:serviceaccount:tenon-system:tenon-operator",
    ];
    assert_eq!(cluster.plane.kubectl(&own).await.expect("an answer").trim(), "yes");
    cluster.stop_operator().await;
}
