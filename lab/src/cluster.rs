//! The whole: control plane, registry, operator, nodes.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tenon_api::node_pod::NAMESPACE;

use crate::bench::{Bench, BenchError};
use crate::child::{Child, ChildError};
use crate::claim::Broken;
use crate::command::Tail;
use crate::control_plane::{Binding, ControlPlane, ControlPlaneError, Credential, Extent, free_ports};
use crate::guest::oci::HOST;
use crate::guest::{Guest, Settings};
use crate::host_node::{self, Credentials, HostNode, HostNodeError};
use crate::kernel::Origin;
use crate::node::{Node, NodeError};
use crate::program_images::ProgramImageError;
use crate::programs::{self, ProgramError};
use crate::registry::{Protection, Registry, RegistryError};
use crate::setup::Supplies;
use crate::worker::{Worker, WorkerError};

/// The operator's ServiceAccount.
pub(crate) const OPERATOR: &str = "tenon-operator";

/// A cluster with Tenon installed. Dropping it ends everything.
#[derive(Debug)]
pub struct Lab {
    // In the order in which they end.
    operator: Option<Child>,
    nodes: HashMap<String, Node>,
    workers: HashMap<String, Worker>,
    host_node: Option<HostNode>,
    registry: Registry,
    plane: ControlPlane,
    depot_port: u16,
    admin_port: u16,
    operator_starts: u32,
    operator_arguments: Vec<String>,
    operator_environment: Vec<(String, String)>,
    bench: Bench,
}

/// Why there is no lab, or not the one that was wanted.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// What is installed does not come to run.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// What guests are made of.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// The project's own programs.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The control plane.
    #[error(transparent)]
    ControlPlane(#[from] ControlPlaneError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A node.
    #[error(transparent)]
    Node(Box<NodeError>),
    /// A worker.
    #[error(transparent)]
    Worker(Box<WorkerError>),
    /// The node on the host.
    #[error(transparent)]
    HostNode(Box<HostNodeError>),
    /// An image of a program.
    #[error(transparent)]
    ProgramImage(#[from] ProgramImageError),
    /// The operator.
    #[error(transparent)]
    Operator(#[from] ChildError),
    /// A port for the operator.
    #[error("find a free port on loopback")]
    Port(#[source] io::Error),
    /// A manifest of `deploy/`.
    #[error("read {path}")]
    Manifest {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Work that ran aside.
    #[error("the work was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl From<NodeError> for LabError {
    fn from(error: NodeError) -> Self {
        Self::Node(Box::new(error))
    }
}

impl From<WorkerError> for LabError {
    fn from(error: WorkerError) -> Self {
        Self::Worker(Box::new(error))
    }
}

impl From<HostNodeError> for LabError {
    fn from(error: HostNodeError) -> Self {
        Self::HostNode(Box::new(error))
    }
}

impl Lab {
    /// Starts control plane and registry, installs what `deploy/` holds, and starts the operator. Nodes come one by one.
    pub async fn start() -> Result<Self, LabError> {
        let mut lab = Self::start_without_operator().await?;
        lab.start_operator().await?;
        Ok(lab)
    }

    /// As [`Self::start`], and the operator later.
    pub async fn start_without_operator() -> Result<Self, LabError> {
        let bench = Bench::start().await?;
        let folder = bench.folder().to_owned();
        let plane = ControlPlane::start_in(&folder, Extent::Full).await?;
        install(&plane).await?;
        let registry = Registry::start(bench.supplies(), &folder, "registry", &Protection::default()).await?;
        let [depot_port, admin_port] = free_ports().map_err(LabError::Port)?;
        Ok(Self {
            operator: None,
            nodes: HashMap::new(),
            workers: HashMap::new(),
            host_node: None,
            registry,
            plane,
            depot_port,
            admin_port,
            operator_starts: 0,
            operator_arguments: Vec::new(),
            operator_environment: Vec::new(),
            bench,
        })
    }

    /// Boots a kernel as a new node that runs the agent and the loader.
    pub async fn add_node(&mut self, name: &str, origin: Origin) -> Result<&mut Node, LabError> {
        let settings = self.guest_settings(name, origin)?;
        self.add_guest(settings).await
    }

    /// As [`Self::add_node`], with settings that the caller has changed.
    pub async fn add_guest(&mut self, settings: Settings) -> Result<&mut Node, LabError> {
        let node = Node::start(&self.plane, &self.bench, settings).await?;
        Ok(self.nodes.entry(node.name().to_owned()).insert_entry(node).into_mut())
    }

    /// Boots a kernel as a new node with a kubelet; pods run there as anywhere, Tenon's too ([`Self::deploy_node_pod`]).
    pub async fn add_worker(&mut self, name: &str, origin: Origin) -> Result<&mut Worker, LabError> {
        self.add_worker_with(self.guest_settings(name, origin)?).await
    }

    /// As [`Self::add_worker`], with settings that the caller has changed; its disks and its memory are those of workers.
    pub async fn add_worker_with(&mut self, settings: Settings) -> Result<&mut Worker, LabError> {
        let name = settings.name.clone();
        let worker = Worker::start(&self.plane, &self.registry, &self.bench, settings).await?;
        Ok(self.workers.entry(name).insert_entry(worker).into_mut())
    }

    /// Runs a kubelet on this machine as a new node, where pods run at its own speed; there is one at a time, and an
    /// earlier one of this lab ends.
    pub async fn add_host_node(&mut self, name: &str) -> Result<&mut HostNode, LabError> {
        self.add_host_node_with(name, &[]).await
    }

    /// As [`Self::add_host_node`]; its kubelet has these credentials, and nobody else in the cluster.
    pub async fn add_host_node_with(
        &mut self,
        name: &str,
        credentials: &[Credentials],
    ) -> Result<&mut HostNode, LabError> {
        // Two would wait for each other.
        self.host_node = None;
        let node = HostNode::start_with(&self.plane, &mut self.registry, name, credentials).await?;
        Ok(self.host_node.insert(node))
    }

    /// The node on the host, to disturb it.
    pub fn host_node(&mut self) -> Option<&mut HostNode> {
        self.host_node.as_mut()
    }

    /// The registry's name for pods of the host's node, for the operator, and for this process alike.
    pub fn registry_for_pods(&self) -> String {
        host_node::name_of(&self.registry)
    }

    /// What a node of this lab is made of.
    pub fn guest_settings(&self, name: &str, origin: Origin) -> Result<Settings, LabError> {
        Ok(self.bench.settings(name, origin)?)
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> Vec<&Node> {
        let mut nodes: Vec<_> = self.nodes.values().collect();
        nodes.sort_by_key(|node| node.name());
        nodes
    }

    /// A worker by name.
    pub fn worker(&self, name: &str) -> Option<&Worker> {
        self.workers.get(name)
    }

    /// Pulls a worker's plug and boots it again with the disk it has; says whether there is such a worker.
    pub async fn reset_worker(&mut self, name: &str) -> Result<bool, LabError> {
        let Some(worker) = self.workers.get_mut(name) else { return Ok(false) };
        worker.reset(&self.plane, &self.registry).await?;
        Ok(true)
    }

    /// The machines of all nodes and workers, by name.
    pub fn guests(&self) -> Vec<&Guest> {
        let workers = self.workers.values().map(Worker::guest);
        let mut guests: Vec<_> = self.nodes.values().map(Node::guest).chain(workers).collect();
        guests.sort_by_key(|guest| guest.name());
        guests
    }

    /// A node by name.
    pub fn node(&mut self, name: &str) -> Option<&mut Node> {
        self.nodes.get_mut(name)
    }

    /// Starts the operator on the host, under its own ServiceAccount.
    pub async fn start_operator(&mut self) -> Result<(), LabError> {
        let (ports, cache) = ([self.depot_port, self.admin_port], self.bench.folder().join("depot"));
        // Guests find the host at one address, pods of the node on the host at another.
        let pods = self.host_node.as_ref().map(|_| host_node::ADDRESS);
        let hosts: Vec<String> =
            std::iter::once(HOST.to_owned()).chain(pods.map(|address| address.to_string())).collect();
        let reach = Reach {
            listen: if pods.is_some() { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST },
            hosts: &hosts,
        };
        let mut command = operator_command(&self.plane, &self.registry, ports, &reach, &cache).await?;
        command.args(&self.operator_arguments).envs(self.operator_environment.iter().cloned());
        self.operator_starts += 1;
        let name = format!("operator-{}", self.operator_starts);
        self.operator = Some(Child::start(&name, &command, self.bench.folder())?);
        Ok(())
    }

    /// What the operator is started with besides, from its next start on.
    pub fn tell_operator(&mut self, arguments: Vec<String>) {
        self.operator_arguments = arguments;
    }

    /// What the operator is told from its next start on, beside what it was told before.
    pub fn tell_operator_more(&mut self, arguments: impl IntoIterator<Item = String>) {
        self.operator_arguments.extend(arguments);
    }

    /// Variables that the operator has from its next start on, beside this process's.
    pub fn set_operator_environment(&mut self, variables: Vec<(String, String)>) {
        self.operator_environment = variables;
    }

    /// The operator's process id, while it runs.
    pub fn operator_process(&self) -> Option<u32> {
        self.operator.as_ref().map(Child::id)
    }

    /// Kills the operator as a crash would.
    pub fn kill_operator(&mut self) {
        self.operator = None;
    }

    /// An error with the last words of whatever has ended by itself.
    pub fn check(&mut self) -> Result<(), LabError> {
        if let Some(operator) = &mut self.operator {
            operator.check()?;
        }
        Ok(self.plane.check()?)
    }

    /// The operator's log so far: its last lines.
    pub fn operator_tail(&self) -> Option<Tail> {
        self.operator.as_ref().map(|operator| Tail::of_file(operator.log()))
    }

    /// Where the operator serves metrics and health.
    pub fn operator_admin(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin_port)
    }

    /// The control plane.
    pub fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// The control plane, to disturb it.
    pub fn plane_mut(&mut self) -> &mut ControlPlane {
        &mut self.plane
    }

    /// The registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The registry, to disturb it.
    pub fn registry_mut(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// Kernels and programs.
    pub fn supplies(&self) -> &Supplies {
        self.bench.supplies()
    }

    /// Leaves the folder behind, for someone to read the logs.
    pub fn keep_folder(&mut self) {
        self.bench.keep_folder();
    }

    /// The logs of what is Tenon's: the operator's, and what the nodes' containers wrote to their consoles.
    pub fn logs(&self) -> Vec<PathBuf> {
        let operator = self.operator.as_ref().map(|operator| operator.log().to_owned());
        operator.into_iter().chain(self.guests().into_iter().map(Guest::console)).collect()
    }

    /// The folder with everything's logs.
    pub fn folder(&self) -> &Path {
        self.bench.folder()
    }
}

/// Where the operator's depot is.
pub(crate) struct Reach<'a> {
    /// Where it listens.
    pub(crate) listen: Ipv4Addr,
    /// Where agents and pods are told to find it: addresses of the host.
    pub(crate) hosts: &'a [String],
}

/// The operator under its own ServiceAccount, on the host, serving its depot and its metrics at these ports.
pub(crate) async fn operator_command(
    plane: &ControlPlane,
    registry: &Registry,
    [depot, admin]: [u16; 2],
    reach: &Reach<'_>,
    cache: &Path,
) -> Result<Command, LabError> {
    let token = plane.token(NAMESPACE, OPERATOR, None, &Binding::None).await?;
    let kubeconfig = plane.write_kubeconfig_as(OPERATOR, &Credential::Token(token))?;
    let program = tokio::task::spawn_blocking(|| programs::program(programs::Program::Operator)).await??;
    let mut command = Command::new(program);
    command
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(["--listen-depot", &format!("{}:{depot}", reach.listen)])
        .args(["--listen-admin", &format!("127.0.0.1:{admin}")])
        .args(reach.hosts.iter().map(|host| format!("--advertise=https://{host}:{depot}")))
        .arg("--cache-dir")
        .arg(cache)
        .args(["--registry", &format!("{},plain-http", registry.host())])
        .args(["--registry", &format!("{},plain-http", host_node::name_of(registry))]);
    Ok(command)
}

/// Applies what `deploy/` holds, but for the workloads.
pub(crate) async fn install(plane: &ControlPlane) -> Result<(), LabError> {
    for path in manifests().map_err(|source| LabError::Manifest { path: deploy(), source })? {
        let text = fs::read_to_string(&path).map_err(|source| LabError::Manifest { path, source })?;
        plane.apply(&text).await?;
    }
    Ok(())
}

pub(crate) fn deploy() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy")).to_owned()
}

/// What is installed before the operator runs, the namespace and the definitions first. The workloads themselves are not:
/// the lab runs them where it can watch them.
fn manifests() -> io::Result<Vec<PathBuf>> {
    let deploy = deploy();
    let mut paths = vec![deploy.join("namespace.yaml")];
    for folder in ["crds", "rbac"] {
        let mut found = Vec::new();
        for entry in fs::read_dir(deploy.join(folder))? {
            found.push(entry?.path());
        }
        found.sort();
        paths.append(&mut found);
    }
    paths.push(deploy.join("flow-schemas.yaml"));
    Ok(paths)
}
