//! What a kubelet would mount into every node pod, shared by all simulated nodes and kept up to date.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tenon_api::node_pod::{DEPOT_CONFIG_MAP, NAMESPACE, ORDER_KEYS_CONFIG_MAP};
use tenon_order::KeySet;

/// The `ConfigMap`s of the node pod.
#[derive(Debug)]
pub(super) struct Volumes {
    depot: PathBuf,
    keys: RwLock<KeySet>,
}

impl Volumes {
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let depot = folder.join("depot");
        fs::create_dir_all(&depot)?;
        Ok(Self { depot, keys: RwLock::default() })
    }

    /// The folder with the depot's addresses and authority.
    pub(super) fn depot(&self) -> &Path {
        &self.depot
    }

    /// The keys as they are mounted now.
    pub(super) fn order_keys(&self) -> KeySet {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows both `ConfigMap`s for ever. One that is gone leaves what was mounted, as an optional volume's files would
    /// vanish and the loader keep what it knew.
    pub(super) async fn follow(&self, client: Client) {
        let maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
        let events = watcher(maps, watcher::Config::default()).default_backoff().applied_objects();
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            // An interrupted watch is opened again.
            let Ok(map) = event else { continue };
            match map.name_any().as_str() {
                ORDER_KEYS_CONFIG_MAP => self.mount_keys(&map),
                DEPOT_CONFIG_MAP => self.mount_depot(&map),
                _ => {}
            }
        }
    }

    fn mount_keys(&self, map: &ConfigMap) {
        let mut keys = KeySet::default();
        for (id, text) in map.data.iter().flatten() {
            // What the real loader would not take is no key here either.
            let _ = keys.insert_listed(id, text);
        }
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    fn mount_depot(&self, map: &ConfigMap) {
        for (name, text) in map.data.iter().flatten() {
            let aside = self.depot.join(format!(".{name}"));
            let written = fs::write(&aside, text).and_then(|()| fs::rename(&aside, self.depot.join(name)));
            if let Err(error) = written {
                eprintln!("lab: fleet: mount {name}: {error}");
            }
        }
    }
}
