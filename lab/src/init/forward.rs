//! The way from a TCP port, which the host can reach, to a unix socket in the guest: tests drive the loader by it without
//! an agent. It runs as the agent's user, which is what the socket asks for.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use anyhow::Context as _;

/// Serves until killed.
pub(crate) fn run(port: &str, socket: &str) -> anyhow::Result<()> {
    let port: u16 = port.parse().with_context(|| format!("read port {port}"))?;
    let listener = TcpListener::bind(("0.0.0.0", port)).with_context(|| format!("listen on port {port}"))?;
    for connection in listener.incoming() {
        let connection = connection.context("accept")?;
        // Without a loader the host sees the connection close.
        if let Ok(loader) = UnixStream::connect(socket) {
            std::thread::spawn(move || join(connection, loader));
        }
    }
    Ok(())
}

/// Copies both ways until both ends have closed.
fn join(host: TcpStream, loader: UnixStream) -> io::Result<()> {
    let (mut from_host, mut to_loader) = (host.try_clone()?, loader.try_clone()?);
    let there = std::thread::spawn(move || {
        let copied = io::copy(&mut from_host, &mut to_loader);
        let _ = to_loader.shutdown(Shutdown::Write);
        copied
    });
    let (mut from_loader, mut to_host) = (loader, host);
    let copied = io::copy(&mut from_loader, &mut to_host);
    // A loader that is gone answers no more: the host shall not wait.
    let _ = to_host.shutdown(Shutdown::Both);
    let _ = there.join();
    copied.map(drop)
}
