//! What the operator counts. Every label is a bounded enum: no series ever carries an object's name, but for the two
//! that KMM defined so.
//!
//! Each metric has its line in docs/metrics.md; a test compares the two.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};

use tenon_api::ModuleImage;

use crate::census::Census;
use crate::world::ImageKey;

/// An enum whose variants are the values of a label.
macro_rules! label {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// The label's value.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
                EncodeLabelValue::encode(&self.as_str(), encoder)
            }
        }
    };
}

label! {
    /// Who reconciles.
    Controller {
        /// Module → `ModuleImage`s, finalizer.
        Modules = "modules",
        /// ModuleImage → bundle.
        Images = "images",
        /// Node → NodeModulesConfig, labels.
        Nodes = "nodes",
        /// `NodeModulesConfig`s → Module status.
        Status = "status",
        /// Module → `DaemonSet` of its plugin, device classes.
        Workloads = "workloads",
        /// PreflightValidation, Modules, `ModuleImage`s → its status.
        Preflights = "preflights",
    }
}

label! {
    /// How a reconcile ended.
    Outcome {
        /// Something was written.
        Changed = "changed",
        /// Everything was as it should be.
        Unchanged = "unchanged",
        /// Something outside is missing; the object says what.
        Waiting = "waiting",
        /// An error; it is retried.
        Failed = "failed",
    }
}

label! {
    /// What is written to the API server.
    Resource {
        /// Node labels.
        Node = "nodes",
        /// NodeModulesConfig.
        NodeModulesConfig = "nodemodulesconfigs",
        /// Module, its status included.
        Module = "modules",
        /// The status of a PreflightValidation.
        PreflightValidation = "preflightvalidations",
        /// Namespace, of which only a label is written.
        Namespace = "namespaces",
        /// ModuleImage, its status included.
        ModuleImage = "moduleimages",
        /// Jobs that make images.
        Job = "jobs",
        /// MadeImage, its status included.
        MadeImage = "madeimages",
        /// `DaemonSet`s of device plugins and DRA drivers.
        DaemonSet = "daemonsets",
        /// Device classes of DRA drivers.
        DeviceClass = "deviceclasses",
        /// Finalizers of another operator's pods.
        Pod = "pods",
        /// Keys and certificates.
        Secret = "secrets",
        /// Public keys and the depot's addresses.
        ConfigMap = "configmaps",
        /// Leader election.
        Lease = "leases",
        /// Events.
        Event = "events",
    }
}

label! {
    /// How it is written.
    Verb {
        /// POST.
        Create = "create",
        /// Server-side apply or another patch.
        Patch = "patch",
        /// PUT.
        Update = "update",
        /// DELETE.
        Delete = "delete",
    }
}

label! {
    /// Why the depot did not serve a request.
    Rejection {
        /// No bearer token, or one that is no token at all.
        TokenMalformed = "token-malformed",
        /// A signature algorithm that is not accepted, `none` among them.
        TokenAlgorithm = "token-algorithm",
        /// A key that the API server does not publish.
        TokenKey = "token-key",
        /// The signature does not fit.
        TokenSignature = "token-signature",
        /// Another issuer.
        TokenIssuer = "token-issuer",
        /// Not made for the depot.
        TokenAudience = "token-audience",
        /// Expired.
        TokenExpired = "token-expired",
        /// Not valid yet.
        TokenEarly = "token-early",
        /// Not the agent's ServiceAccount.
        TokenSubject = "token-subject",
        /// Bound to no node.
        TokenNode = "token-node",
        /// Bound to no pod.
        TokenPod = "token-pod",
        /// The API server's keys are not known yet.
        KeysUnknown = "keys-unknown",
        /// The node is not assigned the bundle.
        NotAssigned = "not-assigned",
        /// What nodes are assigned is not known yet.
        AssignmentsUnknown = "assignments-unknown",
        /// The bundle is assigned, but has to be made or fetched first.
        NotCached = "not-cached",
        /// All transfers are taken.
        Busy = "busy",
        /// The node's share of transfers is taken.
        NodeBusy = "node-busy",
        /// No such path, method or digest.
        BadRequest = "bad-request",
        /// The range lies beyond the bundle's end.
        BadRange = "bad-range",
        /// The bundle could not be read.
        ReadFailed = "read-failed",
        /// A node asked about a kernel that it has not reported to run.
        NotItsKernel = "not-its-kernel",
        /// There are no facts about a kernel yet; a node is asked for them.
        FactsMissing = "facts-missing",
        /// What a node sent is no facts about its kernel.
        BadFacts = "bad-facts",
        /// Facts could not be kept.
        FactsNotKept = "facts-not-kept",
        /// A pod brought what is not expected of it, or not here.
        PulledUnexpected = "pulled-unexpected",
        /// What a pod took out of an image is too much, or broke off.
        BadPulled = "bad-pulled",
    }
}

label! {
    /// How the sending of a bundle ended.
    Transfer {
        /// All bytes were taken.
        Complete = "complete",
        /// The node went away or was too slow.
        Aborted = "aborted",
    }
}

label! {
    /// How a request to a registry ended.
    RegistryOutcome {
        /// It was answered usefully.
        Ok = "ok",
        /// The registry says that there is no such thing.
        Absent = "absent",
        /// The registry refuses.
        Denied = "denied",
        /// The registry asks to slow down.
        Throttled = "throttled",
        /// No useful answer.
        Failed = "failed",
    }
}

label! {
    /// What the images that should tell what kernels are came to.
    FactsImage {
        /// It told what the kernel is.
        Read = "read",
        /// There is no such image.
        Absent = "absent",
        /// The registry refuses, or the pull secret is no good.
        Denied = "denied",
        /// No useful answer.
        Unreachable = "unreachable",
        /// It has nothing of the kernel.
        NoKernel = "no-kernel",
        /// It is malformed, or larger than is read.
        Invalid = "invalid",
        /// The operator could not keep what it read.
        Failed = "failed",
    }
}

label! {
    /// How it stands with an image that was made here.
    MadeState {
        /// Something needs it.
        Needed = "needed",
        /// Nothing does.
        Unneeded = "unneeded",
        /// Nothing does, and it cannot be deleted.
        Stuck = "stuck",
    }
}

label! {
    /// A stretch of the way from a wish to a loaded module.
    Stage {
        /// An image is looked for in its registry, read and packed.
        Find = "find",
        /// A Job builds an image, and signs it if need be.
        Build = "build",
        /// A Job signs an image's modules.
        Sign = "sign",
        /// Whether a kernel will load a driver is decided.
        Inspect = "inspect",
        /// From a node's being told to have a driver until it has it.
        Load = "load",
    }
}

label! {
    /// A certificate that the operator looks after.
    Certificate {
        /// What the depot serves with.
        Depot = "depot",
        /// What issues it.
        Authority = "authority",
    }
}

impl Stage {
    /// In which an image is made.
    pub fn of(image: &ModuleImage) -> Self {
        if image.spec.build.is_some() { Self::Build } else { Self::Sign }
    }
}

/// Label of times that stages take.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabel {
    stage: Stage,
}

/// Labels of failures. The reason is one of the API's own: never a node's word, which may be anything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    stage: Stage,
    reason: &'static str,
}

/// Label of certificates.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabel {
    certificate: Certificate,
}

/// Labels of reconciles.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabels {
    controller: Controller,
    outcome: Outcome,
}

/// Label of what belongs to one controller.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ControllerLabel {
    controller: Controller,
}

/// Labels of writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    resource: Resource,
    verb: Verb,
}

/// Label of rejections.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectionLabel {
    reason: Rejection,
}

/// Label of transfers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransferLabel {
    outcome: Transfer,
}

/// Label of registry requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RegistryLabel {
    outcome: RegistryOutcome,
}

/// Label of images that should tell what kernels are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FactsImageLabel {
    state: FactsImage,
}

/// Label of images that were made here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MadeLabel {
    state: MadeState,
}

/// All that is counted. Cheap to share: hold it in an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The metrics' names, as they are shown.
    #[cfg(test)]
    names: Vec<String>,
    reconciles: Family<ReconcileLabels, Counter>,
    reconcile_time: Family<ControllerLabel, Histogram, fn() -> Histogram>,
    queued: Family<ControllerLabel, Gauge>,
    queue_wait: Family<ControllerLabel, Histogram, fn() -> Histogram>,
    stages: Family<StageLabel, Histogram, fn() -> Histogram>,
    failures: Family<FailureLabels, Counter>,
    certificates: Family<CertificateLabel, Gauge>,
    /// Since when Jobs make images.
    making: Mutex<HashMap<ImageKey, Instant>>,
    writes: Family<WriteLabels, Counter>,
    rejections: Family<RejectionLabel, Counter>,
    transfers: Family<TransferLabel, Counter>,
    registry_requests: Family<RegistryLabel, Counter>,
    facts_images: Family<FactsImageLabel, Gauge>,
    made_images: Family<MadeLabel, Gauge>,
    /// Images that were deleted from their registries.
    pub deleted_images: Counter,
    /// Bytes of bundles that went out.
    pub sent: Counter,
    /// Transfers that are running.
    pub transferring: Gauge,
    /// Bytes of bundles on disk.
    pub cached_bytes: Gauge<u64, AtomicU64>,
    /// Bundles on disk.
    pub cached_bundles: Gauge<u64, AtomicU64>,
    /// Bundles that had to make room.
    pub evictions: Counter,
    /// Events that were dropped because too many came at once.
    pub dropped_events: Counter,
    /// 1 while this replica leads.
    pub leader: Gauge,
    /// No series until the lease was seen.
    lease_transitions: Family<[(&'static str, &'static str); 0], Gauge>,
    /// Preflight validations, under KMM's name.
    pub preflights: Gauge,
    /// The cluster's state, as the leader sees it.
    pub census: Census,
}

/// Upper bounds of the buckets of reconcile times, in seconds.
const RECONCILE_SECONDS: [f64; 8] = [0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];
/// The same of stages: a module loads in a fraction of a second, a kernel's driver is built in an hour.
const STAGE_SECONDS: [f64; 10] = [0.1, 0.5, 2.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0];
/// Images whose making is timed at once: those of deleted Modules may never end.
const MOST_TIMED: usize = 4096;

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    /// Everything at zero.
    pub fn new() -> Self {
        let mut metrics = Metrics {
            registry: Registry::default(),
            #[cfg(test)]
            names: Vec::new(),
            reconciles: Family::default(),
            reconcile_time: Family::new_with_constructor(|| Histogram::new(RECONCILE_SECONDS)),
            queued: Family::default(),
            queue_wait: Family::new_with_constructor(|| Histogram::new(RECONCILE_SECONDS)),
            stages: Family::new_with_constructor(|| Histogram::new(STAGE_SECONDS)),
            failures: Family::default(),
            certificates: Family::default(),
            making: Mutex::default(),
            writes: Family::default(),
            rejections: Family::default(),
            transfers: Family::default(),
            registry_requests: Family::default(),
            facts_images: Family::default(),
            made_images: Family::default(),
            deleted_images: Counter::default(),
            sent: Counter::default(),
            transferring: Gauge::default(),
            cached_bytes: Gauge::default(),
            cached_bundles: Gauge::default(),
            evictions: Counter::default(),
            dropped_events: Counter::default(),
            leader: Gauge::default(),
            lease_transitions: Family::default(),
            preflights: Gauge::default(),
            census: Census::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        self.register_work();
        self.register_images();
        self.register_depot();
        self.add("kmm_preflight_num", "Number of preflight validations", None, self.preflights.clone());
        self.registry.register_collector(Box::new(self.census.clone()));
    }

    fn add(&mut self, name: &str, help: &str, unit: Option<Unit>, metric: impl Metric) {
        #[cfg(test)]
        {
            let unit = unit.as_ref().map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
            let total = if metric.metric_type().as_str() == "counter" { "_total" } else { "" };
            self.names.push(format!("{name}{unit}{total}"));
        }
        match unit {
            Some(unit) => self.registry.register_with_unit(name, help, unit, metric),
            None => self.registry.register(name, help, metric),
        }
    }

    fn register_work(&mut self) {
        self.add("tenon_reconciles", "Reconciles by controller and outcome", None, self.reconciles.clone());
        self.add(
            "tenon_reconcile_time",
            "Time that reconciles take",
            Some(Unit::Seconds),
            self.reconcile_time.clone(),
        );
        self.add("tenon_queue_depth", "Objects that wait to be reconciled", None, self.queued.clone());
        self.add(
            "tenon_queue_wait",
            "Time that objects wait to be reconciled",
            Some(Unit::Seconds),
            self.queue_wait.clone(),
        );
        self.add(
            "tenon_stage_time",
            "Time that each stage takes from a wish to a loaded module",
            Some(Unit::Seconds),
            self.stages.clone(),
        );
        self.add("tenon_failures", "Failures by stage and reason", None, self.failures.clone());
        self.add("tenon_api_writes", "Writes to the API server", None, self.writes.clone());
        self.add(
            "tenon_dropped_events",
            "Events dropped because too many came at once",
            None,
            self.dropped_events.clone(),
        );
        self.add("tenon_leader", "1 while this replica leads", None, self.leader.clone());
        self.add(
            "tenon_lease_transitions",
            "Times that the lead has passed from one process to another",
            None,
            self.lease_transitions.clone(),
        );
        self.add(
            "tenon_certificate_expiry_timestamp",
            "When a certificate expires, in seconds since 1970",
            Some(Unit::Seconds),
            self.certificates.clone(),
        );
    }

    fn register_images(&mut self) {
        self.add(
            "tenon_registry_requests",
            "Requests to registries by outcome",
            None,
            self.registry_requests.clone(),
        );
        self.add(
            "tenon_facts_images",
            "Kernels by what the image came to that should tell what they are",
            None,
            self.facts_images.clone(),
        );
        self.add(
            "tenon_made_images",
            "Images that were made in the cluster, by whether anything needs them",
            None,
            self.made_images.clone(),
        );
        self.add(
            "tenon_deleted_images",
            "Images that nothing needed and that were deleted from their registries",
            None,
            self.deleted_images.clone(),
        );
    }

    fn register_depot(&mut self) {
        self.add("tenon_depot_transfers", "Transfers of bundles that ended", None, self.transfers.clone());
        self.add(
            "tenon_depot_transfers_running",
            "Transfers of bundles that are running",
            None,
            self.transferring.clone(),
        );
        self.add("tenon_depot_sent", "Bytes of bundles that went out", Some(Unit::Bytes), self.sent.clone());
        self.add(
            "tenon_depot_rejections",
            "Requests that were not served, by reason",
            None,
            self.rejections.clone(),
        );
        self.add(
            "tenon_depot_cached",
            "Bytes of bundles on disk",
            Some(Unit::Bytes),
            self.cached_bytes.clone(),
        );
        self.add("tenon_depot_cached_bundles", "Bundles on disk", None, self.cached_bundles.clone());
        self.add(
            "tenon_depot_evictions",
            "Bundles that had to make room for others",
            None,
            self.evictions.clone(),
        );
    }

    /// A reconcile ended after `seconds`.
    pub fn reconciled(&self, controller: Controller, outcome: Outcome, seconds: f64) {
        self.reconciles.get_or_create(&ReconcileLabels { controller, outcome }).inc();
        self.reconcile_time.get_or_create(&ControllerLabel { controller }).observe(seconds);
    }

    /// So many objects wait for the controller.
    pub fn queued(&self, controller: Controller, depth: usize) {
        let depth = i64::try_from(depth).unwrap_or(i64::MAX);
        self.queued.get_or_create(&ControllerLabel { controller }).set(depth);
    }

    /// An object has waited for the controller for so many seconds.
    pub fn waited(&self, controller: Controller, seconds: f64) {
        self.queue_wait.get_or_create(&ControllerLabel { controller }).observe(seconds);
    }

    /// A stage took so many seconds, however it ended.
    pub fn took(&self, stage: Stage, seconds: f64) {
        self.stages.get_or_create(&StageLabel { stage }).observe(seconds);
    }

    /// A Job begins to make an image.
    pub fn making_began(&self, image: ImageKey) {
        let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if making.len() < MOST_TIMED {
            making.insert(image, Instant::now());
        }
    }

    /// It has ended, well or badly. One that was begun by another process is not timed.
    pub fn making_ended(&self, stage: Stage, image: &ImageKey) {
        let began = self.making.lock().unwrap_or_else(PoisonError::into_inner).remove(image);
        if let Some(began) = began {
            self.took(stage, began.elapsed().as_secs_f64());
        }
    }

    /// A stage failed, for one of the API's reasons.
    pub fn failed(&self, stage: Stage, reason: &'static str) {
        self.failures.get_or_create(&FailureLabels { stage, reason }).inc();
    }

    /// A certificate expires then, in seconds since 1970.
    pub fn expires(&self, certificate: Certificate, at: i64) {
        self.certificates.get_or_create(&CertificateLabel { certificate }).set(at);
    }

    /// The lead has passed from one process to another so many times since there is a lease.
    pub fn passed_on(&self, transitions: i64) {
        self.lease_transitions.get_or_create(&[]).set(transitions);
    }

    /// A write goes to the API server.
    pub fn wrote(&self, resource: Resource, verb: Verb) {
        self.writes.get_or_create(&WriteLabels { resource, verb }).inc();
    }

    /// The depot did not serve a request.
    pub fn rejected(&self, reason: Rejection) {
        self.rejections.get_or_create(&RejectionLabel { reason }).inc();
    }

    /// How often the depot did not serve a request for this reason.
    pub fn rejections(&self, reason: Rejection) -> u64 {
        self.rejections.get_or_create(&RejectionLabel { reason }).get()
    }

    /// The sending of a bundle ended.
    pub fn transferred(&self, outcome: Transfer) {
        self.transfers.get_or_create(&TransferLabel { outcome }).inc();
    }

    /// A request to a registry ended.
    pub fn asked_registry(&self, outcome: RegistryOutcome) {
        self.registry_requests.get_or_create(&RegistryLabel { outcome }).inc();
    }

    /// What the images of all kernels came to that were asked for.
    pub fn facts_images(&self, states: impl IntoIterator<Item = FactsImage>) {
        self.facts_images.clear();
        for state in states {
            self.facts_images.get_or_create(&FactsImageLabel { state }).inc();
        }
    }

    /// How it stands with all images that were made here.
    pub fn made_images(&self, states: impl IntoIterator<Item = MadeState>) {
        self.made_images.clear();
        for state in states {
            self.made_images.get_or_create(&MadeLabel { state }).inc();
        }
    }

    /// All of it in the `OpenMetrics` text format.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown_under_its_name() {
        let metrics = Metrics::new();
        metrics.reconciled(Controller::Nodes, Outcome::Changed, 0.01);
        metrics.wrote(Resource::NodeModulesConfig, Verb::Patch);
        metrics.rejected(Rejection::TokenAudience);
        metrics.queued(Controller::Images, 3);
        metrics.sent.inc_by(17);
        metrics.took(Stage::Load, 0.3);
        metrics.failed(Stage::Build, tenon_api::reasons::BUILD_FAILED);
        metrics.waited(Controller::Nodes, 0.01);
        metrics.expires(Certificate::Depot, 1_800_000_000);
        metrics.made_images([MadeState::Stuck]);
        let before = metrics.encode().unwrap();
        assert!(!before.contains("\ntenon_lease_transitions{"), "a lease that was not seen has no count");
        metrics.passed_on(4);
        let text = metrics.encode().unwrap();
        for line in [
            r#"tenon_reconciles_total{controller="nodes",outcome="changed"} 1"#,
            r#"tenon_api_writes_total{resource="nodemodulesconfigs",verb="patch"} 1"#,
            r#"tenon_depot_rejections_total{reason="token-audience"} 1"#,
            r#"tenon_queue_depth{controller="images"} 3"#,
            "tenon_depot_sent_bytes_total 17",
            r#"tenon_stage_time_seconds_bucket{le="0.5",stage="load"} 1"#,
            r#"tenon_failures_total{stage="build",reason="BuildFailed"} 1"#,
            r#"tenon_queue_wait_seconds_count{controller="nodes"} 1"#,
            r#"tenon_certificate_expiry_timestamp_seconds{certificate="depot"} 1800000000"#,
            "kmm_preflight_num 0",
            "tenon_lease_transitions{} 4",
            r#"tenon_made_images{state="stuck"} 1"#,
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
        }
    }

    /// The names that a page explains: what stands in the first column of its tables, without labels.
    fn explained(page: &str) -> std::collections::BTreeSet<String> {
        let first = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" |"));
        let named = first.flat_map(|(column, _)| column.split(", "));
        named.map(|name| name.trim_matches('`').split('{').next().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn every_metric_is_explained_and_nothing_else() {
        let page =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md")).unwrap();
        let own = Metrics::new().names;
        let all = own.into_iter().chain(crate::census::DESCRIBED.map(|(name, _)| name.to_owned()));
        assert_eq!(explained(&page), all.collect());
    }
}
