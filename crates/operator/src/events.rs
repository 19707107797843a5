//! Kubernetes Events, for people who look at an object with `kubectl describe`.
//!
//! Publishing never waits: what comes too fast is dropped and counted. The same event for the same object becomes one
//! Event with a count.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tenon_api::reasons::event as reasons;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::metrics::{Metrics, Resource, Verb};

/// Events that may wait to be sent.
const QUEUE: usize = 256;
/// Events that go out per second at most.
const PER_SECOND: u32 = 10;
/// One event, its retries included.
const PATIENCE: Duration = Duration::from_secs(10);
/// The API server takes at most 1,024 bytes.
const NOTE_BYTES: usize = 1000;
/// Of an object's name in the name of its events, which may have 253.
const NAME_BYTES: usize = 200;
/// For how long an event that comes again is counted in the one that is there.
const SERIES: Duration = Duration::from_mins(6);
/// Where events of what belongs to no namespace are.
const DEFAULT_NAMESPACE: &str = "default";

/// Who reports.
const OWN: &str = "tenon-operator";
/// Who reports what KMM reports, in KMM's words: `--field-selector source=kmm` finds these.
const KMM: &str = "kmm";
/// What KMM reports.
const KMM_REASONS: [&str; 8] = [
    reasons::MODULE_LOADED,
    reasons::MODULE_UNLOADED,
    reasons::BUILD_CREATED,
    reasons::BUILD_SUCCEEDED,
    reasons::BUILD_FAILED,
    reasons::SIGN_CREATED,
    reasons::SIGN_SUCCEEDED,
    reasons::SIGN_FAILED,
];

/// Whether somebody should look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The world changed as it should.
    Normal,
    /// Somebody should look.
    Warning,
}

/// What happened to an object.
#[derive(Clone, Debug)]
pub struct Notice {
    /// The object.
    pub regarding: ObjectReference,
    /// Whether somebody should look.
    pub severity: Severity,
    /// One of the API's reasons, in `CamelCase`.
    pub reason: &'static str,
    /// What the operator was doing, in `CamelCase`.
    pub action: &'static str,
    /// A sentence.
    pub note: String,
}

/// What programs read of an event, by key.
pub type Annotations = BTreeMap<String, String>;

/// Where events are handed in. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<(Notice, Annotations)>,
    metrics: Arc<Metrics>,
}

/// Sends what was handed in.
#[derive(Debug)]
pub struct Publisher {
    queue: mpsc::Receiver<(Notice, Annotations)>,
    metrics: Arc<Metrics>,
}

/// A queue of events and who empties it.
pub fn channel(metrics: Arc<Metrics>) -> (Events, Publisher) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Events { queue: sender, metrics: metrics.clone() }, Publisher { queue: receiver, metrics })
}

impl Events {
    /// Hands in an event; drops it when too many wait.
    pub fn publish(&self, notice: Notice) {
        self.publish_with(notice, Annotations::new());
    }

    /// As [`Self::publish`], with annotations.
    pub fn publish_with(&self, notice: Notice, annotations: Annotations) {
        if self.queue.try_send((notice, annotations)).is_err() {
            self.metrics.dropped_events.inc();
        }
    }
}

impl Publisher {
    /// Sends events in the name of the replica `identity` until `shutdown`.
    pub async fn run(mut self, client: Client, identity: String, shutdown: CancellationToken) {
        let mut recorder = Recorder { client, identity, recent: HashMap::new() };
        let mut turns = tokio::time::interval_at(Instant::now(), Duration::from_secs(1) / PER_SECOND);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while let Some(Some((notice, annotations))) = shutdown.run_until_cancelled(self.queue.recv()).await {
            turns.tick().await;
            self.metrics.wrote(Resource::Event, Verb::Create);
            match tokio::time::timeout(PATIENCE, recorder.publish(notice, annotations)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(error = &error as &dyn std::error::Error, "an event was not taken"),
                Err(_) => debug!("an event was not taken in time"),
            }
        }
    }
}

/// What makes two events the same one. Its words are part of it: a build for one kernel is none for another.
type Key = (Option<String>, Option<String>, Option<String>, Option<String>);

/// An event that is there.
#[derive(Debug)]
struct Recent {
    name: String,
    count: i32,
    last: Timestamp,
}

/// Writes events, and remembers the last ones.
struct Recorder {
    client: Client,
    identity: String,
    recent: HashMap<Key, Recent>,
}

impl Recorder {
    async fn publish(&mut self, notice: Notice, annotations: Annotations) -> Result<(), kube::Error> {
        let now = Timestamp::now();
        self.recent.retain(|_, recent| now.duration_since(recent.last).unsigned_abs() < SERIES);
        let namespace = notice.regarding.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let event = event(notice, annotations, &self.identity, now);
        let key = key(&event);
        if let Some(recent) = self.recent.get_mut(&key) {
            let series =
                EventSeries { count: recent.count.saturating_add(1), last_observed_time: MicroTime(now) };
            let patch = Patch::Merge(json!({ "series": series }));
            match events.patch(&recent.name, &PatchParams::default(), &patch).await {
                Ok(_) => {
                    (recent.count, recent.last) = (series.count, now);
                    return Ok(());
                }
                // It has expired, or somebody has deleted it.
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        events.create(&PostParams::default(), &event).await?;
        let name = event.metadata.name.unwrap_or_default();
        self.recent.insert(key, Recent { name, count: 1, last: now });
        Ok(())
    }
}

fn key(event: &Event) -> Key {
    let regarding = event.regarding.as_ref();
    (
        regarding.and_then(|regarding| regarding.kind.clone()),
        regarding.and_then(|regarding| regarding.uid.clone().or_else(|| regarding.name.clone())),
        event.reason.clone(),
        event.note.clone(),
    )
}

fn event(notice: Notice, annotations: Annotations, identity: &str, now: Timestamp) -> Event {
    let Notice { regarding, severity, reason, action, mut note } = notice;
    note.truncate(note.floor_char_boundary(NOTE_BYTES));
    let severity = match severity {
        Severity::Normal => "Normal",
        Severity::Warning => "Warning",
    };
    Event {
        metadata: ObjectMeta {
            name: Some(name(regarding.name.as_deref().unwrap_or_default(), now)),
            namespace: regarding.namespace.clone(),
            annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
            ..ObjectMeta::default()
        },
        action: Some(action.to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(note),
        reason: Some(reason.to_owned()),
        regarding: Some(regarding),
        reporting_controller: Some(if KMM_REASONS.contains(&reason) { KMM } else { OWN }.to_owned()),
        reporting_instance: Some(identity.to_owned()),
        type_: Some(severity.to_owned()),
        ..Event::default()
    }
}

/// Events of one object begin with its name, as everybody's do.
fn name(object: &str, now: Timestamp) -> String {
    let cut = object.get(..object.floor_char_boundary(NAME_BYTES)).unwrap_or(object);
    format!("{}.{:x}", cut.trim_end_matches(['.', '-']), now.as_nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(note: String) -> Notice {
        Notice {
            regarding: ObjectReference::default(),
            severity: Severity::Warning,
            reason: "ImageAbsent",
            action: "Resolve",
            note,
        }
    }

    fn made(note: String) -> Event {
        event(notice(note), Annotations::new(), "pod-1", Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_flood_is_dropped_and_counted() {
        let metrics = Arc::new(Metrics::new());
        let (events, _publisher) = channel(metrics.clone());
        for _ in 0..QUEUE + 7 {
            events.publish(notice(String::new()));
        }
        assert_eq!(metrics.dropped_events.get(), 7);
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let note = made("é".repeat(2000)).note.unwrap();
        assert_eq!(note, "é".repeat(NOTE_BYTES / 2));
    }

    #[test]
    fn what_is_said_of_two_kernels_is_two_events() {
        assert_eq!(key(&made("kernel 6.1".to_owned())), key(&made("kernel 6.1".to_owned())));
        assert_ne!(key(&made("kernel 6.1".to_owned())), key(&made("kernel 6.12".to_owned())));
    }

    #[test]
    fn what_kmm_reports_is_reported_in_its_name() {
        let by = |reason| {
            let notice = Notice { reason, ..notice(String::new()) };
            event(notice, Annotations::new(), "pod-1", Timestamp::UNIX_EPOCH).reporting_controller.unwrap()
        };
        assert_eq!(
            (by(reasons::MODULE_LOADED), by(reasons::MODULE_LOAD_FAILED)),
            (KMM.to_owned(), OWN.to_owned())
        );
    }

    #[test]
    fn an_event_of_a_long_name_has_a_name_that_is_one() {
        let long = name(&format!("{}.b", "a".repeat(NAME_BYTES - 1)), Timestamp::MAX);
        assert!(long.len() <= 253 && long.starts_with(&format!("{}.", "a".repeat(NAME_BYTES - 1))), "{long}");
        assert!(!long.contains(".."));
    }
}
