//! What has to leave nodes before their drivers do: told by node, asked for by Module.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tenon_order::{ModuleKey, NodeName};
use tenon_plan::assign::Waiting;

/// What every Module waits for, on every node.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    nodes_of: HashMap<ModuleKey, BTreeMap<NodeName, Waiting>>,
    /// The same the other way round: a node's change costs as much as it is about, however many Modules wait elsewhere.
    modules_of: HashMap<NodeName, BTreeSet<ModuleKey>>,
}

impl Leaving {
    /// What a Module waits for, by node.
    pub(super) fn of(&self, key: &ModuleKey) -> impl Iterator<Item = (&NodeName, &Waiting)> {
        self.nodes_of.get(key).into_iter().flatten()
    }

    /// This is all that has to leave a node. Returns the Modules for which it is something else than before.
    pub(super) fn set(
        &mut self,
        node: &NodeName,
        waiting: BTreeMap<ModuleKey, Waiting>,
    ) -> BTreeSet<ModuleKey> {
        let before = self.modules_of.remove(node).unwrap_or_default();
        let after: BTreeSet<_> = waiting.keys().cloned().collect();
        let mut changed: BTreeSet<_> = before.difference(&after).cloned().collect();
        for key in &changed {
            self.take(key, node);
        }
        for (key, waiting) in waiting {
            let nodes = self.nodes_of.entry(key.clone()).or_default();
            if nodes.get(node) != Some(&waiting) {
                nodes.insert(node.clone(), waiting);
                changed.insert(key);
            }
        }
        if !after.is_empty() {
            self.modules_of.insert(node.clone(), after);
        }
        changed
    }

    fn take(&mut self, key: &ModuleKey, node: &NodeName) {
        if let Some(nodes) = self.nodes_of.get_mut(key) {
            nodes.remove(node);
            if nodes.is_empty() {
                self.nodes_of.remove(key);
            }
        }
    }

    /// The Module is gone.
    pub(super) fn forget(&mut self, key: &ModuleKey) {
        for node in self.nodes_of.remove(key).into_iter().flat_map(BTreeMap::into_keys) {
            if let Some(modules) = self.modules_of.get_mut(&node) {
                modules.remove(key);
                if modules.is_empty() {
                    self.modules_of.remove(&node);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(all: &[(&str, &str)]) -> BTreeMap<ModuleKey, Waiting> {
        let waiting =
            |message: &str| Waiting { reason: "WaitingForPlugin".into(), message: message.to_owned() };
        all.iter().map(|(key, message)| (key.parse().unwrap(), waiting(message))).collect()
    }

    fn keys(all: &[&str]) -> BTreeSet<ModuleKey> {
        all.iter().map(|key| key.parse().unwrap()).collect()
    }

    #[test]
    fn a_module_is_told_of_once_for_each_change_of_what_has_to_leave_a_node() {
        let (mut leaving, pine) = (Leaving::default(), "pine".parse().unwrap());
        assert_eq!(leaving.set(&pine, waits(&[("lab/gauge", "a"), ("lab/meter", "a")])).len(), 2);
        assert_eq!(leaving.set(&pine, waits(&[("lab/gauge", "a"), ("lab/meter", "a")])), keys(&[]));
        assert_eq!(
            leaving.set(&pine, waits(&[("lab/gauge", "b"), ("lab/meter", "a")])),
            keys(&["lab/gauge"])
        );
        assert_eq!(leaving.set(&pine, waits(&[("lab/meter", "a")])), keys(&["lab/gauge"]));
        let gauge = "lab/gauge".parse().unwrap();
        assert_eq!(leaving.of(&gauge).count(), 0);
        assert_eq!(leaving.set(&pine, waits(&[])), keys(&["lab/meter"]));
        assert!(leaving.nodes_of.is_empty() && leaving.modules_of.is_empty());
    }

    #[test]
    fn a_node_concerns_no_module_that_waits_elsewhere() {
        let (mut leaving, pine, oak) = (Leaving::default(), "pine".parse().unwrap(), "oak".parse().unwrap());
        leaving.set(&pine, waits(&[("lab/gauge", "a")]));
        leaving.set(&oak, waits(&[("lab/gauge", "a"), ("lab/meter", "a")]));
        assert_eq!(leaving.set(&pine, waits(&[])), keys(&["lab/gauge"]));
        let gauge = "lab/gauge".parse().unwrap();
        assert_eq!(leaving.of(&gauge).map(|(node, _)| node).collect::<Vec<_>>(), [&oak]);
    }

    #[test]
    fn of_a_module_that_is_gone_nothing_is_left() {
        let (mut leaving, pine) = (Leaving::default(), "pine".parse().unwrap());
        leaving.set(&pine, waits(&[("lab/gauge", "a"), ("lab/meter", "a")]));
        leaving.forget(&"lab/gauge".parse().unwrap());
        assert_eq!(leaving.set(&pine, waits(&[])), keys(&["lab/meter"]), "it is not told of again");
        assert!(leaving.nodes_of.is_empty() && leaving.modules_of.is_empty());
    }
}
