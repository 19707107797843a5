//! The four commands.

use std::io::{self, Write as _};
use std::process::ExitCode;

use rustix::event::{Timespec, poll};
use tenon_order::Phase;

use crate::filter;
use crate::kernel;
use crate::mark::Mark;
use crate::report::report;
use crate::serve::{ServeError, log_report};
use crate::session::is_postponed;
use crate::settings::Settings;
use crate::store::Store;
use crate::work;

/// Seconds that `boot` waits at most for loads that were postponed: long enough for the first of them. The pod's loader
/// tries the others.
const BOOT_PATIENCE: u64 = Mark::QUIET + 5;

/// Obeys the agent until the process is ended.
pub fn serve(settings: &Settings) -> Result<ExitCode, ServeError> {
    crate::serve::serve(settings).map(|()| ExitCode::SUCCESS)
}

/// Loads what the store holds. Fails when one of its Modules could not be loaded.
///
/// What may have taken the node down before is loaded when its time has come; that is waited for, since nobody else may be
/// there to load it: where the driver serves the network, no pod starts without it.
pub fn boot(settings: &Settings) -> Result<ExitCode, ServeError> {
    filter::install()?;
    let until = kernel::uptime() + BOOT_PATIENCE;
    let report = loop {
        // Not held while waiting: the pod's loader shall not wait for this one.
        let report = work::apply(&Store::open(&settings.store)?, settings)?;
        if !is_postponed(&report) || kernel::uptime() >= until {
            break report;
        }
        pause();
    };
    log_report(&report);
    let failed =
        report.modules.iter().any(|module| matches!(module.phase, Phase::Failed | Phase::CrashSuspected));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A second without a call that the filter would refuse.
fn pause() {
    // A signal may end it early, which harms nobody.
    let _ = poll(&mut [], Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
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
    let report = report(&store, settings)?;
    // A report is plain data; it cannot fail to become JSON.
    say(&serde_json::to_string_pretty(&report).unwrap_or_default());
    Ok(ExitCode::SUCCESS)
}

fn say(text: &str) {
    drop(writeln!(io::stdout(), "{text}"));
}
