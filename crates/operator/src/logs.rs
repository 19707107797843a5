//! The log: text for people, JSON for collectors, both on standard error.

use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::LogFormat;

/// What is logged, checked when it is given.
#[derive(Clone, Debug)]
pub struct LogFilter(String);

/// The text is no log filter.
#[derive(Debug, thiserror::Error)]
#[error(
    "expected a log level (error, warn, info, debug, trace) or directives such as info,tenon_operator=debug"
)]
pub struct BadFilter(#[source] tracing_subscriber::filter::ParseError);

impl FromStr for LogFilter {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<Self, BadFilter> {
        EnvFilter::try_new(text).map_err(BadFilter)?;
        Ok(LogFilter(text.to_owned()))
    }
}

/// A log has been set up in this process before.
#[derive(Debug, thiserror::Error)]
#[error("set up the log")]
pub struct AlreadySet(#[from] tracing_subscriber::util::TryInitError);

/// Starts the log of this process.
pub fn init(format: LogFormat, filter: &LogFilter) -> Result<(), AlreadySet> {
    let builder =
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(EnvFilter::new(&filter.0));
    match format {
        LogFormat::Text => builder.with_ansi(false).finish().try_init()?,
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}
