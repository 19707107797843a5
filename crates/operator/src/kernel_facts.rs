//! Keeps the facts that nodes send about their kernels, each in a `ConfigMap` of its own. What is there is never changed:
//! whoever was first, or knows better, is not overwritten by a node.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::PostParams;
use kube::core::ObjectMeta;
use tenon_api::kernel_facts::{ARCHITECTURE, BUILD_ID, DATA_KEY, LABEL, RELEASE, SOURCE, Source, name_for};
use tenon_api::labels;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::controllers::WriteError;
use crate::depot::Upload;
use crate::metrics::{Resource, Verb};
use crate::run::Context;

/// Keeps what comes until the operator ends.
pub async fn keep(context: Context, mut uploads: mpsc::Receiver<Upload>) {
    while let Some(Some(upload)) = context.shutdown.run_until_cancelled(uploads.recv()).await {
        let kept = create(&context, &upload).await;
        // Who does not wait any more learns it when it asks again.
        let _ = upload.kept.send(kept);
    }
}

async fn create(context: &Context, upload: &Upload) -> bool {
    let Upload { node, build, architecture, facts, kept: _ } = upload;
    let map = config_map(upload);
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &context.args.namespace);
    let params = PostParams::default();
    let call = maps.create(&params, &map);
    match context.writes.make(Resource::ConfigMap, Verb::Create, call).await {
        Ok(_) => {
            info!(%node, release = build.release, build = build.build_id, architecture, bytes = facts.len(), "a node has told what its kernel is");
            true
        }
        Err(WriteError::Api(kube::Error::Api(status))) if status.is_already_exists() => true,
        Err(WriteError::NotLeader(_)) => false,
        Err(error) => {
            warn!(%node, error = &error as &dyn std::error::Error, "a node's kernel facts are not kept");
            false
        }
    }
}

fn config_map(upload: &Upload) -> ConfigMap {
    let Upload { node, build, architecture, facts, kept: _ } = upload;
    let annotations = [
        (RELEASE, build.release.clone()),
        (ARCHITECTURE, (*architecture).to_owned()),
        (BUILD_ID, build.build_id.clone()),
        (SOURCE, Source::Node(node.to_string()).to_string()),
    ];
    object(name_for(&build.release, architecture, Some(&build.build_id)), annotations, facts.to_vec())
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
