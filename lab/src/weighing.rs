//! What passes between a registry and those who use it, counted, for the benches.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tenon_lab::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// For so long nothing passes once nothing is under way.
const QUIET: Duration = Duration::from_millis(500);
/// Within so long that is so.
const SETTLED: Duration = Duration::from_secs(30);

/// A way to a registry on which bytes are counted, both directions together.
#[derive(Debug)]
pub(crate) struct Scale {
    address: String,
    bytes: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for Scale {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scale {
    /// Listens at a port of this address of the host, and passes everything on to `host:port`.
    pub(crate) async fn start(at: IpAddr, registry: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((at, 0)).await.context("listen")?;
        let address = listener.local_addr().context("listen")?.to_string();
        let bytes = Arc::new(AtomicU64::new(0));
        let (counted, registry) = (bytes.clone(), registry.to_owned());
        let task = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (counted, registry) = (counted.clone(), registry.clone());
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(&registry).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.split(), server.split());
                    let up = pass(from_client, to_server, &counted);
                    let down = pass(from_server, to_client, &counted);
                    tokio::join!(up, down);
                });
            }
        });
        Ok(Self { address, bytes, task })
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// How many have passed so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Waits until what was sent last has passed.
    pub(crate) async fn settle(&self) -> anyhow::Result<()> {
        let mut before = None;
        let quiet = wait::until("nothing passes any more", SETTLED, async || {
            let now = Some(self.bytes());
            let same = std::mem::replace(&mut before, now) == now;
            tokio::time::sleep(QUIET).await;
            same.then_some(())
        });
        Ok(quiet.await?)
    }
}

/// Passes on and counts, until one of the two has had enough.
async fn pass(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, counted: &AtomicU64) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        counted.fetch_add(read as u64, Ordering::AcqRel);
        if to.write_all(buffer.get(..read).unwrap_or_default()).await.is_err() {
            break;
        }
    }
    // What cannot be closed is closed already.
    let _ = to.shutdown().await;
}

/// The one in the middle; of an even number, the higher of the two.
pub(crate) fn median<T: Copy + Ord>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}
