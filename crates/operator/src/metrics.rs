//! What the operator counts. Every label is a bounded enum: no series ever carries an object's name, but for the two
//! that KMM defined so.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

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

/// KMM's own gauges under KMM's names, for the dashboards that people have.
#[derive(Clone, Debug, Default)]
pub struct KmmGauges {
    /// Modules in the cluster.
    pub modules: Gauge,
    /// Modules that are built in the cluster.
    pub in_cluster_builds: Gauge,
    /// Modules that are signed in the cluster.
    pub in_cluster_signs: Gauge,
    /// Modules with a device plugin.
    pub device_plugins: Gauge,
    /// Preflight validations.
    pub preflights: Gauge,
}

/// All that is counted. Cheap to share: hold it in an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: Family<ReconcileLabels, Counter>,
    reconcile_time: Family<ControllerLabel, Histogram, fn() -> Histogram>,
    queued: Family<ControllerLabel, Gauge>,
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
    /// KMM's gauges.
    pub kmm: KmmGauges,
}

/// Upper bounds of the buckets of reconcile times, in seconds.
const RECONCILE_SECONDS: [f64; 8] = [0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];

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
            reconciles: Family::default(),
            reconcile_time: Family::new_with_constructor(|| Histogram::new(RECONCILE_SECONDS)),
            queued: Family::default(),
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
            kmm: KmmGauges::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let tenon = self.registry.sub_registry_with_prefix("tenon");
        tenon.register("reconciles", "Reconciles by controller and outcome", self.reconciles.clone());
        tenon.register_with_unit(
            "reconcile_time",
            "Time that reconciles take",
            Unit::Seconds,
            self.reconcile_time.clone(),
        );
        tenon.register("queue_depth", "Objects that wait to be reconciled", self.queued.clone());
        tenon.register("api_writes", "Writes to the API server", self.writes.clone());
        tenon.register(
            "registry_requests",
            "Requests to registries by outcome",
            self.registry_requests.clone(),
        );
        tenon.register(
            "facts_images",
            "Kernels by what the image came to that should tell what they are",
            self.facts_images.clone(),
        );
        tenon.register(
            "made_images",
            "Images that were made in the cluster, by whether anything needs them",
            self.made_images.clone(),
        );
        tenon.register(
            "deleted_images",
            "Images that nothing needed and that were deleted from their registries",
            self.deleted_images.clone(),
        );
        tenon.register(
            "dropped_events",
            "Events dropped because too many came at once",
            self.dropped_events.clone(),
        );
        tenon.register("leader", "1 while this replica leads", self.leader.clone());
        let depot = tenon.sub_registry_with_prefix("depot");
        depot.register("transfers", "Transfers of bundles that ended", self.transfers.clone());
        depot.register(
            "transfers_running",
            "Transfers of bundles that are running",
            self.transferring.clone(),
        );
        depot.register_with_unit("sent", "Bytes of bundles that went out", Unit::Bytes, self.sent.clone());
        depot.register("rejections", "Requests that were not served, by reason", self.rejections.clone());
        depot.register_with_unit(
            "cached",
            "Bytes of bundles on disk",
            Unit::Bytes,
            self.cached_bytes.clone(),
        );
        depot.register("cached_bundles", "Bundles on disk", self.cached_bundles.clone());
        depot.register("evictions", "Bundles that had to make room for others", self.evictions.clone());
        let kmm = self.registry.sub_registry_with_prefix("kmm");
        kmm.register("module_num", "Number of Modules", self.kmm.modules.clone());
        kmm.register(
            "in_cluster_build_num",
            "Number of in-cluster builds",
            self.kmm.in_cluster_builds.clone(),
        );
        kmm.register(
            "in_cluster_sign_num",
            "Number of in-cluster signings",
            self.kmm.in_cluster_signs.clone(),
        );
        kmm.register("device_plugin_num", "Number of device plugins", self.kmm.device_plugins.clone());
        kmm.register("preflight_num", "Number of preflight validations", self.kmm.preflights.clone());
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
        metrics.kmm.modules.set(2);
        metrics.made_images([MadeState::Stuck]);
        let text = metrics.encode().unwrap();
        for line in [
            r#"tenon_reconciles_total{controller="nodes",outcome="changed"} 1"#,
            r#"tenon_api_writes_total{resource="nodemodulesconfigs",verb="patch"} 1"#,
            r#"tenon_depot_rejections_total{reason="token-audience"} 1"#,
            r#"tenon_queue_depth{controller="images"} 3"#,
            "tenon_depot_sent_bytes_total 17",
            "kmm_module_num 2",
            r#"tenon_made_images{state="stuck"} 1"#,
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
        }
    }
}
