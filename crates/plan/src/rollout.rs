//! Which nodes of a Module may be changed now: at most so many are without their driver at a time because of us.
//!
//! To order other content for a node that has the module loaded takes its driver away for a while, or, if the new content
//! is bad, for good. Such a change needs a turn. What counts against the limit stands in the nodes' objects alone: an entry
//! that replaces something ([`NodeModule::replaces`]) and that its node has not reported as loaded, or a driver that is loaded
//! while its ready label is withdrawn ([`is_withdrawn`]): its plugin leaves first. So a restarted operator, or another leader,
//! counts the same. First loads, removals, and changes on nodes that have nothing to lose are
//! not limited: a node that fails for reasons of its own holds nobody up, and nobody holds up its cure.
//!
//! [`standing`] judges one node, [`takes_away`] one change, [`Turns`] keeps the count for one Module, with the turns that
//! were given and are not to be read off an object yet.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tenon_api::Module;
use tenon_api::labels::LabelKind;
use tenon_api::node_modules_config::{
    ModuleConfig, ModulePhase, NodeModule, NodeModuleStatus, NodeModulesConfigStatus,
};
use tenon_order::NodeName;

use crate::assign::is_loaded;
use crate::node::NodeFacts;

/// Of 100 nodes that have the module, how many a change may take it from at a time, where the Module does not say.
const DEFAULT_PERCENT: usize = 10;

/// The taint of a node whose kubelet does not report any more (`k8s.io/api/core/v1`, `TaintNodeUnreachable`).
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// How long after it was sent a write may still take effect although nobody has seen its answer, in milliseconds: the
/// API server ends requests after a minute.
pub const WRITES_LAND_WITHIN: u64 = 75_000;

/// How a node stands with a Module that it was told to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has what its entry wishes, or will have it as soon as it has booted.
    Serving,
    /// Its entry replaced something, and has not come up: it is without its driver because of us.
    Unavailable,
    /// It never had it, or lost it for reasons of its own: there is nothing to take away.
    Free,
}

/// How a node stands with what `entry` wishes.
pub fn standing(entry: &NodeModule, status: Option<&NodeModulesConfigStatus>, node: &NodeFacts) -> Standing {
    if entry.config.kernel_version != node.kernel.without_plus() {
        // It was for a kernel that does not run any more.
        return Standing::Free;
    }
    let reported = report(status, &entry.namespace, &entry.name);
    let Some(reported) = reported.filter(|reported| answers(entry, status) && is_of(reported, entry)) else {
        return if entry.replaces.is_some() { Standing::Unavailable } else { Standing::Free };
    };
    // The report says with which settings it was loaded: it did come up once.
    match reported.phase {
        // A change that brings a driver without its device has not come up.
        Some(ModulePhase::Loaded | ModulePhase::Unvalidated)
            if entry.replaces.is_some() && !is_validated(reported, entry) =>
        {
            Standing::Unavailable
        }
        Some(ModulePhase::Loaded | ModulePhase::Unvalidated) => Standing::Serving,
        _ if is_in_kernel(reported, node) => Standing::Serving,
        Some(ModulePhase::CrashSuspected) if entry.replaces.is_some() => Standing::Unavailable,
        _ => Standing::Free,
    }
}

/// Whether the node has the driver as its entry wishes, and not the label that says so: it was taken away so that the plugin leaves
/// before a change, or is about to be set.
pub fn is_withdrawn(entry: &NodeModule, status: Option<&NodeModulesConfigStatus>, node: &NodeFacts) -> bool {
    let label = LabelKind::Ready.key(&entry.namespace, &entry.name);
    is_loaded(entry, status, node) && !node.labels.contains_key(&label)
}

/// Whether the node has taken the order that asked for the entry's content.
pub fn answers(entry: &NodeModule, status: Option<&NodeModulesConfigStatus>) -> bool {
    let taken = status.and_then(|status| status.order_generation).unwrap_or_default();
    entry.replaces.as_ref().is_none_or(|replaced| taken >= replaced.order)
}

/// What a node's status says of a Module.
pub fn report<'s>(
    status: Option<&'s NodeModulesConfigStatus>,
    namespace: &str,
    name: &str,
) -> Option<&'s NodeModuleStatus> {
    status?.modules.iter().find(|reported| reported.namespace == namespace && reported.name == name)
}

/// Whether a report is about an entry's content.
fn is_of(reported: &NodeModuleStatus, entry: &NodeModule) -> bool {
    reported.bundle == entry.bundle && reported.config.as_ref() == Some(&entry.config)
}

/// Whether all that must be there after the load has been.
fn is_validated(reported: &NodeModuleStatus, entry: &NodeModule) -> bool {
    reported.phase == Some(ModulePhase::Loaded) && reported.has_validated(entry.validation.as_ref())
}

fn is_in_kernel(reported: &NodeModuleStatus, node: &NodeFacts) -> bool {
    reported.boot_id.as_deref() == Some(node.boot_id.as_str())
}

/// Whether ordering `wished` takes something from the node: other content of the Module is in its kernel, or will be as
/// soon as the node has booted. What KMM has loaded is adopted or left alone by the loader, and never taken away.
pub fn takes_away(wished: &NodeModule, reported: Option<&NodeModuleStatus>, node: &NodeFacts) -> bool {
    let Some(reported) = reported.filter(|reported| !reported.is_kmms()) else { return false };
    let is_for_this_kernel = |config: &ModuleConfig| config.kernel_version == node.kernel.without_plus();
    let is_kept = [ModulePhase::Loaded, ModulePhase::Unvalidated, ModulePhase::RolledBack].map(Some);
    let comes_back =
        is_kept.contains(&reported.phase) && reported.config.as_ref().is_none_or(is_for_this_kernel);
    let is_the_same = reported.bundle == wished.bundle
        && reported.config.as_ref().is_some_and(|config| is_loaded_alike(config, &wished.config));
    (is_in_kernel(reported, node) || comes_back) && !is_the_same
}

/// Whether KMM has loaded, in the present boot, what `entry` wishes: by name, which is all that it remembers.
pub fn is_inherited(reported: &NodeModuleStatus, entry: &NodeModule, node: &NodeFacts) -> bool {
    let is_it = |config: &ModuleConfig| {
        config.container_image == entry.config.container_image && is_loaded_alike(config, &entry.config)
    };
    reported.is_kmms() && is_in_kernel(reported, node) && reported.config.as_ref().is_some_and(is_it)
}

/// Whether the settings that reach the loader are the same.
fn is_loaded_alike(one: &ModuleConfig, other: &ModuleConfig) -> bool {
    one.kernel_version == other.kernel_version
        && one.modprobe == other.modprobe
        && one.in_tree_modules_to_remove == other.in_tree_modules_to_remove
}

/// On how many of the `nodes` nodes that are told to load it a change of the Module may take it away at a time.
pub fn allowed(module: &Module, nodes: usize) -> usize {
    let limit = module.spec.rollout.as_ref().and_then(|rollout| rollout.max_unavailable.as_ref());
    let allowed = match limit {
        Some(IntOrString::Int(number)) => usize::try_from(*number).unwrap_or_default(),
        Some(IntOrString::String(text)) => {
            let percent = text.strip_suffix('%').and_then(|number| number.parse::<usize>().ok());
            share(percent.unwrap_or(DEFAULT_PERCENT).min(100), nodes)
        }
        None => share(DEFAULT_PERCENT, nodes),
    };
    allowed.max(1)
}

fn share(percent: usize, nodes: usize) -> usize {
    nodes.saturating_mul(percent) / 100
}

/// Whether a node may be changed now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Turn {
    /// Nobody has asked yet.
    #[default]
    Unasked,
    /// It may.
    Given,
    /// So many nodes are unavailable already, of those that may be.
    Refused {
        /// Nodes that are unavailable, or have been given their turn.
        unavailable: usize,
        /// Nodes that may be.
        allowed: usize,
    },
}

/// Whether the node's kubelet has fallen silent, so that perhaps nobody would follow an order. To give it a turn would hold
/// up the others for as long as it is off.
pub fn is_silent(node: &NodeFacts) -> bool {
    node.taints.iter().any(|taint| taint.key == UNREACHABLE)
}

/// Who is unavailable for a Module, whose turn it is, and who waits. Whoever keeps it tells it of every version of a node's
/// object as soon as it is known, and has the node decided about again, which then asks once more or gives its turn back.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Turns {
    unavailable: BTreeSet<NodeName>,
    withdrawn: BTreeSet<NodeName>,
    given: BTreeMap<NodeName, Given>,
    waiting: BTreeSet<NodeName>,
}

/// A turn that was given, and is not to be read off the node's object yet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Given {
    /// The version of the node's object that was decided about.
    version: Option<String>,
    /// When it was asked for last, in milliseconds since 1970.
    asked: u64,
    /// The object has another version by now, so that the write that was to use the turn can have no effect any more.
    is_void: bool,
}

impl Turns {
    /// The node's object in this version says that the node stands like this (`None`: it does not name the Module), and whether
    /// its ready label is withdrawn.
    ///
    /// With another version than the one that was decided about, a turn has been used, or its write never will take effect: that
    /// names the version. But the turn stays the node's until it has been decided about again: its plugin may be on its way out,
    /// for as long as many versions.
    pub fn note(
        &mut self,
        node: &NodeName,
        standing: Option<Standing>,
        is_withdrawn: bool,
        version: Option<&str>,
    ) {
        let is_unavailable = standing == Some(Standing::Unavailable);
        put(&mut self.unavailable, node, is_unavailable);
        put(&mut self.withdrawn, node, is_withdrawn);
        if let Some(given) = self.given.get_mut(node) {
            given.is_void |= given.version.as_deref() != version;
            if given.is_void && is_unavailable {
                self.given.remove(node);
            }
        }
    }

    /// Nothing of the node counts any more.
    pub fn forget(&mut self, node: &NodeName) {
        self.unavailable.remove(node);
        self.withdrawn.remove(node);
        self.given.remove(node);
        self.waiting.remove(node);
    }

    /// Asks for the node's turn, decided about by this version of its object. A turn that is given counts from now on.
    pub fn ask(&mut self, node: &NodeName, version: Option<&str>, allowed: usize, now: u64) -> Turn {
        let has_it = self.given.contains_key(node) || self.unavailable.contains(node);
        let others = self.taken() - usize::from(self.is_taken_by(node));
        if !has_it && others >= allowed {
            self.waiting.insert(node.clone());
            return Turn::Refused { unavailable: others, allowed };
        }
        self.waiting.remove(node);
        let given = Given { version: version.map(str::to_owned), asked: now, is_void: false };
        self.given.insert(node.clone(), given);
        Turn::Given
    }

    /// The node does not want to be changed. A turn that it was given goes back, but not before the write that was to use
    /// it can have no effect any more; until then, the milliseconds left.
    pub fn give_back(&mut self, node: &NodeName, now: u64) -> Option<u64> {
        self.waiting.remove(node);
        let given = self.given.get(node)?;
        let lands_until = given.asked.saturating_add(WRITES_LAND_WITHIN);
        let left = lands_until.checked_sub(now).filter(|left| *left > 0 && !given.is_void);
        if left.is_none() {
            self.given.remove(node);
        }
        left
    }

    /// The nodes that should ask again now, because turns are free. They do not wait any more.
    pub fn next(&mut self, allowed: usize) -> Vec<NodeName> {
        let free = allowed.saturating_sub(self.taken());
        let next: Vec<_> = self.waiting.iter().take(free).cloned().collect();
        for node in &next {
            self.waiting.remove(node);
        }
        next
    }

    /// Nodes that count against the limit.
    pub fn taken(&self) -> usize {
        let counted: BTreeSet<_> =
            self.unavailable.iter().chain(&self.withdrawn).chain(self.given.keys()).collect();
        counted.len()
    }

    fn is_taken_by(&self, node: &NodeName) -> bool {
        self.unavailable.contains(node) || self.withdrawn.contains(node) || self.given.contains_key(node)
    }

    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        self.unavailable.is_empty()
            && self.withdrawn.is_empty()
            && self.given.is_empty()
            && self.waiting.is_empty()
    }
}

fn put(nodes: &mut BTreeSet<NodeName>, node: &NodeName, is_in: bool) {
    if is_in {
        nodes.insert(node.clone());
    } else {
        nodes.remove(node);
    }
}

#[cfg(test)]
mod tests;
