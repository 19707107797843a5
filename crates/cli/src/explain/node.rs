//! Why a node stands as it stands: its agent and loader, and each Module that wants it or is on it.

use k8s_openapi::api::core::v1::Node;
use tenon_api::{Module, NodeModulesConfig, reasons};
use tenon_order::ModuleKey;

use super::finding::Finding;
use super::{apart, module, plugin, startup};
use crate::seen::{self, Seen};
use crate::standing::advice::Subject;
use crate::standing::{self, State, Why, is_mute};

/// A node, from the top down.
pub(crate) fn explain(seen: &Seen, node: &Node) -> Finding {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let config = seen.configs.get(name);
    let mut causes = vec![listener(seen, name, config)];
    let facts = seen::facts(node);
    let kept_away = |module| apart::of_node(module, facts.as_ref()?);
    causes.extend(
        seen.modules.iter().filter_map(|module| on_node(seen, module, name).or_else(|| kept_away(module))),
    );
    causes.extend(strangers(seen, name, config));
    let notes = causes.iter().filter(|cause| cause.note).count();
    let modules = causes.len() - notes - 1;
    causes.extend(startup::explain(seen, node));
    causes.sort_by_key(|cause| (std::cmp::Reverse(cause.state), cause.note));
    let mut root = Finding::new(format!("Node {name}"), Why::default(), Subject::default());
    let has = match (modules, notes) {
        (0, 0) => "no Module selects it, and it has none".to_owned(),
        (0, _) => "it has no Module".to_owned(),
        (1, _) => "1 Module".to_owned(),
        (count, _) => format!("{count} Modules"),
    };
    let kept_away = if notes > 0 { format!("; {notes} kept away") } else { String::new() };
    root.message = format!("{has}{kept_away}");
    root.facts.extend(machine(node));
    root.because(causes)
}

fn machine(node: &Node) -> Vec<String> {
    let status = node.status.as_ref();
    let info = status.and_then(|status| status.node_info.as_ref());
    let mut facts: Vec<_> = info
        .map(|info| format!("kernel {} ({}), boot {}", info.kernel_version, info.architecture, info.boot_id))
        .into_iter()
        .collect();
    let mut conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.find(|condition| condition.type_ == "Ready");
    if let Some(condition) = ready.filter(|condition| condition.status != "True") {
        let why = condition.reason.as_deref().unwrap_or_default();
        facts.push(format!(
            "its kubelet is not ready (Ready is {}, {why}): perhaps nobody answers there",
            condition.status
        ));
    }
    facts
}

/// Who takes orders on the node.
fn listener(seen: &Seen, name: &str, config: Option<&NodeModulesConfig>) -> Finding {
    let subject = Subject { node: Some(name), ..Subject::default() };
    let finding = |why: Why| Finding::new("agent and loader", why, subject);
    let Some(config) = config else {
        return finding(Why::of(
            reasons::WAITING_FOR_NODE,
            "the node has no NodeModulesConfig, or you may not read it",
        ));
    };
    let status = config.status.clone().unwrap_or_default();
    if status.store_id.is_none() {
        return finding(standing::unregistered(seen, name));
    }
    if let Some(condition) = status.conditions.iter().find(|condition| is_mute(condition)) {
        return finding(Why::of(&condition.reason, condition.message.clone()));
    }
    if seen::is_open(config) {
        return finding(Why::of("NotApplied", "the node has an order that it has not answered yet"));
    }
    let has_order = config.spec.order.is_some();
    let message = if has_order {
        "registered, and has taken the newest order"
    } else {
        "registered; nothing is ordered"
    };
    finding(Why { state: State::Ready, reason: String::new(), message: message.to_owned() })
}

/// One Module on the node; `None` where the two have nothing to do with each other.
fn on_node(seen: &Seen, module: &Module, name: &str) -> Option<Finding> {
    let key = seen::key(module);
    let (nodes, offers) = standing::nodes_of(seen, module);
    let node = nodes.into_iter().find(|node| node.node == name)?;
    let subject = Subject { module: Some(&key), node: Some(name), kernel: Some(&node.kernel) };
    let mut finding = Finding::new(format!("Module {key}"), node.why.clone(), subject);
    if node.quoted {
        finding.words = node.why.message.lines().map(str::to_owned).collect();
        finding.message = String::new();
    }
    if let Some(image) = &node.image {
        finding.facts.push(if node.loaded {
            format!("loaded from {image}")
        } else {
            format!("it was told of {image}")
        });
    }
    let offer = offers.iter().find(|offer| offer.kernel.as_str() == node.kernel).filter(|_| node.wanted);
    let causes = offer.into_iter().flat_map(|offer| {
        let image = (offer.why.state != State::Ready).then(|| module::image(seen, &key, offer));
        image.into_iter().chain(module::verdicts(offer, &[&node], subject))
    });
    let causes = causes.chain(plugin::explain(seen, module, Some(name)));
    Some(finding.because(causes.filter(|cause| cause.state != State::Ready).collect()))
}

/// What the node reports of Modules that were not read: they are gone, or not for whoever asks to see.
fn strangers(seen: &Seen, name: &str, config: Option<&NodeModulesConfig>) -> Vec<Finding> {
    let reported =
        config.and_then(|config| config.status.as_ref()).into_iter().flat_map(|status| &status.modules);
    let is_known = |key: &ModuleKey| seen.modules.iter().any(|module| seen::key(module) == *key);
    reported
        .filter_map(|reported| {
            let key =
                ModuleKey::new(&reported.namespace, &reported.name).ok().filter(|key| !is_known(key))?;
            let subject = Subject { module: Some(&key), node: Some(name), kernel: None };
            let phase = reported.phase.map(|phase| format!("{phase:?}")).unwrap_or_default();
            let reason = reported.reason.clone().unwrap_or(phase);
            let message = reported.message.clone().map(String::from).unwrap_or_default();
            Some(Finding::new(
                format!("Module {key} (not among those that were read)"),
                Why::of(&reason, message),
                subject,
            ))
        })
        .collect()
}
