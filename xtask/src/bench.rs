//! The bench, with programs as they are released.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{ci, repository};

/// What runs. The agents of the fleet are part of the lab; those of single nodes are not.
const PACKAGES: [&str; 6] =
    ["tenon-lab", "tenon-operator", "tenon-agent", "tenon-loader", "tenon-maker", "kubectl-tenon"];

/// Builds what is to be measured and measures it.
pub(crate) fn run(arguments: &[String]) -> Result<String> {
    let mut build = repository::cargo(["build", "--locked", "--quiet", "--release", "--bins"]);
    build.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
    ci::succeed(&mut build)?;
    let this = std::env::current_exe().context("find this program, whose neighbours they are")?;
    let folder = this.parent().context("find the folder of this program")?.with_file_name("release");
    let program = folder.join("tenon-lab");
    ci::succeed(Command::new(&program).arg("setup"))?;
    if arguments.is_empty() {
        for (bench, page) in [
            ("bench-signing", "docs/benchmarks-signing.md"),
            ("bench-building", "docs/benchmarks-building.md"),
            ("bench-plugins", "docs/benchmarks-plugins.md"),
        ] {
            let mut one = Command::new(&program);
            one.current_dir(repository::root()).env("TENON_LAB_PROGRAMS", &folder);
            ci::succeed(one.args([bench, "--page", page]))?;
        }
    }
    let mut bench = Command::new(&program);
    bench.current_dir(repository::root()).env("TENON_LAB_PROGRAMS", &folder).arg("bench").args(arguments);
    if arguments.is_empty() {
        bench.args(["--json", "docs/benchmarks.json", "--page", "docs/benchmarks.md"]);
    }
    ci::succeed(&mut bench)?;
    Ok("bench: done".to_owned())
}
