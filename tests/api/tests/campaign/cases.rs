//! Which values are tried to their end: of all that the API server takes, for each leaf that Tenon decides by, a user's value,
//! and one of the others in turn. What is drawn is the same in every run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use futures::StreamExt as _;
use kube::Api;
use kube::api::{DynamicObject, PostParams};
use kube::core::ApiResource;
use serde_json::{Value, json};
use tenon_api::Module;
use tenon_test_api::cluster::Cluster;

use crate::leaves::{Leaf, leaves};
use crate::manifests::{base, ordinary, spec};
use crate::values::{Kind, trials};

/// How many requests are under way at a time.
pub(crate) const AT_ONCE: usize = 16;
/// Nodes that the Modules are spread over: an order has room for so many.
pub(crate) const NODES: usize = 16;
/// The label by which a Module has one node.
pub(crate) const ON_NODE: &str = "campaign";
/// That of the node with a taint.
pub(crate) const TAINTED: &str = "tainted";
/// Of the values that are no user's, so many are drawn for each leaf.
const DRAWN: usize = 1;
/// Stands for a Module's name in what it wishes.
const NAME: &str = "the-name-of-the-module";

/// What is read where the plugin's pods are made, and tried without a cluster.
const PASSED_THROUGH: [&str; 2] = ["devicePlugin", "dra"];
/// The version that nodes are labelled with.
pub(crate) const VERSION: &str = "moduleLoader.container.version";

/// A value of a leaf that the API server takes.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) leaf: Leaf,
    pub(crate) kind: Kind,
    /// What is wished before and after.
    pub(crate) good: Value,
    /// What is wished between.
    pub(crate) tried: Value,
}

impl Case {
    /// Whether what is wished before and after can be had.
    pub(crate) fn has_driver_before(&self) -> bool {
        !is_of_a_build(&self.leaf) && !self.leaf.is_below("tolerations")
    }
}

/// What is tried, and how much that is of everything.
#[derive(Debug, Default)]
pub(crate) struct Draw {
    pub(crate) cases: Vec<Case>,
    /// In words: how many of how many, and which are not.
    pub(crate) told: String,
}

pub(crate) fn is_of_a_build(leaf: &Leaf) -> bool {
    let path = leaf.to_string();
    [".build.", ".sign."].iter().any(|part| path.contains(part))
}

/// A mapping's build and signing are merged with the container's, field by field; what they do is tried with those.
fn is_merged(leaf: &Leaf) -> bool {
    is_of_a_build(leaf) && leaf.to_string().contains(".kernelMappings[].")
}

/// What a Module of this name wishes.
pub(crate) fn wish_of(name: &str, spec: &Value) -> Value {
    serde_json::from_str(&spec.to_string().replace(NAME, name)).expect("JSON")
}

pub(crate) fn modules(cluster: &Cluster) -> Api<DynamicObject> {
    Api::namespaced_with(cluster.client.clone(), "hall", &ApiResource::erase::<Module>(&()))
}

pub(crate) fn module(name: &str, spec: &Value) -> DynamicObject {
    let object = json!({"apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module", "metadata": {"name": name},
        "spec": wish_of(name, spec)});
    serde_json::from_value(object).expect("an object")
}

/// A wish for one node of the campaign's, with images of its registry.
fn on_node(wish: &Value, leaf: &Leaf, index: usize, registry: &str) -> Value {
    let image = if is_of_a_build(leaf) { format!("made/{NAME}:1") } else { "gauge:v1".to_owned() };
    let text = wish.to_string().replace("r.example/m:1", &format!("{registry}/{image}"));
    let text = text.replace("r.example/n:2", &format!("{registry}/gauge:v2"));
    let mut wish: Value = serde_json::from_str(&text).expect("JSON");
    let is_of_taints = leaf.is_below("tolerations");
    let node = if is_of_taints { TAINTED.to_owned() } else { (index % NODES).to_string() };
    wish["selector"][ON_NODE] = json!(node);
    // No kubelet runs, so nodes are soon tainted as unreachable.
    let unreachable = ["node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"];
    let always = unreachable.map(|key| json!({"key": key, "operator": "Exists"}));
    let own = wish["tolerations"].as_array().cloned().unwrap_or_default();
    wish["tolerations"] = own.into_iter().chain(always).collect();
    wish
}

/// Everything that a leaf could be tried with: another wish than the good one, and of its type.
fn possible(leaf: &Leaf, index: usize, registry: &str) -> Vec<Case> {
    let good = on_node(&base(leaf), leaf, index, registry);
    let all = trials(leaf, ordinary(leaf)).into_iter().filter(|trial| trial.kind != Kind::WrongType);
    let case = |trial: crate::values::Trial| {
        let tried = on_node(&spec(leaf, trial.value.as_ref()), leaf, index, registry);
        Case { leaf: leaf.clone(), kind: trial.kind, good: good.clone(), tried }
    };
    all.map(case).filter(|case| case.tried != case.good).collect()
}

async fn is_taken(cluster: &Cluster, case: &Case) -> bool {
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    match modules(cluster).create(&dry, &module("tried", &case.tried)).await {
        Ok(_) => true,
        Err(kube::Error::Api(status)) if status.code == 422 => false,
        Err(other) => panic!("{} {:?}: {other}", case.leaf, case.kind),
    }
}

/// Asks the API server what it takes, and draws of that.
pub(crate) async fn draw(cluster: &Cluster) -> Draw {
    let definition = serde_json::to_value(&tenon_api::crds()[0]).expect("a definition");
    let schema =
        definition.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").expect("a schema");
    let all = leaves(schema);
    let passed = all.iter().filter(|leaf| PASSED_THROUGH.iter().any(|part| leaf.is_below(part))).count();
    let merged = all.iter().filter(|leaf| is_merged(leaf)).count();
    let is_read = |leaf: &&Leaf| !PASSED_THROUGH.iter().any(|part| leaf.is_below(part)) && !is_merged(leaf);
    let read: Vec<_> = all.iter().filter(is_read).collect();
    let host = cluster.registry.host();
    let possible: Vec<_> =
        read.iter().enumerate().flat_map(|(index, leaf)| possible(leaf, index, &host)).collect();
    let values = possible.len();
    let taken: Vec<Case> = futures::stream::iter(possible)
        .map(|case| async { is_taken(cluster, &case).await.then_some(case) })
        .buffered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    let (count, refused) = (taken.len(), values - taken.len());
    let mut by_leaf: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    for case in taken {
        by_leaf.entry(case.leaf.to_string()).or_default().push(case);
    }
    let mut draw = Draw::default();
    let mut left_out = String::new();
    for (turn, (leaf, cases)) in by_leaf.into_iter().enumerate() {
        let (mut drawn, rest) = drawn(cases, turn);
        draw.cases.append(&mut drawn);
        if !rest.is_empty() {
            let kinds: Vec<_> = rest.iter().map(|case| case.kind).collect();
            let _ = writeln!(left_out, "  not tried to its end: {leaf} {kinds:?}");
        }
    }
    draw.told = format!(
        "{left_out}of {} leaves {passed} are passed through and {merged} merged into others; {} are tried to their end. Of their \
         {values} values {refused} are refused, and {} of the {count} others tried",
        all.len(),
        read.len(),
        draw.cases.len()
    );
    draw
}

/// Which of a leaf's values are tried, and which are not: a user's, and one of the others. A build's is tried against none, which a
/// Module without a build says nothing of.
fn drawn(cases: Vec<Case>, turn: usize) -> (Vec<Case>, Vec<Case>) {
    let (mut drawn, mut others): (Vec<_>, Vec<_>) =
        cases.into_iter().partition(|case| case.kind == Kind::Ordinary);
    let absent = others.iter().position(|case| case.kind == Kind::Absent && is_of_a_build(&case.leaf));
    let next = absent.unwrap_or_else(|| turn % others.len().max(1));
    others.rotate_left(next);
    let rest = others.split_off(DRAWN.min(others.len()));
    drawn.append(&mut others);
    (drawn, rest)
}
