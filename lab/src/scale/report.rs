//! Figures for people: tables and plots in Markdown.

use std::fmt::Write as _;

use super::meter::Party;
use super::play::Figure;

/// A page of tables, one per number of nodes, and plots over the numbers of nodes.
pub fn page(figures: &[Figure]) -> String {
    let mut page = String::new();
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

/// A line for each scenario that was played with every number of nodes.
fn plot(
    page: &mut String,
    what: &str,
    sizes: &[usize],
    figures: &[Figure],
    value: impl Fn(&Figure) -> Option<f64>,
) {
    let mut scenarios: Vec<&str> = figures.iter().map(|figure| figure.scenario).collect();
    scenarios.dedup();
    for scenario in scenarios {
        let points: Vec<f64> = sizes
            .iter()
            .filter_map(|size| {
                figures.iter().find(|figure| figure.nodes == *size && figure.scenario == scenario)
            })
            .filter_map(&value)
            .collect();
        if points.len() < sizes.len() || points.len() < 2 {
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
    fn writes_are_divided_by_the_nodes_and_only_what_was_played_at_every_size_is_plotted() {
        let page = page(&[figure("cold", 10), figure("cold", 100), figure("churn", 100)]);
        assert!(page.contains("| cold | 0.5, 0.9, 1.0 |  | 2.00 + 0.00 | 0 | 0 | 0 |"), "{page}");
        assert_eq!(page.matches("xychart").count(), 2, "{page}");
        assert!(page.contains("x-axis \"nodes\" [10, 100]"), "{page}");
    }
}
