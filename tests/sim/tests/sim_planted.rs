//! Bugs that are planted on purpose are found, each by the invariant that it breaks.

use std::thread;

use tenon_test_sim::{Bug, Setup, Workload, run};

/// At most so many seeds of each workload are played to find a bug.
const SEEDS: u64 = 1_000;

/// Where a bug is looked for, and by which invariants it counts as found.
type Hunt = (Bug, &'static [&'static str], &'static [Workload]);

const HUNTS: [Hunt; 18] = [
    (Bug::FinalizerByStaleList, &["S8"], &[Workload::Delete, Workload::Shared]),
    (Bug::NoPreconditions, &["S9"], &Workload::ALL),
    (Bug::DropsRemovals, &["S8", "L4"], &[Workload::Delete, Workload::Nodes]),
    (Bug::KeepsReadyLabels, &["S7"], &Workload::ALL),
    (Bug::LabelsLast, &["S7"], &Workload::ALL),
    (Bug::LabelsWithoutUid, &["S9"], &Workload::ALL),
    (Bug::WritesNoMark, &["R7"], &[Workload::Failing, Workload::Rolling]),
    (Bug::DeposedLeaderWrites, &["S10"], &Workload::ALL),
    (Bug::GenerationNotRaised, &["L1", "L2", "L4"], &[Workload::Shared, Workload::Disasters]),
    (Bug::SignsForFormerStore, &["L1", "L2", "L4"], &[Workload::Shared, Workload::Disasters]),
    (Bug::UnloadsOnAbsence, &["S3"], &[Workload::Shared, Workload::Disasters]),
    (Bug::IgnoresKernel, &["S1"], &[Workload::Kernels, Workload::Rolling]),
    (Bug::TurnsNotReserved, &["S6"], &[Workload::Upgrade, Workload::Rolling]),
    (Bug::TurnsByStaleList, &["S6", "S7"], &[Workload::Upgrade, Workload::Rolling]),
    (Bug::PluginsUnseen, &["W10"], &PLUGINS),
    (Bug::FormerSetsStay, &["L4"], &PLUGINS),
    (Bug::ClassesByForce, &["W10"], &PLUGINS),
    (Bug::PreflightToldOnce, &["W12"], &[Workload::Preflights]),
];

const PLUGINS: [Workload; 2] = [Workload::Plugins, Workload::Ordered];

/// The first run in which the bug breaks one of these invariants.
fn found((bug, by, workloads): Hunt) -> Option<(&'static str, Workload, u64)> {
    (0..SEEDS).find_map(|seed| {
        workloads.iter().find_map(|workload| {
            let outcome = run(Setup { workload: *workload, seed, bug: Some(bug), trace: false });
            let broken = outcome.violation?.invariant;
            by.contains(&broken).then_some((broken, *workload, seed))
        })
    })
}

#[test]
fn every_planted_bug_is_found_by_the_invariant_that_it_breaks() {
    assert_eq!(HUNTS.map(|(bug, ..)| bug), Bug::ALL);
    let results: Vec<_> = thread::scope(|scope| {
        let hunts = HUNTS.map(|hunt| (hunt, scope.spawn(move || found(hunt))));
        hunts.into_iter().map(|(hunt, thread)| (hunt, thread.join().unwrap())).collect()
    });
    for ((bug, ..), found) in &results {
        println!("{bug:?}: {found:?}");
    }
    for ((bug, by, _), found) in results {
        assert!(found.is_some(), "{bug:?} breaks none of {by:?} in {SEEDS} seeds");
    }
}
