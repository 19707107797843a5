//! The objects that a kubelet writes, and the node pod's.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use serde_json::{Value, json};
use tenon_api::node_pod::{CONTAINERS, Images, NAMESPACE, pod_template};

use crate::guest::Hello;

/// As Go names the guests' architecture, and Kubernetes with it.
const ARCHITECTURE: &str = "amd64";
/// The guests have no images to pull: their containers hold the programs.
const IMAGE: &str = "lab.invalid/program";

pub(super) fn pod_name(node: &str) -> String {
    format!("tenon-node-{node}")
}

pub(super) fn node(name: &str) -> Node {
    let labels = [("hostname", name), ("arch", ARCHITECTURE), ("os", "linux")];
    let labels = labels.map(|(key, value)| (format!("kubernetes.io/{key}"), value.to_owned()));
    Node {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        },
        ..Node::default()
    }
}

pub(super) fn node_status(name: &str, hello: &Hello, ready: bool) -> Value {
    let now = Timestamp::now();
    let (status, reason) = if ready { ("True", "KubeletReady") } else { ("False", "KubeletNotReady") };
    let capacity = json!({ "cpu": "1", "memory": "320Mi", "pods": "16" });
    json!({ "status": {
        "conditions": [{
            "type": "Ready", "status": status, "reason": reason, "message": "",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        }],
        "addresses": [
            { "type": "Hostname", "address": name },
            { "type": "InternalIP", "address": "10.0.2.15" },
        ],
        "capacity": capacity,
        "allocatable": capacity,
        "nodeInfo": {
            "architecture": ARCHITECTURE,
            "bootID": hello.boot_id,
            "containerRuntimeVersion": "runc://1.1.5",
            "kernelVersion": hello.release,
            "kubeProxyVersion": "",
            "kubeletVersion": "v1.36.3",
            "machineID": name,
            "operatingSystem": "linux",
            "osImage": "Debian GNU/Linux 12 (bookworm)",
            "systemUUID": name,
        },
    }})
}

pub(super) fn lease(node: &str) -> Lease {
    Lease {
        metadata: ObjectMeta { name: Some(node.to_owned()), ..ObjectMeta::default() },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: Some(40),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    }
}

/// The node pod, bound to the node of that uid, which controls it, as it does a static pod: a `DaemonSet` beside it, for
/// nodes with a kubelet, shall not take it for one of its own.
pub(super) fn pod(node: &str, uid: String) -> Pod {
    let template = pod_template(Images { agent: IMAGE, loader: IMAGE });
    let mut spec = template.spec;
    if let Some(spec) = &mut spec {
        spec.node_name = Some(node.to_owned());
        // The lab's kubelet deletes at once.
        spec.termination_grace_period_seconds = Some(0);
    }
    Pod {
        metadata: ObjectMeta {
            name: Some(pod_name(node)),
            namespace: Some(NAMESPACE.to_owned()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: node.to_owned(),
                uid,
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..template.metadata.unwrap_or_default()
        },
        spec,
        ..Pod::default()
    }
}

pub(super) fn pod_status() -> Value {
    let now = Timestamp::now();
    let containers = CONTAINERS.iter().map(|container| {
        json!({
            "name": container.name, "image": IMAGE, "imageID": IMAGE, "ready": true, "started": true,
            "restartCount": 0, "state": { "running": { "startedAt": now } },
        })
    });
    json!({ "status": {
        "phase": "Running",
        "hostIP": "10.0.2.15",
        "podIP": "10.0.2.15",
        "startTime": now,
        "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": now }],
        "containerStatuses": containers.collect::<Vec<_>>(),
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_says_what_the_guest_says() {
        let hello = Hello { release: "6.1.0".into(), boot_id: "b".into(), machine: "x86_64".into() };
        let status = node_status("n", &hello, false);
        assert_eq!(status["status"]["nodeInfo"]["kernelVersion"], "6.1.0");
        assert_eq!(status["status"]["conditions"][0]["status"], "False");
    }

    #[test]
    fn the_pod_is_the_tables_pod_on_that_node() {
        let pod = pod("n", "u".to_owned());
        let owners = pod.metadata.owner_references.unwrap();
        let owner = owners.first().unwrap();
        assert_eq!((owner.name.as_str(), owner.uid.as_str(), owner.controller), ("n", "u", Some(true)));
        let spec = pod.spec.unwrap();
        assert_eq!(spec.node_name.as_deref(), Some("n"));
        let names: Vec<&str> = spec.containers.iter().map(|container| container.name.as_str()).collect();
        assert_eq!(names, CONTAINERS.map(|container| container.name));
    }
}
