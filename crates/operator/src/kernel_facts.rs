//! Keeps the facts that nodes send about their kernels: one `ConfigMap` for each node, whose owner is the Node. So there are
//! never more than nodes, one node's are gone with it, and what it tells of another build replaces what it told before.
//! Nothing is written by force: what somebody else has put there stays.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::ObjectMeta;
use tenon_api::kernel_facts::{
    ARCHITECTURE, BUILD_ID, DATA_KEY, LABEL, RELEASE, SOURCE, Source, name_for_node,
};
use tenon_api::labels::{self, field_manager};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::controllers::WriteError;
use crate::depot::Upload;
use crate::metrics::{Resource, Verb};
use crate::run::Context;

/// Keeps what comes until the operator ends.
pub async fn keep(context: Context, mut uploads: mpsc::Receiver<Upload>) {
    while let Some(Some(upload)) = context.shutdown.run_until_cancelled(uploads.recv()).await {
        let kept = write(&context, &upload).await;
        // Who does not wait any more learns it when it asks again.
        let _ = upload.kept.send(kept);
    }
}

async fn write(context: &Context, upload: &Upload) -> bool {
    let Upload { node, running, facts, kept: _ } = upload;
    let (name, patch) = (name_for_node(node.as_ref()), Patch::Apply(config_map(upload)));
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &context.args.namespace);
    let params = PatchParams::apply(field_manager::FACTS_NODES);
    let call = maps.patch(&name, &params, &patch);
    match context.writes.make(Resource::ConfigMap, Verb::Patch, call).await {
        Ok(_) => {
            info!(%node, release = running.build.release, build = running.build.build_id, bytes = facts.len(), "a node has told what its kernel is");
            true
        }
        Err(WriteError::NotLeader(_)) => false,
        Err(error) => {
            warn!(%node, error = &error as &dyn std::error::Error, "a node's kernel facts are not kept");
            false
        }
    }
}

fn config_map(upload: &Upload) -> ConfigMap {
    let Upload { node, running, facts, kept: _ } = upload;
    let annotations = [
        (RELEASE, running.build.release.clone()),
        (ARCHITECTURE, running.architecture.clone()),
        (BUILD_ID, running.build.build_id.clone()),
        (SOURCE, Source::Node(node.to_string()).to_string()),
    ];
    let mut map = object(name_for_node(node.as_ref()), annotations, facts.to_vec());
    map.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.to_string(),
        uid: running.uid.clone(),
        ..OwnerReference::default()
    }]);
    map
}

/// A `ConfigMap` of facts; the annotations say which kernel they are about, and who says so.
pub(crate) fn object(
    name: String,
    annotations: impl IntoIterator<Item = (&'static str, String)>,
    facts: Vec<u8>,
) -> ConfigMap {
    let labels = [(LABEL, "true"), (labels::PART_OF, labels::PRODUCT)];
    let annotations = annotations.into_iter().map(|(key, value)| (key.to_owned(), value));
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            annotations: Some(annotations.collect()),
            ..ObjectMeta::default()
        },
        binary_data: Some([(DATA_KEY.to_owned(), ByteString(facts))].into()),
        ..ConfigMap::default()
    }
}
