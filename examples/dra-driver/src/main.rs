//! A DRA driver (dynamic resource allocation): it tells the scheduler which device nodes of a driver its node has, and gives
//! them to the containers whose `ResourceClaims` they were allocated to.
//!
//! In: a pattern of paths below `/dev`; claims, which the kubelet asks to prepare. Out: a `ResourceSlice`, and for each prepared
//! claim a file (CDI) by which the container runtime puts the device into containers.
//! Begin with [`claims`], which prepares; [`slice`](mod@slice) publishes, [`services`] is what the kubelet calls, [`api`] what both say.

mod api;
mod args;
mod claims;
mod devices;
mod services;
mod slice;

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use kube::Client;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;

use args::Args;
use claims::Claims;
use devices::Devices;
use services::{Driver, Health, Registration, Served};
use slice::Slice;

/// How often devices are looked at.
const LOOK: Duration = Duration::from_secs(1);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tracing_subscriber::fmt().with_ansi(false).init();
    // The first process of a container is ended by no signal but SIGKILL that it does not handle.
    let mut stop = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    tokio::select! {
        _ = stop.recv() => tracing::info!("asked to stop"),
        ended = run(&args) => ended?,
    }
    // The kubelet sees the registration go. Unless a driver of this name registers within half a minute, it withdraws the
    // ResourceSlice. Claims stay prepared: their containers run on, and the next driver finds the files.
    withdraw(&args.registration_socket())?;
    withdraw(&args.driver_socket())
}

async fn run(args: &Args) -> anyhow::Result<()> {
    let client = Client::try_default().await.context("find the API server")?;
    let (found, devices) = watch::channel(Devices::default());
    let (registered, registrations) = watch::channel(0);
    let claims = Claims::new(args, client.clone(), devices.clone());
    let slice = Slice::new(args, client, devices);
    let registration = Registration::new(args, registered);
    tokio::select! {
        () = devices::watch(&args.search, &found, LOOK) => Ok(()),
        () = slice.keep(registrations) => Ok(()),
        ended = serve_kubelet(args, claims, registration) => ended,
        ended = serve_probes(args.healthcheck_port) => ended,
    }
}

/// Serves the kubelet, which comes by itself: it watches the folder of registrations, also after it has started anew.
async fn serve_kubelet(args: &Args, claims: Claims, registration: Registration) -> anyhow::Result<()> {
    let driver = Server::builder()
        .add_service(Served(Driver(claims)))
        .serve_with_incoming(UnixListenerStream::new(listen(&args.driver_socket())?));
    let registration = Server::builder()
        .add_service(Served(registration))
        .serve_with_incoming(UnixListenerStream::new(listen(&args.registration_socket())?));
    tokio::try_join!(driver, registration).context("serve the kubelet")?;
    Ok(())
}

/// Serves the kubelet's liveness probes, where a port was given.
async fn serve_probes(port: Option<u16>) -> anyhow::Result<()> {
    let Some(port) = port else { return std::future::pending().await };
    let listener = TcpListener::bind(("::", port)).await.with_context(|| format!("listen at port {port}"))?;
    let server =
        Server::builder().add_service(Served(Health)).serve_with_incoming(TcpListenerStream::new(listener));
    server.await.context("serve probes")
}

fn listen(socket: &Path) -> anyhow::Result<UnixListener> {
    if let Some(folder) = socket.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    // One that was killed has left its socket.
    withdraw(socket)?;
    UnixListener::bind(socket).with_context(|| format!("listen at {}", socket.display()))
}

fn withdraw(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
