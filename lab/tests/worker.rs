//! A worker is a node like any other: pods come there by the scheduler, and reach what pods reach.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::json;
use tenon_lab::claim::comes_true_within;
use tenon_lab::control_plane::Extent;
use tenon_lab::kernel::Origin;
use tenon_lab::program_images::{self, ProgramImage};
use tenon_lab::registry::Protection;
use tenon_lab::worker::settings::REGISTRY;
use tenon_lab::{Bench, ControlPlane, Registry, Worker};

/// A pod's start on a busy machine, with the pull of its image.
const SOON: Duration = Duration::from_mins(4);

#[tokio::test]
async fn a_pod_is_scheduled_to_a_worker_and_reaches_the_api_server_by_its_service() {
    let bench = Bench::with_programs(vec![]).await.unwrap();
    let plane = ControlPlane::start_in(bench.folder(), Extent::Full).await.unwrap();
    let registry =
        Registry::start(bench.supplies(), bench.folder(), "registry", &Protection::default()).await.unwrap();
    let settings = bench.settings("loom-1", Origin::Stable).unwrap();
    let worker = Worker::start(&plane, &registry, &bench, settings).await.unwrap();

    let busybox = ProgramImage {
        binary: &bench.supplies().busybox,
        program: "/busybox",
        arguments: &[],
        labels: BTreeMap::new(),
    };
    program_images::push(&busybox, &format!("{}/busybox:1", registry.host())).await.unwrap();
    let script = "echo | /busybox nc -w 20 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT && \
                  /busybox grep -q eth0 /proc/net/dev && /busybox uname -r >/dev/termination-log";
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "caller", "namespace": "default" },
        "spec": { "restartPolicy": "Never", "containers": [{
            "name": "caller", "image": format!("{REGISTRY}/busybox:1"),
            "command": ["/busybox", "sh", "-c", script],
        }]},
    });
    plane.apply(&pod.to_string()).await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(plane.client());
    let said = comes_true_within(SOON, "the pod succeeds", async || {
        let pod = pods.get("caller").await.map_err(|error| error.to_string())?;
        let status = pod.status.unwrap_or_default();
        let state = status.container_statuses.iter().flatten().next().and_then(|one| one.state.clone());
        let ended = state.as_ref().and_then(|state| state.terminated.as_ref());
        match ended.filter(|ended| ended.exit_code == 0) {
            Some(ended) => Ok(ended.message.clone().unwrap_or_default()),
            None => Err(format!("{:?} {state:?}", status.phase)),
        }
    })
    .await
    .unwrap();
    assert_eq!(said.trim(), worker.guest().kernel().release);
}
