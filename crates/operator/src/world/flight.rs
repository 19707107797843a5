//! What is on its way: answers that arrive after the end of what they are about, and orders that no object shows yet.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use tenon_order::{ModuleKey, NodeName};
use tenon_plan::rollout::WRITES_LAND_WITHIN;
use tokio::time::Instant;

/// So long after it was sent nothing of a write is heard any more, and it has no effect any more.
const IN_FLIGHT: Duration = Duration::from_millis(WRITES_LAND_WITHIN);

/// Objects whose deletion a watch has told of: the answer to a write of ours may tell of their life only afterwards.
#[derive(Debug)]
pub(super) struct Ends<K>(HashMap<K, (u64, Instant)>);

impl<K> Default for Ends<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Ends<K> {
    /// The object was deleted at this version; a list that lacks it does not say when.
    pub(super) fn note(&mut self, key: K, version: Option<u64>, now: Instant) {
        self.0.retain(|_, (_, noted)| now.saturating_duration_since(*noted) < IN_FLIGHT);
        self.0.insert(key, (version.unwrap_or(u64::MAX), now));
    }

    /// Whether a state at this version was before the end of an object that is not known any more. What is made anew under the name
    /// of one that a list lacked is known by the watch.
    pub(super) fn is_past(&self, key: &K, version: Option<u64>) -> bool {
        let end = self.0.get(key);
        end.zip(version).is_some_and(|((end, _), version)| version <= *end)
    }
}

/// An order that was decided about.
#[derive(Debug)]
struct Order {
    /// The version of the node's object that it changes.
    version: Option<String>,
    modules: BTreeSet<ModuleKey>,
    decided: Instant,
}

/// Orders that were decided about and are not to be read off the nodes' objects yet.
#[derive(Debug, Default)]
pub(super) struct Orders(HashMap<NodeName, Order>);

impl Orders {
    /// The node will be ordered these Modules, by a write that changes this version of its object.
    pub(super) fn decided(
        &mut self,
        node: &NodeName,
        version: Option<&str>,
        modules: BTreeSet<ModuleKey>,
        now: Instant,
    ) {
        let order = Order { version: version.map(str::to_owned), modules, decided: now };
        self.0.insert(node.clone(), order);
    }

    /// The node's object is known at this version: a write that was to change another has made this one, or never will
    /// have an effect.
    pub(super) fn known(&mut self, node: &NodeName, version: Option<&str>) {
        if self.0.get(node).is_some_and(|order| order.version.as_deref() != version) {
            self.0.remove(node);
        }
    }

    /// Whether some node may be ordered the Module without anybody's doing from now on.
    pub(super) fn name(&self, module: &ModuleKey, now: Instant) -> bool {
        let lands = |order: &&Order| now.saturating_duration_since(order.decided) < IN_FLIGHT;
        self.0.values().filter(lands).any(|order| order.modules.contains(module))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_late_of_a_deleted_object_is_past_and_what_was_made_anew_is_not() {
        let (mut ends, now) = (Ends::default(), Instant::now());
        ends.note("pine", Some(9), now);
        assert!(ends.is_past(&"pine", Some(8)) && ends.is_past(&"pine", Some(9)));
        assert!(!ends.is_past(&"pine", Some(10)) && !ends.is_past(&"oak", Some(8)));
    }

    #[test]
    fn ends_of_which_nothing_can_be_on_its_way_any_more_are_forgotten() {
        let (mut ends, now) = (Ends::default(), Instant::now());
        ends.note("pine", Some(9), now);
        ends.note("oak", Some(12), now + IN_FLIGHT);
        assert_eq!(ends.0.len(), 1);
    }

    #[test]
    fn an_order_is_on_its_way_until_the_object_has_another_version_or_the_write_can_have_no_effect() {
        let pine: NodeName = "pine".parse().unwrap();
        let gauge: ModuleKey = "lab/gauge".parse().unwrap();
        let (mut orders, now) = (Orders::default(), Instant::now());
        orders.decided(&pine, Some("4"), [gauge.clone()].into(), now);
        orders.known(&pine, Some("4"));
        assert!(orders.name(&gauge, now));
        assert!(!orders.name(&"lab/meter".parse().unwrap(), now));
        assert!(!orders.name(&gauge, now + IN_FLIGHT));
        orders.known(&pine, Some("5"));
        assert!(!orders.name(&gauge, now));
    }
}
