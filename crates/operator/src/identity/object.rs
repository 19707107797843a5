//! Reading and writing the operator's own Secrets and `ConfigMap`s, so that several replicas can do it at once: what is
//! absent is created, what is there is replaced only in the version that was read, and what is right is left alone.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::budget::{NotLeader, Writes};
use crate::metrics::{self, Verb};

/// The field manager of these objects.
const MANAGER: &str = "tenon-operator";

/// Leave to write, which only a leader has.
pub type Author = Writes;

/// An object of the operator could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The API server did not do it.
    #[error("{verb} {kind} {name}")]
    Api {
        /// What was attempted.
        verb: &'static str,
        /// On which kind.
        kind: &'static str,
        /// On which object.
        name: String,
        /// Why it did not work.
        #[source]
        source: kube::Error,
    },
    /// Leadership went in between.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
}

/// The kinds that this file handles.
pub trait Own: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned {
    /// Its name in messages.
    const KIND: &'static str;
    /// Its name in metrics.
    const RESOURCE: metrics::Resource;
}

impl Own for Secret {
    const KIND: &'static str = "Secret";
    const RESOURCE: metrics::Resource = metrics::Resource::Secret;
}

impl Own for ConfigMap {
    const KIND: &'static str = "ConfigMap";
    const RESOURCE: metrics::Resource = metrics::Resource::ConfigMap;
}

fn error<K: Own>(verb: &'static str, name: &str) -> impl FnOnce(kube::Error) -> ObjectError {
    move |source| ObjectError::Api { verb, kind: K::KIND, name: name.to_owned(), source }
}

fn params() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

/// The metadata of a new object.
pub fn metadata(name: &str) -> ObjectMeta {
    let labels = [("app.kubernetes.io/name", "tenon"), ("app.kubernetes.io/managed-by", MANAGER)];
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        ..ObjectMeta::default()
    }
}

/// The object, if there is one.
pub async fn read<K: Own>(api: &Api<K>, name: &str) -> Result<Option<K>, ObjectError> {
    api.get_opt(name).await.map_err(error::<K>("read", name))
}

/// Creates the object, or reads the one that somebody else has created meanwhile.
pub async fn create_or_read<K: Own>(api: &Api<K>, author: &Author, object: &K) -> Result<K, ObjectError> {
    let name = object.name_any();
    author.admit(K::RESOURCE, Verb::Create).await?;
    match api.create(&params(), object).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            api.get(&name).await.map_err(error::<K>("read", &name))
        }
        other => other.map_err(error::<K>("create", &name)),
    }
}

/// Replaces the object in the version that it was read in; a conflict is an error, and the next attempt reads anew.
pub async fn replace<K: Own>(api: &Api<K>, author: &Author, object: &K) -> Result<K, ObjectError> {
    let name = object.name_any();
    author.admit(K::RESOURCE, Verb::Update).await?;
    api.replace(&name, &params(), object).await.map_err(error::<K>("update", &name))
}

/// Makes the ConfigMap hold exactly `data`.
pub async fn publish(
    api: &Api<ConfigMap>,
    author: &Author,
    name: &str,
    data: BTreeMap<String, String>,
) -> Result<(), ObjectError> {
    let found = if let Some(found) = read(api, name).await? {
        found
    } else {
        let fresh = ConfigMap { metadata: metadata(name), data: Some(data.clone()), ..ConfigMap::default() };
        create_or_read(api, author, &fresh).await?
    };
    if found.data.as_ref() == Some(&data) && found.binary_data.is_none() {
        return Ok(());
    }
    replace(api, author, &ConfigMap { data: Some(data), binary_data: None, ..found }).await?;
    Ok(())
}
