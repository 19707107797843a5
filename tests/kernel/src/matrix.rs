//! Boots kernels, tries loads on them, and holds each against its prediction.

use tenon_kmod::predict::Enforcement;
use tenon_lab::Trial;
use tenon_lab::trial::Load;

use crate::cases::{self, Sequence, Size};
use crate::report::Report;
use crate::shelf::Shelf;
use crate::verdict::judge;

/// How a kernel is booted.
pub const WAYS: [Enforcement; 3] = [Enforcement::Permissive, Enforcement::Enforced, Enforcement::Lockdown];

/// Tries everything on one kernel, booted one way, and adds it to the report.
pub async fn run(on: &Shelf, all: &[Shelf], way: Enforcement, size: Size, report: &mut Report) {
    let sequences = match way {
        Enforcement::Permissive => cases::permissive(on, all, size),
        Enforcement::Enforced | Enforcement::Lockdown => cases::enforcing(on, all),
    };
    let folder = tempfile::tempdir().unwrap();
    // So that it can be told from the log whether a module's own init was called.
    let arguments: Vec<&str> = ["initcall_debug"].iter().chain(cases::arguments(way)).copied().collect();
    let outcomes = match trial(&sequences).run(&on.kernel, &arguments, folder.path()).await {
        Ok(outcomes) => outcomes,
        Err(error) => panic!("{error}\nthe next load was {}", next(&sequences, folder.path())),
    };
    let judged = judge(&on.facts, way, &sequences, &outcomes);
    report.add(&format!("{}{}", on.kernel.release, suffix(way)), &judged);
}

fn trial(sequences: &[Sequence]) -> Trial {
    let mut trial = Trial::new();
    for cases in sequences {
        trial.sequence(cases.iter().map(|case| Load {
            file: &case.file,
            parameters: case.parameters,
            flags: 0,
        }));
    }
    trial
}

/// The load that a guest did not survive.
fn next(sequences: &[Sequence], folder: &std::path::Path) -> String {
    let said = std::fs::read_to_string(folder.join("said.log")).unwrap_or_default();
    let done = said.matches("\"Tried\"").count();
    let case = sequences.iter().flatten().nth(done);
    case.map_or_else(|| "none".to_owned(), |case| format!("{} {}", case.set, case.name))
}

fn suffix(way: Enforcement) -> &'static str {
    match way {
        Enforcement::Permissive => "",
        Enforcement::Enforced => " sig_enforce",
        Enforcement::Lockdown => " lockdown",
    }
}
