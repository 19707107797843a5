//! The answer to "may I write?", for everybody who writes.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::LeaseSpec;
use tokio::sync::watch;

use super::election::Moment;

/// Whether this replica leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// It may write.
    Leader,
    /// It keeps its caches warm and serves the depot.
    Standby,
}

/// A view of this replica's leadership. Clones share it.
#[derive(Clone, Debug)]
pub struct Claim {
    state: watch::Receiver<Leadership>,
    /// Milliseconds of [`moment`] until which this replica leads.
    until: Arc<AtomicU64>,
    /// How often the lease has passed on; negative while it was never seen.
    transitions: Arc<AtomicI64>,
}

impl Claim {
    /// For where there is never a second replica.
    pub fn without_election() -> Self {
        let (_, state) = watch::channel(Leadership::Leader);
        Claim { state, until: Arc::new(AtomicU64::new(u64::MAX)), transitions: never_seen() }
    }

    /// For a replica that never stands for election.
    pub fn standby() -> Self {
        ClaimWriter::new().1
    }

    /// Whether this replica leads now. Also says no when the process was stopped and the lease ran out meanwhile,
    /// before anything else in it has noticed.
    pub fn is_current(&self) -> bool {
        *self.state.borrow() == Leadership::Leader && millis(moment()) < self.until.load(Ordering::Acquire)
    }

    /// How long this replica leads from now on, unless it renews; `None` if it does not.
    pub fn left(&self) -> Option<Duration> {
        let left = self.until.load(Ordering::Acquire).saturating_sub(millis(moment()));
        self.is_current().then(|| Duration::from_millis(left))
    }

    /// Goes on with it, however long it takes, as long as this replica leads; `None` once it does not, with nothing under way.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        loop {
            if let Ok(done) = tokio::time::timeout(self.left()?, &mut work).await {
                return Some(done);
            }
        }
    }

    /// Waits until this replica leads. Whoever waits also waits for the end of the process.
    pub async fn won(&mut self) {
        if self.state.wait_for(|state| *state == Leadership::Leader).await.is_err() {
            // The election has ended without a win: nothing will ever be won.
            std::future::pending::<()>().await;
        }
    }

    /// How often the lease has passed from one process to another, as was last seen of it; `None` before that.
    pub fn transitions(&self) -> Option<i64> {
        Some(self.transitions.load(Ordering::Relaxed)).filter(|count| *count >= 0)
    }

    /// A receiver of every change.
    pub fn changes(&self) -> watch::Receiver<Leadership> {
        self.state.clone()
    }
}

/// The election's end of a [`Claim`].
#[derive(Debug)]
pub(super) struct ClaimWriter {
    state: watch::Sender<Leadership>,
    until: Arc<AtomicU64>,
    transitions: Arc<AtomicI64>,
}

impl ClaimWriter {
    pub(super) fn new() -> (ClaimWriter, Claim) {
        let (sender, state) = watch::channel(Leadership::Standby);
        let (until, transitions) = (Arc::new(AtomicU64::new(0)), never_seen());
        let claim = Claim { state, until: until.clone(), transitions: transitions.clone() };
        (ClaimWriter { state: sender, until, transitions }, claim)
    }

    /// Leads until then, or does not lead.
    pub(super) fn set(&self, until: Option<Moment>) {
        self.until.store(until.map_or(0, millis), Ordering::Release);
        let state = if until.is_some() { Leadership::Leader } else { Leadership::Standby };
        self.state.send_if_modified(|current| std::mem::replace(current, state) != state);
    }

    /// The lease was seen; one that has never passed on may leave the count out.
    pub(super) fn saw(&self, lease: &LeaseSpec) {
        let count = lease.lease_transitions.map_or(0, |count| i64::from(count.max(0)));
        self.transitions.store(count, Ordering::Relaxed);
    }
}

fn never_seen() -> Arc<AtomicI64> {
    Arc::new(AtomicI64::new(-1))
}

/// Now: time since the machine started, sleep included, so that a lease ages while a laptop is closed.
pub(super) fn moment() -> Moment {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

fn millis(moment: Moment) -> u64 {
    u64::try_from(moment.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn work_goes_on_beyond_one_term_and_ends_with_the_last() {
        let (writer, claim) = ClaimWriter::new();
        assert_eq!(claim.during(async {}).await, None, "a standby begins nothing");
        writer.set(Some(moment() + SHORT));
        assert_eq!(claim.during(std::future::pending::<()>()).await, None, "nobody renews");
        writer.set(Some(moment() + SHORT));
        let renewed = async {
            writer.set(Some(moment() + Duration::from_mins(1)));
            // Longer than the term that it began in.
            tokio::time::sleep(2 * SHORT).await;
        };
        assert_eq!(claim.during(renewed).await, Some(()));
    }
}
