//! Chores of this repository: `cargo xtask <chore>`.

mod bench;
mod ci;
mod conformance;
mod dependencies;
mod fuzz;
mod generate;
mod matrix;
mod repository;
mod rights;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Chores of this repository")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Writes deploy/: definitions, RBAC, admission policies, the node's and the operator's workloads
    Generate,
    /// Everything that a change must pass
    Ci,
    /// Every tier of tests, with what they need set up first
    Test {
        /// Tiers, from 1 to 5; without any, all
        #[arg(value_parser = clap::value_parser!(u8).range(1..=5))]
        tiers: Vec<u8>,
    },
    /// What tests left in a folder of what was asked of API servers, against the rights that deploy/rbac gives
    Rights {
        /// The value of `TENON_LAB_ACCESSES` while they ran
        folder: PathBuf,
    },
    /// What takes too long for every change: every prediction against every kernel, and the like
    Matrix,
    /// Thousands of simulated nodes, counted and timed with optimized programs; arguments go to `tenon-lab bench`
    Bench {
        /// Arguments of `tenon-lab bench`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Hostile input for every parser: all targets of fuzz/, or those named
    Fuzz {
        /// For each target
        #[arg(long, default_value_t = 120)]
        seconds: u32,
        /// Inputs to begin with, and those that are found
        #[arg(long, default_value = "fuzz/corpus")]
        corpus: PathBuf,
        /// Targets; without any, all
        targets: Vec<String>,
    },
    /// Whether deploy/ is what `generate` would write
    CheckGenerated,
    /// Whether the crates depend on each other, and on libraries, only as the design allows
    CheckDependencies,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().chore {
        Chore::Generate => generate::write(),
        Chore::Ci => ci::run(),
        Chore::Test { tiers } => test::run(&tiers),
        Chore::Rights { folder } => rights::judge(&folder),
        Chore::Matrix => matrix::run(),
        Chore::Bench { arguments } => bench::run(&arguments),
        Chore::Fuzz { seconds, corpus, targets } => fuzz::run(seconds, &corpus, &targets),
        Chore::CheckGenerated => generate::check(),
        Chore::CheckDependencies => dependencies::check(),
    };
    match done {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
