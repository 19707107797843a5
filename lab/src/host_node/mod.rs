//! A node on the host: kubelet and containerd run on this machine, so that pods run at its own speed: builds, above all,
//! which an emulated processor drags out for minutes. What needs a kernel of its own, or loads modules, wants a
//! [`crate::Worker`].
//!
//! In: a control plane and a registry. Out: a Ready node, whose pods reach the host at one address. They are shut into a PID
//! namespace and a mount namespace that end with this handle, or with its process; nothing is installed and no setting of
//! the machine is changed. It wants root, and there is one at a time on a machine: the next one waits.

mod settings;
mod traces;

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Api;
use kube::api::DeleteParams;

pub use settings::Credentials;
pub use traces::TraceError;

use crate::cache::{Cache, CacheError, Lock};
use crate::child::{Child, ChildError};
use crate::claim::{Broken, comes_true_within};
use crate::command::Tail;
use crate::control_plane::binaries::{BinariesError, NodePrograms};
use crate::control_plane::{ControlPlane, ControlPlaneError, free_ports_at, kubeconfig};
use crate::debian::{Archive, ArchiveError, Release};
use crate::node_settings;
use crate::program_images::{self, ProgramImageError};
use crate::registry::{Registry, RegistryError};
use crate::setup::{SetupError, Supplies};
use crate::worker::settings::REGISTRY;
use settings::{NodeSettings, Programs};
use traces::Traces;

/// Where this node's pods reach the host. So does the host itself: a registry that listens there has one name for both.
pub const ADDRESS: Ipv4Addr = traces::ADDRESS;

/// An idle machine needs five seconds.
const READY: Duration = Duration::from_mins(3);

/// A node on the host. Dropping it ends its pods and leaves no trace of them, but for the Node object.
#[derive(Debug)]
pub struct HostNode {
    // In the order in which they end.
    child: Child,
    _traces: Traces,
    name: String,
    folder: PathBuf,
    _turn: Lock,
}

/// Why there is no node on the host.
#[derive(Debug, thiserror::Error)]
pub enum HostNodeError {
    /// It needs root.
    #[error("run a kubelet on the host: that needs root")]
    NotRoot,
    /// Packages.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// kubelet.
    #[error(transparent)]
    Binaries(#[from] BinariesError),
    /// Supplies.
    #[error(transparent)]
    Setup(Box<SetupError>),
    /// The cache, and the lock in it.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The bridge or the cgroups.
    #[error(transparent)]
    Traces(#[from] TraceError),
    /// The image that holds a pod's namespaces.
    #[error(transparent)]
    Pause(#[from] ProgramImageError),
    /// The registry, at the address that pods reach.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Its access to the API server.
    #[error(transparent)]
    ControlPlane(#[from] ControlPlaneError),
    /// A kubeconfig.
    #[error("write a kubeconfig")]
    Kubeconfig(#[from] serde_json::Error),
    /// Another node's object by that name.
    #[error("delete the object of an earlier node")]
    Api(#[from] kube::Error),
    /// A file of it.
    #[error("{action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The process that shuts it in.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// It does not come up.
    #[error("kubelet's log {log} ends with\n{tail}")]
    NotReady {
        /// kubelet's log.
        log: PathBuf,
        /// The log's last lines.
        tail: Tail,
        /// What was waited for.
        #[source]
        source: Broken,
    },
    /// Work that ran aside.
    #[error("the work was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl HostNode {
    /// Starts kubelet and containerd, has the registry listen at [`ADDRESS`] too, and waits until the node is Ready.
    pub async fn start(
        plane: &ControlPlane,
        registry: &mut Registry,
        name: &str,
    ) -> Result<Self, HostNodeError> {
        Self::start_with(plane, registry, name, &[]).await
    }

    /// As [`Self::start`]; the kubelet has these credentials, and nobody else in the cluster.
    pub async fn start_with(
        plane: &ControlPlane,
        registry: &mut Registry,
        name: &str,
        credentials: &[Credentials],
    ) -> Result<Self, HostNodeError> {
        if !rustix::process::geteuid().is_root() {
            return Err(HostNodeError::NotRoot);
        }
        let (programs, supplies) = tokio::task::spawn_blocking(programs).await??;
        let (turn, traces) = tokio::task::spawn_blocking(take_turn).await??;
        registry.listen_at(ADDRESS.into()).await?;
        program_images::push_pause(&supplies, registry).await?;

        let folder = plane.folder().join(name);
        let [port] = free_ports_at(ADDRESS.into()).map_err(at("find a port for", &folder))?;
        configure(&folder, plane, &NodeSettings { name, port, programs: &programs, credentials })?;
        let nodes: Api<NodeObject> = Api::all(plane.client());
        match nodes.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            deleted => drop(deleted?),
        }
        let child = Child::start(name, &shut_in(&folder.join(settings::START)), &folder)?;
        let mut node = Self { child, _traces: traces, name: name.to_owned(), folder, _turn: turn };
        // Both know it by the name that pods and the host use, and by the one that the manifests in `deploy/` use.
        let here = name_of(registry);
        for name in [here.as_str(), REGISTRY] {
            node.trust(name, &here)?;
        }
        node.wait_until_ready(&nodes).await?;
        Ok(node)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder with the logs of kubelet and containerd.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// From now on images whose names begin with `name` are pulled from `host:port`, by plain HTTP.
    pub fn trust(&self, name: &str, address: &str) -> Result<(), HostNodeError> {
        let (path, text) = settings::registry(name, &format!("http://{address}"));
        write(&self.folder.join(path), 0o644, &text)
    }

    /// An error with its last words if it has ended.
    pub fn check(&mut self) -> Result<(), HostNodeError> {
        Ok(self.child.check()?)
    }

    /// Kills it, and every pod with it, as a power cut would. What was its pods' way to the host stays.
    pub fn kill(&mut self) {
        self.child.kill();
    }

    async fn wait_until_ready(&mut self, nodes: &Api<NodeObject>) -> Result<(), HostNodeError> {
        let claim = format!("node {} is Ready", self.name);
        let (name, child) = (&self.name, &mut self.child);
        let ready = comes_true_within(READY, claim, async || {
            if let Err(error) = child.check() {
                return Ok(Err(error));
            }
            let node = nodes.get_opt(name).await.map_err(|error| error.to_string())?;
            let status = node.and_then(|node| node.status).ok_or("it has not registered")?;
            node_settings::is_ready(&status).map(Ok)
        })
        .await;
        let log = self.folder.join("kubelet.log");
        match ready {
            Ok(done) => Ok(done?),
            Err(source) => Err(HostNodeError::NotReady { tail: Tail::of_file(&log), log, source }),
        }
    }
}

/// The registry's name for the node's pods and for the host, once the registry listens there.
pub fn name_of(registry: &Registry) -> String {
    registry.at(ADDRESS.into())
}

/// Unpacked or built, and remembered, as everything that the lab needs.
fn programs() -> Result<(Programs, Supplies), HostNodeError> {
    let supplies = Supplies::get().map_err(|error| HostNodeError::Setup(Box::new(error)))?;
    let archive = Archive::open(&Cache::open()?)?;
    let containerd = archive.unpack("containerd", Release::Stable)?.join("usr/bin");
    let plugins = archive.unpack("containernetworking-plugins", Release::Stable)?.join("usr/lib/cni");
    let kubelet = NodePrograms::get()?.kubelet;
    let folders = [Some(containerd.as_path()), supplies.runc.parent(), kubelet.parent()];
    let programs = Programs {
        folders: folders.into_iter().flatten().map(|folder| folder.display().to_string()).collect(),
        libraries: supplies.libseccomp.display().to_string(),
        plugins: plugins.display().to_string(),
    };
    Ok((programs, supplies))
}

/// What [`HostNode::start`] takes from the cache, so that the set-up can put it there.
pub fn prepare() -> Result<(), HostNodeError> {
    programs().map(drop)
}

fn take_turn() -> Result<(Lock, Traces), HostNodeError> {
    // Neither in a user's cache nor in what may be a private temporary folder: all nodes would have the same bridge.
    let turn = Lock::take(Path::new("/run/tenon-lab-host-node.lock"))?;
    Ok((turn, Traces::leave()?))
}

fn configure(folder: &Path, plane: &ControlPlane, node: &NodeSettings<'_>) -> Result<(), HostNodeError> {
    let name = node.name;
    let identity = plane
        .pki()
        .identity(&format!("system:node:{name}"), &["system:nodes"])
        .map_err(ControlPlaneError::from)?;
    let kubeconfig = kubeconfig(plane.pki(), plane.port(), &identity.into());
    write(&folder.join(settings::KUBECONFIG), 0o600, &serde_json::to_string(&kubeconfig)?)?;
    write(&folder.join(settings::AUTHORITY), 0o644, plane.pki().authority())?;
    for (path, text) in settings::files(folder, node) {
        write(&folder.join(path), 0o644, &text)?;
    }
    for (path, text) in settings::providers(node.credentials) {
        write(&folder.join(path), 0o700, &text)?;
    }
    Ok(())
}

fn shut_in(script: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--mount-proc", "--fork", "--kill-child=KILL", "--", "sh"]).arg(script);
    command
}

fn write(path: &Path, mode: u32, text: &str) -> Result<(), HostNodeError> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(at("create", folder))?;
    fs::write(path, text).map_err(at("write", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(at("protect", path))
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HostNodeError {
    let path = path.to_owned();
    move |source| HostNodeError::Io { action, path, source }
}
