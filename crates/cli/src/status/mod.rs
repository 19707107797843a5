//! `kubectl tenon status`: Modules and their nodes at a glance, once or as they change.

mod overview;
mod print;
pub(crate) mod table;
mod watch;

use std::process::ExitCode;

use clap::ValueEnum;
use tenon_order::ModuleKey;

use crate::answer::{self, AnswerError, Format, NoAnswer};
use crate::cluster::{ClusterArgs, block_on};
use crate::seen::{Reader, Seen, SeenError};
use crate::terminal::Look;
use print::{Answer, Manner};

const LONG_ABOUT: &str = "Show Modules and their nodes at a glance.

For each Module: whether it is as wished, on how many of its nodes it is loaded, the image for each of their kernels, and what is \
in the way. With a MODULE: its nodes, each with the driver that it has and why it has no other. `kubectl tenon explain` says what to \
do about it.

STATE is Ready, Underway (it needs nobody), or Trouble (it needs you).";

#[derive(Debug, clap::Args)]
#[command(long_about = LONG_ABOUT)]
pub(crate) struct Args {
    /// The Module whose nodes are shown; without it, all Modules
    module: Option<String>,
    /// The Modules of all namespaces
    #[arg(short = 'A', long, conflicts_with = "module")]
    all_namespaces: bool,
    /// Only Modules with these labels
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "module")]
    selector: Option<String>,
    /// Show it again whenever something changes
    #[arg(short, long)]
    watch: bool,
    /// More columns, or for programs
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Output>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Wide,
    Json,
    Yaml,
}

/// What is looked at.
#[derive(Debug, Clone)]
enum Scope {
    /// Modules of a namespace, or of all.
    Modules { namespace: Option<String>, selector: Option<String> },
    /// One, with its nodes.
    Module(ModuleKey),
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, NoAnswer> {
    block_on(status(args))??;
    Ok(ExitCode::SUCCESS)
}

async fn status(args: &Args) -> Result<(), NoAnswer> {
    let (client, scope) = if let Some(module) = &args.module {
        let (client, key) = args.cluster.connect(module).await?;
        (client, Scope::Module(key))
    } else {
        let (client, namespace) = args.cluster.client().await?;
        let namespace = Some(namespace).filter(|_| !args.all_namespaces);
        (client, Scope::Modules { namespace, selector: args.selector.clone() })
    };
    if args.watch {
        return Box::pin(watch::watch(client, &scope, args)).await;
    }
    let seen = read(Reader::new(client), &scope).await?;
    let answer = answer_of(&seen, &scope)?;
    answer::say(&args.written(&answer)?)?;
    Ok(())
}

async fn read(mut reader: Reader, scope: &Scope) -> Result<Seen, SeenError> {
    match scope {
        Scope::Modules { namespace, selector } => {
            reader.modules(namespace.as_deref(), selector.as_deref()).await?;
        }
        Scope::Module(key) => {
            reader.module(key).await?;
            if let Some(module) = reader.seen().modules.first().cloned() {
                reader.nodes_of(&module).await?;
            }
        }
    }
    Ok(reader.done())
}

fn answer_of(seen: &Seen, scope: &Scope) -> Result<Answer, SeenError> {
    let left_out = seen.gaps.clone();
    match scope {
        Scope::Modules { .. } => Ok(Answer::Modules { modules: overview::modules(seen), left_out }),
        Scope::Module(key) => {
            let module = seen.modules.first().ok_or_else(|| SeenError::NoModule(key.clone()))?;
            Ok(Answer::Nodes {
                module: overview::row(seen, module),
                nodes: overview::nodes(seen, module),
                left_out,
            })
        }
    }
}

impl Args {
    fn format(&self) -> Option<Format> {
        match self.output {
            Some(Output::Json) => Some(Format::Json),
            Some(Output::Yaml) => Some(Format::Yaml),
            Some(Output::Wide) | None => None,
        }
    }

    fn manner(&self) -> Manner {
        Manner {
            namespaces: self.all_namespaces,
            wide: self.output == Some(Output::Wide),
            look: Look::of(&std::io::stdout()),
        }
    }

    fn written(&self, answer: &Answer) -> Result<String, AnswerError> {
        match self.format() {
            Some(format) => answer.formatted(format),
            None => Ok(answer.parts(self.manner()).concat()),
        }
    }
}

#[cfg(test)]
mod tests;
