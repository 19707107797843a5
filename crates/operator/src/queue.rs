//! A work queue: keys come in from watches, each is worked on once at a time, failures wait longer each time.
//!
//! The rules that make reconciling safe and cheap: a key that is queued already is not queued again; a key that comes in
//! while it is worked on is worked on once more afterwards; a key can be asked for at a later time, and the earliest
//! such time counts. Nothing here knows what a key is.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The first wait after a failure; it doubles up to [`LONGEST_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// The longest wait after failures in a row.
const LONGEST_BACKOFF: Duration = Duration::from_mins(1);

/// What is to happen with a key after it was worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing until the next event.
    AwaitChange,
    /// Again after this time, or at the next event.
    After(Duration),
    /// It failed: again after a wait that grows with each failure in a row.
    Backoff,
}

/// The queue of one controller.
#[derive(Debug)]
pub struct Queue<K> {
    inner: Mutex<Inner<K>>,
    wake: Notify,
    clock: fn() -> Instant,
}

#[derive(Debug)]
struct Inner<K> {
    /// Each with the time since which it waits.
    ready: VecDeque<(K, Instant)>,
    /// The same keys as in `ready`.
    queued: HashSet<K>,
    running: HashSet<K>,
    /// Came in while running: when it is to be worked on again, at once or at a time.
    again: HashMap<K, Option<Instant>>,
    later: BTreeSet<(Instant, K)>,
    /// The same keys as in `later`, by key.
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

impl<K: Clone + Ord + Hash> Default for Queue<K> {
    fn default() -> Self {
        Self::with_clock(Instant::now)
    }
}

impl<K: Clone + Ord + Hash> Queue<K> {
    /// An empty queue whose times are of this clock.
    pub fn with_clock(clock: fn() -> Instant) -> Self {
        Self {
            clock,
            inner: Mutex::new(Inner {
                ready: VecDeque::new(),
                queued: HashSet::new(),
                running: HashSet::new(),
                again: HashMap::new(),
                later: BTreeSet::new(),
                due: HashMap::new(),
                failures: HashMap::new(),
            }),
            wake: Notify::new(),
        }
    }

    /// Asks for `key` to be worked on now.
    pub fn add(&self, key: K) {
        if self.lock().add(key, (self.clock)()) {
            self.wake.notify_one();
        }
    }

    /// Asks for `key` to be worked on after `delay` at the latest; a burst of such calls is one piece of work.
    pub fn add_within(&self, key: K, delay: Duration) {
        if self.lock().add_at(key, (self.clock)() + delay) {
            self.wake.notify_one();
        }
    }

    /// How many keys wait to be worked on now.
    pub fn depth(&self) -> usize {
        self.lock().ready.len()
    }

    /// Whether nothing is worked on, waits, or is due at a later time.
    pub fn is_idle(&self) -> bool {
        let inner = self.lock();
        inner.ready.is_empty() && inner.running.is_empty() && inner.later.is_empty()
    }

    /// The next key to work on; it must be given back with [`done`](Self::done).
    pub async fn next(&self) -> K {
        self.next_and_wait().await.0
    }

    /// As [`next`](Self::next), with the time for which the key has waited.
    pub async fn next_and_wait(&self) -> (K, Duration) {
        loop {
            let (wake, now) = (self.wake.notified(), (self.clock)());
            let taken = self.lock().take(now);
            let due = match taken {
                Ok((key, since)) => {
                    // One notification may stand for several keys: pass it on.
                    self.wake.notify_one();
                    return (key, now.saturating_duration_since(since));
                }
                Err(due) => due,
            };
            match due {
                Some(due) => drop(tokio::time::timeout_at(due, wake).await),
                None => wake.await,
            }
        }
    }

    /// As [`next`](Self::next), without waiting: else when the next key is due, if any is.
    pub fn try_next(&self) -> Result<K, Option<Instant>> {
        self.lock().take((self.clock)()).map(|(key, _)| key)
    }

    /// Gives `key` back with what is to happen next.
    pub fn done(&self, key: &K, next: Next) {
        let now = (self.clock)();
        let mut inner = self.lock();
        inner.running.remove(key);
        let failures = match next {
            Next::Backoff => {
                let failures = inner.failures.entry(key.clone()).or_default();
                *failures = failures.saturating_add(1);
                *failures
            }
            Next::AwaitChange | Next::After(_) => {
                inner.failures.remove(key);
                0
            }
        };
        let asked_again = inner.again.remove(key);
        let changed = match (next, asked_again) {
            // An event does not shorten the wait after a failure: a hot loop of failures is worse than a late retry.
            (Next::Backoff, _) => inner.plan(key.clone(), now + backoff(failures)),
            (_, Some(None)) => inner.add(key.clone(), now),
            (Next::After(delay), asked) => {
                let planned = now + delay;
                inner.add_at(key.clone(), asked.flatten().map_or(planned, |asked| asked.min(planned)))
            }
            (Next::AwaitChange, Some(Some(asked))) => inner.add_at(key.clone(), asked),
            (Next::AwaitChange, None) => false,
        };
        drop(inner);
        if changed {
            self.wake.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K>> {
        // Every critical section leaves the queue whole, so a panic elsewhere is no reason to stop.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Ord + Hash> Inner<K> {
    /// Whether somebody should be woken.
    fn add(&mut self, key: K, now: Instant) -> bool {
        if self.running.contains(&key) {
            self.again.insert(key, None);
            return false;
        }
        if self.is_held_back(&key) {
            return false;
        }
        if let Some(due) = self.due.remove(&key) {
            self.later.remove(&(due, key.clone()));
        }
        let new = self.queued.insert(key.clone());
        if new {
            self.ready.push_back((key, now));
        }
        new
    }

    /// In the midst of a backoff an event waits for its end.
    fn is_held_back(&self, key: &K) -> bool {
        self.failures.contains_key(key) && self.due.contains_key(key)
    }

    fn add_at(&mut self, key: K, at: Instant) -> bool {
        !self.is_held_back(&key) && self.plan(key, at)
    }

    fn plan(&mut self, key: K, at: Instant) -> bool {
        if self.queued.contains(&key) || self.due.get(&key).is_some_and(|due| *due <= at) {
            return false;
        }
        if self.running.contains(&key) {
            let again = self.again.entry(key).or_insert(Some(at));
            *again = again.map(|known| known.min(at));
            return false;
        }
        if let Some(due) = self.due.insert(key.clone(), at) {
            self.later.remove(&(due, key.clone()));
        }
        self.later.insert((at, key));
        true
    }

    /// A key to work on and since when it has waited, or when the next one is due.
    fn take(&mut self, now: Instant) -> Result<(K, Instant), Option<Instant>> {
        while let Some((due, key)) = self.later.first().cloned() {
            if due > now {
                break;
            }
            self.later.remove(&(due, key.clone()));
            self.due.remove(&key);
            if self.queued.insert(key.clone()) {
                self.ready.push_back((key, due));
            }
        }
        let Some((key, since)) = self.ready.pop_front() else {
            return Err(self.later.first().map(|(due, _)| *due));
        };
        self.queued.remove(&key);
        self.running.insert(key.clone());
        Ok((key, since))
    }
}

fn backoff(failures: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(queue: &Queue<&'static str>) -> Option<&'static str> {
        queue.lock().take(Instant::now()).ok().map(|(key, _)| key)
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_queued_once() {
        let queue = Queue::default();
        queue.add("a");
        queue.add("a");
        assert_eq!((queue.next().await, ready(&queue)), ("a", None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_comes_in_while_it_runs_runs_once_more_afterwards() {
        let queue = Queue::default();
        queue.add("a");
        let key = queue.next().await;
        queue.add("a");
        queue.add("a");
        assert_eq!(ready(&queue), None, "it runs already");
        queue.done(&key, Next::AwaitChange);
        assert_eq!((ready(&queue), ready(&queue)), (Some("a"), None));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_for_within_a_time_while_it_runs_waits_for_that_time() {
        let queue = Queue::default();
        queue.add("a");
        let (start, key) = (Instant::now(), queue.next().await);
        queue.add_within("a", Duration::from_secs(9));
        queue.add_within("a", Duration::from_secs(3));
        queue.done(&key, Next::AwaitChange);
        assert_eq!((queue.next().await, start.elapsed().as_secs()), ("a", 3));
        queue.add_within("a", Duration::from_secs(3));
        queue.done(&key, Next::After(Duration::from_secs(1)));
        assert_eq!((queue.next().await, start.elapsed().as_secs()), ("a", 4), "what comes first");
        queue.add_within("a", Duration::from_secs(3));
        queue.add("a");
        queue.done(&key, Next::AwaitChange);
        assert_eq!(ready(&queue), Some("a"), "an event does not wait");
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_from_when_it_may_be_worked_on() {
        let queue = Queue::default();
        queue.add("a");
        queue.add_within("b", Duration::from_secs(3));
        tokio::time::sleep(Duration::from_secs(5)).await;
        let taken = [queue.next_and_wait().await, queue.next_and_wait().await];
        assert_eq!(taken, [("a", Duration::from_secs(5)), ("b", Duration::from_secs(2))]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_time_counts_and_an_event_comes_before_it() {
        let queue = Queue::default();
        queue.add_within("a", Duration::from_mins(1));
        queue.add_within("a", Duration::from_secs(5));
        queue.add_within("a", Duration::from_secs(30));
        let start = Instant::now();
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 5);
        queue.done(&"a", Next::After(Duration::from_mins(1)));
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 5);
        queue.done(&"a", Next::AwaitChange);
        assert_eq!(queue.lock().later.len(), 0, "the later time went with the event");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time_whatever_events_come_and_success_forgets_them() {
        let queue = Queue::default();
        queue.add("a");
        let mut waits = Vec::new();
        for _ in 0..12 {
            let key = queue.next().await;
            queue.done(&key, Next::Backoff);
            queue.add("a");
            queue.add_within("a", Duration::from_millis(100));
            let start = Instant::now();
            assert_eq!(queue.next().await, "a");
            waits.push(start.elapsed());
            queue.lock().running.clear();
            queue.lock().queued.insert("a");
            queue.lock().ready.push_back(("a", Instant::now()));
        }
        assert!(waits.is_sorted(), "{waits:?}");
        assert_eq!(waits.first().unwrap().as_millis() / 10, 20);
        assert_eq!(waits.last().unwrap().as_secs(), 60);
        let key = queue.next().await;
        queue.done(&key, Next::AwaitChange);
        queue.add("a");
        assert_eq!(ready(&queue), Some("a"), "no wait is left");
    }

    #[tokio::test(start_paused = true)]
    async fn several_workers_share_the_work_and_none_sleeps_while_there_is_some() {
        let queue = std::sync::Arc::new(Queue::default());
        let start = Instant::now();
        let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..4 {
            let (queue, sender) = (queue.clone(), sender.clone());
            tokio::spawn(async move {
                loop {
                    let number: u32 = queue.next().await;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    queue.done(&number, Next::AwaitChange);
                    sender.send(number).unwrap();
                }
            });
        }
        tokio::task::yield_now().await;
        (0..100).for_each(|number| queue.add(number));
        let mut numbers = BTreeSet::new();
        while numbers.len() < 100 {
            numbers.insert(seen.recv().await.unwrap());
        }
        assert_eq!(start.elapsed().as_millis(), 250, "100 times 10 ms, four at a time");
    }
}
