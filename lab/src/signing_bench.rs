//! `tenon-lab bench-signing`: one driver in a real image, signed and published by Tenon and, beside it, the way that others do it: by
//! a container builder and the kernel's own `sign-file`. Bytes are those that pass between them and the registry.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use tenon_lab::build_images;
use tenon_lab::certificates;
use tenon_lab::command;
use tenon_lab::dir::LabDir;
use tenon_lab::drivers::{self, Driver};
use tenon_lab::kernel::{Kernel, Origin};
use tenon_lab::programs::{self, Program};
use tenon_lab::registry::{Protection, Registry};
use tenon_lab::setup::Supplies;
use tokio::task::spawn_blocking;

use crate::weighing::{Scale, median};

/// What is signed.
const MODULE: &str = "simple-kmod.ko";

/// How often, and where to put it.
#[derive(Debug, Args)]
pub(crate) struct SigningBench {
    /// How often each signs it
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Where to write the table
    #[arg(long, value_name = "PATH")]
    page: Option<PathBuf>,
}

/// What one of them took.
#[derive(Debug, Clone, Copy)]
struct Cost {
    time: Duration,
    bytes: u64,
}

pub(crate) async fn run(bench: &SigningBench, say: &mut impl FnMut(&str)) -> anyhow::Result<()> {
    let supplies = Supplies::get().context("get what the lab needs")?;
    let folder = LabDir::create()?;
    let registry = Registry::start(&supplies, folder.path(), "registry", &Protection::default()).await?;
    let scale = Scale::start(Ipv4Addr::LOCALHOST.into(), &registry.host()).await?;
    let place = Place {
        folder: folder.path().to_owned(),
        kernel: supplies.kernel(Origin::Stable)?.clone(),
        registry: scale.address().to_owned(),
    };
    say("a driver's image on a base of some hundred megabytes");
    let (work, host) = (place.clone(), registry.host());
    spawn_blocking(move || work.prepare(&host)).await??;
    let (mut ours, mut by_glob, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    // In turns: what the machine does beside it hits both.
    for number in 1..=bench.runs {
        let work = place.clone();
        ours.push(weigh(&scale, move || work.tenon(number, MODULE)).await?);
        let work = place.clone();
        by_glob.push(weigh(&scale, move || work.tenon(number, "*.ko")).await?);
        let work = place.clone();
        theirs.push(weigh(&scale, move || work.buildah(number)).await?);
        say(&format!("run {number} of {}", bench.runs));
    }
    let page = page(&ours, &by_glob, &theirs);
    println!("{page}");
    if let Some(path) = &bench.page {
        fs::write(path, &page).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Where both work.
#[derive(Debug, Clone)]
struct Place {
    folder: PathBuf,
    kernel: Kernel,
    /// The registry, by the way on which bytes are counted.
    registry: String,
}

impl Place {
    /// The unsigned image: the kernel's toolkit and, in one more layer, a driver; and a key.
    fn prepare(&self, registry: &str) -> anyhow::Result<()> {
        certificates::make(&self.folder, certificates::RSA_2048, "1")?;
        let context = self.folder.join("context");
        fs::create_dir_all(&context).with_context(|| format!("create {}", context.display()))?;
        for file in drivers::build(&self.kernel, Driver::SimpleKmod.into())?.files() {
            let name = file.file_name().context("name a module")?;
            fs::copy(&file, context.join(name)).with_context(|| format!("copy {}", file.display()))?;
        }
        let toolkit = build_images::toolkit(&self.kernel)?;
        let reference = format!("{registry}/toolkit:1");
        tokio::runtime::Handle::current().block_on(toolkit.push(&reference))?;
        let recipe = format!("FROM {reference}\nCOPY {MODULE} {}/\n", self.modules());
        fs::write(context.join("Containerfile"), recipe).context("write a Containerfile")?;
        let storage = self.folder.join("storage-of-preparation");
        let unsigned = format!("{registry}/driver:unsigned");
        let build = ["build", "--tls-verify=false", "--isolation=chroot", "--tag", &unsigned];
        command::run(buildah(&storage, &build).arg(&context))?;
        command::run(&mut buildah(&storage, &["push", "--tls-verify=false", &unsigned]))?;
        Ok(fs::remove_dir_all(&storage)?)
    }

    fn modules(&self) -> String {
        format!("/opt/lib/modules/{}", self.kernel.release)
    }

    fn keys(&self) -> [PathBuf; 2] {
        ["key.pem", "certificate.pem"].map(|name| self.folder.join(name))
    }

    fn tenon(&self, number: usize, files: &str) -> anyhow::Result<()> {
        let [key, certificate] = self.keys();
        let mut sign = Command::new(programs::program(Program::Cli)?);
        sign.args(["image", "sign", "--plain-http", "--file"]).arg(format!("{}/{files}", self.modules()));
        sign.arg("--key").arg(key).arg("--cert").arg(certificate);
        sign.arg(format!("{}/driver:unsigned", self.registry));
        let how = if files == MODULE { "tenon" } else { "tenon-by-glob" };
        sign.arg(format!("{}/driver:{how}-{number}", self.registry));
        command::run(&mut sign)?;
        Ok(())
    }

    /// With nothing there yet, as in a pod.
    fn buildah(&self, number: usize) -> anyhow::Result<()> {
        let storage = self.folder.join(format!("storage-{number}"));
        let text = |arguments: &[&str]| command::text(&mut buildah(&storage, arguments));
        let unsigned = format!("{}/driver:unsigned", self.registry);
        let container = text(&["from", "--quiet", "--tls-verify=false", &unsigned])?;
        let container = container.trim();
        let root = text(&["mount", container])?;
        let module = Path::new(root.trim()).join(self.modules().trim_start_matches('/')).join(MODULE);
        let [key, certificate] = self.keys();
        let mut sign = Command::new(self.kernel.sign_file()?);
        command::run(sign.arg("sha256").arg(key).arg(certificate).arg(module))?;
        let signed = format!("{}/driver:buildah-{number}", self.registry);
        text(&["umount", container])?;
        text(&["commit", "--quiet", container, &signed])?;
        text(&["push", "--quiet", "--tls-verify=false", &signed])?;
        Ok(())
    }
}

fn buildah(storage: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("buildah");
    command.arg("--root").arg(storage.join("root")).arg("--runroot").arg(storage.join("run"));
    command.args(arguments);
    command
}

/// Does it, and says what it took.
async fn weigh(
    scale: &Scale,
    work: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<Cost> {
    let (before, begun) = (scale.bytes(), Instant::now());
    spawn_blocking(work).await??;
    let time = begun.elapsed();
    scale.settle().await?;
    Ok(Cost { time, bytes: scale.bytes() - before })
}

fn page(ours: &[Cost], by_glob: &[Cost], theirs: &[Cost]) -> String {
    let mut page = "# What it costs to sign an image\n\n\
        Written by `make bench`; do not edit. A driver of one module in an image on top of its kernel's toolkit, in a registry on the same\n\
        machine, is signed and published under another name: by `kubectl tenon image sign`, which is what Tenon's Jobs do, and by buildah\n\
        (pull, mount, `sign-file` of the kernel's headers, commit, push) with nothing there yet, as in a pod. In turns; the middle one of\n"
        .to_owned();
    let _ =
        write!(page, "{} runs each. Bytes are those on the way to and from the registry.\n\n", ours.len());
    page.push_str(
        "| | seconds | bytes | times quicker, times fewer bytes than buildah |\n|---|---|---|---|\n",
    );
    let middle = |costs: &[Cost]| {
        let time = median(costs.iter().map(|cost| cost.time)).unwrap_or_default().as_secs_f64();
        (time, median(costs.iter().map(|cost| cost.bytes)).unwrap_or_default())
    };
    let buildah = middle(theirs);
    let rows = [
        ("Tenon, the file named", middle(ours)),
        ("Tenon, by a glob: all layers are read", middle(by_glob)),
        ("buildah", buildah),
    ];
    for (who, (seconds, bytes)) in rows {
        let (quicker, smaller) = (buildah.0 / seconds, buildah.1.checked_div(bytes).unwrap_or_default());
        let _ = writeln!(page, "| {who} | {seconds:.2} | {bytes} | {quicker:.0}, {smaller} |");
    }
    page
}
