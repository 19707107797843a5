//! Which node may have a driver, by what was predicted of its kernel: before any node is touched.
//!
//! A verdict is about one build of a kernel. What an administrator, a package or a toolkit says of a build counts for all
//! nodes that run it. What one node says of itself decides for that node; to the others it is a warning, and one of them
//! goes first. A verdict takes nothing from a node: what is loaded stays, and what a kernel has loaded is proven,
//! whatever was predicted.

mod question;
#[cfg(test)]
mod tests;
pub mod verdict;

use tenon_api::kernel_facts::Source;
use tenon_api::module::{Inspection, Module, Predicted};
use tenon_api::module_image::{KernelVerdict, ModuleImage};
use tenon_api::node_modules_config::{ModulePhase, NodeModulesConfig};
use tenon_api::reasons;
use tenon_kmod::release::{Family, KernelRelease};
use tenon_order::NodeName;

pub use question::{Evidence, Question, Surroundings};

use crate::node::{self, NodeFacts, Selection};
use crate::provision;
use crate::resolve::Resolved;

/// What a prediction is good for: as the Module says, else by who built the kernel. Of kernels of unknown builders too
/// little is known to withhold a driver.
pub fn level(module: &Module, kernel: &KernelRelease) -> Inspection {
    module.spec.inspection.unwrap_or(match kernel.family() {
        Family::Other => Inspection::Warn,
        _ => Inspection::Enforce,
    })
}

/// The build of the kernel that a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build<'a> {
    /// Its GNU build-id.
    Known(&'a str),
    /// The kernel does not show one.
    Hidden,
    /// The agent has not yet reported about the kernel that the node runs now.
    Unreported,
}

impl<'a> Build<'a> {
    /// What the node's object says of it. A report about another release is from before a restart.
    pub fn of(node: &NodeFacts, config: Option<&'a NodeModulesConfig>) -> Self {
        let status = config.and_then(|config| config.status.as_ref());
        let current = status.filter(|status| {
            status.kernel_version.as_deref() == Some(node.kernel.as_str())
                && status.boot_id.as_deref() == Some(node.boot_id.as_str())
        });
        match current {
            None => Self::Unreported,
            Some(status) => status.kernel_build_id.as_deref().map_or(Self::Hidden, Self::Known),
        }
    }
}

/// What the verdicts mean for one node.
#[derive(Clone, Debug, PartialEq)]
pub enum Judgement<'a> {
    /// Nothing speaks against it.
    Go,
    /// It will not load, but the Module wants it tried.
    Warned(&'a KernelVerdict),
    /// It will not load: the node is not touched.
    Blocked(&'a KernelVerdict),
    /// One node says of its kernel that it will not load: another goes first.
    AfterFirst(&'a KernelVerdict),
    /// Some build will refuse it, and which one the node runs is still to be reported.
    AwaitReport,
    /// What is loaded has changed since it was predicted.
    AwaitVerdict,
}

/// Judges one node by the verdicts on its image.
pub fn judge<'a>(
    module: &Module,
    resolved: &Resolved,
    image: &'a ModuleImage,
    node: &NodeFacts,
    config: Option<&NodeModulesConfig>,
) -> Judgement<'a> {
    let Some((bundle, _)) = provision::bundle(image) else { return Judgement::Go };
    let verdicts = image.status.as_ref().map(|status| status.verdicts.as_slice()).unwrap_or_default();
    if verdicts.is_empty() || is_proven(module, &bundle.digest, node, config) {
        return Judgement::Go;
    }
    let enforced = level(module, &node.kernel) == Inspection::Enforce;
    let settings = Question::settings_of(&bundle.digest, &resolved.load);
    if verdicts.iter().any(|verdict| !Question::is_about(&verdict.question, &settings)) {
        return if enforced { Judgement::AwaitVerdict } else { Judgement::Go };
    }
    let fails = |verdict: &KernelVerdict| verdict.result == Predicted::Fails;
    let build = Build::of(node, config);
    if build == Build::Unreported {
        let in_doubt = enforced && verdicts.iter().any(fails);
        return if in_doubt { Judgement::AwaitReport } else { Judgement::Go };
    }
    match decisive(verdicts, node, build).filter(|(verdict, _)| fails(verdict)) {
        None => Judgement::Go,
        Some((verdict, _)) if !enforced => Judgement::Warned(verdict),
        Some((verdict, Source::Node(name))) if name != node.name.as_ref() => Judgement::AfterFirst(verdict),
        Some((verdict, _)) => Judgement::Blocked(verdict),
    }
}

/// The verdict that counts most for a node: one that says something, from the best source; a node's own word comes
/// before another node's.
fn decisive<'a>(
    verdicts: &'a [KernelVerdict],
    node: &NodeFacts,
    build: Build<'_>,
) -> Option<(&'a KernelVerdict, Source)> {
    let concerns = |verdict: &KernelVerdict| match (verdict.build_id.as_deref(), build) {
        (None, _) => true,
        (Some(about), Build::Known(running)) => about == running,
        (Some(_), Build::Hidden | Build::Unreported) => false,
    };
    let known = verdicts.iter().filter(|verdict| concerns(verdict) && verdict.result != Predicted::Unknown);
    let sourced = known.filter_map(|verdict| Some((verdict, verdict.source.parse::<Source>().ok()?)));
    sourced.min_by_key(|(verdict, source)| {
        let others = matches!(source, Source::Node(name) if name != node.name.as_ref());
        (others, source.clone(), verdict.build_id.is_none())
    })
}

/// Whether the node's kernel has loaded this very bundle in its present boot: then no prediction counts.
fn is_proven(module: &Module, bundle: &str, node: &NodeFacts, config: Option<&NodeModulesConfig>) -> bool {
    let status = config.and_then(|config| config.status.as_ref());
    status.into_iter().flat_map(|status| &status.modules).any(|reported| {
        Some(&reported.namespace) == module.metadata.namespace.as_ref()
            && Some(&reported.name) == module.metadata.name.as_ref()
            && matches!(reported.phase, Some(ModulePhase::Loaded | ModulePhase::Unvalidated))
            && reported.bundle.as_deref() == Some(bundle)
            && reported.boot_id.as_deref() == Some(node.boot_id.as_str())
    })
}

/// Another node that might go first.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// The node.
    pub node: &'a NodeFacts,
    /// Its object.
    pub config: Option<&'a NodeModulesConfig>,
}

/// Whether a node's turn has come where one goes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is the one, or the first has loaded it.
    Now,
    /// This node goes first.
    After(NodeName),
}

/// Whether `node` may go on although another node says, by `verdict`, that their kernel will refuse the driver.
///
/// Everything is read off the nodes' objects: a node that has loaded it proves it for all; a node that was told to is the
/// first, however it ends; else it is the first by name of those that the Module selects. The node that warns is none of
/// them: its word decides for itself.
pub fn turn<'a>(
    module: &Module,
    bundle: &str,
    verdict: &KernelVerdict,
    me: Peer<'_>,
    peers: impl IntoIterator<Item = Peer<'a>>,
) -> Turn {
    let warns = |peer: &Peer<'_>| matches!(verdict.source.parse(), Ok(Source::Node(name)) if name == peer.node.name.as_ref());
    let build = Build::of(me.node, me.config);
    let mut told = is_told(module, bundle, me.config).then_some(&me.node.name);
    let mut first = &me.node.name;
    for peer in peers {
        let alike = peer.node.kernel == me.node.kernel
            && peer.node.architecture == me.node.architecture
            && Build::of(peer.node, peer.config) == build
            && !warns(&peer);
        if !alike {
            continue;
        }
        if is_proven(module, bundle, peer.node, peer.config) {
            return Turn::Now;
        }
        let name = &peer.node.name;
        if is_told(module, bundle, peer.config) {
            told = Some(told.map_or(name, |other| other.min(name)));
        }
        if node::select(module, peer.node) == Selection::Selected {
            first = first.min(name);
        }
    }
    let first = told.unwrap_or(first);
    if *first == me.node.name { Turn::Now } else { Turn::After(first.clone()) }
}

/// Why a node waits although its image is ready, if it does.
pub fn hold<'a>(
    module: &Module,
    resolved: &Resolved,
    image: &ModuleImage,
    me: Peer<'_>,
    peers: impl IntoIterator<Item = Peer<'a>>,
) -> Option<(&'static str, String)> {
    let bundle = provision::bundle(image).map(|(bundle, _)| bundle.digest.as_str()).unwrap_or_default();
    match judge(module, resolved, image, me.node, me.config) {
        Judgement::Go | Judgement::Warned(_) => None,
        Judgement::Blocked(verdict) => Some((reasons::WILL_NOT_LOAD, sentence(verdict))),
        Judgement::AfterFirst(verdict) => match turn(module, bundle, verdict, me, peers) {
            Turn::Now => None,
            Turn::After(first) => {
                let message = format!(
                    "{} says that {}; node {first} tries it first",
                    verdict.source,
                    sentence(verdict)
                );
                Some((reasons::WAITING_FOR_FIRST_NODE, message))
            }
        },
        Judgement::AwaitReport => {
            let message =
                format!("the agent of node {} has not reported which kernel it runs now", me.node.name);
            Some((reasons::WAITING_FOR_NODE, message))
        }
        Judgement::AwaitVerdict => {
            let message = "whether the kernel will load it is being computed anew".to_owned();
            Some((reasons::INSPECTING, message))
        }
    }
}

/// Whether the node's object asks it for this bundle.
fn is_told(module: &Module, bundle: &str, config: Option<&NodeModulesConfig>) -> bool {
    config.into_iter().flat_map(|config| &config.spec.modules).any(|entry| {
        Some(&entry.namespace) == module.metadata.namespace.as_ref()
            && Some(&entry.name) == module.metadata.name.as_ref()
            && entry.bundle.as_deref() == Some(bundle)
    })
}

/// Whether the turn of a node may have to be asked for: some node has said that its kernel will refuse the driver.
pub fn asks_for_peers(image: &ModuleImage) -> bool {
    let verdicts = image.status.as_ref().map(|status| status.verdicts.as_slice()).unwrap_or_default();
    verdicts.iter().any(|verdict| {
        verdict.result == Predicted::Fails && matches!(verdict.source.parse(), Ok(Source::Node(_)))
    })
}

/// All verdicts on an image in one word, with the one that says why: one that fails counts most, then one that is not
/// known.
pub fn summary(image: &ModuleImage) -> (Predicted, Option<&KernelVerdict>) {
    let verdicts = image.status.as_ref().map(|status| status.verdicts.as_slice()).unwrap_or_default();
    let of = |result| verdicts.iter().find(|verdict| verdict.result == result);
    match (of(Predicted::Fails), of(Predicted::Unknown), verdicts.first()) {
        (Some(verdict), _, _) => (Predicted::Fails, Some(verdict)),
        (None, Some(verdict), _) => (Predicted::Unknown, Some(verdict)),
        (None, None, Some(verdict)) => (Predicted::Loads, Some(verdict)),
        (None, None, None) => (Predicted::Unknown, None),
    }
}

/// A verdict in a sentence.
pub fn sentence(verdict: &KernelVerdict) -> String {
    let why = verdict.reasons.first().map(|reason| reason.message.as_str()).unwrap_or_default();
    match (verdict.result, verdict.errno.as_deref()) {
        (Predicted::Fails, Some(errno)) => format!("the kernel will refuse it with {errno}: {why}"),
        (Predicted::Fails, None) => format!("the kernel will refuse it: {why}"),
        (Predicted::Loads, _) => "the kernel will load it".to_owned(),
        (Predicted::Unknown, _) if why.is_empty() => "not known".to_owned(),
        (Predicted::Unknown, _) => format!("not known: {why}"),
    }
}
