//! The node's own `NodeModulesConfig`, as the API server has it.
//!
//! One watch on one name. What was seen last is kept in a [`tokio::sync::watch`] channel: whoever is busy meanwhile
//! misses nothing but what is out of date.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::Stream;
use kube::Api;
use kube::runtime::watcher::{self, Event, watcher};
use tenon_api::message::chain;
use tenon_api::{Guarded, NodeModulesConfig};
use tenon_order::NodeName;
use tokio::sync::watch::Sender;
use tracing::{debug, error, info, warn};

use crate::backoff::{Backoff, roll, spread};

/// What is known of the node's object.
#[derive(Debug, Clone, Default)]
pub enum Seen {
    /// Nothing yet: the API server has not answered.
    #[default]
    Nothing,
    /// There is none: the operator has not made it yet, or it was deleted.
    Absent,
    /// There is one that this program cannot read.
    Malformed,
    /// This is it.
    Present(Box<NodeModulesConfig>),
}

/// What was seen, and by which reading of the object.
#[derive(Debug, Clone, Default)]
pub struct Sighting {
    /// What is known now.
    pub seen: Seen,
    /// How often the object was read anew since the start, not followed: what such a reading says holds, even when its
    /// version is lower than one that was known. So it is after the cluster was restored from a backup.
    pub reading: u64,
}

const BACKOFF: Backoff = Backoff { first: Duration::from_millis(500), most: Duration::from_secs(30) };

/// What the API server says to a watch that asks for changes that it no longer knows.
const GONE: u16 = 410;

/// Tells `seen` what becomes of the object, for ever. An API server that is silent changes nothing of what was seen.
///
/// When a watch's time is over, the object is read anew and not only followed further: when a cluster was restored from a
/// backup, its versions begin anew further down, and a watch from a version of before has nothing to say for a long time.
pub async fn follow(api: Api<Guarded<NodeModulesConfig>>, node: NodeName, seen: Sender<Sighting>) {
    let watch = |period: Duration| {
        let config = watcher::Config::default()
            .fields(&format!("metadata.name={node}"))
            .timeout(u32::try_from(period.as_secs()).unwrap_or(300));
        watcher(api.clone(), config)
    };
    let mut reading = 0;
    loop {
        watch_once(watch, &seen, &mut reading).await;
    }
}

/// Watches for one period.
async fn watch_once<S>(watch: impl FnOnce(Duration) -> S, seen: &Sender<Sighting>, reading: &mut u64)
where
    S: Stream<Item = watcher::Result<Event<Guarded<NodeModulesConfig>>>>,
{
    // Agents that were started together shall not renew their watches together.
    let period = spread(Duration::from_mins(5), Duration::from_mins(10), roll());
    // Its end is what was waited for.
    let _ = tokio::time::timeout(period, read(watch(period), seen, reading)).await;
}

async fn read<S>(events: S, seen: &Sender<Sighting>, reading: &mut u64)
where
    S: Stream<Item = watcher::Result<Event<Guarded<NodeModulesConfig>>>>,
{
    let mut events = std::pin::pin!(events);
    let mut failures = 0;
    let mut found = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if failures > 0 {
                    info!("the API server answers again");
                }
                failures = 0;
                *reading += u64::from(matches!(event, Event::Init));
                if let Some(seen_now) = understand(event, &mut found) {
                    seen.send_replace(Sighting { seen: seen_now, reading: *reading });
                }
            }
            Err(watcher::Error::WatchError(status)) if status.code == GONE => {
                debug!("the watch was away for too long: reading the object anew");
                tokio::time::sleep(spread(Duration::ZERO, BACKOFF.first, roll())).await;
            }
            Err(problem) => {
                failures += 1;
                let delay = BACKOFF.delay(failures, roll());
                // A watch that ran out, or a server that was replaced, is everyday life.
                if failures > 1 {
                    warn!(error = %chain(&problem), ?delay, "cannot watch the node's object");
                } else {
                    debug!(error = %chain(&problem), ?delay, "the watch was interrupted");
                }
                tokio::time::sleep(delay).await;
            }
        }
    }
}

/// What an event says; `found` is whether the list that is being read has held the object.
fn understand(event: Event<Guarded<NodeModulesConfig>>, found: &mut bool) -> Option<Seen> {
    match event {
        Event::Init => {
            *found = false;
            None
        }
        Event::InitApply(object) => {
            *found = true;
            Some(judge(object))
        }
        Event::Apply(object) => Some(judge(object)),
        Event::InitDone if *found => None,
        Event::InitDone | Event::Delete(_) => Some(Seen::Absent),
    }
}

fn judge(object: Guarded<NodeModulesConfig>) -> Seen {
    match object.0 {
        Ok(object) => Seen::Present(Box::new(object)),
        Err(problem) => {
            error!(
                error = problem.error,
                "cannot read the node's object: is its operator newer than this agent?"
            );
            Seen::Malformed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::ResourceExt as _;
    use tenon_api::Unreadable;
    use tokio::sync::watch;

    fn object(version: &str) -> Guarded<NodeModulesConfig> {
        let mut object = NodeModulesConfig::new("node-7", tenon_api::NodeModulesConfigSpec::default());
        object.metadata.resource_version = Some(version.to_owned());
        Guarded(Ok(object))
    }

    async fn sighted_after(events: Vec<watcher::Result<Event<Guarded<NodeModulesConfig>>>>) -> Sighting {
        let (sender, receiver) = watch::channel(Sighting::default());
        read(futures::stream::iter(events), &sender, &mut 0).await;
        receiver.borrow().clone()
    }

    async fn seen_after(events: Vec<watcher::Result<Event<Guarded<NodeModulesConfig>>>>) -> String {
        match sighted_after(events).await.seen {
            Seen::Present(object) => object.resource_version().unwrap(),
            other => format!("{other:?}"),
        }
    }

    fn failure() -> watcher::Error {
        watcher::Error::NoResourceVersion
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_does_not_exist_yet_is_absent_and_then_there() {
        assert_eq!(seen_after(vec![Ok(Event::Init), Ok(Event::InitDone)]).await, "Absent");
        let events = vec![Ok(Event::Init), Ok(Event::InitDone), Ok(Event::Apply(object("4")))];
        assert_eq!(seen_after(events).await, "4");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_not_absence() {
        assert_eq!(seen_after(vec![Err(failure()), Err(failure())]).await, "Nothing");
        let events =
            vec![Ok(Event::InitApply(object("3"))), Ok(Event::InitDone), Err(failure()), Ok(Event::Init)];
        assert_eq!(seen_after(events).await, "3");
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_is_gone_after_an_interruption_is_absent() {
        let events = vec![
            Ok(Event::Init),
            Ok(Event::InitApply(object("3"))),
            Ok(Event::InitDone),
            Err(failure()),
            Ok(Event::Init),
            Ok(Event::InitDone),
        ];
        assert_eq!(seen_after(events).await, "Absent");
        assert_eq!(seen_after(vec![Ok(Event::Delete(object("5")))]).await, "Absent");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_was_away_for_too_long_begins_anew_at_once() {
        let gone = kube::core::Status { code: GONE, ..kube::core::Status::default() };
        let start = tokio::time::Instant::now();
        assert_eq!(seen_after((0..8).map(|_| Err(failure())).collect()).await, "Nothing");
        assert!(start.elapsed() > Duration::from_secs(30));
        let start = tokio::time::Instant::now();
        let events = vec![Err(watcher::Error::WatchError(Box::new(gone))), Ok(Event::InitApply(object("3")))];
        assert_eq!(seen_after(events).await, "3");
        assert!(start.elapsed() <= BACKOFF.first);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_read_anew_is_told_from_what_is_followed() {
        let list = |version| [Ok(Event::Init), Ok(Event::InitApply(object(version))), Ok(Event::InitDone)];
        let mut events: Vec<_> = list("5").into();
        events.push(Ok(Event::Apply(object("6"))));
        assert_eq!(sighted_after(events).await.reading, 1);
        let mut events: Vec<_> = list("5").into();
        events.extend(list("3"));
        events.push(Ok(Event::Apply(object("4"))));
        assert_eq!(sighted_after(events).await.reading, 2, "also when the reading itself was slept through");
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_is_read_anew_when_a_watch_has_had_its_time() {
        let (sender, receiver) = watch::channel(Sighting::default());
        let mut reading = 0;
        for version in ["5", "3"] {
            let list = [Ok(Event::Init), Ok(Event::InitApply(object(version))), Ok(Event::InitDone)];
            let silent = futures::stream::iter(list).chain(futures::stream::pending());
            watch_once(|_| silent, &sender, &mut reading).await;
        }
        let Sighting { seen, reading } = receiver.borrow().clone();
        let Seen::Present(object) = seen else { panic!("{seen:?}") };
        assert_eq!((object.resource_version().as_deref(), reading), (Some("3"), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unreadable_object_does_not_end_the_watch() {
        let broken = || {
            Guarded(Err(Unreadable { error: "no".to_owned(), metadata: kube::core::ObjectMeta::default() }))
        };
        assert_eq!(seen_after(vec![Ok(Event::Apply(broken()))]).await, "Malformed");
        assert_eq!(seen_after(vec![Ok(Event::Apply(broken())), Ok(Event::Apply(object("9")))]).await, "9");
    }
}
