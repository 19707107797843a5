//! `kubectl tenon image`: module images without a builder.

mod push;

use clap::Subcommand;

use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Pack a directory of modules into an image and push it
    Push(push::Args),
}

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Push(args) => push::run(&args).map_err(push::PushError::into_failure),
    }
}
