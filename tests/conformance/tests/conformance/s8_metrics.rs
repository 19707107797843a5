//! §8: the operator's metrics under KMM's names.

use std::net::SocketAddr;

use kube::api::{Patch, PatchParams};
use serde_json::json;
use tenon_lab::claim::comes_true_within;
use tenon_lab::prometheus::get;
use tenon_test_api::cluster::{Cluster, SOON};

/// What the operator shows, once all these lines are among it.
async fn shows(operator: SocketAddr, what: &str, lines: &[&str]) -> String {
    comes_true_within(SOON, what, async || {
        let (_, text) = get(operator, "/metrics").await.map_err(|error| error.to_string())?;
        match lines.iter().find(|line| !text.lines().any(|shown| shown == **line)) {
            Some(line) => Err(format!("{line} is missing in\n{text}")),
            None => Ok(text),
        }
    })
    .await
    .unwrap_or_else(|late| panic!("{late}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_20_raw_arguments_are_shown_and_what_is_gone_is_not() {
    let mut cluster = Cluster::start().await;
    let operator = cluster.show_metrics().await;
    let none = [
        "kmm_module_num 0",
        "kmm_in_cluster_build_num 0",
        "kmm_in_cluster_sign_num 0",
        "kmm_device_plugin_num 0",
        "kmm_preflight_num 0",
    ];
    shows(operator, "the cluster is empty", &none).await;
    let container = |more| json!({ "spec": { "moduleLoader": { "container": more } } });
    let args = json!({ "modprobe": { "args": { "load": ["-v"], "unload": ["-v", "-r"] } } });
    cluster.apply_module("gauge", "gauge:1", container(args)).await;
    // As a user writes it: with raw arguments there is no name of a module.
    let raw = json!({
        "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module", "metadata": { "name": "meter" },
        "spec": { "selector": { "kubernetes.io/os": "linux" }, "moduleLoader": { "container": {
            "modprobe": { "rawArgs": { "load": ["simple-kmod"], "unload": ["-r", "simple-kmod"] } },
            "kernelMappings": [{ "regexp": "^.+$", "containerImage": "registry.example/meter:1" }],
            "build": { "dockerfileConfigMap": { "name": "recipe" } },
            "sign": {
                "keySecret": { "name": "key" }, "certSecret": { "name": "cert" },
                "filesToSign": ["/opt/lib/modules/${KERNEL_FULL_VERSION}/simple-kmod.ko"],
            },
        } } },
    });
    let params = PatchParams::apply("a-user").force();
    cluster.modules().patch("meter", &params, &Patch::Apply(raw)).await.expect("a Module");
    let plugin =
        json!({ "spec": { "devicePlugin": { "container": { "image": "registry.example/plugin:1" } } } });
    cluster.apply_module("plug", "plug:1", plugin).await;
    let all = [
        "kmm_module_num 3",
        "kmm_in_cluster_build_num 1",
        "kmm_in_cluster_sign_num 1",
        "kmm_device_plugin_num 1",
        r#"kmm_modprobe_args{name="gauge",namespace="hall",modprobeArgs="-v,-v,-r"} 1"#,
        r#"kmm_modprobe_raw_args{name="meter",namespace="hall",modprobeRawArgs="simple-kmod,-r,simple-kmod"} 1"#,
    ];
    shows(operator, "three Modules", &all).await;

    for name in ["gauge", "meter", "plug"] {
        cluster.delete_module(name).await;
    }
    let text = shows(operator, "the cluster is empty again", &none).await;
    for gone in ["gauge", "meter"] {
        assert!(!text.contains(&format!("name=\"{gone}\"")), "{text}");
    }
}
