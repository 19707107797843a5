//! Plays one seed, or many, and says what came of it.
//!
//! `tenon-test-sim --workload NAME --seed N [--trace]` plays one run, twice, and compares the hashes;
//! `tenon-test-sim --workload NAME --seeds N` plays so many and prints how many a second.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Instant;

use tenon_test_sim::{Bug, Setup, Workload, run};

const USAGE: &str =
    "usage: tenon-test-sim [--workload NAME] [--bug NAME] (--seed N [--trace] | --seeds N [--from N])\n";

#[derive(Debug, Default)]
struct Wish {
    workload: Option<Workload>,
    bug: Option<Bug>,
    seed: Option<u64>,
    seeds: Option<u64>,
    from: u64,
    trace: bool,
}

fn main() -> ExitCode {
    let Some(wish) = parse(std::env::args().skip(1)) else {
        drop(io::stderr().write_all(USAGE.as_bytes()));
        return ExitCode::from(2);
    };
    let text = match (wish.seed, wish.seeds) {
        (Some(seed), _) => one(&wish, seed),
        (None, Some(seeds)) => many(&wish, seeds),
        (None, None) => Err(USAGE.to_owned()),
    };
    let (failed, text) = text.map_or_else(|text| (true, text), |text| (false, text));
    drop(io::stdout().write_all(text.as_bytes()));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Wish> {
    let mut wish = Wish::default();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--workload" => wish.workload = Some(Workload::named(&arguments.next()?)?),
            "--bug" => {
                let name = arguments.next()?;
                wish.bug = Some(Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name)?);
            }
            "--seed" => wish.seed = Some(arguments.next()?.parse().ok()?),
            "--seeds" => wish.seeds = Some(arguments.next()?.parse().ok()?),
            "--from" => wish.from = arguments.next()?.parse().ok()?,
            "--trace" => wish.trace = true,
            _ => return None,
        }
    }
    Some(wish)
}

fn one(wish: &Wish, seed: u64) -> Result<String, String> {
    let workload = wish.workload.unwrap_or(Workload::Mixed);
    let setup = Setup { workload, seed, bug: wish.bug, trace: wish.trace };
    let first = run(setup);
    let again = run(Setup { trace: false, ..setup });
    let text = format!(
        "{} seed {seed}: {} steps, trace hash {:016x} ({}), {}\n",
        workload.name(),
        first.steps,
        first.hash,
        if first == again { "the same when played again" } else { "ANOTHER when played again" },
        first.violation.as_ref().map_or_else(|| "all invariants hold".to_owned(), ToString::to_string)
    );
    if first.violation.is_none() && first == again { Ok(text) } else { Err(text) }
}

fn many(wish: &Wish, seeds: u64) -> Result<String, String> {
    let workloads = wish.workload.map_or_else(|| Workload::ALL.to_vec(), |workload| vec![workload]);
    let begin = Instant::now();
    let (mut runs, mut steps, mut failed) = (0_u64, 0_u64, Vec::new());
    for seed in wish.from..wish.from + seeds {
        for workload in &workloads {
            let outcome = run(Setup { workload: *workload, seed, bug: wish.bug, trace: false });
            runs += 1;
            steps += outcome.steps;
            if let Some(violation) = outcome.violation {
                failed.push(format!("{} seed {seed}: {violation}\n", workload.name()));
            }
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = runs as f64 / seconds;
    let count = failed.len();
    failed.truncate(20);
    let text = format!(
        "{}{runs} runs, {steps} steps, {seconds:.1} s, {rate:.0} runs/s, {count} violations\n",
        failed.concat()
    );
    if count == 0 { Ok(text) } else { Err(text) }
}
