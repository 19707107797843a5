//! `kubectl tenon explain`: why a Module or a node stands as it stands, and what to do next.
//!
//! What is read ([`crate::seen`]), what it means ([`crate::standing`], [`module`], [`node`]) and how it looks ([`mod@print`]) are apart.

mod apart;
mod finding;
mod module;
mod node;
mod plugin;
mod print;
mod startup;

use std::process::ExitCode;

use kube::Client;
use tenon_api::Module;
use tenon_order::{ModuleKey, NodeName};
use tenon_plan::node::{self as plan_node, Selection};

use crate::answer::{self, Format, NoAnswer};
use crate::cluster::{ClusterArgs, block_on};
use crate::seen::{self, Reader, Seen, SeenError};
use crate::standing::State;
use crate::terminal::Look;
use finding::Explanation;

const LONG_ABOUT: &str = "Say why a Module or a node stands as it stands, from the top down, and what to do next.

Of a Module: its conditions, its image for each kernel (which mapping fits, whether it is there or being made, whether it will \
load), its nodes, and what their kernels say; of a plugin that does not come up, what its pods wait for. Of a node: whether it takes orders, and each of its Modules. What is well is said in \
a line. It reads with your own rights; what you may not read is left out, and said.

Exit codes: 0 it is as wished, or on its way and needs nobody; 1 something needs you; 3 the cluster did not answer.";

#[derive(Debug, clap::Args)]
#[command(long_about = LONG_ABOUT)]
pub(crate) struct Args {
    /// The Module (NAME or module/NAME), or the node (node/NAME)
    #[arg(value_name = "[module/]NAME | node/NAME")]
    what: What,
    /// For programs
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What is to be told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Module(String),
    Node(NodeName),
}

impl std::str::FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            None => Ok(Self::Module(text.to_owned())),
            Some(("module" | "modules" | "kmod", name)) if !name.is_empty() => {
                Ok(Self::Module(name.to_owned()))
            }
            Some(("node" | "nodes" | "no", name)) => {
                name.parse().map(Self::Node).map_err(|_| format!("{name:?} names no node"))
            }
            Some((kind, _)) => Err(format!("nothing is told of a {kind}: give module/NAME or node/NAME")),
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, NoAnswer> {
    let explanation = block_on(explanation(args))??;
    let text = match args.output {
        Some(format) => answer::written(&explanation, format)?,
        None => print::text(&explanation, Look::of(&std::io::stdout())),
    };
    answer::say(&text)?;
    Ok(if explanation.finding.state == State::Trouble { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

async fn explanation(args: &Args) -> Result<Explanation, NoAnswer> {
    match &args.what {
        What::Module(name) => {
            let (client, key) = args.cluster.connect(name).await?;
            Ok(of_module(client, &key).await?)
        }
        What::Node(name) => {
            let (client, _) = args.cluster.client().await?;
            let seen = read_node(Reader::new(client), name.as_ref()).await?;
            let name: &str = name.as_ref();
            let node = seen.nodes.get(name).ok_or_else(|| SeenError::NoNode(name.to_owned()))?;
            Ok(Explanation::new(node::explain(&seen, node), seen.gaps.clone()))
        }
    }
}

async fn of_module(client: Client, key: &ModuleKey) -> Result<Explanation, SeenError> {
    let seen = read_module(Reader::new(client), key).await?;
    let module = seen.modules.first().ok_or_else(|| SeenError::NoModule(key.clone()))?;
    Ok(Explanation::new(module::explain(&seen, module), seen.gaps.clone()))
}

/// What is said of a Module, for who is not at a terminal.
pub(crate) async fn page(client: Client, key: &ModuleKey) -> Result<String, SeenError> {
    Ok(print::text(&of_module(client, key).await?, Look::PLAIN))
}

/// All that bears on a Module.
async fn read_module(mut reader: Reader, key: &ModuleKey) -> Result<Seen, SeenError> {
    reader.module(key).await?;
    let module = reader.seen().modules.first().cloned().ok_or_else(|| SeenError::NoModule(key.clone()))?;
    reader.nodes_of(&module).await?;
    reader.jobs_of(key).await?;
    reader.plugin_pods(&module, None).await?;
    if reader.asks_for_node_pods() {
        reader.node_pods(None).await?;
    }
    Ok(reader.done())
}

/// All that bears on a node.
async fn read_node(mut reader: Reader, name: &str) -> Result<Seen, SeenError> {
    reader.node(name).await?;
    reader.modules_where(|seen, module| concerns(seen, module, name)).await?;
    for module in reader.seen().modules.clone() {
        reader.plugin_pods(&module, Some(name)).await?;
    }
    Ok(reader.done())
}

/// Whether a Module's selector means a node, or the Module is on it.
fn concerns(seen: &Seen, module: &Module, node: &str) -> bool {
    let (key, config) = (seen::key(module), seen.configs.get(node));
    let is_there = config
        .is_some_and(|config| seen::entry(config, &key).is_some() || seen::reported(config, &key).is_some());
    let facts = seen.nodes.get(node).and_then(seen::facts);
    is_there || facts.is_some_and(|facts| plan_node::select(module, &facts) != Selection::Unselected)
}

#[cfg(test)]
mod tests;
