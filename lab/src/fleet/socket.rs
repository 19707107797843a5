//! A simulated loader's socket: the wire protocol of `tenon_order::wire`, without a thread of its own.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tenon_order::wire::{MAX_MESSAGE, Reply, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::loader::Loader;
use super::volumes::Volumes;

/// The most bytes of a file that a simulated node takes.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// Serves until it is dropped.
pub(super) fn serve(
    path: &Path,
    loader: Arc<Mutex<Loader>>,
    volumes: Arc<Volumes>,
) -> io::Result<JoinSet<()>> {
    // Left by the node's former life.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((stream, _)) = accepted else { continue };
                    let (loader, volumes) = (loader.clone(), volumes.clone());
                    // A connection that breaks is its agent's end.
                    connections.spawn(async move { drop(converse(stream, &loader, &volumes).await) });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    });
    Ok(server)
}

async fn converse(mut stream: UnixStream, loader: &Mutex<Loader>, volumes: &Volumes) -> io::Result<()> {
    loop {
        let length = stream.read_u32().await? as usize;
        if length > MAX_MESSAGE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut json = vec![0; length];
        stream.read_exact(&mut json).await?;
        let request: Request = serde_json::from_slice(&json)?;
        let reply = match request {
            Request::File { digest, size } => {
                if size > MAX_FILE {
                    return Err(io::ErrorKind::FileTooLarge.into());
                }
                let mut content = Vec::new();
                let read = (&mut stream).take(size).read_to_end(&mut content).await?;
                if (read as u64) < size {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                lock(loader).receive(digest, &content)
            }
            request => {
                let mut loader = lock(loader);
                // As the real one looks at its mount whenever somebody says hello or brings an order.
                loader.renew_keys(&volumes.order_keys());
                loader.answer(request)
            }
        };
        send(&mut stream, &reply).await?;
    }
}

async fn send(stream: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    let json = serde_json::to_vec(reply)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    stream.write_u32(length).await?;
    stream.write_all(&json).await
}

pub(super) fn lock(loader: &Mutex<Loader>) -> std::sync::MutexGuard<'_, Loader> {
    // A test that panics while it looks leaves the loader as it was.
    loader.lock().unwrap_or_else(PoisonError::into_inner)
}
