//! The node's object as it should be.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::core::ObjectMeta;
use tenon_api::Module;
use tenon_api::labels::{LabelKind, ModuleLabel};
use tenon_api::node_modules_config::{ModuleConfig, NodeModule, NodeModulesConfig, NodeModulesConfigSpec};

use super::Observed;
use super::assigned::Assigned;
use crate::node::{self, NodeFacts};
use crate::resolve::Resolved;

/// What the node's object says of a Module that the node is to load.
pub(super) fn entry(
    module: &Module,
    resolved: &Resolved,
    node: &NodeFacts,
    bundle: &str,
    image_digest: &str,
) -> NodeModule {
    let loader = module.spec.module_loader.as_ref();
    let default = ModuleConfig::default();
    NodeModule {
        name: module.name_any(),
        namespace: module.namespace().unwrap_or_default(),
        config: ModuleConfig {
            kernel_version: node.kernel.without_plus().to_owned(),
            container_image: resolved.image.clone(),
            image_pull_policy: loader
                .and_then(|loader| loader.container.image_pull_policy.clone())
                .unwrap_or(default.image_pull_policy),
            in_tree_modules_to_remove: resolved.in_tree_to_remove.clone(),
            modprobe: resolved.modprobe.clone(),
            insecure_pull: false,
            in_tree_module_to_remove: None,
        },
        image_repo_secret: module.spec.image_repo_secret.clone(),
        service_account_name: loader.and_then(|loader| loader.service_account_name.clone()),
        tolerations: module.spec.tolerations.clone(),
        version: node::version(module).map(str::to_owned),
        image_digest: Some(image_digest.to_owned()),
        bundle: Some(bundle.to_owned()),
        generation: module.metadata.generation,
        replaces: None,
        retry: None,
        validation: loader.and_then(|loader| loader.validation.clone()),
    }
}

/// The node's object as it should be, without its order.
pub(super) fn config(
    observed: &Observed<'_>,
    modules: Vec<NodeModule>,
    assigned: &Assigned<'_>,
) -> NodeModulesConfig {
    let node = observed.node;
    let known = observed.config.map(|config| &config.metadata);
    let configured = modules.iter().map(|entry| (&entry.namespace, &entry.name));
    let in_use = configured.clone().chain(assigned.statuses().map(|entry| (&entry.namespace, &entry.name)));
    let label = |kind: LabelKind| {
        move |(namespace, name): (&String, &String)| (kind.key(namespace, name), String::new())
    };
    let labels = configured
        .map(label(LabelKind::ModuleConfigured))
        .chain(in_use.map(label(LabelKind::ModuleInUse)))
        .collect();
    NodeModulesConfig {
        metadata: ObjectMeta {
            name: Some(node.name.to_string()),
            uid: known.and_then(|known| known.uid.clone()),
            resource_version: known.and_then(|known| known.resource_version.clone()),
            labels: Some(labels),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: node.name.to_string(),
                uid: node.uid.clone(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: NodeModulesConfigSpec { modules, order: None },
        status: None,
    }
}

/// Whether writing `desired` would change `known`; the order is compared elsewhere.
pub(super) fn differs(desired: &NodeModulesConfig, known: &NodeModulesConfig) -> bool {
    let is_ours = |key: &String| {
        let kind = ModuleLabel::parse(key).map(|label| label.kind);
        matches!(kind, Some(LabelKind::ModuleConfigured | LabelKind::ModuleInUse))
            || [".module-configured", ".module-in-use"].iter().any(|end| key.ends_with(end))
    };
    let labels: BTreeMap<_, _> = known
        .labels()
        .iter()
        .filter(|(key, _)| is_ours(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let owner = |config: &NodeModulesConfig| {
        config.owner_references().iter().map(|owner| owner.uid.clone()).collect::<Vec<_>>()
    };
    desired.spec.modules != known.spec.modules
        || *desired.labels() != labels
        || owner(desired) != owner(known)
}
