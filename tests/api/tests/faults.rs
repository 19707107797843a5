//! What becomes of a Module's life when the conversation with the real API server is disturbed at every single write:
//! the writer killed before or after, the write refused, its answer lost, delayed or never given.
//!
//! There are several kinds of lives ([`plot::Plot`]). Of each an undisturbed one is lived first and its writes are written
//! down. Then lives are lived in which one write of each stage meets a fault. Each must come to the same end: the same objects,
//! the same loads and unloads on each node, nothing made or published twice or made anew, no event more, no hot loop, and nobody
//! writing when it is over. At no moment do two Jobs work for one image, or is something ready that the registry does not have
//! ([`witness`]).
//!
//! `TENON_MATRIX=1` has every fault meet every write. Otherwise a few lives are picked by a seed (`TENON_FAULTS_SEED`), and
//! `TENON_FAULTS_LIVES` names some: `kill-after/3,stale-nodes`.
#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

#[cfg(test)]
#[path = "faults/birth.rs"]
mod birth;
#[cfg(test)]
#[path = "faults/images.rs"]
mod images;
#[cfg(test)]
#[path = "faults/life.rs"]
mod life;
#[cfg(test)]
#[path = "faults/matrix.rs"]
mod matrix;
#[cfg(test)]
#[path = "faults/plot.rs"]
mod plot;
#[cfg(test)]
#[path = "faults/publishing.rs"]
mod publishing;
#[cfg(test)]
#[path = "faults/puller.rs"]
mod puller;
#[cfg(test)]
#[path = "faults/snapshot.rs"]
mod snapshot;
#[cfg(test)]
#[path = "faults/stand.rs"]
mod stand;
#[cfg(test)]
#[path = "faults/witness.rs"]
mod witness;

use std::time::{Duration, Instant};

use matrix::{Disturbance, FAULTS, Reference, Victim, disturb};
use plot::Plot;
use stand::Stand;
use tenon_lab::faults::Fault;

/// Who changes nothing gets the same lives again.
const SEED: u64 = 1;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_a_write_of_the_operator_everything_ends_as_if_nothing_had() {
    run(Plot::Signed, Victim::Operator, "whatever_happens_to_a_write_of_the_operator").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_a_report_of_an_agent_everything_ends_as_if_nothing_had() {
    run(Plot::Signed, Victim::Agent, "whatever_happens_to_a_report_of_an_agent").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_while_an_image_is_built_it_is_built_once() {
    run(Plot::Built, Victim::Operator, "whatever_happens_while_an_image_is_built").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_while_a_node_pulls_an_image_it_is_had_and_nothing_is_left_of_it() {
    run(Plot::Pulled, Victim::Operator, "whatever_happens_while_a_node_pulls_an_image").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_while_images_are_cleaned_up_what_is_needed_stays_and_the_rest_goes() {
    run(Plot::CleanedUp, Victim::Operator, "whatever_happens_while_images_are_cleaned_up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_while_a_driver_with_a_plugin_is_changed_in_order_it_ends_as_if_nothing_had() {
    run(Plot::Plugin, Victim::Operator, "whatever_happens_while_a_driver_with_a_plugin").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_the_first_writes_of_the_operator_it_has_its_keys_and_publishes_them() {
    let begin = Instant::now();
    let mut stand = Stand::start(Plot::Signed).await;
    let all = FAULTS.iter().flat_map(|fault| (1..=birth::WRITES).map(move |nth| (*fault, nth)));
    let names = |(fault, nth): &(Fault, usize)| (format!("birth-{fault}/{nth}"), format!("birth-{fault}"));
    let (seed, births) = chosen(all.collect(), names, Plot::Signed.budget(), |_| birth::COST);
    let mut failures = Vec::new();
    for (fault, nth) in &births {
        if let Err(error) = birth::disturb(&mut stand, *fault, *nth).await {
            failures.push(format!(
                "{fault} at write {nth}: {error}\nagain by: TENON_FAULTS_LIVES=birth-{fault}/{nth} cargo test -p tenon-test-api --test faults first_writes"
            ));
        }
    }
    stand.operator.stop();
    println!("faults: {} births of an operator, seed {seed}, {:?}", births.len(), begin.elapsed());
    assert!(
        failures.is_empty(),
        "{} of {} births (seed {seed}):\n{}",
        failures.len(),
        births.len(),
        failures.join("\n\n")
    );
}

async fn run(plot: Plot, victim: Victim, test: &str) {
    let begin = Instant::now();
    let mut stand = Stand::start(plot).await;
    stand.operator.start();
    let complete = async || birth::is_complete(&stand).await.then_some(());
    stand::until("the operator's own objects are there", complete).await.expect("an operator that works");
    let reference = Reference::take(&stand, victim, "undisturbed").await.expect("an undisturbed life");
    println!(
        "{} writes in {} lives per fault, begun in {:?}",
        reference.count(),
        reference.lives(),
        begin.elapsed()
    );
    for stage in plot.stages() {
        for point in reference.points(*stage).iter().chain(reference.publishing(*stage)) {
            println!("  {stage:?}: {point}");
        }
    }
    let (seed, lives) = lives(plot, victim, &reference);
    let mut failures = Vec::new();
    let (mut struck, mut missed) = (0, Vec::new());
    for (fault, index) in &lives {
        match disturb(&stand, &reference, victim, *fault, *index).await {
            Ok(outcome) => {
                println!(
                    "{fault}/{index}: {} struck, at most {} equal requests a second ({}), {:?}",
                    outcome.struck, outcome.busiest.0, outcome.busiest.1, outcome.took
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
        "faults: {} lives of the kind {plot:?} with faults of the {victim:?}, {struck} faults, {} kills of the operator, {} points not come to, seed {seed}, {:?}",
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
    let silent =
        |(kind, _): &(Disturbance, usize)| matches!(kind, Disturbance::Stale(_) | Disturbance::Outage(_));
    assert!(!lives.is_empty() && (struck > 0 || lives.iter().all(silent)), "no fault was met");
}

/// The lives to live, and the seed that they were picked by.
fn lives(plot: Plot, victim: Victim, reference: &Reference) -> (u64, Vec<(Disturbance, usize)>) {
    let all = Disturbance::all(victim, plot, reference);
    let all = all.into_iter().flat_map(|(kind, lives)| (0..lives).map(move |index| (kind, index)));
    let names = |(kind, index): &(Disturbance, usize)| (format!("{kind}/{index}"), kind.to_string());
    chosen(all.collect(), names, plot.budget(), |(kind, _)| kind.cost(victim, plot))
}

/// Those that are named, or all, or some by a seed; `names` gives a thing's own name and its kind's.
fn chosen<T>(
    all: Vec<T>,
    names: impl Fn(&T) -> (String, String),
    budget: Duration,
    costs: impl Fn(&T) -> Duration,
) -> (u64, Vec<T>) {
    let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    if let Some(named) = variable("TENON_FAULTS_LIVES") {
        let is_named = |thing: &T| {
            let (own, kind) = names(thing);
            named.split(',').any(|name| name == own || name == kind)
        };
        return (0, all.into_iter().filter(is_named).collect());
    }
    if variable("TENON_MATRIX").is_some_and(|wanted| wanted != "0") {
        return (0, all);
    }
    let seed = variable("TENON_FAULTS_SEED").and_then(|text| text.parse().ok()).unwrap_or(SEED);
    (seed, sample(all, budget, costs, seed))
}

/// Some of all, by splitmix64, until the budget is spent.
fn sample<T>(mut all: Vec<T>, budget: Duration, costs: impl Fn(&T) -> Duration, seed: u64) -> Vec<T> {
    let (mut state, mut spent, mut picked) = (seed, Duration::ZERO, Vec::new());
    loop {
        all.retain(|thing| spent + costs(thing) <= budget);
        if all.is_empty() {
            return picked;
        }
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut dice = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        dice = (dice ^ (dice >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let index = usize::try_from((dice ^ (dice >> 31)) % all.len() as u64).expect("an index");
        let thing = all.swap_remove(index);
        spent += costs(&thing);
        picked.push(thing);
    }
}
