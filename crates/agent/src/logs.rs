//! The log: text for people, JSON for collectors, both on standard error.

use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::args::{LogFilter, LogFormat};

/// Starts the log of this process.
pub fn init(format: LogFormat, filter: &LogFilter) -> Result<(), TryInitError> {
    let registry = registry().with(filter.targets());
    match format {
        LogFormat::Text => registry.with(layer().with_writer(std::io::stderr).with_ansi(false)).try_init(),
        LogFormat::Json => {
            registry.with(layer().with_writer(std::io::stderr).json().flatten_event(true)).try_init()
        }
    }
}
