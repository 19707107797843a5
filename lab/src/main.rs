//! The lab as a command: a cluster to try things on.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;

/// A cluster on one machine, with virtual machines for nodes.
#[derive(Debug, Parser)]
#[command(name = "tenon-lab", version)]
enum Command {
    /// Gets everything that the lab needs: packages, kernels, the control plane. As root on a fresh machine.
    Setup,
}

fn main() -> ExitCode {
    match run(&Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tenon-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Setup => {
            let start = std::time::Instant::now();
            let mut say = |step: &str| eprintln!("{:6.1} s  {step}", start.elapsed().as_secs_f32());
            tenon_lab::setup::setup(&mut say).context("set up the lab")?;
            say("ready");
            Ok(())
        }
    }
}
