//! From a kind's watch to calls of the [`World`](super::World).

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tenon_api::labels::annotation;
use tenon_api::node_modules_config::NodeModulesConfig;
use tenon_api::{Guarded, Module, ModuleImage, PreflightValidation};
use tenon_order::{ModuleKey, NodeName};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{ImageKey, Node, World, is_older, node, version};

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

    /// Whether a watch tells of an earlier state of it than is known by the answer to a write of ours.
    fn is_outdated(&self, _: &Self::Key, _: &World) -> bool {
        false
    }

    /// The object is gone; `version` is that of its deletion, where an event tells.
    fn gone(key: &Self::Key, version: Option<u64>, world: &World);

    /// Those that are known, by a watch or by the answer to a write of ours.
    fn known(world: &World) -> Vec<Self::Key>;
}

impl Kind for Node {
    type Key = NodeName;

    fn key(metadata: &kube::core::ObjectMeta) -> Option<NodeName> {
        metadata.name.as_deref()?.parse().ok()
    }

    /// A list may have set out before a label of ours was written. But it may also be that time has gone back, when etcd was
    /// restored: so the Node is read before the node is decided about.
    fn seen(self, _: &NodeName, world: &World) {
        let Some(name) = node::name(&self) else { return };
        if world.node_version(&name) > version(self.metadata.resource_version.as_deref()) {
            world.doubt_node(&name);
        } else {
            world.see_node(&name, self);
        }
    }

    fn is_outdated(&self, key: &NodeName, world: &World) -> bool {
        world.node_version(key) > version(self.metadata.resource_version.as_deref())
    }

    fn gone(key: &NodeName, version: Option<u64>, world: &World) {
        world.node_gone(key, version);
    }

    fn known(world: &World) -> Vec<NodeName> {
        world.read().nodes().map(|node| node.name.clone()).collect()
    }
}

impl Kind for Module {
    type Key = ModuleKey;

    fn key(metadata: &kube::core::ObjectMeta) -> Option<ModuleKey> {
        ModuleKey::new(metadata.namespace.as_deref()?, metadata.name.as_deref()?).ok()
    }

    fn seen(self, key: &ModuleKey, world: &World) {
        // Our own status writes come back as events; nodes are not decided about by them.
        let same = world.read().module(key).is_some_and(|known| is_same_wish(known, &self));
        if same {
            world.refresh_module(key, self);
        } else {
            world.module(key, Some(self));
        }
    }

    fn is_outdated(&self, key: &Self::Key, world: &World) -> bool {
        world.read().module(key).is_some_and(|known| is_older(self, &**known))
    }

    fn gone(key: &ModuleKey, _: Option<u64>, world: &World) {
        world.module(key, None);
    }

    fn known(world: &World) -> Vec<ModuleKey> {
        world.read().modules().filter_map(|module| Self::key(&module.metadata)).collect()
    }
}

impl Kind for ModuleImage {
    type Key = ImageKey;

    fn key(metadata: &kube::core::ObjectMeta) -> Option<ImageKey> {
        Some(ImageKey { namespace: metadata.namespace.clone()?, name: metadata.name.clone()? })
    }

    fn seen(self, key: &ImageKey, world: &World) {
        if world
            .read()
            .image(key)
            .is_none_or(|known| known.metadata.resource_version != self.metadata.resource_version)
        {
            world.image(key, Some(self));
        }
    }

    fn is_outdated(&self, key: &Self::Key, world: &World) -> bool {
        world.read().image(key).is_some_and(|known| is_older(self, &**known))
    }

    fn gone(key: &ImageKey, version: Option<u64>, world: &World) {
        world.image_gone(key, version);
    }

    fn known(world: &World) -> Vec<ImageKey> {
        world.read().images().map(|image| ImageKey::of(image)).collect()
    }
}

impl Kind for NodeModulesConfig {
    type Key = NodeName;

    fn key(metadata: &kube::core::ObjectMeta) -> Option<NodeName> {
        metadata.name.as_deref()?.parse().ok()
    }

    fn seen(self, key: &NodeName, world: &World) {
        world.config_seen(key, self);
    }

    fn is_outdated(&self, key: &Self::Key, world: &World) -> bool {
        world.read().config(key).is_some_and(|known| is_older(self, &**known))
    }

    fn gone(key: &NodeName, version: Option<u64>, world: &World) {
        world.config_gone(key, version);
    }

    fn known(world: &World) -> Vec<NodeName> {
        world.read().configs().filter_map(|config| Self::key(&config.metadata)).collect()
    }
}

impl Kind for PreflightValidation {
    type Key = String;

    fn key(metadata: &kube::core::ObjectMeta) -> Option<String> {
        metadata.name.clone()
    }

    fn seen(self, key: &String, world: &World) {
        world.preflight(key, Some(self));
    }

    fn is_outdated(&self, key: &String, world: &World) -> bool {
        world.read().preflight(key).is_some_and(|known| is_older(self, &**known))
    }

    fn gone(key: &String, _: Option<u64>, world: &World) {
        world.preflight(key, None);
    }

    fn known(world: &World) -> Vec<String> {
        world.read().preflights().filter_map(|preflight| Self::key(&preflight.metadata)).collect()
    }
}

/// Whether two states of a Module wish the same.
pub(super) fn is_same_wish(one: &Module, other: &Module) -> bool {
    one.spec == other.spec
        && WISHES.iter().all(|wish| one.annotations().get(*wish) == other.annotations().get(*wish))
        && one.metadata.uid == other.metadata.uid
        && one.metadata.deletion_timestamp == other.metadata.deletion_timestamp
        && one.metadata.finalizers == other.metadata.finalizers
}

/// The annotations by which a user says what is wished.
const WISHES: [&str; 2] = [annotation::RETRY, annotation::PAUSED];

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
    let api: Api<Guarded<K>> = Api::all(client);
    let mut events = Box::pin(watcher(api, config).default_backoff());
    let mut follower = Follower::default();
    while let Some(Some(event)) = shutdown.run_until_cancelled(events.next()).await {
        match event {
            Ok(event) => {
                if follower.take(event, world) {
                    listed.send_replace(true);
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

/// What a watch has told of, so that what a list lacks is known to be gone.
struct Follower<K: Kind> {
    known: HashSet<K::Key>,
    relisted: HashSet<K::Key>,
}

impl<K: Kind> Default for Follower<K> {
    fn default() -> Self {
        Self { known: HashSet::new(), relisted: HashSet::new() }
    }
}

impl<K: Kind> Follower<K> {
    /// Takes in one event; returns whether everything has been listed by it.
    fn take(&mut self, event: Event<Guarded<K>>, world: &World) -> bool {
        let _news = world.take_news();
        match event {
            Event::Init => {
                self.relisted.clear();
                // Of what was made by us since the last list, the watch may have told nothing.
                self.known.extend(K::known(world));
            }
            Event::InitApply(object) => self.relisted.extend(see(object, world)),
            Event::InitDone => {
                for key in self.known.difference(&self.relisted) {
                    K::gone(key, None, world);
                }
                self.known = std::mem::take(&mut self.relisted);
                return true;
            }
            Event::Apply(object) if is_outdated(&object, world) => {}
            Event::Apply(object) => self.known.extend(see(object, world)),
            Event::Delete(object) => {
                if let Some(key) = key(&object) {
                    self.known.remove(&key);
                    K::gone(&key, version_of(&object), world);
                }
            }
        }
        false
    }
}

fn key<K: Kind>(object: &Guarded<K>) -> Option<K::Key> {
    match &object.0 {
        Ok(object) => K::key(object.meta()),
        Err(invalid) => K::key(&invalid.metadata),
    }
}

/// Also that of an object that cannot be read.
fn version_of<K: Kind>(object: &Guarded<K>) -> Option<u64> {
    let metadata = match &object.0 {
        Ok(object) => object.meta(),
        Err(invalid) => &invalid.metadata,
    };
    version(metadata.resource_version.as_deref())
}

fn is_outdated<K: Kind>(object: &Guarded<K>, world: &World) -> bool {
    let known = object.0.as_ref().ok().zip(key(object));
    known.is_some_and(|(object, key)| object.is_outdated(&key, world))
}

fn see<K: Kind>(object: Guarded<K>, world: &World) -> Option<K::Key> {
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Barrier;

    use tenon_api::module_image::ModuleImageSpec;

    use super::*;
    use crate::depot::Assignments;
    use crate::world::Clock;
    use crate::world::fixture::{config, node};

    fn module(version: u64, available: i32) -> Module {
        serde_json::from_value(serde_json::json!({
            "metadata": {
                "namespace": "lab", "name": "gauge", "uid": "u-3", "resourceVersion": version.to_string()
            },
            "spec": {"selector": {"hall": "a"}},
            "status": {"moduleLoader": {
                "nodesMatchingSelectorNumber": 3, "desiredNumber": 3, "availableNumber": available
            }}
        }))
        .unwrap()
    }

    fn is_ready(world: &World) -> bool {
        world.read().node(&"pine".parse().unwrap()).unwrap().labels.contains_key("ready")
    }

    /// As an event of the watch, not as part of a list.
    fn follow_one(object: Node, world: &World) {
        let object = Guarded(Ok(object));
        if !is_outdated(&object, world) {
            see(object, world);
        }
    }

    #[test]
    fn labels_that_were_written_are_known_at_once_and_no_late_event_takes_them_back() {
        let world = World::new(Assignments::default());
        let name = "pine".parse().unwrap();
        follow_one(node(4, false), &world);
        let written: BTreeMap<_, _> = [("ready".to_owned(), Some(String::new()))].into();
        world.wrote_labels(&name, "another", &written, Some(9));
        assert!(!is_ready(&world), "that was another node of this name");
        world.wrote_labels(&name, "u-1", &written, Some(9));
        assert!(is_ready(&world));
        follow_one(node(7, false), &world);
        assert!(is_ready(&world), "a late event");
        follow_one(node(9, true), &world);
        follow_one(node(11, false), &world);
        assert!(!is_ready(&world), "somebody took it away");
        world.wrote_labels(&name, "u-1", &written, Some(10));
        assert!(!is_ready(&world), "an answer that comes after that");
    }

    #[test]
    fn a_node_that_was_read_is_known_as_it_was_then_and_no_late_event_takes_it_back() {
        let (world, pine) = (World::new(Assignments::default()), "pine".parse().unwrap());
        follow_one(node(4, false), &world);
        world.node_read(&pine, Some(2), Some(node(3, true)));
        assert!(!is_ready(&world), "the watch has got further meanwhile");
        world.node_read(&pine, Some(4), Some(node(9, true)));
        follow_one(node(7, false), &world);
        assert!(is_ready(&world));
        follow_one(node(11, false), &world);
        assert!(!is_ready(&world));
    }

    #[test]
    fn where_an_object_has_gone_its_node_is_looked_for_before_another_is_made() {
        let (world, pine) = (World::new(Assignments::default()), "pine".parse().unwrap());
        world.config_gone(&pine, Some(3));
        assert!(!world.is_node_doubted(&pine), "nobody knows of such a node");
        follow_one(node(4, false), &world);
        world.config_gone(&pine, Some(9));
        assert!(world.is_node_doubted(&pine));
        world.node_read(&pine, Some(2), None);
        assert!(world.read().node(&pine).is_some(), "the watch has got further meanwhile");
        world.node_read(&pine, Some(4), None);
        assert!(world.read().node(&pine).is_none());
        follow_one(node(4, true), &world);
        follow_one(node(12, true), &world);
        assert!(is_ready(&world), "it is there again");
    }

    #[test]
    fn a_jump_of_the_time_takes_no_node_for_undiscovered_any_sooner() {
        thread_local!(static WALL: std::cell::Cell<u64> = const { std::cell::Cell::new(1_000) });
        let clock = Clock { wall: || WALL.get(), steady: tokio::time::Instant::now };
        let (world, pine) = (World::with_clock(Assignments::default(), clock), "pine".parse().unwrap());
        let key: ModuleKey = "lab/gauge".parse().unwrap();
        let label = "feature.node.kubernetes.io/gauge";
        let mut gauge = module(5, 2);
        gauge.spec.selector = [(label.to_owned(), "true".to_owned())].into();
        gauge.seen(&key, &world);
        let mut object = config(3);
        object.spec.modules.push(tenon_api::node_modules_config::NodeModule {
            namespace: "lab".to_owned(),
            name: "gauge".to_owned(),
            ..Default::default()
        });
        object.seen(&pine, &world);
        follow_one(node(4, false), &world);
        WALL.set(3_600_000);
        assert!(world.now() == 3_600_000 && world.steady() < 600_000);
        let lacked = world.read().undiscovered_for(&key, &pine, world.steady());
        assert!(lacked.is_some_and(|lacked| lacked < 600_000), "{lacked:?}");
    }

    #[test]
    fn a_late_answer_does_not_bring_back_what_was_deleted() {
        let world = World::new(Assignments::default());
        let name = "pine".parse().unwrap();
        world.config_gone(&name, Some(9));
        world.wrote_config(config(7));
        world.config_read(&name, None, Some(config(8)));
        assert!(world.read().config(&name).is_none());
        world.wrote_config(config(10));
        assert!(world.read().config(&name).is_some(), "it was made anew");
    }

    fn image(version: u64) -> ModuleImage {
        let mut image = ModuleImage::new("gauge-0", ModuleImageSpec::default());
        image.metadata.namespace = Some("lab".to_owned());
        image.metadata.resource_version = Some(version.to_string());
        image
    }

    #[test]
    fn an_answer_and_a_watch_that_come_at_once_leave_the_newer() {
        for _ in 0..2_000 {
            let world = World::new(Assignments::default());
            let mut images = Follower::<ModuleImage>::default();
            let mut configs = Follower::<NodeModulesConfig>::default();
            images.take(Event::Apply(Guarded(Ok(image(4)))), &world);
            configs.take(Event::Apply(Guarded(Ok(config(4)))), &world);
            let both = Barrier::new(2);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    both.wait();
                    images.take(Event::Delete(Guarded(Ok(image(6)))), &world);
                    configs.take(Event::Apply(Guarded(Ok(config(6)))), &world);
                });
                both.wait();
                world.wrote_image(image(5));
                world.wrote_config(config(5));
            });
            assert_eq!(world.read().images().count(), 0, "it is gone for good");
            let known = world.read().config(&"pine".parse().unwrap()).unwrap().resource_version();
            assert_eq!(known.as_deref(), Some("6"));
        }
    }

    #[test]
    fn a_driver_is_looked_at_again_when_it_ceases_or_begins_to_be_the_only_one_for_its_kernel() {
        let world = World::new(Assignments::default());
        let of = |module: &str, kernel: &str, version: u64| {
            let mut image = image(version);
            image.metadata.name = Some(format!("{module}-{kernel}"));
            (image.spec.module, image.spec.kernel) = (module.to_owned(), kernel.to_owned());
            image
        };
        let looked_at = || {
            let names = std::iter::from_fn(|| {
                let key = world.queues.images.try_next().ok()?;
                world.queues.images.done(&key, crate::queue::Next::AwaitChange);
                Some(key.name)
            });
            names.collect::<BTreeSet<_>>()
        };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let mut images = Follower::<ModuleImage>::default();
        let mut tell = |event: Event<ModuleImage>| {
            let event = match event {
                Event::Delete(image) => Event::Delete(Guarded(Ok(image))),
                Event::Apply(image) => Event::Apply(Guarded(Ok(image))),
                _ => Event::Init,
            };
            images.take(event, &world);
        };
        tell(Event::Apply(of("gauge", "6.1", 1)));
        tell(Event::Apply(of("anvil", "6.12", 2)));
        assert_eq!(looked_at(), names(&["gauge-6.1", "anvil-6.12"]));
        tell(Event::Apply(of("meter", "6.1", 3)));
        assert_eq!(looked_at(), names(&["meter-6.1", "gauge-6.1"]));
        tell(Event::Apply(of("ruler", "6.1", 4)));
        assert_eq!(looked_at(), names(&["ruler-6.1"]), "it makes no difference to the others");
        tell(Event::Apply(of("meter", "6.1", 5)));
        assert_eq!(looked_at(), names(&["meter-6.1"]));
        tell(Event::Delete(of("ruler", "6.1", 6)));
        tell(Event::Delete(of("meter", "6.1", 7)));
        assert_eq!(looked_at(), names(&["ruler-6.1", "gauge-6.1", "meter-6.1"]));
    }

    #[test]
    fn what_a_list_lacks_is_gone_though_no_watch_has_told_of_it() {
        let world = World::new(Assignments::default());
        let mut images = Follower::<ModuleImage>::default();
        assert!(images.take(Event::InitDone, &world));
        world.wrote_image(image(4));
        for event in [Event::Init, Event::InitDone] {
            images.take(event, &world);
        }
        assert_eq!(world.read().images().count(), 0);
        world.wrote_image(image(5));
        assert_eq!(world.read().images().count(), 0, "an answer that was long on its way");
        images.take(Event::Apply(Guarded(Ok(image(9)))), &world);
        world.wrote_image(image(10));
        let known = world.read().images().next().and_then(|image| image.resource_version());
        assert_eq!(known.as_deref(), Some("10"), "it was made anew");
    }

    #[test]
    fn a_status_that_is_not_the_one_that_is_known_is_looked_at() {
        thread_local!(static LATER: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });
        fn steady() -> tokio::time::Instant {
            static START: std::sync::LazyLock<tokio::time::Instant> =
                std::sync::LazyLock::new(tokio::time::Instant::now);
            *START + Duration::from_secs(LATER.get())
        }
        let world = World::with_clock(Assignments::default(), Clock { wall: now, steady });
        let key: ModuleKey = "lab/gauge".parse().unwrap();
        let is_looked_at = || {
            LATER.set(LATER.get() + 1);
            let next = world.queues.status.try_next();
            if let Ok(key) = &next {
                world.queues.status.done(key, crate::queue::Next::AwaitChange);
            }
            next.is_ok()
        };
        module(1, 3).seen(&key, &world);
        assert!(is_looked_at() && !is_looked_at());
        world.wrote_status(module(2, 2));
        module(2, 2).seen(&key, &world);
        assert!(!is_looked_at(), "our own");
        assert!(module(1, 3).is_outdated(&key, &world), "what the watch tells of before is no news");
        module(3, 1).seen(&key, &world);
        assert!(is_looked_at(), "a write of ours that nobody answered, or somebody else's");
        let mut wished_again = module(4, 1);
        wished_again.metadata.generation = Some(9);
        world.wrote_status(wished_again);
        assert!(is_looked_at(), "the status is about an earlier generation");
    }

    #[test]
    fn a_late_event_does_not_bring_back_an_earlier_spec() {
        let world = World::new(Assignments::default());
        let key: ModuleKey = "lab/gauge".parse().unwrap();
        module(5, 2).seen(&key, &world);
        assert!(module(4, 3).is_outdated(&key, &world));
        assert!(!module(6, 3).is_outdated(&key, &world));
    }

    #[test]
    fn a_list_with_fallen_versions_is_held_against_a_read() {
        let world = World::new(Assignments::default());
        follow_one(node(40, false), &world);
        let written: BTreeMap<_, _> = [("ready".to_owned(), Some(String::new()))].into();
        world.wrote_labels(&"pine".parse().unwrap(), "u-1", &written, Some(41));
        let pine = "pine".parse().unwrap();
        see(Guarded(Ok(node(5, false))), &world);
        assert!(world.is_node_doubted(&pine), "it may have set out before our write");
        assert!(is_ready(&world));
        world.node_read(&pine, world.node_version(&pine), Some(node(5, false)));
        assert!(!is_ready(&world), "the cluster was restored from a backup");
        follow_one(node(6, true), &world);
        assert!(is_ready(&world));
    }
}
