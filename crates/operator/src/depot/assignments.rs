//! Which node may have which bundle. The nodes controller says so; the depot obeys.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tenon_order::{Digest, NodeName};

/// What the nodes are assigned. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Assignments(Arc<RwLock<State>>);

#[derive(Debug, Default)]
struct State {
    /// Sorted, without duplicates: a node has a handful.
    nodes: HashMap<NodeName, Box<[Digest]>>,
    /// How many nodes have each bundle.
    uses: HashMap<Digest, usize>,
    known: bool,
}

/// Whether a node may have a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is assigned.
    Assigned,
    /// It is not.
    NotAssigned,
    /// What the nodes are assigned has not been read yet.
    Unknown,
}

impl Assignments {
    /// The node is assigned exactly these bundles.
    pub fn set(&self, node: &NodeName, bundles: impl IntoIterator<Item = Digest>) {
        let mut bundles: Vec<_> = bundles.into_iter().collect();
        bundles.sort_unstable();
        bundles.dedup();
        self.write().replace(node, bundles.into_boxed_slice());
    }

    /// The node is gone.
    pub fn remove(&self, node: &NodeName) {
        self.write().replace(node, Box::default());
    }

    /// Every node that there is has been set: from now on, what is not assigned is refused.
    pub fn complete(&self) {
        self.write().known = true;
    }

    /// Whether the node may have the bundle.
    pub fn verdict(&self, node: &NodeName, bundle: &Digest) -> Verdict {
        let state = self.read();
        let assigned = state.nodes.get(node).is_some_and(|bundles| bundles.binary_search(bundle).is_ok());
        match (assigned, state.known) {
            (true, _) => Verdict::Assigned,
            (false, true) => Verdict::NotAssigned,
            (false, false) => Verdict::Unknown,
        }
    }

    /// Whether any node is assigned the bundle.
    pub fn in_use(&self, bundle: &Digest) -> bool {
        self.read().uses.contains_key(bundle)
    }

    // A panic elsewhere cannot leave the maps half changed: nothing in `replace` panics.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn replace(&mut self, node: &NodeName, bundles: Box<[Digest]>) {
        for bundle in &bundles {
            *self.uses.entry(*bundle).or_default() += 1;
        }
        let before = if bundles.is_empty() {
            self.nodes.remove(node)
        } else {
            self.nodes.insert(node.clone(), bundles)
        };
        for bundle in before.unwrap_or_default() {
            if let Some(uses) = self.uses.get_mut(&bundle) {
                *uses -= 1;
                if *uses == 0 {
                    self.uses.remove(&bundle);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_in_use_while_any_node_has_it() {
        let assignments = Assignments::default();
        let [one, two]: [NodeName; 2] = ["pine".parse().unwrap(), "oak".parse().unwrap()];
        let [a, b] = [Digest::of(b"a"), Digest::of(b"b")];
        assignments.set(&one, [a, b, a]);
        assignments.set(&two, [a]);
        assignments.set(&one, [b]);
        assert!(assignments.in_use(&a) && assignments.in_use(&b));
        assignments.remove(&two);
        assignments.remove(&two);
        assert!(!assignments.in_use(&a));
        assignments.set(&one, []);
        assert!(!assignments.in_use(&b));
        assert!(assignments.0.read().unwrap().nodes.is_empty());
    }

    #[test]
    fn nothing_is_refused_before_everything_is_known() {
        let assignments = Assignments::default();
        let (node, bundle) = ("pine".parse().unwrap(), Digest::of(b"a"));
        assert_eq!(assignments.verdict(&node, &bundle), Verdict::Unknown);
        assignments.complete();
        assert_eq!(assignments.verdict(&node, &bundle), Verdict::NotAssigned);
        assignments.set(&node, [bundle]);
        assert_eq!(assignments.verdict(&node, &bundle), Verdict::Assigned);
    }
}
