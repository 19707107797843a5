//! What there is of a Module: what its status says, its images, what nodes are told, and how these are labelled.

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use kube::api::ListParams;
use serde_json::{Value, json};
use tenon_api::labels::{LabelKind, ModuleLabel};
use tenon_api::module::KernelStatus;
use tenon_api::{Module, NodeModulesConfig, reasons};
use tenon_test_api::cluster::{Cluster, order};

/// In a Module's own words but for its name, and without times.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// Of each condition its status and reason.
    pub(crate) told: BTreeMap<String, [String; 2]>,
    /// What nodes are told and say, and their labels.
    pub(crate) nodes: Value,
    /// The rest of the status, and the images.
    rest: Value,
    /// The conditions' messages.
    pub(crate) words: String,
}

impl Outcome {
    /// The driver is loaded, as it is wished.
    pub(crate) fn is_met(&self) -> bool {
        self.told.get(reasons::condition::READY).is_some_and(|[status, _]| status == "True")
    }

    fn reason(&self) -> &str {
        self.told.get(reasons::condition::READY).map(|[_, reason]| reason.as_str()).unwrap_or_default()
    }

    /// A reason with which nothing more happens by itself, nodes being what they are.
    pub(crate) fn is_at_rest(&self) -> bool {
        let passing = [
            "",
            reasons::LOADING,
            reasons::UNLOADING,
            reasons::RESOLVING,
            reasons::WAITING_FOR_BUNDLE,
            reasons::WAITING_FOR_ROLLOUT,
            reasons::INSPECTING,
            reasons::VALIDATING,
        ];
        !passing.contains(&self.reason())
    }

    /// The same, whatever the words are in which it is told.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (&self.told, &self.nodes, &self.rest) == (&other.told, &other.nodes, &other.rest)
    }

    /// It has ended as `fresh` has, which always had this wish. What cannot be had takes nothing away that was there `before`, and
    /// nor does a taint that is tolerated no more.
    pub(crate) fn ends_like(&self, fresh: &Self, before: &Self) -> bool {
        if fresh.is_met() {
            return self.is_same(fresh);
        }
        let is_kept = || untolerating(&self.nodes) == untolerating(&before.nodes);
        self.told == fresh.told && (self.nodes == fresh.nodes || is_kept())
    }
}

/// Without tolerations: nodes are told of the present ones in any case, and load nothing anew for them.
fn untolerating(nodes: &Value) -> Value {
    match nodes {
        Value::Array(items) => items.iter().map(untolerating).collect(),
        Value::Object(fields) => {
            let rest = fields.iter().filter(|(name, _)| *name != "tolerations");
            Value::Object(rest.map(|(name, value)| (name.clone(), untolerating(value))).collect())
        }
        other => other.clone(),
    }
}

/// What there is of each Module whose status is of its last wish; nothing while a node has not answered what it was told.
pub(crate) async fn outcomes(cluster: &Cluster) -> BTreeMap<String, Outcome> {
    let all = ListParams::default();
    let modules = cluster.modules().list(&all).await.expect("a list").items;
    let images = cluster.images().list(&all).await.expect("a list").items;
    let configs = cluster.configs().list(&all).await.expect("a list").items;
    let nodes = cluster.nodes().list(&all).await.expect("a list").items;
    if !configs.iter().all(has_answered) {
        return BTreeMap::new();
    }
    let mut on_nodes = told_to_nodes(&configs);
    for node in &nodes {
        for (name, label) in labels_of_modules(node.labels()) {
            on_nodes.entry(name).or_default().push(label);
        }
    }
    let mut of_images: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for image in &images {
        of_images.entry(image.spec.module.clone()).or_default().push(json!(image.spec));
    }
    let settled = modules.iter().filter(|module| {
        let observed = module.status.as_ref().and_then(|status| status.observed_generation);
        observed.is_some() && observed == module.metadata.generation
    });
    settled
        .map(|module| {
            let name = module.name_any();
            let mut outcome = told(module);
            outcome.nodes = without_name(&json!(on_nodes.get(&name)), &name);
            outcome.rest = without_name(&json!([outcome.rest, of_images.get(&name)]), &name);
            (name, outcome)
        })
        .collect()
}

/// Whether the node goes by what it was told last.
fn has_answered(config: &NodeModulesConfig) -> bool {
    let ordered = order(config).and_then(|order| i64::try_from(order.generation.0).ok());
    ordered.is_none() || ordered == config.status.as_ref().and_then(|status| status.order_generation)
}

/// What nodes are told of each Module, and what they say.
fn told_to_nodes(configs: &[NodeModulesConfig]) -> BTreeMap<String, Vec<Value>> {
    let mut of_modules: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for config in configs {
        let order = order(config);
        for entry in &config.spec.modules {
            let key = format!("{}/{}", entry.namespace, entry.name).parse().expect("a key");
            let wish = order.as_ref().and_then(|order| order.wish(&key)).map(|wish| json!(wish));
            let reports = config.status.iter().flat_map(|status| &status.modules);
            let reported: Vec<_> = reports.filter(|reported| reported.name == entry.name).collect();
            let mut told = json!(entry);
            // When, and what was there before.
            let fields = told.as_object_mut().expect("an object");
            fields.retain(|name, _| !["generation", "replaces"].contains(&name.as_str()));
            of_modules.entry(entry.name.clone()).or_default().push(json!([
                config.name_any(),
                told,
                wish,
                reported
            ]));
        }
    }
    of_modules
}

/// The labels of Tenon's that speak of a Module, by its name; that with the version that a node should have is the user's.
fn labels_of_modules(labels: &BTreeMap<String, String>) -> Vec<(String, Value)> {
    let own = labels.iter().filter_map(|(key, value)| Some((ModuleLabel::parse(key)?, key, value)));
    own.filter(|(label, ..)| label.kind != LabelKind::VersionModule)
        .map(|(label, key, value)| (label.name, json!([key, value])))
        .collect()
}

/// What a Module's status says.
fn told(module: &Module) -> Outcome {
    let status = module.status.as_ref().expect("a status");
    // All of them load the same.
    let conditions = status.conditions.iter().filter(|one| one.type_ != reasons::condition::CONFLICT);
    let told = conditions
        .clone()
        .map(|one| (one.type_.clone(), [one.status.clone(), unhurried(&one.reason).to_owned()]));
    let words: Vec<_> = conditions.clone().map(|one| one.message.as_str()).collect();
    let kernels: Vec<_> =
        status.kernels.iter().map(|kernel| KernelStatus { message: None, ..kernel.clone() }).collect();
    Outcome {
        told: told.collect(),
        nodes: Value::Null,
        rest: json!([
            status.module_loader,
            status.rollout,
            status.image_rebuild_trigger_generation,
            kernels,
            status.failures
        ]),
        words: words.join("\n"),
    }
}

/// Builds have their turns.
fn unhurried(reason: &str) -> &str {
    if reason == reasons::QUEUED { reasons::BUILDING } else { reason }
}

/// All names have the same length, so none begins with another.
fn without_name(value: &Value, name: &str) -> Value {
    serde_json::from_str(&value.to_string().replace(name, "-")).expect("JSON")
}
