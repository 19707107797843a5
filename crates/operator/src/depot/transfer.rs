//! Leave to send a bundle, and the sending of it.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use tenon_order::NodeName;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::shares::{Share, Shares};
use crate::metrics::{Metrics, Rejection, Transfer};

/// A node may fetch so many bundles at once.
const PER_NODE: usize = 2;
/// How long a node stands in line before it is asked to come back. Bundles of a few files are sent by hundreds a second, so
/// that a thousand nodes that come at once are served at once; behind large ones nobody waits in vain.
const LINE: Duration = Duration::from_secs(2);
/// Bytes read at once; with all transfers running this is the depot's memory.
const CHUNK: u64 = 128 * 1024;
/// A transfer may take this long, and a second more for each `SLOWEST` bytes.
const GRACE: Duration = Duration::from_secs(30);
/// Bytes per second. Who is slower gives its place to others and asks again for the rest.
const SLOWEST: u64 = 64 * 1024;

/// The bound on transfers.
#[derive(Debug)]
pub(super) struct Transfers {
    all: Arc<Semaphore>,
    nodes: Shares<NodeName>,
    metrics: Arc<Metrics>,
}

impl Transfers {
    pub(super) fn new(limit: u16, metrics: Arc<Metrics>) -> Self {
        Transfers { all: Arc::new(Semaphore::new(usize::from(limit))), nodes: Shares::new(PER_NODE), metrics }
    }

    /// A place for one transfer to `node`, given back when it is dropped. Those who come first are served first.
    pub(super) async fn admit(&self, node: &NodeName) -> Result<Place, Rejection> {
        // The node's share first: it must not depend on how busy others keep the depot.
        let share = self.nodes.take(node).ok_or(Rejection::NodeBusy)?;
        let permit = tokio::time::timeout(LINE, self.all.clone().acquire_owned()).await;
        let permit = permit.ok().and_then(Result::ok).ok_or(Rejection::Busy)?;
        self.metrics.transferring.inc();
        Ok(Place { _permit: permit, _share: share, metrics: self.metrics.clone(), complete: false })
    }
}

/// Leave to send one bundle.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    _share: Share<NodeName>,
    metrics: Arc<Metrics>,
    complete: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.transferring.dec();
        self.metrics.transferred(if self.complete { Transfer::Complete } else { Transfer::Aborted });
    }
}

/// A bundle's bytes on their way.
struct Sending {
    file: File,
    left: u64,
    deadline: Instant,
    place: Place,
}

/// The bytes `range` of `file`. Fails when the receiver is too slow or the file too short.
pub(super) async fn send(
    file: std::fs::File,
    range: Range<u64>,
    place: Place,
) -> io::Result<impl Stream<Item = io::Result<Bytes>>> {
    let mut file = File::from_std(file);
    file.seek(io::SeekFrom::Start(range.start)).await?;
    let left = range.end - range.start;
    let deadline = Instant::now() + GRACE + Duration::from_secs(left / SLOWEST);
    let sending = Sending { file, left, deadline, place };
    Ok(futures::stream::try_unfold(sending, Sending::next))
}

impl Sending {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        if self.left == 0 {
            return Ok(None);
        }
        if Instant::now() >= self.deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut chunk = BytesMut::with_capacity(usize::try_from(self.left.min(CHUNK)).unwrap_or_default());
        (&mut self.file).take(self.left.min(CHUNK)).read_buf(&mut chunk).await?;
        if chunk.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= chunk.len() as u64;
        // Nobody asks for more than the announced length: this is the last that is seen of a complete transfer.
        self.place.complete = self.left == 0;
        self.place.metrics.sent.inc_by(chunk.len() as u64);
        Ok(Some((chunk.freeze(), self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn places_are_bounded_per_node_and_in_all_and_come_back() {
        let metrics = Arc::new(Metrics::new());
        let transfers = Transfers::new(3, metrics.clone());
        let [pine, oak]: [NodeName; 2] = ["pine".parse().unwrap(), "oak".parse().unwrap()];
        let held = [transfers.admit(&pine).await.unwrap(), transfers.admit(&pine).await.unwrap()];
        assert_eq!(transfers.admit(&pine).await.unwrap_err(), Rejection::NodeBusy);
        let _oaks = transfers.admit(&oak).await.unwrap();
        assert_eq!(transfers.admit(&oak).await.unwrap_err(), Rejection::Busy, "nobody goes in time");
        assert_eq!(metrics.transferring.get(), 3);
        let in_line = transfers.admit(&oak);
        let [first, second] = held;
        let (again, ()) = tokio::join!(in_line, async { drop(first) });
        let _again = [again.unwrap(), {
            drop(second);
            transfers.admit(&pine).await.unwrap()
        }];
        assert_eq!(transfers.nodes.holders(), 2, "a refusal leaves no share behind");
    }
}
