//! From a vendor's driver to a pod that uses its device, under a real kubelet and a real container runtime: by the device plugin
//! and by the DRA driver of `examples/`, with the manifests of `examples/modules` word for word. Then those of
//! `examples/vendors`, on the same node; at last Tenon is uninstalled.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "devices_for_pods/uninstalled.rs"]
mod uninstalled;
#[path = "devices_for_pods/vendors.rs"]
mod vendors;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use tenon_api::NodeModulesConfig;
use tenon_api::labels::{self, LabelKind, role};
use tenon_lab::claim::comes_true_within;
use tenon_lab::command::{ShownOnPanic, Tail};
use tenon_lab::drivers::Driver;
use tenon_lab::guest::oci::HOST;
use tenon_lab::images::{self, Destination};
use tenon_lab::journey::Journey;
use tenon_lab::kernel::Origin;
use tenon_lab::program_images::{self, ProgramImage};
use tenon_lab::programs::{self, Program};
use tenon_lab::state::State;
use tenon_lab::{Guest, Lab};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
const NODE: &str = "loom-1";
const NAME: &str = "lab-chardev";
const MODULE: &str = "default/lab-chardev";
const KERNEL_MODULE: &str = "lab_chardev";
/// What the manifests name.
const DEVICE: &str = "/dev/lab-chardev";
const RESOURCE: &str = "lab.tenon.dev/chardev";
const DRIVER: &str = "chardev.lab.tenon.dev";
/// What the driver says to whoever reads its device.
const WORDS: &str = "lab-chardev 1.0";
/// Pods on an emulated processor: images are pulled, programs start, the kubelet tells of it in its own time.
const SOON: Duration = Duration::from_mins(6);

struct Site {
    lab: Lab,
}

impl Site {
    async fn start() -> Self {
        let mut lab = Lab::start_without_operator().await.unwrap();
        lab.add_worker(NODE, Origin::Stable).await.unwrap();
        lab.install().await.unwrap();
        let site = Self { lab };
        site.push().await;
        site
    }

    /// Pushes what the manifests name, and what pods are made of.
    async fn push(&self) {
        let registry = self.lab.registry().host();
        let content = images::content(&self.lab, Driver::Chardev, "1.0").await.unwrap();
        let to = Destination { registry: &registry, name: "lab-chardev:1.0", user: None };
        images::push(&self.lab, &content, to).await.unwrap();
        let built = tokio::task::spawn_blocking(|| {
            [Program::DevicePlugin, Program::DraDriver].map(|program| programs::program(program).unwrap())
        });
        let [plugin, driver] = built.await.unwrap();
        let busybox = self.lab.supplies().busybox.clone();
        for (binary, program, name) in [
            (plugin, "/device-plugin", "device-plugin:1.0"),
            (driver, "/dra-driver", "dra-driver:1.0"),
            (busybox, "/busybox", "busybox:1.0"),
        ] {
            let image = ProgramImage { binary: &binary, program, arguments: &[], labels: BTreeMap::new() };
            program_images::push(&image, &format!("{registry}/{name}")).await.unwrap();
        }
    }

    /// The registry as the node and its pods name it.
    fn registry(&self) -> String {
        format!("{HOST}:{}", self.lab.registry().port())
    }

    /// One of the examples, turned to this registry as its README says.
    fn example(&self, path: &str) -> String {
        let path = PathBuf::from(EXAMPLES).join(path);
        fs::read_to_string(path).unwrap().replace("registry.example:5000", &self.registry())
    }

    async fn apply(&self, manifest: &Value) {
        self.lab.plane().apply(&manifest.to_string()).await.unwrap();
    }

    async fn kubectl(&self, arguments: &[&str]) -> String {
        self.lab.plane().kubectl(arguments).await.unwrap()
    }

    /// Applies a pod that runs this command, with more in its spec and in its container.
    async fn pod(&self, name: &str, command: &[&str], resources: Value, more: Value) {
        let mut spec = json!({
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "nodeSelector": { (LabelKind::Ready.key("default", NAME)): "" },
            "containers": [{
                "name": "user",
                "image": format!("{}/busybox:1.0", self.registry()),
                "command": command,
                "resources": resources,
            }],
        });
        spec.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
        let metadata = json!({ "name": name, "namespace": "default" });
        self.apply(&json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })).await;
    }

    /// Waits until a pod is in such a phase, and its container has said so much.
    async fn pod_says(&self, name: &str, phase: &str, words: &str) {
        let pods: Api<Pod> = Api::namespaced(self.lab.plane().client(), "default");
        self.becomes(format!("pod {name} is {phase} and says {words:?}"), async || {
            let status = pods.get(name).await.map_err(|error| error.to_string())?.status.unwrap_or_default();
            if status.phase.as_deref() != Some(phase) {
                return Err(of_pod(&status));
            }
            let said = self.logs(name).await;
            if said == words { Ok(()) } else { Err(said) }
        })
        .await;
    }

    async fn workload_is_gone(&self, role: &str) {
        let pods: Api<Pod> = Api::namespaced(self.lab.plane().client(), "default");
        let params = ListParams::default().labels(&format!("{}={role}", labels::ROLE));
        self.becomes(format!("no pod of the {role} is left"), async || {
            let left = pods.list(&params).await.map_err(|error| error.to_string())?.items.len();
            if left == 0 { Ok(()) } else { Err(format!("{left} pods")) }
        })
        .await;
    }

    /// Waits until the node offers so many devices to pods.
    async fn offers(&self, resource: &str, count: &str) {
        let nodes: Api<Node> = Api::all(self.lab.plane().client());
        self.becomes(format!("the node offers {count} of {resource}"), async || {
            let node = nodes.get(NODE).await.map_err(|error| error.to_string())?;
            let allocatable = node.status.unwrap_or_default().allocatable.unwrap_or_default();
            let offered = allocatable.get(resource).map(|quantity| quantity.0.as_str());
            if offered == Some(count) { Ok(()) } else { Err(format!("{offered:?}")) }
        })
        .await;
    }

    /// Waits until a command on the node says this.
    async fn shell_says(&self, line: &str, words: &str) {
        self.becomes(format!("{line:?} says {words:?}"), async || {
            let said = self.machine().shell(line).await.map_err(|error| error.to_string())?;
            if said.trim_end() == words { Ok(()) } else { Err(said) }
        })
        .await;
    }

    /// Waits until something is so, and tells on the way what is seen whenever that is something else. When it does not come, the last
    /// words of all who may know why are told.
    async fn becomes(&self, claim: impl Into<String>, mut look: impl AsyncFnMut() -> Result<(), String>) {
        let (claim, mut progress) = (claim.into(), Progress::begin());
        let found = comes_true_within(SOON, claim.as_str(), async || {
            let seen = look().await;
            progress.tell(&claim, seen.as_ref().err().map_or("yes", String::as_str));
            seen
        });
        if let Err(broken) = found.await {
            panic!("{broken}\n{}", self.last_words().await);
        }
    }

    /// Waits until a Module is loaded, as [`Self::becomes`].
    async fn loaded(&self, journey: &mut Journey) {
        let (claim, mut progress) = (format!("{} is loaded", journey.key()), Progress::begin());
        let loaded = journey.loaded(&self.lab, |state| progress.tell(&claim, &of_module(state)));
        if let Err(error) = loaded.await {
            panic!("{error}\n{}", self.last_words().await);
        }
    }

    /// Waits until nothing of a Module is left, as [`Self::becomes`].
    async fn unloaded(&self, journey: &mut Journey) {
        let (claim, mut progress) = (format!("{} is unloaded", journey.key()), Progress::begin());
        let unloaded = journey.unloaded(&self.lab, |state| progress.tell(&claim, &of_module(state)));
        if let Err(error) = unloaded.await {
            panic!("{error}\n{}", self.last_words().await);
        }
    }

    /// What the API server knows of pods, what befell them last, and the ends of their logs.
    async fn last_words(&self) -> String {
        let mut words = Vec::new();
        for what in ["pods", "events"] {
            let order =
                if what == "events" { "--sort-by=.lastTimestamp" } else { "--sort-by=.metadata.name" };
            let said = self.lab.plane().kubectl(&["get", what, "--all-namespaces", order]).await;
            words.push(said.map_or_else(|error| error.to_string(), |text| Tail::of(&text).to_string()));
        }
        let logs = self.machine().shell("tail -n 5 /var/log/pods/*/*/*.log 2>&1 || true").await;
        words.push(logs.unwrap_or_else(|error| error.to_string()));
        words.join("\n\n")
    }

    fn machine(&self) -> &Guest {
        self.lab.worker(NODE).unwrap().guest()
    }

    async fn shell(&self, line: &str) -> String {
        self.machine().shell(line).await.unwrap().trim_end().to_owned()
    }

    /// What the node is told to have loaded.
    async fn order(&self) -> String {
        let configs: Api<NodeModulesConfig> = Api::all(self.lab.plane().client());
        configs.get(NODE).await.unwrap().spec.order.unwrap()
    }

    /// What the pod's containers have said, from where the kubelet reads it: the API server has no way to it.
    async fn logs(&self, pod: &str) -> String {
        self.shell(&format!("cat /var/log/pods/default_{pod}_*/*/*.log 2>/dev/null | cut -d ' ' -f 4-")).await
    }

    /// The names of the descriptions that the container runtime finds.
    async fn described(&self) -> String {
        self.shell("ls /var/run/cdi 2>/dev/null || true").await
    }
}

/// Tells what is seen of something that is waited for, each time that it is something else.
#[derive(Debug)]
struct Progress {
    begun: Instant,
    told: String,
}

impl Progress {
    fn begin() -> Self {
        Self { begun: Instant::now(), told: String::new() }
    }

    fn tell(&mut self, claim: &str, seen: &str) {
        if self.told != seen {
            println!("{claim}? After {:.1?}: {seen}", self.begun.elapsed());
            seen.clone_into(&mut self.told);
        }
    }
}

/// How a pod is, and why its containers wait.
fn of_pod(status: &PodStatus) -> String {
    let containers = status.container_statuses.iter().flatten();
    let containers: Vec<_> = containers.filter_map(|container| container.state.as_ref()).collect();
    let unmet = status.conditions.iter().flatten().filter(|condition| condition.status != "True");
    let unmet: Vec<_> =
        unmet.map(|condition| (&condition.type_, condition.message.as_deref().unwrap_or(""))).collect();
    format!(
        "{:?}, not so: {unmet:?}, containers: {containers:?}",
        status.phase.as_deref().unwrap_or("no phase")
    )
}

fn of_module(state: &State) -> String {
    let sentences = state.sentences();
    sentences.iter().map(|(subject, words)| format!("{subject}: {words}")).collect::<Vec<_>>().join("; ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_uses_a_drivers_device_by_a_device_plugin_and_by_a_resource_claim() {
    let site = Site::start().await;
    let _logs = ShownOnPanic(site.lab.logs());
    let mut journey = Journey::new(MODULE.parse().unwrap(), KERNEL_MODULE);
    by_device_plugin(&site, &mut journey).await;
    let ordered = site.order().await;
    by_claim(&site, &mut journey).await;
    assert_eq!(site.order().await, ordered, "no change of the workload has loaded the driver again");
    without_the_module(&site, &mut journey).await;
    vendors::manifests_of_vendors_end_in_devices_that_are_used(&site).await;
    uninstalled::tenon_goes_and_the_driver_stays(&site).await;
}

async fn by_device_plugin(site: &Site, journey: &mut Journey) {
    site.lab.plane().apply(&site.example("modules/device-plugin.yaml")).await.unwrap();
    // Pods take their time on an emulated processor; what is said of the plugin follows them.
    site.offers(RESOURCE, "1").await;
    site.loaded(journey).await;
    uses_the_resource(site, "first").await;
    what_nobody_asked_for_is_not_there(site).await;

    // A kubelet that starts anew knows of no plugin. What it offers after this it has heard from one that has come back.
    site.shell("it=$(pidof kubelet) && kill $it && while kill -0 $it 2>/dev/null; do sleep 0.1; done").await;
    // A device that is not there is not offered.
    site.shell(&format!("mv {DEVICE} /dev/elsewhere")).await;
    site.offers(RESOURCE, "0").await;
    site.shell(&format!("mv /dev/elsewhere {DEVICE}")).await;
    site.offers(RESOURCE, "1").await;
    uses_the_resource(site, "second").await;
}

async fn uses_the_resource(site: &Site, name: &str) {
    let resources = json!({ "limits": { RESOURCE: "1" } });
    site.pod(name, &["/busybox", "cat", DEVICE], resources, json!({})).await;
    site.pod_says(name, "Succeeded", WORDS).await;
    site.kubectl(&["delete", "pod", name]).await;
}

async fn what_nobody_asked_for_is_not_there(site: &Site) {
    site.pod("stranger", &["/busybox", "test", "!", "-e", DEVICE], json!({}), json!({})).await;
    site.pod_says("stranger", "Succeeded", "").await;
    site.kubectl(&["delete", "pod", "stranger"]).await;
}

async fn by_claim(site: &Site, journey: &mut Journey) {
    site.lab.plane().apply(&site.example("dra-driver/rbac.yaml")).await.unwrap();
    site.lab.plane().apply(&site.example("modules/dra.yaml")).await.unwrap();
    site.workload_is_gone(role::DEVICE_PLUGIN).await;

    let request = json!({ "name": "one", "exactly": { "deviceClassName": DRIVER } });
    site.apply(&json!({
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": { "name": "thread", "namespace": "default" },
        "spec": { "devices": { "requests": [request] } },
    }))
    .await;
    // The scheduler waits for a slice with the device.
    let stays = format!("/busybox cat {DEVICE} && exec /busybox sleep 3600");
    let claims = json!({ "resourceClaims": [{ "name": "thread", "resourceClaimName": "thread" }] });
    site.pod(
        "claimant",
        &["/busybox", "sh", "-c", &stays],
        json!({ "claims": [{ "name": "thread" }] }),
        claims,
    )
    .await;
    site.pod_says("claimant", "Running", WORDS).await;
    site.loaded(journey).await;

    let api: Api<ResourceClaim> = Api::namespaced(site.lab.plane().client(), "default");
    let uid = api.get("thread").await.unwrap().metadata.uid.unwrap();
    assert!(site.described().await.contains(&uid), "the claim is prepared: {}", site.described().await);
    site.kubectl(&["delete", "pod", "claimant"]).await;
    site.becomes("the claim is unprepared", async || match site.described().await.as_str() {
        "" => Ok(()),
        left => Err(left.to_owned()),
    })
    .await;
    site.kubectl(&["delete", "resourceclaim", "thread"]).await;
}

async fn without_the_module(site: &Site, journey: &mut Journey) {
    site.kubectl(&["delete", "--wait=false", "module", NAME]).await;
    site.unloaded(journey).await;
    site.workload_is_gone(role::DRA).await;
    let slices: Api<ResourceSlice> = Api::all(site.lab.plane().client());
    site.becomes("the kubelet has withdrawn what the driver published", async || {
        let left = slices.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}
