//! Bundles that a node asked for and the depot does not have: the images controller makes them again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tenon_order::Digest;
use tokio::sync::Notify;

/// What is wanted. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    digests: Arc<Mutex<BTreeSet<Digest>>>,
    changed: Arc<Notify>,
}

impl Wanted {
    /// Somebody wants the bundle. Many who want the same are one wish.
    pub fn ask(&self, bundle: Digest) {
        // Nothing in here panics while it holds the lock.
        if self.digests.lock().unwrap_or_else(PoisonError::into_inner).insert(bundle) {
            self.changed.notify_one();
        }
    }

    /// Waits for wishes and takes all that there are. For one listener.
    pub async fn take(&self) -> BTreeSet<Digest> {
        loop {
            let taken = std::mem::take(&mut *self.digests.lock().unwrap_or_else(PoisonError::into_inner));
            if !taken.is_empty() {
                return taken;
            }
            self.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wishes_are_taken_once() {
        let wanted = Wanted::default();
        let [a, b] = [Digest::of(b"a"), Digest::of(b"b")];
        for bundle in [a, b, a] {
            wanted.ask(bundle);
        }
        assert_eq!(wanted.take().await, BTreeSet::from([a, b]));
        let waiting = tokio::spawn({
            let wanted = wanted.clone();
            async move { wanted.take().await }
        });
        wanted.ask(b);
        assert_eq!(waiting.await.unwrap(), BTreeSet::from([b]));
    }
}
