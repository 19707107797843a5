//! Figures for people: tables and plots in Markdown.

use std::fmt::Write as _;

use super::meter::Party;
use super::play::{CHANGE_ALL, COLD, Figure, RESTART};

/// What stands above the figures.
const INTRODUCTION: &str = "\
# Benchmarks

Written by `make bench`; do not edit. All figures of the last run are in [benchmarks.json](benchmarks.json), requests by kind
included. What it costs to sign an image is [measured beside a builder](benchmarks-signing.md), and to make one
[in every way](benchmarks-building.md); what device plugins and version labels add is [counted](benchmarks-plugins.md).

One machine plays everything: etcd (without fsync), kube-apiserver with an audit log, kube-controller-manager without what
tends to nodes, a registry, the operator as it is released, and a fleet of simulated nodes: the real agent with a loader that
loads in writing, no kubelet. All of it shares the machine's processors, so times and processor time are of use beside each
other and not as promises; of the nodes' work there are a thousand times as much as on a node. Counts are exact: requests
from the audit log, changes from etcd's revision, so that a write that changed nothing shows. The operator has its defaults
(500 writes a second, 32 transfers at a time). What bounds the figures is [told apart](decisions/what-bounds-a-fleet.md).

";

/// A page: what should be reached and whether it is, tables, one per number of nodes, and plots over the numbers of nodes.
pub fn page(figures: &[Figure]) -> String {
    let mut page = INTRODUCTION.to_owned();
    page.push_str(&goals(figures));
    let mut sizes: Vec<usize> = figures.iter().map(|figure| figure.nodes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for size in &sizes {
        let of_size = figures.iter().filter(|figure| figure.nodes == *size);
        // Writing into a string cannot fail.
        let _ = write!(page, "## {size} nodes\n\n{HEAD}");
        of_size.for_each(|figure| page.push_str(&row(figure)));
        page.push('\n');
    }
    page.push_str("## Over the number of nodes\n\n");
    plot(&mut page, "seconds until all nodes have loaded", &sizes, figures, |figure| {
        figure.times.map(|times| times.all)
    });
    plot(&mut page, "the operator's processor time, in seconds", &sizes, figures, |figure| {
        Some(figure.bill.usages.operator.cpu_seconds)
    });
    page
}

/// The goals for this many nodes.
const GOALS_AT: usize = 1000;

/// What should be reached with [`GOALS_AT`] nodes, and what was.
fn goals(figures: &[Figure]) -> String {
    let find =
        |scenario| figures.iter().find(|figure| figure.nodes == GOALS_AT && figure.scenario == scenario);
    let (Some(cold), Some(change), Some(restart)) = (find(COLD), find(CHANGE_ALL), find(RESTART)) else {
        return String::new();
    };
    let writes = |figure: &Figure| {
        ratio(figure.bill.writes(Party::Operator) + figure.bill.writes(Party::Agents), figure.pairs)
    };
    let cpu = |figure: &Figure| figure.bill.usages.operator.cpu_seconds;
    let count = |count: u64| ratio(count, 1);
    let no_ops = figures.iter().map(|figure| figure.bill.no_op_writes).sum();
    let goals = [
        ("seconds until a driver is loaded on all", 8.0, cold.times.map_or(f64::INFINITY, |times| times.all)),
        ("writes per node to load", 3.0, writes(cold)),
        ("writes per node to change", 4.0, writes(change)),
        ("writes that changed nothing, in all scenarios", 0.0, count(no_ops)),
        ("writes after a restart", 0.0, writes(restart) * count(restart.pairs as u64)),
        ("seconds until a restarted operator is ready", 1.0, restart.settled.unwrap_or(f64::INFINITY)),
        ("the operator's processor seconds to load", 2.0, cpu(cold)),
        ("the operator's processor seconds to change", 3.0, cpu(change)),
        ("the operator's memory while it loads, in MiB", 32.0, count(cold.bill.usages.operator.peak / 1024)),
        (
            "the operator's memory while it changes, in MiB",
            32.0,
            count(change.bill.usages.operator.peak / 1024),
        ),
    ];
    let mut table =
        format!("## Goals, with {GOALS_AT} nodes\n\n| what | at most | found | |\n|---|---|---|---|\n");
    for (what, most, found) in goals {
        // The writes that there are one of per Module, not per node, are in it, too.
        let verdict = if found <= most * 1.02 { "reached" } else { "**missed**" };
        let _ = writeln!(table, "| {what} | {most} | {found:.2} | {verdict} |");
    }
    table.push('\n');
    table
}

const HEAD: &str = "\
| scenario | half, 99 %, all nodes (s) | Module says so (s) | writes per node, operator + agent | no-op | refused | \
operator's reads | CPU (s): operator, agents, API server, etcd | operator's memory, now and peak (MiB) |
|---|---|---|---|---|---|---|---|---|
";

fn row(figure: &Figure) -> String {
    let Figure { scenario, times, settled, bill, .. } = figure;
    let times = times
        .map_or_else(String::new, |times| format!("{:.1}, {:.1}, {:.1}", times.half, times.most, times.all));
    let settled = settled.map_or_else(String::new, |settled| format!("{settled:.1}"));
    let per_pair = |party| ratio(bill.writes(party), figure.pairs);
    let reads = bill
        .count(Party::Operator, |kind| ["get ", "list ", "watch "].iter().any(|verb| kind.starts_with(verb)));
    let usages = &bill.usages;
    format!(
        "| {scenario} | {times} | {settled} | {:.2} + {:.2} | {} | {} | {reads} | {:.2}, {:.2}, {:.2}, {:.2} | {}, {} |\n",
        per_pair(Party::Operator),
        per_pair(Party::Agents),
        bill.no_op_writes,
        bill.refused(Party::Operator) + bill.refused(Party::Agents),
        usages.operator.cpu_seconds,
        usages.agents.cpu_seconds,
        usages.server.cpu_seconds,
        usages.etcd.cpu_seconds,
        usages.operator.resident / 1024,
        usages.operator.peak / 1024,
    )
}

/// So many per pair.
pub fn ratio(count: u64, pairs: usize) -> f64 {
    let float = |number: u64| u32::try_from(number).map_or(f64::INFINITY, f64::from);
    float(count) / float(pairs as u64)
}

/// A line for each scenario that was played with several numbers of nodes.
fn plot(
    page: &mut String,
    what: &str,
    sizes: &[usize],
    figures: &[Figure],
    value: impl Fn(&Figure) -> Option<f64>,
) {
    let mut scenarios: Vec<&str> = figures.iter().map(|figure| figure.scenario).collect();
    scenarios.sort_unstable();
    scenarios.dedup();
    for scenario in scenarios {
        let of_size = |size: &usize| {
            let played = figures.iter().find(|figure| figure.nodes == *size && figure.scenario == scenario);
            played.and_then(&value).map(|point| (*size, point))
        };
        let (sizes, points): (Vec<usize>, Vec<f64>) = sizes.iter().filter_map(of_size).unzip();
        if points.len() < 2 {
            continue;
        }
        let list = |items: Vec<String>| items.join(", ");
        let (sizes, values) = (
            list(sizes.iter().map(ToString::to_string).collect()),
            list(points.iter().map(|point| format!("{point:.2}")).collect()),
        );
        let _ = write!(
            page,
            "```mermaid\nxychart-beta\n    title \"{scenario}: {what}\"\n    x-axis \"nodes\" [{sizes}]\n    \
             y-axis \"seconds\"\n    line [{values}]\n```\n\n"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Times;
    use super::super::meter::{Bill, Usages};
    use super::*;

    fn figure(scenario: &'static str, nodes: usize) -> Figure {
        let requests = [("patch nodes 200".to_owned(), 2 * nodes as u64)].into_iter().collect();
        let bill = Bill {
            seconds: 1.0,
            requests: BTreeMap::from([(Party::Operator, requests)]),
            no_op_writes: 0,
            usages: Usages::default(),
        };
        let times = Some(Times { half: 0.5, most: 0.9, all: 1.0 });
        Figure { scenario, nodes, pairs: nodes, times, settled: None, bill, more: BTreeMap::new() }
    }

    #[test]
    fn writes_are_divided_by_the_nodes_and_only_what_was_played_at_several_sizes_is_plotted() {
        let page = page(&[figure("cold", 10), figure("cold", 100), figure("churn", 100)]);
        assert!(page.contains("| cold | 0.5, 0.9, 1.0 |  | 2.00 + 0.00 | 0 | 0 | 0 |"), "{page}");
        assert_eq!(page.matches("xychart").count(), 2, "{page}");
        assert!(page.contains("x-axis \"nodes\" [10, 100]"), "{page}");
    }
}
