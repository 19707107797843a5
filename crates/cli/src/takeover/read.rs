//! Reading what stands in the cluster, of both operators. Nothing is changed by it: definitions are compared by a dry run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::resource::v1::DeviceClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, ListParams, ObjectList, Patch, PatchParams};
use kube::core::{GroupVersionKind, ObjectMeta, PartialObjectMeta};
use kube::{Api, Client, ResourceExt as _};
use serde::de::DeserializeOwned;
use tenon_api::crd::crds;
use tenon_api::{Guarded, Module, NodeModulesConfig, labels, node_pod};

use super::TakeoverError;
use super::kmm::{self, Role};
use super::{adopt, give_back};
use crate::seen::node_pods_selector;

/// Objects per page.
const PAGE: u32 = 500;
/// KMM's operator renews its Lease every two seconds.
const RENEWAL: Duration = Duration::from_secs(5);
/// The name of our Deployment.
const OPERATOR: &str = "tenon-operator";

/// What KMM has left.
pub(super) async fn kmms(client: &Client) -> Result<adopt::Seen, TakeoverError> {
    let webhooks: Vec<ValidatingWebhookConfiguration> =
        objects(&Api::all(client.clone()), "the webhook configurations").await?;
    let configs = configs(client).await?;
    Ok(adopt::Seen {
        deployments: deployments(client).await?,
        renewed: renewed(client).await?,
        definitions: definitions(client).await?,
        webhooks: webhooks.into_iter().map(hooks).collect(),
        pods: pods(client).await?,
        images: records(client, "ModuleImagesConfig", "moduleimagesconfigs").await?,
        builds: records(client, "ModuleBuildSignConfig", "modulebuildsignconfigs").await?,
        leaving: leaving(client, &configs).await?,
        behind: behind(client, &configs).await?,
        undated: configs
            .iter()
            .filter(|config| is_undated(config))
            .filter_map(|config| config.metadata.name.clone())
            .collect(),
    })
}

/// What Tenon would leave.
pub(super) async fn ours(client: &Client) -> Result<give_back::Seen, TakeoverError> {
    let configs: Vec<Guarded<NodeModulesConfig>> =
        objects(&Api::all(client.clone()), "the NodeModulesConfigs").await?;
    let configs = configs.into_iter().map(Guarded::object).collect::<Result<_, _>>();
    let failed = |source| read("the NodeModulesConfigs")(kube::Error::SerdeError(source));
    let by_tenon = ListParams::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::PRODUCT));
    let of_modules = ListParams::default().labels(labels::MODULE_NAME);
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    let definitions = metadata(&definitions, &ListParams::default(), "the definitions").await?;
    Ok(give_back::Seen {
        in_force: in_force(client).await?,
        configs: configs.map_err(failed)?,
        nodes: objects(&Api::<Node>::all(client.clone()), "the nodes").await?,
        modules: metadata(&Api::<Module>::all(client.clone()), &ListParams::default(), "the Modules").await?,
        sets: metadata(&Api::<DaemonSet>::all(client.clone()), &of_modules, "the DaemonSets").await?,
        jobs: metadata(&Api::<Job>::all(client.clone()), &by_tenon, "the Jobs").await?,
        classes: metadata(&Api::<DeviceClass>::all(client.clone()), &of_modules, "the device classes")
            .await?,
        definitions: definitions.into_iter().filter(is_of_ours).collect(),
    })
}

fn is_of_ours(meta: &ObjectMeta) -> bool {
    let names = crds().into_iter().filter(|crd| crd.spec.group != kmm::GROUP);
    names.map(|crd| crd.name_any()).any(|name| meta.name.as_deref() == Some(&name))
}

fn read(what: &'static str) -> impl Fn(kube::Error) -> TakeoverError {
    move |source| TakeoverError::Read { what, source: Box::new(source) }
}

/// All of a kind, page by page; none where the cluster has no such kind.
async fn objects<K>(api: &Api<K>, what: &'static str) -> Result<Vec<K>, TakeoverError>
where
    K: Clone + Debug + DeserializeOwned,
{
    let mut params = ListParams::default().limit(PAGE);
    let mut all = Vec::new();
    loop {
        let Some(page) = present(api.list(&params).await).map_err(read(what))? else { return Ok(all) };
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(all),
        }
    }
}

/// Their metadata alone.
async fn metadata<K>(
    api: &Api<K>,
    params: &ListParams,
    what: &'static str,
) -> Result<Vec<ObjectMeta>, TakeoverError>
where
    K: Clone + Debug + DeserializeOwned,
{
    let mut params = params.clone().limit(PAGE);
    let mut all = Vec::new();
    loop {
        let page: Option<ObjectList<PartialObjectMeta<K>>> =
            present(api.list_metadata(&params).await).map_err(read(what))?;
        let Some(page) = page else { return Ok(all) };
        all.extend(page.items.into_iter().map(|object| object.metadata));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(all),
        }
    }
}

fn present<T>(answer: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match answer {
        Ok(list) => Ok(Some(list)),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn deployments(client: &Client) -> Result<Vec<adopt::Deployment>, TakeoverError> {
    let all: Vec<Deployment> = objects(&Api::all(client.clone()), "the Deployments").await?;
    let kmms = all.into_iter().filter(|deployment| kmm::is_deployment(&deployment.name_any()));
    let seen = kmms.map(|deployment| adopt::Deployment {
        namespace: deployment.namespace().unwrap_or_default(),
        name: deployment.name_any(),
        wished: deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
        present: deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or_default(),
        olm: deployment.labels().get("olm.owner").cloned(),
    });
    Ok(seen.collect())
}

/// Where KMM's Lease is renewed while we look, and by whom. One that nobody renews is a leftover.
async fn renewed(client: &Client) -> Result<Vec<(String, String)>, TakeoverError> {
    let before = leases(client).await?;
    if before.is_empty() {
        return Ok(Vec::new());
    }
    tokio::time::sleep(RENEWAL).await;
    let after = leases(client).await?;
    let is_renewed =
        |(namespace, lease): &(String, Lease)| before.get(namespace).is_none_or(|old| old.spec != lease.spec);
    let holder = |lease: Lease| lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
    Ok(after.into_iter().filter(is_renewed).map(|(namespace, lease)| (namespace, holder(lease))).collect())
}

async fn leases(client: &Client) -> Result<BTreeMap<String, Lease>, TakeoverError> {
    let params = ListParams::default().fields(&format!("metadata.name={}", kmm::LEASE));
    let list = Api::<Lease>::all(client.clone()).list(&params).await.map_err(read("the Leases"))?;
    let is_held = |lease: &Lease| {
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        holder.is_some_and(|holder| !holder.is_empty())
    };
    Ok(list.into_iter().filter(is_held).map(|lease| (lease.namespace().unwrap_or_default(), lease)).collect())
}

async fn definitions(client: &Client) -> Result<Vec<adopt::Definition>, TakeoverError> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let failed = read("the definitions");
    let mut all = Vec::new();
    for wished in crds().into_iter().filter(|crd| crd.spec.group == kmm::GROUP) {
        let name = wished.name_any();
        let Some(known) = api.get_opt(&name).await.map_err(&failed)? else { continue };
        let has_webhook =
            known.spec.conversion.as_ref().is_some_and(|conversion| conversion.strategy == "Webhook");
        let differs = has_webhook || {
            let params = PatchParams { dry_run: true, ..PatchParams::apply("kubectl").force() };
            let after = api.patch(&name, &params, &Patch::Apply(&wished)).await.map_err(&failed)?;
            after.spec != known.spec
        };
        let wished =
            serde_json::to_value(wished).map_err(|source| failed(kube::Error::SerdeError(source)))?;
        all.push(adopt::Definition { meta: known.metadata, wished, differs, has_webhook });
    }
    Ok(all)
}

fn hooks(config: ValidatingWebhookConfiguration) -> adopt::Webhooks {
    let hooks = config.webhooks.into_iter().flatten().map(|hook| {
        let path = hook.client_config.service.and_then(|service| service.path);
        (hook.name, path.unwrap_or_default())
    });
    adopt::Webhooks { hooks: hooks.collect(), meta: config.metadata }
}

/// KMM's alone.
async fn pods(client: &Client) -> Result<Vec<adopt::Pod>, TakeoverError> {
    let api: Api<Pod> = Api::all(client.clone());
    let all = metadata(&api, &ListParams::default(), "the pods").await?;
    let mut seen = Vec::new();
    for meta in all {
        let has_ended = match Role::of(&meta) {
            Some(Role::Unloader) => has_ended(client, &meta).await?,
            Some(_) => false,
            None => continue,
        };
        seen.push(adopt::Pod { meta, has_ended });
    }
    Ok(seen)
}

async fn has_ended(client: &Client, meta: &ObjectMeta) -> Result<bool, TakeoverError> {
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pod = api.get_opt(meta.name.as_deref().unwrap_or_default()).await.map_err(read("the pods"))?;
    let phase = pod.and_then(|pod| pod.status).map_or(Some("Succeeded".to_owned()), |status| status.phase);
    Ok(phase.is_some_and(|phase| phase == "Succeeded" || phase == "Failed"))
}

async fn records(client: &Client, kind: &str, plural: &str) -> Result<Vec<ObjectMeta>, TakeoverError> {
    let gvk = GroupVersionKind::gvk(kmm::GROUP, "v1beta1", kind);
    let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    metadata(&api, &ListParams::default(), "KMM's records of images").await
}

/// All nodes' objects, but those that nobody can read.
async fn configs(client: &Client) -> Result<Vec<NodeModulesConfig>, TakeoverError> {
    let configs: Vec<Guarded<NodeModulesConfig>> =
        objects(&Api::all(client.clone()), "the NodeModulesConfigs").await?;
    Ok(configs.into_iter().filter_map(|config| config.object().ok()).collect())
}

/// Whether KMM says what it has loaded on the node, and not since when.
fn is_undated(config: &NodeModulesConfig) -> bool {
    let mut entries = config.status.iter().flat_map(|status| &status.modules);
    entries.any(|entry| entry.is_kmms() && entry.config.is_some() && entry.boot_id.is_none())
}

/// Nodes in the midst of an ordered change.
async fn behind(client: &Client, configs: &[NodeModulesConfig]) -> Result<Vec<adopt::Behind>, TakeoverError> {
    let versioned = |config: &NodeModulesConfig| {
        let node = config.metadata.name.clone().unwrap_or_default();
        let entries = config.spec.modules.iter().filter_map(move |entry| {
            let module = format!("{}/{}", entry.namespace, entry.name);
            Some(adopt::Behind { module, node: node.clone(), version: entry.version.clone()? })
        });
        entries.collect::<Vec<_>>()
    };
    let had: Vec<_> = configs.iter().flat_map(versioned).collect();
    if had.is_empty() {
        return Ok(had);
    }
    let modules: Vec<Guarded<Module>> = objects(&Api::all(client.clone()), "the Modules").await?;
    let modules = modules.into_iter().filter_map(|module| module.object().ok());
    let wished: BTreeMap<_, _> = modules
        .filter_map(|module| {
            let key = format!("{}/{}", module.namespace()?, module.name_any());
            Some((key, tenon_plan::node::version(&module)?.to_owned()))
        })
        .collect();
    let is_behind =
        |had: &adopt::Behind| wished.get(&had.module).is_some_and(|wished| *wished != had.version);
    Ok(had.into_iter().filter(is_behind).collect())
}

/// Modules that are being deleted, and that some node still has.
async fn leaving(client: &Client, configs: &[NodeModulesConfig]) -> Result<Vec<String>, TakeoverError> {
    let modules =
        metadata(&Api::<Module>::all(client.clone()), &ListParams::default(), "the Modules").await?;
    let mut leaving = modules.into_iter().filter(|meta| meta.deletion_timestamp.is_some()).peekable();
    if leaving.peek().is_none() {
        return Ok(Vec::new());
    }
    let statuses = configs.iter().filter_map(|config| config.status.as_ref());
    let had: BTreeSet<_> = statuses
        .flat_map(|status| &status.modules)
        .map(|entry| format!("{}/{}", entry.namespace, entry.name))
        .collect();
    let key = |meta: ObjectMeta| {
        format!("{}/{}", meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default())
    };
    Ok(leaving.map(key).filter(|key| had.contains(key)).collect())
}

/// What of Tenon still runs, or would keep others from writing.
async fn in_force(client: &Client) -> Result<Vec<String>, TakeoverError> {
    let named = |name: &str| ListParams::default().fields(&format!("metadata.name={name}"));
    let key = |kind: &str, meta: &ObjectMeta| {
        let name = meta.name.as_deref().unwrap_or_default();
        match &meta.namespace {
            Some(namespace) => format!("{kind} {namespace}/{name}"),
            None => format!("{kind} {name}"),
        }
    };
    let mut all = Vec::new();
    let found =
        metadata(&Api::<Deployment>::all(client.clone()), &named(OPERATOR), "the Deployments").await?;
    all.extend(found.iter().map(|meta| key("Deployment", meta)));
    let sets = Api::<DaemonSet>::all(client.clone());
    let found = metadata(&sets, &named(node_pod::DAEMON_SET), "the DaemonSets").await?;
    all.extend(found.iter().map(|meta| key("DaemonSet", meta)));
    let pods = ListParams::default().labels(&node_pods_selector());
    let found = metadata(&Api::<Pod>::all(client.clone()), &pods, "the pods").await?;
    all.extend(found.iter().map(|meta| key("Pod", meta)));
    let ours = ListParams::default().labels(&format!("{}={}", labels::PART_OF, labels::PRODUCT));
    let policies = Api::<ValidatingAdmissionPolicy>::all(client.clone());
    let found = metadata(&policies, &ours, "the admission policies").await?;
    all.extend(found.iter().map(|meta| key("ValidatingAdmissionPolicy", meta)));
    Ok(all)
}
