//! What became of a Module over all its nodes, in numbers, conditions and two short tables: the last arrow.
//!
//! The status answers, in this order: does it work, where, and why not. It is bounded however many nodes there are.

mod held;
mod offer;
mod plugin;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use tenon_api::module::{
    KernelPhase, KernelStatus, MAX_FAILURES, MAX_KERNELS, ModuleStatus, NodeFailure, Predicted,
    RolloutNumbers, RolloutStatus,
};
use tenon_api::module_image::{ImagePhase, Making, ModuleImage};
use tenon_api::node_modules_config::{
    ModulePhase, NodeModule, NodeModuleStatus, NodeModulesConfig, NodeModulesConfigStatus,
};
use tenon_api::{Module, ShortMessage, reasons};
use tenon_kmod::release::KernelRelease;
use tenon_order::NodeName;

use crate::assign::{Waiting, is_loaded};
use crate::condition;
use crate::inspect;
use crate::node::{self, NodeFacts, Selection};
use crate::pause::{Pause, is_on_hold, is_paused};
use crate::provision;
use crate::retry::{self, Retry};
use crate::rivals::{self, Rival};
use crate::rollout::{self, Standing};
use crate::workload::{Problem, Role};

use held::Held;
pub use offer::asks_for;
use offer::{Offer, Offers};

/// A Module, and all that bears on it.
#[derive(Debug)]
pub struct Observed<'a> {
    /// The Module.
    pub module: &'a Module,
    /// The nodes that its selector matches, and those that have it.
    pub nodes: Vec<NodeView<'a>>,
    /// Its images.
    pub images: Vec<&'a ModuleImage>,
    /// Why its plugin is not there as wished.
    pub plugin_problem: Option<&'a Problem>,
    /// Nodes whose driver is to be changed or removed, and what has to leave them first; by name.
    pub leaving: Vec<(&'a NodeName, &'a Waiting)>,
    /// Other Modules that may be in its way.
    pub rivals: Vec<Rival<'a>>,
    /// Now.
    pub now: Time,
}

/// One node, as it bears on a Module.
#[derive(Debug)]
pub struct NodeView<'a> {
    /// The node.
    pub facts: &'a NodeFacts,
    /// Its object.
    pub config: Option<&'a NodeModulesConfig>,
}

impl<'a> NodeView<'a> {
    pub(crate) fn entry(&self, module: &Module) -> Option<&'a NodeModule> {
        let is_it = |entry: &&NodeModule| names(module) == (Some(&entry.namespace), Some(&entry.name));
        self.config?.spec.modules.iter().find(is_it)
    }

    pub(crate) fn reported(&self, module: &Module) -> Option<&'a NodeModuleStatus> {
        let is_it = |entry: &&NodeModuleStatus| names(module) == (Some(&entry.namespace), Some(&entry.name));
        self.config?.status.as_ref()?.modules.iter().find(is_it)
    }

    pub(crate) fn status(&self) -> Option<&'a NodeModulesConfigStatus> {
        self.config?.status.as_ref()
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.status().is_some_and(|status| status.store_id.is_some())
    }
}

fn names(module: &Module) -> (Option<&String>, Option<&String>) {
    (module.metadata.namespace.as_ref(), module.metadata.name.as_ref())
}

/// What was counted.
#[derive(Debug, Default)]
struct Tally<'o> {
    /// What the Module has for the nodes' kernels.
    offers: Offers<'o>,
    /// Nodes that the selector and the tolerations take in, whatever their version labels say.
    matching: usize,
    /// Of these, those that are to have the Module's present version.
    wanted: usize,
    desired: usize,
    available: usize,
    /// Of the wanted ones, those that have what the Module asks for now.
    ready: usize,
    /// Nodes that have something of it, or are told to.
    holding: BTreeSet<NodeName>,
    unregistered: BTreeSet<NodeName>,
    /// Nodes that wait for this version's label.
    unlabelled: BTreeSet<NodeName>,
    /// Nodes that are to be changed and are left as they are.
    on_hold: BTreeSet<NodeName>,
    /// Nodes that are to be changed and have something to lose.
    waiting: usize,
    /// Nodes that are without it because of a change.
    unavailable: usize,
    /// Of these, by name, those on which the change has failed.
    unchanged: BTreeSet<NodeName>,
    failures: Vec<NodeFailure>,
    held: Held,
    kernels: BTreeMap<(KernelRelease, String), KernelTally>,
}

#[derive(Debug, Default)]
struct KernelTally {
    nodes: usize,
    loaded: usize,
}

/// The Module's status as it should be.
pub fn status(observed: &Observed<'_>) -> ModuleStatus {
    let module = observed.module;
    let tally = count(observed);
    let kernels = kernels(observed, &tally);
    let known = module.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let conditions = conditions(observed, &tally, &kernels);
    let rollout = rollout_status(observed, &tally);
    let mut failures = tally.failures;
    failures.sort_by(|one, other| one.node.cmp(&other.node));
    failures.truncate(MAX_FAILURES);
    ModuleStatus {
        observed_generation: module.metadata.generation,
        conditions: condition::merge(known, conditions),
        module_loader: module.spec.module_loader.as_ref().map(|_| RolloutNumbers {
            nodes_matching_selector_number: number(tally.matching),
            desired_number: number(tally.desired),
            available_number: number(tally.available),
        }),
        rollout,
        device_plugin: plugin::numbers(observed, Role::DevicePlugin),
        dra: plugin::numbers(observed, Role::Dra),
        image_rebuild_trigger_generation: module.spec.image_rebuild_trigger_generation,
        kernels: kernels.into_iter().take(MAX_KERNELS).collect(),
        failures,
    }
}

fn count<'o>(observed: &Observed<'o>) -> Tally<'o> {
    let mut tally =
        Tally { offers: Offers::new(observed.module, &observed.nodes, &observed.images), ..Tally::default() };
    for view in &observed.nodes {
        let selection = node::select(observed.module, view.facts);
        let (entry, reported) = (view.entry(observed.module), view.reported(observed.module));
        let wanted = selection == Selection::Selected;
        tally.matching += usize::from(node::is_targeted(observed.module, view.facts));
        if !wanted
            && entry.is_none()
            && reported.is_none()
            && !matches!(selection, Selection::OtherVersion(_))
        {
            continue;
        }
        let loaded = entry.is_some_and(|entry| is_loaded(entry, view.status(), view.facts));
        tally.wanted += usize::from(wanted);
        tally.desired += usize::from(entry.is_some());
        tally.available += usize::from(loaded);
        let offer = tally.offers.to(view.facts.kernel.as_str(), &view.facts.architecture);
        let current = entry.zip(offer).is_some_and(|(entry, offer)| offer.is_in(entry));
        let ready =
            wanted && loaded && current && entry.is_some_and(|entry| validates(entry, observed.module));
        tally.ready += usize::from(ready);
        if entry.is_some() || reported.is_some() {
            tally.holding.insert(view.facts.name.clone());
        }
        if wanted && !view.is_registered() {
            tally.unregistered.insert(view.facts.name.clone());
        }
        // What came without a version waits for its label as well, when the Module gets one.
        let is_unversioned = entry.is_some_and(|entry| entry.version.is_none());
        let waits_for_label = matches!(selection, Selection::OtherVersion(_))
            || selection == Selection::NoVersion && is_unversioned;
        if waits_for_label {
            tally.unlabelled.insert(view.facts.name.clone());
        }
        if wanted && !ready && !is_deleted(observed.module) {
            tally.held.count(observed.module, view, offer);
        }
        let is_to_change = wanted != entry.is_some() || wanted && !current || is_deleted(observed.module);
        if is_to_change && is_on_hold(view.facts) {
            tally.on_hold.insert(view.facts.name.clone());
        }
        let outdated = wanted && !current && offer.is_some_and(|offer| offer.bundle().is_some());
        if let Some(entry) = entry {
            tally.count_turn(observed.module, view, entry, outdated);
        }
        tally.failures.extend(reported.and_then(|reported| failure(view.facts, reported)));
        if wanted || entry.is_some() {
            let kernel = (view.facts.kernel.clone(), view.facts.architecture.clone());
            let kernel = tally.kernels.entry(kernel).or_default();
            kernel.nodes += 1;
            kernel.loaded += usize::from(loaded);
        }
    }
    tally
}

impl Tally<'_> {
    /// How the node stands in the rollout; whether it should get something else than it was told to have.
    fn count_turn(&mut self, module: &Module, view: &NodeView<'_>, entry: &NodeModule, outdated: bool) {
        match rollout::standing(entry, view.status(), view.facts) {
            Standing::Unavailable => {
                self.unavailable += 1;
                let failed = view.reported(module).is_some_and(has_not_come_up);
                if failed && rollout::answers(entry, view.status()) {
                    self.unchanged.insert(view.facts.name.clone());
                }
            }
            Standing::Serving => self.waiting += usize::from(outdated),
            Standing::Free => {}
        }
    }
}

/// Whether the node was told what must be there after the load as the Module has it now.
fn validates(entry: &NodeModule, module: &Module) -> bool {
    let wished = module.spec.module_loader.as_ref().and_then(|loader| loader.validation.as_ref());
    entry.validation.as_ref() == wished
}

/// How far the change is; nothing of a Module that loads nothing or is to go.
fn rollout_status(observed: &Observed<'_>, tally: &Tally<'_>) -> Option<RolloutStatus> {
    let module = observed.module;
    (module.spec.module_loader.is_some() && !is_deleted(module)).then(|| RolloutStatus {
        updated_number: number(tally.ready),
        unavailable_number: number(tally.unavailable),
        waiting_number: number(tally.waiting),
        allowed_number: number(rollout::allowed(module, tally.desired)),
    })
}

/// Why nothing is changed any more: as many nodes as may be unavailable have failed to change.
fn stuck(observed: &Observed<'_>, tally: &Tally<'_>) -> Option<Why> {
    let allowed = rollout::allowed(observed.module, tally.desired);
    let failed = tally.unchanged.len();
    if is_deleted(observed.module) || tally.waiting == 0 || failed < allowed {
        return None;
    }
    let message = format!(
        "the change failed on {} ({}), and {allowed} may be unavailable at a time; {} keep what they have. Change \
         the Module, or try again with kubectl tenon retry",
        nodes(failed),
        some(&tally.unchanged),
        nodes(tally.waiting)
    );
    Some((reasons::ROLLOUT_PAUSED.to_owned(), message))
}

/// Whether what was ordered last has ended in trouble.
fn has_not_come_up(reported: &NodeModuleStatus) -> bool {
    retry::has_failed(reported) || reported.reason.as_deref() == Some(reasons::VALIDATION_FAILED)
}

/// The node's trouble with the module, if it has any. What an earlier boot reported counts no more.
fn failure(node: &NodeFacts, reported: &NodeModuleStatus) -> Option<NodeFailure> {
    Some(NodeFailure {
        node: node.name.to_string(),
        reason: trouble(reported)?.to_owned(),
        message: reported.message.clone().unwrap_or_default(),
    })
}

/// Why a node is in trouble with a module, in a word, if it is: its own, or that of its phase.
pub fn trouble(reported: &NodeModuleStatus) -> Option<&str> {
    let fallback = match reported.phase? {
        ModulePhase::Failed | ModulePhase::Unknown => reasons::LOAD_FAILED,
        ModulePhase::RolledBack => reasons::ROLLED_BACK,
        ModulePhase::CrashSuspected => reasons::CRASH_SUSPECTED,
        ModulePhase::InUse => reasons::IN_USE,
        ModulePhase::Orphaned => reasons::ORPHANED,
        ModulePhase::Unvalidated if reported.reason.as_deref() == Some(reasons::VALIDATION_FAILED) => {
            reasons::VALIDATION_FAILED
        }
        ModulePhase::Loaded
        | ModulePhase::Unvalidated
        | ModulePhase::Removed
        | ModulePhase::WaitingForBundle => return None,
    };
    Some(reported.reason.as_deref().unwrap_or(fallback))
}

/// The table of kernels: those with trouble first, then those with most nodes.
fn kernels(observed: &Observed<'_>, tally: &Tally<'_>) -> Vec<KernelStatus> {
    let mut kernels: Vec<_> = tally
        .kernels
        .iter()
        .filter(|_| observed.module.spec.module_loader.is_some())
        .filter_map(|((kernel, architecture), counted)| {
            let offer = tally.offers.to(kernel.as_str(), architecture)?;
            let (phase, message) = kernel_phase(offer);
            Some(KernelStatus {
                kernel: kernel.to_string(),
                architecture: architecture.clone(),
                image: offer.resolved.as_ref().ok().map(|resolved| resolved.image.clone()),
                phase,
                message,
                prediction: prediction(offer),
                nodes: number(counted.nodes),
                loaded: number(counted.loaded),
            })
        })
        .collect();
    kernels.sort_by_key(|kernel| {
        (kernel.phase == KernelPhase::Ready, kernel.loaded == kernel.nodes, Reverse(kernel.nodes))
    });
    kernels
}

fn kernel_phase(offer: &Offer<'_>) -> (KernelPhase, Option<ShortMessage>) {
    if let Err(error) = &offer.resolved {
        let no_mapping = error.reason() == reasons::NO_MAPPING;
        let phase = if no_mapping { KernelPhase::NoMapping } else { KernelPhase::Failed };
        return (phase, Some(error.to_string().into()));
    }
    match offer.image_status().and_then(|status| status.phase.zip(Some(status))) {
        None => (KernelPhase::Waiting, Some("the image is being looked for".into())),
        Some((ImagePhase::Ready, status)) => {
            let is_told = renewal(offer).is_some() || offer.image.is_some_and(provision::has_vanished);
            (KernelPhase::Ready, status.message.clone().filter(|_| is_told))
        }
        Some((ImagePhase::Waiting | ImagePhase::Building | ImagePhase::Signing, status)) => {
            (KernelPhase::Waiting, status.message.clone())
        }
        Some((ImagePhase::Failed, status)) => (KernelPhase::Failed, status.message.clone()),
    }
}

/// How a kernel's image is made anew while the one of before is used.
fn renewal<'o>(offer: &Offer<'o>) -> Option<&'o Making> {
    offer.image.and_then(provision::renewal)
}

/// Whether a kernel's image will load, once there is one.
fn prediction(offer: &Offer<'_>) -> Option<Predicted> {
    let image = offer.image.filter(|image| provision::bundle(image).is_some())?;
    Some(inspect::summary(image).0)
}

/// A reason and a sentence.
type Why = (String, String);

fn conditions(observed: &Observed<'_>, tally: &Tally<'_>, kernels: &[KernelStatus]) -> Vec<Condition> {
    let module = observed.module;
    let degraded = degraded(observed, tally, kernels);
    let waiting = waiting(observed, tally, kernels);
    let as_expected = || (reasons::AS_EXPECTED.to_owned(), String::new());
    let condition = |type_: &str, holds: bool, (reason, message): Why| Condition {
        type_: type_.to_owned(),
        status: condition::truth(holds),
        reason,
        message: ShortMessage::new(message).into(),
        observed_generation: module.metadata.generation,
        last_transition_time: observed.now.clone(),
    };
    let (is_ready, why_ready) = ready(observed, tally, degraded.as_ref(), waiting.as_ref());
    // Which hinders nothing: nodes have the image of before.
    let degraded = degraded.or_else(|| not_renewed(observed, tally, kernels));
    let mut conditions = vec![
        condition(reasons::condition::READY, is_ready, why_ready),
        condition(reasons::condition::DEGRADED, degraded.is_some(), degraded.unwrap_or_else(as_expected)),
        condition(reasons::condition::WAITING, waiting.is_some(), waiting.unwrap_or_else(as_expected)),
    ];
    if let Some(why) = tally.held.predicted() {
        conditions.push(condition(reasons::condition::PREDICTED, false, why));
    }
    if let Some((is_running, why)) = plugin::standing(observed) {
        conditions.push(condition(reasons::condition::PLUGIN_READY, is_running, why));
    }
    if is_paused(module) {
        let why = (reasons::PAUSED.to_owned(), Pause::Module.message().to_owned());
        conditions.push(condition(reasons::condition::PAUSED, true, why));
    }
    if let Some(why) = stuck(observed, tally) {
        conditions.push(condition(reasons::condition::ROLLOUT_PAUSED, true, why));
    }
    if let Some(message) = rivals::conflict(module, &observed.rivals) {
        let why = (reasons::KERNEL_MODULE_CONFLICT.to_owned(), message);
        conditions.push(condition(reasons::condition::CONFLICT, true, why));
    }
    let ignored = without_effect(module);
    if !ignored.is_empty() {
        let message = format!("accepted, but without effect in this version: {}", ignored.join(", "));
        let why = (reasons::FIELDS_WITHOUT_EFFECT.to_owned(), message);
        conditions.push(condition(reasons::condition::UNSUPPORTED, true, why));
    }
    conditions
}

fn ready(
    observed: &Observed<'_>,
    tally: &Tally<'_>,
    degraded: Option<&Why>,
    waiting: Option<&Why>,
) -> (bool, Why) {
    let module = observed.module;
    let why = |reason: &str, message: String| (reason.to_owned(), message);
    if is_deleted(module) {
        let why_not = degraded.map(|(_, message)| format!("; {message}")).unwrap_or_default();
        let left = match tally.holding.len() {
            0 => "no node left".to_owned(),
            count => format!("{} left ({})", nodes(count), some(&tally.holding)),
        };
        let still = match (is_paused(module), tally.on_hold.is_empty()) {
            (true, _) => format!("; {}", Pause::Module.message()),
            (false, false) => format!("; {} {}", some(&tally.on_hold), Pause::Node.message()),
            (false, true) => String::new(),
        };
        let first = leaving(observed).map(|(_, message)| format!("; {message}")).unwrap_or_default();
        let message = format!("being unloaded, {left}{still}{first}{why_not}");
        return (false, why(reasons::UNLOADING, message));
    }
    if module.spec.module_loader.is_none() && Role::of(module).is_some() {
        return plugin::standing(observed).unwrap_or_default();
    }
    if module.spec.module_loader.is_none() {
        let message = "spec.moduleLoader is not set: there is nothing to load".to_owned();
        return (true, why(reasons::NO_MODULE_LOADER, message));
    }
    if let Some(why) = degraded.or(waiting) {
        return (false, why.clone());
    }
    let allowed = rollout::allowed(module, tally.desired);
    match tally.wanted {
        0 => (false, nobody(module, tally.matching)),
        all if tally.waiting > 0 && tally.unavailable >= allowed => {
            let message = format!(
                "{} of {} have the present content; {allowed} may be unavailable at a time",
                tally.ready,
                nodes(all),
            );
            (false, why(reasons::WAITING_FOR_ROLLOUT, message))
        }
        all if tally.ready >= all
            && let Some((false, why)) = plugin::standing(observed) =>
        {
            (false, why)
        }
        1 if tally.ready >= 1 => (true, why(reasons::LOADED, "loaded on 1 node".to_owned())),
        all if tally.ready >= all => (true, why(reasons::LOADED, format!("loaded on all {all} nodes"))),
        all => (false, why(reasons::LOADING, format!("loaded on {} of {}", tally.ready, nodes(all)))),
    }
}

/// What does not mend itself: failing nodes, images that will not do, settings that are refused.
fn degraded(observed: &Observed<'_>, tally: &Tally<'_>, kernels: &[KernelStatus]) -> Option<Why> {
    if let Some(first) = tally.failures.iter().min_by(|one, other| one.node.cmp(&other.node)) {
        let others = match tally.failures.len() - 1 {
            0 => String::new(),
            others => format!(" (and {others} more)"),
        };
        return Some((first.reason.clone(), format!("{}{others}: {}", first.node, first.message)));
    }
    if is_deleted(observed.module) {
        return None;
    }
    if let Some(blocked) = tally.held.blocked() {
        return Some(blocked);
    }
    let Some(failed) = kernels.iter().find(|kernel| kernel.phase == KernelPhase::Failed) else {
        return plugin::trouble(observed);
    };
    let reason = reason_of(tally, failed);
    Some((reason, format!("kernel {}: {}", failed.kernel, failed.message.clone().unwrap_or_default())))
}

/// An image that cannot be made anew.
fn not_renewed(observed: &Observed<'_>, tally: &Tally<'_>, kernels: &[KernelStatus]) -> Option<Why> {
    let fails = |kernel: &&KernelStatus| {
        let offer = tally.offers.to(&kernel.kernel, &kernel.architecture);
        offer.and_then(renewal).is_some_and(|making| making.failures > 0)
    };
    let kernel = kernels.iter().filter(|_| !is_deleted(observed.module)).find(fails)?;
    let message = kernel.message.clone().unwrap_or_default();
    let message = format!("kernel {}: the image of before is used: {message}", kernel.kernel);
    Some((reason_of(tally, kernel), message))
}

/// What resumes by itself once something outside is there.
fn waiting(observed: &Observed<'_>, tally: &Tally<'_>, kernels: &[KernelStatus]) -> Option<Why> {
    if is_deleted(observed.module) {
        return leaving(observed).or_else(|| plugin::held(observed));
    }
    // Before all else: nothing that is missing would change anything.
    if is_paused(observed.module) && tally.ready < tally.wanted {
        return Some((reasons::PAUSED.to_owned(), Pause::Module.message().to_owned()));
    }
    let waits = |kernel: &&KernelStatus| match kernel.phase {
        KernelPhase::Waiting | KernelPhase::NoMapping => true,
        KernelPhase::Ready => is_missed(tally, kernel),
        KernelPhase::Failed => false,
    };
    if let Some(kernel) = kernels.iter().find(waits) {
        let message = kernel.message.clone().unwrap_or_default();
        return Some((reason_of(tally, kernel), format!("kernel {}: {message}", kernel.kernel)));
    }
    if !tally.unregistered.is_empty() {
        let message = format!(
            "no agent has registered yet on {}: look at Tenon's pod there (kubectl -n tenon-system get pods -o wide)",
            some(&tally.unregistered)
        );
        return Some((reasons::WAITING_FOR_NODE.to_owned(), message));
    }
    if let Some(held) = tally.held.waiting() {
        return Some(held);
    }
    if !tally.on_hold.is_empty() {
        let message = format!("{} {}", some(&tally.on_hold), Pause::Node.message());
        return Some((reasons::NODE_ON_HOLD.to_owned(), message));
    }
    if let Some(leaving) = leaving(observed).or_else(|| plugin::held(observed)) {
        return Some(leaving);
    }
    if !tally.unlabelled.is_empty() {
        let all = tally.unlabelled.len();
        let message = format!(
            "{} {} the label of another version, or none: {} when its turn has come ({})",
            nodes(all),
            if all == 1 { "has" } else { "have" },
            labelling(observed.module),
            some(&tally.unlabelled)
        );
        return Some((reasons::WAITING_FOR_VERSION_LABEL.to_owned(), message));
    }
    (tally.wanted == 0 && tally.matching > 0).then(|| nobody(observed.module, tally.matching))
}

/// Why no node is to have it, though so many are the Module's but for their version labels.
fn nobody(module: &Module, matching: usize) -> Why {
    if matching == 0 || node::version(module).is_none() {
        return (reasons::NO_NODES.to_owned(), NO_NODES.to_owned());
    }
    let message = format!("none of {} is to have this version: {}", nodes(matching), labelling(module));
    (reasons::WAITING_FOR_VERSION_LABEL.to_owned(), message)
}

/// By which a node gets the Module's version.
fn labelling(module: &Module) -> String {
    let (label, version) = (node::version_label(module), node::version(module).unwrap_or_default());
    format!("kubectl label --overwrite node NODE {label}={version}")
}

/// Whether a kernel's image is not to be had any more, and a node is without it. Those that have it keep it.
fn is_missed(tally: &Tally<'_>, kernel: &KernelStatus) -> bool {
    let offer = tally.offers.to(&kernel.kernel, &kernel.architecture);
    kernel.loaded < kernel.nodes && offer.and_then(|offer| offer.image).is_some_and(provision::has_vanished)
}

/// What has to leave a node before its driver does.
fn leaving(observed: &Observed<'_>) -> Option<Why> {
    let (node, first) = observed.leaving.first()?;
    let others = match observed.leaving.len() - 1 {
        0 => String::new(),
        others => format!(" (and {others} more)"),
    };
    Some((first.reason.to_string(), format!("{node}{others}: {}", first.message)))
}

fn reason_of(tally: &Tally<'_>, kernel: &KernelStatus) -> String {
    let offer = tally.offers.to(&kernel.kernel, &kernel.architecture);
    let reason = offer.and_then(|offer| match &offer.resolved {
        Ok(_) => offer.image_status()?.reason.clone(),
        Err(error) => Some(error.reason().to_owned()),
    });
    reason.unwrap_or_else(|| reasons::RESOLVING.to_owned())
}

/// The pull policy that KMM's definition gives to a container without one.
const IF_NOT_PRESENT: &str = "IfNotPresent";

/// The annotation of a wish to try again, when it cannot be read.
const RETRY_FIELD: &str = "metadata.annotations[tenon.dev/retry] (not a number and names of nodes)";

/// Fields that are accepted because manifests have them, and that nothing acts upon yet.
fn without_effect(module: &Module) -> Vec<&'static str> {
    let spec = &module.spec;
    let mut fields = Vec::new();
    let mut note = |present: bool, field| fields.extend(present.then_some(field));
    note(matches!(Retry::of(module), Some(Err(_))), RETRY_FIELD);
    if let Some(loader) = &spec.module_loader {
        let container = &loader.container;
        let mappings = container.kernel_mappings.iter().map(|mapping| &mapping.build);
        let mut builds = mappings.chain([&container.build]).flatten();
        // Another project's builder.
        note(
            builds.any(|build| build.kaniko_params.is_some()),
            "spec.moduleLoader.container.build.kanikoParams",
        );
        // Nodes run no pod of the Module's and pull no image; what is KMM's default says nothing about a wish.
        let policy = container.image_pull_policy.as_deref().unwrap_or(IF_NOT_PRESENT);
        note(policy != IF_NOT_PRESENT, "spec.moduleLoader.container.imagePullPolicy");
        note(loader.service_account_name.is_some(), "spec.moduleLoader.serviceAccountName");
    }
    fields
}

/// Of a deleted Module nothing counts but what is left of it: its images go first.
fn is_deleted(module: &Module) -> bool {
    module.metadata.deletion_timestamp.is_some()
}

/// A number of nodes, for people.
fn nodes(count: usize) -> String {
    if count == 1 { "1 node".to_owned() } else { format!("{count} nodes") }
}

/// No node is selected.
const NO_NODES: &str = "no node matches spec.selector and is tolerated: compare spec.selector with the nodes' labels, and \
                        spec.tolerations with their taints";

/// The names of some nodes, for people.
fn some(names: &BTreeSet<NodeName>) -> String {
    let shown: Vec<_> = names.iter().take(MAX_FAILURES).map(ToString::to_string).collect();
    let more = match names.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", shown.join(", "))
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
