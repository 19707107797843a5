//! Tenon as in production: operator and node pod are pods of a real kubelet under containerd, from images in a registry,
//! installed by the manifests of `deploy/` word for word.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod shipped;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tenon_api::NodeModulesConfig;
use tenon_api::node_pod::NAMESPACE;
use tenon_lab::claim::comes_true_within;
use tenon_lab::command::ShownOnPanic;
use tenon_lab::guest::oci::HOST;
use tenon_lab::journey::Journey;
use tenon_lab::kernel::Origin;
use tenon_lab::pods::{Nodes, Release, SHIPPED};
use tenon_lab::state::State;
use tenon_lab::{Guest, Lab};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use shipped::KERNEL_MODULE;

const NODE: &str = "loom-1";
const MODULE: &str = "default/simple";
/// A folder with the programs of the release before this one, to try this one beside them. Without it, both releases are
/// of these sources.
const PREVIOUS: &str = "TENON_LAB_PREVIOUS";

/// After a boot, on a busy machine.
const PODS_START: Duration = Duration::from_mins(6);

/// Clients live as long as the runtime that they were made on.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
/// Never dropped: its processes end with this one, and its folder goes with the next lab.
static LAB: Mutex<Option<Lab>> = Mutex::const_new(None);

/// Runs a scenario in the lab that all share, with Tenon as shipped on one worker.
fn on_worker(scenario: impl AsyncFnOnce(&mut Lab)) {
    RUNTIME.block_on(async {
        let mut shared = LAB.lock().await;
        if shared.is_none() {
            *shared = Some(start().await);
        }
        let lab = shared.as_mut().unwrap();
        let logs = ShownOnPanic(lab.logs());
        scenario(lab).await;
        drop(logs);
    });
}

async fn start() -> Lab {
    let mut lab = Lab::start_without_operator().await.unwrap();
    lab.add_worker(NODE, Origin::Stable).await.unwrap();
    shipped::install(&lab).await;
    lab
}

fn machine(lab: &Lab) -> &Guest {
    lab.worker(NODE).unwrap().guest()
}

async fn shell(lab: &Lab, line: &str) -> String {
    machine(lab).shell(line).await.unwrap().trim_end().to_owned()
}

async fn apply_module(lab: &Lab, version: &str) {
    let image = format!("{HOST}:{}/simple:{version}", lab.registry().port());
    let module = json!({
        "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module",
        "metadata": { "name": "simple", "namespace": "default" },
        "spec": {
            "selector": { "kubernetes.io/os": "linux" },
            "moduleLoader": { "container": {
                "registryTLS": { "insecure": true },
                "kernelMappings": [{ "regexp": "^.+$", "containerImage": image }],
                "modprobe": { "moduleName": KERNEL_MODULE },
            }},
        },
    });
    lab.plane().apply(&module.to_string()).await.unwrap();
}

async fn remove(lab: &Lab, journey: &mut Journey) {
    lab.plane().kubectl(&["delete", "--wait=false", "module", "simple"]).await.unwrap();
    journey.unloaded(lab, |_| {}).await.unwrap();
}

async fn pods(lab: &Lab) -> Vec<Pod> {
    let pods: Api<Pod> = Api::namespaced(lab.plane().client(), NAMESPACE);
    let pods = pods.list(&ListParams::default()).await.unwrap();
    pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect()
}

/// How often the containers of the node's pod were started again, by the container.
async fn starts(lab: &Lab) -> BTreeMap<String, i32> {
    let pods = pods(lab).await;
    let of_node = pods
        .iter()
        .filter(|pod| pod.labels().get("app.kubernetes.io/component").is_some_and(|it| it == "node"));
    let statuses = of_node
        .flat_map(|pod| pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten()));
    let starts: BTreeMap<_, _> = statuses.map(|status| (status.name.clone(), status.restart_count)).collect();
    assert_eq!(starts.len(), 2, "agent and loader");
    starts
}

/// What tells one load of the module from another.
#[derive(Debug, PartialEq, Eq)]
struct Loading {
    /// When the loader says that it loaded it.
    at: String,
    /// How often the kernel has run the driver's init and exit since it booted.
    words: String,
    /// How many use it.
    users: String,
}

async fn loading(lab: &Lab, journey: &Journey) -> Loading {
    let client = lab.plane().client();
    let state = Box::pin(State::of(&client, journey.key())).await.unwrap();
    let reported = state.nodes.first().unwrap().reported().unwrap();
    Loading {
        at: format!("{:?}", reported.loaded_at.as_ref().unwrap()),
        words: shell(lab, "dmesg | grep simple-kmod").await,
        users: shell(lab, "cat /sys/module/simple_kmod/refcnt").await,
    }
}

/// The versions that the pods' images say they are of, by the program.
async fn versions(lab: &Lab) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    for pod in pods(lab).await {
        for container in pod.spec.unwrap().containers {
            let image = container.image.unwrap();
            let (_, image) = image.rsplit_once('/').unwrap();
            let (program, version) = image.split_once(':').unwrap();
            versions.insert(program.to_owned(), version.to_owned());
        }
    }
    versions
}

fn expected(operator: &str, node: &str) -> BTreeMap<String, String> {
    let expected = [("tenon-operator", operator), ("tenon-agent", node), ("tenon-loader", node)];
    expected.map(|(program, version)| (program.to_owned(), version.to_owned())).into()
}

#[test]
fn the_shipped_pods_load_change_and_remove_a_driver_within_their_confines() {
    on_worker(async |lab| {
        let starts_before = starts(lab).await;
        let mut journey = Journey::new(MODULE.parse().unwrap(), KERNEL_MODULE);
        apply_module(lab, "1.0").await;
        journey.loaded(lab, |_| {}).await.unwrap();
        let first = loading(lab, &journey).await;
        assert!(first.words.contains("simple-kmod 1.0"), "{first:?}");
        apply_module(lab, "2.0").await;
        journey.loaded(lab, |_| {}).await.unwrap();
        assert!(loading(lab, &journey).await.words.contains("simple-kmod 2.0"));

        assert_eq!(starts(lab).await, starts_before, "nothing of the node's pod has ended meanwhile");
        confined(lab).await;
        remove(lab, &mut journey).await;
    });
}

/// What the kernel says of the processes: what the runtime has made of the manifests.
async fn confined(lab: &Lab) {
    let status = |program: &str| {
        format!(
            "grep -E '^(Uid|CapBnd|CapEff|NoNewPrivs|Seccomp):' /proc/$(pidof {program} | cut -d' ' -f1)/status | tr -s '\\t ' ' '"
        )
    };
    let loader = shell(lab, &status("tenon-loader")).await;
    // SYS_MODULE is capability 16, SYSLOG 34 (linux/capability.h). The loader adds a filter of its own to the runtime's.
    let kept = format!("{:016x}", (1_u64 << 16) | (1_u64 << 34));
    let expected = format!("Uid: 0 0 0 0\nCapEff: {kept}\nCapBnd: {kept}\nNoNewPrivs: 1\nSeccomp: 2");
    assert_eq!(loader, expected);
    for (program, user) in [("tenon-agent", 65531), ("tenon-operator", 65532)] {
        let none = "0".repeat(16);
        let expected = format!(
            "Uid: {user} {user} {user} {user}\nCapEff: {none}\nCapBnd: {none}\nNoNewPrivs: 1\nSeccomp: 2"
        );
        assert_eq!(shell(lab, &status(program)).await, expected, "{program}");
    }
    let sees = shell(lab, "cd /proc/$(pidof tenon-loader)/root && find . -maxdepth 1 -type f").await;
    assert_eq!(sees, "./tenon-loader", "the image holds the program alone");
}

#[test]
fn a_worker_that_loses_its_power_boots_and_its_pod_loads_the_driver_again() {
    on_worker(async |lab| {
        // containerd flushes nothing that it unpacks: programs that were pulled a moment before a power cut are empty after it.
        // What Tenon writes from here on is not flushed for it.
        machine(lab).shell("sync").await.unwrap();
        let mut journey = Journey::new(MODULE.parse().unwrap(), KERNEL_MODULE);
        apply_module(lab, "1.0").await;
        journey.loaded(lab, |_| {}).await.unwrap();
        let boot = machine(lab).hello().unwrap().boot_id.clone();
        assert!(lab.reset_worker(NODE).await.unwrap());
        let now = machine(lab).hello().unwrap().boot_id.clone();
        assert_ne!(now, boot);
        let configs: Api<NodeModulesConfig> = Api::all(lab.plane().client());
        comes_true_within(PODS_START, "the node's pod runs in the new boot", async || {
            let config = configs.get(NODE).await.map_err(|error| error.to_string())?;
            let told = config.status.unwrap_or_default().boot_id;
            if told.as_ref() == Some(&now) {
                Ok(())
            } else {
                Err(format!("the agent tells of boot {told:?}"))
            }
        })
        .await
        .unwrap();
        journey.loaded(lab, |_| {}).await.unwrap();
        remove(lab, &mut journey).await;
    });
}

#[test]
fn an_upgrade_of_either_half_reloads_nothing_and_both_work_with_the_others_neighbour() {
    on_worker(async |lab| {
        const NEXT: &str = "next";
        let previous = std::env::var_os(PREVIOUS).map(PathBuf::from);
        let (old, new) = match &previous {
            Some(_) => ("previous", SHIPPED),
            None => (SHIPPED, NEXT),
        };
        lab.publish(Release { version: old, programs: previous.as_deref() }).await.unwrap();
        lab.publish(Release { version: new, programs: None }).await.unwrap();
        roll(lab, (old, old)).await;
        let mut journey = Journey::new(MODULE.parse().unwrap(), KERNEL_MODULE);
        apply_module(lab, "1.0").await;
        journey.loaded(lab, |_| {}).await.unwrap();

        // The operator first, as the documentation says; then the nodes; then a way back for the operator alone.
        let mut driver = ["2.0", "1.0"].into_iter().cycle();
        for (operator, node) in [(new, old), (new, new), (old, new)] {
            let before = loading(lab, &journey).await;
            roll(lab, (operator, node)).await;
            journey.loaded(lab, |_| {}).await.unwrap();
            assert_eq!(loading(lab, &journey).await, before, "operator {operator}, node {node}");
            // And they do their work together.
            apply_module(lab, driver.next().unwrap()).await;
            journey.loaded(lab, |_| {}).await.unwrap();
            assert_ne!(loading(lab, &journey).await, before);
        }
        remove(lab, &mut journey).await;
        roll(lab, (SHIPPED, SHIPPED)).await;
    });
}

/// Brings operator and node pod to these versions.
async fn roll(lab: &Lab, (operator, node): (&str, &str)) {
    lab.deploy_operator(operator).await.unwrap();
    lab.operator_rolled_out().await.unwrap();
    lab.deploy_node_pod(node, Nodes::All).await.unwrap();
    lab.node_pods_rolled_out().await.unwrap();
    assert_eq!(versions(lab).await, expected(operator, node));
}
