//! The kubelet of this node: whether it is there, and whether it is still the same.
//!
//! A kubelet that starts empties the folder of the plugins' sockets and makes its own anew. It knows of no plugin that does not
//! register with it then.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use http::uri::PathAndQuery;
use tokio::time::sleep;
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

use crate::api::{self, DevicePluginOptions, Empty, RegisterRequest};

/// The two sockets.
#[derive(Debug)]
pub(crate) struct Kubelet {
    /// Where the kubelet listens.
    own: PathBuf,
    /// Where this plugin listens.
    plugin: PathBuf,
}

/// One socket tells itself from the next of the same name: inode and time of its making.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity(u64, i64, i64);

impl Kubelet {
    /// The plugin's socket is named after its resource, so that several plugins get along.
    pub(crate) fn new(folder: &Path, resource: &str) -> Self {
        let name = format!("{}.sock", resource.replace('/', "_"));
        Self { own: folder.join("kubelet.sock"), plugin: folder.join(name) }
    }

    /// Where this plugin listens.
    pub(crate) fn plugin_socket(&self) -> &Path {
        &self.plugin
    }

    /// Waits until a kubelet is there.
    pub(crate) async fn appears(&self, look_every: Duration) -> Identity {
        loop {
            if let Some(identity) = identity(&self.own) {
                return identity;
            }
            sleep(look_every).await;
        }
    }

    /// Waits until the kubelet is another one.
    pub(crate) async fn is_replaced(&self, known: Identity, look_every: Duration) {
        while identity(&self.own) == Some(known) && self.plugin.exists() {
            sleep(look_every).await;
        }
    }

    /// Registers this plugin, which must be listening already.
    pub(crate) async fn greet(&self, resource: &str) -> anyhow::Result<()> {
        let address = format!("unix://{}", self.own.display());
        let channel = Endpoint::from_shared(address)?.connect().await.context("connect to the kubelet")?;
        let mut kubelet = Grpc::new(channel);
        kubelet.ready().await.context("connect to the kubelet")?;
        let request = RegisterRequest {
            version: api::VERSION.to_owned(),
            endpoint: self.plugin.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            resource_name: resource.to_owned(),
            options: Some(DevicePluginOptions::default()),
        };
        let codec = ProstCodec::<RegisterRequest, Empty>::default();
        let path = PathAndQuery::from_static(api::REGISTER);
        kubelet.unary(Request::new(request), path, codec).await.context("register with the kubelet")?;
        Ok(())
    }

    /// Takes the plugin's socket away.
    pub(crate) fn withdraw(&self) -> anyhow::Result<()> {
        match fs::remove_file(&self.plugin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.plugin.display()))
            }
            _ => Ok(()),
        }
    }
}

fn identity(socket: &Path) -> Option<Identity> {
    let metadata = fs::metadata(socket).ok()?;
    Some(Identity(metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    const OFTEN: Duration = Duration::from_millis(5);

    #[tokio::test(start_paused = true)]
    async fn a_kubelet_that_starts_anew_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let kubelet = Kubelet::new(folder.path(), "lab.example/thing");
        let _first = UnixListener::bind(&kubelet.own).unwrap();
        let _plugin = UnixListener::bind(kubelet.plugin_socket()).unwrap();
        let known = kubelet.appears(OFTEN).await;
        let same = tokio::time::timeout(OFTEN * 10, kubelet.is_replaced(known, OFTEN)).await;
        assert!(same.is_err(), "it is the same");

        fs::rename(&kubelet.own, folder.path().join("aside")).unwrap();
        let _second = UnixListener::bind(&kubelet.own).unwrap();
        kubelet.is_replaced(known, OFTEN).await;
        assert_ne!(kubelet.appears(OFTEN).await, known);
    }

    #[tokio::test(start_paused = true)]
    async fn a_kubelet_that_has_swept_its_folder_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let kubelet = Kubelet::new(folder.path(), "lab.example/thing");
        let _own = UnixListener::bind(&kubelet.own).unwrap();
        let _plugin = UnixListener::bind(kubelet.plugin_socket()).unwrap();
        let known = kubelet.appears(OFTEN).await;
        kubelet.withdraw().unwrap();
        kubelet.is_replaced(known, OFTEN).await;
        kubelet.withdraw().unwrap();
    }
}
