//! What becomes of a Module's life when the conversation with the real API server is disturbed at every single write:
//! the writer killed before or after, the write refused, its answer lost, delayed or never given.
//!
//! An undisturbed life on two nodes is lived first and its writes are written down. Then lives are lived in which one
//! write of each stage meets a fault. Each must come to the same end: the same objects, the same loads and unloads on each node,
//! nothing made twice or made anew, no event more, no hot loop, and nobody writing when it is over.
//!
//! `TENON_MATRIX=1` has every fault meet every write. Otherwise a few lives are picked by a seed (`TENON_FAULTS_SEED`), and
//! `TENON_FAULTS_LIVES` names some: `kill-after/3,answer-500/0`.
#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

#[cfg(test)]
#[path = "faults/life.rs"]
mod life;
#[cfg(test)]
#[path = "faults/matrix.rs"]
mod matrix;
#[cfg(test)]
#[path = "crds/setup.rs"]
#[expect(dead_code, reason = "shared with the tests of the definitions, which use the rest")]
mod setup;
#[cfg(test)]
#[path = "faults/snapshot.rs"]
mod snapshot;
#[cfg(test)]
#[path = "faults/stand.rs"]
mod stand;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use matrix::{FAULTS, Reference, Victim, disturb};
use stand::Stand;
use tenon_lab::faults::Fault;

/// Lives that are picked when not all are lived: a minute on an idle machine.
const SAMPLE: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_a_write_of_the_operator_everything_ends_as_if_nothing_had() {
    run(Victim::Operator, "whatever_happens_to_a_write_of_the_operator").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_a_report_of_an_agent_everything_ends_as_if_nothing_had() {
    run(Victim::Agent, "whatever_happens_to_a_report_of_an_agent").await;
}

async fn run(victim: Victim, test: &str) {
    let begin = Instant::now();
    let mut stand = Stand::start().await;
    stand.operator.start();
    let reference = Reference::take(&stand, victim, "undisturbed").await.expect("an undisturbed life");
    println!(
        "{} writes in {} lives per fault, begun in {:?}",
        reference.count(),
        reference.lives(),
        begin.elapsed()
    );
    for stage in life::Stage::ALL {
        for point in reference.points(stage) {
            println!("  {stage:?}: {point}");
        }
    }
    let (seed, lives) = lives(&reference);
    let mut failures = Vec::new();
    let (mut struck, mut missed) = (0, Vec::new());
    for (fault, index) in &lives {
        match disturb(&stand, &reference, victim, *fault, *index).await {
            Ok(outcome) => {
                println!(
                    "{fault}/{index}: {} struck, at most {} equal requests a second, {:?}",
                    outcome.struck, outcome.busiest, outcome.took
                );
                struck += outcome.struck;
                missed.extend(outcome.missed.into_iter().map(|point| format!("{fault}: {point}")));
            }
            Err(error) => {
                println!("{fault}/{index}: {error}");
                failures.push(format!(
                    "{error}\nagain by: TENON_FAULTS_LIVES={fault}/{index} cargo test -p tenon-test-api --test faults {test}"
                ));
            }
        }
    }
    stand.operator.stop();
    println!(
        "{} lives, {struck} faults, {} kills of the operator, {} points not come to, seed {seed}, {:?}",
        lives.len(),
        stand.operator.kills(),
        missed.len(),
        begin.elapsed()
    );
    println!("{missed:#?}");
    assert!(
        failures.is_empty(),
        "{} of {} lives (seed {seed}):\n{}",
        failures.len(),
        lives.len(),
        failures.join("\n\n")
    );
    assert!(struck > 0, "no fault was met");
}

/// The lives to live, and the seed that they were picked by.
fn lives(reference: &Reference) -> (u64, Vec<(Fault, usize)>) {
    let all: Vec<_> =
        FAULTS.iter().flat_map(|fault| (0..reference.lives()).map(|index| (*fault, index))).collect();
    let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    if let Some(named) = variable("TENON_FAULTS_LIVES") {
        let is_named = |(fault, index): &(Fault, usize)| {
            named.split(',').any(|life| life == format!("{fault}/{index}") || life == fault.to_string())
        };
        return (0, all.into_iter().filter(is_named).collect());
    }
    if variable("TENON_MATRIX").is_some_and(|wanted| wanted != "0") {
        return (0, all);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seed = variable("TENON_FAULTS_SEED").and_then(|text| text.parse().ok()).unwrap_or(now);
    (seed, sample(all, seed))
}

/// Some of all, by splitmix64.
fn sample<T>(mut all: Vec<T>, seed: u64) -> Vec<T> {
    let mut state = seed;
    let mut picked = Vec::new();
    while picked.len() < SAMPLE && !all.is_empty() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut dice = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        dice = (dice ^ (dice >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let index = usize::try_from((dice ^ (dice >> 31)) % all.len() as u64).expect("an index");
        picked.push(all.swap_remove(index));
    }
    picked
}
