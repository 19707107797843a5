//! A device plugin: it tells the kubelet of its node which device nodes of a driver there are, and the kubelet hands them to
//! pods that ask for the resource, one to a pod.
//!
//! In: a pattern of paths below `/dev`. Out: an extended resource such as `lab.tenon.dev/chardev` on the Node.
//! Begin with [`plugin`], which answers the kubelet; [`devices`] looks what is there, [`kubelet`] waits for kubelets and
//! greets them, [`api`] is what both sides say.

mod api;
mod devices;
mod kubelet;
mod plugin;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use devices::{Devices, Search};
use kubelet::Kubelet;
use plugin::DevicePlugin;

/// How often devices and the kubelet's socket are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Offers device nodes to pods as an extended resource
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The resource that pods ask for
    #[arg(long, value_name = "DOMAIN/NAME")]
    resource: String,

    #[command(flatten)]
    search: Search,

    /// What containers may do with a device: some of r (read), w (write), m (make a node of it)
    #[arg(long, default_value = "rw", value_name = "LETTERS")]
    permissions: String,

    /// Where the kubelet listens, and this plugin, too
    #[arg(long, default_value = "/var/lib/kubelet/device-plugins", value_name = "FOLDER")]
    kubelet_folder: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tracing_subscriber::fmt().with_ansi(false).init();
    // The first process of a container is ended by no signal but SIGKILL that it does not handle.
    let mut stop = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let kubelet = Kubelet::new(&args.kubelet_folder, &args.resource);
    let (found, devices) = watch::channel(Devices::default());
    tokio::select! {
        _ = stop.recv() => tracing::info!("asked to stop"),
        () = devices::watch(&args.search, &found, LOOK) => {}
        () = serve(&args, &kubelet, &devices) => {}
    }
    // The kubelet sees the connection end, and gives nobody a device that nobody looks after.
    kubelet.withdraw()
}

/// Serves one kubelet after the other: each start of it is another one, which knows of no plugin.
async fn serve(args: &Args, kubelet: &Kubelet, devices: &watch::Receiver<Devices>) {
    loop {
        let plugin = DevicePlugin::new(devices.clone(), args.permissions.clone());
        match serve_one(args, kubelet, plugin).await {
            Ok(()) => tracing::info!("the kubelet has started anew"),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "will try again"),
        }
        sleep(LOOK).await;
    }
}

/// Serves a kubelet until another one takes its place.
async fn serve_one(args: &Args, kubelet: &Kubelet, plugin: DevicePlugin) -> anyhow::Result<()> {
    let there = kubelet.appears(LOOK).await;
    kubelet.withdraw()?;
    let socket = kubelet.plugin_socket();
    let listener = UnixListener::bind(socket).with_context(|| format!("listen at {}", socket.display()))?;
    let server = Server::builder().add_service(plugin).serve_with_incoming(UnixListenerStream::new(listener));
    let greeted = async {
        kubelet.greet(&args.resource).await?;
        tracing::info!(resource = args.resource, "registered with the kubelet");
        kubelet.is_replaced(there, LOOK).await;
        Ok(())
    };
    tokio::select! {
        ended = server => ended.context("serve the kubelet"),
        replaced = greeted => replaced,
    }
}
