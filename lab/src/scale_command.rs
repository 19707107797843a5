//! `tenon-lab bench`: every scenario with every number of nodes, and what came of them as JSON and as a page.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use tenon_lab::scale::play::{self, Figure};
use tenon_lab::scale::{self, Field, report};

/// With more nodes than this only what grows with them is played.
const ALL_SCENARIOS: usize = 1000;
/// So many nodes fetch the large driver: what the machine's loopback and two cores can carry in a minute.
const HEAVY_NODES: usize = 64;
/// The large driver's firmware, in files of what a simulated node takes at a time.
const HEAVY_BYTES: usize = 200 * 1000 * 1000;
/// Pods of others.
const FOREIGN_PODS: usize = 20_000;

/// What to measure, and where to put it.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Numbers of nodes
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000, 5000])]
    nodes: Vec<usize>,
    /// Where to write all figures
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Where to write tables and plots
    #[arg(long, value_name = "PATH")]
    page: Option<PathBuf>,
    /// Without the driver of 200 MB
    #[arg(long)]
    light: bool,
    /// Leaves the logs behind
    #[arg(long)]
    keep: bool,
}

pub(crate) async fn run(bench: &Bench, say: &mut impl FnMut(&str)) -> anyhow::Result<()> {
    let mut figures = Vec::new();
    let most = scale::most_nodes();
    for wanted in &bench.nodes {
        if *wanted > most {
            say(&format!("{most} nodes instead of {wanted}: a process may open no more files here"));
        }
        let nodes = &(*wanted).min(most);
        let mut field = field(bench).await?;
        let played = play_all(&mut field, *nodes, &mut figures, say).await;
        played.with_context(|| format!("with {nodes} nodes"))?;
    }
    if !bench.light {
        let mut field = field(bench).await?;
        let image = field.push("heavy", "1.0", HEAVY_BYTES).await?;
        field.grow(HEAVY_NODES).await?;
        figures.push(play::heavy(&mut field, &image, HEAVY_BYTES).await?);
    }
    let page = report::page(&figures);
    println!("{page}");
    if let Some(path) = &bench.page {
        write(path, &page)?;
    }
    if let Some(path) = &bench.json {
        write(path, &serde_json::to_string_pretty(&figures).context("write the figures as JSON")?)?;
    }
    Ok(())
}

async fn field(bench: &Bench) -> anyhow::Result<Field> {
    let mut field = Field::start().await?;
    if bench.keep {
        field.keep_folder();
    }
    Ok(field)
}

async fn play_all(
    field: &mut Field,
    nodes: usize,
    figures: &mut Vec<Figure>,
    say: &mut impl FnMut(&str),
) -> anyhow::Result<()> {
    let mut note = |figure: Figure, say: &mut dyn FnMut(&str)| {
        say(&format!("{nodes} nodes: {} in {:.1} s", figure.scenario, figure.bill.seconds));
        figures.push(figure);
    };
    let (first, second) = (field.push("gauge", "1.0", 0).await?, field.push("gauge", "2.0", 0).await?);
    field.grow(nodes).await?;
    say(&format!("{nodes} nodes have joined"));
    note(play::cold(field, &first).await?, say);
    note(play::restart(field).await?, say);
    note(play::change(field, &second, None).await?, say);
    note(play::change(field, &first, Some("100%")).await?, say);
    if nodes <= ALL_SCENARIOS {
        note(play::churn(field).await?, say);
        note(play::server_restart(field, &second).await?, say);
        note(play::noise(field, FOREIGN_PODS).await?, say);
    }
    note(play::delete(field).await?, say);
    if nodes <= ALL_SCENARIOS {
        note(play::edits(field, &first).await?, say);
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
