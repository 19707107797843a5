//! The labels that a node has for the sake of a Module's plugin.

use std::collections::BTreeMap;

use tenon_api::Module;
use tenon_api::labels::{LabelKind, value};

use super::version::{Guards, settle};
use super::{PluginPod, Role};
use crate::node::{self, NodeFacts, Selection};

/// How a node stands with a Module, for its plugin.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// The driver is loaded as wished, and stays for now.
    pub is_ready: bool,
    /// The node goes on being told to have the driver.
    pub stays: bool,
    /// Everything stays as it is, whatever is wished.
    pub is_still: bool,
    /// The version that the node should have next.
    pub wished: Option<&'a str>,
    /// The plugin's pods there.
    pub pods: &'a [PluginPod],
}

/// The labels as they should be, beside those that say that the driver is ready.
pub fn desired(module: &Module, node: &NodeFacts, standing: &Standing<'_>) -> BTreeMap<String, String> {
    if standing.is_still {
        return as_it_is(module, node, standing);
    }
    let has_loader = module.spec.module_loader.is_some();
    let mut labels = BTreeMap::new();
    if let Some(role) = Role::of(module) {
        let may_run = standing.is_ready || !has_loader;
        let runs = standing.pods.iter().any(|pod| pod.role == role && pod.is_ready);
        if may_run && runs {
            labels.insert(key(role.ready_label(), module), String::new());
        }
        if role == Role::DevicePlugin && is_target(module, node, standing, has_loader) {
            labels.insert(key(LabelKind::DevicePluginTarget, module), String::new());
        }
    }
    labels.extend(versions(module, node, standing));
    labels
}

/// Where plugins may run stays as it is; where they do is told as ever, of those that are there.
fn as_it_is(module: &Module, node: &NodeFacts, standing: &Standing<'_>) -> BTreeMap<String, String> {
    let placed = [
        LabelKind::DevicePluginTarget,
        LabelKind::VersionWorkerPod,
        LabelKind::VersionSchedulePod,
        LabelKind::VersionDevicePlugin,
    ];
    let placed = placed.into_iter().map(|kind| key(kind, module));
    let placed = placed.filter_map(|key| Some((node.labels.get(&key)?.clone(), key)));
    let has_loader = module.spec.module_loader.is_some();
    let ready = standing.pods.iter().filter(|pod| pod.is_ready && (standing.is_ready || !has_loader));
    let ready = ready.map(|pod| (String::new(), key(pod.role.ready_label(), module)));
    placed.chain(ready).map(|(value, key)| (key, value)).collect()
}

/// Whether the device plugin may run on the node. Once it may, it goes on while the driver is away for a moment: that alone keeps
/// the pod away, at no further write.
fn is_target(module: &Module, node: &NodeFacts, standing: &Standing<'_>, has_loader: bool) -> bool {
    let has_label = node.labels.contains_key(&key(LabelKind::DevicePluginTarget, module));
    if has_loader {
        return standing.is_ready || has_label && standing.stays;
    }
    match node::select(module, node) {
        Selection::Selected => true,
        // What came later keeps new plugins away, but takes none from the node.
        Selection::Tainted(_) | Selection::Undiscovered => has_label,
        Selection::Unselected | Selection::NoVersion | Selection::OtherVersion(_) => false,
    }
}

/// The labels of an ordered upgrade. The former name of the schedule's label is taken for what it is where it is met, and never set.
fn versions(module: &Module, node: &NodeFacts, standing: &Standing<'_>) -> Vec<(String, String)> {
    let label = |kind| node.labels.get(&key(kind, module)).map(String::as_str);
    let wished = standing.wished.map(value);
    // A driver that stays without a version has none to be withdrawn, whoever uses it.
    let stays_unversioned = wished.is_none() && standing.is_ready;
    let guards =
        Guards { is_ready: standing.is_ready, has_pods: !standing.pods.is_empty() && !stays_unversioned };
    let former = label(LabelKind::VersionDevicePlugin);
    let (worker, schedule) = settle(
        wished.as_deref(),
        label(LabelKind::VersionWorkerPod),
        label(LabelKind::VersionSchedulePod).or(former),
        guards,
    );
    let of = |kind, version: Option<&str>| version.map(|version| (key(kind, module), version.to_owned()));
    let former = schedule.filter(|version| former == Some(*version));
    [
        of(LabelKind::VersionWorkerPod, worker),
        of(LabelKind::VersionSchedulePod, schedule),
        of(LabelKind::VersionDevicePlugin, former),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn key(kind: LabelKind, module: &Module) -> String {
    let namespace = module.metadata.namespace.as_deref().unwrap_or_default();
    kind.key(namespace, module.metadata.name.as_deref().unwrap_or_default())
}

/// Whether a label of a node is one of those that this decides about, of whichever Module.
pub fn is_ours(key: &str) -> bool {
    matches!(
        LabelKind::of_key(key),
        Some(
            LabelKind::DevicePluginReady
                | LabelKind::DraReady
                | LabelKind::DevicePluginTarget
                | LabelKind::VersionWorkerPod
                | LabelKind::VersionSchedulePod
                | LabelKind::VersionDevicePlugin
        )
    )
}
