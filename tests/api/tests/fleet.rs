//! What a fleet costs, counted: a hundred simulated nodes with the real agent, a real API server, the real operator.
//!
//! Only counts are held to a bound: they are the same on every machine. Times are for `tenon-lab bench`.
#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

use tenon_lab::scale::meter::{Bill, Party};
use tenon_lab::scale::plugins::{self, Kubelets, LABELS, MOST_TO_CHANGE, MOST_TO_DELETE, MOST_TO_LOAD};
use tenon_lab::scale::{Field, play};

const NODES: u64 = 100;

fn assert_cost(what: &str, bill: &Bill, per_node: u64) {
    let (nodes, others) = (bill.writes_to_nodes(), bill.writes_to_others());
    assert!(nodes <= per_node * NODES, "{what}: {nodes} writes to {NODES} nodes\n{:#?}", bill.requests);
    assert!(others <= 40, "{what}: {others} other writes\n{:#?}", bill.requests);
    assert_eq!(bill.no_op_writes, 0, "{what}: writes that changed nothing\n{:#?}", bill.requests);
    let follows = |resources: &[&str]| {
        bill.count(Party::Operator, |kind| {
            let (verb, rest) = kind.split_once(' ').unwrap_or((kind, ""));
            ["list", "watch"].contains(&verb) && resources.iter().any(|resource| rest.starts_with(resource))
        })
    };
    assert_eq!(follows(&["secrets"]), 0, "{what}: nobody follows Secrets\n{:#?}", bill.requests);
    // Those of plugins, by their label: listed once and watched, however many nodes there are.
    let plugins = follows(&["pods", "daemonsets"]);
    assert!(plugins <= 4, "{what}: plugins are asked after {plugins} times\n{:#?}", bill.requests);
}

/// Nothing is written but leases.
fn assert_silent(what: &str, bill: &Bill) {
    assert_cost(what, bill, 0);
    assert_eq!(bill.all_writes(), 0, "{what}: {:#?}", bill.requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_nodes_cost_three_writes_each_to_load_four_to_change_and_none_after_a_restart() {
    let nodes = usize::try_from(NODES).expect("a number of nodes");
    let mut field = Field::start().await.expect("a field");
    let (first, second) =
        tokio::try_join!(field.push("gauge", "1.0", 0), field.push("gauge", "2.0", 0)).expect("images");
    field.grow(nodes).await.expect("nodes");

    let load = play::cold(&field, &first).await.expect("a load");
    assert_cost("load", &load.bill, 3);
    assert!(load.bill.writes_to_nodes() >= 3 * NODES, "each was told, reported and was labelled");
    assert_eq!(play::ready_labels(&field).await.expect("labels"), nodes);

    let restart = play::restart(&mut field).await.expect("a restart");
    assert_silent("restart", &restart.bill);
    let asked = restart.bill.count(Party::Operator, |kind| !kind.contains(" leases "));
    assert!(asked <= 40, "a restart asks {asked} things\n{:#?}", restart.bill.requests);

    let change = play::change(&field, &second, Some("100%")).await.expect("a change");
    assert_cost("change", &change.bill, 4);
    let delete = play::delete(&field).await.expect("an end");
    assert_cost("delete", &delete.bill, 4);
    assert_eq!(play::ready_labels(&field).await.expect("labels"), 0);

    with_plugins(&mut field, &first, &second).await;
}

/// The same of a Module with a device plugin and a version, which nodes change in the order of their labels.
async fn with_plugins(field: &mut Field, first: &str, second: &str) {
    let _kubelets = Kubelets::start(field.client());
    let load = plugins::load(field, first, "1").await.expect("a load");
    assert_cost("load with a plugin", &load.bill, MOST_TO_LOAD);
    assert!(load.bill.writes_to_nodes() >= 3 * NODES, "each was told, reported and was labelled");
    assert_eq!(plugins::labels(field).await.expect("labels"), LABELS * field.nodes().len());

    let restart = plugins::restart(field).await.expect("a restart");
    assert_silent("restart with plugins", &restart.bill);

    let change = plugins::change(field, second, "2").await.expect("a change");
    assert_cost("ordered change with a plugin", &change.bill, MOST_TO_CHANGE);
    let delete = plugins::delete(field).await.expect("an end");
    assert_cost("delete with a plugin", &delete.bill, MOST_TO_DELETE);
    assert_eq!(plugins::labels(field).await.expect("labels"), 0);
}
