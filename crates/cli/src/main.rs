//! `kubectl tenon`: what a person does with Tenon at a terminal.
//!
//! Results go to standard output, everything else to standard error. Each subcommand is a module with its arguments,
//! one function that runs it, and an error that knows what to do next.

mod answer;
mod check;
mod cluster;
mod completion;
mod explain;
mod facts;
mod failure;
mod gather;
mod image;
mod logs;
mod pause;
mod preflight;
mod proxy;
mod retry;
mod seen;
mod sign;
mod standing;
mod status;
mod takeover;
mod terminal;

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
    /// Say whether modules will load into a kernel, and why not
    Check(check::Args),
    /// Read what is known about a kernel, and write it to a file
    Facts(facts::Args),
    /// Sign modules for kernels that load only signed ones
    Sign(sign::Args),
    /// Show Modules and their nodes at a glance
    Status(status::Args),
    /// Say why a Module or a node stands as it stands, and what to do next
    Explain(explain::Args),
    /// Show what the Jobs say that make a Module's images, or what Tenon's own pod says on a node
    Logs(logs::Args),
    /// Say whether all drivers will be there on a kernel that no node runs yet
    Preflight(preflight::Args),
    /// Try again what failed
    Retry(retry::Args),
    /// Leave nodes as they are: as far as a Module goes, or one node altogether
    Pause(pause::Args),
    /// Go on with what was paused
    Resume(pause::Args),
    /// Gather in one archive what helps somebody else to help you; never a Secret
    Gather(gather::Args),
    /// Take over a cluster that KMM has served; nothing is unloaded
    Adopt(takeover::AdoptArgs),
    /// Give a cluster back to KMM; nothing is unloaded
    GiveBack(takeover::GiveBackArgs),
    /// Print what a shell needs to complete commands
    Completion(completion::Args),
    /// What kubectl asks to complete commands
    #[command(name = "__complete", hide = true)]
    Complete(completion::Asked),
}

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    let outcome = match command {
        Command::Image(command) => image::run(command).map(|()| ExitCode::SUCCESS),
        Command::Check(args) => check::run(&args).map_err(check::CheckError::into_failure),
        Command::Facts(args) => facts::run(&args).map_err(facts::FactsError::into_failure),
        Command::Sign(args) => sign::run(&args).map_err(sign::SignError::into_failure),
        Command::Status(args) => status::run(&args).map_err(answer::NoAnswer::into_failure),
        Command::Explain(args) => explain::run(&args).map_err(answer::NoAnswer::into_failure),
        Command::Logs(args) => {
            logs::run(&args).map(|()| ExitCode::SUCCESS).map_err(logs::LogsError::into_failure)
        }
        Command::Pause(args) => pause::run(&args, pause::Wish::Pause)
            .map(|()| ExitCode::SUCCESS)
            .map_err(pause::PauseError::into_failure),
        Command::Resume(args) => pause::run(&args, pause::Wish::Resume)
            .map(|()| ExitCode::SUCCESS)
            .map_err(pause::PauseError::into_failure),
        Command::Preflight(args) => preflight::run(&args).map_err(preflight::PreflightError::into_failure),
        Command::Retry(args) => {
            retry::run(&args).map(|()| ExitCode::SUCCESS).map_err(retry::RetryError::into_failure)
        }
        Command::Gather(args) => gather::run(&args).map_err(gather::GatherError::into_failure),
        Command::Adopt(args) => takeover::adopt(&args).map_err(takeover::TakeoverError::into_failure),
        Command::GiveBack(args) => takeover::give_back(&args).map_err(takeover::TakeoverError::into_failure),
        Command::Completion(args) => completion::run(&args),
        Command::Complete(asked) => completion::complete(&asked),
    };
    outcome.unwrap_or_else(|failure| failure.report())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
