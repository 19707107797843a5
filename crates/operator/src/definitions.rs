//! Whether the API server keeps what Tenon writes.
//!
//! KMM has a definition of NodeModulesConfig, too, in the same group and by the same name. Where it is still there, the API server
//! silently drops what it does not know: orders, above all. So the served schema is looked at before anything is written. Every
//! account may read it (`ClusterRole` `system:discovery`).

use std::time::Duration;

use kube::Client;
use serde_json::Value;
use tenon_api::NodeModulesConfig;
use tracing::warn;

/// Until the API server has taken in definitions that were applied a moment ago.
const AGAIN: Duration = Duration::from_secs(2);

/// The definitions are not Tenon's.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// KMM's, or one of an older Tenon.
    #[error(
        "the definition of NodeModulesConfig in this cluster is not Tenon's: it would silently drop spec.order, by which nodes are \
         told what to load. Apply deploy/crds; when KMM is to stay, remove Tenon"
    )]
    Foreign,
}

/// Returns once the definition is there and is ours.
pub async fn are_ours(client: &Client) -> Result<(), DefinitionError> {
    loop {
        match served(client).await {
            Ok(schemas) => match has_order(&schemas) {
                Some(true) => return Ok(()),
                Some(false) => return Err(DefinitionError::Foreign),
                None => warn!("NodeModulesConfig is not served yet: is deploy/crds applied?"),
            },
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "the definitions cannot be looked at");
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The schemas of the group's kinds, by OpenAPI 3.
async fn served(client: &Client) -> Result<Value, kube::Error> {
    let path = "/openapi/v3/apis/kmm.sigs.x-k8s.io/v1beta1";
    let request = http::Request::get(path).header(http::header::ACCEPT, "application/json").body(Vec::new());
    match client.request(request.map_err(kube::Error::HttpError)?).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Value::Null),
        schemas => schemas,
    }
}

/// Whether a node's object may hold an order; `None` while its kind is not served.
fn has_order(schemas: &Value) -> Option<bool> {
    let kind = <NodeModulesConfig as kube::CustomResourceExt>::api_resource().kind;
    let is_it = |schema: &&Value| {
        let kinds = schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array);
        kinds
            .is_some_and(|kinds| kinds.iter().any(|one| one.get("kind") == Some(&Value::from(kind.as_str()))))
    };
    let schema = schemas.pointer("/components/schemas")?.as_object()?.values().find(is_it)?;
    Some(schema.pointer("/properties/spec/properties/order").is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schemas(spec: &Value) -> Value {
        json!({ "components": { "schemas": {
            "io.x-k8s.sigs.kmm.v1beta1.Module": { "x-kubernetes-group-version-kind": [{ "kind": "Module" }] },
            "io.x-k8s.sigs.kmm.v1beta1.NodeModulesConfig": {
                "properties": { "spec": { "properties": spec } },
                "x-kubernetes-group-version-kind":
                    [{ "group": "kmm.sigs.x-k8s.io", "kind": "NodeModulesConfig", "version": "v1beta1" }],
            },
        } } })
    }

    #[test]
    fn a_definition_is_ours_when_it_keeps_orders() {
        let string = json!({ "type": "string" });
        assert_eq!(has_order(&schemas(&json!({ "modules": {}, "order": string }))), Some(true));
        assert_eq!(has_order(&schemas(&json!({ "modules": {} }))), Some(false));
        assert_eq!(has_order(&Value::Null), None);
    }
}
