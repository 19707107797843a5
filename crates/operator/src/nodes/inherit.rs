//! Fields of nodes' objects that somebody else has written become ours: KMM's, above all, before its operator made room.
//!
//! We and the agents write by server-side apply, which takes a field away only from who owns it. What another has left would stay for
//! ever, and be found to differ for ever. So once, before this replica decides anything, what specs and statuses hold is put down as
//! written by us. Not a value changes by that.
//!
//! Where KMM's definition had the modules as one value, whoever wrote them owns that value, and by our definition nothing in it; so
//! what they hold is taken from the object itself.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::labels::field_manager;
use tenon_api::node_modules_config::NodeModulesConfig;
use tracing::{info, warn};

use crate::controllers::WriteError;
use crate::metrics::{Resource, Verb};
use crate::run::Context;

/// Objects per page.
const PAGE: u32 = 500;
/// How often it is tried before the controllers start without it; the next leader tries again.
const ROUNDS: u32 = 5;
/// Between two.
const AGAIN: Duration = Duration::from_secs(1);

/// Why an object was not made ours.
#[derive(Debug, thiserror::Error)]
enum InheritError {
    #[error("list NodeModulesConfigs")]
    List(#[source] kube::Error),
    #[error("read NodeModulesConfig {node}")]
    Read { node: String, source: kube::Error },
    #[error("write down whose the fields of NodeModulesConfig {node} are")]
    Write { node: String, source: WriteError },
}

/// Makes ours what others have written into nodes' objects.
pub(crate) async fn inherit(context: &Context) {
    for _ in 0..ROUNDS {
        match pass(context).await {
            Ok(0) => return,
            Ok(objects) => return info!(objects, "fields that another operator has written are ours now"),
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "the nodes' objects are not all ours yet");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

async fn pass(context: &Context) -> Result<usize, InheritError> {
    let configs: Api<NodeModulesConfig> = Api::all(context.client.clone());
    let mut params = ListParams::default().limit(PAGE);
    let mut written = 0;
    loop {
        let page = configs.list_metadata(&params).await.map_err(InheritError::List)?;
        for object in
            page.items.iter().filter(|object| object.managed_fields().iter().any(|one| heir(one).is_some()))
        {
            write(context, &object.name_any()).await?;
            written += 1;
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(written),
        }
    }
}

async fn write(context: &Context, node: &str) -> Result<(), InheritError> {
    let raw = ApiResource::erase::<NodeModulesConfig>(&());
    let configs: Api<DynamicObject> = Api::all_with(context.client.clone(), &raw);
    let read = configs.get_opt(node).await;
    let failed = |source| InheritError::Read { node: node.to_owned(), source };
    let Some(object) = read.map_err(failed)? else { return Ok(()) };
    let patch = Patch::Merge(json!({ "metadata": {
        "uid": object.metadata.uid,
        "resourceVersion": object.metadata.resource_version,
        "managedFields": ours(object.managed_fields(), &object.data),
    } }));
    let params =
        PatchParams { field_manager: Some(field_manager::NODES.to_owned()), ..PatchParams::default() };
    let call = configs.patch_metadata(node, &params, &patch);
    let written = context.writes.make(Resource::NodeModulesConfig, Verb::Patch, call).await;
    written.map(drop).map_err(|source| InheritError::Write { node: node.to_owned(), source })
}

/// Whose the fields of an object should be.
fn ours(known: &[ManagedFieldsEntry], object: &Value) -> Vec<ManagedFieldsEntry> {
    let (theirs, mut kept): (Vec<_>, Vec<_>) = known.iter().cloned().partition(|entry| heir(entry).is_some());
    for mut entry in theirs {
        let Some(heir) = heir(&entry) else { continue };
        if let Some(fields) = &mut entry.fields_v1 {
            for part in ["spec", "status"] {
                detail(&mut fields.0, part, object);
            }
        }
        let is_heirs = |known: &&mut ManagedFieldsEntry| {
            known.manager.as_deref() == Some(heir)
                && known.operation.as_deref() == Some("Apply")
                && known.subresource == entry.subresource
                && known.api_version == entry.api_version
        };
        match kept.iter_mut().find(is_heirs) {
            Some(known) => known.fields_v1 = united(known.fields_v1.take(), entry.fields_v1),
            None => kept.push(ManagedFieldsEntry {
                manager: Some(heir.to_owned()),
                operation: Some("Apply".to_owned()),
                ..entry
            }),
        }
    }
    kept
}

/// Adds to the modules of the spec or the status all that they hold.
fn detail(fields: &mut Value, part: &str, object: &Value) {
    let modules = object.pointer(&format!("/{part}/modules")).and_then(Value::as_array);
    let owned = fields.get_mut(format!("f:{part}")).and_then(|part| part.get_mut("f:modules"));
    let (Some(owned), Some(modules)) = (owned, modules) else { return };
    let entries = modules.iter().map(|entry| {
        let key = json!({ "name": entry.get("name"), "namespace": entry.get("namespace") });
        let mut fields = fields_of(entry);
        unite(&mut fields, json!({ ".": {} }));
        (format!("k:{key}"), fields)
    });
    unite(owned, Value::Object(entries.chain([(".".to_owned(), json!({}))]).collect()));
}

/// The fields of a value. A list inside is one value.
fn fields_of(value: &Value) -> Value {
    let fields = value.as_object().into_iter().flatten();
    Value::Object(fields.map(|(key, value)| (format!("f:{key}"), fields_of(value))).collect())
}

/// Who of us is to own what somebody else has written; `None` where it is ours, or nothing that we write.
fn heir(entry: &ManagedFieldsEntry) -> Option<&'static str> {
    if [field_manager::NODES, field_manager::AGENT].contains(&entry.manager.as_deref()?) {
        return None;
    }
    let has = |field: &str| entry.fields_v1.as_ref().is_some_and(|fields| fields.0.get(field).is_some());
    match entry.subresource.as_deref() {
        None | Some("") if has("f:spec") => Some(field_manager::NODES),
        Some("status") if has("f:status") => Some(field_manager::AGENT),
        _ => None,
    }
}

fn united(one: Option<FieldsV1>, other: Option<FieldsV1>) -> Option<FieldsV1> {
    match (one, other) {
        (Some(mut one), Some(other)) => {
            unite(&mut one.0, other.0);
            Some(one)
        }
        (one, other) => one.or(other),
    }
}

fn unite(base: &mut Value, more: Value) {
    if let (Value::Object(base), Value::Object(more)) = (base, more) {
        for (key, value) in more {
            unite(base.entry(key).or_insert_with(|| json!({})), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, operation: &str, subresource: Option<&str>, fields: Value) -> ManagedFieldsEntry {
        ManagedFieldsEntry {
            api_version: Some("kmm.sigs.x-k8s.io/v1beta1".to_owned()),
            fields_type: Some("FieldsV1".to_owned()),
            fields_v1: Some(FieldsV1(fields)),
            manager: Some(manager.to_owned()),
            operation: Some(operation.to_owned()),
            subresource: subresource.map(str::to_owned),
            time: None,
        }
    }

    #[test]
    fn what_another_operator_wrote_is_ours_afterwards_and_then_nobodys_else() {
        let theirs = [
            entry(
                "manager",
                "Update",
                None,
                json!({ "f:metadata": { "f:labels": {} }, "f:spec": { "f:more": {} } }),
            ),
            entry("manager", "Update", Some("status"), json!({ "f:status": { "f:more": {} } })),
        ];
        let after = ours(&theirs, &json!({}));
        let who: Vec<_> = after
            .iter()
            .map(|entry| {
                (
                    entry.manager.as_deref().unwrap(),
                    entry.operation.as_deref().unwrap(),
                    entry.subresource.as_deref(),
                )
            })
            .collect();
        assert_eq!(who, [("tenon-nodes", "Apply", None), ("tenon-agent", "Apply", Some("status"))]);
        assert_eq!(after[0].fields_v1, theirs[0].fields_v1);
        assert!(after.iter().all(|entry| heir(entry).is_none()));
    }

    #[test]
    fn it_is_added_to_what_is_ours_already() {
        let known = [
            entry("tenon-nodes", "Apply", None, json!({ "f:spec": { "f:order": {} } })),
            entry("manager", "Update", None, json!({ "f:spec": { "f:more": { ".": {} } } })),
            entry("older-manager", "Update", None, json!({ "f:spec": { "f:more": { "k:{}": {} } } })),
        ];
        let after = ours(&known, &json!({}));
        assert_eq!(after.len(), 1);
        let fields = json!({ "f:spec": { "f:order": {}, "f:more": { ".": {}, "k:{}": {} } } });
        assert_eq!(after[0].fields_v1, Some(FieldsV1(fields)));
    }

    #[test]
    fn modules_that_were_one_value_are_owned_field_by_field() {
        let known = [entry("manager", "Update", None, json!({ "f:spec": { "f:modules": {} } }))];
        let object = json!({ "spec": { "modules": [
            { "namespace": "hall", "name": "gauge", "config": { "modprobe": { "parameters": ["a=b"] } } },
        ] } });
        let fields = json!({ "f:spec": { "f:modules": {
            ".": {},
            "k:{\"name\":\"gauge\",\"namespace\":\"hall\"}": {
                ".": {}, "f:name": {}, "f:namespace": {}, "f:config": { "f:modprobe": { "f:parameters": {} } },
            },
        } } });
        assert_eq!(ours(&known, &object)[0].fields_v1, Some(FieldsV1(fields)));
    }

    #[test]
    fn a_users_label_stays_the_users() {
        let label =
            entry("kubectl-label", "Update", None, json!({ "f:metadata": { "f:labels": { "f:rack": {} } } }));
        assert_eq!(heir(&label), None);
        let both = [label.clone(), entry("manager", "Update", None, json!({ "f:spec": {} }))];
        assert!(ours(&both, &json!({})).contains(&label));
    }
}
