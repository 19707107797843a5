//! Every tier of tests, cheapest first, and at the end how many there were.
//!
//! All tiers are one build: cargo is always asked for the whole workspace, and only the test programs differ, so that
//! nothing is compiled twice with other features.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::ci::TestResults;
use crate::conformance::Ledger;
use crate::{ci, dependencies, generate, repository, rights};

/// What tests need, which decides when they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    Units,
    ApiServer,
    Kernels,
    EndToEnd,
    Faults,
}

/// What the simulation drives, thousands of times: worth being optimized for it alone.
const SIMULATED: [&str; 8] = [
    "tenon-agent",
    "tenon-api",
    "tenon-kmod",
    "tenon-loader",
    "tenon-operator",
    "tenon-order",
    "tenon-plan",
    "tenon-test-sim",
];

/// What takes longest of tier 2, to be begun first.
const LONG: [&str; 3] = ["conformance", "cleaning", "faults"];

/// Programs of tier 4 that have pods run on the machine itself: of such nodes it has one at a time.
const ON_THE_HOST: [&str; 4] =
    ["builds_gone_wrong", "built_in_cluster", "pull_through_node", "sources_of_every_kind"];

impl Tier {
    const ALL: [Self; 5] = [Self::Units, Self::ApiServer, Self::Kernels, Self::EndToEnd, Self::Faults];

    /// As people count them.
    const fn number(self) -> u8 {
        match self {
            Self::Units => 1,
            Self::ApiServer => 2,
            Self::Kernels => 3,
            Self::EndToEnd => 4,
            Self::Faults => 5,
        }
    }

    /// The tier of a package's test programs, by the package's folder.
    fn of(folder: &str) -> Option<Self> {
        match folder {
            "lab" | "tests/kernel" => Some(Self::Kernels),
            "tests/api" | "tests/conformance" => Some(Self::ApiServer),
            "tests/e2e" => Some(Self::EndToEnd),
            "tests/sim" => Some(Self::Faults),
            "xtask" => Some(Self::Units),
            folder => {
                ["crates/", "examples/"].iter().any(|place| folder.starts_with(place)).then_some(Self::Units)
            }
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Units => "decisions, parsers, properties",
            Self::ApiServer => "a real API server",
            Self::Kernels => "real kernels in virtual machines",
            Self::EndToEnd => "the whole",
            Self::Faults => "a simulated cluster full of faults",
        }
    }

    /// A guest keeps a processor busy; everything else waits for others most of the time.
    const fn threads(self) -> Option<&'static str> {
        match self {
            Self::Units => None,
            Self::ApiServer | Self::Kernels => Some("2"),
            // The tests of faults use all processors themselves.
            Self::EndToEnd | Self::Faults => Some("1"),
        }
    }

    /// Programs that run at once, and how many of each queue: none where one follows the other.
    ///
    /// What talks to an API server waits most of the time, so two programs share the machine. In tier 4 what waits for the
    /// node on the host and what is built there runs beside what keeps guests busy.
    fn queues(self, programs: &[String]) -> Vec<(Vec<String>, usize)> {
        match self {
            Self::Units | Self::Kernels | Self::Faults => Vec::new(),
            Self::ApiServer => {
                let mut queue = programs.to_vec();
                queue.sort_by_key(|name| LONG.iter().position(|long| long == name).unwrap_or(LONG.len()));
                vec![(queue, 2)]
            }
            Self::EndToEnd => {
                let is_on_the_host = |name: &String| ON_THE_HOST.contains(&name.as_str());
                let (host, guests): (Vec<_>, Vec<_>) = programs.iter().cloned().partition(is_on_the_host);
                vec![(host, 1), (guests, 1)]
            }
        }
    }
}

/// Runs these tiers, all if none is named; goes on after a failure, so that one run shows everything that is wrong.
pub(crate) fn run(tiers: &[u8]) -> Result<String> {
    let tiers: Vec<_> =
        Tier::ALL.into_iter().filter(|tier| tiers.is_empty() || tiers.contains(&tier.number())).collect();
    let begin = Instant::now();
    println!("{}", ci::format()?);
    println!("{}", dependencies::check()?);
    println!("{}", generate::check()?);
    heading("set-up", "packages, kernels, drivers and the control plane's programs");
    let folder = programs(&[])?;
    ci::succeed(Command::new(folder.join("tenon-lab")).arg("setup"))?;
    heading("build", "everything once");
    ci::succeed(&mut repository::cargo(["test", "--locked", "--workspace", "--no-run", "--quiet"]))?;
    let programs = test_programs()?;
    rights::begin()?;
    let mut lines = Vec::new();
    let mut failed = 0;
    let mut ledger = Ledger::default();
    for tier in tiers.iter().copied() {
        heading(&format!("tier {}", tier.number()), tier.title());
        let begin = Instant::now();
        let programs: &[String] = programs.get(&tier).map_or(&[], Vec::as_slice);
        let (results, success) = run_tier(tier, programs, &folder, &mut ledger)?;
        failed += usize::from(!success);
        lines.push(format!(
            "tier {} ({}): {} passed, {} failed in {} programs, {} s",
            tier.number(),
            tier.title(),
            results.passed,
            results.failed,
            results.programs,
            begin.elapsed().as_secs(),
        ));
    }
    println!("\n{}\n\n{}", ledger.table(), lines.join("\n"));
    // Of some tiers, or of tests that failed, only what was used can be told.
    if failed > 0 || tiers.len() < Tier::ALL.len() {
        println!("{}", rights::report(&rights::folder())?);
    } else {
        println!("{}", rights::judge(&rights::folder())?);
    }
    if failed > 0 {
        bail!("{failed} of {} tiers failed after {} s", tiers.len(), begin.elapsed().as_secs());
    }
    Ok(format!("test: all {} tiers passed in {} s", tiers.len(), begin.elapsed().as_secs()))
}

pub(crate) fn heading(what: &str, why: &str) {
    println!("\n== {what}: {why}");
}

/// The lab and all that it runs in nodes and beside them, built as the Makefile and the lab itself build it, and at once
/// with these the programs of other packages.
pub(crate) fn programs(others: &[&str]) -> Result<PathBuf> {
    let mut build = repository::cargo(["build", "--locked", "--quiet", "--bins"]);
    let own = [
        "tenon-lab",
        "tenon-operator",
        "tenon-agent",
        "tenon-loader",
        "tenon-maker",
        "kubectl-tenon",
        "tenon-example-device-plugin",
        "tenon-example-dra-driver",
    ];
    for package in own.iter().chain(others) {
        build.args(["--package", package]);
    }
    ci::succeed(&mut build)?;
    let this = std::env::current_exe().context("find this program, which lies beside them")?;
    Ok(this.parent().context("find the folder of this program")?.to_owned())
}

/// The parts of cargo's metadata that count here.
#[derive(Deserialize)]
struct Metadata {
    workspace_root: PathBuf,
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// The workspace's test programs beside its libraries' own, by tier.
fn test_programs() -> Result<BTreeMap<Tier, Vec<String>>> {
    let output = repository::cargo(["metadata", "--locked", "--no-deps", "--format-version=1"])
        .output()
        .context("run cargo metadata")?;
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("read cargo's metadata")?;
    let mut programs: BTreeMap<Tier, Vec<String>> = BTreeMap::new();
    let mut homes: BTreeMap<String, String> = BTreeMap::new();
    for package in metadata.packages {
        let folder = package
            .manifest_path
            .parent()
            .and_then(|folder| folder.strip_prefix(&metadata.workspace_root).ok());
        let folder = folder.map(|folder| folder.display().to_string()).unwrap_or_default();
        let tier = Tier::of(&folder).with_context(|| format!("{folder} belongs to no tier of tests"))?;
        let is_test = |target: &Target| target.kind.iter().any(|kind| kind == "test");
        for Target { name, .. } in package.targets.into_iter().filter(is_test) {
            if let Some(other) = homes.insert(name.clone(), folder.clone()) {
                bail!(
                    "{other}/tests/{name}.rs and {folder}/tests/{name}.rs have one name; rename one of them"
                );
            }
            programs.entry(tier).or_default().push(name);
        }
    }
    Ok(programs)
}

fn run_tier(
    tier: Tier,
    programs: &[String],
    folder: &Path,
    ledger: &mut Ledger,
) -> Result<(TestResults, bool)> {
    if tier != Tier::Units && programs.is_empty() {
        bail!("tier {} has no test program", tier.number());
    }
    let queues = tier.queues(programs);
    if !queues.is_empty() {
        return run_queues(tier, queues, folder, ledger);
    }
    let ended = run_programs(tier, programs, folder, &mut |line| {
        // What is fine in thousands is only counted; what is slow or wrong is shown as it comes.
        let is_fine = line.ends_with(" ... ok") || line.is_empty() || line.starts_with("running ");
        if tier == Tier::Units && is_fine { Ok(()) } else { writeln!(std::io::stdout(), "{line}") }
    })?;
    ledger.read(&ended.output);
    checked(tier, &ended.output, ended.success)
}

/// Queues of programs, all at once, each with so many programs at a time. What a program says is shown when it ends, whole.
fn run_queues(
    tier: Tier,
    queues: Vec<(Vec<String>, usize)>,
    folder: &Path,
    ledger: &mut Ledger,
) -> Result<(TestResults, bool)> {
    let work = |queue: &Mutex<VecDeque<String>>| -> Result<Vec<Ended>> {
        let mut all = Vec::new();
        while let Some(name) = next(queue) {
            let ended = run_programs(tier, std::slice::from_ref(&name), folder, &mut |_| Ok(()))?;
            write!(std::io::stdout(), "\n-- {name}\n{}", ended.output)?;
            all.push(ended);
        }
        Ok(all)
    };
    let queues: Vec<_> =
        queues.into_iter().map(|(names, at_once)| (Mutex::new(VecDeque::from(names)), at_once)).collect();
    let ended = thread::scope(|scope| {
        let workers: Vec<_> = queues
            .iter()
            .flat_map(|(queue, at_once)| std::iter::repeat_n(queue, *at_once))
            .map(|queue| scope.spawn(move || work(queue)))
            .collect();
        workers.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    let mut output = String::new();
    let mut success = true;
    for ended in ended {
        let Ok(ended) = ended else { bail!("a queue of tier {} ended in a panic", tier.number()) };
        for program in ended? {
            output.push_str(&program.output);
            success &= program.success;
        }
    }
    ledger.read(&output);
    checked(tier, &output, success)
}

fn next(queue: &Mutex<VecDeque<String>>) -> Option<String> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}

/// What came of test programs.
struct Ended {
    output: String,
    success: bool,
}

/// Runs test programs one after the other, all that the tier has if none is named; hands on each line as it comes.
fn run_programs(
    tier: Tier,
    programs: &[String],
    folder: &Path,
    show: &mut dyn FnMut(&str) -> std::io::Result<()>,
) -> Result<Ended> {
    let mut command = repository::cargo(["test", "--locked", "--workspace", "--no-fail-fast"]);
    if tier == Tier::Faults {
        for package in SIMULATED {
            command.args(["--config", &format!("profile.dev.package.{package}.opt-level=3")]);
        }
    }
    if tier == Tier::Units {
        command.args(["--lib", "--bins"]);
    }
    command.args(programs.iter().flat_map(|name| ["--test", name.as_str()]));
    // So that no test builds anything.
    command.env("TENON_LAB_PROGRAMS", folder).env(rights::FOLDER, rights::folder());
    if let Some(threads) = tier.threads() {
        command.env("RUST_TEST_THREADS", threads);
    }
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("run {command:?}"))?;
    let mut output = String::new();
    for line in BufReader::new(child.stdout.take().context("read cargo's output")?).lines() {
        let line = line.context("read cargo's output")?;
        show(&line)?;
        output.push_str(&line);
        output.push('\n');
    }
    let success = child.wait().context("wait for cargo")?.success();
    Ok(Ended { output, success })
}

/// A tier in which nothing ran has shown nothing.
fn checked(tier: Tier, output: &str, success: bool) -> Result<(TestResults, bool)> {
    let results = TestResults::of(output);
    if results.ignored > 0 {
        bail!("{} tests are ignored: a test runs or is not there", results.ignored);
    }
    if success && results.passed == 0 {
        bail!("tier {} ran no test", tier.number());
    }
    Ok((results, success))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_has_a_tier_and_every_test_program_a_name_of_its_own() {
        let programs = test_programs().unwrap();
        assert!(programs.get(&Tier::ApiServer).is_some_and(|names| names.contains(&"crds".to_owned())));
        assert_eq!(Tier::of("tests/new"), None);
    }

    #[test]
    fn every_program_of_a_tier_is_in_one_of_its_queues() {
        let programs = test_programs().unwrap();
        for tier in [Tier::ApiServer, Tier::EndToEnd] {
            let mut queued: Vec<_> =
                tier.queues(&programs[&tier]).into_iter().flat_map(|(names, _)| names).collect();
            let mut all = programs[&tier].clone();
            queued.sort();
            all.sort();
            assert_eq!(queued, all);
        }
        assert!(LONG.iter().all(|name| programs[&Tier::ApiServer].iter().any(|program| program == name)));
    }

    #[test]
    fn the_programs_on_the_host_are_those_that_have_a_node_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/e2e/tests");
        let mut found = Vec::new();
        for name in test_programs().unwrap().remove(&Tier::EndToEnd).unwrap() {
            let text = std::fs::read_to_string(root.join(format!("{name}.rs")));
            if text.is_ok_and(|text| ["add_host_node", "forge::add("].iter().any(|one| text.contains(one))) {
                found.push(name);
            }
        }
        found.sort();
        assert_eq!(found, ON_THE_HOST);
    }
}
