//! Whether anything still happens: the changes of Tenon's objects and of Nodes, seen by watches of their metadata.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tenon_api::{Module, ModuleImage, NodeModulesConfig};
use tokio::task::JoinSet;

/// Looks on for as long as it lives.
pub(super) struct Quiet {
    last: Arc<Mutex<Instant>>,
    _watches: JoinSet<()>,
}

impl fmt::Debug for Quiet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quiet").field("for", &self.lasts()).finish_non_exhaustive()
    }
}

impl Quiet {
    pub(super) fn watch(client: &Client) -> Self {
        let last = Arc::new(Mutex::new(Instant::now()));
        let mut watches = JoinSet::new();
        watches.spawn(follow::<Node>(client.clone(), last.clone()));
        watches.spawn(follow::<Module>(client.clone(), last.clone()));
        watches.spawn(follow::<ModuleImage>(client.clone(), last.clone()));
        watches.spawn(follow::<NodeModulesConfig>(client.clone(), last.clone()));
        Self { last, _watches: watches }
    }

    /// For how long nothing has happened.
    pub(super) fn lasts(&self) -> Duration {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Something has.
    pub(super) fn disturb(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

async fn follow<K>(client: Client, last: Arc<Mutex<Instant>>)
where
    K: Resource<DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned + Send + 'static,
{
    let objects: Api<PartialObjectMeta<K>> = Api::all(client);
    let events = watcher(objects, watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(events);
    while events.next().await.is_some() {
        *last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}
