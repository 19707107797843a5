//! How much one may have of what all share: a node of the transfers and of the uploads, an address of the connections.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who has how many.
#[derive(Debug)]
pub(super) struct Shares<K> {
    most: usize,
    taken: Taken<K>,
}

type Taken<K> = Arc<Mutex<HashMap<K, usize>>>;

/// One of them; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share<K: Eq + Hash> {
    who: K,
    taken: Taken<K>,
}

impl<K: Clone + Eq + Hash> Shares<K> {
    /// At most so many for each.
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// One more for `who`; `None`: it has as many as one may have.
    pub(super) fn take(&self, who: &K) -> Option<Share<K>> {
        let mut taken = lock(&self.taken);
        let count = taken.get(who).copied().unwrap_or_default();
        (count < self.most).then(|| {
            taken.insert(who.clone(), count + 1);
            Share { who: who.clone(), taken: self.taken.clone() }
        })
    }

    /// How many have some.
    #[cfg(test)]
    pub(super) fn holders(&self) -> usize {
        lock(&self.taken).len()
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(count) = taken.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.who);
            }
        }
    }
}

/// Nothing panics while it holds the lock.
fn lock<K>(taken: &Mutex<HashMap<K, usize>>) -> MutexGuard<'_, HashMap<K, usize>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}
