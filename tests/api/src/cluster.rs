//! A real API server with everything of `deploy/`, the operator under its own ServiceAccount, a registry, and nodes
//! whose agents are played here: they do what the loader's orders say, in writing only.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use clap::Parser as _;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::node_modules_config::{ModulePhase, NodeModuleStatus, NodeModulesConfigStatus};
use tenon_api::{Module, ModuleImage, NodeModulesConfig, node_pod};
use tenon_image::testing::{TestRegistry, layer};
use tenon_lab::ControlPlane;
use tenon_lab::control_plane::{Binding, Credential, Extent};
use tenon_lab::drivers::{self, Driver};
use tenon_lab::kernel::{Kernel, Origin};
use tenon_lab::setup::Supplies;
use tenon_lab::wait;
use tenon_operator::Args;
use tenon_operator::run::run_until;
use tenon_order::{Order, Wish, read_unverified};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::setup;

/// What is done at once on an idle machine.
pub const SOON: Duration = Duration::from_secs(90);
/// Of the Module `gauge`.
pub const READY_LABEL: &str = "kmm.node.kubernetes.io/hall.gauge.ready";
const NAMESPACE: &str = "hall";
const BOOT: &str = "5f9e8c4e-0000-4000-8000-000000000001";

/// A cluster, its operator, its registry.
#[expect(missing_debug_implementations, reason = "nobody prints a cluster")]
pub struct Cluster {
    /// Its control plane.
    pub plane: ControlPlane,
    /// The administrator's.
    pub client: Client,
    /// A registry with faults.
    pub registry: TestRegistry,
    /// The release of the driver's kernel.
    pub kernel: String,
    driver: Vec<u8>,
    operator: Option<(CancellationToken, JoinHandle<()>)>,
    /// Beside those that every operator here has.
    pub flags: Vec<String>,
    /// The volume of the depot's bundles.
    pub cache: tempfile::TempDir,
    /// Where the depot listens, across restarts of the operator.
    depot: SocketAddr,
    /// Where the operator tells of itself, likewise; only where a test asks for it.
    admin: Option<SocketAddr>,
}

/// An address of this machine that nobody listens at.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

/// The kernel that the driver is for.
pub fn kernel() -> Kernel {
    let supplies = Supplies::get().expect("the lab's supplies");
    supplies.kernel(Origin::Stable).expect("the stable kernel").clone()
}

/// The driver that images hold, and its kernel's release: a real one, built once.
fn driver() -> &'static (String, Vec<u8>) {
    static DRIVER: OnceLock<(String, Vec<u8>)> = OnceLock::new();
    DRIVER.get_or_init(|| {
        let kernel = kernel();
        let built = drivers::build(&kernel, Driver::SimpleKmod.into()).expect("the driver");
        let file = built.files().into_iter().next().expect("a module");
        (kernel.release, std::fs::read(file).expect("the module's bytes"))
    })
}

impl Cluster {
    /// Everything of it, and a namespace for Modules.
    pub async fn start() -> Self {
        // What the operator logs belongs to the test's output, which is shown when it fails.
        let _ = tracing_subscriber::fmt()
            .with_env_filter("warn,tenon_operator=debug")
            .with_test_writer()
            .try_init();
        let built = tokio::task::spawn_blocking(driver).await.expect("the driver");
        let plane = setup::plane_of_extent(Extent::Full).await;
        for file in ["namespace.yaml", "rbac/operator.yaml", "rbac/agent.yaml", "rbac/admission.yaml"] {
            setup::apply(&plane, &setup::deploy(file)).await;
        }
        let client = plane.client();
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(NAMESPACE.to_owned());
        Api::<Namespace>::all(client.clone())
            .create(&PostParams::default(), &namespace)
            .await
            .expect("a namespace");
        let mut cluster = Self {
            registry: TestRegistry::start().await.expect("a registry"),
            kernel: built.0.clone(),
            driver: built.1.clone(),
            plane,
            client,
            operator: None,
            flags: Vec::new(),
            cache: tempfile::tempdir().expect("a folder"),
            depot: free_address(),
            admin: None,
        };
        cluster.start_operator().await;
        cluster
    }

    /// The operator, anew, tells of itself here from now on.
    pub async fn show_metrics(&mut self) -> SocketAddr {
        self.stop_operator().await;
        let address = free_address();
        self.admin = Some(address);
        self.start_operator().await;
        address
    }

    /// The operator, with no more rights than its ServiceAccount has.
    pub async fn start_operator(&mut self) {
        let token =
            self.plane.token("tenon-system", "tenon-operator", None, &Binding::None).await.expect("a token");
        let kubeconfig =
            self.plane.write_kubeconfig_as("operator", &Credential::Token(token)).expect("a kubeconfig");
        let flag = |name: &str, value: String| [format!("--{name}"), value];
        let path = |path: PathBuf| path.display().to_string();
        let flags = [
            flag("kubeconfig", path(kubeconfig)),
            flag("cache-dir", path(self.cache.path().join("bundles"))),
            flag("listen-depot", self.depot.to_string()),
            flag("advertise", format!("https://{}", self.depot)),
            flag("listen-admin", self.admin.map_or("127.0.0.1:0".to_owned(), |address| address.to_string())),
            flag("leader-election", "off".to_owned()),
            flag("registry", format!("{},plain-http", self.registry.host())),
        ];
        let flags = flags.into_iter().flatten().chain(self.flags.clone());
        let args = Args::parse_from(std::iter::once("tenon-operator".to_owned()).chain(flags));
        let stop = CancellationToken::new();
        let until = stop.clone();
        let task = tokio::spawn(async move { run_until(args, until).await.expect("the operator ends well") });
        self.operator = Some((stop, task));
    }

    /// Ends the operator, well.
    pub async fn stop_operator(&mut self) {
        let (stop, task) = self.operator.take().expect("a running operator");
        stop.cancel();
        task.await.expect("the operator ends well");
    }

    /// Its Nodes.
    pub fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    /// Its nodes' objects.
    pub fn configs(&self) -> Api<NodeModulesConfig> {
        Api::all(self.client.clone())
    }

    /// The Modules of the namespace.
    pub fn modules(&self) -> Api<Module> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// The ModuleImages of the namespace.
    pub fn images(&self) -> Api<ModuleImage> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// The Secrets of the namespace.
    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// A node of the driver's kernel, whose agent has registered.
    pub async fn add_node(&self, name: &str) {
        self.add_node_with(name, &self.kernel).await;
    }

    /// A node that runs this kernel.
    pub async fn add_node_with(&self, name: &str, kernel: &str) {
        self.join(name, kernel).await;
        self.register(name, kernel).await;
    }

    /// The node's agent registers.
    pub async fn register(&self, name: &str, kernel: &str) {
        self.config_where(name, "the operator makes the node's object", |_| true).await;
        self.report(name, |status| {
            status.store_id = Some("000102030405060708090a0b0c0d0e0f".to_owned());
            status.boot_id = Some(BOOT.to_owned());
            status.kernel_version = Some(kernel.to_owned());
        })
        .await;
    }

    /// A node of which only its kubelet has told, and no agent.
    pub async fn join(&self, name: &str, kernel: &str) {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}},
        }))
        .expect("a node");
        self.nodes().create(&PostParams::default(), &node).await.expect("a node");
        let status = json!({"status": {"nodeInfo": {
            "architecture": "amd64", "bootID": BOOT, "kernelVersion": kernel, "operatingSystem": "linux",
            "containerRuntimeVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "",
            "osImage": "", "systemUUID": ""
        }}});
        self.nodes()
            .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .expect("a node's status");
        self.say_ready(name, "True").await;
    }

    /// Says of a node what its kubelet would (`True`), or what is said of one that is silent (`Unknown`). The controller of
    /// nodes takes from a node whatever taint contradicts it, and from all nodes when none of them is ready.
    pub async fn say_ready(&self, name: &str, status: &str) {
        let now = k8s_openapi::jiff::Timestamp::now().to_string();
        let ready = json!({"type": "Ready", "status": status, "reason": "Test", "message": "",
            "lastHeartbeatTime": now, "lastTransitionTime": now});
        let patch = Patch::Merge(json!({"status": {"conditions": [ready]}}));
        self.nodes().patch_status(name, &PatchParams::default(), &patch).await.expect("a node's condition");
    }

    /// A node's pod of Tenon's, as far as a token can be bound to it.
    pub async fn agent_pod(&self, node: &str) -> Binding {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), node_pod::NAMESPACE);
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": format!("tenon-node-{node}")},
            "spec": {
                "nodeName": node, "serviceAccountName": node_pod::SERVICE_ACCOUNT,
                "automountServiceAccountToken": false,
                "containers": [{"name": "agent", "image": "registry.example/none:1"}],
                "tolerations": [{"operator": "Exists"}],
            },
        }))
        .expect("a pod");
        let pod = pods.create(&PostParams::default(), &pod).await.expect("a pod");
        Binding::Pod { name: pod.name_any(), uid: pod.uid().expect("a uid") }
    }

    /// Writes a node's report as its agent would.
    pub async fn report(&self, node: &str, change: impl FnOnce(&mut NodeModulesConfigStatus)) {
        let mut config = self.configs().get(node).await.expect("the node's object");
        let mut status = config.status.take().unwrap_or_default();
        change(&mut status);
        let mut patch = json!({"metadata": {"uid": config.uid()}, "status": status});
        // An empty list would be left out, and a merge patch would keep the old one.
        patch["status"]["modules"] = json!(status.modules);
        let params = PatchParams { field_manager: Some("tenon-agent".to_owned()), ..PatchParams::default() };
        self.configs().patch_status(node, &params, &Patch::Merge(patch)).await.expect("a report");
    }

    /// The node does what its newest order says and reports this phase.
    pub async fn obey(&self, node: &str, phase: ModulePhase) {
        let config = self.configs().get(node).await.expect("the node's object");
        let order = order(&config).expect("an order");
        let loaded: Vec<_> = config
            .spec
            .modules
            .iter()
            .filter(|entry| {
                let key = format!("{}/{}", entry.namespace, entry.name).parse().expect("a key");
                matches!(order.wish(&key), Some(Wish::Loaded(_)))
            })
            .map(|entry| NodeModuleStatus {
                name: entry.name.clone(),
                namespace: entry.namespace.clone(),
                config: (phase == ModulePhase::Loaded).then(|| entry.config.clone()),
                bundle: entry.bundle.clone(),
                phase: Some(phase),
                boot_id: Some(BOOT.to_owned()),
                message: Some("as the kernel said".into()),
                ..NodeModuleStatus::default()
            })
            .collect();
        self.report(node, |status| {
            status.order_generation = i64::try_from(order.generation.0).ok();
            status.modules = loaded;
        })
        .await;
    }

    /// Waits until a node's object is like this.
    pub async fn config_where(
        &self,
        node: &str,
        what: &str,
        holds: impl Fn(&NodeModulesConfig) -> bool,
    ) -> NodeModulesConfig {
        wait::until(&format!("{what} ({node})"), SOON, async || {
            self.configs().get_opt(node).await.ok()?.filter(&holds)
        })
        .await
        .unwrap_or_else(|late| panic!("{late}"))
    }

    /// Waits until a Module is like this.
    pub async fn module_where(&self, name: &str, what: &str, holds: impl Fn(&Module) -> bool) -> Module {
        let mut last = None;
        let found = wait::until(&format!("{what} ({name})"), SOON, async || {
            last = self.modules().get_opt(name).await.ok()?;
            last.clone().filter(&holds)
        })
        .await;
        found.unwrap_or_else(|late| panic!("{late}; last seen: {:#?}", last.and_then(|module| module.status)))
    }

    /// Waits until a node is like this.
    pub async fn node_where(&self, name: &str, what: &str, holds: impl Fn(&Node) -> bool) -> Node {
        wait::until(&format!("{what} ({name})"), SOON, async || {
            self.nodes().get_opt(name).await.ok()?.filter(&holds)
        })
        .await
        .unwrap_or_else(|late| panic!("{late}"))
    }

    /// Creates or changes a Module that loads the driver from `image`, a repository and tag in the registry.
    pub async fn apply_module(&self, name: &str, image: &str, more: Value) {
        let mut manifest = json!({
            "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module", "metadata": {"name": name},
            "spec": {
                "selector": {"kubernetes.io/os": "linux"},
                // No kubelet runs, so the nodes are soon tainted as unreachable.
                "tolerations": [{"operator": "Exists"}],
                "moduleLoader": {"container": {
                    "modprobe": {"moduleName": "simple-kmod"},
                    "kernelMappings": [{"regexp": "^.+$", "containerImage": format!("{}/{image}", self.registry.host())}]
                }}
            }
        });
        merge(&mut manifest, more);
        let params = PatchParams::apply("a-user").force();
        self.modules().patch(name, &params, &Patch::Apply(manifest)).await.expect("a Module");
    }

    /// Deletes a Module; it goes when its nodes are done with it.
    pub async fn delete_module(&self, name: &str) {
        self.modules().delete(name, &DeleteParams::default()).await.expect("a deletion");
    }

    /// Stores an image with these files for the driver's kernel.
    pub fn push(&self, image: &str, files: &[(&str, &[u8])]) {
        let (repository, tag) = image.split_once(':').expect("a tag");
        let named: Vec<_> = files
            .iter()
            .map(|(name, bytes)| (format!("opt/lib/modules/{}/{name}", self.kernel), *bytes))
            .collect();
        let entries: Vec<_> = named.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
        self.registry.put_image(repository, tag, "amd64", &[layer(&entries)]);
    }

    /// Stores an image with the driver; `mark` makes its content another.
    pub fn push_driver(&self, image: &str, mark: &str) {
        self.push(
            image,
            &[("extra/simple-kmod.ko", self.driver.as_slice()), ("modules.order", mark.as_bytes())],
        );
    }

    /// The bytes of the driver.
    pub fn driver(&self) -> &[u8] {
        &self.driver
    }

    /// Everything that Tenon keeps for Modules in the cluster, by name.
    pub async fn leftovers(&self) -> Vec<String> {
        let all = ListParams::default();
        let modules = self.modules().list(&all).await.expect("a list");
        let images = self.images().list(&all).await.expect("a list");
        let configs = self.configs().list(&all).await.expect("a list");
        let nodes = self.nodes().list(&all).await.expect("a list");
        let labels = |name: &str, labels: &std::collections::BTreeMap<String, String>| {
            labels
                .keys()
                .filter(|key| key.contains("kmm.node"))
                .map(|key| format!("{name}: {key}"))
                .collect::<Vec<_>>()
        };
        let mut left: Vec<String> =
            modules.iter().map(|module| format!("Module {}", module.name_any())).collect();
        left.extend(images.iter().map(|image| format!("ModuleImage {}", image.name_any())));
        for config in &configs {
            let reported = config.status.as_ref().map_or(0, |status| status.modules.len());
            if config.spec.order.is_some() || !config.spec.modules.is_empty() || reported > 0 {
                left.push(format!(
                    "NodeModulesConfig {}: {:?} {:?}",
                    config.name_any(),
                    config.spec,
                    config.status
                ));
            }
            left.extend(labels(&config.name_any(), config.labels()));
        }
        left.extend(nodes.iter().flat_map(|node| labels(&node.name_any(), node.labels())));
        left
    }
}

/// The order in a node's object.
pub fn order(config: &NodeModulesConfig) -> Option<Order> {
    read_unverified(config.spec.order.as_deref()?).ok()
}

/// A condition's status, reason and message.
pub fn condition<'m>(module: &'m Module, type_: &str) -> Option<(&'m str, &'m str, &'m str)> {
    let conditions = &module.status.as_ref()?.conditions;
    let condition = conditions.iter().find(|condition| condition.type_ == type_)?;
    (condition.observed_generation == module.metadata.generation).then_some((
        condition.status.as_str(),
        condition.reason.as_str(),
        condition.message.as_str(),
    ))
}

/// `over` into `base`, objects key by key.
fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (base, over) => *base = over,
    }
}
