//! The node's agent.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use tenon_agent::args::Args;
use tenon_agent::kernel::survey;
use tenon_agent::{logs, serve};

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == survey::ARGUMENT) {
        return tell_kernel();
    }
    let args = Args::parse();
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the agent ends");
            ExitCode::FAILURE
        }
    }
}

/// This process only reads the kernel's modules, for an agent that has started it.
fn tell_kernel() -> ExitCode {
    match survey::write(&mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{:#}", anyhow::Error::from(error));
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> anyhow::Result<()> {
    logs::init(args.log_format, &args.log_level).context("start the log")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // One talks to the loader, one resolves names; whoever comes next waits.
        .max_blocking_threads(4)
        .thread_stack_size(512 * 1024)
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(serve(args));
    // A conversation with the loader may last for minutes; nothing is lost when it is cut short.
    runtime.shutdown_background();
    result
}
