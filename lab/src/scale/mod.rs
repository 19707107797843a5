//! Thousands of nodes on one machine: a real control plane, a real registry, the real operator, and a fleet of simulated
//! nodes with the real agent, to count and time what Tenon does with them.
//!
//! In: how many nodes. Out: a [`Field`] on which scenarios are played, each with a [`meter::Bill`]. Counts are exact and the
//! same on every machine; times and processor time are not, and are of use only beside others of the same run.

pub mod meter;
pub mod play;
pub mod plugins;
mod quiet;
pub mod report;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tenon_api::{Module, NodeModulesConfig};
use tenon_order::{ModuleKey, NameError};
use tokio::net::TcpStream;

use crate::child::{Child, ChildError};
use crate::cluster::{self, LabError, Reach};
use crate::command::{self, CommandError};
use crate::control_plane::audit::AuditError;
use crate::control_plane::{ControlPlane, ControlPlaneError, Extent, free_ports};
use crate::dir::{LabDir, LabDirError};
use crate::drivers::{self, Driver, DriverError, ImageContent, Recipe};
use crate::fleet::{Deed, Fleet, FleetError, Machine, SimNode};
use crate::kernel::{Kernel, Origin};
use crate::programs::{self, Program, ProgramError};
use crate::registry::{Protection, Registry, RegistryError};
use crate::setup::{SetupError, Supplies};
use crate::wait::{self, TimedOut};

use meter::{Bill, Meter, Processes, Usage};
use quiet::Quiet;

/// The namespace of the Modules.
pub const HALL: &str = "hall";
/// A label of every node.
pub const LABEL: &str = "example.com/fleet";
/// Files that this process opens for a node: its socket, both ends of a connection over it, and connections to the API
/// server, one to watch and one for whatever else it asks.
const FILES_PER_NODE: u64 = 5;
/// Files that it opens besides.
const OTHER_FILES: u64 = 500;
/// Nodes are dealt out to so many groups, by this label.
pub const GROUP: &str = "example.com/group";
/// How many groups there are.
pub const GROUPS: usize = 100;
/// So many nodes join at a time.
const JOINING: usize = 16;
/// The most bytes of one firmware file: a simulated node takes no larger ones.
const FIRMWARE_FILE: usize = 50 * 1000 * 1000;
/// How long anything may take, on a machine with other work.
const PATIENCE: Duration = Duration::from_mins(15);
/// Nothing was written for so long: at rest.
const REST: Duration = Duration::from_millis(1500);
/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// A cluster with a fleet. Dropping it ends everything.
#[derive(Debug)]
pub struct Field {
    nodes: Vec<SimNode>,
    operator: Option<Child>,
    command: Command,
    admin_port: u16,
    fleet: Fleet,
    registry: Registry,
    plane: ControlPlane,
    kernel: Kernel,
    starts: usize,
    quiet: Quiet,
    folder: LabDir,
}

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum ScaleError {
    /// The lab's supplies.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The folder.
    #[error(transparent)]
    Dir(#[from] LabDirError),
    /// The control plane.
    #[error(transparent)]
    ControlPlane(#[from] ControlPlaneError),
    /// What is installed.
    #[error(transparent)]
    Install(#[from] LabError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The project's own programs.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The operator.
    #[error(transparent)]
    Operator(#[from] ChildError),
    /// A node.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// The driver.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The image.
    #[error("push the image")]
    Push(#[from] CommandError),
    /// The API server.
    #[error("ask the API server")]
    Api(#[from] kube::Error),
    /// Its log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A process's accounts.
    #[error("read what a process uses")]
    Proc(#[source] io::Error),
    /// A Module's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The operator's metrics.
    #[error("read the operator's metrics")]
    Metrics(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The limit of open files.
    #[error("allow this process as many open files as the fleet needs")]
    Files(#[source] io::Error),
    /// A port on loopback.
    #[error("find a free port on loopback")]
    Port(#[source] io::Error),
    /// It did not come.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
    /// Work that ran aside.
    #[error("the work was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// When so many of the nodes had done it, in seconds.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Times {
    /// Half of them.
    pub half: f64,
    /// 99 of 100.
    pub most: f64,
    /// All.
    pub all: f64,
}

/// What each node is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Load.
    Load,
    /// Unload.
    Unload,
}

impl Field {
    /// Starts everything but nodes.
    pub async fn start() -> Result<Self, ScaleError> {
        allow_files()?;
        let supplies = tokio::task::spawn_blocking(Supplies::get).await??;
        let folder = LabDir::create()?;
        let plane = ControlPlane::start_in(folder.path(), Extent::Objects).await?;
        cluster::install(&plane).await?;
        let registry = Registry::start(&supplies, folder.path(), "registry", &Protection::default()).await?;
        let fleet = Fleet::new(&plane, &folder.path().join("fleet"))?;
        let [depot_port, admin_port] = free_ports().map_err(ScaleError::Port)?;
        let (ports, cache) = ([depot_port, admin_port], folder.path().join("depot"));
        let reach = Reach { listen: Ipv4Addr::LOCALHOST, hosts: &["127.0.0.1".to_owned()] };
        let command = cluster::operator_command(&plane, &registry, ports, &reach, &cache).await?;
        let kernel = supplies.kernel(Origin::Stable)?.clone();
        let namespaces: Api<Namespace> = Api::all(plane.client());
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(HALL.to_owned());
        namespaces.create(&PostParams::default(), &namespace).await?;
        let quiet = Quiet::watch(&plane.client());
        let mut field = Self {
            nodes: Vec::new(),
            operator: None,
            command,
            admin_port,
            fleet,
            registry,
            plane,
            kernel,
            starts: 0,
            quiet,
            folder,
        };
        field.start_operator()?;
        Ok(field)
    }

    /// Starts the operator, again perhaps.
    pub fn start_operator(&mut self) -> Result<(), ScaleError> {
        self.starts += 1;
        let name = format!("operator-{}", self.starts);
        self.operator = Some(Child::start(&name, &self.command, self.folder.path())?);
        Ok(())
    }

    /// Kills it as a crash would.
    pub fn kill_operator(&mut self) {
        self.operator = None;
    }

    /// What the operator has used so far.
    pub fn operator_usage(&self) -> Result<Usage, ScaleError> {
        let process = self.operator.as_ref().map(Child::id);
        process.map_or(Ok(Usage::default()), meter::usage).map_err(ScaleError::Proc)
    }

    /// The operator's metrics as it serves them.
    pub async fn operator_metrics(&self) -> Result<String, ScaleError> {
        self.ask_operator("/metrics").await.map_err(ScaleError::Metrics)
    }

    /// Waits until the operator is ready.
    pub async fn operator_ready(&self) -> Result<(), ScaleError> {
        wait::until("the operator to be ready", PATIENCE, async || self.ask_operator("/readyz").await.ok())
            .await?;
        Ok(())
    }

    async fn ask_operator(&self, path: &str) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(("127.0.0.1", self.admin_port)).await?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        let (answer, _) = tokio::join!(
            async {
                let request = Request::get(path).header("host", "operator").body(Empty::<Bytes>::new())?;
                let answer = sender.send_request(request).await?;
                let status = answer.status();
                let body = answer.into_body().collect().await?.to_bytes();
                drop(sender);
                let text = String::from_utf8_lossy(&body).into_owned();
                if status.is_success() { Ok(text) } else { Err(format!("{status}: {text}").into()) }
            },
            connection,
        );
        answer
    }

    /// Adds one node more, which the caller keeps.
    pub async fn join(&self, number: usize) -> Result<SimNode, ScaleError> {
        Ok(self.fleet.join(&self.machine(number)).await?)
    }

    /// Waits until Pods may be created in a namespace.
    pub async fn account(&self, namespace: &str) -> Result<(), ScaleError> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        wait::until("the default ServiceAccount", PATIENCE, async || {
            accounts.get_opt("default").await.ok().flatten()
        })
        .await?;
        Ok(())
    }

    /// Adds nodes until there are so many, and waits until all have registered.
    pub async fn grow(&mut self, count: usize) -> Result<(), ScaleError> {
        let missing: Vec<_> = (self.nodes.len()..count).map(|number| self.machine(number)).collect();
        let fleet = &self.fleet;
        let joining = stream::iter(&missing).map(|machine| fleet.join(machine)).buffered(JOINING);
        let joined: Vec<_> = joining.try_collect().await?;
        self.nodes.extend(joined);
        let configs: Api<NodeModulesConfig> = Api::all(self.client());
        wait::until("all agents to register", PATIENCE, async || {
            let list = configs.list_metadata(&kube::api::ListParams::default()).await.ok()?;
            (list.items.len() >= count).then_some(())
        })
        .await?;
        self.rest().await
    }

    fn machine(&self, number: usize) -> Machine {
        Machine {
            name: format!("node-{number:05}"),
            kernel: self.kernel.release.clone(),
            labels: BTreeMap::from([
                (LABEL.to_owned(), "all".to_owned()),
                (GROUP.to_owned(), (number % GROUPS).to_string()),
            ]),
            api_port: self.plane.port(),
        }
    }

    /// Pushes an image of a driver, `<name>:<version>`, with firmware of so many bytes if any.
    pub async fn push(&self, name: &str, version: &str, firmware: usize) -> Result<String, ScaleError> {
        let reference = format!("{}/{name}:{version}", self.registry.host());
        let folder = self.folder.path().join("images").join(format!("{name}-{version}"));
        let (kernel, tag, to) = (self.kernel.clone(), version.to_owned(), reference.clone());
        let push = move || -> Result<(), ScaleError> {
            let recipe = Recipe { version: &tag, ..Driver::SimpleKmod.into() };
            let mut content = ImageContent::new().with(&kernel.release, &drivers::build(&kernel, recipe)?);
            for (number, part) in noise(firmware).chunks(FIRMWARE_FILE).enumerate() {
                content = content.with_firmware(&format!("gauge-{number}.bin"), part);
            }
            content.write(&folder)?;
            let mut command = Command::new(programs::program(Program::Cli)?);
            command.args(["image", "push"]).arg(&folder).args([&to, "--plain-http"]);
            let firmware = folder.join(drivers::FIRMWARE_PATH.trim_start_matches('/'));
            if firmware.is_dir() {
                command.arg("--firmware").arg(firmware);
            }
            Ok(command::text(&mut command).map(drop)?)
        };
        tokio::task::spawn_blocking(push).await??;
        Ok(reference)
    }

    /// Creates a Module or changes it.
    pub async fn apply(&self, name: &str, spec: &Value) -> Result<(), ScaleError> {
        let module = json!({
            "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module",
            "metadata": { "name": name, "namespace": HALL }, "spec": spec,
        });
        let params = PatchParams::apply("user").force();
        self.modules().patch(name, &params, &Patch::Apply(module)).await?;
        Ok(())
    }

    /// Deletes a Module; it goes when it is off all nodes.
    pub async fn delete(&self, name: &str) -> Result<(), ScaleError> {
        self.modules().delete(name, &kube::api::DeleteParams::default()).await?;
        Ok(())
    }

    /// Waits until a Module says that all nodes it selects have its present content.
    pub async fn settled(&self, name: &str) -> Result<(), ScaleError> {
        wait::until(format!("Module {name} to be ready"), PATIENCE, async || {
            let module = self.modules().get(name).await.ok()?;
            let status = module.status.as_ref()?;
            let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
            (ready.status == "True" && ready.observed_generation == module.metadata.generation).then_some(())
        })
        .await?;
        Ok(())
    }

    /// Waits until a Module is gone.
    pub async fn gone(&self, name: &str) -> Result<(), ScaleError> {
        wait::until(format!("Module {name} to be gone"), PATIENCE, async || {
            self.modules().get_opt(name).await.ok()?.is_none().then_some(())
        })
        .await?;
        Ok(())
    }

    /// Waits until nothing has happened for a while.
    pub async fn rest(&self) -> Result<(), ScaleError> {
        self.quiet.disturb();
        wait::until("rest", PATIENCE, async || (self.quiet.lasts() >= REST).then_some(())).await?;
        Ok(())
    }

    /// What nodes have done so far, to be compared with later.
    pub fn deeds(&self) -> Vec<usize> {
        self.nodes.iter().map(|node| node.loader().deeds().len()).collect()
    }

    /// Follows the nodes until each has done it since then.
    pub async fn times(
        &self,
        key: &ModuleKey,
        act: Act,
        since: &[usize],
        begin: &Meter,
    ) -> Result<Times, ScaleError> {
        let mut times = Times::default();
        let mut missing: Vec<usize> = (0..since.len()).collect();
        let end = Instant::now() + PATIENCE;
        while !missing.is_empty() {
            missing.retain(|index| {
                let node = self.nodes.get(*index).zip(since.get(*index));
                !node.is_some_and(|(node, since)| has_done(node, key, act, *since))
            });
            let now = begin.elapsed().as_secs_f64();
            let done = since.len() - missing.len();
            if times.half == 0.0 && done * 2 >= since.len() {
                times.half = now;
            }
            if times.most == 0.0 && done * 100 >= since.len() * 99 {
                times.most = now;
            }
            times.all = now;
            if Instant::now() > end {
                let what = format!("{} of {} nodes to {act:?}", missing.len(), since.len());
                return Err(TimedOut { what, deadline: PATIENCE }.into());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(times)
    }

    /// Begins to measure.
    pub async fn meter(&self) -> Result<Meter, ScaleError> {
        Meter::start(&self.plane, self.processes()).await
    }

    /// Ends it, once everything is at rest.
    pub async fn bill(&self, meter: Meter) -> Result<Bill, ScaleError> {
        self.rest().await?;
        meter.stop(&self.plane, self.processes()).await
    }

    fn processes(&self) -> Processes {
        Processes {
            operator: self.operator.as_ref().map(Child::id),
            server: self.plane.process("kube-apiserver"),
            etcd: self.plane.process("etcd"),
        }
    }

    /// The nodes.
    pub fn nodes(&self) -> &[SimNode] {
        &self.nodes
    }

    /// A client with every right.
    pub fn client(&self) -> Client {
        self.plane.client()
    }

    /// The control plane, to disturb it.
    pub fn plane_mut(&mut self) -> &mut ControlPlane {
        &mut self.plane
    }

    /// The Modules.
    pub fn modules(&self) -> Api<Module> {
        Api::namespaced(self.client(), HALL)
    }

    /// Leaves the folder behind, for someone to read the logs.
    pub fn keep_folder(&mut self) {
        self.folder.keep();
    }
}

/// The spec of a Module with this image for all kernels, on nodes with this label.
pub fn spec(image: &str, selector: (&str, &str), unavailable: Option<&str>) -> Value {
    let mut spec = json!({
        "selector": { selector.0: selector.1 },
        "moduleLoader": { "container": {
            "modprobe": { "moduleName": "simple-kmod" },
            "kernelMappings": [{ "regexp": "^.+$", "containerImage": image }],
        }},
    });
    if let (Some(unavailable), Some(spec)) = (unavailable, spec.as_object_mut()) {
        spec.insert("rollout".to_owned(), json!({ "maxUnavailable": unavailable }));
    }
    spec
}

fn has_done(node: &SimNode, key: &ModuleKey, act: Act, since: usize) -> bool {
    node.loader().deeds().iter().skip(since).any(|deed| match deed {
        Deed::Loaded { module, .. } => act == Act::Load && module == key,
        Deed::Unloaded { module, .. } => act == Act::Unload && module == key,
        Deed::Refused { .. } | Deed::Booted => false,
    })
}

/// The most nodes that fit into one process on this machine, by the files that it may open.
pub fn most_nodes() -> usize {
    use rustix::process::{Resource, getrlimit};
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    usize::try_from(hard.saturating_sub(OTHER_FILES) / FILES_PER_NODE).unwrap_or(usize::MAX)
}

/// As many as the machine lets a process open.
fn allow_files() -> Result<(), ScaleError> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard })
        .map_err(|errno| ScaleError::Files(errno.into()))
}

/// Bytes that do not compress, the same every time (xorshift).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
