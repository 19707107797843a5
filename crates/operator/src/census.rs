//! The cluster's state in numbers, counted every few seconds by the replica that leads, and shown among the metrics.
//!
//! Shown by the leader alone: added up over all replicas, the numbers are right. A number is counted anew as a whole, so nothing
//! of what is gone stays. What is remembered, ages and which node had a driver, begins with the process: so every replica counts,
//! and who comes to lead remembers as much as it has seen.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use tenon_api::module_image::ImagePhase;
use tenon_api::reasons::{self, condition};
use tenon_api::{Module, ModuleImage};
use tenon_kmod::KernelRelease;
use tenon_order::{ModuleKey, NodeName};
use tenon_plan::census::{self, Standing};
use tenon_plan::node::NodeFacts;
use tenon_plan::rollup::NodeView;

use crate::metrics::Controller;
use crate::preflight;
use crate::run::Context;
use crate::world::{ImageKey, Index, World};

/// How often the cluster is counted.
const EVERY: Duration = Duration::from_secs(10);
/// The most Modules whose arguments are shown: a series each.
const MOST_SERIES: usize = 1000;

const MODULES: (&str, &str) = ("kmm_module_num", "Number of Modules");
const BUILDS: (&str, &str) = ("kmm_in_cluster_build_num", "Number of Modules that are built in the cluster");
const SIGNS: (&str, &str) = ("kmm_in_cluster_sign_num", "Number of Modules that are signed in the cluster");
const DEVICE_PLUGINS: (&str, &str) = ("kmm_device_plugin_num", "Number of Modules with a device plugin");
const ARGUMENTS: (&str, &str) = ("kmm_modprobe_args", "modprobe arguments of a Module");
const RAW_ARGUMENTS: (&str, &str) = ("kmm_modprobe_raw_args", "raw modprobe arguments of a Module");
const STANDINGS: (&str, &str) =
    ("tenon_module_nodes", "Nodes by how they stand with a Module, over all Modules");
const CONDITIONS: (&str, &str) = ("tenon_modules", "Modules on which a condition is true");
const IMAGES: (&str, &str) = ("tenon_module_images", "Images of Modules for a kernel, by how far they are");
const WITHOUT: (&str, &str) = (
    "tenon_longest_without_driver_seconds",
    "For how long some node has been without a driver that it should have",
);
const SILENT: (&str, &str) =
    ("tenon_longest_silence_seconds", "For how long some node's agent has owed an answer");

/// What is shown here: names, and what they mean.
#[cfg(test)]
pub(crate) const DESCRIBED: [(&str, &str); 11] = [
    MODULES,
    BUILDS,
    SIGNS,
    DEVICE_PLUGINS,
    ARGUMENTS,
    RAW_ARGUMENTS,
    STANDINGS,
    CONDITIONS,
    IMAGES,
    WITHOUT,
    SILENT,
];

/// The conditions of Modules that are counted.
const CONDITIONS_SHOWN: [&str; 5] = [
    condition::READY,
    condition::DEGRADED,
    condition::WAITING,
    condition::ROLLOUT_PAUSED,
    condition::UNSUPPORTED,
];

/// How far images are, as a label says it.
const PHASES: [(ImagePhase, &str); 5] = [
    (ImagePhase::Ready, "ready"),
    (ImagePhase::Building, "building"),
    (ImagePhase::Signing, "signing"),
    (ImagePhase::Waiting, "waiting"),
    (ImagePhase::Failed, "failed"),
];

/// Why images are as they are: what no version of ours has said is shown as [`OTHER`].
const REASONS: [&str; 28] = [
    reasons::IMAGE_EXISTS,
    reasons::IMAGE_ABSENT,
    reasons::REGISTRY_DENIED,
    reasons::REGISTRY_UNREACHABLE,
    reasons::PULLING,
    reasons::PULL_FAILED,
    reasons::PULL_POD_FAILED,
    reasons::NO_NODE_TO_PULL,
    reasons::FILES_UNREADABLE,
    reasons::NO_MODULE_FOR_KERNEL,
    reasons::IMAGE_INVALID,
    reasons::SPEC_INVALID,
    reasons::REFERENCE_INVALID,
    reasons::DEPOT_FAILED,
    reasons::DEPOT_FULL,
    reasons::SECRET_MISSING,
    reasons::SECRET_MALFORMED,
    reasons::BUILDING,
    reasons::BUILD_FAILED,
    reasons::BUILDER_CONFINED,
    reasons::QUEUED,
    reasons::CONFIG_MAP_MISSING,
    reasons::TOOLKIT_UNKNOWN,
    reasons::SOURCE_INVALID,
    reasons::WAITING_FOR_MODULE,
    reasons::SIGNING,
    reasons::SIGN_FAILED,
    reasons::RESOLVING,
];
const OTHER: &str = "Other";

/// What was counted last. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Census(Arc<Mutex<Option<Counted>>>);

impl Census {
    /// This is how it stands; or this replica does not lead, and has nothing to say.
    fn set(&self, counted: Option<Counted>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = counted;
    }
}

/// A Module's name, its namespace, and its arguments.
type Arguments = (String, String, String);

/// The cluster in numbers.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    modules: usize,
    builds: usize,
    signs: usize,
    device_plugins: usize,
    arguments: Vec<Arguments>,
    raw_arguments: Vec<Arguments>,
    standings: BTreeMap<Standing, usize>,
    conditions: BTreeMap<&'static str, usize>,
    /// By phase and reason.
    images: BTreeMap<(&'static str, &'static str), usize>,
    /// In milliseconds.
    without: u64,
    silent: u64,
}

/// Since when somebody has been in some trouble, in milliseconds.
type Since = HashMap<(ModuleKey, NodeName), u64>;

/// The nodes that had a Module's driver, and with which kernel last.
type Had = HashMap<NodeName, KernelRelease>;

/// Who counts, and what it remembers from one time to the next.
#[derive(Debug, Default)]
struct Counter {
    without: Since,
    silent: Since,
    had: HashMap<ModuleKey, Had>,
}

impl Counter {
    fn count(&mut self, index: &Index, now: u64) -> Counted {
        let mut counted = Counted::default();
        let (mut without, mut silent) = (Since::new(), Since::new());
        let mut needed = BTreeSet::new();
        for module in index.modules() {
            counted.add_module(module);
            let (Some(namespace), Some(name)) = (&module.metadata.namespace, &module.metadata.name) else {
                continue;
            };
            let Ok(key) = ModuleKey::new(namespace, name) else { continue };
            let mut kernels = BTreeSet::new();
            let had = self.had.entry(key.clone()).or_default();
            for node in index.nodes_of(&key) {
                let Some(facts) = index.node(node) else { continue };
                kernels.insert((facts.kernel.as_str(), facts.architecture.as_str()));
                let view = NodeView { facts, config: index.config(node).map(AsRef::as_ref) };
                let Some(standing) = census::standing(module, &view) else { continue };
                *counted.standings.entry(standing).or_default() += 1;
                let pair = || (key.clone(), node.clone());
                if standing.is_without() || has_lost(had, facts, standing) {
                    carry(&self.without, &mut without, pair(), now);
                }
                if standing.is_silent() {
                    carry(&self.silent, &mut silent, pair(), now);
                }
            }
            needed.extend(kernels.into_iter().map(|(kernel, architecture)| ImageKey {
                namespace: key.namespace().to_owned(),
                name: ModuleImage::name_for(key.name(), kernel, architecture),
            }));
        }
        // Not those that are only looked at for a kernel that no node runs.
        let is_needed = |image: &&Arc<ModuleImage>| needed.contains(&ImageKey::of(image));
        index.images().filter(is_needed).for_each(|image| counted.add_image(image));
        (counted.without, counted.silent) = (longest(&without, now), longest(&silent, now));
        (self.without, self.silent) = (without, silent);
        self.forget(index);
        counted.arguments.sort();
        counted.raw_arguments.sort();
        counted.arguments.truncate(MOST_SERIES);
        counted.raw_arguments.truncate(MOST_SERIES);
        counted
    }

    /// Of nodes that are not the Module's any more nothing is remembered.
    fn forget(&mut self, index: &Index) {
        for (key, had) in &mut self.had {
            had.retain(|node, _| index.modules_of(node).any(|module| module == key));
        }
        self.had.retain(|_, had| !had.is_empty());
    }
}

/// Whether the node had the driver, and runs another kernel now, which no mapping fits.
fn has_lost(had: &mut Had, facts: &NodeFacts, standing: Standing) -> bool {
    let known = had.get(&facts.name);
    let is_same = known == Some(&facts.kernel);
    match standing {
        Standing::Loaded if !is_same => {
            had.insert(facts.name.clone(), facts.kernel.clone());
            false
        }
        // Who takes the kernel that runs out of the mappings wants no driver there.
        Standing::NoMapping if is_same => {
            had.remove(&facts.name);
            false
        }
        Standing::NoMapping => known.is_some(),
        _ => false,
    }
}

fn carry(before: &Since, after: &mut Since, pair: (ModuleKey, NodeName), now: u64) {
    let since = before.get(&pair).copied().unwrap_or(now);
    after.insert(pair, since);
}

fn longest(since: &Since, now: u64) -> u64 {
    since.values().min().map_or(0, |since| now.saturating_sub(*since))
}

impl Counted {
    fn add_module(&mut self, module: &Module) {
        self.modules += 1;
        self.builds += usize::from(census::is_built(module));
        self.signs += usize::from(census::is_signed(module));
        self.device_plugins += usize::from(module.spec.device_plugin.is_some());
        let with_name = |arguments: String| {
            let metadata = &module.metadata;
            (
                metadata.name.clone().unwrap_or_default(),
                metadata.namespace.clone().unwrap_or_default(),
                arguments,
            )
        };
        self.arguments.extend(census::arguments(module).map(with_name));
        self.raw_arguments.extend(census::raw_arguments(module).map(with_name));
        let conditions =
            module.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        for shown in CONDITIONS_SHOWN {
            if conditions.iter().any(|condition| condition.type_ == shown && condition.status == "True") {
                *self.conditions.entry(shown).or_default() += 1;
            }
        }
    }

    fn add_image(&mut self, image: &ModuleImage) {
        let phase = image.status.as_ref().and_then(|status| status.phase).unwrap_or_default();
        let said =
            image.status.as_ref().and_then(|status| status.reason.as_deref()).unwrap_or(reasons::RESOLVING);
        let reason = REASONS.into_iter().find(|known| *known == said).unwrap_or(OTHER);
        if let Some((_, word)) = PHASES.into_iter().find(|(known, _)| *known == phase) {
            *self.images.entry((word, reason)).or_default() += 1;
        }
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let numbers = [
            (MODULES, self.modules),
            (BUILDS, self.builds),
            (SIGNS, self.signs),
            (DEVICE_PLUGINS, self.device_plugins),
            (WITHOUT, seconds(self.without)),
            (SILENT, seconds(self.silent)),
        ];
        for ((name, help), value) in numbers {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(number(value)).encode(metric)?;
        }
        for ((name, help), label, all) in [
            (ARGUMENTS, "modprobeArgs", &self.arguments),
            (RAW_ARGUMENTS, "modprobeRawArgs", &self.raw_arguments),
        ] {
            let series = all.iter().map(|(name, namespace, arguments)| {
                ([("name", name.as_str()), ("namespace", namespace), (label, arguments)], 1)
            });
            family(encoder, (name, help), series)?;
        }
        let count = |counted: Option<&usize>| counted.copied().unwrap_or_default();
        let standings = Standing::ALL
            .map(|standing| ([("phase", standing.as_str())], count(self.standings.get(&standing))));
        family(encoder, STANDINGS, standings.into_iter())?;
        let conditions =
            CONDITIONS_SHOWN.map(|shown| ([("condition", shown)], count(self.conditions.get(shown))));
        family(encoder, CONDITIONS, conditions.into_iter())?;
        let images = self.images.iter();
        let images =
            images.map(|((phase, reason), count)| ([("phase", *phase), ("reason", *reason)], *count));
        family(encoder, IMAGES, images)
    }
}

impl Collector for Census {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(counted) => counted.encode(&mut encoder),
            None => Ok(()),
        }
    }
}

fn family<'l, const LABELS: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    series: impl Iterator<Item = ([(&'l str, &'l str); LABELS], usize)>,
) -> Result<(), std::fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in series {
        ConstGauge::new(number(value)).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn seconds(millis: u64) -> usize {
    usize::try_from(millis / 1000).unwrap_or(usize::MAX)
}

/// Counts until the end, and shows the cluster where this replica leads.
pub(crate) async fn follow(context: Context, world: Arc<World>) {
    let mut counter = Counter::default();
    let mut ticks = tokio::time::interval(EVERY);
    while context.shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let leads = context.claim.is_current();
        let queues = &world.queues;
        // A standby works on nothing: what waits there waits for its turn to lead.
        let depths = [
            (Controller::Modules, queues.modules.depth()),
            (Controller::Images, queues.images.depth()),
            (Controller::Nodes, queues.nodes.depth()),
            (Controller::Status, queues.status.depth()),
            (Controller::Workloads, queues.workloads.depth()),
            (Controller::Preflights, queues.preflights.depth()),
        ];
        for (controller, depth) in depths {
            context.metrics.queued(controller, if leads { depth } else { 0 });
        }
        if let Some(count) = context.claim.transitions() {
            context.metrics.passed_on(count);
        }
        preflight::count(&context.metrics, &world, leads);
        let numbers = counter.count(&world.read(), world.steady());
        context.metrics.census.set(leads.then_some(numbers));
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use serde_json::json;

    use super::*;
    use crate::depot::Assignments;

    fn shown(census: &Census) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(census.clone()));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    fn module(name: &str) -> Module {
        serde_json::from_value(json!({
            "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module",
            "metadata": {"name": name, "namespace": "hall", "uid": name},
            "spec": {"selector": {}, "moduleLoader": {"container": {
                "modprobe": {"moduleName": "gauge", "args": {"load": ["-v"]}, "rawArgs": {"load": ["gauge", "a=\"1\""]}},
                "kernelMappings": [{"regexp": "^.+$", "sign": {"certSecret": {"name": "c"}, "keySecret": {"name": "k"}}}],
            }}, "devicePlugin": {"container": {"image": "registry.example/plugin:1"}}},
            "status": {"conditions": [
                {"type": "Degraded", "status": "True", "reason": "LoadFailed", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "Ready", "status": "False", "reason": "LoadFailed", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ]},
        }))
        .unwrap()
    }

    fn has(text: &str, line: &str) -> bool {
        text.lines().any(|shown| shown == line)
    }

    #[test]
    fn what_a_module_asks_for_is_shown_under_kmm_s_names_and_goes_with_it() {
        let world = World::new(Assignments::default());
        let (mut counter, census) = (Counter::default(), Census::default());
        assert_eq!(shown(&census), "# EOF\n", "a standby says nothing of the cluster");
        let key: ModuleKey = "hall/gauge".parse().unwrap();
        world.module(&key, Some(module("gauge")));
        census.set(Some(counter.count(&world.read(), 0)));
        let text = shown(&census);
        for line in [
            "kmm_module_num 1",
            "kmm_in_cluster_build_num 0",
            "kmm_in_cluster_sign_num 1",
            "kmm_device_plugin_num 1",
            r#"kmm_modprobe_args{name="gauge",namespace="hall",modprobeArgs="-v"} 1"#,
            r#"kmm_modprobe_raw_args{name="gauge",namespace="hall",modprobeRawArgs="gauge,a=\"1\""} 1"#,
            r#"tenon_modules{condition="Degraded"} 1"#,
            r#"tenon_modules{condition="Ready"} 0"#,
            r#"tenon_module_nodes{phase="crash-suspected"} 0"#,
        ] {
            assert!(has(&text, line), "{line} is missing in\n{text}");
        }
        world.module(&key, None);
        census.set(Some(counter.count(&world.read(), 1)));
        let text = shown(&census);
        assert!(has(&text, "kmm_module_num 0") && !text.contains("hall"), "{text}");
    }

    /// Node `pine` as Module `gauge` would have it, after a boot into this kernel.
    fn booted(world: &World, kernel: &str) {
        let facts = NodeFacts {
            name: "pine".parse().unwrap(),
            uid: "u-1".to_owned(),
            kernel: kernel.parse().unwrap(),
            architecture: "amd64".to_owned(),
            boot_id: format!("boot of {kernel}"),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            os_version: None,
        };
        world.node(&facts.name.clone(), Some(facts));
    }

    /// It has the driver, loaded in a boot of this kernel; or nothing.
    fn has_loaded(world: &World, kernel: Option<&str>) {
        let wished = json!({"name": "gauge", "namespace": "hall", "bundle": "sha256:0", "config": {"kernelVersion": kernel,
            "containerImage": "registry.example/gauge", "insecurePull": false, "modprobe": {"moduleName": "gauge"}}});
        let mut reported = wished.clone();
        (reported["phase"], reported["bootId"]) =
            (json!("Loaded"), json!(kernel.map(|kernel| format!("boot of {kernel}"))));
        let all = |entry| if kernel.is_some() { json!([entry]) } else { json!([]) };
        let config = json!({
            "metadata": {"name": "pine"}, "spec": {"modules": all(wished)},
            "status": {"storeId": "s", "modules": all(reported)},
        });
        world.config(&"pine".parse().unwrap(), Some(serde_json::from_value(config).unwrap()));
    }

    /// A Module for the kernels that the mapping fits, and a node that is ready with it.
    fn loaded(regexp: &str) -> (World, Counter) {
        let world = World::new(Assignments::default());
        let mut wish = module("gauge");
        let loader = wish.spec.module_loader.as_mut().unwrap();
        loader.container.kernel_mappings[0].regexp = Some(regexp.to_owned());
        loader.container.container_image = Some("registry.example/gauge".to_owned());
        world.module(&"hall/gauge".parse().unwrap(), Some(wish));
        booted(&world, "6.1.0");
        has_loaded(&world, Some("6.1.0"));
        let mut counter = Counter::default();
        assert_eq!(counter.count(&world.read(), 0).standings, [(Standing::Loaded, 1)].into());
        (world, counter)
    }

    #[test]
    fn a_node_that_lost_its_driver_to_a_kernel_without_a_mapping_is_without_one() {
        let (world, mut counter) = loaded("^6[.].+$");
        booted(&world, "7.2.0");
        has_loaded(&world, None);
        for (now, without) in [(1_000, 0), (901_000, 900_000)] {
            let seen = counter.count(&world.read(), now);
            assert_eq!((seen.standings, seen.without), ([(Standing::NoMapping, 1)].into(), without));
        }
        booted(&world, "6.1.0");
        has_loaded(&world, Some("6.1.0"));
        assert_eq!(counter.count(&world.read(), 902_000).without, 0, "it is back");
        world.node(&"pine".parse().unwrap(), None);
        world.config(&"pine".parse().unwrap(), None);
        counter.count(&world.read(), 903_000);
        assert!(counter.had.is_empty() && counter.without.is_empty());
    }

    /// Selectors may be wider than the mappings.
    #[test]
    fn a_node_that_never_had_the_driver_or_whose_kernel_was_taken_out_of_the_mappings_lacks_nothing() {
        let (world, mut counter) = loaded("^6[.].+$");
        let mut narrower = module("gauge");
        let loader = narrower.spec.module_loader.as_mut().unwrap();
        loader.container.kernel_mappings[0].regexp = Some("^5[.].+$".to_owned());
        world.module(&"hall/gauge".parse().unwrap(), Some(narrower));
        has_loaded(&world, None);
        let mut afresh = Counter::default();
        // Another kernel afterwards changes nothing.
        for (kernel, now) in [("6.1.0", 1_000), ("6.1.0", 901_000), ("7.2.0", 902_000), ("7.2.0", 2_000_000)]
        {
            booted(&world, kernel);
            for counter in [&mut counter, &mut afresh] {
                let seen = counter.count(&world.read(), now);
                assert_eq!((seen.standings, seen.without), ([(Standing::NoMapping, 1)].into(), 0));
            }
        }
    }

    #[test]
    fn the_age_of_a_trouble_is_that_of_the_pair_that_has_it_longest() {
        let pair = |node: &str| ("hall/gauge".parse().unwrap(), node.parse().unwrap());
        let before = Since::from([(pair("n1"), 1_000), (pair("n2"), 4_000)]);
        let mut after = Since::new();
        carry(&before, &mut after, pair("n2"), 9_000);
        carry(&before, &mut after, pair("n3"), 9_000);
        assert_eq!(longest(&after, 10_000), 6_000, "n1 is well again");
        assert_eq!(longest(&Since::new(), 10_000), 0);
    }
}
