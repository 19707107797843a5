//! What is remembered of images that nodes pull: which Jobs are under way, and how often they have failed.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenon_plan::provision::pull::Failure;
use tenon_plan::provision::{Finding, making};
use tokio::time::Instant;

use crate::world::ImageKey;

/// How often the registry is asked whether it denies an image still that a node is to pull.
const ASK_AGAIN: Duration = Duration::from_mins(2);

/// The Jobs, by name.
#[derive(Debug, Default)]
pub(in crate::images) struct Pulls {
    known: Mutex<BTreeMap<String, Known>>,
    /// Who asks whether there may be one more Job, and makes it.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Known {
    image: ImageKey,
    /// What the registry said to the operator.
    why: String,
    under_way: bool,
    /// When it said so last.
    asked: Instant,
    /// The pod of which something is expected.
    pod: Option<String>,
    failures: i32,
    failed: Option<(Finding, Instant)>,
    /// The image was had, which its status may not say yet.
    had: Option<Finding>,
}

impl Pulls {
    /// Whether there should be such a Job.
    pub(super) fn is_under_way(&self, name: &str) -> bool {
        self.lock().get(name).is_some_and(|known| known.under_way)
    }

    /// Whether there should be such a Job, and the registry has said so of late. What was denied may be had by now: the pull secret was
    /// mended, or the registry was. A pod waits for its node for as long as it takes.
    pub(super) fn need_not_ask(&self, name: &str) -> bool {
        self.lock().get(name).is_some_and(|known| known.under_way && known.asked.elapsed() < ASK_AGAIN)
    }

    /// The registry was asked once more.
    pub(super) fn asked(&self, name: &str) {
        if let Some(known) = self.lock().get_mut(name) {
            known.asked = Instant::now();
        }
    }

    /// There should be one from now on; or, while it is not its time, why the last one failed.
    pub(super) fn begin(&self, name: &str, image: &ImageKey, finding: &Finding) -> Option<Finding> {
        let mut all = self.lock();
        let known = all.entry(name.to_owned()).or_insert_with(|| Known {
            image: image.clone(),
            why: String::new(),
            under_way: false,
            asked: Instant::now(),
            pod: None,
            failures: 0,
            failed: None,
            had: None,
        });
        if let Some((failed, not_before)) = &known.failed
            && *not_before > Instant::now()
        {
            return Some(failed.clone());
        }
        (known.under_way, known.asked) = (true, Instant::now());
        if let Finding::Missing { message, .. } = finding {
            known.why.clone_from(message);
        }
        None
    }

    /// The pod of a Job.
    pub(super) fn follow(&self, name: &str, pod: &str) {
        if let Some(known) = self.lock().get_mut(name) {
            known.pod = Some(pod.to_owned());
        }
    }

    /// The pod of a Job, if it was seen.
    pub(super) fn pod_of(&self, name: &str) -> Option<String> {
        self.lock().get(name)?.pod.clone()
    }

    /// What the registry said to the operator.
    pub(super) fn why(&self, name: &str) -> Option<String> {
        self.lock().get(name).map(|known| known.why.clone()).filter(|why| !why.is_empty())
    }

    /// Nothing came of a Job. The next one comes ever later.
    pub(super) fn fail(&self, name: &str, failure: Failure) -> Finding {
        let Failure { reason, message, needs_change } = failure;
        let mut all = self.lock();
        let failures = all.get(name).map_or(0, |known| known.failures).saturating_add(1);
        let after = making::again_after(failures, false);
        let finding = Finding::Missing { reason, message, needs_change, retry_after: Some(after) };
        if let Some(known) = all.get_mut(name) {
            *known = Known {
                image: known.image.clone(),
                why: std::mem::take(&mut known.why),
                under_way: false,
                asked: known.asked,
                pod: None,
                failures,
                failed: Some((finding.clone(), Instant::now() + after)),
                had: None,
            };
        }
        finding
    }

    /// The image was had: whoever asks before its status says so is told, and no node pulls it once more.
    pub(super) fn succeed(&self, name: &str, finding: &Finding) {
        if let Some(known) = self.lock().get_mut(name) {
            known.under_way = false;
            known.had = Some(finding.clone());
        }
    }

    /// What was had, unless its status says so already.
    pub(super) fn had(&self, name: &str) -> Option<Finding> {
        self.lock().get(name)?.had.clone()
    }

    /// The image's status says what was had.
    pub(in crate::images) fn told(&self, image: &ImageKey) {
        self.lock().retain(|_, known| known.image != *image || known.had.is_none());
    }

    /// The image was had, and no status is to say so.
    pub(super) fn forget(&self, name: &str) {
        self.lock().remove(name);
    }

    /// Forgets all that is known of an image, but for this Job; gives the others, and their pods.
    pub(super) fn abandon(&self, image: &ImageKey, but: Option<&str>) -> Vec<(String, Option<String>)> {
        let mut all = self.lock();
        let others = all.iter().filter(|(name, known)| known.image == *image && Some(name.as_str()) != but);
        let others: Vec<_> = others.map(|(name, known)| (name.clone(), known.pod.clone())).collect();
        all.retain(|name, known| known.image != *image || Some(name.as_str()) == but);
        others
    }

    /// One asks at a time.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        // Nothing panics while it holds the lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn denied() -> Finding {
        Finding::Missing {
            reason: "RegistryDenied",
            message: "401".to_owned(),
            needs_change: false,
            retry_after: None,
        }
    }

    fn failure() -> Failure {
        Failure { reason: "PullFailed", message: "no".to_owned(), needs_change: false }
    }

    fn key(name: &str) -> ImageKey {
        ImageKey { namespace: "hall".to_owned(), name: name.to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_tried_again_ever_later() {
        let pulls = Pulls::default();
        let mut waits = Vec::new();
        for _ in 0..3 {
            assert_eq!(pulls.begin("job", &key("gauge"), &denied()), None);
            assert!(pulls.is_under_way("job"));
            let failed = pulls.fail("job", failure());
            assert!(!pulls.is_under_way("job"));
            let Finding::Missing { retry_after: Some(after), .. } = failed else { panic!("{failed:?}") };
            assert!(pulls.begin("job", &key("gauge"), &denied()).is_some(), "whoever asks meanwhile is told");
            waits.push(after.as_secs());
            tokio::time::advance(after + Duration::from_millis(1)).await;
        }
        assert_eq!(waits, [10, 20, 40]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_is_asked_again_while_a_pod_waits() {
        let pulls = Pulls::default();
        assert!(!pulls.need_not_ask("job"));
        pulls.begin("job", &key("gauge"), &denied());
        assert!(pulls.need_not_ask("job"));
        tokio::time::advance(ASK_AGAIN).await;
        assert!(pulls.is_under_way("job") && !pulls.need_not_ask("job"));
        pulls.asked("job");
        assert!(pulls.need_not_ask("job"), "it denies it still");
    }

    #[tokio::test]
    async fn what_was_had_is_had_until_its_status_says_so() {
        let pulls = Pulls::default();
        for image in ["gauge", "lathe"] {
            pulls.begin(image, &key(image), &denied());
            assert_eq!(pulls.had(image), None);
            pulls.succeed(image, &denied());
            assert!(pulls.had(image).is_some() && !pulls.is_under_way(image));
        }
        pulls.told(&key("gauge"));
        assert!(pulls.had("gauge").is_none() && pulls.had("lathe").is_some());
    }

    #[tokio::test]
    async fn an_image_that_has_changed_leaves_no_job() {
        let pulls = Pulls::default();
        for (job, image) in [("old", "gauge"), ("new", "gauge"), ("other", "lathe")] {
            pulls.begin(job, &key(image), &denied());
        }
        pulls.follow("old", "p-1");
        let abandoned = pulls.abandon(&key("gauge"), Some("new"));
        assert_eq!(abandoned, [("old".to_owned(), Some("p-1".to_owned()))]);
        assert!(pulls.is_under_way("new") && pulls.is_under_way("other") && !pulls.is_under_way("old"));
        assert_eq!(pulls.abandon(&key("gauge"), None).len(), 1);
    }
}
