//! From a kind's watch to calls of the [`World`](super::World).

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tenon_api::node_modules_config::NodeModulesConfig;
use tenon_api::{Module, ModuleImage};
use tenon_order::{ModuleKey, NodeName};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{ImageKey, World, node};

/// Whether a kind has been listed once.
pub type Listed = watch::Receiver<bool>;

/// How long a watch may be silent before it is opened anew. A connection that died without a word is noticed by this.
const WATCH_SECONDS: u32 = 290;

/// A kind that is watched.
pub trait Kind: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static {
    /// What names one object.
    type Key: Clone + Eq + Hash + Send;

    /// The object's key, from its metadata; `None` for names that no such object can have.
    fn key(metadata: &kube::core::ObjectMeta) -> Option<Self::Key>;

    /// The object was seen.
    fn seen(self, key: &Self::Key, world: &World);

    /// The object is gone.
    fn gone(key: &Self::Key, world: &World);
}

impl Kind for Node {
    type Key = NodeName;

    fn key(metadata: &kube::core::ObjectMeta) -> Option<NodeName> {
        metadata.name.as_deref()?.parse().ok()
    }

    fn seen(self, _: &NodeName, world: &World) {
        let Some(name) = node::name(&self) else { return };
        let facts = node::project(self);
        // A heartbeat changes nothing that counts.
        if world.read().node(&name).map(|known| &**known) != facts.as_ref() {
            world.node(&name, facts, world.now());
        }
    }

    fn gone(key: &NodeName, world: &World) {
        world.node(key, None, world.now());
    }
}

impl Kind for Module {
    type Key = ModuleKey;

    fn key(metadata: &kube::core::ObjectMeta) -> Option<ModuleKey> {
        ModuleKey::new(metadata.namespace.as_deref()?, metadata.name.as_deref()?).ok()
    }

    fn seen(mut self, key: &ModuleKey, world: &World) {
        self.metadata.managed_fields = None;
        let same = world.read().module(key).is_some_and(|known| {
            // Our own status writes come back as events; nothing is decided by them.
            known.spec == self.spec
                && known.metadata.uid == self.metadata.uid
                && known.metadata.deletion_timestamp == self.metadata.deletion_timestamp
                && known.metadata.finalizers == self.metadata.finalizers
        });
        if same {
            world.refresh_module(key, self);
        } else {
            world.module(key, Some(self), world.now());
        }
    }

    fn gone(key: &ModuleKey, world: &World) {
        world.module(key, None, world.now());
    }
}

impl Kind for ModuleImage {
    type Key = ImageKey;

    fn key(metadata: &kube::core::ObjectMeta) -> Option<ImageKey> {
        Some(ImageKey { namespace: metadata.namespace.clone()?, name: metadata.name.clone()? })
    }

    fn seen(mut self, key: &ImageKey, world: &World) {
        self.metadata.managed_fields = None;
        if world
            .read()
            .image(key)
            .is_none_or(|known| known.metadata.resource_version != self.metadata.resource_version)
        {
            world.image(key, Some(self));
        }
    }

    fn gone(key: &ImageKey, world: &World) {
        world.image(key, None);
    }
}

impl Kind for NodeModulesConfig {
    type Key = NodeName;

    fn key(metadata: &kube::core::ObjectMeta) -> Option<NodeName> {
        metadata.name.as_deref()?.parse().ok()
    }

    fn seen(mut self, key: &NodeName, world: &World) {
        self.metadata.managed_fields = None;
        if world
            .read()
            .config(key)
            .is_none_or(|known| known.metadata.resource_version != self.metadata.resource_version)
        {
            world.config(key, Some(self), world.now());
        }
    }

    fn gone(key: &NodeName, world: &World) {
        world.config(key, None, world.now());
    }
}

/// Follows all objects of a kind until `shutdown`; `listed` turns true when all that there were have been seen.
///
/// An object that cannot be read is skipped with a warning and stays as it was known: it is there, so it is not gone.
pub async fn follow<K: Kind>(
    client: Client,
    world: &World,
    listed: watch::Sender<bool>,
    shutdown: CancellationToken,
) {
    // A consistent list: what a restarted operator sees is never older than what it saw before.
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let api: Api<DeserializeGuard<K>> = Api::all(client);
    let mut events = Box::pin(watcher(api, config).default_backoff());
    let mut known: HashSet<K::Key> = HashSet::new();
    let mut relisted: HashSet<K::Key> = HashSet::new();
    while let Some(Some(event)) = shutdown.run_until_cancelled(events.next()).await {
        match event {
            Ok(Event::Init) => relisted.clear(),
            Ok(Event::InitApply(object)) => relisted.extend(see(object, world)),
            Ok(Event::InitDone) => {
                for key in known.difference(&relisted) {
                    K::gone(key, world);
                }
                known = std::mem::take(&mut relisted);
                listed.send_replace(true);
            }
            Ok(Event::Apply(object)) => known.extend(see(object, world)),
            Ok(Event::Delete(object)) => {
                if let Some(key) = key(&object) {
                    known.remove(&key);
                    K::gone(&key, world);
                }
            }
            Err(error) => warn!(
                kind = %K::kind(&()),
                error = &error as &dyn std::error::Error,
                "a watch was interrupted; it is opened again"
            ),
        }
    }
}

fn key<K: Kind>(object: &DeserializeGuard<K>) -> Option<K::Key> {
    match &object.0 {
        Ok(object) => K::key(object.meta()),
        Err(invalid) => K::key(&invalid.metadata),
    }
}

fn see<K: Kind>(object: DeserializeGuard<K>, world: &World) -> Option<K::Key> {
    let key = key(&object)?;
    match object.0 {
        Ok(object) => object.seen(&key, world),
        Err(invalid) => warn!(
            kind = %K::kind(&()),
            name = invalid.metadata.name,
            namespace = invalid.metadata.namespace,
            error = invalid.error,
            "an object cannot be read; it is left as it was"
        ),
    }
    Some(key)
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
