//! `kubectl tenon logs`: what the Jobs say that make a Module's images, and what Tenon's own pod says on a node.

mod image;
mod node;
mod shown;

use clap::builder::PossibleValuesParser;
use kube::api::LogParams;
use tenon_api::task::{BUILD_CONTAINER, CONTAINER, FETCH_CONTAINER};
use tenon_api::{gather, node_pod};
use tenon_order::ModuleKey;

use crate::answer::{AnswerError, Format};
use crate::cluster::{ClusterArgs, ClusterError, block_on, is_silent};
use crate::explain::What;
use crate::failure::Failure;

const LONG_ABOUT: &str = "Show what the Jobs say that make a Module's images, or what Tenon's own pod says on a node.

Of a Module, for each kernel of its nodes: the log of the last Job that made its image, or is making it, and how it stands. Jobs \
that have ended are kept for an hour; of those that are gone only what the ModuleImage says is left.

Of a node: the logs of the containers of its pod in namespace tenon-system, loader and agent; of a single one (--container) its log alone, \
as it is. Both are followed at once, and each line says whose it is.";

/// The containers of a Job's pod, in the order in which they run.
const OF_JOBS: [&str; 4] = [FETCH_CONTAINER, gather::CONTAINER, BUILD_CONTAINER, CONTAINER];
/// Those of a node's pod.
const OF_NODES: [&str; 2] = [node_pod::LOADER.name, node_pod::AGENT.name];

#[derive(Debug, clap::Args)]
#[command(long_about = LONG_ABOUT)]
pub(crate) struct Args {
    /// The Module (NAME or module/NAME), or the node (node/NAME)
    #[arg(value_name = "[module/]NAME | node/NAME")]
    what: What,
    /// Of a Module only the image for this kernel, as `uname -r` prints it
    #[arg(long, value_name = "RELEASE")]
    kernel: Option<String>,
    /// Only this container
    #[arg(short, long, value_name = "NAME", value_parser = PossibleValuesParser::new(OF_NODES.into_iter().chain(OF_JOBS)))]
    container: Option<String>,
    /// Of a node what the containers said before they were started anew
    #[arg(short, long)]
    previous: bool,
    /// Of each container only so many of its last lines; -1 is all
    #[arg(
        long,
        value_name = "LINES",
        default_value_t = -1,
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..)
    )]
    tail: i64,
    /// Go on until the Jobs have ended, or the node's containers
    #[arg(short, long, conflicts_with = "output")]
    follow: bool,
    /// For programs
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

impl Args {
    /// What is asked for that what is named does not have.
    fn misplaced(&self) -> Option<&'static str> {
        let is_of = |containers: &[&str]| {
            self.container.as_deref().is_none_or(|container| containers.contains(&container))
        };
        match &self.what {
            What::Node(_) if self.kernel.is_some() => Some("--kernel is for Modules"),
            What::Node(_) if !is_of(&OF_NODES) => Some("the containers of a node's pod are loader and agent"),
            What::Module(_) if self.previous => {
                Some("--previous is for nodes: the containers of a Job's pod are started once")
            }
            What::Module(_) if !is_of(&OF_JOBS) => Some(
                "the containers of a Job's pod are fetch, gather, build and make; name a node as node/NAME",
            ),
            What::Node(_) | What::Module(_) => None,
        }
    }

    /// Whether a container is among those that are meant.
    fn means(&self, container: &str) -> bool {
        self.container.as_deref().is_none_or(|meant| meant == container)
    }

    /// The part of a container's log that is meant.
    fn part(&self, container: &str) -> LogParams {
        LogParams {
            container: Some(container.to_owned()),
            follow: self.follow,
            previous: self.previous,
            tail_lines: Some(self.tail).filter(|lines| *lines >= 0),
            ..LogParams::default()
        }
    }
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogsError {
    #[error("{0}")]
    Misplaced(&'static str),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("read {what}")]
    Read { what: String, source: Box<kube::Error> },
    #[error("read the log of pod {pod}")]
    Stream { pod: String, source: std::io::Error },
    #[error("Module {module} has no image{}", kernel.as_ref().map_or_else(String::new, |kernel| format!(" for kernel {kernel}")))]
    NoImage { module: ModuleKey, kernel: Option<String> },
    #[error("there is no node {0}")]
    NoNode(String),
    #[error("no pod of DaemonSet {} is on node {node}", node_pod::DAEMON_SET)]
    NoPod { node: String },
    #[error("container {container} of pod {pod} has not begun: {why}")]
    NotBegun { pod: String, container: &'static str, why: String },
    #[error("container {container} of pod {pod} was not started anew: there is no former log")]
    NoFormer { pod: String, container: &'static str },
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error("write to standard output")]
    Output(#[source] std::io::Error),
}

impl LogsError {
    /// What could not be read.
    fn read(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Read { what, source: Box::new(source) }
    }

    /// Nobody reads any more, as `head` does: there is nobody to tell.
    fn is_nobodys(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
    }

    pub(crate) fn into_failure(self) -> Failure {
        let passing = match &self {
            Self::Misplaced(_) => return Failure::new(self).without_answer(),
            Self::Read { source, .. } => is_silent(source),
            Self::Stream { .. } | Self::NotBegun { .. } => true,
            _ => false,
        };
        let hint = match &self {
            Self::NoImage { module, .. } => Some(format!(
                "kubectl get moduleimages -n {} shows what there is; is {} right, and does it select a node?",
                module.namespace(),
                module.name()
            )),
            Self::NoNode(_) => Some("kubectl get nodes shows what there is".to_owned()),
            Self::NoPod { .. } => Some(format!(
                "look at what keeps it away: kubectl -n {} describe daemonset {}",
                node_pod::NAMESPACE,
                node_pod::DAEMON_SET
            )),
            _ => None,
        };
        Failure::new(self).hint(hint).passing(passing)
    }
}

pub(crate) fn run(args: &Args) -> Result<(), LogsError> {
    match block_on(logs(args))? {
        Err(error) if error.is_nobodys() => Ok(()),
        outcome => outcome,
    }
}

async fn logs(args: &Args) -> Result<(), LogsError> {
    if let Some(why) = args.misplaced() {
        return Err(LogsError::Misplaced(why));
    }
    match &args.what {
        What::Module(module) => Box::pin(image::logs(args, module)).await,
        What::Node(node) => node::logs(args, node).await,
    }
}

#[cfg(test)]
mod tests;
