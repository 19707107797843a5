//! Remembers what Jobs have made: only what a Job says that it has published itself, and only of Jobs that this operator made for a
//! ModuleImage. What an image's own labels say is nobody's word.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use tenon_api::ModuleImage;
use tenon_api::made_image::{MadeImage, MadeImageSpec};
use tenon_api::task::{self, Report};
use tenon_order::Digest;
use tenon_plan::provision::job::progress;
use tenon_plan::provision::making::{JobSeen, JobState};
use tracing::{info, warn};

use super::apply;
use super::memory::Memory;
use crate::run::Context;
use crate::world::{KnownJob, World};

/// Notes what Jobs have made since the last look; whether everything could be.
pub(super) async fn record(context: &Context, world: &World, memory: &mut Memory) -> bool {
    let jobs = world.jobs();
    let uids: BTreeSet<&str> = jobs.iter().map(|(_, job)| job.seen.uid.as_str()).collect();
    memory.vouched.retain(|uid, _| uids.contains(uid.as_str()));
    memory.recorded.retain(|uid| uids.contains(uid.as_str()));
    vouch(world, &jobs, memory);
    let mut all = true;
    for (namespace, KnownJob { seen, .. }) in &jobs {
        if seen.state != JobState::Succeeded || memory.recorded.contains(&seen.uid) {
            continue;
        }
        let Some(spec) = memory.vouched.get(&seen.uid).cloned() else { continue };
        match note(context, namespace, seen, spec, memory).await {
            Ok(()) => {
                memory.recorded.insert(seen.uid.clone());
            }
            Err(error) => {
                warn!(job = seen.name, error = &*error, "what a Job has made cannot be noted yet");
                all = false;
            }
        }
    }
    all
}

/// Notes for which ModuleImage each Job works, as long as there is one: its kernel may leave before the Job has ended.
fn vouch(world: &World, jobs: &[(String, KnownJob)], memory: &mut Memory) {
    let is_new = |job: &KnownJob| !memory.vouched.contains_key(&job.seen.uid);
    let new: Vec<_> = jobs.iter().filter(|(_, job)| is_new(job)).collect();
    if new.is_empty() {
        return;
    }
    let images: Vec<_> = world.read().images().cloned().collect();
    let made_by = |image: &ModuleImage| {
        let making = image.status.as_ref()?.making.as_ref()?;
        Some((image.namespace()?, making.job.clone()))
    };
    let by_job: BTreeMap<_, _> = images.iter().filter_map(|image| Some((made_by(image)?, image))).collect();
    for (namespace, job) in new {
        let image = by_job.get(&(namespace.clone(), job.seen.name.clone()));
        if let Some(image) = image.filter(|image| image.spec.image == job.image) {
            memory.vouched.insert(job.seen.uid.clone(), spec(image));
        }
    }
}

/// What is remembered of it, but for its digest.
fn spec(image: &ModuleImage) -> MadeImageSpec {
    MadeImageSpec {
        module: image.spec.module.clone(),
        image: image.spec.image.clone(),
        digest: String::new(),
        image_repo_secret: image.spec.image_repo_secret.clone(),
        registry_tls: image.spec.registry_tls,
    }
}

async fn note(
    context: &Context,
    namespace: &str,
    job: &JobSeen,
    spec: MadeImageSpec,
    memory: &mut Memory,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let Some(digest) = published(context, namespace, job).await? else { return Ok(()) };
    let spec = MadeImageSpec { digest: digest.to_string(), ..spec };
    info!(image = spec.image, digest = spec.digest, job = job.name, "it was made here, which is remembered");
    let mut made = MadeImage::new(&MadeImage::name_for(&spec), spec);
    made.metadata.namespace = Some(namespace.to_owned());
    memory.put(apply::remember(context, &made).await?);
    Ok(())
}

/// What a Job says that it has published. Nothing where it found it there: who made it then is not known.
async fn published(context: &Context, namespace: &str, job: &JobSeen) -> Result<Option<Digest>, kube::Error> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let params = ListParams::default().labels(&format!("batch.kubernetes.io/controller-uid={}", job.uid));
    let pods = pods.list(&params).await?.items;
    let is_its = |pod: &&Pod| pod.owner_references().iter().any(|owner| owner.uid == job.uid);
    Ok(pods.iter().filter(is_its).find_map(said))
}

fn said(pod: &Pod) -> Option<Digest> {
    let status = progress::containers(pod).find(|status| status.name == task::CONTAINER)?;
    let ended = status.state.as_ref()?.terminated.as_ref().filter(|ended| ended.exit_code == 0)?;
    match Report::read(ended.message.as_deref()?)? {
        Report::Made { digest, fresh: true, .. } => digest.parse().ok(),
        Report::Made { .. } | Report::Tried { .. } | Report::Failed { .. } => None,
    }
}
