//! The command line. Every flag has an environment variable; the defaults are those of the node pod.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, ValueEnum};
use tenon_api::node_pod;
use tenon_order::NodeName;
use tracing_subscriber::filter::{ParseError, Targets};

/// How the agent runs.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "tenon-agent",
    version,
    about = "Brings a node's orders and bundles to its loader, and reports"
)]
pub struct Args {
    /// Name of the node that this runs on
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: NodeName,

    /// Where the loader listens
    #[arg(long, env = "TENON_SOCKET", default_value = "/run/tenon/loader.sock", value_name = "PATH")]
    pub socket: PathBuf,

    /// Directory with the depot's `addresses` and `ca.crt`
    #[arg(long, env = "TENON_DEPOT_DIR", default_value = node_pod::DEPOT_DIR, value_name = "PATH")]
    pub depot_dir: PathBuf,

    /// The token that the depot accepts
    #[arg(long, env = "TENON_TOKEN_FILE", default_value = node_pod::DEPOT_TOKEN_FILE, value_name = "PATH")]
    pub token_file: PathBuf,

    /// Where a bundle stays while it is being fetched
    #[arg(long, env = "TENON_WORK_DIR", default_value = node_pod::AGENT_WORK_DIR, value_name = "PATH")]
    pub work_dir: PathBuf,

    /// Form of the log
    #[arg(long, env = "TENON_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// What is logged: a level, or directives such as `info,tenon_agent=debug`
    #[arg(long, env = "TENON_LOG_LEVEL", default_value = "info", value_name = "FILTER")]
    pub log_level: LogFilter,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For collectors: one JSON object per line.
    Json,
}

/// What is logged.
#[derive(Clone, Debug)]
pub struct LogFilter(Targets);

/// The text is no log filter.
#[derive(Debug, thiserror::Error)]
#[error(
    "expected a log level (error, warn, info, debug, trace) or directives such as info,tenon_agent=debug"
)]
pub struct BadFilter(#[source] ParseError);

impl FromStr for LogFilter {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<Self, BadFilter> {
        text.parse().map(Self).map_err(BadFilter)
    }
}

impl LogFilter {
    /// By target and level only: filters on fields would bring a regular expression engine along.
    pub fn targets(&self) -> Targets {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn bad_values_are_refused() {
        for bad in
            [["--node-name", "Not A Node"], ["--log-level", "tenon_agent=loud"], ["--log-format", "xml"]]
        {
            let line = ["tenon-agent", "--node-name", "node-7"].into_iter().chain(bad);
            assert!(Args::try_parse_from(line).is_err(), "{bad:?}");
        }
    }
}
