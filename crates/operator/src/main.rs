//! The operator's process: flags, log, exit code. What it does stands in the library.

use std::process::ExitCode;

use clap::Parser as _;
use tenon_operator::{Args, logs};
use tikv_jemallocator::Jemalloc;
use tracing::{error, info};

/// The C library's allocator keeps what a burst of a fleet has taken, in an arena for each thread. How this one gives it
/// back is set in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = logs::init(args.log_format, &args.log_level) {
        eprintln!("tenon-operator: {error}");
        return ExitCode::FAILURE;
    }
    match tenon_operator::run(args).await {
        Ok(()) => {
            info!("ended");
            ExitCode::SUCCESS
        }
        Err(error) => {
            error!(error = &error as &dyn std::error::Error, "ended");
            ExitCode::FAILURE
        }
    }
}
