//! `kubectl tenon pause` and `resume`: nodes stay as they are, as far as a Module goes, or altogether.

use k8s_openapi::api::core::v1::Node;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde::Serialize;
use serde_json::{Value, json};
use tenon_api::Module;
use tenon_api::labels::{HOLD, annotation};
use tenon_order::{ModuleKey, NodeName};

use crate::answer::{self, AnswerError, Format};
use crate::cluster::{ClusterArgs, ClusterError, block_on, is_silent};
use crate::failure::Failure;

/// What becomes of what is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// It stands still.
    Pause,
    /// It goes on.
    Resume,
}

#[derive(Debug, clap::Args)]
#[group(id = "what", required = true, multiple = true)]
struct What {
    /// The Modules
    #[arg(value_name = "MODULE", conflicts_with = "all")]
    modules: Vec<String>,
    /// All Modules of the namespace
    #[arg(long)]
    all: bool,
    /// This node, as far as all Modules go; may be given several times
    #[arg(long = "node", value_name = "NODE")]
    nodes: Vec<NodeName>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    what: What,
    /// For programs
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Why nothing is paused, or resumed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PauseError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("the name {0} cannot be a Module's")]
    Name(String),
    #[error("there is no Module {0}")]
    NoModule(ModuleKey),
    #[error("there is no node {0}")]
    NoNode(NodeName),
    #[error("list the Modules of namespace {namespace}")]
    List { namespace: String, source: Box<kube::Error> },
    #[error("annotate Module {module}")]
    Module { module: ModuleKey, source: Box<kube::Error> },
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error("label node {node}")]
    Node { node: NodeName, source: Box<kube::Error> },
}

impl PauseError {
    pub(crate) fn into_failure(self) -> Failure {
        let passing = match &self {
            Self::List { source, .. } | Self::Module { source, .. } | Self::Node { source, .. } => {
                is_silent(source)
            }
            _ => false,
        };
        let hint = matches!(self, Self::NoModule(_)).then(|| "name its namespace with -n".to_owned());
        Failure::new(self).hint(hint).passing(passing)
    }
}

pub(crate) fn run(args: &Args, wish: Wish) -> Result<(), PauseError> {
    let mut done = Vec::new();
    let ended = block_on(carry_out(args, wish, &mut done))?;
    if let Some(format) = args.output {
        // What was done before an error is known.
        answer::say(&answer::written(&done, format)?)?;
    }
    ended
}

/// What stands still, or goes on.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    name: String,
    paused: bool,
}

async fn carry_out(args: &Args, wish: Wish, done: &mut Vec<Done>) -> Result<(), PauseError> {
    let (client, namespace) = args.cluster.client().await?;
    let key = |name: &str| ModuleKey::new(&namespace, name).map_err(|_| PauseError::Name(name.to_owned()));
    let modules = if args.what.all {
        all_of(&client, &namespace).await?
    } else {
        args.what.modules.iter().map(|name| key(name)).collect::<Result<_, _>>()?
    };
    let tell = |line: &str| match args.output {
        Some(_) => Ok(()),
        None => answer::say(&format!("{line}\n")),
    };
    let paused = wish == Wish::Pause;
    // One by one, each told as soon as it is so: what was done before an error is known.
    for module in &modules {
        annotate(&client, module, wish).await?;
        let (namespace, name) = (Some(module.namespace().to_owned()), module.name().to_owned());
        done.push(Done { kind: "Module", namespace, name, paused });
        tell(&told(wish, &format!("Module {module}"), "its nodes"))?;
    }
    for node in &args.what.nodes {
        label(&client, node, wish).await?;
        done.push(Done { kind: "Node", namespace: None, name: node.to_string(), paused });
        tell(&told(wish, &format!("node {node}"), "its drivers"))?;
    }
    if modules.is_empty() && args.what.nodes.is_empty() {
        tell(&format!("there is no Module in namespace {namespace}"))?;
    }
    Ok(())
}

fn told(wish: Wish, what: &str, stays: &str) -> String {
    match wish {
        Wish::Pause => format!("{what} is paused: {stays} stay as they are until kubectl tenon resume"),
        Wish::Resume => format!("{what} goes on"),
    }
}

async fn all_of(client: &Client, namespace: &str) -> Result<Vec<ModuleKey>, PauseError> {
    let modules: Api<Module> = Api::namespaced(client.clone(), namespace);
    let failed = |source| PauseError::List { namespace: namespace.to_owned(), source: Box::new(source) };
    let list = modules.list_metadata(&ListParams::default()).await.map_err(failed)?;
    let key = |name: String| ModuleKey::new(namespace, &name).map_err(|_| PauseError::Name(name.clone()));
    list.items.iter().map(|module| key(module.name_any())).collect()
}

/// The value of what says that something stands still; a null takes it away.
fn value(wish: Wish) -> Value {
    match wish {
        Wish::Pause => json!("true"),
        Wish::Resume => Value::Null,
    }
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some("kubectl-tenon".to_owned()), ..PatchParams::default() }
}

async fn annotate(client: &Client, key: &ModuleKey, wish: Wish) -> Result<(), PauseError> {
    let modules: Api<Module> = Api::namespaced(client.clone(), key.namespace());
    let patch = Patch::Merge(json!({ "metadata": { "annotations": { annotation::PAUSED: value(wish) } } }));
    match modules.patch_metadata(key.name(), &params(), &patch).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Err(PauseError::NoModule(key.clone())),
        Err(source) => Err(PauseError::Module { module: key.clone(), source: Box::new(source) }),
    }
}

async fn label(client: &Client, node: &NodeName, wish: Wish) -> Result<(), PauseError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let patch = Patch::Merge(json!({ "metadata": { "labels": { HOLD: value(wish) } } }));
    match nodes.patch_metadata(node.as_ref(), &params(), &patch).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Err(PauseError::NoNode(node.clone())),
        Err(source) => Err(PauseError::Node { node: node.clone(), source: Box::new(source) }),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use rstest::rstest;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[rstest]
    #[case::a_module(&["gauge"], true)]
    #[case::modules_and_a_node(&["gauge", "meter", "--node", "pine"], true)]
    #[case::all(&["--all"], true)]
    #[case::a_node(&["--node", "pine", "--node", "oak"], true)]
    #[case::nothing(&[], false)]
    #[case::all_and_one(&["--all", "gauge"], false)]
    #[case::no_node(&["--node", "not/a/node"], false)]
    fn what_is_meant_is_said(#[case] arguments: &[&str], #[case] is_clear: bool) {
        let line = Line::try_parse_from(std::iter::once(&"pause").chain(arguments));
        assert_eq!(line.is_ok(), is_clear, "{line:?}");
    }
}
