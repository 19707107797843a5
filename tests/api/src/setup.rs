//! A control plane with the definitions of `deploy/` in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use tenon_api::Module;
use tenon_api::node_pod::NAMESPACE;
use tenon_lab::control_plane::{Binding, Credential, Extent};
use tenon_lab::{ControlPlane, wait};

/// How long the API server may take to serve a new kind or to heed a new policy.
pub const HEED: Duration = Duration::from_secs(45);

/// An API server that serves the definitions.
pub async fn plane_with_definitions() -> ControlPlane {
    plane_of_extent(Extent::ApiServer).await
}

/// A control plane that serves the definitions.
pub async fn plane_of_extent(extent: Extent) -> ControlPlane {
    let plane = ControlPlane::start_extent(extent).await.expect("a control plane");
    for entry in fs::read_dir(deploy("crds")).expect("deploy/crds") {
        apply(&plane, &entry.expect("an entry of deploy/crds").path()).await;
    }
    let definitions: Api<CustomResourceDefinition> = Api::all(plane.client());
    let served = wait::until("the definitions are served", HEED, async || {
        let list = definitions.list(&kube::api::ListParams::default()).await.ok()?;
        let all = list.items.len() == tenon_api::crds().len() && list.iter().all(is_served);
        all.then_some(())
    });
    served.await.expect("served definitions");
    plane
}

fn is_served(definition: &CustomResourceDefinition) -> bool {
    let conditions = definition.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut violated = conditions.clone().filter(|condition| condition.type_ == "NonStructuralSchema");
    assert!(violated.next().is_none(), "{}: {:?}", definition.name_any(), definition.status);
    conditions.clone().any(|condition| condition.type_ == "Established" && condition.status == "True")
}

/// A file or folder of `deploy/`.
pub fn deploy(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(relative)
}

/// Applies one file as the administrator.
pub async fn apply(plane: &ControlPlane, path: &Path) {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    plane.apply(&text).await.unwrap_or_else(|error| panic!("apply {}: {error:?}", path.display()));
}

/// A client with a token of Tenon's service account that is bound to nothing: it names no node.
pub async fn unbound(plane: &ControlPlane, account: &str) -> Client {
    let token = plane.token(NAMESPACE, account, None, &Binding::None).await.expect("a token");
    plane.client_as(&Credential::Token(token)).await.expect("a client")
}

/// Modules in the default namespace, as plain JSON: what Tenon's types cannot say must be sayable too.
pub fn modules(plane: &ControlPlane) -> Api<DynamicObject> {
    Api::namespaced_with(plane.client(), "default", &ApiResource::erase::<Module>(&()))
}

/// The manifest under another name.
pub fn object(mut manifest: Value, name: &str) -> DynamicObject {
    manifest["metadata"]["name"] = name.into();
    serde_json::from_value(manifest).expect("an object")
}
