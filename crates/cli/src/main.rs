//! `kubectl tenon`: what a person does with Tenon at a terminal.
//!
//! Results go to standard output, everything else to standard error. Each subcommand is a module with its arguments,
//! one function that runs it, and an error that knows what to do next.

mod failure;
mod image;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXIT_CODES: &str = "Exit codes: 0 done; 1 something is wrong and needs you; 2 the command line is wrong; \
                          3 something did not answer, the same command may work later.";

#[derive(Debug, Parser)]
#[command(name = "kubectl-tenon", bin_name = "kubectl tenon", version, about, long_about = None, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Module images
    #[command(subcommand)]
    Image(image::Command),
}

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    let outcome = match command {
        Command::Image(command) => image::run(command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
