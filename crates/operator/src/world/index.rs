//! The objects, and who concerns whom.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use kube::ResourceExt;
use tenon_api::labels;
use tenon_api::node_modules_config::{NodeModule, NodeModulesConfig};
use tenon_api::{Module, ModuleImage, PreflightValidation};
use tenon_order::{Digest, ModuleKey, NodeName};
use tenon_plan::assign::Waiting;
use tenon_plan::inspect;
use tenon_plan::node::{NodeFacts, Selection, select};
use tenon_plan::provision;
use tenon_plan::rivals::Claims;
use tenon_plan::rollout::{self, Turn, Turns};
use tenon_plan::workload::{Problem, version};

use super::leaving::Leaving;
use super::{FactsIndex, ImageKey, KnownFacts};

/// The objects, and who concerns whom.
#[derive(Debug, Default)]
pub struct Index {
    nodes: HashMap<NodeName, Arc<NodeFacts>>,
    modules: HashMap<ModuleKey, Arc<Module>>,
    /// What each of them may do to kernel modules: every roll-up holds one against all.
    claims: HashMap<ModuleKey, Claims>,
    images: HashMap<ImageKey, Arc<ModuleImage>>,
    configs: HashMap<NodeName, Arc<NodeModulesConfig>>,
    facts: FactsIndex,
    preflights: BTreeMap<String, Arc<PreflightValidation>>,
    images_of: HashMap<ModuleKey, BTreeSet<ImageKey>>,
    /// Nodes that a Module selects or whose object names it.
    nodes_of: HashMap<ModuleKey, NodesOf>,
    /// The same the other way round.
    modules_of: HashMap<NodeName, BTreeSet<ModuleKey>>,
    /// Since when a node lacks a discovered label that a Module asks for, by [`super::World::steady`]: a jump of the time
    /// must not end the grace period. Starts anew with the process: the period only ever gets longer by that.
    undiscovered: BTreeMap<(ModuleKey, NodeName), u64>,
    /// Whose driver is away because of a change, whose turn it is, who waits.
    turns: HashMap<ModuleKey, Turns>,
    /// Why Modules' plugins are not there as wished.
    plugin_problems: HashMap<ModuleKey, Problem>,
    /// What has to leave nodes before their drivers do.
    leaving: Leaving,
    /// What this process has looked at: of these neither of the two above is known before.
    looked_at: LookedAt,
}

/// Modules whose plugin, and nodes whose assignment somebody has seen to at least once, whatever came of it.
#[derive(Debug, Default)]
struct LookedAt {
    plugins: HashSet<ModuleKey>,
    nodes: HashSet<NodeName>,
}

/// A Module's nodes.
#[derive(Debug, Default, PartialEq, Eq)]
struct NodesOf {
    /// Each, and whether its object tells it to load the Module.
    nodes: BTreeMap<NodeName, bool>,
    /// How many are told so.
    told: usize,
}

impl NodesOf {
    fn tell(&mut self, name: &NodeName, is_told: bool) {
        if let Some(was_told) = self.nodes.get_mut(name) {
            self.told = self.told + usize::from(is_told) - usize::from(*was_told);
            *was_told = is_told;
        }
    }

    fn remove(&mut self, name: &NodeName) {
        self.tell(name, false);
        self.nodes.remove(name);
    }
}

/// What a change concerns.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Touched {
    /// Modules whose status may differ.
    pub modules: BTreeSet<ModuleKey>,
    /// Modules that may need another image.
    pub targets: BTreeSet<ModuleKey>,
    /// Nodes whose assignment may differ.
    pub nodes: BTreeSet<NodeName>,
}

impl Index {
    /// The node's facts.
    pub fn node(&self, name: &NodeName) -> Option<&Arc<NodeFacts>> {
        self.nodes.get(name)
    }

    /// All nodes' facts.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<NodeFacts>> {
        self.nodes.values()
    }

    /// The Module.
    pub fn module(&self, key: &ModuleKey) -> Option<&Arc<Module>> {
        self.modules.get(key)
    }

    /// All Modules.
    pub fn modules(&self) -> impl Iterator<Item = &Arc<Module>> {
        self.modules.values()
    }

    /// Why the Module's plugin is not there as wished.
    pub fn plugin_problem(&self, key: &ModuleKey) -> Option<&Problem> {
        self.plugin_problems.get(key)
    }

    /// Whether it is another than before, or the first.
    pub(super) fn set_plugin_problem(&mut self, key: &ModuleKey, problem: Option<Problem>) -> bool {
        let is_new = self.plugin_problems.get(key) != problem.as_ref();
        match problem {
            Some(problem) => self.plugin_problems.insert(key.clone(), problem),
            None => self.plugin_problems.remove(key),
        };
        self.look_at_plugin(key) || is_new
    }

    /// Somebody has seen to the Module's plugin; whether for the first time.
    pub(super) fn look_at_plugin(&mut self, key: &ModuleKey) -> bool {
        self.modules.contains_key(key) && self.looked_at.plugins.insert(key.clone())
    }

    /// Somebody has seen to the node; the Modules that this is the first time for.
    pub(super) fn look_at_node(&mut self, name: &NodeName) -> BTreeSet<ModuleKey> {
        let is_there = self.nodes.contains_key(name) || self.configs.contains_key(name);
        let is_first = is_there && self.looked_at.nodes.insert(name.clone());
        if is_first { self.modules_of(name).cloned().collect() } else { BTreeSet::new() }
    }

    /// What is not there any more has not been looked at when it comes back.
    fn forget_look(&mut self, name: &NodeName) {
        if !self.nodes.contains_key(name) && !self.configs.contains_key(name) {
            self.looked_at.nodes.remove(name);
        }
    }

    /// Whether all that a Module's status tells of is known: its plugin and each of its nodes have been looked at. A process that has
    /// just begun knows neither what keeps a plugin away nor what a node waits for, and would take back what its predecessor said.
    pub fn is_looked_at(&self, key: &ModuleKey) -> bool {
        self.looked_at.plugins.contains(key)
            && self.nodes_of(key).all(|node| self.looked_at.nodes.contains(node))
    }

    /// What has to leave nodes before the Module's driver does, by node.
    pub fn leaving(&self, key: &ModuleKey) -> impl Iterator<Item = (&NodeName, &Waiting)> {
        self.leaving.of(key)
    }

    /// The Modules for which it is something else than before, or the first.
    pub(super) fn set_leaving(
        &mut self,
        node: &NodeName,
        waiting: BTreeMap<ModuleKey, Waiting>,
    ) -> BTreeSet<ModuleKey> {
        let mut changed = self.leaving.set(node, waiting);
        changed.extend(self.look_at_node(node));
        changed
    }

    /// Other Modules that load or remove what this one does, by what both say.
    pub fn modules_touching(&self, key: &ModuleKey) -> impl Iterator<Item = &ModuleKey> {
        let own = self.claims.get(key);
        let touches = move |other: &ModuleKey, claims: &Claims| {
            other != key && own.is_some_and(|own| own.touch(claims))
        };
        self.claims.iter().filter(move |(other, claims)| touches(other, claims)).map(|(other, _)| other)
    }

    /// The ModuleImage.
    pub fn image(&self, key: &ImageKey) -> Option<&Arc<ModuleImage>> {
        self.images.get(key)
    }

    /// All ModuleImages.
    pub fn images(&self) -> impl Iterator<Item = &Arc<ModuleImage>> {
        self.images.values()
    }

    /// The PreflightValidation.
    pub fn preflight(&self, name: &str) -> Option<&Arc<PreflightValidation>> {
        self.preflights.get(name)
    }

    /// All PreflightValidations.
    pub fn preflights(&self) -> impl Iterator<Item = &Arc<PreflightValidation>> {
        self.preflights.values()
    }

    pub(super) fn set_preflight(&mut self, name: &str, preflight: Option<Arc<PreflightValidation>>) {
        let _ = match preflight {
            Some(preflight) => self.preflights.insert(name.to_owned(), preflight),
            None => self.preflights.remove(name),
        };
    }

    /// The architectures of all nodes.
    pub fn architectures(&self) -> BTreeSet<String> {
        self.nodes.values().map(|node| node.architecture.clone()).collect()
    }

    /// Which kernels there are facts about.
    pub fn facts(&self) -> &FactsIndex {
        &self.facts
    }

    /// The releases that the facts concerned or concern.
    pub(super) fn set_facts(&mut self, name: &str, facts: Option<KnownFacts>) -> Vec<String> {
        self.facts.set(name, facts)
    }

    /// The node's object.
    pub fn config(&self, name: &NodeName) -> Option<&Arc<NodeModulesConfig>> {
        self.configs.get(name)
    }

    /// All nodes' objects.
    pub fn configs(&self) -> impl Iterator<Item = &Arc<NodeModulesConfig>> {
        self.configs.values()
    }

    /// Modules that are to go.
    pub fn deleted_modules(&self) -> Vec<ModuleKey> {
        let deleted = self.modules.iter().filter(|(_, module)| module.metadata.deletion_timestamp.is_some());
        deleted.map(|(key, _)| key.clone()).collect()
    }

    /// The nodes whose objects name a bundle, with what they say of it.
    pub fn entries_with(&self, bundle: Digest) -> impl Iterator<Item = (&Arc<NodeFacts>, &NodeModule)> {
        let named = move |entry: &&NodeModule| {
            entry.bundle.as_ref().and_then(|digest| digest.parse().ok()) == Some(bundle)
        };
        self.configs.iter().filter_map(move |(name, config)| {
            self.nodes.get(name).zip(config.spec.modules.iter().find(named))
        })
    }

    /// The names of all nodes.
    pub fn node_names(&self) -> Vec<NodeName> {
        self.nodes.keys().cloned().collect()
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Nodes that the Module selects or whose object names it.
    pub fn nodes_of(&self, key: &ModuleKey) -> impl Iterator<Item = &NodeName> {
        self.nodes_of.get(key).into_iter().flat_map(|of| of.nodes.keys())
    }

    /// How many these are.
    pub fn count_nodes_of(&self, key: &ModuleKey) -> usize {
        self.nodes_of.get(key).map_or(0, |of| of.nodes.len())
    }

    /// How many nodes are told to load the Module: of these a share may be without it because of a change. A node that
    /// repels it, or that no image is for, is none of them.
    pub fn count_told(&self, key: &ModuleKey) -> usize {
        self.nodes_of.get(key).map_or(0, |of| of.told)
    }

    /// The versions that nodes have of a Module, as labels name them.
    pub fn versions_of(&self, key: &ModuleKey) -> BTreeSet<String> {
        let configs = self.nodes_of(key).filter_map(|name| self.configs.get(name));
        let had = configs.flat_map(|config| version::had(config));
        let its = had.filter(|had| had.namespace == key.namespace() && had.name == key.name());
        its.map(|had| labels::value(had.version)).collect()
    }

    /// The Modules of which a node will have one version less, when this is its object.
    pub(super) fn versions_ending(
        &self,
        name: &NodeName,
        config: Option<&NodeModulesConfig>,
    ) -> BTreeSet<ModuleKey> {
        let before = self.configs.get(name).map(|config| version::had(config)).unwrap_or_default();
        let after = config.map(version::had).unwrap_or_default();
        before.difference(&after).filter_map(version::Had::module).collect()
    }

    /// Modules that select the node or that its object names.
    pub fn modules_of(&self, name: &NodeName) -> impl Iterator<Item = &ModuleKey> {
        self.modules_of.get(name).into_iter().flatten()
    }

    /// The Module's images.
    pub fn images_of(&self, key: &ModuleKey) -> impl Iterator<Item = &Arc<ModuleImage>> {
        self.images_of.get(key).into_iter().flatten().filter_map(|key| self.images.get(key))
    }

    /// The images for the kernel that this one is or was for, if they are of two Modules at most: whether a driver is the only one for
    /// its kernel makes a difference to what can be said of the symbols that it lacks.
    pub(super) fn few_images_for_kernel_of(&self, image: &ModuleImage) -> Vec<ImageKey> {
        let is_for_it = |other: &&Arc<ModuleImage>| {
            (&other.spec.kernel, &other.spec.architecture) == (&image.spec.kernel, &image.spec.architecture)
        };
        let mut modules = BTreeSet::new();
        let mut keys = Vec::new();
        for other in self.images.values().filter(is_for_it) {
            modules.insert((other.namespace(), &other.spec.module));
            if modules.len() > 2 {
                return Vec::new();
            }
            keys.push(ImageKey::of(other));
        }
        keys
    }

    /// Nodes of a Module that may wait for another to load its driver first: the Module's image is warned of by a node, and
    /// they are not assigned it.
    pub(super) fn waiting_for_a_first(&self, key: &ModuleKey) -> Vec<NodeName> {
        let warned: Vec<_> = self.images_of(key).filter(|image| inspect::asks_for_peers(image)).collect();
        let lacks = |name: &&NodeName| {
            warned.iter().any(|image| {
                let bundle = provision::bundle(image).map(|(bundle, _)| &bundle.digest);
                let entries = self.configs.get(*name).into_iter().flat_map(|config| &config.spec.modules);
                let mut assigned = entries.filter_map(|entry| entry.bundle.as_ref());
                let runs =
                    self.nodes.get(*name).is_some_and(|node| node.kernel.as_str() == image.spec.kernel);
                runs && bundle.is_some_and(|bundle| !assigned.any(|assigned| assigned == bundle))
            })
        };
        if warned.is_empty() {
            return Vec::new();
        }
        self.nodes_of(key).filter(lacks).cloned().collect()
    }

    /// For how long the node has lacked a discovered label that the Module asks for, in milliseconds; `steady` is now, by
    /// [`super::World::steady`].
    pub fn undiscovered_for(&self, key: &ModuleKey, name: &NodeName, steady: u64) -> Option<u64> {
        let since = self.undiscovered.get(&(key.clone(), name.clone()))?;
        Some(steady.saturating_sub(*since))
    }

    pub(super) fn set_node(&mut self, name: &NodeName, facts: Option<NodeFacts>, now: u64) -> Touched {
        let before = match facts {
            Some(facts) => self.nodes.insert(name.clone(), Arc::new(facts)),
            None => self.nodes.remove(name),
        };
        self.forget_look(name);
        let after = self.nodes.get(name).cloned();
        let same = |alike: fn(&NodeFacts, &NodeFacts) -> bool| match (&before, &after) {
            (Some(before), Some(after)) => alike(before, after),
            (before, after) => before.is_none() && after.is_none(),
        };
        let same_labels = same(|before, after| before.labels == after.labels);
        let moved = !same_labels
            || !same(|before, after| {
                before.kernel == after.kernel && before.architecture == after.architecture
            });
        let modules = if same_labels && same(|before, after| before.taints == after.taints) {
            self.relate_again(name, now)
        } else {
            self.relate_node(name, now)
        };
        Touched {
            targets: if moved { modules.clone() } else { BTreeSet::new() },
            modules,
            nodes: BTreeSet::new(),
        }
    }

    /// The nodes that it concerned or concerns.
    pub(super) fn set_module(
        &mut self,
        key: &ModuleKey,
        module: Option<Arc<Module>>,
        now: u64,
    ) -> BTreeSet<NodeName> {
        if let Some(module) = module {
            self.claims.insert(key.clone(), Claims::of(&module));
            self.modules.insert(key.clone(), module);
        } else {
            self.claims.remove(key);
            self.modules.remove(key);
            self.plugin_problems.remove(key);
            self.leaving.forget(key);
            self.looked_at.plugins.remove(key);
        }
        let before: BTreeSet<_> = self.nodes_of(key).cloned().collect();
        let names: BTreeSet<_> = self.nodes.keys().chain(self.configs.keys()).cloned().collect();
        for name in &names {
            let is_named = self.names(name, key);
            let related = self.concerns(key, name, is_named, now);
            self.relate(key, name, related);
        }
        before.into_iter().chain(self.nodes_of(key).cloned()).collect()
    }

    /// Replaces a Module by one with the same selector.
    pub(super) fn refresh_module(&mut self, key: &ModuleKey, module: Arc<Module>) {
        self.modules.insert(key.clone(), module);
    }

    pub(super) fn set_image(&mut self, key: &ImageKey, image: Option<&Arc<ModuleImage>>) -> Touched {
        let before = match image {
            Some(image) => self.images.insert(key.clone(), image.clone()),
            None => self.images.remove(key),
        };
        let mut touched = Touched::default();
        for (image, present) in
            before.iter().map(|image| (image, false)).chain(image.map(|image| (image, true)))
        {
            let Ok(module) = ModuleKey::new(&key.namespace, &image.spec.module) else { continue };
            let images = self.images_of.entry(module.clone()).or_default();
            let _ = if present { images.insert(key.clone()) } else { images.remove(key) };
            let runs = |name: &&NodeName| {
                self.nodes.get(*name).is_some_and(|n| n.kernel.as_str() == image.spec.kernel)
            };
            touched.nodes.extend(self.nodes_of(&module).filter(runs).cloned());
            touched.modules.insert(module);
        }
        self.images_of.retain(|_, images| !images.is_empty());
        touched
    }

    /// The Modules that it concerned or concerns.
    pub(super) fn set_config(
        &mut self,
        name: &NodeName,
        config: Option<Arc<NodeModulesConfig>>,
        now: u64,
    ) -> BTreeSet<ModuleKey> {
        let _ = match config {
            Some(config) => self.configs.insert(name.clone(), config),
            None => self.configs.remove(name),
        };
        self.forget_look(name);
        self.relate_again(name, now)
    }

    /// Relates a node to all Modules anew, because what they select by is another; returns those that it was or is
    /// related to.
    fn relate_node(&mut self, name: &NodeName, now: u64) -> BTreeSet<ModuleKey> {
        let all = self.modules.keys().cloned().collect();
        self.relate_to(name, all, now)
    }

    /// The same while its labels and taints are as they were: no other Module comes to select it.
    fn relate_again(&mut self, name: &NodeName, now: u64) -> BTreeSet<ModuleKey> {
        self.relate_to(name, BTreeSet::new(), now)
    }

    /// Relates a node anew to these Modules, those that its object names and those that it was related to.
    fn relate_to(&mut self, name: &NodeName, mut keys: BTreeSet<ModuleKey>, now: u64) -> BTreeSet<ModuleKey> {
        let mut touched = self.modules_of.get(name).cloned().unwrap_or_default();
        let named = self.named(name);
        keys.extend(named.iter().chain(&touched).cloned());
        for key in &keys {
            let related = self.concerns(key, name, named.contains(key), now);
            self.relate(key, name, related);
            self.count(key, name);
        }
        touched.extend(self.modules_of(name).cloned());
        touched
    }

    /// Whether the Module selects the node or the node's object names it; keeps the time of a lost discovery label.
    fn concerns(&mut self, key: &ModuleKey, name: &NodeName, named: bool, now: u64) -> bool {
        let selection =
            self.modules.get(key).zip(self.nodes.get(name)).map(|(module, node)| select(module, node));
        if selection == Some(Selection::Undiscovered) && named {
            self.undiscovered.entry((key.clone(), name.clone())).or_insert(now);
        } else if !self.undiscovered.is_empty() {
            self.undiscovered.remove(&(key.clone(), name.clone()));
        }
        named || selection.is_some_and(|selection| selection != Selection::Unselected)
    }

    /// The Modules that the node's object names, as wished or as there.
    fn named(&self, name: &NodeName) -> BTreeSet<ModuleKey> {
        let mentioned = self.configs.get(name).into_iter().flat_map(|config| mentioned(config));
        mentioned.filter_map(|(namespace, name)| ModuleKey::new(namespace, name).ok()).collect()
    }

    fn names(&self, name: &NodeName, key: &ModuleKey) -> bool {
        let mut mentioned = self.configs.get(name).into_iter().flat_map(|config| mentioned(config));
        mentioned.any(|module| module == (key.namespace(), key.name()))
    }

    fn relate(&mut self, key: &ModuleKey, name: &NodeName, related: bool) {
        if related {
            self.nodes_of.entry(key.clone()).or_default().nodes.entry(name.clone()).or_default();
            self.modules_of.entry(name.clone()).or_default().insert(key.clone());
            return;
        }
        if let Some(of) = self.nodes_of.get_mut(key) {
            of.remove(name);
            if of.nodes.is_empty() {
                self.nodes_of.remove(key);
            }
        }
        remove(&mut self.modules_of, name, key);
    }

    /// Counts how the node stands with the Module, by the objects as they are now.
    fn count(&mut self, key: &ModuleKey, name: &NodeName) {
        let config = self.configs.get(name);
        let version = config.and_then(|config| config.resource_version());
        let seen = config.zip(self.nodes.get(name)).and_then(|(config, facts)| {
            let is_it = |entry: &&NodeModule| entry.namespace == key.namespace() && entry.name == key.name();
            let (entry, status) = (config.spec.modules.iter().find(is_it)?, config.status.as_ref());
            let is_withdrawn = rollout::is_withdrawn(entry, status, facts);
            Some((rollout::standing(entry, status, facts), is_withdrawn))
        });
        let (standing, is_withdrawn) = seen.unzip();
        if let Some(of) = self.nodes_of.get_mut(key) {
            of.tell(name, standing.is_some());
        }
        let is_gone = config.is_none() || !self.nodes.contains_key(name);
        if standing.is_none() && !self.turns.contains_key(key) {
            return;
        }
        let turns = self.turns.entry(key.clone()).or_default();
        if is_gone {
            turns.forget(name);
        } else {
            turns.note(name, standing, is_withdrawn.unwrap_or_default(), version.as_deref());
        }
        if turns.is_empty() {
            self.turns.remove(key);
        }
    }

    fn allowed(&self, key: &ModuleKey) -> usize {
        let nodes = self.count_told(key);
        self.modules.get(key).map_or(0, |module| rollout::allowed(module, nodes))
    }

    /// Asks for a node's turns, decided about by this version of its object.
    pub(super) fn ask(
        &mut self,
        name: &NodeName,
        keys: &BTreeSet<ModuleKey>,
        version: Option<&str>,
        now: u64,
    ) -> BTreeMap<ModuleKey, Turn> {
        let asked = keys.iter().map(|key| {
            let allowed = self.allowed(key);
            let turns = self.turns.entry(key.clone()).or_default();
            (key.clone(), turns.ask(name, version, allowed, now))
        });
        asked.collect()
    }

    /// A node wants no turn but these; until the others are free again, the milliseconds left.
    pub(super) fn give_back(
        &mut self,
        name: &NodeName,
        but: &BTreeSet<ModuleKey>,
        now: u64,
    ) -> (BTreeSet<ModuleKey>, Option<u64>) {
        let keys: BTreeSet<_> = self
            .modules_of(name)
            .filter(|key| !but.contains(*key) && self.turns.contains_key(*key))
            .cloned()
            .collect();
        let mut again = None;
        for key in &keys {
            if let Some(turns) = self.turns.get_mut(key) {
                again = again.into_iter().chain(turns.give_back(name, now)).min();
                if turns.is_empty() {
                    self.turns.remove(key);
                }
            }
        }
        (keys, again)
    }

    /// The nodes that should ask again, because turns of these Modules are free.
    pub(super) fn next_turns<'k>(
        &mut self,
        keys: impl IntoIterator<Item = &'k ModuleKey>,
    ) -> BTreeSet<NodeName> {
        let mut next = BTreeSet::new();
        for key in keys {
            let allowed = self.allowed(key);
            next.extend(self.turns.get_mut(key).into_iter().flat_map(|turns| turns.next(allowed)));
        }
        next
    }

    /// The key of a Module object.
    pub fn key_of(module: &Module) -> Option<ModuleKey> {
        ModuleKey::new(&module.namespace()?, &module.name_any()).ok()
    }
}

/// Namespaces and names of the Modules that a node's object names, as wished or as there.
fn mentioned(config: &NodeModulesConfig) -> impl Iterator<Item = (&str, &str)> {
    let wished = config.spec.modules.iter().map(|entry| (entry.namespace.as_str(), entry.name.as_str()));
    let status = config.status.iter().flat_map(|status| &status.modules);
    wished.chain(status.map(|entry| (entry.namespace.as_str(), entry.name.as_str())))
}

fn remove<K: std::hash::Hash + Eq, V: Ord>(map: &mut HashMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(values) = map.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use tenon_api::node_modules_config::NodeModulesConfigSpec;

    use super::*;

    const NOW: u64 = 5;

    fn module(selector: &str) -> Arc<Module> {
        let module: Module = serde_json::from_value(serde_json::json!({
            "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module",
            "metadata": {"namespace": "lab", "name": "gauge"},
            "spec": {"selector": {selector: "a"}}
        }))
        .unwrap();
        Arc::new(module)
    }

    fn facts(name: &NodeName, labels: &[(&str, &str)]) -> NodeFacts {
        NodeFacts {
            name: name.clone(),
            uid: "u".to_owned(),
            kernel: "6.1.0".parse().unwrap(),
            architecture: "amd64".to_owned(),
            boot_id: "b".to_owned(),
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            taints: Vec::new(),
            os_version: None,
        }
    }

    fn config(named: bool) -> Arc<NodeModulesConfig> {
        let mut config = NodeModulesConfig::new("pine", NodeModulesConfigSpec::default());
        if named {
            config.spec.modules.push(tenon_api::node_modules_config::NodeModule {
                namespace: "lab".to_owned(),
                name: "gauge".to_owned(),
                ..Default::default()
            });
        }
        Arc::new(config)
    }

    fn key() -> ModuleKey {
        "lab/gauge".parse().unwrap()
    }

    #[test]
    fn a_module_and_a_node_find_each_other_in_either_order() {
        let pine: NodeName = "pine".parse().unwrap();
        for module_first in [true, false] {
            let mut index = Index::default();
            if module_first {
                index.set_module(&key(), Some(module("hall")), NOW);
            }
            index.set_node(&pine, Some(facts(&pine, &[("hall", "a")])), NOW);
            if !module_first {
                assert_eq!(index.set_module(&key(), Some(module("hall")), NOW).len(), 1);
            }
            assert_eq!(index.nodes_of(&key()).collect::<Vec<_>>(), [&pine]);
            assert_eq!(index.modules_of(&pine).collect::<Vec<_>>(), [&key()]);
        }
    }

    #[test]
    fn a_node_that_is_no_longer_selected_stays_related_while_its_object_names_the_module() {
        let pine: NodeName = "pine".parse().unwrap();
        let mut index = Index::default();
        index.set_module(&key(), Some(module("hall")), NOW);
        index.set_node(&pine, Some(facts(&pine, &[("hall", "a")])), NOW);
        index.set_config(&pine, Some(config(true)), NOW);
        let touched = index.set_node(&pine, Some(facts(&pine, &[])), NOW);
        assert_eq!((touched.modules.len(), touched.targets.len()), (1, 1));
        assert_eq!(index.nodes_of(&key()).count(), 1);
        assert_eq!(index.set_config(&pine, Some(config(false)), NOW).len(), 1, "the last touch");
        assert_eq!((index.nodes_of(&key()).count(), index.modules_of(&pine).count()), (0, 0));
    }

    #[test]
    fn nodes_that_are_not_told_to_load_a_module_raise_no_limit_of_its() {
        let mut index = Index::default();
        index.set_module(&key(), Some(module("hall")), NOW);
        for number in 0..30 {
            let name: NodeName = format!("oak-{number}").parse().unwrap();
            index.set_node(&name, Some(facts(&name, &[("hall", "a")])), NOW);
        }
        let pine: NodeName = "pine".parse().unwrap();
        index.set_config(&pine, Some(config(true)), NOW);
        assert_eq!(index.count_told(&key()), 0, "the node is not known yet");
        index.set_node(&pine, Some(facts(&pine, &[("hall", "a")])), NOW);
        assert_eq!((index.count_nodes_of(&key()), index.count_told(&key())), (31, 1));
        assert_eq!(index.allowed(&key()), 1, "ten of a hundred that have it, one at least");
        index.set_config(&pine, Some(config(false)), NOW);
        assert_eq!(index.count_told(&key()), 0);
    }

    #[test]
    fn a_lost_discovery_label_keeps_the_time_of_its_loss() {
        let label = "feature.node.kubernetes.io/x";
        let pine: NodeName = "pine".parse().unwrap();
        let mut index = Index::default();
        index.set_module(&key(), Some(module(label)), 1);
        index.set_node(&pine, Some(facts(&pine, &[(label, "a")])), 2);
        index.set_config(&pine, Some(config(true)), 3);
        index.set_node(&pine, Some(facts(&pine, &[])), 4);
        index.set_node(&pine, Some(facts(&pine, &[("other", "")])), 5);
        assert_eq!(index.undiscovered_for(&key(), &pine, 14), Some(10));
        index.set_node(&pine, Some(facts(&pine, &[(label, "a")])), 6);
        assert_eq!(index.undiscovered_for(&key(), &pine, 14), None);
    }

    #[test]
    fn a_module_is_looked_at_once_its_plugin_and_each_of_its_nodes_are() {
        let [pine, oak] = ["pine", "oak"].map(|name| name.parse::<NodeName>().unwrap());
        let mut index = Index::default();
        index.set_module(&key(), Some(module("hall")), NOW);
        index.set_node(&pine, Some(facts(&pine, &[("hall", "a")])), NOW);
        assert!(!index.is_looked_at(&key()));
        assert!(index.set_plugin_problem(&key(), None), "the first look is news, whatever it shows");
        assert!(!index.set_plugin_problem(&key(), None));
        assert!(!index.is_looked_at(&key()));
        assert_eq!(index.set_leaving(&pine, BTreeMap::new()), [key()].into(), "so it is of a node");
        assert_eq!(index.set_leaving(&pine, BTreeMap::new()), BTreeSet::new());
        assert!(index.is_looked_at(&key()));

        index.set_node(&oak, Some(facts(&oak, &[("hall", "a")])), NOW);
        assert!(!index.is_looked_at(&key()), "a node has come");
        assert_eq!(index.look_at_node(&oak), [key()].into());
        assert!(index.is_looked_at(&key()));
        index.set_node(&oak, None, NOW);
        index.look_at_node(&oak);
        index.set_node(&oak, Some(facts(&oak, &[("hall", "a")])), NOW);
        assert!(!index.is_looked_at(&key()), "it came back");
        index.set_module(&key(), None, NOW);
        index.set_module(&key(), Some(module("hall")), NOW);
        index.look_at_node(&oak);
        assert!(!index.is_looked_at(&key()), "another Module has its name");
    }

    #[test]
    fn a_deleted_module_leaves_no_trace_in_the_index() {
        let pine: NodeName = "pine".parse().unwrap();
        let mut index = Index::default();
        index.set_module(&key(), Some(module("hall")), NOW);
        index.set_node(&pine, Some(facts(&pine, &[("hall", "a")])), NOW);
        index.look_at_node(&pine);
        index.look_at_plugin(&key());
        index.set_module(&key(), None, NOW);
        index.set_node(&pine, None, NOW);
        assert!(index.looked_at.nodes.is_empty() && index.looked_at.plugins.is_empty());
        assert!(index.nodes_of.is_empty() && index.modules_of.is_empty() && index.undiscovered.is_empty());
    }
}
