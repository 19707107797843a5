//! The four commands.

use std::io::{self, Write as _};
use std::process::ExitCode;

use tenon_order::Phase;

use crate::filter;
use crate::serve::{ServeError, log_report};
use crate::settings::Settings;
use crate::store::Store;
use crate::work;

/// Obeys the agent until the process is ended.
pub fn serve(settings: &Settings) -> Result<ExitCode, ServeError> {
    crate::serve::serve(settings).map(|()| ExitCode::SUCCESS)
}

/// Loads what the store holds. Fails when one of its Modules could not be loaded.
pub fn boot(settings: &Settings) -> Result<ExitCode, ServeError> {
    filter::install()?;
    let store = Store::open(&settings.store)?;
    let report = work::apply(&store, settings)?;
    log_report(&report);
    let failed =
        report.modules.iter().any(|module| matches!(module.phase, Phase::Failed | Phase::CrashSuspected));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Makes the store another one, to which no earlier order belongs.
pub fn reset(settings: &Settings) -> Result<ExitCode, ServeError> {
    let id = Store::reset(&settings.store)?;
    say(&format!("the store is now {id}; what is loaded stays loaded until a new order comes"));
    Ok(ExitCode::SUCCESS)
}

/// Says what the store holds and how its Modules stand, as JSON.
pub fn status(settings: &Settings) -> Result<ExitCode, ServeError> {
    let store = Store::look(&settings.store)?;
    let report = work::report(&store, settings)?;
    // A report is plain data; it cannot fail to become JSON.
    say(&serde_json::to_string_pretty(&report).unwrap_or_default());
    Ok(ExitCode::SUCCESS)
}

fn say(text: &str) {
    drop(writeln!(io::stdout(), "{text}"));
}
