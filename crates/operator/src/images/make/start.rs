//! The Job that makes an image: made once, whoever asks.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use tenon_api::task::{Algorithm, SignTask, Task};
use tenon_api::{ModuleImage, labels, reasons};
use tenon_image::ImageReference;
use tenon_plan::provision::Finding;
use tenon_plan::provision::job::{self, Order, Recipe, Settings};
use tenon_plan::provision::making;
use tracing::info;

use super::wanted::place;
use super::{Wanted, Words, module_of};
use crate::controllers::WriteError;
use crate::metrics::{Resource, Verb};
use crate::registries::{self, failed};
use crate::run::Context;
use crate::world::{ImageKey, World};

/// What a Job's programs are to know of the way out of the cluster.
const PROXIES: [&str; 3] = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

/// The most bytes of a task: Linux starts no program with a longer variable (128 KiB, `MAX_ARG_STRLEN`).
const MOST_TASK: usize = 100 * 1024;
/// The most bytes of a Dockerfile: all annotations of an object may have 256 KiB.
const MOST_DOCKERFILE: usize = 128 * 1024;

/// Makes the Job, unless it is there: nobody else makes one of this name.
pub(super) async fn start(
    context: &Context,
    world: &World,
    image: &ModuleImage,
    wanted: &Wanted,
    lacking: Vec<Algorithm>,
) -> Result<Result<(), Finding>, WriteError> {
    let task = match task(context, image, wanted, lacking).await {
        Ok(task) => task,
        Err(finding) => return Ok(Err(finding)),
    };
    let settings = Settings {
        image: context.args.maker_image.to_string(),
        builder: context.args.builder_image.to_string(),
        environment: proxies(|name| std::env::var(name).ok()),
    };
    let (namespace, module) = (image.namespace().unwrap_or_default(), module_of(world, image));
    let inputs = wanted.inputs.hash(image);
    let order =
        Order { inputs: &inputs, task: &task, recipe: wanted.recipe.as_ref(), module: module.as_deref() };
    let job = job::job(image, &order, &settings);
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &namespace);
    let params =
        PostParams { field_manager: Some(labels::field_manager::IMAGES.to_owned()), ..PostParams::default() };
    match context.writes.make(Resource::Job, Verb::Create, jobs.create(&params, &job)).await {
        Ok(made) => {
            info!(image = image.spec.image, job = made.name_any(), "a Job makes it");
            world.made_job(&namespace, &made);
            context.metrics.making_began(ImageKey::of(image));
            Words::of(image).tell_created(context, image, &made.name_any());
            Ok(Ok(()))
        }
        Err(WriteError::Api(kube::Error::Api(status))) if status.is_already_exists() => {
            Ok(claimed(&jobs, image, wanted).await)
        }
        Err(WriteError::Api(kube::Error::Api(status))) if [400, 403, 422].contains(&status.code) => {
            // A quota, or a policy of the namespace's.
            let message =
                format!("the Job that makes it cannot be made in namespace {namespace}: {}", status.message);
            Ok(Err(waiting(Words::of(image).failed, message)))
        }
        Err(error) => Err(error),
    }
}

/// The operator's own proxies, spelt both ways: who sets one of them means it, curl's library (git's, too) heeds `HTTP_PROXY` in small
/// letters alone, and others in capitals alone.
fn proxies(variable: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let both = PROXIES.into_iter().flat_map(|capitals| {
        let small = capitals.to_ascii_lowercase();
        let values = (variable(capitals), variable(&small));
        let (first, second) = (values.0.clone().or(values.1.clone()), values.1.or(values.0));
        [(capitals.to_owned(), first), (small, second)]
    });
    both.filter_map(|(name, value)| Some((name, value?))).collect()
}

fn waiting(reason: &'static str, message: String) -> Finding {
    Finding::Missing { reason, message, needs_change: false, retry_after: None }
}

/// What the Job's program is told.
async fn task(
    context: &Context,
    image: &ModuleImage,
    wanted: &Wanted,
    lacking: Vec<Algorithm>,
) -> Result<Task, Finding> {
    let to: ImageReference =
        image.spec.image.parse().map_err(|error| failed(reasons::REFERENCE_INVALID, &error))?;
    let tls = registries::tls(context, &to, image.spec.registry_tls.unwrap_or_default()).await?;
    let sign = image.spec.sign.as_ref();
    let task = Task {
        from: wanted.source.clone(),
        to: place(&to, tls),
        made_from: wanted.inputs.source.to_string(),
        request: making::request(sign),
        sign: sign.map(|sign| SignTask {
            files: sign.files_to_sign.clone(),
            hash: sign.hash.unwrap_or_default(),
            lacking,
        }),
        trial: image.spec.trial,
    };
    let too_long = |message| Finding::Missing {
        reason: reasons::SPEC_INVALID,
        message,
        needs_change: true,
        retry_after: None,
    };
    let gathering = match &wanted.recipe {
        Some(Recipe::Sources(recipe)) => recipe.gathering(image).unwrap_or_default(),
        _ => String::new(),
    };
    let told = [serde_json::to_string(&task).unwrap_or_default(), gathering];
    if told.iter().any(|text| text.len() > MOST_TASK) {
        return Err(too_long(format!(
            "what the Job would be told has more than {MOST_TASK} bytes: shorten sign.filesToSign, build.source.artifacts, or \
             the operator's --registry ca-file"
        )));
    }
    let is_too_long = |recipe: &Recipe| matches!(recipe, Recipe::Dockerfile(recipe) if recipe.dockerfile.len() > MOST_DOCKERFILE);
    if wanted.recipe.as_ref().is_some_and(is_too_long) {
        return Err(too_long(format!("the Dockerfile has more than {MOST_DOCKERFILE} bytes: shorten it")));
    }
    Ok(task)
}

/// Whether the Job that has this name is the one.
async fn claimed(jobs: &Api<Job>, image: &ModuleImage, wanted: &Wanted) -> Result<(), Finding> {
    let known = jobs.get_metadata_opt(&wanted.making.job).await;
    let known = known.map_err(|error| failed(Words::of(image).failed, &error))?;
    let hash = |metadata: &kube::core::PartialObjectMeta<Job>| {
        metadata.annotations().get(labels::annotation::LAST_HASH).cloned()
    };
    match known {
        Some(known) if hash(&known).as_ref() != Some(&wanted.making.inputs) => {
            let message =
                format!("there is a Job {} already, and it is not Tenon's: delete it", wanted.making.job);
            Err(waiting(Words::of(image).failed, message))
        }
        // Ours: the watch will tell of it. Or gone again: it is made in the next turn.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_spelt_both_ways() {
        let set = |pairs: &[(&str, &str)]| {
            let known: BTreeMap<_, _> =
                pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            proxies(|name| known.get(name).cloned())
        };
        assert!(set(&[("HTTPS_PROXY", "")]).is_empty());
        let both = set(&[("HTTP_PROXY", "http://up:1"), ("no_proxy", ".svc"), ("NO_PROXY", "")]);
        let both: Vec<_> = both.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let expected = [
            ("HTTP_PROXY", "http://up:1"),
            ("NO_PROXY", ".svc"),
            ("http_proxy", "http://up:1"),
            ("no_proxy", ".svc"),
        ];
        assert_eq!(both, expected);
        let each = set(&[("HTTPS_PROXY", "http://up:1"), ("https_proxy", "http://low:1")]);
        assert_eq!(each.into_values().collect::<Vec<_>>(), ["http://up:1", "http://low:1"]);
    }
}
