//! The desired modules of one node, pinned by digest, and the order that says so to its loader: the fifth arrow.
//!
//! What is assigned stays assigned until a changed wish removes it: a taint, a cordon, a lost discovery label or an image
//! that cannot be had any more leave a node as it is. Removal is explicit in the order until the node has confirmed it;
//! a Module that is simply not there (a restored backup, a finalizer cut off by hand) is dropped from the order, which
//! asks nothing of the node: what is loaded stays, and is reported as orphaned.
//!
//! A change that takes a driver away needs a turn ([`crate::rollout`]): a first decision names the Modules that ask for
//! one, a second is made with the answers.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::core::ObjectMeta;
use tenon_api::labels::{LabelKind, ModuleLabel};
use tenon_api::module_image::ModuleImage;
use tenon_api::node_modules_config::{
    ModuleConfig, ModulePhase, NodeModule, NodeModuleStatus, NodeModulesConfig, NodeModulesConfigSpec,
    NodeModulesConfigStatus, Replaced,
};
use tenon_api::{Module, reasons};
use tenon_order::{Generation, Load, ModuleKey, Order, OrderedModule, StoreId, Wish};

use crate::inspect::{self, Peer};
use crate::node::{self, DISCOVERY_GRACE, NodeFacts, Selection};
use crate::provision;
use crate::resolve::{ResolveError, Resolved, load_settings};
use crate::retry::{self, Retry};
use crate::rollout::{self, Standing, Turn};

/// How far ahead of our clock, in milliseconds, a node's generation may be before a human must look at it.
const MOST_AHEAD: u64 = 24 * 60 * 60 * 1000;

/// Everything that counts for one node.
#[derive(Debug)]
pub struct Observed<'a> {
    /// The node.
    pub node: &'a NodeFacts,
    /// Its object as last seen.
    pub config: Option<&'a NodeModulesConfig>,
    /// The order in that object, when it bears our signature.
    pub order: Option<Order>,
    /// Every Module that selects the node or is named in its object.
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
    /// Since when the node lacks a discovered label that the selector asks for, in milliseconds since 1970.
    pub undiscovered_since: Option<u64>,
    /// The other nodes that it bears on, where [`inspect::asks_for_peers`] says so.
    pub peers: Vec<Peer<'a>>,
    /// Whether the node may be changed now.
    pub turn: Turn,
}

/// What is to be written for one node.
#[derive(Debug, Default, PartialEq)]
pub struct Assignment {
    /// The node's object, where it differs: metadata and spec without the order.
    pub config: Option<NodeModulesConfig>,
    /// The order to sign and put into it.
    pub order: OrderChange,
    /// The node's labels that are to change; `None` takes a label away. Written before `config`.
    pub labels: BTreeMap<String, Option<String>>,
    /// Modules of which the node has something to lose, and whose turn nobody has asked for yet.
    pub asks: BTreeSet<ModuleKey>,
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
        let wanted = wanted(candidate, observed, present.is_some(), &mut out.again_after);
        match wanted {
            Wanted::Load(entry) => wishes.load(candidate, *entry, &assigned, &mut out),
            Wanted::Keep(waiting) => {
                if let Some(entry) = present {
                    wishes.load(candidate, entry.clone(), &assigned, &mut out);
                }
                out.waiting.extend(waiting.map(|waiting| (candidate.key.clone(), waiting)));
            }
            Wanted::Remove if present.is_some() || assigned.reported(&candidate.key).is_some() => {
                wishes.removals.insert(candidate.key.clone());
            }
            Wanted::Remove => {}
            Wanted::Forget => {
                wishes.removals.remove(&candidate.key);
            }
        }
    }
    out.labels = labels(observed, &wishes.entries, &assigned);
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
    /// Of these the order goes on saying what it says: it is not their turn.
    held: BTreeSet<ModuleKey>,
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
        match assigned.change(&entry, key) {
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
        self.entries.insert(key.clone(), entry);
    }
}

/// What it means for the node to be ordered something.
#[derive(Debug)]
enum Change {
    /// Nothing: it is told so already.
    None,
    /// Nothing is taken from it.
    Free,
    /// It is without its driver already because of us, and stays counted.
    Counted(Replaced),
    /// Its driver is taken away.
    Disruptive(Replaced),
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
    present: bool,
    again_after: &mut Option<u64>,
) -> Wanted {
    let Some(module) = candidate.module else { return Wanted::Forget };
    if module.metadata.deletion_timestamp.is_some() || module.spec.module_loader.is_none() {
        return Wanted::Remove;
    }
    match node::select(module, observed.node) {
        Selection::Unselected | Selection::NoVersion => return Wanted::Remove,
        Selection::Undiscovered => {
            let since = candidate.undiscovered_since.unwrap_or(observed.now);
            let left = (since + DISCOVERY_GRACE).saturating_sub(observed.now);
            if !present || left == 0 {
                return Wanted::Remove;
            }
            *again_after = Some(again_after.map_or(left, |other| other.min(left)));
            return Wanted::Keep(None);
        }
        Selection::Tainted(_) if !present => return Wanted::Remove,
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
    match candidate.image.and_then(|image| provision::bundle(image).zip(Some(image))) {
        // The image object may still be about the Module's former spec.
        Some(((bundle, digest), image)) if image.spec.image == resolved.image => {
            let me = Peer { node: observed.node, config: observed.config };
            let peers = candidate.peers.iter().copied();
            if let Some((reason, message)) = inspect::hold(module, resolved, image, me, peers) {
                return Wanted::Keep(Some(Waiting::new(reason, message)));
            }
            Wanted::Load(Box::new(entry(module, resolved, observed.node, &bundle.digest, digest)))
        }
        _ => Wanted::Keep(Some(waiting_for(candidate.image, resolved))),
    }
}

fn waiting_for(image: Option<&ModuleImage>, resolved: &Resolved) -> Waiting {
    let told = image.and_then(|image| {
        let status = image.status.as_ref().filter(|s| s.resolved_from == image.metadata.generation)?;
        let reason = status.reason.clone().filter(|_| image.spec.image == resolved.image)?;
        Some(Waiting::new(reason, status.message.clone().unwrap_or_default()))
    });
    told.unwrap_or_else(|| {
        Waiting::new(reasons::RESOLVING, format!("{} is being looked for", resolved.image))
    })
}

fn entry(
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
    }
}

/// What the node's object says now.
struct Assigned<'a> {
    node: &'a NodeFacts,
    config: Option<&'a NodeModulesConfig>,
    status: Option<&'a NodeModulesConfigStatus>,
    order: Option<&'a Order>,
    now: u64,
}

impl<'a> Assigned<'a> {
    fn of(observed: &'a Observed<'_>) -> Self {
        let config = observed.config;
        Self {
            node: observed.node,
            config,
            status: config.and_then(|config| config.status.as_ref()),
            order: observed.order.as_ref(),
            now: observed.now,
        }
    }

    fn entry(&self, key: &ModuleKey) -> Option<&'a NodeModule> {
        let mut entries = self.config.into_iter().flat_map(|config| &config.spec.modules);
        entries.find(|entry| entry.namespace == key.namespace() && entry.name == key.name())
    }

    fn reported(&self, key: &ModuleKey) -> Option<&'a NodeModuleStatus> {
        rollout::report(self.status, key.namespace(), key.name())
    }

    fn statuses(&self) -> impl Iterator<Item = &'a NodeModuleStatus> + use<'a> {
        self.status.into_iter().flat_map(|status| &status.modules)
    }

    fn store(&self) -> Option<StoreId> {
        self.status?.store_id.as_ref()?.parse().ok()
    }

    fn reported_generation(&self) -> u64 {
        let reported = self.status.and_then(|status| status.order_generation);
        reported.and_then(|generation| u64::try_from(generation).ok()).unwrap_or_default()
    }

    /// The order, if the node takes it. A node that holds a later one (etcd was restored), or has another store, does not.
    fn in_force(&self) -> Option<&'a Order> {
        let reported = self.reported_generation();
        self.order.filter(|order| Some(order.store) == self.store() && order.generation.0 >= reported)
    }

    /// What the order in force has the node load.
    fn told(&self, key: &ModuleKey) -> Option<&'a Load> {
        match self.in_force()?.wish(key)? {
            Wish::Loaded(load) => Some(load),
            Wish::Removed => None,
        }
    }

    /// What it means for the node to be ordered `entry`.
    fn change(&self, entry: &NodeModule, key: &ModuleKey) -> Change {
        if self.told(key).is_some_and(|told| load(entry, self.node).as_ref() == Some(told)) {
            return Change::None;
        }
        let present = self.entry(key);
        let order = self.next_generation();
        let standing =
            present.map_or(Standing::Free, |present| rollout::standing(present, self.status, self.node));
        if standing == Standing::Unavailable {
            let bundle = present.and_then(|present| present.replaces.as_ref()?.bundle.clone());
            return Change::Counted(Replaced { bundle, order });
        }
        let reported = self.reported(key);
        if rollout::takes_away(entry, reported, self.node) {
            let bundle = reported.and_then(|reported| reported.bundle.clone());
            return Change::Disruptive(Replaced { bundle, order });
        }
        Change::Free
    }

    /// The generation of the next order.
    fn generation(&self) -> Result<u64, Waiting> {
        let reported = self.reported_generation();
        if reported > self.now + MOST_AHEAD {
            return Err(Waiting::new(
                reasons::GENERATION_AHEAD,
                format!(
                    "the node holds an order of generation {reported}, more than a day ahead of the clock; run `tenon-loader reset` in the node's loader container"
                ),
            ));
        }
        let last = self.order.map_or(0, |order| order.generation.0);
        Ok(reported.max(self.now).max(last) + 1)
    }

    /// The same, as the node's object says it.
    fn next_generation(&self) -> i64 {
        self.generation().ok().and_then(|generation| i64::try_from(generation).ok()).unwrap_or(i64::MAX)
    }

    /// Removals that the present order asks for and the node has not confirmed: it confirms by a report at that
    /// order's generation, or a later one, that does not name the module.
    fn unconfirmed(&self, observed: &Observed<'_>) -> BTreeSet<ModuleKey> {
        let Some(order) = &observed.order else { return BTreeSet::new() };
        let acted_upon = self.reported_generation() >= order.generation.0;
        let same_store = self.store() == Some(order.store);
        let removals = order.modules.iter().filter(|module| module.wish == Wish::Removed);
        removals
            .map(|module| module.key.clone())
            // Another store never held the module.
            .filter(|key| same_store && (!acted_upon || self.reported(key).is_some()))
            .collect()
    }
}

/// The order that fits the entries: replaced only when it says something else, withdrawn when nothing is left to say.
///
/// A removal that the node has confirmed stays in the order until the order changes anyhow: taking it out alone would
/// cost two writes for nothing.
fn order(assigned: &Assigned<'_>, store: StoreId, generation: u64, wishes: &Wishes) -> OrderChange {
    let Wishes { entries, removals, held } = wishes;
    let present = assigned.config.and_then(|config| config.spec.order.as_ref()).is_some();
    let loads = entries.iter().filter_map(|(key, entry)| {
        let load = if held.contains(key) {
            // What is not said stays as it is.
            assigned.told(key).cloned()?
        } else {
            load(entry, assigned.node)?
        };
        Some(OrderedModule { key: key.clone(), wish: Wish::Loaded(load) })
    });
    let removed = removals.iter().map(|key| OrderedModule { key: key.clone(), wish: Wish::Removed });
    let mut modules: Vec<_> = loads.chain(removed).collect();
    modules.sort_by(|one, other| one.key.cmp(&other.key));
    if modules.is_empty() {
        return if present { OrderChange::Withdraw } else { OrderChange::Keep };
    }
    // A node that does not take the present order gets it signed anew.
    let says_so = assigned.in_force().is_some_and(|known| {
        let confirmed = |module: &&OrderedModule| {
            module.wish != Wish::Removed || modules.iter().any(|wished| wished.key == module.key)
        };
        known.modules.iter().filter(confirmed).eq(&modules)
    });
    if says_so {
        return OrderChange::Keep;
    }
    OrderChange::Replace(Order {
        node: assigned.node.name.clone(),
        store,
        generation: Generation(generation),
        modules,
    })
}

/// The order's line for an entry. An entry without a bundle, or with settings that we refuse, was not written by us.
fn load(entry: &NodeModule, node: &NodeFacts) -> Option<Load> {
    let settings = load_settings(&entry.config.modprobe, &entry.config.in_tree_modules_to_remove).ok()?;
    // The object names the release as KMM does, without a trailing `+`; the loader compares with `uname -r`.
    let kernel = if entry.config.kernel_version == node.kernel.without_plus() {
        node.kernel.to_string()
    } else {
        entry.config.kernel_version.clone()
    };
    Some(Load {
        kernel,
        bundle: entry.bundle.as_ref()?.parse().ok()?,
        module: settings.module,
        parameters: settings.parameters,
        loading_order: settings.loading_order,
        in_tree_to_remove: settings.in_tree_to_remove,
        firmware: settings.firmware_path.is_some(),
        retry: entry.retry.and_then(|number| u64::try_from(number).ok()).unwrap_or_default(),
    })
}

/// Whether the node has what an entry of its spec wishes: the same bundle and settings, loaded in the present boot, and
/// reported since the node was told to.
pub fn is_loaded(entry: &NodeModule, status: Option<&NodeModulesConfigStatus>, node: &NodeFacts) -> bool {
    let reported = rollout::report(status, &entry.namespace, &entry.name);
    reported.filter(|_| rollout::answers(entry, status)).is_some_and(|reported| {
        reported.phase == Some(ModulePhase::Loaded)
            && reported.bundle == entry.bundle
            && reported.config.as_ref() == Some(&entry.config)
            && reported.boot_id.as_deref() == Some(node.boot_id.as_str())
    })
}

/// The ready labels that the node should have, against those it has.
fn labels(
    observed: &Observed<'_>,
    entries: &BTreeMap<ModuleKey, NodeModule>,
    assigned: &Assigned<'_>,
) -> BTreeMap<String, Option<String>> {
    let mut desired = BTreeMap::new();
    for (key, entry) in entries {
        if is_loaded(entry, assigned.status, observed.node) {
            desired.insert(LabelKind::Ready.key(key.namespace(), key.name()), String::new());
            if let Some(version) = &entry.version {
                let label = LabelKind::VersionReady.key(key.namespace(), key.name());
                desired.insert(label, tenon_api::labels::value(version));
            }
        }
    }
    let obsolete =
        observed.node.labels.keys().filter(|key| is_ready_label(key) && !desired.contains_key(*key));
    let withdrawn = obsolete.map(|key| (key.clone(), None));
    let changed = desired.iter().filter(|(key, value)| observed.node.labels.get(*key) != Some(*value));
    withdrawn.chain(changed.map(|(key, value)| (key.clone(), Some(value.clone())))).collect()
}

/// Whether a label of a node is one that says that a module is ready there.
fn is_ready_label(key: &str) -> bool {
    key.strip_prefix("kmm.node.kubernetes.io/").and_then(|name| name.strip_suffix(".ready")).is_some()
}

/// The node's object as it should be, without its order.
fn config(observed: &Observed<'_>, modules: Vec<NodeModule>, assigned: &Assigned<'_>) -> NodeModulesConfig {
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
fn differs(desired: &NodeModulesConfig, known: &NodeModulesConfig) -> bool {
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

#[cfg(test)]
mod tests;
