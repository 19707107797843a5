//! Everything that a change must pass, cheapest first. Each step says what it does before it does it, and the last line
//! counts them.

mod deny;

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::{dependencies, generate, repository};

struct Step {
    /// What it does, for whoever waits.
    what: &'static str,
    run: fn() -> Result<String>,
}

const STEPS: &[Step] = &[
    Step { what: "format: cargo fmt --check", run: format },
    Step { what: "dependencies: the crates' arrows point one way", run: dependencies::check },
    Step { what: "lints: cargo clippy on all targets, warnings denied", run: lints },
    Step { what: "tests: cargo test of the default members", run: tests },
    Step { what: "docs: cargo doc, warnings denied", run: docs },
    Step { what: "generated: deploy/ is what the types say", run: generate::check },
    Step { what: "supplies: cargo deny check bans licenses sources", run: deny::check },
];

/// Runs all steps; the first that fails ends it.
pub(crate) fn run() -> Result<String> {
    let begin = Instant::now();
    for (index, step) in STEPS.iter().enumerate() {
        println!("[{}/{}] {}", index + 1, STEPS.len(), step.what);
        let summary = (step.run)().with_context(|| format!("step {} of {}", index + 1, STEPS.len()))?;
        println!("{summary}");
    }
    Ok(format!("ci: {} steps passed in {} s", STEPS.len(), begin.elapsed().as_secs()))
}

pub(crate) fn format() -> Result<String> {
    succeed(&mut repository::cargo(["fmt", "--all", "--check"]))?;
    Ok("format: clean".into())
}

fn lints() -> Result<String> {
    succeed(&mut repository::cargo([
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "--deny=warnings",
    ]))?;
    Ok("lints: clean".into())
}

fn docs() -> Result<String> {
    let mut doc = repository::cargo(["doc", "--locked", "--workspace", "--no-deps"]);
    succeed(doc.env("RUSTDOCFLAGS", "--deny=warnings"))?;
    Ok("docs: clean".into())
}

fn tests() -> Result<String> {
    let mut command = repository::cargo(["test", "--locked", "--no-fail-fast"]);
    let output = command.stderr(std::process::Stdio::inherit()).output().context("run cargo test")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("{command:?} ended with {}:\n{text}", output.status);
    }
    let results = TestResults::of(&text);
    if results.ignored > 0 {
        bail!("{} tests are ignored: a test runs or is not there", results.ignored);
    }
    Ok(format!(
        "tests: {} passed in {} programs, none failed, none ignored",
        results.passed, results.programs
    ))
}

/// What the test programs say at their end, summed up.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TestResults {
    /// Test programs.
    pub(crate) programs: usize,
    /// Tests that passed.
    pub(crate) passed: usize,
    /// Tests that failed.
    pub(crate) failed: usize,
    /// Tests that did not run.
    pub(crate) ignored: usize,
}

impl TestResults {
    pub(crate) fn of(output: &str) -> Self {
        let result = |line: &str| {
            line.strip_prefix("test result: ")?.split_once(". ").map(|(_, counts)| counts.to_owned())
        };
        output.lines().filter_map(result).fold(Self::default(), |sum, line| Self {
            programs: sum.programs + 1,
            passed: sum.passed + count(&line, "passed"),
            failed: sum.failed + count(&line, "failed"),
            ignored: sum.ignored + count(&line, "ignored"),
        })
    }
}

/// The number before a word, as in `3 passed; 0 failed`.
fn count(line: &str, word: &str) -> usize {
    let parts = line.split(';').map(str::trim);
    parts
        .filter_map(|part| part.strip_suffix(word))
        .find_map(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

/// Runs a command whose output goes to the terminal.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_test_programs_are_summed() {
        let output = "running 2 tests\n\
            test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
            test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        assert_eq!(TestResults::of(output), TestResults { programs: 2, passed: 14, failed: 3, ignored: 1 });
    }
}
