//! What is taken and what is refused, leaf by leaf.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::Module;
use tenon_plan::resolve::{ResolveError, resolve};
use tenon_plan::workload::daemon_set::daemon_set;
use tenon_test_api::setup::plane_with_definitions;

use crate::leaves::{Leaf, leaves};
use crate::manifests::{ordinary, spec};
use crate::values::{Kind, Trial, trials};

/// How many requests are under way at a time.
const AT_ONCE: usize = 16;

const KERNEL: &str = "6.1.0-56-cloud-amd64";

/// What the definition has because pods have it, and no plugin's pod can use; each is refused at once, or by the API server when the
/// `DaemonSet` is made.
const UNUSABLE: [(&str, &str); 11] = [
    ("initContainer.livenessProbe.", "initContainers have no probes"),
    ("initContainer.startupProbe.", "initContainers have no probes"),
    ("container.resources.claims[]", "a Module has no list of the pod's claims"),
    ("initContainer.resources.claims[]", "a Module has no list of the pod's claims"),
    ("build.resources.claims[]", "a build's pod claims no devices"),
    ("metadata.creationTimestamp", "a template of a claim has labels and annotations"),
    ("metadata.deletionGracePeriodSeconds", "a template of a claim has labels and annotations"),
    ("metadata.deletionTimestamp", "a template of a claim has labels and annotations"),
    ("metadata.finalizers[]", "a template of a claim has labels and annotations"),
    ("metadata.managedFields[]", "a template of a claim has labels and annotations"),
    ("metadata.ownerReferences[]", "a template of a claim has labels and annotations"),
];

/// Whether a refusal says what it is about.
fn is_named(leaf: &Leaf, text: &str) -> bool {
    let path = leaf.to_string();
    let unusable = UNUSABLE.iter().filter(|(part, _)| path.contains(&format!(".{part}")));
    leaf.is_named_in(text)
        || unusable
            .into_iter()
            .any(|(part, _)| part.split('.').next().is_some_and(|name| text.contains(name)))
}

fn unusable(leaf: &Leaf) -> Option<&'static str> {
    let path = leaf.to_string();
    UNUSABLE.iter().find(|(part, _)| path.contains(&format!(".{part}"))).map(|(_, why)| *why)
}

/// What became of one value of one leaf.
#[derive(Debug)]
struct Verdict {
    leaf: usize,
    kind: Kind,
    end: End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// Refused, by name.
    Refused,
    /// Taken whole, and so is the plugin that follows from it, if any does.
    Taken,
    /// Taken; the `DaemonSet` that follows is refused, by name.
    PluginRefused,
    /// What must not be.
    Wrong(String),
}

/// A definition's version whose manifests are tried.
struct Version {
    kind: &'static str,
    name: String,
    schema: Value,
}

fn versions() -> Vec<Version> {
    let mut found = Vec::new();
    for kind in ["Module", "PreflightValidation"] {
        let definition =
            tenon_api::crds().into_iter().find(|crd| crd.spec.names.kind == kind).expect("a definition");
        for version in definition.spec.versions.iter().filter(|version| version.served) {
            let schema = serde_json::to_value(&version.schema).expect("a schema");
            let schema = schema.pointer("/openAPIV3Schema/properties/spec").expect("of a spec").clone();
            found.push(Version { kind, name: version.name.clone(), schema });
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_value_of_every_leaf_is_taken_whole_or_refused_by_name() {
    let plane = plane_with_definitions().await;
    let (mut report, mut tally, mut all) = (String::new(), BTreeMap::new(), 0);
    for version in versions() {
        let leaves = leaves(&version.schema);
        all += leaves.len();
        let cases = leaves.iter().enumerate().flat_map(|(index, leaf)| {
            trials(leaf, ordinary(leaf)).into_iter().map(move |trial| (index, trial))
        });
        let client = plane.client();
        let (leaves_ref, version_ref) = (&leaves, &version);
        let verdicts: Vec<Verdict> = futures::stream::iter(cases)
            .map(|(leaf, trial)| {
                let client = client.clone();
                async move {
                    let end = attempt(&client, version_ref, &leaves_ref[leaf], &trial).await;
                    Verdict { leaf, kind: trial.kind, end }
                }
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for Verdict { leaf, kind, end } in &verdicts {
            *tally.entry(*kind).or_insert(0_usize) += 1;
            if let End::Wrong(why) = end {
                let _ = writeln!(report, "{} {} {kind:?}: {why}", version.kind, leaves[*leaf]);
            }
        }
        let through: BTreeSet<usize> = verdicts
            .iter()
            .filter(|v| v.end == End::Taken && v.kind != Kind::Absent)
            .map(|v| v.leaf)
            .collect();
        for (index, leaf) in leaves.iter().enumerate() {
            match (through.contains(&index), unusable(leaf)) {
                (true, None) | (false, Some(_)) => continue,
                (true, Some(why)) => {
                    let _ = writeln!(report, "{} {leaf} is taken, although {why}", version.kind);
                    continue;
                }
                (false, None) => {}
            }
            let ends: Vec<_> =
                verdicts.iter().filter(|v| v.leaf == index).map(|v| (v.kind, &v.end)).collect();
            let _ = writeln!(
                report,
                "{} {leaf}: nothing that it is tried with gets through: {ends:?}",
                version.kind
            );
        }
    }
    println!("campaign: {all} leaves, {} values: {tally:?}", tally.values().sum::<usize>());
    assert!(report.is_empty(), "{report}");
}

async fn attempt(client: &Client, version: &Version, leaf: &Leaf, trial: &Trial) -> End {
    let mut said =
        if version.kind == "Module" { spec(leaf, trial.value.as_ref()) } else { preflight(leaf, trial) };
    if said.is_null() {
        said = json!({});
    }
    let answer = dry_run(client, version, &said).await;
    let stored = match answer {
        Ok(stored) => stored,
        Err(kube::Error::Api(status)) => {
            let causes = status.details.iter().flat_map(|details| &details.causes);
            let is_named = causes
                .into_iter()
                .any(|cause| is_named(leaf, &cause.field) || is_named(leaf, &cause.message));
            if is_named || self::is_named(leaf, &status.message) {
                return End::Refused;
            }
            return End::Wrong(format!("refused, but not by name: {}", short(&status.message)));
        }
        Err(other) => return End::Wrong(format!("no answer: {}", short(&other.to_string()))),
    };
    if trial.kind == Kind::WrongType {
        return End::Wrong("another type is taken".to_owned());
    }
    let lost = lost(&said, &stored.data["spec"], "spec");
    if !lost.is_empty() && unusable(leaf).is_none() {
        return End::Wrong(format!("taken, but not whole: {}", short(&lost.join(", "))));
    }
    if version.kind != "Module" {
        return read_preflight(version, stored);
    }
    plugin(client, leaf, stored).await
}

fn short(text: &str) -> String {
    text.chars().take(400).collect()
}

fn preflight(leaf: &Leaf, trial: &Trial) -> Value {
    let mut said = json!({"kernelVersion": "6.1.0-1-amd64"});
    let fields = said.as_object_mut().expect("an object");
    match &trial.value {
        Some(value) => drop(fields.insert(leaf.name().to_owned(), value.clone())),
        None => drop(fields.remove(leaf.name())),
    }
    said
}

fn read_preflight(version: &Version, stored: DynamicObject) -> End {
    let read =
        serde_json::to_value(stored).and_then(serde_json::from_value::<tenon_api::PreflightValidation>);
    match read {
        Err(error) if version.name == "v1beta2" => End::Wrong(format!("Tenon cannot read it: {error}")),
        _ => End::Taken,
    }
}

async fn dry_run(client: &Client, version: &Version, said: &Value) -> Result<DynamicObject, kube::Error> {
    let resource = ApiResource {
        group: "kmm.sigs.x-k8s.io".to_owned(),
        version: version.name.clone(),
        api_version: format!("kmm.sigs.x-k8s.io/{}", version.name),
        kind: version.kind.to_owned(),
        plural: format!("{}s", version.kind.to_lowercase()),
    };
    let object = json!({"apiVersion": resource.api_version, "kind": version.kind, "metadata": {"name": "tried"}, "spec": said});
    let object: DynamicObject = serde_json::from_value(object).expect("an object");
    let api: Api<DynamicObject> = if version.kind == "Module" {
        Api::namespaced_with(client.clone(), "default", &resource)
    } else {
        Api::all_with(client.clone(), &resource)
    };
    api.create(&PostParams { dry_run: true, ..PostParams::default() }, &object).await
}

/// What Tenon's own types make of a Module that the API server takes, and the API server of the plugin that follows.
async fn plugin(client: &Client, leaf: &Leaf, stored: DynamicObject) -> End {
    let whole = serde_json::to_value(stored).expect("JSON");
    let module: Module = match serde_json::from_value(whole.clone()) {
        Ok(module) => module,
        Err(error) => {
            return End::Wrong(format!("the API server takes it, and Tenon cannot read it: {error}"));
        }
    };
    if let Some(why) = undecided(leaf, &module) {
        return End::Wrong(why);
    }
    let Some(set) = daemon_set(&module) else { return End::Taken };
    let made = serde_json::to_value(&set).expect("JSON");
    let lost = ignored(&whole["spec"], &made["spec"]["template"]["spec"]);
    if !lost.is_empty() {
        return End::Wrong(format!("it does not reach the plugin: {}", short(&lost.join(", "))));
    }
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), "default");
    let params = PatchParams { dry_run: true, ..PatchParams::apply("tenon-workloads").force() };
    match sets.patch(&set.name_any(), &params, &Patch::Apply(&set)).await {
        Ok(_) => End::Taken,
        Err(kube::Error::Api(status)) if is_named(leaf, &status.message) => End::PluginRefused,
        Err(kube::Error::Api(status)) => {
            End::Wrong(format!("its plugin is refused, but not by name: {}", short(&status.message)))
        }
        Err(other) => End::Wrong(format!("no answer about its plugin: {}", short(&other.to_string()))),
    }
}

/// What is wrong with Tenon's decision about a Module: it may be that it does nothing, but then it says about which field.
fn undecided(leaf: &Leaf, module: &Module) -> Option<String> {
    let kernel = KERNEL.parse().expect("a kernel's release");
    match resolve(module, &kernel) {
        Ok(_) | Err(ResolveError::NoModuleLoader) => None,
        Err(why) if leaf.is_named_in(&why.to_string()) => None,
        Err(why) => Some(format!("nothing is done, and the field is not named: {why}")),
    }
}

/// What of a plugin's wishes its pod does not have.
fn ignored(spec: &Value, pod: &Value) -> Vec<String> {
    let asked = if spec["dra"].is_object() { &spec["dra"] } else { &spec["devicePlugin"] };
    let mut lost = kept(&asked["container"], &pod["containers"][0], "container");
    lost.extend(kept(&asked["initContainer"], &pod["initContainers"][0], "initContainer"));
    for field in ["volumes", "serviceAccountName", "automountServiceAccountToken"] {
        lost.extend(kept(&asked[field], &pod[field], field));
    }
    lost
}

/// The values that are others in what was made; of a list the made one may have more at its begin, and what means nothing may be
/// left out.
fn kept(asked: &Value, made: &Value, path: &str) -> Vec<String> {
    match (asked, made) {
        (Value::Null, _) => Vec::new(),
        (Value::Object(fields), _) => {
            fields.iter().flat_map(|(key, value)| kept(value, &made[key], &format!("{path}.{key}"))).collect()
        }
        (Value::Array(items), Value::Array(others)) if items.len() <= others.len() => {
            let pairs = items.iter().zip(&others[others.len() - items.len()..]);
            pairs.flat_map(|(item, other)| kept(item, other, &format!("{path}[]"))).collect()
        }
        _ if asked == made || means_nothing(asked) && means_nothing(made) => Vec::new(),
        // Quantities and the like: numbers where text is as good.
        (Value::Number(number), Value::String(text)) if number.to_string() == *text => Vec::new(),
        _ => vec![format!("{path}: {asked} became {made}")],
    }
}

fn means_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// The values that the API server did not keep as they were.
fn lost(sent: &Value, stored: &Value, path: &str) -> Vec<String> {
    match (sent, stored) {
        (Value::Object(fields), Value::Object(_)) => fields
            .iter()
            .flat_map(|(key, value)| lost(value, &stored[key], &format!("{path}.{key}")))
            .collect(),
        (Value::Array(items), Value::Array(others)) if items.len() == others.len() => items
            .iter()
            .zip(others)
            .flat_map(|(item, other)| lost(item, other, &format!("{path}[]")))
            .collect(),
        _ if sent == stored => Vec::new(),
        _ => vec![format!("{path}: {sent} became {stored}")],
    }
}
