//! The same of preflights: every value that the API server takes, by itself and between two good ones.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::Api;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use tenon_api::PreflightValidation;
use tenon_lab::wait;
use tenon_test_api::cluster::Cluster;

use crate::leaves::{Leaf, leaves};
use crate::manifests::ordinary;
use crate::values::{Kind, trials};

/// All of them take longer than one.
const ALL_SOON: Duration = Duration::from_mins(1);

type Found = BTreeMap<String, Value>;

fn changing(index: usize) -> String {
    format!("change-{index:04}")
}

fn steady(index: usize) -> String {
    format!("steady-{index:04}")
}

fn preflights(cluster: &Cluster) -> Api<PreflightValidation> {
    Api::all(cluster.client.clone())
}

fn manifest(name: &str, spec: &Value) -> PreflightValidation {
    let object = json!({"apiVersion": "kmm.sigs.x-k8s.io/v1beta2", "kind": "PreflightValidation",
        "metadata": {"name": name}, "spec": spec});
    serde_json::from_value(object).expect("a preflight")
}

/// The values that are taken: a preflight of each is there.
async fn taken(cluster: &Cluster, good: &Value) -> (usize, Vec<(Leaf, Kind, Value)>) {
    let definitions = tenon_api::crds();
    let definition = definitions.iter().find(|crd| crd.spec.names.kind == "PreflightValidation");
    let versions = &definition.expect("a definition").spec.versions;
    let version = versions.iter().find(|version| version.storage).expect("a version");
    let schema = serde_json::to_value(&version.schema).expect("a schema");
    let schema = schema.pointer("/openAPIV3Schema/properties/spec").expect("of a spec");
    let (mut all, mut taken) = (0, Vec::new());
    for leaf in leaves(schema) {
        for trial in trials(&leaf, ordinary(&leaf)).into_iter().filter(|trial| trial.kind != Kind::WrongType)
        {
            let mut spec = good.clone();
            let fields = spec.as_object_mut().expect("an object");
            match trial.value {
                Some(value) => drop(fields.insert(leaf.name().to_owned(), value)),
                None => drop(fields.remove(leaf.name())),
            }
            all += 1;
            if spec == *good || spec["kernelVersion"].is_null() {
                continue;
            }
            match preflights(cluster)
                .create(&PostParams::default(), &manifest(&steady(taken.len()), &spec))
                .await
            {
                Ok(_) => taken.push((leaf.clone(), trial.kind, spec)),
                Err(kube::Error::Api(status)) if status.code == 422 => {}
                Err(other) => panic!("{leaf} {:?}: {other}", trial.kind),
            }
        }
    }
    (all, taken)
}

/// The statuses that are of the last wish, without times.
async fn found(cluster: &Cluster) -> Found {
    let all = preflights(cluster).list(&ListParams::default()).await.expect("a list");
    let mut found = Found::new();
    for preflight in all {
        let name = preflight.name_any();
        let Some(mut status) = preflight.status else { continue };
        if status.observed_generation != preflight.metadata.generation || status.in_progress > 0 {
            continue;
        }
        status.observed_generation = None;
        let mut told = json!(status);
        timeless(&mut told);
        found.insert(name, told);
    }
    found
}

fn timeless(told: &mut Value) {
    match told {
        Value::Object(fields) => {
            fields.remove("lastTransitionTime");
            fields.values_mut().for_each(timeless);
        }
        Value::Array(items) => items.iter_mut().for_each(timeless),
        _ => {}
    }
}

async fn wish(cluster: &Cluster, name: &str, spec: &Value) {
    loop {
        let mut preflight = preflights(cluster).get(name).await.expect("the preflight");
        preflight.spec = manifest(name, spec).spec;
        match preflights(cluster).replace(name, &PostParams::default(), &preflight).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(other) => panic!("{name}: {other}"),
        }
    }
}

pub(crate) async fn campaign(cluster: &Cluster) {
    cluster.apply_module("gauge", "gauge:v1", json!({})).await;
    cluster.apply_module("absent", "absent:v1", json!({})).await;
    let good = json!({"kernelVersion": cluster.kernel});
    let (all, values) = taken(cluster, &good).await;
    preflights(cluster).create(&PostParams::default(), &manifest("good", &good)).await.expect("a preflight");
    for index in 0..values.len() {
        let made =
            preflights(cluster).create(&PostParams::default(), &manifest(&changing(index), &good)).await;
        made.expect("a preflight");
    }
    let is_good = |index: usize, found: &Found| {
        found.contains_key("good") && found.get(&changing(index)) == found.get("good")
    };
    all_where(cluster, &values, "good preflights end", is_good).await;
    for (index, (.., spec)) in values.iter().enumerate() {
        wish(cluster, &changing(index), spec).await;
    }
    let second = all_where(cluster, &values, "changed preflights end as fresh ones", |index, found| {
        found.contains_key(&steady(index)) && found.get(&changing(index)) == found.get(&steady(index))
    })
    .await;
    for (index, (leaf, kind, _)) in values.iter().enumerate() {
        let differs = second.get(&changing(index)) != second.get("good");
        println!(
            "campaign: preflight's {leaf} {kind:?}: {}",
            if differs { "heeded" } else { "as if it were not said" }
        );
    }
    for index in 0..values.len() {
        wish(cluster, &changing(index), &good).await;
    }
    all_where(cluster, &values, "preflights end as they began", is_good).await;
    println!(
        "campaign: of preflights {} of {all} values are taken, {} sequences",
        values.len(),
        2 * values.len()
    );
    for preflight in preflights(cluster).list(&ListParams::default()).await.expect("a list") {
        preflights(cluster)
            .delete(&preflight.name_any(), &DeleteParams::default())
            .await
            .expect("a deletion");
    }
}

async fn all_where(
    cluster: &Cluster,
    values: &[(Leaf, Kind, Value)],
    what: &str,
    holds: impl Fn(usize, &Found) -> bool,
) -> Found {
    let mut last = Found::new();
    let all = wait::until(what, ALL_SOON, async || {
        last = found(cluster).await;
        (0..values.len()).all(|index| holds(index, &last)).then_some(())
    });
    if all.await.is_ok() {
        return last;
    }
    let wrong = (0..values.len()).filter(|index| !holds(*index, &last));
    let wrong: Vec<_> = wrong
        .map(|index| {
            (
                values[index].0.to_string(),
                values[index].1,
                last.get(&changing(index)),
                last.get(&steady(index)),
            )
        })
        .collect();
    panic!("{what}: not of {wrong:#?}; good: {:#?}", last.get("good"));
}
