//! One simulated node.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tenon_agent::Agent;
use tenon_agent::client::ApiServer;
use tenon_agent::depot::Depot;
use tenon_api::node_pod::{DEPOT_AUDIENCE, NAMESPACE, SERVICE_ACCOUNT};
use tenon_order::{NodeName, StoreId};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::loader::Loader;
use super::{Fleet, FleetError, socket};
use crate::control_plane::{Binding, request_token};

/// How long an address of the depot may be silent: it is on this machine.
const DEPOT_PATIENCE: Duration = Duration::from_secs(5);

/// What a simulated node is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The node's name.
    pub name: String,
    /// Its kernel's release.
    pub kernel: String,
    /// Labels of its Node, beside those that a kubelet sets.
    pub labels: BTreeMap<String, String>,
    /// The port on loopback at which its agent finds the API server.
    pub api_port: u16,
}

/// A running simulated node. Dropping it is a power cut: its objects stay.
pub struct SimNode {
    name: NodeName,
    client: Client,
    loader: Arc<Mutex<Loader>>,
    place: Place,
    volumes: Arc<super::Volumes>,
    boots: u32,
    killed: Arc<Notify>,
    /// The agent and the loader's socket, while the machine is on.
    running: JoinSet<()>,
}

impl fmt::Debug for SimNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimNode")
            .field("name", &self.name)
            .field("boots", &self.boots)
            .finish_non_exhaustive()
    }
}

/// Where a node keeps its files.
#[derive(Debug, Clone)]
struct Place {
    folder: PathBuf,
    api_port: u16,
}

impl Place {
    fn socket(&self) -> PathBuf {
        self.folder.join("loader.sock")
    }

    fn account(&self) -> PathBuf {
        self.folder.join("account")
    }

    fn depot_token(&self) -> PathBuf {
        self.folder.join("depot.token")
    }
}

impl Fleet {
    /// Makes the node's objects and switches it on.
    pub async fn join(&self, machine: &Machine) -> Result<SimNode, FleetError> {
        let named = |source: Box<dyn std::error::Error + Send + Sync>| FleetError::Name {
            node: machine.name.clone(),
            source,
        };
        let name: NodeName = machine.name.parse().map_err(|error| named(Box::new(error)))?;
        let store: StoreId = store_id(&machine.name).parse().map_err(|error| named(Box::new(error)))?;
        let place = Place { folder: self.folder.join(&machine.name), api_port: machine.api_port };
        fs::create_dir_all(place.account())
            .map_err(|source| FleetError::Io { path: place.folder.clone(), source })?;
        let loader = Loader::new(name.clone(), store, machine.kernel.clone(), boot_id(&machine.name, 1));
        let mut node = SimNode {
            name,
            client: self.client.clone(),
            loader: Arc::new(Mutex::new(loader)),
            place,
            volumes: self.volumes.clone(),
            boots: 1,
            killed: Arc::default(),
            running: JoinSet::new(),
        };
        let pod_uid = node.make_objects(machine).await?;
        node.bring_tokens(&pod_uid, &self.authority).await?;
        node.switch_on()?;
        Ok(node)
    }
}

impl SimNode {
    /// Its name.
    pub fn name(&self) -> &str {
        self.name.as_ref()
    }

    /// Its loader: what it did, what it has, what the world does to it.
    pub fn loader(&self) -> MutexGuard<'_, Loader> {
        socket::lock(&self.loader)
    }

    /// The id of the present boot.
    pub fn boot_id(&self) -> String {
        boot_id(self.name(), self.boots)
    }

    /// A handle that ends the agent at once, wherever it is; it is started anew as a kubelet would, with nothing that it
    /// knew.
    pub fn agent_killer(&self) -> impl Fn() + Send + Sync + use<> {
        let killed = self.killed.clone();
        move || killed.notify_one()
    }

    /// Off and on again: another boot id, nothing loaded; the disk is as it was.
    pub async fn reboot(&mut self) -> Result<(), FleetError> {
        self.power_off();
        self.boot().await?;
        self.switch_on()
    }

    /// The first half of a boot: the kubelet tells the new boot id, and the node pod does not run yet.
    pub async fn boot(&mut self) -> Result<(), FleetError> {
        self.boots += 1;
        let boot = self.boot_id();
        self.loader().reboot(boot.clone());
        let status = json!({ "status": { "nodeInfo": { "bootID": boot } } });
        let nodes: Api<Node> = Api::all(self.client.clone());
        let patched =
            nodes.patch_status(self.name(), &PatchParams::default(), &Patch::Strategic(status)).await;
        patched.map(drop).map_err(|source| self.objects(source))
    }

    /// The machine falls silent.
    pub fn power_off(&mut self) {
        self.running = JoinSet::new();
    }

    /// The machine's node pod runs (again).
    pub fn switch_on(&mut self) -> Result<(), FleetError> {
        let at = |source| FleetError::Io { path: self.place.folder.clone(), source };
        self.running =
            socket::serve(&self.place.socket(), self.loader.clone(), self.volumes.clone()).map_err(at)?;
        let address = format!("https://127.0.0.1:{}", self.place.api_port)
            .parse()
            .map_err(|error| FleetError::Name { node: self.name.to_string(), source: Box::new(error) })?;
        let server = ApiServer { address, account: self.place.account() };
        let depot = Depot {
            dir: self.volumes.depot().to_owned(),
            token_file: self.place.depot_token(),
            work_dir: self.place.folder.clone(),
            patience: DEPOT_PATIENCE,
        };
        let (name, socket, killed) = (self.name.clone(), self.place.socket(), self.killed.clone());
        self.running.spawn(async move {
            loop {
                let agent = Agent::new(server.clone().client(), name.clone(), socket.clone(), depot.clone());
                tokio::select! {
                    // It goes on for ever.
                    () = agent.run() => {}
                    () = killed.notified() => {}
                }
            }
        });
        Ok(())
    }

    /// Switches it off and removes its objects, as an administrator does with a node that will not come back.
    pub async fn remove(mut self) -> Result<(), FleetError> {
        self.power_off();
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        let nodes: Api<Node> = Api::all(self.client.clone());
        for result in [
            pods.delete(&pod_name(self.name()), &at_once).await.map(drop),
            nodes.delete(self.name(), &DeleteParams::default()).await.map(drop),
        ] {
            match result {
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                other => other.map_err(|source| self.objects(source))?,
            }
        }
        Ok(())
    }

    fn objects(&self, source: kube::Error) -> FleetError {
        FleetError::Objects { node: self.name.to_string(), source }
    }

    /// The Node, and the node pod that its tokens are bound to; gives the pod's uid.
    async fn make_objects(&self, machine: &Machine) -> Result<String, FleetError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.create(&PostParams::default(), &node(machine)).await.map_err(|source| self.objects(source))?;
        let status = json!({ "status": { "nodeInfo": {
            "architecture": "amd64", "bootID": self.boot_id(), "kernelVersion": machine.kernel,
            "operatingSystem": "linux", "containerRuntimeVersion": "", "kubeProxyVersion": "",
            "kubeletVersion": "v1.36.3", "machineID": "", "osImage": "", "systemUUID": "",
        }}});
        nodes
            .patch_status(self.name(), &PatchParams::default(), &Patch::Strategic(status))
            .await
            .map_err(|source| self.objects(source))?;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let pod = pods
            .create(&PostParams::default(), &pod(self.name()))
            .await
            .map_err(|source| self.objects(source))?;
        Ok(pod.uid().unwrap_or_default())
    }

    async fn bring_tokens(&self, pod_uid: &str, authority: &str) -> Result<(), FleetError> {
        let binding = Binding::Pod { name: pod_name(self.name()), uid: pod_uid.to_owned() };
        let token = async |audience: Option<&str>| {
            let token =
                request_token(self.client.clone(), NAMESPACE, SERVICE_ACCOUNT, audience, &binding).await;
            token.map_err(|source| FleetError::Tokens {
                node: self.name.to_string(),
                source: Box::new(source),
            })
        };
        write(&self.place.account().join("ca.crt"), authority)?;
        write(&self.place.account().join("token"), &token(None).await?)?;
        write(&self.place.depot_token(), &token(Some(DEPOT_AUDIENCE)).await?)
    }
}

fn write(path: &Path, text: &str) -> Result<(), FleetError> {
    fs::write(path, text).map_err(|source| FleetError::Io { path: path.to_owned(), source })
}

fn pod_name(node: &str) -> String {
    format!("tenon-node-{node}")
}

fn node(machine: &Machine) -> Node {
    let mut labels = machine.labels.clone();
    for (key, value) in [("hostname", machine.name.as_str()), ("arch", "amd64"), ("os", "linux")] {
        labels.insert(format!("kubernetes.io/{key}"), value.to_owned());
    }
    let mut node = Node::default();
    (node.metadata.name, node.metadata.labels) = (Some(machine.name.clone()), Some(labels));
    node
}

/// The least that a token can be bound to; no kubelet looks at it.
fn pod(node: &str) -> Pod {
    use k8s_openapi::api::core::v1::{Container, PodSpec, Toleration};
    let container = Container {
        name: "agent".to_owned(),
        image: Some("lab.invalid/program".to_owned()),
        ..Container::default()
    };
    let spec = PodSpec {
        node_name: Some(node.to_owned()),
        service_account_name: Some(SERVICE_ACCOUNT.to_owned()),
        containers: vec![container],
        // A node without a kubelet is soon tainted, and the token would go with the pod.
        tolerations: Some(vec![Toleration { operator: Some("Exists".to_owned()), ..Toleration::default() }]),
        termination_grace_period_seconds: Some(0),
        ..PodSpec::default()
    };
    let mut pod = Pod { spec: Some(spec), ..Pod::default() };
    (pod.metadata.name, pod.metadata.namespace) = (Some(pod_name(node)), Some(NAMESPACE.to_owned()));
    pod
}

/// Equal for equal names: equal runs make equal nodes.
fn store_id(node: &str) -> String {
    tenon_order::Digest::of(node.as_bytes()).hex().chars().take(32).collect()
}

fn boot_id(node: &str, boot: u32) -> String {
    let hex = tenon_order::Digest::of(format!("{node} {boot}").as_bytes()).hex();
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default().to_owned();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}
