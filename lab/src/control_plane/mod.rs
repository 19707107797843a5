//! A real control plane on loopback: etcd, kube-apiserver, kube-controller-manager, kube-scheduler.

mod access;
pub mod accesses;
pub mod audit;
mod backup;
pub mod binaries;
mod flags;
pub mod pki;

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};

pub use access::{Binding, Credential, kubeconfig, request_token};
pub use audit::{AuditLog, Mark, Request, Write};
pub use binaries::Binaries;
pub use pki::{Identity, Pki};

use crate::child::{Child, ChildError};
use crate::command::{self, CommandError, Tail};
use crate::dir::{LabDir, LabDirError};
use crate::wait::{self, TimedOut};

/// What must be ready when the start returns. On an idle machine it takes 5 s; several may start at once.
const READY: Duration = Duration::from_mins(2);

/// A running control plane. Dropping it ends it.
pub struct ControlPlane {
    extent: Extent,
    children: Vec<Child>,
    client: Client,
    binaries: Binaries,
    pki: Pki,
    ports: Ports,
    folder: PathBuf,
    own: Option<LabDir>,
}

/// Which parts run beside etcd and the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// The API server alone: objects stay as they were written.
    ApiServer,
    /// With kube-controller-manager, but for what looks after nodes and their pods: nodes that are objects alone would keep
    /// it busy.
    Objects,
    /// With all of kube-controller-manager and kube-scheduler: garbage collection, namespaces' deletion, Jobs, Pods.
    Full,
}

/// Why there is no control plane.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// The programs could not be had.
    #[error("get the control plane's programs")]
    Binaries(#[from] binaries::BinariesError),
    /// Its folder.
    #[error(transparent)]
    Dir(#[from] LabDirError),
    /// A file of it.
    #[error("write {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No port on loopback.
    #[error("find a free port on loopback")]
    Port(#[source] io::Error),
    /// Certificates and keys.
    #[error("make the control plane's certificates")]
    Pki(#[from] pki::PkiError),
    /// A component did not start or did not last.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// It runs but never became ready.
    #[error("{name} is not ready; its log {log} ends with\n{tail}")]
    NotReady {
        /// The component.
        name: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: Tail,
        /// What was waited for.
        #[source]
        source: TimedOut,
    },
    /// The client's configuration.
    #[error("configure a client")]
    Config(#[from] kube::config::KubeconfigError),
    /// A request.
    #[error("ask the API server")]
    Api(#[from] kube::Error),
    /// A token was asked for and the answer holds none.
    #[error("no token for ServiceAccount {namespace}/{name} in the API server's answer")]
    NoToken {
        /// The account's namespace.
        namespace: String,
        /// The account's name.
        name: String,
    },
    /// kubectl.
    #[error(transparent)]
    Kubectl(#[from] CommandError),
    /// A step that ran aside did not come back.
    #[error("the work was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl ControlPlane {
    /// Starts all of it in a folder of its own and returns when it serves.
    pub async fn start() -> Result<Self, ControlPlaneError> {
        Self::start_extent(Extent::Full).await
    }

    /// As [`Self::start`], with the parts that are wanted.
    pub async fn start_extent(extent: Extent) -> Result<Self, ControlPlaneError> {
        let own = LabDir::create()?;
        let folder = own.path().to_owned();
        let mut plane = Self::start_in(&folder, extent).await?;
        plane.own = Some(own);
        Ok(plane)
    }

    /// Starts it in a folder of the caller's.
    pub async fn start_in(folder: &Path, extent: Extent) -> Result<Self, ControlPlaneError> {
        // Building them, if need be, takes minutes.
        let binaries = blocking(Binaries::get).await??;
        let pki = Pki::create(&folder.join("pki"))?;
        let ports = Ports::free()?;
        let etcd = Child::start("etcd", &flags::etcd(&binaries, folder, ports), folder)?;
        write(&folder.join(flags::AUDIT_POLICY), audit::POLICY)?;
        let admin = pki.identity("lab-admin", &["system:masters"])?;
        let config = kubeconfig(&pki, ports.api, &admin.into());
        write_kubeconfig(&folder.join(flags::ADMIN), &config)?;
        let client = client(config).await?;
        let folder = folder.to_owned();
        let mut plane =
            Self { extent, children: vec![etcd], client, binaries, pki, ports, folder, own: None };
        plane.start_apiserver().await?;
        plane.start_controllers()?;
        if extent != Extent::ApiServer {
            plane.wait_for_default_account().await?;
        }
        Ok(plane)
    }

    /// A client with every right.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join(flags::ADMIN)
    }

    /// The API server's port on loopback; a guest reaches it at 10.0.2.2.
    pub fn port(&self) -> u16 {
        self.ports.api
    }

    /// The authority that clients trust, and that makes identities.
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The folder with its logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What was asked of the API server so far.
    pub fn audit(&self) -> AuditLog {
        AuditLog::at(self.folder.join(flags::AUDIT_LOG))
    }

    /// kubectl as the administrator, not yet run.
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new(self.binaries.program(binaries::Program::Kubectl));
        command.arg("--kubeconfig").arg(self.kubeconfig());
        command
    }

    /// Runs kubectl as the administrator and gives its output.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String, ControlPlaneError> {
        self.kubectl_with_input(args, "").await
    }

    /// As [`Self::kubectl`], with something on its standard input.
    pub async fn kubectl_with_input(&self, args: &[&str], input: &str) -> Result<String, ControlPlaneError> {
        let mut command = self.kubectl_command();
        command.args(args);
        let input = input.as_bytes().to_vec();
        let output = blocking(move || command::run_with_input(&mut command, &input)).await??;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    /// Applies every document of a manifest (server-side, as field manager `lab`).
    pub async fn apply(&self, yaml: &str) -> Result<(), ControlPlaneError> {
        let args = ["apply", "--server-side", "--force-conflicts", "--field-manager=lab", "-f", "-"];
        self.kubectl_with_input(&args, yaml).await.map(drop)
    }

    /// The process of a component: `etcd`, `kube-apiserver`, …
    pub fn process(&self, name: &str) -> Option<u32> {
        self.children.iter().find(|child| child.name() == name).map(Child::id)
    }

    /// An error with its last words if a component has ended.
    pub fn check(&mut self) -> Result<(), ControlPlaneError> {
        self.children.iter_mut().try_for_each(Child::check).map_err(Into::into)
    }

    /// Kills the API server as a crash would, and starts it again on the same data.
    pub async fn restart_apiserver(&mut self) -> Result<(), ControlPlaneError> {
        self.stop_apiserver();
        self.start_apiserver().await
    }

    /// Kills the API server as a crash would: the cluster falls silent.
    pub fn stop_apiserver(&mut self) {
        self.children.retain_mut(|child| {
            let is_server = child.name() == "kube-apiserver";
            if is_server {
                child.kill();
            }
            !is_server
        });
    }

    /// Starts the API server (again) and waits until it serves.
    pub async fn start_apiserver(&mut self) -> Result<(), ControlPlaneError> {
        let mut server = flags::apiserver(&self.binaries, &self.pki, &self.folder, self.ports);
        if self.extent == Extent::Objects {
            server.arg(flags::NO_TAINTS);
        }
        self.children.push(Child::start("kube-apiserver", &server, &self.folder)?);
        let client = self.client.clone();
        let ready = async || -> Option<()> {
            let request = http::Request::get("/readyz").body(Vec::new()).ok()?;
            client.request_text(request).await.ok().map(drop)
        };
        self.watch_over("kube-apiserver", "/readyz", ready).await
    }

    fn start_controllers(&mut self) -> Result<(), ControlPlaneError> {
        if self.extent == Extent::ApiServer {
            return Ok(());
        }
        for (file, user) in
            [(flags::MANAGER, "system:kube-controller-manager"), (flags::SCHEDULER, "system:kube-scheduler")]
        {
            let identity = self.pki.identity(user, &[])?;
            let config = kubeconfig(&self.pki, self.ports.api, &identity.into());
            write_kubeconfig(&self.folder.join(file), &config)?;
        }
        let mut manager = flags::controller_manager(&self.binaries, &self.pki, &self.folder);
        if self.extent == Extent::Objects {
            manager.arg(flags::NO_NODES).args(flags::FAST);
        }
        self.children.push(Child::start("kube-controller-manager", &manager, &self.folder)?);
        if self.extent == Extent::Full {
            let scheduler = flags::scheduler(&self.binaries, &self.folder);
            self.children.push(Child::start("kube-scheduler", &scheduler, &self.folder)?);
        }
        Ok(())
    }

    /// The last thing that the controllers make before Pods can be created.
    async fn wait_for_default_account(&mut self) -> Result<(), ControlPlaneError> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), "default");
        let made = async || accounts.get_opt("default").await.ok().flatten().map(drop);
        self.watch_over("kube-controller-manager", "the default ServiceAccount", made).await
    }

    /// Waits for a condition, giving up early when a component ends.
    async fn watch_over(
        &mut self,
        component: &str,
        what: &str,
        mut met: impl AsyncFnMut() -> Option<()>,
    ) -> Result<(), ControlPlaneError> {
        let waited = wait::until(what, READY, async || match self.check() {
            Err(error) => Some(Err(error)),
            Ok(()) => met().await.map(Ok),
        })
        .await;
        waited.unwrap_or_else(|source| {
            let log = self.folder.join(format!("{component}.log"));
            let tail = Tail::of_file(&log);
            Err(ControlPlaneError::NotReady { name: component.to_owned(), log, tail, source })
        })
    }
}

impl fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlPlane")
            .field("folder", &self.folder)
            .field("port", &self.ports.api)
            .finish_non_exhaustive()
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // Those that ask before those that answer.
        while self.children.pop().is_some() {}
        // Nothing is asked any more.
        if let Err(error) = accesses::leave(&self.audit()) {
            eprintln!("what was asked of the API server is not kept: {}", crate::chain(&error));
        }
    }
}

/// The ports on loopback.
#[derive(Debug, Clone, Copy)]
struct Ports {
    etcd: u16,
    peer: u16,
    api: u16,
}

impl Ports {
    fn free() -> Result<Self, ControlPlaneError> {
        let [etcd, peer, api] = free_ports().map_err(ControlPlaneError::Port)?;
        Ok(Self { etcd, peer, api })
    }
}

/// Ports on loopback that were free a moment ago, all different.
pub(crate) fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    free_ports_at(Ipv4Addr::LOCALHOST.into())
}

/// As [`free_ports`], at another address of the host.
pub(crate) fn free_ports_at<const N: usize>(address: IpAddr) -> io::Result<[u16; N]> {
    let mut listeners = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((address, 0))?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}

/// A client by such a configuration.
pub async fn client(config: Kubeconfig) -> Result<Client, ControlPlaneError> {
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ControlPlaneError> {
    Ok(tokio::task::spawn_blocking(work).await?)
}

fn write_kubeconfig(path: &Path, config: &Kubeconfig) -> Result<(), ControlPlaneError> {
    // JSON is YAML.
    let text = serde_json::to_string_pretty(config)
        .map_err(|error| ControlPlaneError::Write { path: path.to_owned(), source: error.into() })?;
    write(path, &text)
}

fn write(path: &Path, text: &str) -> Result<(), ControlPlaneError> {
    fs::write(path, text).map_err(|source| ControlPlaneError::Write { path: path.to_owned(), source })
}
