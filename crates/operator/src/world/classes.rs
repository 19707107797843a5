//! Device classes tell whoever looks after a Module's plugin that there is something to see. What there is of them is not kept here: it
//! is read before it is decided about, so that a class of somebody else's is never taken for one that is gone.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::resource::v1::DeviceClass;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tenon_api::Module;
use tenon_plan::workload::class;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Index, World};

/// How long a watch may be silent before it is opened anew.
const WATCH_SECONDS: u32 = 290;
/// Changes that come this close together are looked at once: somebody may change again and again what is ours.
const LOOK_WITHIN: Duration = Duration::from_secs(3);

impl World {
    /// A device class has come, is another, or is gone: the Modules that it is of, or that ask for one of its name, are looked at.
    fn class_changed(&self, changed: &PartialObjectMeta<DeviceClass>) {
        let name = changed.name_any();
        self.look_at_classes_of(|module| {
            let mut asked = module.spec.dra.iter().flat_map(|dra| &dra.device_classes);
            asked.any(|asked| asked.name == name)
                || class::mark(module).iter().all(|(key, value)| changed.labels().get(key) == Some(value))
        });
    }

    fn look_at_classes_of(&self, concerns: impl Fn(&Module) -> bool) {
        let concerned: Vec<_> = {
            let index = self.read();
            index
                .modules()
                .filter(|module| concerns(module))
                .filter_map(|module| Index::key_of(module))
                .collect()
        };
        for module in concerned {
            self.queues.workloads.add_within(module, LOOK_WITHIN);
        }
    }
}

/// Follows the device classes, from when a Module has a DRA driver until `shutdown`.
pub async fn follow_classes(client: Client, world: &World, shutdown: CancellationToken) {
    let mut wanted = world.has_dra.subscribe();
    let Some(Ok(_)) = shutdown.run_until_cancelled(wanted.wait_for(|wanted| *wanted)).await else { return };
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let classes = Api::<PartialObjectMeta<DeviceClass>>::all(client);
    let mut events = Box::pin(watcher(classes, config).default_backoff());
    while let Some(Some(event)) = shutdown.run_until_cancelled(events.next()).await {
        match event {
            Ok(Event::Init | Event::InitApply(_)) => {}
            // While nobody told of them, any may have changed.
            Ok(Event::InitDone) => world.look_at_classes_of(|module| module.spec.dra.is_some()),
            Ok(Event::Apply(class) | Event::Delete(class)) => world.class_changed(&class),
            Err(watcher::Error::InitialListFailed(kube::Error::Api(status))) if status.is_not_found() => {
                debug!("the cluster has no such kind as DeviceClass");
            }
            Err(error) => warn!(
                kind = "DeviceClass",
                error = &error as &dyn std::error::Error,
                "a watch was interrupted; it is opened again"
            ),
        }
    }
}
