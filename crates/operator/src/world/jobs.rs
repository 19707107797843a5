//! Which Jobs make images, and how far they are.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tenon_api::labels;
use tenon_plan::provision::making::{JobSeen, JobState};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::flight::Ends;
use super::{ImageKey, World};

/// How long the watch may be silent before it is opened anew.
const WATCH_SECONDS: u32 = 290;

/// A Job, by namespace and name.
type JobKey = (String, String);

/// A Job that makes an image, by what its object says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownJob {
    /// The image's reference.
    pub image: String,
    /// How far it is.
    pub seen: JobSeen,
    /// Whether no node has taken its pod when it was looked at last. What has not begun is in nobody's way.
    pub unplaced: bool,
}

impl KnownJob {
    /// `None` when the object does not say which image it makes.
    pub fn of(job: &Job) -> Option<Self> {
        let image = job.annotations().get(labels::annotation::IMAGE)?.clone();
        let conditions =
            job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let told = |type_: &str| {
            conditions.iter().find(|condition| condition.type_ == type_ && condition.status == "True")
        };
        let state = match (told("Failed"), told("Complete")) {
            _ if job.metadata.deletion_timestamp.is_some() => JobState::Leaving,
            (Some(_), _) => JobState::Failed,
            (None, Some(_)) => JobState::Succeeded,
            (None, None) => JobState::Running,
        };
        let message = told("Failed").and_then(|condition| condition.message.clone()).unwrap_or_default();
        Some(Self {
            image,
            seen: JobSeen {
                name: job.name_any(),
                uid: job.uid().unwrap_or_default(),
                module: job.labels().get(labels::MODULE_NAME).cloned().unwrap_or_default(),
                state,
                placement: job.annotations().get(labels::annotation::PLACEMENT).cloned().unwrap_or_default(),
                message,
            },
            unplaced: false,
        })
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct JobsIndex {
    jobs: BTreeMap<JobKey, KnownJob>,
    /// The uids of those that were deleted.
    ended: Ends<String>,
}

impl JobsIndex {
    /// Those that make this image.
    pub fn of(&self, namespace: &str, image: &str) -> Vec<JobSeen> {
        let makes = |(key, job): &(&JobKey, &KnownJob)| key.0 == namespace && job.image == image;
        self.jobs.iter().filter(makes).map(|(_, job)| job.seen.clone()).collect()
    }

    /// All of them, by namespace.
    fn all(&self) -> impl Iterator<Item = (&str, &KnownJob)> {
        self.jobs.iter().map(|((namespace, _), job)| (namespace.as_str(), job))
    }

    /// How many work now, or are about to.
    pub fn running(&self) -> usize {
        self.jobs.values().filter(|job| job.seen.state == JobState::Running && !job.unplaced).count()
    }

    /// Takes note of whether a node has taken the pod of a Job.
    fn place(&mut self, key: &JobKey, placed: bool) {
        if let Some(job) = self.jobs.get_mut(key) {
            job.unplaced = !placed;
        }
    }

    /// Replaces what is known of a Job; the image that it concerns, if anything has changed.
    fn set(&mut self, key: JobKey, mut job: Option<KnownJob>, now: Instant) -> Option<String> {
        let known = self.jobs.get(&key);
        // No Job tells it of itself.
        if let (Some(job), Some(known)) = (&mut job, known) {
            job.unplaced = known.unplaced && known.seen.uid == job.seen.uid;
        }
        if known == job.as_ref() {
            return None;
        }
        let image = job.as_ref().map(|job| job.image.clone());
        let former = match job {
            Some(job) => self.jobs.insert(key, job),
            None => self.jobs.remove(&key),
        };
        if let Some(ended) = former.as_ref().filter(|_| image.is_none()) {
            self.ended.note(ended.seen.uid.clone(), None, now);
        }
        image.or(former.map(|former| former.image))
    }
}

impl World {
    /// The Jobs that make this image.
    pub fn jobs_of(&self, namespace: &str, image: &str) -> Vec<JobSeen> {
        super::lock(&self.jobs).of(namespace, image)
    }

    /// All Jobs that make images, by namespace.
    pub fn jobs(&self) -> Vec<(String, KnownJob)> {
        super::lock(&self.jobs).all().map(|(namespace, job)| (namespace.to_owned(), job.clone())).collect()
    }

    /// How many Jobs make images now, in the whole cluster.
    pub fn running_jobs(&self) -> usize {
        super::lock(&self.jobs).running()
    }

    /// Whether a node has taken the pod of a Job: until then it has no turn.
    pub fn job_is_placed(&self, namespace: &str, name: &str, placed: bool) {
        super::lock(&self.jobs).place(&(namespace.to_owned(), name.to_owned()), placed);
    }

    /// A Job was seen, or is gone: its images are looked at.
    pub fn job(&self, namespace: &str, name: &str, job: Option<KnownJob>) {
        let now = (self.clock.steady)();
        let changed = super::lock(&self.jobs).set((namespace.to_owned(), name.to_owned()), job, now);
        let Some(image) = changed else { return };
        self.images_changed.notify_one();
        let concerned: Vec<_> = {
            let index = self.read();
            let made = index.images().filter(|known| {
                known.spec.image == image && known.metadata.namespace.as_deref() == Some(namespace)
            });
            made.map(|known| ImageKey::of(known)).collect()
        };
        for image in concerned {
            self.queues.images.add(image);
        }
    }

    /// As [`Self::wrote_config`], of a Job that was made: no state of it is older than this, so what the watch has told of it counts.
    pub fn made_job(&self, namespace: &str, job: &Job) {
        let Some(made) = KnownJob::of(job) else { return };
        let _news = self.take_news();
        let key = (namespace.to_owned(), made.seen.name.clone());
        let is_known = {
            let index = super::lock(&self.jobs);
            let is_it = |known: &KnownJob| known.seen.uid == made.seen.uid;
            index.jobs.get(&key).is_some_and(is_it) || index.ended.is_past(&made.seen.uid, Some(0))
        };
        if !is_known {
            self.job(namespace, &key.1, Some(made));
        }
    }

    fn see_job(&self, job: &Job) -> Option<JobKey> {
        let (namespace, name) = (job.namespace()?, job.name_any());
        self.job(&namespace, &name, KnownJob::of(job));
        Some((namespace, name))
    }
}

/// Follows the Jobs that make images until `shutdown`; `listed` turns true when all that there were have been seen.
pub async fn follow_jobs(
    client: Client,
    world: &World,
    listed: watch::Sender<bool>,
    shutdown: CancellationToken,
) {
    let config = watcher::Config::default().timeout(WATCH_SECONDS).labels(&format!(
        "{}={}",
        labels::MANAGED_BY,
        labels::PRODUCT
    ));
    let mut events = Box::pin(watcher(Api::<Job>::all(client), config).default_backoff());
    let mut relisted: BTreeSet<JobKey> = BTreeSet::new();
    while let Some(Some(event)) = shutdown.run_until_cancelled(events.next()).await {
        let _news = world.take_news();
        match event {
            Ok(Event::Init) => relisted.clear(),
            Ok(Event::InitApply(job)) => relisted.extend(world.see_job(&job)),
            Ok(Event::InitDone) => {
                let known: Vec<_> = super::lock(&world.jobs).jobs.keys().cloned().collect();
                for (namespace, name) in known.iter().filter(|key| !relisted.contains(key)) {
                    world.job(namespace, name, None);
                }
                listed.send_replace(true);
            }
            Ok(Event::Apply(job)) => {
                world.see_job(&job);
            }
            Ok(Event::Delete(job)) => {
                world.job(&job.namespace().unwrap_or_default(), &job.name_any(), None);
            }
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                "the watch of Jobs was interrupted; it is opened again"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::depot::Assignments;

    fn job(conditions: &serde_json::Value) -> Job {
        serde_json::from_value(serde_json::json!({
            "metadata": {
                "name": "gauge-sign-0", "namespace": "lab", "uid": "u-1",
                "annotations": {"tenon.dev/image": "registry.test/gauge:1"}
            },
            "status": {"conditions": conditions}
        }))
        .unwrap()
    }

    #[test]
    fn conditions_say_how_far_a_job_is() {
        let state = |conditions: serde_json::Value| KnownJob::of(&job(&conditions)).unwrap().seen.state;
        let condition = |type_: &str, status: &str| serde_json::json!([{"type": type_, "status": status, "message": "why"}]);
        assert_eq!(state(serde_json::json!([])), JobState::Running);
        // Kubernetes 1.31 and later: the pods are still ending (KEP-3329).
        assert_eq!(state(condition("FailureTarget", "True")), JobState::Running);
        assert_eq!(state(condition("Failed", "True")), JobState::Failed);
        assert_eq!(state(condition("Failed", "False")), JobState::Running);
        assert_eq!(state(condition("Complete", "True")), JobState::Succeeded);
    }

    #[test]
    fn an_answer_that_a_job_was_made_takes_nothing_back_that_the_watch_has_told_of_it() {
        let world = World::new(Assignments::default());
        let state = || world.jobs_of("lab", "registry.test/gauge:1").first().map(|job| job.state);
        let made = job(&serde_json::json!([]));
        world.made_job("lab", &made);
        assert_eq!(state(), Some(JobState::Running));
        world.see_job(&job(&serde_json::json!([{"type": "Complete", "status": "True"}])));
        world.made_job("lab", &made);
        assert_eq!(state(), Some(JobState::Succeeded));
        world.job("lab", "gauge-sign-0", None);
        world.made_job("lab", &made);
        assert_eq!(state(), None, "it is gone");
        let mut next = made;
        next.metadata.uid = Some("u-2".to_owned());
        world.made_job("lab", &next);
        assert_eq!(state(), Some(JobState::Running), "another of this name");
    }

    #[test]
    fn jobs_are_known_by_the_image_that_they_make() {
        let world = World::new(Assignments::default());
        world.see_job(&job(&serde_json::json!([])));
        assert_eq!(world.jobs_of("lab", "registry.test/gauge:1").len(), 1);
        assert!(world.jobs_of("lab", "registry.test/other:1").is_empty());
        assert!(world.jobs_of("hall", "registry.test/gauge:1").is_empty());
        assert_eq!(world.running_jobs(), 1);
        world.job_is_placed("lab", "gauge-sign-0", false);
        assert_eq!(world.running_jobs(), 0, "what no node takes is in nobody's way");
        world.see_job(&job(&serde_json::json!([])));
        assert_eq!(world.running_jobs(), 0, "which the Job says nothing of");
        world.job_is_placed("lab", "gauge-sign-0", true);
        assert_eq!(world.running_jobs(), 1);
        world.job("lab", "gauge-sign-0", None);
        assert!(world.jobs_of("lab", "registry.test/gauge:1").is_empty());
    }
}
