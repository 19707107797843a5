//! The Pod's volumes that come from the API server, and the task that keeps them, and the Lease, fresh.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use tenon_api::node_pod::{CONTAINERS, Mount, MountSource, NAMESPACE, SERVICE_ACCOUNT};

use super::{HEARTBEAT, Kubelet, NodeError, objects};
use crate::control_plane::{Binding, ControlPlaneError, request_token};
use crate::guest::oci;
use crate::guest::protocol::{Bytes, Operation};
use crate::guest::{Channel, ChannelError};

/// The lab asks for tokens of an hour; a kubelet renews at four fifths of it.
const RENEWAL: Duration = Duration::from_mins(48);

/// Why a volume could not be brought.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The token.
    #[error("request a token")]
    Token(#[from] ControlPlaneError),
    /// The `ConfigMap`.
    #[error("read ConfigMap {name}")]
    ConfigMap {
        /// Which.
        name: &'static str,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
    /// The guest.
    #[error(transparent)]
    Guest(#[from] ChannelError),
}

type Files = BTreeMap<String, Bytes>;

impl Kubelet {
    /// Plays kubelet until it is aborted. What fails is tried again at the next occasion.
    pub(super) async fn keep(self, channel: Arc<Channel>) {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        let mut renewal = tokio::time::interval(RENEWAL);
        // Both fire at once the first time, and the volumes have just been written.
        renewal.tick().await;
        let mut changes = self.changes();
        loop {
            let result = tokio::select! {
                _ = heartbeat.tick() => self.renew_lease().await,
                _ = renewal.tick() => self.write_volumes(&channel).await,
                Some(mount) = changes.next() => self.write_volume(&mount, &channel).await,
            };
            if let Err(error) = result {
                eprintln!("lab: node {}: {}", self.name, crate::chain(&error));
            }
        }
    }

    /// All of the Pod's volumes that come from the API server.
    pub(super) async fn write_volumes(&self, channel: &Channel) -> Result<(), NodeError> {
        for mount in projected() {
            self.write_volume(&mount, channel).await?;
        }
        Ok(())
    }

    async fn write_volume(&self, mount: &Mount, channel: &Channel) -> Result<(), NodeError> {
        let write = async {
            let files = self.files(mount).await?;
            let path = oci::source(mount);
            Ok(channel.order(Operation::WriteVolume { path, files }).await?)
        };
        write.await.map_err(|source: VolumeError| NodeError::Volume {
            volume: mount.name,
            node: self.name.clone(),
            source: Box::new(source),
        })
    }

    async fn files(&self, mount: &Mount) -> Result<Files, VolumeError> {
        match mount.source {
            MountSource::HostPath { .. } | MountSource::EmptyDir { .. } => Ok(Files::new()),
            MountSource::ConfigMap { name, optional } => self.config_map(name, optional).await,
            MountSource::Token { audience, file, .. } => {
                let token = self.token(Some(audience)).await?;
                Ok([(file.to_owned(), Bytes(token.into_bytes()))].into())
            }
            MountSource::ApiToken => {
                let mut files = self.config_map("kube-root-ca.crt", false).await?;
                let token = self.token(None).await?;
                files.insert("token".to_owned(), Bytes(token.into_bytes()));
                files.insert("namespace".to_owned(), Bytes(NAMESPACE.as_bytes().to_vec()));
                Ok(files)
            }
        }
    }

    async fn token(&self, audience: Option<&str>) -> Result<String, VolumeError> {
        let binding = Binding::Pod { name: objects::pod_name(&self.name), uid: self.pod_uid.clone() };
        Ok(request_token(self.client.clone(), NAMESPACE, SERVICE_ACCOUNT, audience, &binding).await?)
    }

    async fn config_map(&self, name: &'static str, optional: bool) -> Result<Files, VolumeError> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
        let map = match maps.get(name).await {
            Err(kube::Error::Api(status)) if optional && status.is_not_found() => ConfigMap::default(),
            other => other.map_err(|source| VolumeError::ConfigMap { name, source })?,
        };
        let texts =
            map.data.unwrap_or_default().into_iter().map(|(key, text)| (key, Bytes(text.into_bytes())));
        let binaries =
            map.binary_data.unwrap_or_default().into_iter().map(|(key, data)| (key, Bytes(data.0)));
        Ok(texts.chain(binaries).collect())
    }

    /// The mounts whose `ConfigMap` was made, changed or removed, as it happens.
    fn changes(&self) -> impl futures::Stream<Item = Mount> + Unpin + use<> {
        let streams = projected().filter_map(|mount| {
            let MountSource::ConfigMap { name, .. } = mount.source else { return None };
            let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
            let one = watcher::Config::default().fields(&format!("metadata.name={name}"));
            // An error ends in another try, after a growing pause.
            let events = watcher(maps, one).default_backoff().into_stream();
            Some(events.filter_map(move |event| async move {
                use watcher::Event::{Apply, Delete, InitDone};
                matches!(event, Ok(InitDone | Apply(_) | Delete(_))).then_some(mount)
            }))
        });
        futures::stream::select_all(streams.map(futures::StreamExt::boxed))
    }
}

/// The mounts of the Pod whose content comes from the API server.
fn projected() -> impl Iterator<Item = Mount> {
    let mounts = CONTAINERS.iter().flat_map(|container| container.mounts).copied();
    mounts.filter(|mount| {
        matches!(
            mount.source,
            MountSource::ConfigMap { .. } | MountSource::ApiToken | MountSource::Token { .. }
        )
    })
}
