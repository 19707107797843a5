//! A worker: a guest in which kubelet, containerd and kube-proxy run as on any node, so that pods run there because the
//! API server says so, from images that are pulled, with service accounts' tokens that the kubelet asked for.
//!
//! In: a control plane and a registry on the host. Out: a Ready node, and a way into the machine to see what is true there.
//! It takes half a minute to come up, where a [`crate::Node`] takes three seconds; most tests need only that one.

pub mod root_disk;
pub mod settings;

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node as NodeObject;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::config::Kubeconfig;
use serde_json::json;

use crate::bench::{Bench, BenchError};
use crate::claim::{Broken, comes_true_within};
use crate::command::Tail;
use crate::control_plane::{ControlPlane, ControlPlaneError, Identity, kubeconfig};
use crate::guest::oci::HOST;
use crate::guest::{Guest, GuestError, Settings};
use crate::node_settings;
use crate::program_images::{self, ProgramImageError};
use crate::registry::Registry;
use root_disk::WorkerDiskError;

/// An idle machine needs fifteen seconds.
const READY: Duration = Duration::from_mins(6);
/// kubelet, containerd, kube-proxy, and a few pods, in MiB.
const MEMORY: u32 = 1024;
/// Images and what containers write, in MiB.
const DISK: u64 = 2048;

/// A node with a kubelet of its own.
#[derive(Debug)]
pub struct Worker {
    guest: Guest,
}

/// Why a worker does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Its root file system.
    #[error("make the workers' root file system")]
    Disk(#[from] WorkerDiskError),
    /// The image that holds a pod's namespaces.
    #[error(transparent)]
    Pause(#[from] ProgramImageError),
    /// What guests are made of.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// The machine.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// Its access to the API server.
    #[error(transparent)]
    ControlPlane(#[from] ControlPlaneError),
    /// A kubeconfig.
    #[error("write a kubeconfig")]
    Kubeconfig(#[from] serde_json::Error),
    /// The API server's own Service.
    #[error("tell where the API server is")]
    Api(#[from] kube::Error),
    /// It does not come up.
    #[error("the worker's console {console} ends with\n{tail}")]
    NotReady {
        /// Its console's log.
        console: PathBuf,
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

impl Worker {
    /// Boots a kernel and waits until the node is Ready.
    pub async fn start(
        plane: &ControlPlane,
        registry: &Registry,
        bench: &Bench,
        settings: Settings,
    ) -> Result<Self, WorkerError> {
        let supplies = bench.supplies().clone();
        let root = tokio::task::spawn_blocking(move || root_disk::image(&supplies)).await??;
        let settings = Settings { root, memory: MEMORY, disk_size: DISK, ..settings };
        announce(plane).await?;
        program_images::push_pause(bench.supplies(), registry).await?;
        let guest = bench.boot_with(settings).await?;
        let worker = Self { guest };
        worker.configure(plane, registry).await?;
        worker.start_services(plane).await?;
        Ok(worker)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.guest.name()
    }

    /// The machine.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    async fn configure(&self, plane: &ControlPlane, registry: &Registry) -> Result<(), WorkerError> {
        let name = self.name();
        let identity =
            |user: &str, groups: &[&str]| plane.pki().identity(user, groups).map_err(ControlPlaneError::from);
        let kubelet = identity(&format!("system:node:{name}"), &["system:nodes"])?;
        let proxy = identity("system:kube-proxy", &[])?;
        let mut files = settings::files(name, registry.port());
        files.push((settings::AUTHORITY.to_owned(), plane.pki().authority().to_owned()));
        for (path, identity) in [(settings::KUBELET_KUBECONFIG, kubelet), (settings::PROXY_KUBECONFIG, proxy)]
        {
            files.push((path.to_owned(), serde_json::to_string(&seen_from_guest(plane, identity))?));
        }
        for (path, text) in files {
            self.guest.write_file(&path, 0o600, text.as_bytes()).await?;
        }
        Ok(())
    }

    async fn start_services(&self, plane: &ControlPlane) -> Result<(), WorkerError> {
        self.guest.shell(&format!("sh {}", settings::START)).await?;
        let nodes: Api<NodeObject> = Api::all(plane.client());
        let boot = self.guest.hello()?.boot_id.clone();
        let claim = format!("node {} is Ready", self.name());
        let ready = comes_true_within(READY, claim, async || {
            let node = nodes.get_opt(self.name()).await.map_err(|error| error.to_string())?;
            let status = node.and_then(|node| node.status).ok_or("it has not registered")?;
            if status.node_info.as_ref().is_none_or(|info| info.boot_id != boot) {
                return Err("it has not reported since it booted".to_owned());
            }
            node_settings::is_ready(&status)
        });
        ready.await.map_err(|source| {
            let console = self.guest.console();
            WorkerError::NotReady { tail: Tail::of_file(&console), console, source }
        })
    }

    /// Pulls the plug and boots again, with the disk it has.
    pub async fn reset(&mut self, plane: &ControlPlane, registry: &Registry) -> Result<(), WorkerError> {
        self.guest.reset().await?;
        self.configure(plane, registry).await?;
        self.start_services(plane).await
    }
}

fn seen_from_guest(plane: &ControlPlane, identity: Identity) -> Kubeconfig {
    let mut config = kubeconfig(plane.pki(), plane.port(), &identity.into());
    for cluster in config.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        cluster.server = Some(format!("https://{HOST}:{}", plane.port()));
    }
    config
}

/// Says what stands behind the Service `kubernetes`. The API server, being on loopback, does not say it itself.
async fn announce(plane: &ControlPlane) -> Result<(), WorkerError> {
    let slices: Api<EndpointSlice> = Api::namespaced(plane.client(), "default");
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": { "name": "kubernetes", "labels": { "kubernetes.io/service-name": "kubernetes" } },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [HOST], "conditions": { "ready": true } }],
        "ports": [{ "name": "https", "port": plane.port(), "protocol": "TCP" }],
    });
    let params = PatchParams::apply("lab").force();
    slices.patch("kubernetes", &params, &Patch::Apply(slice)).await?;
    Ok(())
}
