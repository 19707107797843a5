//! A guest as a node of the cluster: what a kubelet does for the node pod, done with a kubelet's rights.
//!
//! The lab registers the Node with what the guest says of itself, keeps its Lease, makes the agent's Pod, and brings the
//! Pod's volumes (tokens bound to the Pod, `ConfigMap`s) into the guest, again whenever they change.

mod objects;
mod volumes;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tenon_api::node_pod::{CONTAINERS, NAMESPACE};
use tokio::task::JoinHandle;

use crate::bench::Bench;
use crate::control_plane::{ControlPlane, ControlPlaneError};
use crate::guest::oci::{self, Placement};
use crate::guest::seccomp::Profile;
use crate::guest::{Guest, GuestError, Settings};
use crate::wait::{self, TimedOut};

pub use volumes::VolumeError;

/// How often a kubelet renews its node's Lease.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// For what the API server does in the background, such as authorizing a node for its new Pod.
const SOON: Duration = Duration::from_mins(1);

/// A node: a guest, its objects, and the task that keeps both up to date.
#[derive(Debug)]
pub struct Node {
    guest: Guest,
    kubelet: Kubelet,
    task: Option<JoinHandle<()>>,
    seccomp: Profile,
    api_port: u16,
}

/// The node's own access to the API server.
#[derive(Clone)]
struct Kubelet {
    name: String,
    client: Client,
    /// The Pod's uid: tokens are bound to it.
    pod_uid: String,
}

impl std::fmt::Debug for Kubelet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubelet").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a node does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The guest.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// Its access to the API server.
    #[error(transparent)]
    ControlPlane(#[from] ControlPlaneError),
    /// One of its objects.
    #[error("{action} {object} of node {node}")]
    Api {
        /// What was attempted.
        action: &'static str,
        /// On which object.
        object: &'static str,
        /// Whose.
        node: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
    /// Its volumes.
    #[error("bring volume {volume} to node {node}")]
    Volume {
        /// Which.
        volume: &'static str,
        /// Where to.
        node: String,
        /// Why.
        #[source]
        source: Box<VolumeError>,
    },
    /// Something did not happen in time.
    #[error("node {node}: {last}")]
    TimedOut {
        /// Which.
        node: String,
        /// The last refusal.
        last: String,
        /// What was waited for.
        #[source]
        source: TimedOut,
    },
}

impl Node {
    /// Boots a guest and makes it a Ready node that runs the node pod.
    pub async fn start(plane: &ControlPlane, bench: &Bench, settings: Settings) -> Result<Self, NodeError> {
        let name = settings.name.clone();
        let guest = Guest::boot(settings, bench.folder()).await?;
        let identity = plane
            .pki()
            .identity(&format!("system:node:{name}"), &["system:nodes"])
            .map_err(ControlPlaneError::from)?;
        let client = plane.client_as(&identity.into()).await?;
        let kubelet = Kubelet { name, client, pod_uid: String::new() };
        let mut node =
            Self { guest, kubelet, task: None, seccomp: bench.seccomp().clone(), api_port: plane.port() };
        node.kubelet.create_node().await?;
        node.kubelet.report(&node.guest, true).await?;
        node.kubelet.pod_uid = node.create_pod(plane).await?;
        node.start_pod().await?;
        Ok(node)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.kubelet.name
    }

    /// The machine, to look into and to disturb.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// The machine, to switch its kernel; use the node's own methods to boot it.
    pub fn guest_mut(&mut self) -> &mut Guest {
        &mut self.guest
    }

    /// A client with the node's own rights.
    pub fn client(&self) -> Client {
        self.kubelet.client.clone()
    }

    /// Pulls the plug; its Lease expires.
    pub fn unplug(&mut self) {
        self.rest();
        self.guest.unplug();
    }

    /// Switches it off in good order, as a kubelet that is told of the shutdown.
    pub async fn power_off(&mut self) -> Result<(), NodeError> {
        self.rest();
        self.kubelet.report(&self.guest, false).await?;
        Ok(self.guest.power_off().await?)
    }

    /// Boots it with the disk it has, and runs its pod again.
    pub async fn switch_on(&mut self) -> Result<(), NodeError> {
        self.guest.switch_on().await?;
        self.kubelet.report(&self.guest, true).await?;
        self.start_pod().await
    }

    /// Pulls the plug and boots it again.
    pub async fn reset(&mut self) -> Result<(), NodeError> {
        self.unplug();
        self.switch_on().await
    }

    /// Replaces its Pod by a new one, as a `DaemonSet` does: the store stays, all else is new.
    pub async fn replace_pod(&mut self, plane: &ControlPlane) -> Result<(), NodeError> {
        self.rest();
        for container in &CONTAINERS {
            self.guest.stop_container(container.name).await?;
        }
        self.guest.shell(&format!("rm -rf {}/*", crate::guest::protocol::VOLUMES)).await?;
        let pods: Api<Pod> = Api::namespaced(plane.client(), NAMESPACE);
        let at_once = DeleteParams::default().grace_period(0);
        let deleted = pods.delete(&objects::pod_name(self.name()), &at_once).await;
        deleted.map_err(|source| self.kubelet.failed("delete", "the Pod", source))?;
        self.kubelet.pod_uid = self.create_pod(plane).await?;
        self.start_pod().await
    }

    /// Makes the Pod, bound to the node, as the `DaemonSet`'s controller and the scheduler would.
    async fn create_pod(&self, plane: &ControlPlane) -> Result<String, NodeError> {
        let pods: Api<Pod> = Api::namespaced(plane.client(), NAMESPACE);
        let nodes: Api<NodeObject> = Api::all(plane.client());
        let node = nodes.get(self.name()).await;
        let node = node.map_err(|source| self.kubelet.failed("read", "the Node", source))?;
        let pod = objects::pod(self.name(), node.metadata.uid.unwrap_or_default());
        let created = pods.create(&PostParams::default(), &pod).await;
        let created = created.map_err(|source| self.kubelet.failed("create", "the Pod", source))?;
        Ok(created.metadata.uid.unwrap_or_default())
    }

    async fn start_pod(&mut self) -> Result<(), NodeError> {
        for container in &CONTAINERS {
            self.guest.prepare_volumes(container).await?;
        }
        self.wait_for_tokens().await?;
        let placement =
            Placement { node: &self.kubelet.name, api_port: self.api_port, seccomp: &self.seccomp };
        for container in &CONTAINERS {
            let config = oci::config(container, placement);
            self.guest.start_container(container.name, &config).await?;
        }
        self.kubelet.report_pod().await?;
        self.task = Some(tokio::spawn(self.kubelet.clone().keep(self.guest.channel()?)));
        Ok(())
    }

    /// The API server authorizes a node for its Pod's volumes a moment after the Pod was made.
    async fn wait_for_tokens(&self) -> Result<(), NodeError> {
        let channel = self.guest.channel()?;
        let mut last = String::new();
        let written = wait::until("the Pod's volumes", SOON, async || {
            match self.kubelet.write_volumes(&channel).await {
                Ok(()) => Some(()),
                Err(error) => {
                    last = crate::chain(&error);
                    None
                }
            }
        })
        .await;
        written.map_err(|source| NodeError::TimedOut { node: self.kubelet.name.clone(), last, source })
    }

    /// Ends the task that plays kubelet.
    fn rest(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.rest();
    }
}

impl Kubelet {
    async fn create_node(&self) -> Result<(), NodeError> {
        let nodes: Api<NodeObject> = Api::all(self.client.clone());
        let created = nodes.create(&PostParams::default(), &objects::node(&self.name)).await;
        created.map(drop).map_err(|source| self.failed("create", "the Node", source))
    }

    /// What the guest says of itself, and whether it is ready.
    async fn report(&self, guest: &Guest, ready: bool) -> Result<(), NodeError> {
        let nodes: Api<NodeObject> = Api::all(self.client.clone());
        let status = objects::node_status(&self.name, guest.hello()?, ready);
        let reported =
            nodes.patch_status(&self.name, &PatchParams::default(), &Patch::Strategic(status)).await;
        reported.map_err(|source| self.failed("report the status of", "the Node", source))?;
        self.renew_lease().await
    }

    async fn report_pod(&self) -> Result<(), NodeError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let status = Patch::Strategic(objects::pod_status());
        let reported =
            pods.patch_status(&objects::pod_name(&self.name), &PatchParams::default(), &status).await;
        reported.map(drop).map_err(|source| self.failed("report the status of", "the Pod", source))
    }

    async fn renew_lease(&self) -> Result<(), NodeError> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        let failed = |source| self.failed("renew", "the Lease", source);
        let lease = objects::lease(&self.name);
        let patch = PatchParams::default();
        match leases.patch(&self.name, &patch, &Patch::Merge(&lease)).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {
                leases.create(&PostParams::default(), &lease).await.map(drop).map_err(failed)
            }
            other => other.map(drop).map_err(failed),
        }
    }

    fn failed(&self, action: &'static str, object: &'static str, source: kube::Error) -> NodeError {
        NodeError::Api { action, object, node: self.name.clone(), source }
    }
}
