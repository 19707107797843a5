//! The Jobs, as the API server has them. Each is read when it is asked after: there are few, and not for long.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams, PropagationPolicy};
use kube::{Api, ResourceExt};
use tenon_api::labels;
use tracing::warn;

use super::known::Pulls;
use crate::controllers::WriteError;
use crate::metrics::{Resource, Verb};
use crate::run::Context;
use crate::world::World;

/// Images that nodes pull for the operator at the same time: each may have gigabytes, and nodes have other work.
const AT_ONCE: usize = 2;

/// The Jobs in the operator's namespace.
pub(super) struct Jobs<'a> {
    context: &'a Context,
    api: Api<Job>,
    pods: Api<Pod>,
}

/// What became of the wish for a Job.
pub(super) enum Started {
    /// It is there.
    Made,
    /// As many as may are there.
    Later(&'static str),
    /// The API server does not take it, in its words.
    Refused(String),
}

impl<'a> Jobs<'a> {
    pub(super) fn new(context: &'a Context) -> Self {
        let (client, namespace) = (context.client.clone(), &context.args.namespace);
        let (api, pods) = (Api::namespaced(client.clone(), namespace), Api::namespaced(client, namespace));
        Self { context, api, pods }
    }

    pub(super) async fn get(&self, name: &str) -> Result<Option<Job>, WriteError> {
        Ok(self.api.get_opt(name).await?)
    }

    /// The pods of this very Job.
    pub(super) async fn pods_of(&self, job: &Job) -> Result<Vec<Pod>, WriteError> {
        let uid = job.uid().unwrap_or_default();
        let params = ListParams::default().labels(&format!("batch.kubernetes.io/controller-uid={uid}"));
        Ok(self.pods.list(&params).await?.items)
    }

    /// Makes the Job when it is its turn. An image is pulled by one at a time, for one kernel after the other.
    pub(super) async fn start(&self, pulls: &Pulls, world: &World, job: &Job) -> Result<Started, WriteError> {
        let _turn = pulls.turn().await;
        let busy = self.busy(pulls, world).await?;
        if busy.iter().any(|other| image_of(other) == image_of(job)) {
            return Ok(Started::Later("a node takes another kernel's driver out of the same image"));
        }
        if busy.len() >= AT_ONCE {
            return Ok(Started::Later(
                "nodes pull as many images for the operator as may be pulled at a time",
            ));
        }
        let field_manager = Some(labels::field_manager::IMAGES.to_owned());
        let params = PostParams { field_manager, ..PostParams::default() };
        match self.context.writes.make(Resource::Job, Verb::Create, self.api.create(&params, job)).await {
            Ok(_) => Ok(Started::Made),
            Err(WriteError::Api(kube::Error::Api(status))) if status.is_already_exists() => Ok(Started::Made),
            Err(WriteError::Api(kube::Error::Api(status))) if [400, 403, 422].contains(&status.code) => {
                Ok(Started::Refused(status.message))
            }
            Err(error) => Err(error),
        }
    }

    /// The Jobs that are not over. Those that a former process has left, and that no image asks for any more, are deleted.
    async fn busy(&self, pulls: &Pulls, world: &World) -> Result<Vec<Job>, WriteError> {
        let kind = format!("{}={}", labels::RESOURCE_TYPE, labels::resource_type::PULL_IMAGE);
        let jobs = self.api.list(&ListParams::default().labels(&kind)).await?.items;
        let is_over = |job: &Job| {
            let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions
                .into_iter()
                .any(|told| matches!(told.type_.as_str(), "Complete" | "Failed") && told.status == "True")
        };
        let mut busy = Vec::new();
        // What is being deleted may wait for a node that does not answer; whatever its pod sends is taken no more.
        let is_leaving = |job: &Job| job.metadata.deletion_timestamp.is_some();
        for job in jobs.into_iter().filter(|job| !is_over(job) && !is_leaving(job)) {
            // Nodes may ask for the former image of a Module, which no object names any more.
            let is_asked_for =
                || world.read().images().any(|image| Some(&image.spec.image) == image_of(&job));
            if pulls.is_under_way(&job.name_any()) || is_asked_for() {
                busy.push(job);
            } else {
                self.clear_by_name(&job.name_any()).await;
            }
        }
        Ok(busy)
    }

    /// Deletes a Job, and its pod after it: a node that does not answer holds up no other. Where that does not succeed, the Job's own
    /// deadline ends it.
    pub(super) async fn clear_by_name(&self, name: &str) {
        let propagation_policy = Some(PropagationPolicy::Background);
        let params = DeleteParams { propagation_policy, ..DeleteParams::default() };
        match self.context.writes.make(Resource::Job, Verb::Delete, self.api.delete(name, &params)).await {
            Err(WriteError::Api(kube::Error::Api(status))) if status.is_not_found() => {}
            Err(error) => warn!(job = name, error = &error as &dyn std::error::Error, "a Job is not deleted"),
            Ok(_) => {}
        }
    }
}

fn image_of(job: &Job) -> Option<&String> {
    job.annotations().get(labels::annotation::PULLED_IMAGE)
}
