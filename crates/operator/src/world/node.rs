//! From a Node object, tens of kilobytes, to the few facts that count.

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use tenon_plan::node::NodeFacts;

/// The facts of a Linux node whose kubelet has reported its kernel; `None` for all others.
pub fn project(node: Node) -> Option<NodeFacts> {
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
                "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": os, "osImage": "",
                "systemUUID": ""
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
    }

    #[test]
    fn a_windows_node_and_one_without_a_kernel_have_none() {
        assert_eq!(project(node("windows", "10.0.20348")), None);
        assert_eq!(project(node("linux", "")), None);
    }
}
