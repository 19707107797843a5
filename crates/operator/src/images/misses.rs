//! What the controller remembers of images that were not to be had: how often, and when to look again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenon_plan::provision::{self, Finding};
use tokio::time::Instant;

use crate::world::ImageKey;

/// The images that were not to be had.
#[derive(Debug)]
pub struct Misses {
    known: Mutex<HashMap<ImageKey, Miss>>,
    clock: fn() -> Instant,
}

impl Default for Misses {
    fn default() -> Self {
        Self::with_clock(Instant::now)
    }
}

#[derive(Debug)]
struct Miss {
    /// The image's `metadata.generation`: another spec is looked for at once.
    generation: Option<i64>,
    /// Another reason is a change: the count starts anew.
    reason: &'static str,
    count: u32,
    not_before: Instant,
}

impl Misses {
    /// Nothing is remembered yet; times are of this clock.
    pub fn with_clock(clock: fn() -> Instant) -> Self {
        Self { known: Mutex::default(), clock }
    }

    /// How long to leave an image alone. Events come for many reasons, our own status among them; a registry that asked
    /// for patience is not asked again because of them.
    pub fn wait(&self, key: &ImageKey, generation: Option<i64>) -> Option<Duration> {
        let misses = self.lock();
        let miss = misses.get(key).filter(|miss| miss.generation == generation)?;
        let left = miss.not_before.saturating_duration_since((self.clock)());
        (!left.is_zero()).then_some(left)
    }

    /// Takes note of what came out, and says when to look again.
    pub fn note(&self, key: &ImageKey, generation: Option<i64>, finding: &Finding) -> Option<Duration> {
        let mut misses = self.lock();
        let Finding::Missing { reason, .. } = finding else {
            misses.remove(key);
            return None;
        };
        let same = |miss: &&Miss| miss.reason == *reason && miss.generation == generation;
        let count = misses.get(key).filter(same).map_or(0, |miss| miss.count).saturating_add(1);
        let after = provision::retry_after(finding, count)?;
        misses.insert(key.clone(), Miss { generation, reason, count, not_before: (self.clock)() + after });
        Some(after)
    }

    /// The image is gone, or had.
    pub fn forget(&self, key: &ImageKey) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ImageKey, Miss>> {
        // Nothing panics while it holds the lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(reason: &'static str) -> Finding {
        Finding::Missing { reason, message: String::new(), needs_change: false, retry_after: None }
    }

    #[tokio::test(start_paused = true)]
    async fn an_image_is_left_alone_for_its_time_and_looked_for_at_once_when_its_spec_changes() {
        let misses = Misses::default();
        let key = ImageKey { namespace: "hall".to_owned(), name: "gauge".to_owned() };
        assert_eq!(misses.wait(&key, Some(1)), None);
        let first = misses.note(&key, Some(1), &missing("ImageAbsent")).unwrap();
        let second = misses.note(&key, Some(1), &missing("ImageAbsent")).unwrap();
        assert!(second > first);
        assert_eq!(misses.wait(&key, Some(1)), Some(second));
        assert_eq!(misses.wait(&key, Some(2)), None, "another spec");
        assert_eq!(misses.note(&key, Some(1), &missing("RegistryDenied")), Some(first), "another reason");
        tokio::time::advance(first).await;
        assert_eq!(misses.wait(&key, Some(1)), None, "its time has come");
    }
}
