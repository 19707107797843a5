//! Whose turn it is: so many Jobs make images at a time, in the whole cluster, and who has waited longest is the next.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::world::ImageKey;

/// Who has not asked for so long does not wait any more.
const FORGOTTEN: Duration = Duration::from_mins(1);

/// Those who wait.
#[derive(Debug)]
pub(in crate::images) struct Turns {
    limit: usize,
    /// Since when each waits, and when it asked last.
    waiting: Mutex<BTreeMap<ImageKey, (Instant, Instant)>>,
    /// Those whose turn it is and whose Job is not known yet.
    starting: AtomicUsize,
    clock: fn() -> Instant,
}

/// A turn: it lasts until the Job is known.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a AtomicUsize);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Turns {
    /// So many at a time.
    pub(in crate::images) fn new(limit: usize) -> Self {
        Self { limit, waiting: Mutex::default(), starting: AtomicUsize::new(0), clock: Instant::now }
    }

    /// Asks for a turn while so many Jobs run; without one, how many are before.
    pub(super) fn ask(&self, key: &ImageKey, running: usize) -> Result<Turn<'_>, usize> {
        let now = (self.clock)();
        // Nothing panics while it holds the lock.
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, (_, asked)| now.saturating_duration_since(*asked) < FORGOTTEN);
        let since = waiting.get(key).map_or(now, |(since, _)| *since);
        waiting.insert(key.clone(), (since, now));
        let before = waiting.iter().filter(|(other, (at, _))| (at, *other) < (&since, key)).count();
        let free = self.limit.saturating_sub(running + self.starting.load(Ordering::Acquire));
        if before >= free {
            return Err(before);
        }
        waiting.remove(key);
        self.starting.fetch_add(1, Ordering::AcqRel);
        Ok(Turn(&self.starting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ImageKey {
        ImageKey { namespace: "hall".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn who_has_waited_longest_is_the_next() {
        let turns = Turns::new(2);
        let (a, b) = (turns.ask(&key("a"), 0).unwrap(), turns.ask(&key("b"), 0).unwrap());
        assert_eq!(turns.ask(&key("z"), 0).unwrap_err(), 0, "their Jobs are about to start");
        drop((a, b));
        assert_eq!(turns.ask(&key("c"), 2).unwrap_err(), 1);
        assert_eq!(turns.ask(&key("d"), 2).unwrap_err(), 2);
        // One has ended.
        assert_eq!(turns.ask(&key("d"), 1).unwrap_err(), 2);
        assert!(turns.ask(&key("z"), 1).is_ok());
        assert_eq!(turns.ask(&key("c"), 2).unwrap_err(), 0);
        assert!(turns.ask(&key("c"), 0).is_ok() && turns.ask(&key("d"), 0).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_gone_stands_in_nobodys_way() {
        let turns = Turns::new(1);
        assert_eq!(turns.ask(&key("a"), 1).unwrap_err(), 0);
        assert_eq!(turns.ask(&key("b"), 1).unwrap_err(), 1);
        tokio::time::advance(FORGOTTEN).await;
        assert_eq!(turns.ask(&key("b"), 1).unwrap_err(), 0);
    }
}
