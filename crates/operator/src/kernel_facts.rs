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
    if context.writes.admit(Resource::ConfigMap, Verb::Create).await.is_err() {
        return false;
    }
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &context.args.namespace);
    match maps.create(&PostParams::default(), &map).await {
        Ok(_) => {
            info!(%node, release = build.release, build = build.build_id, architecture, bytes = facts.len(), "a node has told what its kernel is");
            true
        }
        Err(kube::Error::Api(status)) if status.is_already_exists() => true,
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
    let own = |pairs: &[(&str, String)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name_for(&build.release, architecture, Some(&build.build_id))),
            labels: Some(own(&[(LABEL, "true".to_owned()), (labels::PART_OF, labels::PRODUCT.to_owned())])),
            annotations: Some(own(&annotations)),
            ..ObjectMeta::default()
        },
        binary_data: Some([(DATA_KEY.to_owned(), ByteString(facts.to_vec()))].into()),
        ..ConfigMap::default()
    }
}
