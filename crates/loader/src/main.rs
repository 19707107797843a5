//! `tenon-loader`: serves the agent in its container; on the host, loads at boot, resets and tells.

use std::env;
use std::process::ExitCode;

use tenon_loader::session::explain;
use tenon_loader::settings::{Command, Settings};
use tenon_loader::{command, log};

fn main() -> ExitCode {
    let parsed = Settings::parse(env::args_os().skip(1), env::var("NODE_NAME").ok());
    let (command, settings) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            log(&explain(&error));
            return ExitCode::from(2);
        }
    };
    let result = match command {
        Command::Serve => command::serve(&settings),
        Command::Boot => command::boot(&settings),
        Command::Reset => command::reset(&settings),
        Command::Status => command::status(&settings),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            log(&explain(&error));
            ExitCode::FAILURE
        }
    }
}
