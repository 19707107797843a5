//! What takes too long for every change: everything against everything. One part after the other, and at the end a line
//! of figures from each.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::test::{heading, programs};
use crate::{ci, repository};

/// A part of the matrix.
struct Part {
    what: &'static str,
    why: &'static str,
    /// Given the folder with the project's programs, runs it and gives its line of figures.
    run: fn(&Path) -> Result<String>,
}

/// A new part is a new line here; what it runs is built with the rest when its package is among [`PACKAGES`].
const PARTS: &[Part] = &[
    Part {
        what: "predictions",
        why: "what is predicted of loads against four kernels, those of the 7 series fetched first",
        run: predictions,
    },
    Part {
        what: "power cuts",
        why: "fifty at random moments, on a disk that forgets what was not flushed; TENON_SEED repeats them",
        run: power_cuts,
    },
    Part {
        what: "faults",
        why: "every fault at every write of the operator and the agents, before a real API server (two and a half hours)",
        run: faults,
    },
];

/// Packages with programs of parts, beside those that the lab needs.
const PACKAGES: &[&str] = &["tenon-test-kernel"];

/// Runs all parts; goes on after a failure, so that one run shows everything that is wrong.
pub(crate) fn run() -> Result<String> {
    let begin = Instant::now();
    heading("set-up", "programs, packages, kernels, drivers and the control plane's programs");
    let folder = programs(PACKAGES)?;
    ci::succeed(Command::new(folder.join("tenon-lab")).arg("setup"))?;
    let mut lines = Vec::new();
    let mut failed = 0;
    for Part { what, why, run } in PARTS {
        heading(what, why);
        lines.push(run(&folder).unwrap_or_else(|error| {
            failed += 1;
            format!("{what}: FAILED: {error:#}")
        }));
    }
    println!("\n{}", lines.join("\n"));
    let seconds = begin.elapsed().as_secs();
    if failed > 0 {
        bail!("{failed} of {} parts failed after {seconds} s", PARTS.len());
    }
    Ok(format!("matrix: all {} parts passed in {seconds} s", PARTS.len()))
}

fn predictions(folder: &Path) -> Result<String> {
    let mut command = Command::new(folder.join("tenon-matrix"));
    last_line(command.current_dir(repository::root()).env("TENON_LAB_PROGRAMS", folder))
}

/// Half of them on each of two kernels.
fn power_cuts(folder: &Path) -> Result<String> {
    let begin = Instant::now();
    let mut command =
        repository::cargo(["test", "--locked", "--package", "tenon-test-kernel", "--test", "scenarios"]);
    command
        .args([
            "--",
            "--nocapture",
            "--test-threads",
            "1",
            "power_cuts_at_any_moment_end_where_the_order_wants",
        ])
        .env("TENON_LAB_PROGRAMS", folder)
        .env("TENON_POWER_CUTS", "25");
    ci::succeed(&mut command)?;
    Ok(format!("power cuts: 50 of 50 ended where the order wanted, in {} s", begin.elapsed().as_secs()))
}

fn faults(folder: &Path) -> Result<String> {
    let mut command = repository::cargo(["test", "--locked", "--workspace", "--quiet", "--test", "faults"]);
    command.args(["--", "--nocapture", "--test-threads", "1"]);
    command.env("TENON_MATRIX", "1").env("TENON_LAB_PROGRAMS", folder);
    // So each of its tests marks its line of figures, before which the test program may put a dot.
    last_lines(&mut command, |line| line.contains("faults: "))
}

/// Runs a program, shows what it says, and gives its last line.
fn last_line(command: &mut Command) -> Result<String> {
    let said = last_lines(command, |_| true);
    said.map(|lines| lines.lines().next_back().unwrap_or_default().to_owned())
}

/// Runs a program, shows what it says, and gives the lines with figures; when it fails, the last line of all.
fn last_lines(command: &mut Command, is_figure: fn(&str) -> bool) -> Result<String> {
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("run {command:?}"))?;
    let (mut last, mut figures) = (String::new(), Vec::new());
    for line in BufReader::new(child.stdout.take().context("read its output")?).lines() {
        last = line.context("read its output")?;
        writeln!(std::io::stdout(), "{last}")?;
        if is_figure(&last) {
            figures.push(last.clone());
        }
    }
    let status = child.wait().with_context(|| format!("wait for {command:?}"))?;
    if !status.success() {
        bail!("{last} ({status})");
    }
    Ok(figures.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_gives_its_last_line_and_fails_with_it() {
        let shell = |script| last_line(Command::new("sh").args(["-c", script]));
        assert_eq!(shell("echo table; echo figures").unwrap(), "figures");
        let mut several = Command::new("sh");
        several.args(["-c", "echo =1; echo noise; echo =2; echo end"]);
        assert_eq!(last_lines(&mut several, |line| line.starts_with('=')).unwrap(), "=1\n=2");
        let error = shell("echo figures; exit 1").unwrap_err().to_string();
        assert!(error.starts_with("figures (exit status: 1)"), "{error}");
    }
}
