//! What must hold at every moment of a life, and not at its end only: watched beside it, by a client that meets no fault.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{WatchEvent, WatchParams};
use kube::{Api, ResourceExt as _};
use serde::de::DeserializeOwned;
use tenon_api::ModuleImage;
use tenon_api::labels::annotation;
use tenon_api::module_image::ImagePhase;
use tenon_image::ImageReference;
use tokio::task::JoinSet;

use crate::stand::{OPERATOR_NAMESPACE, Stand};

/// How often it is looked whether the registry has what is ready.
const LOOK: Duration = Duration::from_millis(50);
/// The API server ends watches after five minutes.
const WATCH_SECONDS: u32 = 280;

/// Who watches one life.
pub(crate) struct Witness {
    account: Arc<Mutex<Account>>,
    _tasks: JoinSet<()>,
}

/// What was seen.
#[derive(Debug, Default)]
struct Account {
    /// By uid: the image that a Job is for, and whether it works still.
    jobs: BTreeMap<String, (String, bool)>,
    /// All Jobs that there ever were.
    ever: BTreeSet<String>,
    /// By uid: repository and digest of an image that is ready.
    ready: BTreeMap<String, (String, String)>,
    wrong: BTreeSet<String>,
}

impl Witness {
    /// Watches the life of this name from now on.
    pub(crate) fn of(stand: &Stand, life: &str) -> Self {
        let account = Arc::new(Mutex::new(Account::default()));
        let mut tasks = JoinSet::new();
        for namespace in [life, OPERATOR_NAMESPACE] {
            let (account, life) = (account.clone(), life.to_owned());
            let jobs: Api<Job> = Api::namespaced(stand.client.clone(), namespace);
            tasks.spawn(follow(jobs, move |event| lock(&account).job(&life, event)));
        }
        let images: Api<ModuleImage> = Api::namespaced(stand.client.clone(), life);
        tasks.spawn(follow(images, {
            let account = account.clone();
            move |event| lock(&account).image(event)
        }));
        let (registry, looked) = (stand.registry.clone(), account.clone());
        tasks.spawn(async move {
            let mut looks = tokio::time::interval(LOOK);
            loop {
                looks.tick().await;
                let mut account = lock(&looked);
                let gone = |(repository, digest): &&(String, String)| {
                    registry.manifest(repository, digest).is_none()
                };
                let gone = account.ready.values().find(gone).cloned();
                if let Some((repository, digest)) = gone {
                    let wrong = format!("{repository}@{digest} is ready, and not in the registry");
                    account.wrong.insert(wrong);
                }
            }
        });
        Self { account, _tasks: tasks }
    }

    /// How many Jobs there were.
    pub(crate) fn jobs(&self) -> usize {
        lock(&self.account).ever.len()
    }

    /// What was wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        let account = lock(&self.account);
        if account.wrong.is_empty() { Ok(()) } else { Err(format!("{:?}", account.wrong)) }
    }
}

impl Account {
    fn job(&mut self, life: &str, event: Option<(&Job, bool)>) {
        let Some((job, there)) = event else {
            self.jobs.clear();
            return;
        };
        let known = [annotation::IMAGE, annotation::PULLED_IMAGE];
        let image = known.iter().find_map(|name| job.annotations().get(*name));
        let Some(image) = image.filter(|image| image.contains(&format!("/{life}:"))) else { return };
        let uid = job.uid().unwrap_or_default();
        self.ever.insert(uid.clone());
        if there {
            self.jobs.insert(uid, (image.clone(), works(job)));
        } else {
            self.jobs.remove(&uid);
        }
        let working = self.jobs.values().filter(|(other, works)| *works && other == image).count();
        if working > 1 {
            self.wrong.insert(format!("{working} Jobs for {image} at a time"));
        }
    }

    fn image(&mut self, event: Option<(&ModuleImage, bool)>) {
        let Some((image, there)) = event else {
            self.ready.clear();
            return;
        };
        let uid = image.uid().unwrap_or_default();
        let ready = image.status.as_ref().filter(|status| status.phase == Some(ImagePhase::Ready));
        // Of a former spec's image the status says no more where it was.
        let ready = ready.filter(|status| status.resolved_from == image.metadata.generation);
        let digest = ready.and_then(|status| status.image_digest.clone()).filter(|_| there);
        let reference = image.spec.image.parse::<ImageReference>().ok();
        match reference.zip(digest) {
            Some((reference, digest)) => {
                self.ready.insert(uid, (reference.repository().to_owned(), digest));
            }
            None => {
                self.ready.remove(&uid);
            }
        }
    }
}

/// Whether a Job has not ended yet; one that is being deleted works until its pod has ended, when it is gone.
pub(crate) fn works(job: &Job) -> bool {
    let told = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    !told
        .into_iter()
        .any(|told| matches!(told.type_.as_str(), "Complete" | "Failed") && told.status == "True")
}

/// Gives every change, with whether the object is there; `None` before all is given anew.
async fn follow<K>(api: Api<K>, take: impl Fn(Option<(&K, bool)>))
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    loop {
        take(None);
        let Ok(events) = api.watch(&WatchParams::default().timeout(WATCH_SECONDS), "0").await else {
            tokio::time::sleep(LOOK).await;
            continue;
        };
        let mut events = events.boxed();
        while let Some(Ok(event)) = events.next().await {
            match &event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => take(Some((object, true))),
                WatchEvent::Deleted(object) => take(Some((object, false))),
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(_) => break,
            }
        }
    }
}

fn lock(account: &Mutex<Account>) -> MutexGuard<'_, Account> {
    account.lock().unwrap_or_else(PoisonError::into_inner)
}
