//! How long nodes take from being told to have a driver until they say that they have it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tenon_api::node_modules_config::NodeModulesConfigStatus;
use tenon_order::NodeName;
use tenon_plan::assign::is_loaded;
use tokio::time::Instant;

use super::observe::Node;
use crate::metrics::{Metrics, Stage};

/// What a node is loading: by namespace and name of the Module, of which bundle, and since when.
type Loading = BTreeMap<(String, String), (Option<String>, Option<Instant>)>;

/// What every node is loading. What one was loading already when this process first saw it is not timed.
#[derive(Debug, Default)]
pub(super) struct Loads(Mutex<HashMap<NodeName, Loading>>);

impl Loads {
    /// Looks at the node, and counts what has come to be loaded since it was looked at before.
    pub(super) fn look(&self, metrics: &Metrics, node: &Node) {
        let config = node.config.as_ref();
        let status = config.and_then(|config| config.status.as_ref());
        let entries = config.into_iter().flat_map(|config| &config.spec.modules);
        let seen: Vec<_> = entries
            .map(|entry| {
                let key = (entry.namespace.clone(), entry.name.clone());
                (key, entry.bundle.clone(), is_loaded(entry, status, &node.facts))
            })
            .collect();
        for took in self.note(&node.facts.name, seen, status, Instant::now()) {
            metrics.took(Stage::Load, took.as_secs_f64());
        }
    }

    fn note(
        &self,
        name: &NodeName,
        seen: Vec<((String, String), Option<String>, bool)>,
        status: Option<&NodeModulesConfigStatus>,
        now: Instant,
    ) -> Vec<Duration> {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !nodes.contains_key(name) && status.is_some();
        let before = nodes.remove(name).unwrap_or_default();
        let (mut after, mut took) = (Loading::new(), Vec::new());
        for (key, bundle, loaded) in seen {
            let known = before.get(&key).filter(|(known, _)| *known == bundle);
            if loaded {
                took.extend(known.and_then(|(_, since)| Some(now.saturating_duration_since((*since)?))));
            } else {
                let since = known.map_or((!is_new).then_some(now), |(_, since)| *since);
                after.insert(key, (bundle, since));
            }
        }
        nodes.insert(name.clone(), after);
        took
    }

    /// The node is gone.
    pub(super) fn forget(&self, name: &NodeName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: NodeModulesConfigStatus = NodeModulesConfigStatus {
        modules: Vec::new(),
        conditions: Vec::new(),
        store_id: None,
        boot_id: None,
        kernel_version: None,
        kernel_build_id: None,
        order_generation: None,
        key_ids: Vec::new(),
    };

    fn saw(loads: &Loads, bundle: Option<&str>, loaded: bool, now: Instant) -> Vec<u64> {
        let key = ("hall".to_owned(), "gauge".to_owned());
        let seen = bundle.map(|bundle| (key, Some(bundle.to_owned()), loaded)).into_iter().collect();
        let took = loads.note(&"n1".parse().unwrap(), seen, Some(&STATUS), now);
        took.iter().map(Duration::as_secs).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_is_timed_once_from_when_the_node_is_told() {
        let (loads, begin) = (Loads::default(), Instant::now());
        let at = |second| begin + Duration::from_secs(second);
        assert!(saw(&loads, None, false, at(0)).is_empty());
        assert!(saw(&loads, Some("a"), false, at(10)).is_empty());
        assert!(saw(&loads, Some("a"), false, at(12)).is_empty());
        assert_eq!(saw(&loads, Some("a"), true, at(17)), [7]);
        assert!(saw(&loads, Some("a"), true, at(18)).is_empty());
        assert!(saw(&loads, Some("b"), false, at(20)).is_empty());
        assert_eq!(saw(&loads, Some("b"), true, at(21)), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_under_way_when_the_process_began_is_not_timed() {
        let (loads, begin) = (Loads::default(), Instant::now());
        assert!(saw(&loads, Some("a"), false, begin).is_empty());
        assert!(saw(&loads, Some("a"), true, begin + Duration::from_secs(5)).is_empty());
    }
}
