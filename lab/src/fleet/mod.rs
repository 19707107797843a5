//! Nodes without machines: the real agent with a simulated loader behind a real socket, many in one process.
//!
//! In: a control plane that serves Tenon's definitions, and the port at which agents find it (a proxy's, perhaps). Out:
//! nodes that register, fetch bundles from the real depot, load and unload in writing, reboot, fail and are busy. What a
//! kubelet would do for the node pod (mounts, tokens, restarts) is done here. A node costs a task or two and a folder;
//! threads are borrowed for as long as an agent talks to its loader.

pub mod loader;
mod node;
mod socket;
mod volumes;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kube::Client;
use tokio::task::JoinSet;

use crate::ControlPlane;
use crate::control_plane::ControlPlaneError;

pub use loader::{Behaviour, Deed, Loader};
pub use node::{Machine, SimNode};

use volumes::Volumes;

/// What all simulated nodes of a cluster share.
pub struct Fleet {
    client: Client,
    authority: String,
    folder: PathBuf,
    volumes: Arc<Volumes>,
    _tasks: JoinSet<()>,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// Why there is no simulated node.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// Its files.
    #[error("prepare {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its objects.
    #[error("write the objects of node {node}")]
    Objects {
        /// Which node.
        node: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
    /// Its tokens.
    #[error("get the tokens of node {node}")]
    Tokens {
        /// Which node.
        node: String,
        /// Why not.
        #[source]
        source: Box<ControlPlaneError>,
    },
    /// Its name, or its address of the API server.
    #[error("name node {node}: {source}")]
    Name {
        /// As given.
        node: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Fleet {
    /// A fleet without nodes, in a folder of the caller's.
    pub fn new(plane: &ControlPlane, folder: &Path) -> Result<Self, FleetError> {
        let failed = |source| FleetError::Io { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        let volumes = Arc::new(Volumes::new(folder).map_err(failed)?);
        let mut tasks = JoinSet::new();
        let (kept, client) = (volumes.clone(), plane.client());
        tasks.spawn(async move { kept.follow(client).await });
        Ok(Self {
            client: plane.client(),
            authority: plane.pki().authority().to_owned(),
            folder: folder.to_owned(),
            volumes,
            _tasks: tasks,
        })
    }
}
