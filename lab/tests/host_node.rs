//! The host's own kubelet runs pods as any node does, at the machine's own speed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::{Value, json};
use tenon_lab::claim::comes_true_within;
use tenon_lab::control_plane::Extent;
use tenon_lab::dir::LabDir;
use tenon_lab::host_node;
use tenon_lab::program_images::{self, ProgramImage};
use tenon_lab::registry::Protection;
use tenon_lab::setup::Supplies;
use tenon_lab::{ControlPlane, HostNode, Registry};

/// A pod's whole life on a busy machine.
const SOON: Duration = Duration::from_mins(5);
const NODE: &str = "anvil";

struct Place {
    // In the order in which they end.
    node: HostNode,
    registry: Registry,
    plane: ControlPlane,
    supplies: Supplies,
    _dir: LabDir,
}

impl Place {
    async fn start() -> Self {
        let supplies = Supplies::get().unwrap();
        let dir = LabDir::create().unwrap();
        let plane = ControlPlane::start_in(dir.path(), Extent::Full).await.unwrap();
        let mut registry =
            Registry::start(&supplies, dir.path(), "registry", &Protection::default()).await.unwrap();
        let begun = Instant::now();
        let node = HostNode::start(&plane, &mut registry, NODE).await.unwrap();
        println!("node ready after {:.1?}", begun.elapsed());
        Self { node, registry, plane, supplies, _dir: dir }
    }

    /// Waits for a pod's end, well or not; gives its phase.
    async fn ended(&self, name: &str) -> String {
        let pods: Api<Pod> = Api::namespaced(self.plane.client(), "forge");
        comes_true_within(SOON, format!("pod {name} ends"), async || {
            let pod = pods.get(name).await.map_err(|error| error.to_string())?;
            let status = pod.status.unwrap_or_default();
            match status.phase.as_deref() {
                Some(phase @ ("Succeeded" | "Failed")) => Ok(phase.to_owned()),
                phase => Err(format!("{phase:?} {:?}", status.container_statuses)),
            }
        })
        .await
        .unwrap()
    }

    async fn log(&self, pod: &str, container: &str) -> String {
        self.plane.kubectl(&["logs", "-n", "forge", pod, "-c", container]).await.unwrap()
    }
}

fn namespace(level: &str) -> String {
    let labels = json!({ "pod-security.kubernetes.io/enforce": level });
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "forge", "labels": labels } })
        .to_string()
}

#[tokio::test]
async fn a_restricted_pod_runs_and_kubectl_reads_its_log() {
    let place = Place::start().await;
    let busybox = ProgramImage {
        binary: &place.supplies.busybox,
        program: "/busybox",
        arguments: &[],
        labels: BTreeMap::new(),
    };
    let image = format!("{}/busybox:1", host_node::name_of(&place.registry));
    program_images::push(&busybox, &image).await.unwrap();
    place.plane.apply(&namespace("restricted")).await.unwrap();
    let script = format!(
        "echo user $(/busybox id -u) && /busybox wget -q -O - http://{}/v2/ && \
         echo && /busybox grep -q eth0 /proc/net/dev && echo reached",
        host_node::name_of(&place.registry)
    );
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "caller", "namespace": "forge" },
        "spec": {
            "restartPolicy": "Never",
            "securityContext": { "runAsNonRoot": true, "runAsUser": 1000,
                "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "caller", "image": image, "command": ["/busybox", "sh", "-c", script],
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
                    "readOnlyRootFilesystem": true },
            }],
        },
    });
    let begun = Instant::now();
    place.plane.apply(&pod.to_string()).await.unwrap();
    let phase = place.ended("caller").await;
    println!("restricted pod ended after {:.1?}", begun.elapsed());
    let log = place.log("caller", "caller").await;
    assert_eq!((phase.as_str(), log.trim()), ("Succeeded", "user 1000\n{}\nreached"));

    let begun = Instant::now();
    drop(place.node);
    println!("node gone after {:.1?}", begun.elapsed());
    let bridge = Path::new("/sys/class/net/tenon-lab0");
    assert!(!bridge.exists() && !Path::new("/sys/fs/cgroup/memory/tenon-lab").exists());
}
