//! Leave to write: a replica writes only while it leads, and no faster than the user allows.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::controllers::WriteError;
use crate::lease::Claim;
use crate::metrics::{Metrics, Resource, Verb};

/// How long the answer to a write is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// This replica does not lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write to the API server: this replica does not lead")]
pub struct NotLeader;

/// The budget of all controllers' writes. Clones share it.
#[derive(Clone, Debug)]
pub struct Writes {
    bucket: Arc<Mutex<Bucket>>,
    claim: Claim,
    metrics: Arc<Metrics>,
}

impl Writes {
    /// At most `per_second` writes on average; a burst of one second's writes goes at once.
    pub fn new(per_second: u32, claim: Claim, metrics: Arc<Metrics>) -> Self {
        Writes { bucket: Arc::new(Mutex::new(Bucket::new(per_second, Instant::now()))), claim, metrics }
    }

    /// Makes a write: waits for its turn, and gives it up when this replica's leadership ends before the answer comes. So
    /// a leader that was cut off has no write under way when another can be elected.
    pub async fn make<T>(
        &self,
        resource: Resource,
        verb: Verb,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, WriteError> {
        self.admit(resource, verb).await?;
        let within = self.claim.left().ok_or(NotLeader)?.min(PATIENCE);
        match tokio::time::timeout(within, call).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(WriteError::Silent { after: within }),
        }
    }

    /// Waits for its turn. To be called directly before each write: it counts the write, and refuses it on a standby.
    pub async fn admit(&self, resource: Resource, verb: Verb) -> Result<(), NotLeader> {
        let turn = self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        tokio::time::sleep_until(turn).await;
        if !self.claim.is_current() {
            return Err(NotLeader);
        }
        self.metrics.wrote(resource, verb);
        Ok(())
    }
}

/// Turns at even intervals; turns that nobody took are kept for one second.
#[derive(Debug)]
struct Bucket {
    interval: Duration,
    burst: Duration,
    next: Instant,
}

impl Bucket {
    fn new(per_second: u32, now: Instant) -> Self {
        let burst = Duration::from_secs(1);
        Bucket { interval: burst / per_second.max(1), burst, next: now.checked_sub(burst).unwrap_or(now) }
    }

    /// The next free turn, which is thereby taken; a turn in the past means "now".
    fn take(&mut self, now: Instant) -> Instant {
        let earliest = now.checked_sub(self.burst).unwrap_or(now);
        self.next = self.next.max(earliest) + self.interval;
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_is_kept_and_idle_turns_do_not_pile_up() {
        let start = Instant::now() + Duration::from_secs(100);
        let mut bucket = Bucket::new(10, start);
        let turns: Vec<_> = (0..30).map(|_| bucket.take(start)).collect();
        assert!(turns[9] <= start, "a burst goes at once");
        assert_eq!(turns[29] - start, Duration::from_secs(2), "twenty more take two seconds");
        let later = start + Duration::from_hours(1);
        let waiting = (0..12).filter(|_| bucket.take(later) > later).count();
        assert_eq!(waiting, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_is_not_answered_is_given_up() {
        let writes = Writes::new(10, Claim::without_election(), Arc::new(Metrics::new()));
        let start = Instant::now();
        let never = std::future::pending::<Result<(), kube::Error>>();
        let error = writes.make(Resource::Node, Verb::Patch, never).await.unwrap_err();
        assert!(matches!(error, WriteError::Silent { after } if after == PATIENCE), "{error}");
        assert_eq!(start.elapsed().as_secs(), PATIENCE.as_secs());
    }

    #[tokio::test]
    async fn a_standby_does_not_write() {
        let claim = Claim::standby();
        let metrics = Arc::new(Metrics::new());
        let writes = Writes::new(10, claim, metrics.clone());
        assert_eq!(writes.admit(Resource::Node, Verb::Patch).await, Err(NotLeader));
        assert!(!metrics.encode().unwrap().contains(r#"resource="nodes""#));
    }
}
