//! A driver's life on three nodes, for someone to watch: every claim is checked, and the first that is not true ends it.

mod making;
mod terminal;
mod watch;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use kube::Api;
use tenon_api::NodeModulesConfig;
use tenon_api::node_pod::NAMESPACE;
use tenon_lab::claim::comes_true;
use tenon_lab::command::Tail;
use tenon_lab::enforcing::{self, Way};
use tenon_lab::journey::{COST_OF_CHANGE, COST_OF_LOAD, Journey};
use tenon_lab::kernel::Origin;
use tenon_lab::pods::{Nodes, Release, SHIPPED};
use tenon_lab::{Guest, Lab};
use tokio::signal::unix::{SignalKind, signal};

use making::Workshop;
use terminal::Terminal;
use watch::Watch;

/// The manifest, from the repository's root.
const MANIFEST: &str = "examples/modules/built-and-signed.yaml";
/// What stands in the manifest for a registry, and for a repository.
const REGISTRY: &str = "registry.example:5000";
const REPOSITORY: &str = "https://git.example/drivers.git";
/// The Module in it.
const MODULE: &str = "default/simple-procfs-kmod";
/// Its module, as the kernel names it, and what the driver shows.
const KERNEL_MODULE: &str = "simple_procfs_kmod";
const PROC_FILE: &str = "/proc/simple-procfs-kmod";
/// Nodes that Tenon's lab plays the kubelet for, and how their kernels come to load nothing but what is signed.
const NODES: [(&str, Origin, Way); 2] =
    [("node-1", Origin::Stable, Way::BuiltIn), ("node-2", Origin::Backports, Way::SecureBoot)];
/// The node that has a kubelet.
const REAL_NODE: &str = "node-3";
/// What `kubectl get` is asked for.
const KINDS: &str = "modules,moduleimages,nodemodulesconfigs";
/// Versions, and the most writes per node that each may cost.
const VERSIONS: [(&str, u64); 2] = [("1.0", COST_OF_LOAD), ("2.0", COST_OF_CHANGE)];

/// Shows all of it, unless it is interrupted.
pub(crate) async fn run() -> anyhow::Result<()> {
    let mut interrupted = signal(SignalKind::interrupt()).context("listen for interruption")?;
    let mut ended = signal(SignalKind::terminate()).context("listen for termination")?;
    let interruption = async {
        tokio::select! { _ = interrupted.recv() => {}, _ = ended.recv() => {} }
    };
    tokio::select! {
        () = interruption => anyhow::bail!("interrupted"),
        result = show() => result,
    }
}

async fn show() -> anyhow::Result<()> {
    let mut terminal = Terminal::new();
    terminal.title(
        "Tenon: a driver's life, from its sources to three nodes that load nothing but what is signed",
    );
    set_up(&mut terminal).await?;
    let (mut lab, workshop) = start(&mut terminal).await?;
    match live(&mut lab, &workshop, &mut terminal).await {
        Ok(()) => {
            terminal.end();
            Ok(())
        }
        Err(error) => {
            lab.keep_folder();
            terminal.failure(&format!("{error:#}"));
            for log in lab.logs() {
                terminal.log(&log, &Tail::of_file(&log));
            }
            anyhow::bail!("a claim is not true; all logs are in {}", lab.folder().display())
        }
    }
}

/// Everything after the start: what needs the lab's logs when it fails.
async fn live(lab: &mut Lab, workshop: &Workshop, terminal: &mut Terminal) -> anyhow::Result<()> {
    add_nodes(lab, workshop, terminal).await?;
    nodes(lab, terminal).await?;
    terminal.stage("The driver as sources in a git repository: two versions; and a key that the nodes trust");
    workshop.fill(lab, terminal).await?;
    let mut journey = Journey::new(MODULE.parse().context("name the Module")?, KERNEL_MODULE);
    let mut watch = Watch::default();
    for (version, most) in VERSIONS {
        load(lab, workshop, terminal, (&mut journey, &mut watch), (version, most)).await?;
    }
    unload(lab, terminal, &mut journey, &mut watch).await?;
    Ok(lab.check()?)
}

async fn set_up(terminal: &mut Terminal) -> anyhow::Result<()> {
    terminal.stage("What the lab is made of: packages, kernels, a control plane (built the first time only)");
    let (sender, mut steps) = tokio::sync::mpsc::unbounded_channel();
    let done = tokio::task::spawn_blocking(move || {
        // Nobody listens any more when the demonstration is interrupted.
        tenon_lab::setup::setup(&mut |step| drop(sender.send(step.to_owned())))
    });
    while let Some(step) = steps.recv().await {
        terminal.event(step);
    }
    done.await.context("set up the lab")?.context("set up the lab")?;
    Ok(())
}

async fn start(terminal: &mut Terminal) -> anyhow::Result<(Lab, Workshop)> {
    terminal
        .stage("A cluster with a node that builds, and three nodes: virtual machines with Debian's kernels");
    let mut lab = Lab::start_without_operator().await?;
    let workshop = Workshop::open(&mut lab, terminal).await?;
    lab.start_operator().await?;
    terminal.event("API server, registry and Tenon's operator run");
    Ok((lab, workshop))
}

async fn add_nodes(lab: &mut Lab, workshop: &Workshop, terminal: &mut Terminal) -> anyhow::Result<()> {
    for (name, origin, way) in NODES {
        let node = enforcing::add(lab, name, (origin, way), &workshop.keys).await?;
        let how = match way {
            Way::SecureBoot => "by Secure Boot, untouched",
            Way::BuiltIn => "with our certificate in place of its maker's",
        };
        terminal.event(format!("{name} has booted {} {how}", node.guest().kernel().release));
    }
    real_node(lab, &workshop.keys, terminal).await?;
    let names = NODES.map(|(name, ..)| name);
    let line = [&["label", "nodes"], names.as_slice(), &[REAL_NODE, "example.com/drivers=yes"]].concat();
    kubectl(lab, terminal, &line).await
}

/// The third node is one like any other: kubelet, containerd, and Tenon's pod as it is shipped.
async fn real_node(lab: &mut Lab, keys: &Path, terminal: &mut Terminal) -> anyhow::Result<()> {
    let settings = enforcing::settings(lab, REAL_NODE, (Origin::Stable, Way::SecureBoot), keys)?;
    let worker = lab.add_worker_with(settings).await?;
    let release = &worker.guest().kernel().release;
    terminal.event(format!("{REAL_NODE} has booted {release} by Secure Boot; its kubelet is ready"));
    lab.publish(Release { version: SHIPPED, programs: None }).await?;
    lab.deploy_node_pod(SHIPPED, Nodes::Only(REAL_NODE)).await?;
    lab.node_pods_rolled_out().await?;
    terminal
        .event(format!("{REAL_NODE} has pulled the images that deploy/node.yaml names; its pod is ready"));
    Ok(())
}

async fn nodes(lab: &Lab, terminal: &mut Terminal) -> anyhow::Result<()> {
    let configs: Api<NodeModulesConfig> = Api::all(lab.plane().client());
    comes_true("the agents of all nodes have registered", async || {
        for guest in lab.guests() {
            let config = configs.get(guest.name()).await.map_err(|error| error.to_string())?;
            let status = config.status.unwrap_or_default();
            let said = status.conditions.first().map(|condition| condition.message.clone());
            status.store_id.ok_or(format!("{}: {}", guest.name(), said.unwrap_or_default()))?;
        }
        Ok(())
    })
    .await?;
    terminal.event("the agents on all have registered");
    kubectl(lab, terminal, &["get", "nodes,nodemodulesconfigs", "-o", "wide"]).await?;
    let mut releases = BTreeSet::new();
    for guest in lab.guests() {
        releases.insert(in_node(terminal, guest, "uname -r").await?);
    }
    Terminal::space();
    ensure!(releases.len() == 2, "the nodes run {releases:?}");
    terminal.held("two of the nodes run different kernels");
    for guest in lab.guests() {
        let said = in_node(terminal, guest, "cat /sys/module/module/parameters/sig_enforce").await?;
        ensure!(said == "Y", "{} would load anything", guest.name());
    }
    Terminal::space();
    terminal.held("none of them loads what nobody has signed whom it knows");
    kubectl(
        lab,
        terminal,
        &["get", "pods", "-n", NAMESPACE, "--field-selector", &format!("spec.nodeName={REAL_NODE}")],
    )
    .await?;
    let guest = lab.worker(REAL_NODE).context("find the worker")?.guest();
    let line = "grep -E '^(CapBnd|Seccomp):' /proc/$(pidof tenon-loader)/status";
    let said = in_node(terminal, guest, line).await?;
    Terminal::space();
    ensure!(said.contains("0000000400010000"), "the loader's capabilities are {said}");
    terminal.held(format!(
        "on {REAL_NODE} a kubelet runs the shipped pod, its loader with SYS_MODULE and SYSLOG alone"
    ));
    Ok(())
}

async fn load(
    lab: &Lab,
    workshop: &Workshop,
    terminal: &mut Terminal,
    (journey, watch): (&mut Journey, &mut Watch),
    (version, most): (&str, u64),
) -> anyhow::Result<()> {
    terminal.stage(&format!(
        "Version {version}: the Module is {}",
        if watch.is_empty() { "applied" } else { "changed" }
    ));
    let mark = lab.plane().audit().mark();
    apply(lab, workshop, terminal, version).await?;
    Terminal::space();
    making::built(lab, terminal, journey, watch, Origin::ALL.len()).await?;
    journey.loaded(lab, |state| watch.tell(state, terminal)).await?;
    kubectl(lab, terminal, &["get", "jobs", "-o", "wide"]).await?;
    kubectl(lab, terminal, &["get", KINDS]).await?;
    labels(lab, terminal).await?;
    for guest in lab.guests() {
        in_node(terminal, guest, &format!("grep {KERNEL_MODULE} /proc/modules")).await?;
        let said = in_node(terminal, guest, &format!("cat {PROC_FILE}")).await?;
        let wanted = format!("simple-procfs-kmod {version}");
        ensure!(said == wanted, "{} on {} says {said:?}, not {wanted:?}", PROC_FILE, guest.name());
    }
    Terminal::space();
    terminal.held(format!("all nodes run version {version} and are labelled; every object says so"));
    tell_costs(lab, terminal, journey, mark, most)
}

async fn unload(
    lab: &Lab,
    terminal: &mut Terminal,
    journey: &mut Journey,
    watch: &mut Watch,
) -> anyhow::Result<()> {
    terminal.stage("Nothing: the Module is deleted");
    let mark = lab.plane().audit().mark();
    let name = journey.key().name().to_owned();
    kubectl(lab, terminal, &["delete", "module", &name, "--wait=false"]).await?;
    Terminal::space();
    journey.unloaded(lab, |state| watch.tell(state, terminal)).await?;
    kubectl(lab, terminal, &["get", KINDS]).await?;
    labels(lab, terminal).await?;
    let mut left = Vec::new();
    for guest in lab.guests() {
        in_node(terminal, guest, &format!("grep {KERNEL_MODULE} /proc/modules; ls {PROC_FILE}")).await?;
        left.push(in_node(terminal, guest, "find /var/lib/tenon -type f").await?);
    }
    Terminal::space();
    terminal.held("no Module, no image, no entry, no order and no label of it is left in the cluster");
    let of_the_driver =
        |line: &&str| ["/files/", "/bundles/", "/modules/", "/marks/"].iter().any(|part| line.contains(part));
    let remains: Vec<_> = left.iter().flat_map(|list| list.lines()).filter(of_the_driver).collect();
    ensure!(remains.is_empty(), "the nodes' disks still hold {remains:?}");
    terminal.held("no kernel has it, and no disk holds a file or a record of it");
    tell_costs(lab, terminal, journey, mark, COST_OF_CHANGE)
}

fn tell_costs(
    lab: &Lab,
    terminal: &mut Terminal,
    journey: &Journey,
    mark: tenon_lab::control_plane::audit::Mark,
    most: u64,
) -> anyhow::Result<()> {
    let costs = journey.costs(lab, mark, most)?;
    let costs: Vec<_> = costs.iter().map(|(node, writes)| format!("{node} {writes}")).collect();
    terminal.held(format!("writes to the API server per node: {} (at most {most})", costs.join(", ")));
    Ok(())
}

/// Applies the example as its README says, with another tag where another version is wished for.
async fn apply(lab: &Lab, workshop: &Workshop, terminal: &Terminal, version: &str) -> anyhow::Result<()> {
    let (registry, repository) = (&workshop.registry, workshop.repository());
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(MANIFEST);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let text = text.replace(REGISTRY, registry).replace(REPOSITORY, repository).replace("1.0", version);
    let said = lab.plane().kubectl_with_input(&["apply", "-f", "-"], &text).await?;
    let tag = if version == "1.0" { String::new() } else { format!("; s|1.0|{version}|") };
    let line = format!(
        "sed 's|{REGISTRY}|{registry}|; s|{REPOSITORY}|{repository}|{tag}' {MANIFEST} | kubectl apply -f -"
    );
    terminal.command("", &line, &said);
    Ok(())
}

async fn kubectl(lab: &Lab, terminal: &Terminal, args: &[&str]) -> anyhow::Result<()> {
    let said = lab.plane().kubectl(args).await?;
    terminal.command("", &format!("kubectl {}", args.join(" ")), &said);
    Ok(())
}

/// Only the labels that are about modules: a node has many.
async fn labels(lab: &Lab, terminal: &Terminal) -> anyhow::Result<()> {
    let said = lab.plane().kubectl(&["label", "nodes", "--all", "--list"]).await?;
    let lines: Vec<_> = said.lines().filter(|line| line.contains("Node") || line.contains("kmm")).collect();
    terminal.command("", "kubectl label nodes --all --list | grep -e Node -e kmm", &lines.join("\n"));
    Ok(())
}

/// Runs a line in a node and shows what it says, complaints included.
async fn in_node(terminal: &Terminal, guest: &Guest, line: &str) -> anyhow::Result<String> {
    let output = guest.exec(&["/bin/sh", "-c", line]).await?;
    terminal.command(guest.name(), line, &format!("{}{}", output.stdout, output.stderr));
    Ok(output.stdout.trim_end().to_owned())
}
