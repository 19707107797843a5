//! The labels of an ordered upgrade: KMM's table of what a node's three labels ask for.
//!
//! The user's label says which version the node should have, the worker's which it may load, the schedule's whose plugin may run. One
//! step at a time: the plugin leaves before the driver, and comes after it.

use std::collections::BTreeSet;

use tenon_api::node_modules_config::NodeModulesConfig;
use tenon_order::ModuleKey;

/// A version of a Module that a node has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Had<'a> {
    /// The Module's namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The version.
    pub version: &'a str,
}

impl Had<'_> {
    /// The Module's key.
    pub fn module(&self) -> Option<ModuleKey> {
        ModuleKey::new(self.namespace, self.name).ok()
    }
}

/// The versions that a node has by its object: those that it is told to have, and those that it reports of Modules about which it is
/// told nothing, as where its object was lost.
pub fn had(config: &NodeModulesConfig) -> BTreeSet<Had<'_>> {
    let told = &config.spec.modules;
    let reported = config.status.iter().flat_map(|status| &status.modules);
    let is_told = |namespace: &str, name: &str| {
        told.iter().any(|entry| entry.namespace == namespace && entry.name == name)
    };
    let reported = reported.filter(|entry| !is_told(&entry.namespace, &entry.name));
    let told = told.iter().map(|entry| (&entry.namespace, &entry.name, &entry.version));
    let all = told.chain(reported.map(|entry| (&entry.namespace, &entry.name, &entry.version)));
    all.filter_map(|(namespace, name, version)| Some(Had { namespace, name, version: version.as_deref()? }))
        .collect()
}

/// What is to be done about a node's labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// They are as they should be.
    Nothing,
    /// The plugin may not run any more.
    DeleteSchedule,
    /// The driver may not stay any more. Not before the plugin's pods have left.
    DeleteWorker,
    /// The version may be loaded. Not while another one is.
    AddWorker,
    /// The version's plugin may run. Not before the driver is loaded.
    AddSchedule,
}

/// The next step, from the version that the node should have and those that its labels name.
pub fn step(wished: Option<&str>, worker: Option<&str>, schedule: Option<&str>) -> Step {
    match (wished, worker, schedule) {
        (None, None, None) => Step::Nothing,
        (Some(wished), Some(worker), Some(schedule)) if wished == worker && wished == schedule => {
            Step::Nothing
        }
        (_, _, Some(_)) => Step::DeleteSchedule,
        (Some(_), None, None) => Step::AddWorker,
        (Some(wished), Some(worker), None) if wished == worker => Step::AddSchedule,
        (_, Some(_), None) => Step::DeleteWorker,
    }
}

/// What there is on the node, beside labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guards {
    /// The driver is loaded as wished.
    pub is_ready: bool,
    /// A pod of the plugin is there.
    pub has_pods: bool,
}

/// The worker's and the schedule's version as they should be now: as many steps as what is on the node allows.
pub fn settle<'v>(
    wished: Option<&'v str>,
    mut worker: Option<&'v str>,
    mut schedule: Option<&'v str>,
    guards: Guards,
) -> (Option<&'v str>, Option<&'v str>) {
    loop {
        match step(wished, worker, schedule) {
            Step::DeleteSchedule => schedule = None,
            Step::DeleteWorker if !guards.has_pods => worker = None,
            Step::AddWorker if guards.is_ready => worker = wished,
            Step::AddSchedule if guards.is_ready => schedule = wished,
            Step::Nothing | Step::DeleteWorker | Step::AddWorker | Step::AddSchedule => {
                return (worker, schedule);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tenon_api::node_modules_config::{
        NodeModule, NodeModuleStatus, NodeModulesConfigSpec, NodeModulesConfigStatus,
    };

    use super::*;

    #[test]
    fn a_node_has_what_it_is_told_to_have_and_what_it_reports_beside() {
        let mut config = NodeModulesConfig::new("pine", NodeModulesConfigSpec::default());
        let place = |name: &str| ("lab".to_owned(), name.to_owned());
        for (name, version) in [("told", Some("2")), ("unversioned", None)] {
            let ((namespace, name), version) = (place(name), version.map(ToOwned::to_owned));
            config.spec.modules.push(NodeModule { namespace, name, version, ..Default::default() });
        }
        let reported = [("told", "1"), ("unversioned", "1"), ("lost", "3")].map(|(name, version)| {
            let ((namespace, name), version) = (place(name), Some(version.to_owned()));
            NodeModuleStatus { namespace, name, version, ..Default::default() }
        });
        config.status = Some(NodeModulesConfigStatus { modules: reported.into(), ..Default::default() });
        let had: Vec<_> = had(&config).into_iter().map(|had| (had.name, had.version)).collect();
        assert_eq!(had, [("lost", "3"), ("told", "2")]);
    }

    const VALUES: [Option<&str>; 3] = [None, Some("1"), Some("2")];

    #[test]
    fn every_row_of_the_table_says_what_kmms_says() {
        let rows = [
            ((None, None, None), Step::Nothing),
            ((None, Some("1"), Some("1")), Step::DeleteSchedule),
            ((None, Some("1"), None), Step::DeleteWorker),
            ((Some("1"), None, None), Step::AddWorker),
            ((Some("1"), Some("1"), None), Step::AddSchedule),
            ((Some("1"), Some("1"), Some("1")), Step::Nothing),
            ((Some("2"), Some("1"), Some("1")), Step::DeleteSchedule),
            ((Some("2"), Some("1"), None), Step::DeleteWorker),
            // Of these KMM's table says nothing: a plugin without its driver does not stay.
            ((None, None, Some("1")), Step::DeleteSchedule),
            ((Some("1"), None, Some("1")), Step::DeleteSchedule),
            ((Some("2"), Some("2"), Some("1")), Step::DeleteSchedule),
        ];
        for ((wished, worker, schedule), expected) in rows {
            assert_eq!(step(wished, worker, schedule), expected, "{wished:?} {worker:?} {schedule:?}");
        }
    }

    #[test]
    fn from_every_state_the_labels_come_to_what_is_wished_and_never_in_another_order() {
        for wished in VALUES {
            for worker in VALUES {
                for schedule in VALUES {
                    let state = format!("{wished:?} {worker:?} {schedule:?}");
                    let held = settle(wished, worker, schedule, Guards { is_ready: false, has_pods: true });
                    let is_settled = worker == wished && schedule == wished;
                    assert!(is_settled || held.1.is_none(), "{state}: the plugin leaves first");
                    assert_eq!(held.0, worker, "{state}: and the driver waits for it");
                    let left = settle(wished, held.0, held.1, Guards { is_ready: false, has_pods: false });
                    assert!(left.0.is_none() || left.0 == wished, "{state}: then it goes, too");
                    assert!(is_settled || left.1.is_none(), "{state}: no plugin without its driver");
                    let loaded = settle(wished, left.0, left.1, Guards { is_ready: true, has_pods: false });
                    assert_eq!(loaded, (wished, wished), "{state}: and both come back");
                    assert_eq!(
                        settle(wished, loaded.0, loaded.1, Guards { is_ready: true, has_pods: true }),
                        loaded,
                        "{state}: where they stay"
                    );
                }
            }
        }
    }
}
