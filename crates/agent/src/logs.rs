//! The log: text for people, JSON for collectors, both on standard error.

use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::args::{LogFilter, LogFormat};

/// Starts the log of this process.
pub fn init(format: LogFormat, filter: &LogFilter) -> Result<(), TryInitError> {
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter.filter());
    match format {
        LogFormat::Text => builder.with_ansi(false).finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    }
}
