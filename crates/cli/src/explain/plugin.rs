//! Why a Module's plugin is not everywhere yet: the pods that are not ready, in the words of those who should run them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tenon_api::{Module, labels, reasons};
use tenon_plan::workload::Role;

use super::finding::Finding;
use crate::seen::{self, Seen};
use crate::standing::advice::Subject;
use crate::standing::plugin::{self, Plugin, PodStanding};
use crate::standing::{State, Why, of_module, plugin_starting};

/// Pods that are told of, each by itself.
const MOST_PODS: usize = 5;

/// The plugin, as far as it is still to come; on one node, or on all. `None` where nobody may look, too: that is said elsewhere.
pub(super) fn explain(seen: &Seen, module: &Module, on: Option<&str>) -> Option<Finding> {
    let starting = plugin_starting(module)?;
    let (key, role) = (seen::key(module), Role::of(module)?);
    let subject = Subject { module: Some(&key), node: on, kernel: None };
    let pods = newest(seen.plugin_pods.get(&key)?, role, on);
    let plugin = Plugin { module: &key, role };
    let mut told: Vec<_> = pods
        .iter()
        .filter_map(|(node, pod)| Some((*node, plugin::standing(plugin, pod, seen.now)?)))
        .collect();
    // Before the driver is there, none is to be expected.
    let lacks_pods = pods.is_empty() && of_module(module, seen.now).reason == reasons::PLUGIN_STARTING;
    if told.is_empty() && (on.is_some() || !lacks_pods) {
        return None;
    }
    told.sort_by_key(|(_, standing)| std::cmp::Reverse(standing.state));
    let mut causes = findings(&told, subject);
    if let Some(last) = causes.last_mut().filter(|_| told.len() > MOST_PODS) {
        let left = told.len() - MOST_PODS;
        last.facts.push(format!(
            "and {left} more: kubectl get pods -n {} -o wide -l {}={}",
            key.namespace(),
            labels::MODULE_NAME,
            labels::value(key.name())
        ));
    }
    let message = if on.is_some() { String::new() } else { starting.message.clone() };
    let mut root = Finding::new(role.called(), Why::of(reasons::PLUGIN_STARTING, message), subject);
    if told.is_empty() {
        root.facts.push("it has no pod yet".to_owned());
        root.step = Some(format!(
            "if none comes, see what its DaemonSet says: kubectl describe daemonset -n {} -l {}={}",
            key.namespace(),
            labels::MODULE_NAME,
            labels::value(key.name())
        ));
    }
    Some(root.because(causes))
}

/// The plugin's newest pod on each node.
fn newest<'p>(pods: &'p [Pod], role: Role, on: Option<&str>) -> BTreeMap<&'p str, &'p Pod> {
    let mut newest: BTreeMap<&str, &Pod> = BTreeMap::new();
    for pod in pods {
        let is_its = Role::of_label(pod.labels().get(labels::ROLE).map(String::as_str)) == Some(role);
        let node = plugin::node(pod).unwrap_or("(none yet)");
        if !is_its || on.is_some_and(|on| on != node) {
            continue;
        }
        let is_newer = |known: &&Pod| known.metadata.creation_timestamp <= pod.metadata.creation_timestamp;
        if newest.get(node).is_none_or(is_newer) {
            newest.insert(node, pod);
        }
    }
    newest
}

/// A few of the pods. What is to be done about several for the same kind of reason is said once.
fn findings(told: &[(&str, PodStanding)], subject: Subject<'_>) -> Vec<Finding> {
    let mut kinds = Vec::new();
    let mut findings = Vec::new();
    for (node, standing) in told.iter().take(MOST_PODS) {
        let why = Why {
            state: standing.state,
            reason: reasons::PLUGIN_STARTING.to_owned(),
            message: String::new(),
        };
        let subject = Subject { node: Some(node), ..subject };
        let mut finding = Finding::new(format!("node {node}"), why, subject);
        finding.words.clone_from(&standing.words);
        finding.facts.push(standing.fact.clone());
        if standing.state == State::Trouble {
            let is_first = !kinds.contains(&standing.kind);
            finding.step = standing.step.clone().filter(|_| is_first);
            kinds.push(standing.kind);
        }
        findings.push(finding);
    }
    findings
}
