//! Thousands of runs, each from its own seed: every invariant holds in all of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use tenon_test_sim::{Setup, Workload, run};

/// Runs in all, shared by the workloads.
const RUNS: u64 = 20_000;

#[test]
fn every_invariant_holds_in_twenty_thousand_runs() {
    let begin = Instant::now();
    let next = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let workloads = Workload::ALL.len() as u64;
    let play = || {
        let (mut failed, mut steps) = (Vec::new(), 0);
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= RUNS || failed.len() > 20 {
                return (failed, steps);
            }
            let workload = Workload::ALL[usize::try_from(number % workloads).unwrap()];
            let seed = number / workloads;
            let outcome = run(Setup { workload, seed, bug: None, trace: false });
            steps += outcome.steps;
            if let Some(violation) = outcome.violation {
                failed.push(format!(
                    "{violation}\n  again: cargo run -p tenon-test-sim -- --workload {} --seed {seed} --trace",
                    workload.name()
                ));
            }
        }
    };
    let (mut failed, mut steps) = (Vec::new(), 0);
    thread::scope(|scope| {
        let players: Vec<_> = (0..threads).map(|_| scope.spawn(play)).collect();
        for player in players {
            let (more, walked) = player.join().unwrap();
            failed.extend(more);
            steps += walked;
        }
    });
    println!("{RUNS} runs, {steps} steps in {} s on {threads} processors", begin.elapsed().as_secs());
    assert!(failed.is_empty(), "{} runs failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn a_seed_plays_the_same_run_again() {
    for workload in Workload::ALL {
        for seed in 0..5 {
            let setup = Setup { workload, seed, bug: None, trace: false };
            assert_eq!(run(setup), run(setup), "{} seed {seed}", workload.name());
        }
    }
    let hashes: std::collections::BTreeSet<_> = (0..20)
        .map(|seed| run(Setup { workload: Workload::Load, seed, bug: None, trace: false }).hash)
        .collect();
    assert_eq!(hashes.len(), 20, "other seeds play other runs");
}
