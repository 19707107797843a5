//! `tenon-lab bench-plugins`: what device plugins and version labels cost, in counts.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use tenon_lab::scale::play::Figure;
use tenon_lab::scale::plugins::{self, Kubelets, MOST_TO_CHANGE, MOST_TO_DELETE, MOST_TO_LOAD};
use tenon_lab::scale::{self, Field};

/// Writes to what there is one of for all nodes: the Module, its images, its `DaemonSet`s. Its status is written besides for as long as
/// nodes report, but not more than three times a second.
const OTHERS: u64 = 40;
/// The same, for each second.
const STATUSES: u64 = 3;

/// With how many nodes, and where to put it.
#[derive(Debug, Args)]
pub(crate) struct PluginsBench {
    /// Numbers of nodes
    #[arg(long, value_delimiter = ',', default_values_t = [1000])]
    nodes: Vec<usize>,
    /// Where to write the table
    #[arg(long, value_name = "PATH")]
    page: Option<PathBuf>,
}

pub(crate) async fn run(bench: &PluginsBench, say: &mut impl FnMut(&str)) -> anyhow::Result<()> {
    let mut figures = Vec::new();
    for nodes in &bench.nodes {
        let mut field = Field::start().await?;
        let (first, second) = (field.push("dial", "1.0", 0).await?, field.push("dial", "2.0", 0).await?);
        field.grow((*nodes).min(scale::most_nodes())).await?;
        let _kubelets = Kubelets::start(field.client());
        say(&format!("{} nodes have joined", field.nodes().len()));
        let load = plugins::load(&field, &first, "1").await?;
        figures.push(within(load, MOST_TO_LOAD, say)?);
        let restart = plugins::restart(&mut field).await?;
        figures.push(silent(restart, say)?);
        let change = plugins::change(&field, &second, "2").await?;
        figures.push(within(change, MOST_TO_CHANGE, say)?);
        let delete = plugins::delete(&field).await?;
        figures.push(within(delete, MOST_TO_DELETE, say)?);
    }
    let page = plugins::page(&figures);
    println!("{page}");
    if let Some(path) = &bench.page {
        fs::write(path, &page).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Fails where more was written than is allowed, or what was there already.
fn within(figure: Figure, most: u64, say: &mut impl FnMut(&str)) -> anyhow::Result<Figure> {
    let Figure { scenario, bill, nodes, pairs, .. } = &figure;
    let (to_nodes, to_others) = (bill.writes_to_nodes(), bill.writes_to_others());
    say(&format!("{nodes} nodes: {scenario}, {to_nodes} writes to nodes, {to_others} to others"));
    let allowed = most * *pairs as u64;
    ensure!(to_nodes <= allowed, "{scenario}: {to_nodes} writes to {pairs} nodes\n{:#?}", bill.requests);
    let allowed = OTHERS + STATUSES * Duration::from_secs_f64(bill.seconds).as_secs();
    ensure!(to_others <= allowed, "{scenario}: {to_others} other writes\n{:#?}", bill.requests);
    ensure!(bill.no_op_writes == 0, "{scenario}: {} writes changed nothing", bill.no_op_writes);
    Ok(figure)
}

/// Fails where anything was written at all.
fn silent(figure: Figure, say: &mut impl FnMut(&str)) -> anyhow::Result<Figure> {
    let writes = figure.bill.all_writes();
    say(&format!("{} nodes: {}, {writes} writes", figure.nodes, figure.scenario));
    ensure!(writes == 0, "{}: {writes} writes\n{:#?}", figure.scenario, figure.bill.requests);
    Ok(figure)
}
