//! From a Node object, tens of kilobytes, to the few facts that count.

use k8s_openapi::api::core::v1::Taint;
use kube::core::ObjectMeta;
use kube::{Resource, ResourceExt};
use serde::Deserialize;
use tenon_plan::node::NodeFacts;
use tenon_plan::provision::toolkit::OsVersion;

/// Of a Node (`k8s.io/api/core/v1`) what is read here. Its images, conditions and addresses are passed over.
#[derive(Debug, Clone, Default, Resource, Deserialize)]
#[resource(inherit = k8s_openapi::api::core::v1::Node)]
pub struct Node {
    /// What names it, and its labels.
    pub metadata: ObjectMeta,
    /// What is wished of it.
    pub spec: Option<NodeSpec>,
    /// What its kubelet says.
    pub status: Option<NodeStatus>,
}

/// Of a Node's spec.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct NodeSpec {
    /// What keeps pods away.
    pub taints: Option<Vec<Taint>>,
}

/// Of a Node's status.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// What runs there.
    pub node_info: Option<NodeInfo>,
}

/// Of what a kubelet says about its machine (`NodeSystemInfo`).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// As Go names it.
    pub architecture: String,
    /// The running boot.
    #[serde(rename = "bootID")]
    pub boot_id: String,
    /// `uname -r`.
    pub kernel_version: String,
    /// As Go names it.
    pub operating_system: String,
    /// What the system calls itself.
    #[serde(default)]
    pub os_image: String,
}

/// The facts of a Linux node whose kubelet has reported its kernel; `None` for all others.
pub(super) fn project(node: Node) -> Option<NodeFacts> {
    let info = node.status?.node_info?;
    let name = node.metadata.name.as_deref()?.parse().ok()?;
    (info.operating_system == "linux").then_some(())?;
    Some(NodeFacts {
        name,
        uid: node.metadata.uid?,
        kernel: info.kernel_version.parse().ok()?,
        architecture: info.architecture,
        boot_id: info.boot_id,
        labels: node.metadata.labels.unwrap_or_default(),
        taints: node.spec.and_then(|spec| spec.taints).unwrap_or_default(),
        os_version: OsVersion::of(&info.os_image),
    })
}

/// The name of a Node object, for events that carry no more.
pub(super) fn name(node: &Node) -> Option<tenon_order::NodeName> {
    node.name_any().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(os: &str, kernel: &str) -> Node {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "pine", "uid": "u-1", "labels": {"hall": "a"}, "managedFields": []},
            "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]},
            "status": {"nodeInfo": {
                "architecture": "arm64", "bootID": "b-1", "containerRuntimeVersion": "", "kernelVersion": kernel,
                "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": os,
                "osImage": "Red Hat Enterprise Linux CoreOS 9.6.20250523-0 (Plow)", "systemUUID": ""
            }}
        }))
        .unwrap()
    }

    #[test]
    fn a_linux_node_has_facts() {
        let facts = project(node("linux", "6.1.0-foo")).unwrap();
        assert_eq!((facts.name.as_ref(), facts.uid.as_str(), facts.boot_id.as_str()), ("pine", "u-1", "b-1"));
        assert_eq!((facts.kernel.to_string().as_str(), facts.architecture.as_str()), ("6.1.0-foo", "arm64"));
        assert_eq!((facts.labels.len(), facts.taints.len()), (1, 1));
        assert_eq!(facts.os_version.unwrap().as_str(), "9.6.20250523-0");
    }

    #[test]
    fn a_windows_node_and_one_without_a_kernel_have_none() {
        assert_eq!(project(node("windows", "10.0.20348")), None);
        assert_eq!(project(node("linux", "")), None);
    }
}
