//! How one node stands with one Module: chosen or not, told or not, and what it has answered.

use std::collections::BTreeMap;

use tenon_api::node_modules_config::{ModulePhase, NodeModule, NodeModuleStatus, NodeModulesConfig};
use tenon_api::{Module, reasons};
use tenon_order::ModuleKey;
use tenon_plan::inspect::{self, Peer};
use tenon_plan::node::{self, NodeFacts, Selection};
use tenon_plan::pause::Pause;
use tenon_plan::provision::job::progress;
use tenon_plan::rollout::{self, Standing};
use tenon_plan::{assign, rollup};

use super::image::{Offer, offer};
use super::{State, Why, is_mute};
use crate::seen::{self, NodePod, Seen};

/// How one node stands with a Module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeStanding {
    pub(crate) node: String,
    /// The kernel that runs there, as far as somebody has said.
    pub(crate) kernel: String,
    pub(crate) architecture: String,
    /// Whether the Module wants the node.
    pub(crate) wanted: bool,
    /// The image that the node has loaded, or is told to.
    pub(crate) image: Option<String>,
    /// The Module's version there, where it has one.
    pub(crate) version: Option<String>,
    /// Whether what is in the kernel is what the Module asks for now.
    pub(crate) loaded: bool,
    pub(crate) why: Why,
    /// Whether the sentence is the node's own: its kernel's, or its loader's.
    pub(crate) quoted: bool,
}

/// How the nodes that were read stand with a Module, those without any part in it left out, by name; and what the Module has for
/// their kernels.
pub(crate) fn nodes_of<'s>(seen: &'s Seen, module: &'s Module) -> (Vec<NodeStanding>, Vec<Offer<'s>>) {
    let facts: BTreeMap<&str, NodeFacts> =
        seen.nodes.iter().filter_map(|(name, node)| Some((name.as_str(), seen::facts(node)?))).collect();
    let mut offers: BTreeMap<(String, String), Offer<'s>> = BTreeMap::new();
    for facts in facts.values() {
        let kernel = (facts.kernel.to_string(), facts.architecture.clone());
        offers
            .entry(kernel)
            .or_insert_with(|| offer(module, seen.images_of(module), &facts.kernel, &facts.architecture));
    }
    let key = seen::key(module);
    let case = |name: &'s str| Case {
        module,
        key: &key,
        seen,
        node: facts.get(name),
        config: seen.configs.get(name),
        facts: &facts,
    };
    let strangers = seen.configs.keys().filter(|name| !facts.contains_key(name.as_str()));
    let names = seen.nodes.keys().filter(|name| facts.contains_key(name.as_str())).chain(strangers);
    let mut standings: Vec<_> = names
        .filter_map(|name| {
            let case = case(name);
            let offer =
                case.node.and_then(|node| offers.get(&(node.kernel.to_string(), node.architecture.clone())));
            case.standing(name, offer)
        })
        .collect();
    standings.sort_by(|one, other| one.node.cmp(&other.node));
    let has_nodes = |offer: &Offer<'_>| {
        standings
            .iter()
            .any(|node| node.kernel == offer.kernel.as_str() && node.architecture == offer.architecture)
    };
    let offers = offers.into_values().filter(has_nodes).collect();
    (standings, offers)
}

/// One node and one Module.
struct Case<'a> {
    module: &'a Module,
    key: &'a ModuleKey,
    seen: &'a Seen,
    /// `None` for a node of which only its object is known.
    node: Option<&'a NodeFacts>,
    config: Option<&'a NodeModulesConfig>,
    facts: &'a BTreeMap<&'a str, NodeFacts>,
}

impl Case<'_> {
    fn entry(&self) -> Option<&NodeModule> {
        seen::entry(self.config?, self.key)
    }

    fn reported(&self) -> Option<&NodeModuleStatus> {
        seen::reported(self.config?, self.key)
    }

    fn selection(&self) -> Selection {
        self.node.map_or(Selection::Unselected, |node| node::select(self.module, node))
    }

    /// `None` where the two have nothing to do with each other.
    fn standing(&self, name: &str, offer: Option<&Offer<'_>>) -> Option<NodeStanding> {
        let selection = self.selection();
        let asks_for_version = matches!(selection, Selection::OtherVersion(_) | Selection::NoVersion);
        let wanted = selection == Selection::Selected;
        if !wanted && !asks_for_version && self.entry().is_none() && self.reported().is_none() {
            return None;
        }
        let loaded = self.is_loaded();
        let image = self.reported().and_then(|reported| reported.config.as_ref());
        let image = image.or(self.entry().map(|entry| &entry.config)).map(|config| &config.container_image);
        let version = self.reported().and_then(|reported| reported.version.as_ref());
        let status = self.config.and_then(|config| config.status.as_ref());
        let kernel = self.node.map(|node| node.kernel.to_string());
        Some(NodeStanding {
            node: name.to_owned(),
            kernel: kernel.or_else(|| status?.kernel_version.clone()).unwrap_or_default(),
            architecture: self.node.map(|node| node.architecture.clone()).unwrap_or_default(),
            wanted,
            image: image.cloned(),
            version: version.or(self.entry().and_then(|entry| entry.version.as_ref())).cloned(),
            loaded: wanted && loaded && self.is_current(offer),
            why: self.why(&selection, offer, loaded),
            quoted: self.reported().and_then(failure).is_some(),
        })
    }

    /// Whether what the node was told last is in its kernel.
    fn is_loaded(&self) -> bool {
        let status = self.config.and_then(|config| config.status.as_ref());
        self.entry().zip(self.node).is_some_and(|(entry, node)| assign::is_loaded(entry, status, node))
    }

    /// Whether what the node was told last is what the Module asks for now.
    fn is_current(&self, offer: Option<&Offer<'_>>) -> bool {
        let Some(Offer { resolved: Ok(resolved), image, .. }) = offer else { return false };
        self.entry().is_some_and(|entry| rollup::asks_for(entry, resolved, *image))
    }

    fn why(&self, selection: &Selection, offer: Option<&Offer<'_>>, loaded: bool) -> Why {
        let failure = self.reported().and_then(failure);
        let is_settled = loaded && self.is_current(offer) && *selection == Selection::Selected;
        if let (Some(pause), false) =
            (self.pause(), is_settled && self.module.metadata.deletion_timestamp.is_none())
        {
            return failure.unwrap_or_else(|| Why::of(pause.reason(), pause.message()));
        }
        if self.module.metadata.deletion_timestamp.is_some() {
            return failure.unwrap_or_else(|| {
                Why::of(reasons::UNLOADING, "the Module is deleted, and the node has it still")
            });
        }
        failure
            .or_else(|| self.unselected(selection))
            .or_else(|| self.mute())
            .unwrap_or_else(|| self.progress(offer, loaded))
    }

    /// Whether the node is to stay as it is.
    fn pause(&self) -> Option<Pause> {
        Pause::of(self.module, self.node?)
    }

    /// Why the Module does not want the node, or not this version on it.
    fn unselected(&self, selection: &Selection) -> Option<Why> {
        let key = tenon_api::labels::LabelKind::VersionModule.key(self.key.namespace(), self.key.name());
        let version = node::version(self.module).unwrap_or_default();
        match selection {
            Selection::Selected => None,
            Selection::Unselected => Some(Why::of(
                reasons::UNLOADING,
                "the Module does not select the node any more, and the node has it still",
            )),
            Selection::Undiscovered => Some(Why {
                state: State::Ready,
                reason: reasons::LOADED.to_owned(),
                message: "a discovered label is away; the node keeps it for ten minutes".to_owned(),
            }),
            Selection::Tainted(taint) => Some(Why {
                state: State::Ready,
                reason: reasons::LOADED.to_owned(),
                message: format!("the taint {taint} is not tolerated: it stays, and nothing new comes"),
            }),
            Selection::OtherVersion(other) => Some(Why::of(
                reasons::WAITING_FOR_VERSION_LABEL,
                format!("the label {key} says {other}, and the Module has version {version}"),
            )),
            Selection::NoVersion => Some(Why::of(
                reasons::WAITING_FOR_VERSION_LABEL,
                format!("the node has no label {key}, and the Module has version {version}"),
            )),
        }
    }

    /// Why nobody on the node listens.
    fn mute(&self) -> Option<Why> {
        let Some(config) = self.config else {
            let is_known = !self.seen.configs.is_empty() || self.seen.gaps.is_empty();
            return is_known.then(|| self.unregistered());
        };
        let status = config.status.as_ref();
        if status.is_none_or(|status| status.store_id.is_none()) {
            return Some(self.unregistered());
        }
        let condition = status?.conditions.iter().find(|condition| is_mute(condition))?;
        Some(Why::of(&condition.reason, condition.message.clone()))
    }

    fn unregistered(&self) -> Why {
        unregistered(self.seen, self.node.map(|node| node.name.to_string()).unwrap_or_default().as_str())
    }

    /// How far a node is that the Module wants and that listens.
    fn progress(&self, offer: Option<&Offer<'_>>, loaded: bool) -> Why {
        let Some(offer) = offer else { return Why::of(reasons::LOADING, "its kernel is not known yet") };
        if self.module.spec.module_loader.is_none() {
            return Why::of(reasons::NO_MODULE_LOADER, "");
        }
        if loaded && self.is_current(Some(offer)) && offer.bundle().is_some() {
            return self.good();
        }
        let keeps = if loaded { "; the node keeps what it has" } else { "" };
        let (Ok(resolved), Some(image), Some(_)) = (&offer.resolved, offer.image, offer.bundle()) else {
            let why = &offer.why;
            return Why { message: format!("no image for its kernel yet{keeps}"), ..why.clone() };
        };
        if let Some(node) = self.node {
            let me = Peer { node, config: self.config };
            let peers =
                self.facts.iter().map(|(name, node)| Peer { node, config: self.seen.configs.get(*name) });
            if let Some((reason, message)) = inspect::hold(self.module, resolved, image, me, peers) {
                return Why::of(reason, format!("{message}{keeps}"));
            }
        }
        if self.is_current(Some(offer)) { self.answer() } else { self.turn() }
    }

    fn good(&self) -> Why {
        let reported = self.reported();
        let reason = reported.and_then(|reported| reported.reason.as_deref()).unwrap_or(reasons::LOADED);
        if reason == reasons::PATH_VANISHED {
            let message = reported.and_then(|reported| reported.message.as_ref());
            return Why::of(reason, message.map(ToString::to_string).unwrap_or_default());
        }
        Why { state: State::Ready, reason: reason.to_owned(), message: String::new() }
    }

    /// It was told, and has not said that it is so.
    fn answer(&self) -> Why {
        let Some(reported) = self.reported() else {
            return Why::of("NotApplied", "the node was told, and has not answered yet");
        };
        let message = reported.message.as_ref().map(ToString::to_string).unwrap_or_default();
        match (reported.phase, reported.reason.as_deref()) {
            (Some(ModulePhase::Unvalidated), reason) => {
                Why::of(reason.unwrap_or(reasons::VALIDATING), message)
            }
            (Some(ModulePhase::Loaded), _) if self.is_unvalidated(reported) => Why::of(
                reasons::VALIDATING,
                "the node's agent is of a version that does not look for what must be there after the load",
            ),
            (Some(ModulePhase::WaitingForBundle), reason) => {
                Why::of(reason.unwrap_or(reasons::WAITING_FOR_BUNDLE), message).in_state(State::Underway)
            }
            _ => Why::of("NotApplied", "the node was told of something new, and has not answered yet"),
        }
    }

    /// Whether the node says that the driver is loaded, and nothing of what must be there after that.
    fn is_unvalidated(&self, reported: &NodeModuleStatus) -> bool {
        self.entry().is_some_and(|entry| {
            reported.bundle == entry.bundle
                && reported.config.as_ref() == Some(&entry.config)
                && !reported.has_validated(entry.validation.as_ref())
        })
    }

    /// It is still to be told.
    fn turn(&self) -> Why {
        let status = self.config.and_then(|config| config.status.as_ref());
        let standing =
            self.entry().zip(self.node).map(|(entry, node)| rollout::standing(entry, status, node));
        if standing != Some(Standing::Serving) {
            return Why::of(reasons::LOADING, "the node is told next");
        }
        let conditions = self.module.status.iter().flat_map(|status| &status.conditions);
        let mut pauses = conditions.filter(|condition| {
            condition.type_ == reasons::condition::ROLLOUT_PAUSED && condition.status == "True"
        });
        match pauses.next() {
            Some(_) => Why::of(
                reasons::ROLLOUT_PAUSED,
                "the change failed elsewhere and is paused; the node keeps what it has",
            ),
            None => Why::of(reasons::WAITING_FOR_ROLLOUT, "its turn comes later; it keeps what it has"),
        }
    }
}

/// A node without a registered agent: where its pod is known to run, it needs nobody yet.
pub(crate) fn unregistered(seen: &Seen, node: &str) -> Why {
    let why = |message: &str| {
        Why::of(reasons::WAITING_FOR_NODE, format!("its agent has not registered: {message}"))
    };
    let pod = match seen.node_pod(node) {
        NodePod::Unknown => return why("nothing is known of its pod"),
        NodePod::Absent => return why("no pod of DaemonSet tenon-node is on the node"),
        NodePod::There(pod) => pod,
    };
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    match progress::hindrance(pod) {
        Some(hindrance) => why(&hindrance),
        None if phase == Some("Running") => why("its pod runs").in_state(State::Underway),
        None => why(&format!("its pod is {}", phase.unwrap_or("Pending"))),
    }
}

/// The node's trouble with the Module, in its own words.
fn failure(reported: &NodeModuleStatus) -> Option<Why> {
    let reason = rollup::trouble(reported)?;
    let message = reported.message.as_ref().map(ToString::to_string).unwrap_or_default();
    Some(Why::of(reason, message))
}
