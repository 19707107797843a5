//! The desired modules of one node, pinned by digest, and the order that says so to its loader: the fifth arrow.
//!
//! What is assigned stays assigned until a changed wish removes it: a taint, a cordon, a lost discovery label or an image
//! that cannot be had any more leave a node as it is. Removal is explicit in the order until the node has confirmed it;
//! a Module that is simply not there (a restored backup, a finalizer cut off by hand) is dropped from the order, which
//! asks nothing of the node: what is loaded stays, and is reported as orphaned.
//!
//! Before a driver is changed or removed, the pods of its plugin leave the node: first the labels go by which they are placed there,
//! and nothing is ordered while one is left ([`crate::workload`]). As long as devices of a DRA driver are in use, nothing of this
//! begins, and no turn is asked for.
//!
//! A change that takes a driver away needs a turn ([`crate::rollout`]): a first decision names the Modules that ask for
//! one, a second is made with the answers.

mod assigned;
mod object;
mod order;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use tenon_api::labels::{LabelKind, STARTUP_TAINT, is_deprecated_ready};
use tenon_api::module_image::ModuleImage;
use tenon_api::node_modules_config::{
    ModulePhase, NodeModule, NodeModuleStatus, NodeModulesConfig, NodeModulesConfigStatus, Replaced,
};
use tenon_api::{Module, reasons};
use tenon_order::{ModuleKey, Order};

use self::assigned::{Assigned, Change};
use self::object::{config, differs, entry};
use self::order::order;
use crate::inspect::{self, Peer};
use crate::node::{self, DISCOVERY_GRACE, NodeFacts, Selection};
use crate::pause::Pause;
use crate::provision;
use crate::resolve::{ResolveError, Resolved};
use crate::retry::{self, Retry};
use crate::rollout::{self, Standing, Turn};
use crate::startup;
use crate::workload::PluginPod;
use crate::workload::claim::Users;
use crate::workload::labels as plugin_labels;

/// Everything that counts for one node.
#[derive(Debug)]
pub struct Observed<'a> {
    /// The node.
    pub node: &'a NodeFacts,
    /// Its object as last seen.
    pub config: Option<&'a NodeModulesConfig>,
    /// The order in that object, when it bears our signature.
    pub order: Option<Order>,
    /// That order, when it does not: the key was replaced before the node was ordered anew. On its word nothing is done,
    /// but what it names may be on the node.
    pub unproven: Option<&'a Order>,
    /// Every Module that selects the node or is named in its object, or in an order that is not proven ours.
    pub modules: Vec<Candidate<'a>>,
    /// Now, in milliseconds since 1970.
    pub now: u64,
}

/// One Module, as it bears on a node.
#[derive(Debug)]
pub struct Candidate<'a> {
    /// Its namespace and name.
    pub key: ModuleKey,
    /// The Module, when it exists.
    pub module: Option<&'a Module>,
    /// What the node's kernel gets.
    pub resolved: Option<Result<Resolved, ResolveError>>,
    /// The image for that kernel.
    pub image: Option<&'a ModuleImage>,
    /// For how long the node has lacked a discovered label that the selector asks for, in milliseconds, by a clock that
    /// nobody sets.
    pub undiscovered_for: Option<u64>,
    /// The other nodes that it bears on, where [`inspect::asks_for_peers`] says so.
    pub peers: Vec<Peer<'a>>,
    /// Whether the node may be changed now.
    pub turn: Turn,
    /// The pods of its plugin on the node that have not ended.
    pub pods: &'a [PluginPod],
    /// Who uses devices of its DRA driver there.
    pub users: &'a Users,
}

impl Candidate<'_> {
    /// What the driver's end has to wait for. Where a Module gives up its driver and keeps its plugin, that runs without, and there
    /// is nothing to wait for.
    fn first_to_leave(&self) -> Option<&PluginPod> {
        let module = self.module?;
        let goes_with_driver =
            module.spec.module_loader.is_some() || module.metadata.deletion_timestamp.is_some();
        self.pods.first().filter(|_| goes_with_driver)
    }

    /// Whom the driver's end has to wait for before anything else. Where the driver is not as wished its plugin is away already, and
    /// whoever waits for devices would only wait for ever.
    fn waits_for_users(&self, assigned: &Assigned<'_>) -> Option<Waiting> {
        let present = assigned.entry(&self.key)?;
        let message = self.users.sentence()?;
        is_loaded(present, assigned.status, assigned.node)
            .then(|| Waiting::new(reasons::WAITING_FOR_CLAIMS, message))
    }
}

/// What is to be written for one node.
#[derive(Debug, Default, PartialEq)]
pub struct Assignment {
    /// The node's object, where it differs: metadata and spec without the order.
    pub config: Option<NodeModulesConfig>,
    /// The order to sign and put into it.
    pub order: OrderChange,
    /// The node's labels that are to change; `None` takes a label away. Written before `config`. Either all are taken away,
    /// whatever has become of the node meanwhile, or all are set, on the node as it was seen.
    pub labels: BTreeMap<String, Option<String>>,
    /// Modules of which the node has something to lose, and whose turn nobody has asked for yet.
    pub asks: BTreeSet<ModuleKey>,
    /// The node's start-up taints that are to go, by their places among its taints, the last first: its drivers are ready, and
    /// its labels say so.
    pub untaint: Vec<usize>,
    /// Why Modules are not on the node, for the roll-up and the log.
    pub waiting: BTreeMap<ModuleKey, Waiting>,
    /// When to look again, in milliseconds from now.
    pub again_after: Option<u64>,
}

/// What becomes of a node's order.
#[derive(Debug, Default, PartialEq)]
pub enum OrderChange {
    /// It stays as it is.
    #[default]
    Keep,
    /// It is replaced.
    Replace(Order),
    /// Nothing is asked of the node any more.
    Withdraw,
}

/// Why a Module is not on a node as wished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// In a word; one of [`reasons`].
    pub reason: Cow<'static, str>,
    /// In a sentence.
    pub message: String,
}

impl Waiting {
    fn new(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into() }
    }

    fn for_plugin(pod: &PluginPod) -> Self {
        let message =
            format!("pod {} of the {} leaves the node before the driver does", pod.name, pod.role.called());
        Self::new(reasons::WAITING_FOR_PLUGIN, message)
    }

    fn for_turn(turn: Turn, node: &NodeFacts) -> Self {
        let message = match turn {
            Turn::Refused { unavailable, allowed } => {
                format!(
                    "{unavailable} of {allowed} nodes that may change at a time are changing or have failed to"
                )
            }
            _ if rollout::is_silent(node) => {
                format!("node {} is unreachable; it is changed when it is back", node.name)
            }
            _ => "the node's turn has not come".to_owned(),
        };
        Self::new(reasons::WAITING_FOR_ROLLOUT, message)
    }
}

/// What a node is to do about one Module.
#[derive(Debug)]
enum Wanted {
    /// Load this.
    Load(Box<NodeModule>),
    /// Go on with what was assigned, if anything was.
    Keep(Option<Waiting>),
    /// Leave everything as it is, whatever is wished.
    StandStill(Pause),
    /// Unload it.
    Remove,
    /// Neither wished nor removed.
    Forget,
}

/// Decides what one node should have.
pub fn assign(observed: &Observed<'_>) -> Assignment {
    let mut out = Assignment::default();
    let assigned = Assigned::of(observed);
    let mut wishes = Wishes { removals: assigned.unconfirmed(observed), ..Wishes::default() };
    for candidate in &observed.modules {
        let present = assigned.entry(&candidate.key);
        let is_reported = assigned.reported(&candidate.key).is_some();
        let wanted = wanted(candidate, observed, present, is_reported, &mut out.again_after);
        match wanted {
            Wanted::Load(entry) => wishes.load(candidate, *entry, &assigned, &mut out),
            Wanted::Keep(waiting) => {
                match present {
                    Some(entry) => wishes.load(candidate, entry.clone(), &assigned, &mut out),
                    None => wishes.may_keep |= assigned.reported(&candidate.key).is_some(),
                }
                out.waiting.extend(waiting.map(|waiting| (candidate.key.clone(), waiting)));
            }
            Wanted::StandStill(pause) => {
                wishes.still.insert(candidate.key.clone());
                match present {
                    Some(entry) => drop(wishes.entries.insert(candidate.key.clone(), entry.clone())),
                    None => wishes.may_keep |= assigned.reported(&candidate.key).is_some(),
                }
                out.waiting.insert(candidate.key.clone(), Waiting::new(pause.reason(), pause.message()));
            }
            Wanted::Remove if wishes.is_held_up(candidate, &assigned, &mut out) => {}
            Wanted::Remove
                if present.is_some()
                    || assigned.reported(&candidate.key).is_some()
                    || assigned.may_follow(observed.unproven, &candidate.key) =>
            {
                wishes.removals.insert(candidate.key.clone());
            }
            Wanted::Remove => {}
            Wanted::Forget => {
                wishes.removals.remove(&candidate.key);
                let phase = assigned.reported(&candidate.key).map(|reported| reported.phase);
                wishes.forgets |= phase.is_some_and(|phase| phase != Some(ModulePhase::Orphaned));
            }
        }
    }
    out.labels = labels(observed, &wishes, &assigned);
    if out.labels.is_empty()
        && !node::is_starting(observed.node)
        && observed.modules.iter().all(|candidate| has_settled(candidate, observed))
    {
        out.untaint = startup_taints(observed.node);
    }
    let Some(store) = assigned.store() else {
        // Without a registered store no order can be signed, and a spec without its order would be a promise to nobody.
        for key in wishes.entries.keys() {
            out.waiting.entry(key.clone()).or_insert_with(|| {
                let message = format!("the agent of node {} has not registered yet", observed.node.name);
                Waiting::new(reasons::WAITING_FOR_NODE, message)
            });
        }
        if observed.config.is_none() {
            out.config = Some(config(observed, Vec::new(), &assigned));
        }
        return out;
    };
    match assigned.generation() {
        Ok(generation) => {
            out.order = order(&assigned, store, generation, &wishes);
            let entries: Vec<_> = wishes.entries.into_values().collect();
            let desired = config(observed, entries, &assigned);
            let changed = match observed.config {
                Some(known) => differs(&desired, known),
                None => true,
            };
            if changed || out.order != OrderChange::Keep {
                out.config = Some(desired);
            }
        }
        Err(waiting) => {
            for candidate in &observed.modules {
                out.waiting.insert(candidate.key.clone(), waiting.clone());
            }
        }
    }
    out
}

/// What the node's object and order are to say.
#[derive(Debug, Default)]
struct Wishes {
    entries: BTreeMap<ModuleKey, NodeModule>,
    removals: BTreeSet<ModuleKey>,
    /// Of these the order goes on saying what it says: it is not their turn, or something has to leave first.
    held: BTreeSet<ModuleKey>,
    /// Of these it does so because the plugin has to leave first; with the version that comes next.
    leaving: BTreeMap<ModuleKey, Option<String>>,
    /// Of these everything stays as it is, whatever is wished.
    still: BTreeSet<ModuleKey>,
    /// The node goes by an order that names a Module that is not there any more.
    forgets: bool,
    /// The node has something that it keeps, and of which nothing can be said yet.
    may_keep: bool,
}

impl Wishes {
    /// Takes `entry` in, or what stands in its place until it is the node's turn.
    fn load(
        &mut self,
        candidate: &Candidate<'_>,
        mut entry: NodeModule,
        assigned: &Assigned<'_>,
        out: &mut Assignment,
    ) {
        let key = &candidate.key;
        self.removals.remove(key);
        let present = assigned.entry(key);
        let reported = assigned.reported(key);
        let retry = candidate.module.and_then(Retry::of).and_then(Result::ok);
        entry.retry = retry::number(retry.as_ref(), &assigned.node.name, present, reported);
        let change = assigned.change(&entry, key);
        if let Change::Disruptive(_) = change
            && let Some(waiting) = candidate.waits_for_users(assigned)
        {
            out.waiting.insert(key.clone(), waiting);
            self.hold(key, present);
            return;
        }
        let first_to_leave = match change {
            Change::Counted(_) => candidate.first_to_leave(),
            Change::Disruptive(_) if candidate.turn == Turn::Given => candidate.first_to_leave(),
            _ => None,
        };
        if let Some(pod) = first_to_leave {
            out.waiting.insert(key.clone(), Waiting::for_plugin(pod));
            self.leave(key, entry.version, present);
            return;
        }
        match change {
            Change::None => entry.replaces = kept_replacement(&entry, present, assigned),
            Change::Free => entry.replaces = None,
            Change::Counted(replaced) => entry.replaces = Some(replaced),
            Change::Disruptive(replaced) if candidate.turn == Turn::Given => entry.replaces = Some(replaced),
            Change::Disruptive(_) => {
                if candidate.turn == Turn::Unasked && !rollout::is_silent(assigned.node) {
                    out.asks.insert(key.clone());
                }
                out.waiting.insert(key.clone(), Waiting::for_turn(candidate.turn, assigned.node));
                self.held.insert(key.clone());
                match present {
                    Some(present) => entry = present.clone(),
                    None => return,
                }
            }
        }
        // A change of the Module that does not reach the node costs it nothing.
        let is_other_by_number_alone = |present: &&NodeModule| {
            NodeModule { generation: present.generation, ..entry.clone() } == **present
        };
        let entry = present.filter(is_other_by_number_alone).cloned().unwrap_or(entry);
        self.entries.insert(key.clone(), entry);
    }

    /// Whether a driver that is to be removed has to stay for now, because its devices are in use or its plugin is still there.
    fn is_held_up(
        &mut self,
        candidate: &Candidate<'_>,
        assigned: &Assigned<'_>,
        out: &mut Assignment,
    ) -> bool {
        let key = &candidate.key;
        // On a node that has fallen silent nobody ends a pod, and the driver must not come back with the node. What is ordered already
        // is not taken back.
        if rollout::is_silent(assigned.node) || self.removals.contains(key) {
            return false;
        }
        let present = assigned.entry(key);
        if present.is_none() && assigned.reported(key).is_none() {
            return false;
        }
        if let Some(waiting) = candidate.waits_for_users(assigned) {
            out.waiting.insert(key.clone(), waiting);
            self.hold(key, present);
            return true;
        }
        let Some(pod) = candidate.first_to_leave() else { return false };
        out.waiting.insert(key.clone(), Waiting::for_plugin(pod));
        self.leave(key, None, present);
        true
    }

    /// What was assigned stays, but for the labels by which the plugin is placed.
    fn leave(&mut self, key: &ModuleKey, version: Option<String>, present: Option<&NodeModule>) {
        self.leaving.insert(key.clone(), version);
        self.hold(key, present);
    }

    /// What was assigned stays.
    fn hold(&mut self, key: &ModuleKey, present: Option<&NodeModule>) {
        self.held.insert(key.clone());
        self.may_keep = true;
        if let Some(present) = present {
            self.entries.insert(key.clone(), present.clone());
        }
    }
}

/// What an entry whose content was ordered already replaced: as before. When the entry is written anew for another reason
/// and the content has come up, there is nothing to count any more.
fn kept_replacement(
    entry: &NodeModule,
    present: Option<&NodeModule>,
    assigned: &Assigned<'_>,
) -> Option<Replaced> {
    let present = present?;
    let same = NodeModule { replaces: present.replaces.clone(), ..entry.clone() };
    let is_settled = rollout::standing(present, assigned.status, assigned.node) != Standing::Unavailable;
    if same != *present && is_settled { None } else { same.replaces }
}

fn wanted(
    candidate: &Candidate<'_>,
    observed: &Observed<'_>,
    entry_present: Option<&NodeModule>,
    is_reported: bool,
    again_after: &mut Option<u64>,
) -> Wanted {
    let present = entry_present.is_some();
    // Where the node's object was lost, its report alone says what it has.
    let has_it = present || is_reported;
    let has_unversioned = entry_present.is_some_and(|entry| entry.version.is_none());
    let Some(module) = candidate.module else { return Wanted::Forget };
    if let Some(pause) = Pause::of(module, observed.node) {
        return Wanted::StandStill(pause);
    }
    if module.metadata.deletion_timestamp.is_some() || module.spec.module_loader.is_none() {
        return Wanted::Remove;
    }
    match node::select(module, observed.node) {
        // What came without a version stays, when the Module gets one, until the node is labelled.
        Selection::NoVersion if has_unversioned => {
            let message = "the Module has a version now, and the node has no version label".to_owned();
            return Wanted::Keep(Some(Waiting::new(reasons::WAITING_FOR_VERSION_LABEL, message)));
        }
        Selection::Unselected | Selection::NoVersion => return Wanted::Remove,
        Selection::Undiscovered => {
            let left = DISCOVERY_GRACE.saturating_sub(candidate.undiscovered_for.unwrap_or_default());
            if !has_it || left == 0 {
                return Wanted::Remove;
            }
            *again_after = Some(again_after.map_or(left, |other| other.min(left)));
            return Wanted::Keep(None);
        }
        Selection::Tainted(_) if !has_it => return Wanted::Remove,
        Selection::Tainted(_) if !present => return Wanted::Keep(None),
        Selection::OtherVersion(other) => {
            let message = format!("the node's version label asks for {other}");
            return Wanted::Keep(Some(Waiting::new(reasons::WAITING_FOR_VERSION_LABEL, message)));
        }
        // A taint that came later keeps new drivers away, but takes none from the node.
        Selection::Tainted(_) | Selection::Selected => {}
    }
    let resolved = match &candidate.resolved {
        Some(Ok(resolved)) => resolved,
        Some(Err(ResolveError::NoMapping(_))) => return Wanted::Remove,
        Some(Err(error)) => return Wanted::Keep(Some(Waiting::new(error.reason(), error.to_string()))),
        None => return Wanted::Keep(None),
    };
    // The image object may still be about the Module's former spec.
    let image = candidate.image.filter(|image| provision::is_asked_for(image, module, resolved));
    match image.and_then(|image| provision::bundle(image).zip(Some(image))) {
        Some(((bundle, digest), image)) => {
            let me = Peer { node: observed.node, config: observed.config };
            let peers = candidate.peers.iter().copied();
            if let Some((reason, message)) = inspect::hold(module, resolved, image, me, peers) {
                return Wanted::Keep(Some(Waiting::new(reason, message)));
            }
            Wanted::Load(Box::new(entry(module, resolved, observed.node, &bundle.digest, digest)))
        }
        None => Wanted::Keep(Some(waiting_for(image, resolved))),
    }
}

fn waiting_for(image: Option<&ModuleImage>, resolved: &Resolved) -> Waiting {
    let told = image.and_then(|image| {
        let status = image.status.as_ref().filter(|s| s.resolved_from == image.metadata.generation)?;
        let reason = status.reason.clone()?;
        Some(Waiting::new(reason, status.message.clone().unwrap_or_default()))
    });
    told.unwrap_or_else(|| {
        Waiting::new(reasons::RESOLVING, format!("{} is being looked for", resolved.image))
    })
}

/// Whether the node has what an entry of its spec wishes: the same bundle and settings, loaded in the present boot, and
/// reported since the node was told to; what must be there after the load has been as well. What KMM has loaded, and labelled,
/// counts until our loader has looked at it.
pub fn is_loaded(entry: &NodeModule, status: Option<&NodeModulesConfigStatus>, node: &NodeFacts) -> bool {
    as_wished(entry, status, node).is_some_and(|reported| reported.has_validated(entry.validation.as_ref()))
}

/// What the node reports of what it has in its kernel as the entry wishes it.
fn as_wished<'s>(
    entry: &NodeModule,
    status: Option<&'s NodeModulesConfigStatus>,
    node: &NodeFacts,
) -> Option<&'s NodeModuleStatus> {
    let reported = rollout::report(status, &entry.namespace, &entry.name);
    reported.filter(|_| rollout::answers(entry, status)).filter(|reported| {
        if reported.is_kmms() {
            let ready = LabelKind::Ready.key(&entry.namespace, &entry.name);
            return node.labels.contains_key(&ready) && rollout::is_inherited(reported, entry, node);
        }
        reported.phase == Some(ModulePhase::Loaded)
            && reported.bundle == entry.bundle
            && reported.config.as_ref() == Some(&entry.config)
            && reported.boot_id.as_deref() == Some(node.boot_id.as_str())
    })
}

/// Whether the node is ready with the entry's Module. Where it was so by its label, only its own word ends that: when a path to
/// be validated is added to a driver that serves, the node has not looked for it yet.
fn is_ready(entry: &NodeModule, assigned: &Assigned<'_>, node: &NodeFacts) -> bool {
    let label = LabelKind::Ready.key(&entry.namespace, &entry.name);
    let was_ready = node.labels.contains_key(&label);
    is_loaded(entry, assigned.status, node) || was_ready && as_wished(entry, assigned.status, node).is_some()
}

/// The labels that the node should have of ours, against those it has: first those that go, afterwards those that come.
fn labels(
    observed: &Observed<'_>,
    wishes: &Wishes,
    assigned: &Assigned<'_>,
) -> BTreeMap<String, Option<String>> {
    let mut desired = BTreeMap::new();
    for candidate in &observed.modules {
        let key = &candidate.key;
        let entry = wishes.entries.get(key);
        let leaving = wishes.leaving.get(key);
        let is_ready = leaving.is_none()
            && entry.is_some_and(|entry| is_ready(entry, assigned, observed.node) && assigned.stays(key));
        let version = entry.and_then(|entry| entry.version.as_ref());
        if is_ready {
            desired.insert(LabelKind::Ready.key(key.namespace(), key.name()), String::new());
            if let Some(version) = version {
                let label = LabelKind::VersionReady.key(key.namespace(), key.name());
                desired.insert(label, tenon_api::labels::value(version));
            }
        }
        if let Some(module) = candidate.module {
            let standing = plugin_labels::Standing {
                is_ready,
                stays: entry.is_some() && leaving.is_none(),
                is_still: wishes.still.contains(key),
                wished: leaving.map_or(version, Option::as_ref).map(String::as_str),
                pods: candidate.pods,
            };
            desired.extend(plugin_labels::desired(module, observed.node, &standing));
        }
    }
    let is_ours = |key: &str| says_ready(key) || plugin_labels::is_ours(key);
    let obsolete = observed.node.labels.keys().filter(|key| is_ours(key) && !desired.contains_key(*key));
    let withdrawn: BTreeMap<_, _> = obsolete.map(|key| (key.clone(), None)).collect();
    if !withdrawn.is_empty() {
        return withdrawn;
    }
    let changed = desired.iter().filter(|(key, value)| observed.node.labels.get(*key) != Some(*value));
    changed.map(|(key, value)| (key.clone(), Some(value.clone()))).collect()
}

/// Whether nothing of a Module is still to come to the node: it is ready there, or not for this node.
fn has_settled(candidate: &Candidate<'_>, observed: &Observed<'_>) -> bool {
    candidate.module.is_none_or(|module| !startup::is_awaited(module, observed.node))
}

fn startup_taints(node: &NodeFacts) -> Vec<usize> {
    let all = node.taints.iter().enumerate().rev();
    all.filter(|(_, taint)| taint.key == STARTUP_TAINT).map(|(place, _)| place).collect()
}

/// Whether a label of a node says that a module is ready there. A Module's name may end as such labels do, so the end is not enough: the
/// label by which its user asks for a version would be taken for one.
fn says_ready(key: &str) -> bool {
    is_deprecated_ready(key)
        || matches!(LabelKind::of_key(key), Some(LabelKind::Ready | LabelKind::VersionReady))
}

#[cfg(test)]
mod inherited_tests;
#[cfg(test)]
mod plugin_tests;
#[cfg(test)]
mod tests;
