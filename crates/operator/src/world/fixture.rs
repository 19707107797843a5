//! Objects as a watch or a list brings them.

use tenon_api::node_modules_config::NodeModulesConfig;

use super::Node;

/// A Node at a version, with a label or without.
pub(super) fn node(version: u64, ready: bool) -> Node {
    let labels = if ready { serde_json::json!({"ready": ""}) } else { serde_json::json!({}) };
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "pine", "uid": "u-1", "resourceVersion": version.to_string(), "labels": labels},
        "status": {"nodeInfo": {
            "architecture": "amd64", "bootID": "b-1", "containerRuntimeVersion": "", "kernelVersion": "6.1.0",
            "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "linux",
            "osImage": "", "systemUUID": ""
        }}
    }))
    .unwrap()
}

/// Its object at a version.
pub(super) fn config(version: u64) -> NodeModulesConfig {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "pine", "uid": "u-2", "resourceVersion": version.to_string()}, "spec": {}
    }))
    .unwrap()
}
