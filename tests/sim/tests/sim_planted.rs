//! Bugs that are planted on purpose are found, each by the invariant that it breaks.

use std::thread;

use tenon_test_sim::{Bug, Setup, Workload, run};

/// Of the seeds that are played for each workload without a bug, at most so many are needed to find one.
const SEEDS: u64 = 400;

/// The first violation that the bug leads to.
fn found(bug: Bug) -> Option<(&'static str, Workload, u64)> {
    (0..SEEDS).find_map(|seed| {
        Workload::ALL.into_iter().find_map(|workload| {
            let outcome = run(Setup { workload, seed, bug: Some(bug), trace: false });
            outcome.violation.map(|violation| (violation.invariant, workload, seed))
        })
    })
}

#[test]
fn every_planted_bug_is_found_and_named() {
    let expected: [(Bug, &[&str]); 14] = [
        (Bug::FinalizerByStaleList, &["S8"]),
        (Bug::NoPreconditions, &["S9"]),
        (Bug::DropsRemovals, &["S8", "L4"]),
        (Bug::KeepsReadyLabels, &["S7"]),
        (Bug::LabelsLast, &["S7"]),
        (Bug::LabelsWithoutUid, &["S9"]),
        (Bug::WritesNoMark, &["R7"]),
        (Bug::DeposedLeaderWrites, &["S10"]),
        (Bug::GenerationNotRaised, &["L1", "L2", "L4"]),
        (Bug::SignsForFormerStore, &["L1", "L2", "L4"]),
        (Bug::UnloadsOnAbsence, &["S3"]),
        (Bug::IgnoresKernel, &["S1"]),
        (Bug::TurnsNotReserved, &["S6"]),
        (Bug::TurnsByStaleList, &["S6"]),
    ];
    assert_eq!(expected.map(|(bug, _)| bug), Bug::ALL);
    let results: Vec<_> = thread::scope(|scope| {
        let hunts = expected.map(|(bug, by)| (bug, by, scope.spawn(move || found(bug))));
        hunts.into_iter().map(|(bug, by, hunt)| (bug, by, hunt.join().unwrap())).collect()
    });
    for (bug, by, found) in results {
        println!("{bug:?}: {found:?}");
        let (invariant, ..) = found.unwrap_or_else(|| panic!("{bug:?} was not found"));
        assert!(by.contains(&invariant), "{bug:?} was found by {invariant}, not by {by:?}");
    }
}
