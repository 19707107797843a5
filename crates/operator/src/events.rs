//! Kubernetes Events, for people who look at an object with `kubectl describe`.
//!
//! Publishing never waits: what comes too fast is dropped and counted. The same event for the same object becomes one
//! Event with a count.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
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

/// Where events are handed in. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<Notice>,
    metrics: Arc<Metrics>,
}

/// Sends what was handed in.
#[derive(Debug)]
pub struct Publisher {
    queue: mpsc::Receiver<Notice>,
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
        if self.queue.try_send(notice).is_err() {
            self.metrics.dropped_events.inc();
        }
    }
}

impl Publisher {
    /// Sends events in the name of the replica `identity` until `shutdown`.
    pub async fn run(mut self, client: Client, identity: String, shutdown: CancellationToken) {
        let reporter = Reporter { controller: "tenon-operator".to_owned(), instance: Some(identity) };
        let recorder = Recorder::new(client, reporter);
        let mut turns = tokio::time::interval_at(Instant::now(), Duration::from_secs(1) / PER_SECOND);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while let Some(Some(notice)) = shutdown.run_until_cancelled(self.queue.recv()).await {
            turns.tick().await;
            self.metrics.wrote(Resource::Event, Verb::Create);
            let regarding = notice.regarding.clone();
            match tokio::time::timeout(PATIENCE, recorder.publish(&event(notice), &regarding)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(error = &error as &dyn std::error::Error, "an event was not taken"),
                Err(_) => debug!("an event was not taken in time"),
            }
        }
    }
}

fn event(notice: Notice) -> Event {
    let mut note = notice.note;
    note.truncate(note.floor_char_boundary(NOTE_BYTES));
    Event {
        type_: match notice.severity {
            Severity::Normal => EventType::Normal,
            Severity::Warning => EventType::Warning,
        },
        reason: notice.reason.to_owned(),
        note: Some(note),
        action: notice.action.to_owned(),
        secondary: None,
    }
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
        let note = event(notice("é".repeat(2000))).note.unwrap();
        assert_eq!(note, "é".repeat(NOTE_BYTES / 2));
    }
}
