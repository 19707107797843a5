//! The operator's own objects: the key that signs orders, the certificate of the depot, and what is published of both.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::DeleteParams;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tenon_lab::faults::{Fault, Kind, Rule};
use tenon_order::{PublicKey, SigningKey};

use crate::stand::{OPERATOR_NAMESPACE, Stand, until};

const KEY: &str = "tenon-order-key";
const KEYS: &str = "tenon-order-keys";
const CERTIFICATE: &str = "tenon-serving-cert";
const DEPOT: &str = "tenon-depot";

/// The writes of an operator that finds none of its objects.
pub(crate) const WRITES: usize = 4;

/// What one takes on an idle machine: the operator tries again after three seconds.
pub(crate) const COST: Duration = Duration::from_secs(6);

/// Has an operator begin in a cluster without any of its objects, and its write number `nth` meet the fault.
pub(crate) async fn disturb(stand: &mut Stand, fault: Fault, nth: usize) -> Result<(), String> {
    stand.operator.stop();
    remove::<Secret>(stand, KEY).await?;
    remove::<Secret>(stand, CERTIFICATE).await?;
    remove::<ConfigMap>(stand, KEYS).await?;
    remove::<ConfigMap>(stand, DEPOT).await?;
    stand.proxy.forget();
    stand.proxy.arm(Rule::nth(nth, |seen| seen.kind == Kind::Write, fault));
    stand.operator.start();
    let complete =
        until("all objects are there and fit", async || is_complete(stand).await.then_some(())).await;
    let has_struck = stand.proxy.disarm();
    complete?;
    if !has_struck {
        return Err(format!("there was no write {nth}"));
    }
    let (_, most) = stand.proxy.journal().busiest(Duration::from_secs(1)).unwrap_or_default();
    if most > crate::matrix::MOST_PER_SECOND {
        return Err(format!("{most} equal requests within one second"));
    }
    stand.operator.check()
}

/// Whether the operator has all of its objects, and what is published is what is kept.
pub(crate) async fn is_complete(stand: &Stand) -> bool {
    let fits = async {
        let key = get::<Secret>(stand, KEY).await?.data?;
        let published = get::<ConfigMap>(stand, KEYS).await?.data?;
        let mut known = BTreeMap::new();
        for pkcs8 in key.values() {
            let public = SigningKey::from_pkcs8(&pkcs8.0).ok()?.public();
            known.insert(public.id().to_string(), public);
        }
        let published =
            published.into_iter().map(|(id, text)| Some((id, PublicKey::from_base64(&text).ok()?)));
        let same_keys = published.collect::<Option<BTreeMap<_, _>>>()? == known && !known.is_empty();
        let authority = get::<Secret>(stand, CERTIFICATE).await?.data?.remove("ca.crt")?;
        let trusted = get::<ConfigMap>(stand, DEPOT).await?.data?.remove("ca.crt")?;
        let same_authority = trusted.contains(String::from_utf8(authority.0).ok()?.trim());
        Some(same_keys && same_authority)
    };
    fits.await.unwrap_or(false)
}

async fn get<K>(stand: &Stand, name: &str) -> Option<K>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    Api::<K>::namespaced(stand.client.clone(), OPERATOR_NAMESPACE).get_opt(name).await.ok()?
}

async fn remove<K>(stand: &Stand, name: &str) -> Result<(), String>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let objects = Api::<K>::namespaced(stand.client.clone(), OPERATOR_NAMESPACE);
    match objects.delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other.map(drop).map_err(|error| error.to_string()),
    }
}
