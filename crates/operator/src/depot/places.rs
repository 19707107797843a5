//! Places for connections: so many in all, and of these so many for one address.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::shares::{Share, Shares};

/// Connections at once; about 40 KiB each. More wait to be accepted.
const CONNECTIONS: u32 = 256;
/// Of one address: an agent opens one, and one more where it sends facts about its kernel.
const PER_ADDRESS: usize = 8;

/// Those that are free, and who has the others.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    shares: Shares<IpAddr>,
}

/// A place; free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    /// None of who comes by way of the loopback.
    _share: Option<Share<IpAddr>>,
}

impl Places {
    /// All are free.
    pub(super) fn new() -> Self {
        let free = Arc::new(Semaphore::new(usize::try_from(CONNECTIONS).unwrap_or(usize::MAX)));
        Self { free, shares: Shares::new(PER_ADDRESS) }
    }

    /// Waits until one is free, for whoever comes next. `None`: there will be no more.
    pub(super) async fn free(&self) -> Option<OwnedSemaphorePermit> {
        self.free.clone().acquire_owned().await.ok()
    }

    /// Gives it to this address, unless that has as many as one may have. Who comes by way of the loopback is no node.
    pub(super) fn give(&self, permit: OwnedSemaphorePermit, address: IpAddr) -> Option<Place> {
        // An IPv4 address on a socket for both is one of ::ffff:0:0/96.
        let address = address.to_canonical();
        let share = if address.is_loopback() { None } else { Some(self.shares.take(&address)?) };
        Some(Place { _permit: permit, _share: share })
    }

    /// Waits until all are free.
    pub(super) async fn all_free(&self) {
        let _ = self.free.acquire_many(CONNECTIONS).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_address_takes_no_more_than_its_share_and_what_it_gives_back_is_free() {
        let (places, one, other) = (Places::new(), "10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut held = Vec::new();
        for _ in 0..PER_ADDRESS {
            held.push(places.give(places.free().await.unwrap(), one).unwrap());
        }
        assert!(places.give(places.free().await.unwrap(), one).is_none());
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        assert!(places.give(places.free().await.unwrap(), mapped).is_none(), "the same in other words");
        held.push(places.give(places.free().await.unwrap(), other).unwrap());
        held.remove(0);
        held.push(places.give(places.free().await.unwrap(), one).unwrap());
        drop(held);
        assert_eq!(places.shares.holders(), 0);
        places.all_free().await;
    }

    #[tokio::test]
    async fn more_than_all_wait() {
        let places = Places::new();
        let mut held = Vec::new();
        for number in 0..CONNECTIONS {
            let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into();
            held.push(places.give(places.free().await.unwrap(), address).unwrap());
        }
        let next = places.free();
        tokio::pin!(next);
        assert!(futures::poll!(next.as_mut()).is_pending());
        held.pop();
        assert!(next.await.is_some());
    }
}
