//! Fuzzing: every target of `fuzz/` for a while, one after the other, and a line of figures from each.
//!
//! The targets are libFuzzer's. What these need of the compiler (`SanitizerCoverage`) its stable release has, too, so no other
//! toolchain and no `cargo fuzz` are needed; a C++ compiler is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::repository;

/// What `cargo fuzz` would set, less what stable compilers lack (the address sanitizer, which safe code does not need).
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                     -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing";

/// The most bytes of one input, and MiB of memory that reading it may take.
const MOST_BYTES: u32 = 64 * 1024;
const MOST_MEMORY: u32 = 2048;
/// Seconds that one input may take.
const PATIENCE: u32 = 10;

/// Runs these targets, or all, for so many seconds each, from a corpus in `corpus` that grows. Ends with an error when an
/// input broke something; the input is kept beside the corpus.
pub(crate) fn run(seconds: u32, corpus: &Path, wanted: &[String]) -> Result<String> {
    let all = targets()?;
    if let Some(unknown) = wanted.iter().find(|name| !all.contains(name)) {
        bail!("there is no target {unknown}; there are {}", all.join(", "));
    }
    let folder = build()?;
    let (mut lines, mut broken) = (Vec::new(), Vec::new());
    for target in all.iter().filter(|name| wanted.is_empty() || wanted.contains(name)) {
        let (line, whole) = run_one(&folder.join(target), target, seconds, corpus)?;
        println!("{line}");
        lines.push(line);
        if !whole {
            broken.push(target.as_str());
        }
    }
    if !broken.is_empty() {
        bail!("found something: {}; the inputs are in {}", broken.join(", "), corpus.display());
    }
    Ok(format!("fuzz: {} targets, {seconds} s each, nothing found", lines.len()))
}

/// The names of the targets: one file each.
fn targets() -> Result<Vec<String>> {
    let folder = repository::root().join("fuzz/targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Builds all targets; gives the folder that they are in.
fn build() -> Result<PathBuf> {
    let host =
        repository::output_of(Command::new("rustc").args(["--print", "host-tuple"]))?.trim().to_owned();
    let folder = repository::root().join("fuzz");
    let built = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| folder.join("target"), PathBuf::from)
        .join("fuzz");
    // An explicit target keeps the flags away from build scripts and procedural macros.
    let mut cargo = repository::cargo(["build", "--locked", "--release", "--target", &host]);
    cargo.current_dir(&folder).env("CARGO_TARGET_DIR", &built).env("RUSTFLAGS", FLAGS);
    crate::ci::succeed(&mut cargo)?;
    Ok(built.join(host).join("release"))
}

/// Runs one target; gives its line of figures, and whether it ended well.
fn run_one(program: &Path, target: &str, seconds: u32, corpus: &Path) -> Result<(String, bool)> {
    let inputs = corpus.join(target);
    std::fs::create_dir_all(&inputs).with_context(|| format!("make {}", inputs.display()))?;
    let option = |name: &str, value: &dyn std::fmt::Display| format!("-{name}={value}");
    let output = Command::new(program)
        .args([
            option("max_total_time", &seconds),
            option("max_len", &MOST_BYTES),
            option("rss_limit_mb", &MOST_MEMORY),
            option("timeout", &PATIENCE),
            option("print_final_stats", &1),
            option("artifact_prefix", &corpus.join(format!("{target}-")).display()),
        ])
        .arg(&inputs)
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{said}");
    }
    Ok((figures(target, &said), output.status.success()))
}

/// Executions and memory, out of what libFuzzer says at its end.
fn figures(target: &str, said: &str) -> String {
    let figure = |name: &str| {
        let line =
            said.lines().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or("?").trim().to_owned()
    };
    format!(
        "{target}: {} executions, {} a second, {} MiB",
        figure("number_of_executed_units"),
        figure("average_exec_per_sec"),
        figure("peak_rss_mb")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_a_program() {
        let manifest = std::fs::read_to_string(repository::root().join("fuzz/Cargo.toml")).unwrap();
        let targets = targets().unwrap();
        assert!(targets.len() >= 11);
        for target in targets {
            assert!(manifest.contains(&format!("path = \"targets/{target}.rs\"")), "{target}");
        }
    }

    #[test]
    fn figures_are_read_from_the_end_of_a_run() {
        let said = "#5 DONE\nstat::number_of_executed_units: 12\nstat::average_exec_per_sec:     3\nstat::peak_rss_mb: 45\n";
        assert_eq!(figures("text", said), "text: 12 executions, 3 a second, 45 MiB");
    }
}
