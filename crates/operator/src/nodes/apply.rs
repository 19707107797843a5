//! Writes what was decided for one node.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use kube::core::Request;
use kube::{Api, Resource as _, ResourceExt as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tenon_api::Guarded;
use tenon_api::labels::{STARTUP_TAINT, field_manager};
use tenon_api::node_modules_config::NodeModulesConfig;
use tenon_api::reasons::event;
use tenon_order::{NodeName, SignedOrderError, sign};
use tenon_plan::assign::{Assignment, OrderChange};
use tracing::info;

use super::news::tell_of_kernel;
use super::observe::Node;
use crate::client::readable;
use crate::controllers::{Failure, WriteError};
use crate::identity::order_keys::OrderKeys;
use crate::metrics::{Resource, Verb};
use crate::run::Context;
use crate::world::{Node as NodeObject, World, version};

/// Why a node could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Its labels.
    #[error("change the labels of node {node}")]
    Labels {
        /// The node.
        node: String,
        /// Why not.
        #[source]
        source: WriteError,
    },
    /// Its start-up taint.
    #[error("take the taint {STARTUP_TAINT} from node {node}")]
    Taint {
        /// The node.
        node: String,
        /// Why not.
        #[source]
        source: WriteError,
    },
    /// Its object.
    #[error("write NodeModulesConfig {node}")]
    Config {
        /// The node.
        node: String,
        /// Why not.
        #[source]
        source: WriteError,
    },
    /// Its object could not be read.
    #[error("read NodeModulesConfig {node}")]
    Read {
        /// The node.
        node: String,
        /// Why not.
        #[source]
        source: kube::Error,
    },
    /// The node could not be read.
    #[error("read node {node}")]
    ReadNode {
        /// The node.
        node: String,
        /// Why not.
        #[source]
        source: kube::Error,
    },
    /// Its order.
    #[error("sign the order for node {node}")]
    Sign {
        /// The node.
        node: String,
        /// Why not.
        #[source]
        source: SignedOrderError,
    },
}

impl Failure for ApplyError {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Labels { source, .. } | Self::Taint { source, .. } | Self::Config { source, .. } if source.is_conflict())
    }

    fn is_not_leader(&self) -> bool {
        matches!(self, Self::Labels { source, .. } | Self::Taint { source, .. } | Self::Config { source, .. } if source.is_not_leader())
    }
}

/// Writes; returns whether there was anything to write.
pub(super) async fn apply(
    context: &Context,
    world: &World,
    node: &Node,
    assignment: Assignment,
    keys: &OrderKeys,
) -> Result<bool, ApplyError> {
    let Assignment { config, order, labels, untaint, asks: _, waiting: _, again_after: _ } = assignment;
    let name = node.facts.name.to_string();
    let changed = !labels.is_empty() || !untaint.is_empty() || config.is_some();
    if !labels.is_empty() {
        let version = write_labels(context, node, &labels).await.map_err(|source| {
            // Nobody knows whether the labels are there: they are read before the node is decided about again.
            if !source.is_not_leader() {
                world.doubt_node(&node.facts.name);
            }
            ApplyError::Labels { node: name.clone(), source }
        })?;
        // Known at once: whatever comes before the watch tells would have them written, and announced, a second time.
        world.wrote_labels(&node.facts.name, &node.facts.uid, &labels, version);
        announce(context, node, &labels);
    }
    if !untaint.is_empty() {
        // Whatever came of it: where its taints stand now is read before the node is decided about again.
        world.doubt_node(&node.facts.name);
        let taken = take_taints(context, node, &untaint).await;
        taken.map_err(|source| ApplyError::Taint { node: name.clone(), source })?;
        info!(node = name, taint = STARTUP_TAINT, "its drivers are ready: pods may come");
    }
    if let Some(mut config) = config {
        let known = node.config.as_ref().and_then(|config| config.spec.order.clone());
        config.spec.order = match &order {
            OrderChange::Keep => known,
            OrderChange::Withdraw => None,
            OrderChange::Replace(order) => Some(
                sign(order, keys.for_node(&node.known_keys()))
                    .map_err(|source| ApplyError::Sign { node: name.clone(), source })?,
            ),
        };
        write_config(context, world, &config)
            .await
            .map_err(|source| ApplyError::Config { node: name.clone(), source })?;
        let generation =
            if let OrderChange::Replace(order) = &order { Some(order.generation.0) } else { None };
        info!(node = name, modules = config.spec.modules.len(), order = generation, "assigned");
    }
    Ok(changed)
}

/// The metadata of a patch of labels. A null among the labels takes one away; a null for a version would, too.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LabelsPatch<'a> {
    uid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_version: Option<String>,
    labels: &'a BTreeMap<String, Option<String>>,
}

/// Of the answer to it.
#[derive(Deserialize)]
struct Written {
    metadata: WrittenMetadata,
}

/// Of its metadata.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenMetadata {
    resource_version: Option<String>,
}

/// A merge patch of these labels alone; the uid makes sure that it is still the same node, the version that it is as it was
/// seen. Gives the node's new version.
async fn write_labels(
    context: &Context,
    node: &Node,
    labels: &BTreeMap<String, Option<String>>,
) -> Result<Option<u64>, WriteError> {
    let metadata = LabelsPatch {
        uid: &node.facts.uid,
        resource_version: node.labels_version(labels).map(|version| version.to_string()),
        labels,
    };
    let patch = json!({ "metadata": metadata });
    let params =
        PatchParams { field_manager: Some(field_manager::NODES.to_owned()), ..PatchParams::default() };
    let request = Request::new(NodeObject::url_path(&(), None));
    let request = request
        .patch_metadata(node.facts.name.as_ref(), &params, &Patch::Merge(&patch))
        .map_err(kube::Error::BuildRequest)?;
    let call = context.client.request::<Written>(request);
    let written = context.writes.make(Resource::Node, Verb::Patch, call).await?;
    Ok(version(written.metadata.resource_version.as_deref()))
}

/// A JSON patch of these taints alone, the last first; it changes nothing if they are not where they were seen, or the node is
/// another by the same name.
async fn take_taints(context: &Context, node: &Node, places: &[usize]) -> Result<(), WriteError> {
    let is_it = json!({ "op": "test", "path": "/metadata/uid", "value": node.facts.uid });
    let take = places.iter().flat_map(|place| {
        let path = format!("/spec/taints/{place}");
        [
            json!({ "op": "test", "path": format!("{path}/key"), "value": STARTUP_TAINT }),
            json!({ "op": "remove", "path": path }),
        ]
    });
    let changes: Value = std::iter::once(is_it).chain(take).collect();
    let target = format!(
        "{}/{}?fieldManager={}",
        NodeObject::url_path(&(), None),
        node.facts.name,
        field_manager::NODES
    );
    let request = http::Request::patch(target)
        .header(http::header::CONTENT_TYPE, "application/json-patch+json")
        .body(changes.to_string().into_bytes())
        .map_err(kube::Error::HttpError)?;
    let call = context.client.request::<Guarded<NodeObject>>(request);
    context.writes.make(Resource::Node, Verb::Patch, call).await.map(drop)
}

/// Server-side apply; uid and resourceVersion in it make sure that it is the object that was decided about.
async fn write_config(
    context: &Context,
    world: &World,
    config: &NodeModulesConfig,
) -> Result<(), WriteError> {
    let configs: Api<Guarded<NodeModulesConfig>> = Api::all(context.client.clone());
    let name = config.metadata.name.as_deref().unwrap_or_default();
    let params = PatchParams::apply(field_manager::NODES).force();
    let patch = Patch::Apply(config);
    let call = async { readable(configs.patch(name, &params, &patch).await?) };
    match context.writes.make(Resource::NodeModulesConfig, Verb::Patch, call).await {
        Ok(written) => {
            world.wrote_config(written);
            Ok(())
        }
        Err(error) => {
            // What was decided about is not what is there, or nobody knows whether the write has taken effect: what is
            // there is read before the node is decided about again, whatever the watch knows.
            if let Ok(key) = name.parse()
                && !error.is_not_leader()
            {
                world.doubt(&key);
            }
            Err(error)
        }
    }
}

/// Reads the node's object, as it is now.
pub(super) async fn read_config(context: &Context, world: &World, name: &NodeName) -> Result<(), ApplyError> {
    let before = world.read().config(name).and_then(|config| config.resource_version());
    let configs: Api<Guarded<NodeModulesConfig>> = Api::all(context.client.clone());
    let read = async { configs.get_opt(name.as_ref()).await?.map(readable).transpose() };
    match read.await {
        Ok(config) => {
            world.config_read(name, before.as_deref(), config);
            Ok(())
        }
        Err(source) => {
            world.doubt(name);
            Err(ApplyError::Read { node: name.to_string(), source })
        }
    }
}

/// Reads the Node, as it is now.
pub(super) async fn read_node(context: &Context, world: &World, name: &NodeName) -> Result<(), ApplyError> {
    let before = world.node_version(name);
    let nodes: Api<Guarded<NodeObject>> = Api::all(context.client.clone());
    let read = async { nodes.get_opt(name.as_ref()).await?.map(readable).transpose() };
    match read.await {
        Ok(node) => {
            world.node_read(name, before, node);
            Ok(())
        }
        Err(source) => {
            world.doubt_node(name);
            Err(ApplyError::ReadNode { node: name.to_string(), source })
        }
    }
}

/// The Node, as an event refers to it.
pub(super) fn reference(node: &Node) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(node.facts.name.to_string()),
        uid: Some(node.facts.uid.clone()),
        ..ObjectReference::default()
    }
}

/// An event on the Node for each module that became ready. That it is unloaded is told when its node says so.
fn announce(context: &Context, node: &Node, labels: &BTreeMap<String, Option<String>>) {
    let ready = labels.iter().filter(|(_, value)| value.is_some());
    for module in ready.filter_map(|(key, _)| node.module_of(key)) {
        tell_of_kernel(context, node, &module, event::MODULE_LOADED, None);
    }
}
