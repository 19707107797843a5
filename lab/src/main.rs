//! The lab as a command: a cluster to try things on.

mod building_bench;
mod demo;
mod plugins_bench;
mod scale_command;
mod signing_bench;
mod weighing;

use std::fs::File;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, Parser};
use tenon_lab::command::Tail;
use tenon_lab::drivers::Driver;
use tenon_lab::images::{self, Destination};
use tenon_lab::kernel::Origin;
use tenon_lab::session::{self, Session};
use tenon_lab::{Lab, programs};
use tokio::signal::unix::{SignalKind, signal};

/// A cluster on one machine, with virtual machines for nodes.
#[derive(Debug, Parser)]
#[command(name = "tenon-lab", version)]
enum Command {
    /// Gets everything that the lab needs: packages, kernels, the control plane. As root on a fresh machine.
    Setup,
    /// Loads, changes and removes a driver on three nodes, one of them with a kubelet, and checks that each step is true.
    Demo,
    /// Starts a cluster with Tenon installed, and stays until it is interrupted.
    Up(Up),
    /// Ends the cluster that `up` started.
    Down,
    /// Counts and times what Tenon does with thousands of simulated nodes.
    Bench(scale_command::Bench),
    /// Signs an image and publishes it, beside a container builder that does the same. As root.
    BenchSigning(signing_bench::SigningBench),
    /// Makes images in every way, and says what each costs. As root.
    BenchBuilding(building_bench::BuildingBench),
    /// Counts what device plugins and version labels cost
    BenchPlugins(plugins_bench::PluginsBench),
}

#[derive(Debug, Args)]
struct Up {
    /// How many nodes; they boot the two kernels in turn.
    #[arg(long, default_value_t = 2)]
    nodes: usize,
    /// Goes on in the background, and returns when the cluster is ready.
    #[arg(long)]
    detach: bool,
}

fn main() -> ExitCode {
    match run(&Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tenon-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Setup => setup(),
        Command::Demo => runtime()?.block_on(demo::run()),
        Command::Up(up) if up.detach => detach(up),
        Command::Up(up) => runtime()?.block_on(stay(up)),
        Command::Down => Ok(session::end()?),
        Command::Bench(bench) => runtime()?.block_on(scale_command::run(bench, &mut progress())),
        Command::BenchSigning(bench) => runtime()?.block_on(signing_bench::run(bench, &mut progress())),
        Command::BenchBuilding(bench) => runtime()?.block_on(building_bench::run(bench, &mut progress())),
        Command::BenchPlugins(bench) => runtime()?.block_on(plugins_bench::run(bench, &mut progress())),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Runtime::new().context("start")
}

fn setup() -> anyhow::Result<()> {
    let mut say = progress();
    tenon_lab::setup::setup(&mut say).context("set up the lab")?;
    say("ready");
    Ok(())
}

async fn stay(up: &Up) -> anyhow::Result<()> {
    let mut say = progress();
    let session = Session::claim()?;
    // Before anything runs, so that an early interruption tidies up too.
    let mut interrupted = signal(SignalKind::interrupt()).context("listen for interruption")?;
    let mut ended = signal(SignalKind::terminate()).context("listen for termination")?;
    let wanted_end = async {
        tokio::select! { _ = interrupted.recv() => {}, _ = ended.recv() => {} }
    };
    tokio::select! {
        () = wanted_end => Ok(()),
        result = serve(up, &session, &mut say) => result,
    }
}

async fn serve(up: &Up, session: &Session, say: &mut impl FnMut(&str)) -> anyhow::Result<()> {
    say("control plane, registry, operator");
    let mut lab = Lab::start().await?;
    for (number, origin) in (1..=up.nodes).zip(Origin::ALL.into_iter().cycle()) {
        let node = lab.add_node(&format!("node-{number}"), origin).await?;
        say(&format!("node-{number}: {}", node.guest().kernel().release));
    }
    say("the images of examples/modules");
    for image in EXAMPLES {
        push(&lab, image).await?;
    }
    session.announce(lab.plane().kubeconfig())?;
    say("ready");
    println!("{}", advice(&lab)?);
    let mut period = tokio::time::interval(Duration::from_secs(1));
    loop {
        period.tick().await;
        lab.check()?;
    }
}

/// A driver of the examples, its image's name and tag, and the firmware file that the image brings.
type Example = (Driver, &'static str, Option<&'static str>);

/// What the manifests in `examples/modules` name.
const EXAMPLES: [Example; 8] = [
    (Driver::SimpleKmod, "simple-kmod:1.0", None),
    (Driver::SimpleProcfsKmod, "simple-procfs-kmod:1.0", None),
    (Driver::SimpleProcfsKmod, "simple-procfs-kmod:2.0", None),
    (Driver::Pair, "lab-pair:1.0", None),
    (Driver::Firmware, "lab-firmware:1.0", Some("lab-firmware.bin")),
    (Driver::Chardev, "lab-chardev:1.0", None),
    (Driver::Broken, "lab-broken:1.0", None),
    (Driver::InTreeUser, "lab-intree-user:1.0", None),
];

async fn push(lab: &Lab, (driver, name, firmware): Example) -> anyhow::Result<()> {
    let version = name.rsplit_once(':').map_or("", |(_, version)| version);
    let mut content = images::content(lab, driver, version).await?;
    if let Some(file) = firmware {
        content = content.with_firmware(file, b"hello from a file");
    }
    let registry = &lab.registry().host();
    images::push(lab, &content, Destination { registry, name, user: None }).await?;
    Ok(())
}

fn advice(lab: &Lab) -> anyhow::Result<String> {
    let kubectl = lab.plane().kubectl_command();
    let plugin = programs::program(programs::Program::Cli)?;
    let folder = |program: &Path| program.parent().unwrap_or(program).display().to_string();
    let registry = lab.registry().host();
    Ok(format!(
        "
export KUBECONFIG={}
export PATH={}:{}:$PATH

kubectl get nodes,nodemodulesconfigs
sed 's|registry.example:5000|{registry}|' examples/modules/parameters.yaml | kubectl apply -f -
kubectl get modules --watch

registry {registry}
logs     {}
end      tenon-lab down, or Ctrl-C
",
        lab.plane().kubeconfig().display(),
        folder(Path::new(kubectl.get_program())),
        folder(&plugin),
        lab.folder().display(),
    ))
}

/// Starts the same command in the background, with its words in a file, and waits until it is ready.
fn detach(up: &Up) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt as _;

    anyhow::ensure!(session::current()?.is_none(), session::SessionError::Running);
    let log = std::env::temp_dir().join(format!("tenon-lab-up-{}.log", std::process::id()));
    let out = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let err = out.try_clone().context("share the log")?;
    let mut child = std::process::Command::new(std::env::current_exe().context("find this program")?)
        .args(["up", "--nodes", &up.nodes.to_string()])
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .process_group(0)
        .spawn()
        .context("start in the background")?;
    while session::current()?.is_none() {
        if let Some(status) = child.try_wait().context("watch the lab")? {
            anyhow::bail!("the lab ended ({status}); {} ends with\n{}", log.display(), Tail::of_file(&log));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    print_log(&log)
}

fn print_log(log: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(log).with_context(|| format!("read {}", log.display()))?;
    print!("{text}");
    Ok(())
}

fn progress() -> impl FnMut(&str) {
    let start = Instant::now();
    move |step: &str| eprintln!("{:6.1} s  {step}", start.elapsed().as_secs_f32())
}
