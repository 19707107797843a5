//! What Tenon decides by, tried to its end with the operator: every value has a Module that always had it, and one that comes to it
//! from a good wish and goes back to that. Whatever the value is, both end alike, and the end of the way back is that of a Module
//! that never wished anything else.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube::ResourceExt as _;
use kube::api::{ListParams, PostParams};
use serde_json::Value;
use tenon_api::NodeModulesConfig;
use tenon_api::labels::LabelKind;
use tenon_api::node_modules_config::{ModulePhase, NodeModuleStatus};
use tenon_lab::wait;
use tenon_order::Wish;
use tenon_test_api::cluster::{Cluster, order};

use crate::cases::{
    AT_ONCE, Case, NODES, ON_NODE, TAINTED, VERSION, draw, is_of_a_build, module, modules, wish_of,
};
use crate::outcome::{Outcome, outcomes};
use crate::preflights;

/// All of them take longer than one.
const ALL_SOON: Duration = Duration::from_mins(2);
/// How often the played agents look.
const LOOK: Duration = Duration::from_millis(300);
/// How often all is looked at: it is much.
const REVIEW: Duration = Duration::from_secs(2);
/// For how long nothing may change any more once all is as it should be.
const STAYS: Duration = Duration::from_secs(1);

/// Leaves by which nothing of what is compared here differs, and where they count.
const ELSEWHERE: [(&str, &str); 3] = [
    ("spec.inspection", "where an inspection says that a kernel will refuse the driver"),
    ("spec.rollout.maxUnavailable", "where a change comes to more than one node"),
    ("spec.tolerations[].tolerationSeconds", "nowhere: nothing is evicted by a taint"),
];

type Found = BTreeMap<String, Outcome>;

/// Panics of Tenon's own code, in whatever task.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn count_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |what| {
        if what.location().is_some_and(|place| place.file().contains("crates/")) {
            PANICS.fetch_add(1, Ordering::SeqCst);
        }
        before(what);
    }));
}

// The names of all Modules have the same length.

/// Of the Module that comes to a value and goes back.
fn changing(index: usize) -> String {
    format!("change-{index:04}")
}

/// Of the one that always had it.
fn steady(index: usize) -> String {
    format!("steady-{index:04}")
}

/// Of one that has the good wish, and never had another.
fn fresh(index: usize) -> String {
    format!("fresh--{index:04}")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_decided_by_ends_as_a_fresh_deploy_whatever_came_between() {
    count_panics();
    // So many Modules that what is said of each of them would be most of the work.
    let _ = tracing_subscriber::fmt().with_env_filter("warn").with_test_writer().try_init();
    let mut cluster = Cluster::start().await;
    stay_inside(&mut cluster).await;
    cluster.push_driver("gauge:v1", "one");
    cluster.push_driver("gauge:v2", "two");
    let silent = tokio::select! {
        never = agents(&cluster) => never,
        silent = campaign(&cluster) => silent,
    };
    preflights::campaign(&cluster).await;
    assert!(silent.is_empty(), "{silent}");
    assert_eq!(PANICS.load(Ordering::SeqCst), 0, "Tenon panicked; its words are above");
    cluster.stop_operator().await;
}

/// No registry is asked but the test's own, whatever an image's name is.
async fn stay_inside(cluster: &mut Cluster) {
    let host = cluster.registry.host();
    let mirror = |registry: &str| format!("--mirror={registry}={host},only");
    cluster.flags = ["docker.io", "r.example", "nobody.example"].map(mirror).to_vec();
    cluster.stop_operator().await;
    cluster.start_operator().await;
}

async fn add_nodes(cluster: &Cluster) {
    let names = (0..NODES).map(|node| node.to_string()).chain([TAINTED.to_owned()]);
    for name in names {
        let node = format!("node-{name}");
        cluster.add_node(&node).await;
        let label = format!("{ON_NODE}={name}");
        cluster.plane.kubectl(&["label", "node", &node, &label]).await.expect("a label");
    }
    let taint = ["taint", "node", &format!("node-{TAINTED}"), "k=w:NoSchedule"];
    cluster.plane.kubectl(&taint).await.expect("a taint");
}

/// Nodes are to have the versions that are tried.
async fn label_versions(cluster: &Cluster, cases: &[Case]) {
    for (index, case) in cases.iter().enumerate().filter(|(_, case)| case.leaf.is_below(VERSION)) {
        let version = case.tried["moduleLoader"]["container"]["version"].as_str().unwrap_or_default();
        let node = format!("node-{}", case.tried["selector"][ON_NODE].as_str().expect("a node"));
        for name in [changing(index), steady(index)] {
            let label = format!("{}={version}", LabelKind::VersionModule.key("hall", &name));
            cluster.plane.kubectl(&["label", "node", &node, &label]).await.expect("a label");
        }
    }
}

/// All nodes do what they are ordered, in writing.
async fn agents(cluster: &Cluster) -> ! {
    let mut obeyed = BTreeMap::new();
    loop {
        for config in cluster.configs().list(&ListParams::default()).await.expect("a list") {
            let name = config.name_any();
            if order(&config).is_some() && obeyed.get(&name) != Some(&config.metadata.generation) {
                obey(cluster, &config).await;
                obeyed.insert(name, config.metadata.generation);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A node has what its order says, and all that must be there after the load.
async fn obey(cluster: &Cluster, config: &NodeModulesConfig) {
    let order = order(config).expect("an order");
    let is_wished = |namespace: &str, name: &str| {
        let key = format!("{namespace}/{name}").parse().expect("a key");
        matches!(order.wish(&key), Some(Wish::Loaded(_)))
    };
    let entries = config.spec.modules.iter().filter(|entry| is_wished(&entry.namespace, &entry.name));
    let loaded: Vec<_> = entries
        .map(|entry| NodeModuleStatus {
            name: entry.name.clone(),
            namespace: entry.namespace.clone(),
            config: Some(entry.config.clone()),
            bundle: entry.bundle.clone(),
            phase: Some(ModulePhase::Loaded),
            boot_id: config.status.as_ref().and_then(|status| status.boot_id.clone()),
            validated: entry.validation.iter().flat_map(|validation| validation.paths.clone()).collect(),
            ..NodeModuleStatus::default()
        })
        .collect();
    cluster
        .report(&config.name_any(), |status| {
            status.order_generation = i64::try_from(order.generation.0).ok();
            status.modules = loaded;
        })
        .await;
}

async fn create(cluster: &Cluster, wishes: Vec<(String, &Value)>) {
    futures::stream::iter(wishes)
        .for_each_concurrent(AT_ONCE, |(name, spec)| async move {
            let made = modules(cluster).create(&PostParams::default(), &module(&name, spec)).await;
            made.unwrap_or_else(|error| panic!("{name}: {error}"));
        })
        .await;
}

/// Has all changing Modules wish something else.
async fn wish_all<'c>(cluster: &Cluster, cases: &'c [Case], of: impl Fn(&'c Case) -> &'c Value) {
    let wishes = cases.iter().enumerate().map(|(index, case)| (changing(index), of(case)));
    futures::stream::iter(wishes)
        .for_each_concurrent(AT_ONCE, |(name, spec)| async move { wish(cluster, &name, spec).await })
        .await;
}

/// Wishes something else, whole.
async fn wish(cluster: &Cluster, name: &str, spec: &Value) {
    let api = modules(cluster);
    loop {
        let mut object = api.get(name).await.expect("the Module");
        object.data["spec"] = wish_of(name, spec);
        match api.replace(name, &PostParams::default(), &object).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(other) => panic!("{name}: {other}"),
        }
    }
}

/// The good wishes, each once; and for each case, which of them it has.
fn good_wishes(cases: &[Case]) -> (Vec<&Value>, Vec<usize>) {
    let mut wishes: Vec<&Value> = Vec::new();
    let places = cases.iter().map(|case| {
        wishes.iter().position(|wish| **wish == case.good).unwrap_or_else(|| {
            wishes.push(&case.good);
            wishes.len() - 1
        })
    });
    let places = places.collect();
    (wishes, places)
}

/// What is told of the values, where it should be and is not.
async fn campaign(cluster: &Cluster) -> String {
    let start = Instant::now();
    let say = |what: &str| println!("campaign: {what} after {:?}", start.elapsed());
    add_nodes(cluster).await;
    let draw = draw(cluster).await;
    let cases = draw.cases.as_slice();
    label_versions(cluster, cases).await;
    say("drawn");

    let wishes = |(index, case): (usize, &'_ Case)| {
        [(changing(index), case.good.clone()), (steady(index), case.tried.clone())]
    };
    let wishes: Vec<_> = cases.iter().enumerate().flat_map(wishes).collect();
    create(cluster, wishes.iter().map(|(name, spec)| (name.clone(), spec)).collect()).await;
    let first = all_where(cluster, cases, "what is wished first comes to rest", |index, found| {
        let good = found.get(&changing(index));
        let is_good = |good: &Outcome| good.is_at_rest() && good.is_met() == cases[index].has_driver_before();
        good.is_some_and(is_good) && found.get(&steady(index)).is_some_and(Outcome::is_at_rest)
    })
    .await;
    say("all at rest");

    wish_all(cluster, cases, |case| &case.tried).await;
    let second = all_where(cluster, cases, "a changed wish ends as a fresh one", |index, found| {
        let pair = found.get(&changing(index)).zip(found.get(&steady(index)));
        pair.is_some_and(|(changed, fresh)| {
            fresh.is_at_rest() && changed.ends_like(fresh, &first[&changing(index)])
        })
    })
    .await;
    say("changed");
    let silent = [unnamed(cases, &second), ignored(cases, &first, &second)].concat();

    print!("{silent}");

    wish_all(cluster, cases, |case| &case.good).await;
    let (good, places) = good_wishes(cases);
    create(cluster, good.iter().enumerate().map(|(index, spec)| (fresh(index), *spec)).collect()).await;
    all_where(cluster, cases, "a wish that comes back ends as a fresh one", |index, found| {
        let pair = found.get(&changing(index)).zip(found.get(&fresh(places[index])));
        pair.is_some_and(|(changed, fresh)| {
            fresh.is_at_rest() && changed.ends_like(fresh, &second[&changing(index)])
        })
    })
    .await;
    say("back");

    let all = modules(cluster).list(&ListParams::default()).await.expect("a list").items;
    futures::stream::iter(all)
        .for_each_concurrent(AT_ONCE, |module| async move { cluster.delete_module(&module.name_any()).await })
        .await;
    let mut left = Vec::new();
    let gone = wait::until("nothing is left", ALL_SOON, async || {
        tokio::time::sleep(REVIEW).await;
        left = cluster.leftovers().await;
        // The user's own.
        left.retain(|what| !what.contains("/version-module."));
        left.is_empty().then_some(())
    });
    let gone = gone.await;
    gone.unwrap_or_else(|late| panic!("{late}: {left:#?}"));
    say("gone");
    println!("{}", draw.told);
    println!("campaign: {} values, {} sequences, in {:?}", cases.len(), 2 * cases.len(), start.elapsed());
    silent
}

/// Waits until all cases are like this, and stay so; tells of those that never are.
async fn all_where(
    cluster: &Cluster,
    cases: &[Case],
    what: &str,
    holds: impl Fn(usize, &Found) -> bool,
) -> Found {
    let mut last = Found::new();
    let hold = |found: &Found| (0..cases.len()).all(|index| holds(index, found));
    let all = wait::until(what, ALL_SOON, async || {
        tokio::time::sleep(REVIEW).await;
        last = outcomes(cluster).await;
        if !hold(&last) {
            return None;
        }
        tokio::time::sleep(STAYS).await;
        last = outcomes(cluster).await;
        hold(&last).then_some(())
    });
    if all.await.is_ok() {
        return last;
    }
    let mut report = String::new();
    for (index, case) in cases.iter().enumerate().filter(|(index, _)| !holds(*index, &last)) {
        let (one, other) = (last.get(&changing(index)), last.get(&steady(index)));
        let _ = writeln!(report, "{} {:?} ({index}): {one:?}\n    fresh: {other:?}", case.leaf, case.kind);
    }
    panic!("{what}: not of\n{report}");
}

/// What keeps a driver away that was there with the good wish, and is not told by the field's name.
fn unnamed(cases: &[Case], found: &Found) -> String {
    let mut report = String::new();
    for (index, case) in cases.iter().enumerate().filter(|(_, case)| case.has_driver_before()) {
        let outcome = &found[&steady(index)];
        if !outcome.is_met() && !case.leaf.is_named_in(&outcome.words) {
            let said = (&outcome.told, &outcome.words);
            let _ = writeln!(report, "{} {:?}: the cause is not named: {said:?}", case.leaf, case.kind);
        }
    }
    report
}

/// Leaves whose every value ends as every other: what is said there is ignored.
fn ignored(cases: &[Case], first: &Found, second: &Found) -> String {
    let mut ends: BTreeMap<String, Vec<&Outcome>> = BTreeMap::new();
    for (index, case) in cases.iter().enumerate() {
        let ends = ends.entry(case.leaf.to_string()).or_default();
        ends.push(&second[&steady(index)]);
        // A build differs from none by more than one leaf.
        if !is_of_a_build(&case.leaf) {
            ends.push(&first[&changing(index)]);
        }
    }
    // With nothing to compare it with, nothing can be said.
    ends.retain(|_, ends| ends.len() > 1);
    let is_ignored =
        |ends: &[&Outcome]| ends.iter().all(|end| ends.first().is_some_and(|one| one.is_same(end)));
    let mut report = String::new();
    for (leaf, ends) in &ends {
        let excuse = ELSEWHERE.iter().find(|(excused, _)| excused == leaf);
        let _ = match (is_ignored(ends), excuse) {
            (true, None) => writeln!(report, "{leaf}: no value of it makes a difference"),
            (false, Some((_, where_))) => {
                writeln!(report, "{leaf}: makes a difference, and not only {where_}")
            }
            _ => Ok(()),
        };
    }
    report
}
