//! What is to be applied and deleted so that a Module's plugin runs as wished.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::ResourceExt as _;
use tenon_api::labels::{self, annotation};
use tenon_api::{Module, reasons};

use super::daemon_set::{self, daemon_set};
use super::{Problem, Role, claim};
use crate::pause::is_paused;

/// A `DaemonSet` that is a Module's by its owner reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetSeen {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// What it runs; `None` for what is none of ours to run.
    pub role: Option<Role>,
    /// The name of the DRA driver that it runs, as far as it says so.
    pub driver: Option<String>,
    /// The version by which its pods are placed, as labels name it.
    pub version: Option<String>,
    /// What was wished of it when it was applied last; nothing where another operator has made it.
    pub wish: Option<String>,
    /// Whether somebody else has changed what it says.
    pub is_changed: bool,
    /// Whether its controller has looked at it as it is, and found no node that has its pods or should.
    pub is_idle: bool,
    /// Whether it is being deleted.
    pub is_leaving: bool,
}

impl SetSeen {
    /// The DRA driver that it runs for its Module. One without the annotation was made by another operator, for the present spec.
    fn driver<'s>(&'s self, module: &'s Module) -> Option<&'s str> {
        let said = self.driver.as_deref().or_else(|| claim::driver(module));
        said.filter(|_| self.role == Some(Role::Dra))
    }
}

/// The DRA drivers whose devices may have been claimed because of a Module: the one that it asks for, and those that its `DaemonSet`s
/// run still.
pub fn drivers<'s>(module: &Module, sets: impl IntoIterator<Item = &'s SetSeen>) -> BTreeSet<String> {
    let run = sets.into_iter().filter_map(|set| set.driver(module).map(str::to_owned));
    run.chain(claim::driver(module).map(str::to_owned)).collect()
}

/// Whether a `DaemonSet` runs a DRA driver that the Module does not ask for, or not by this one: it goes when nobody uses its devices.
pub fn is_former(module: &Module, set: &SetSeen) -> bool {
    set.role == Some(Role::Dra)
        && (Role::of(module) != Some(Role::Dra)
            || set.driver(module) != claim::driver(module)
            || set.name != daemon_set::name(module, Role::Dra))
}

/// A Module, and all that there is of its plugin.
#[derive(Debug)]
pub struct Observed<'a> {
    /// The Module.
    pub module: &'a Module,
    /// Its `DaemonSet`s.
    pub sets: &'a [SetSeen],
    /// The versions that nodes have of the Module, as labels name them.
    pub versions: &'a BTreeSet<String>,
    /// Pods of its plugin that belong to none of them any more, and have not ended.
    pub orphans: usize,
    /// The Pod Security Standard that its namespace enforces.
    pub enforces: Option<&'a str>,
    /// Of its [`drivers`] those whose devices are in use on some node, or may be for all that is known: by whom, in a sentence.
    pub in_use: &'a BTreeMap<String, String>,
}

impl<'a> Observed<'a> {
    /// Who has to be done with the devices of a `DaemonSet`'s driver before it goes or runs another: without its pods nobody would
    /// ever unprepare them. Where it has no pods it is of no use to anybody; but of a Module that is to go they may come back.
    fn users_of(&self, set: &'a SetSeen) -> Option<&'a str> {
        let is_deleted = self.module.metadata.deletion_timestamp.is_some();
        let users = self.in_use.get(set.driver(self.module)?)?;
        (is_deleted || !set.is_idle).then_some(users)
    }
}

/// What is to be written.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// To be applied.
    pub apply: Option<DaemonSet>,
    /// To be deleted.
    pub delete: Vec<SetSeen>,
    /// Why the plugin is not there as wished.
    pub problem: Option<Problem>,
}

/// Decides about a Module's `DaemonSet`s.
///
/// A former one is gone, and its pods are, before another is made that may run on the same nodes: two plugins for one resource would
/// take the socket from each other. Those of other versions stay for as long as nodes have them, also while no node may run their
/// pods: when the driver of the last one is back after a boot, its plugin has to come back, too, and nobody makes it anew.
pub fn plan(observed: &Observed<'_>) -> Plan {
    // What is there goes on running, also where the Module is to go.
    if is_paused(observed.module) {
        return Plan::default();
    }
    let wished = daemon_set(observed.module);
    let name = wished.as_ref().map(kube::ResourceExt::name_any);
    let is_it = |set: &SetSeen| name.as_ref() == Some(&set.name);
    let mut out = Plan::default();
    let mut is_in_the_way = observed.orphans > 0;
    let mut held = None;
    // What runs neither is somebody else's.
    for set in observed.sets.iter().filter(|set| !is_it(set) && set.role.is_some()) {
        let is_other_version = is_other_version(observed.module, set);
        is_in_the_way |= !is_other_version;
        let is_had = set.version.as_ref().is_some_and(|version| observed.versions.contains(version));
        let users = observed.users_of(set);
        if set.is_leaving || is_other_version && (!set.is_idle || is_had) {
            continue;
        }
        match users {
            Some(users) => held = held.or_else(|| Some(waiting(users))),
            None => out.delete.push(set.clone()),
        }
    }
    out.problem.clone_from(&held);
    let Some(wished) = wished else { return out };
    let present = observed.sets.iter().find(|set| is_it(set));
    let wish = wished.annotations().get(annotation::WISH).cloned();
    // By another name: who was given devices by the former is not known to the one that comes.
    let former = present.filter(|set| set.driver(observed.module) != claim::driver(observed.module));
    let users = former.and_then(|set| observed.users_of(set));
    out.problem = held.or_else(|| forbidden(observed));
    match present {
        Some(set) if set.is_leaving => out.problem = Some(replaced()),
        Some(set) if set.wish == wish && !set.is_changed => {}
        Some(_) if users.is_some() => out.problem = users.map(waiting),
        None if is_in_the_way => out.problem = out.problem.filter(is_claims).or_else(|| Some(replaced())),
        Some(_) | None => out.apply = Some(wished),
    }
    out
}

/// Whether a `DaemonSet` is that of a version that nodes may still have. One that KMM has left is so, too, unless it is that of the
/// version that the Module asks for: the same nodes would get two.
fn is_other_version(module: &Module, set: &SetSeen) -> bool {
    let Some(wished) = crate::node::version(module).map(labels::value) else { return false };
    let is_anothers = set.version.as_ref().is_some_and(|version| set.wish.is_some() || *version != wished);
    is_anothers && set.role.is_some() && set.role == Role::of(module)
}

fn waiting(users: &str) -> Problem {
    Problem { reason: reasons::WAITING_FOR_CLAIMS, message: users.to_owned() }
}

fn is_claims(problem: &Problem) -> bool {
    problem.reason == reasons::WAITING_FOR_CLAIMS
}

fn replaced() -> Problem {
    let message =
        "a former DaemonSet of the plugin, or its pods, are to be gone before the present one is made";
    Problem { reason: reasons::PLUGIN_REPLACED, message: message.to_owned() }
}

/// Its pods use directories of the host, which every standard but one forbids.
fn forbidden(observed: &Observed<'_>) -> Option<Problem> {
    let level = observed.enforces.filter(|level| *level != "privileged")?;
    let namespace = observed.module.namespace().unwrap_or_default();
    Some(Problem {
        reason: reasons::POD_SECURITY_FORBIDS,
        message: format!(
            "namespace {namespace} enforces the Pod Security Standard {level}, which forbids the pods of device plugins and DRA drivers: label it pod-security.kubernetes.io/enforce=privileged"
        ),
    })
}

#[cfg(test)]
mod tests {
    use tenon_api::labels;

    use super::*;

    fn module(version: &str) -> Module {
        let version = if version.is_empty() { String::new() } else { format!("version: '{version}', ") };
        serde_saphyr::from_str(&format!(
            "apiVersion: kmm.sigs.x-k8s.io/v1beta1\nkind: Module\nmetadata: {{name: gauge, namespace: lab, uid: m-1}}\nspec: {{selector: {{}}, moduleLoader: {{container: {{{version}modprobe: {{moduleName: gauge}}, kernelMappings: [{{regexp: '^.+$', containerImage: 'r.test/g:1'}}]}}}}, devicePlugin: {{container: {{image: 'r.test/p:1'}}}}}}\n"
        ))
        .expect("a Module")
    }

    fn seen(set: &DaemonSet) -> SetSeen {
        let selector = set.spec.as_ref().unwrap().selector.match_labels.as_ref().unwrap();
        let version = selector.iter().find(|(key, _)| key.contains("/version-"));
        SetSeen {
            name: set.name_any(),
            uid: "d-1".to_owned(),
            role: Role::of_label(set.labels().get(labels::ROLE).map(String::as_str)),
            driver: set.annotations().get(annotation::DRA_DRIVER).cloned(),
            version: version.map(|(_, version)| version.clone()),
            wish: set.annotations().get(annotation::WISH).cloned(),
            is_changed: false,
            is_idle: false,
            is_leaving: false,
        }
    }

    fn decide(module: &Module, sets: &[SetSeen]) -> Plan {
        plan(&Observed { sets, ..minimal(module) })
    }

    fn minimal(module: &Module) -> Observed<'_> {
        const NO_VERSIONS: &BTreeSet<String> = &BTreeSet::new();
        const NOBODY: &BTreeMap<String, String> = &BTreeMap::new();
        Observed { module, sets: &[], versions: NO_VERSIONS, orphans: 0, enforces: None, in_use: NOBODY }
    }

    #[test]
    fn it_is_made_once_and_written_again_only_when_it_differs() {
        let module = module("");
        let made = decide(&module, &[]).apply.unwrap();
        assert_eq!(decide(&module, &[seen(&made)]), Plan::default());
        let changed = SetSeen { is_changed: true, ..seen(&made) };
        assert!(decide(&module, &[changed]).apply.is_some(), "somebody has meddled with it");
        let former = SetSeen { wish: Some("former".to_owned()), ..seen(&made) };
        let plan = decide(&module, &[former]);
        assert!(plan.apply.is_some() && plan.delete.is_empty());
    }

    #[test]
    fn another_operators_goes_before_ours_comes() {
        let module = module("");
        let kmms = SetSeen {
            name: "gauge-device-plugin-x7k2p".to_owned(),
            wish: None,
            ..seen(&decide(&module, &[]).apply.unwrap())
        };
        let first = decide(&module, std::slice::from_ref(&kmms));
        assert_eq!((first.apply.as_ref(), first.delete.len()), (None, 1));
        assert_eq!(first.problem.unwrap().reason, reasons::PLUGIN_REPLACED);
        let leaving = SetSeen { is_leaving: true, ..kmms };
        assert_eq!(decide(&module, &[leaving]).apply, None);
        let orphans = plan(&Observed { orphans: 1, ..minimal(&module) });
        assert_eq!(orphans.apply, None, "its pods are still there");
        assert!(decide(&module, &[]).apply.is_some());
    }

    #[test]
    fn a_former_versions_stays_until_no_node_has_it() {
        let one = seen(&decide(&module("1"), &[]).apply.unwrap());
        let second = decide(&module("2"), std::slice::from_ref(&one));
        assert!(second.apply.is_some() && second.delete.is_empty());
        let two = seen(second.apply.as_ref().unwrap());
        let idle = SetSeen { is_idle: true, ..one.clone() };
        assert_eq!(decide(&module("2"), &[idle.clone(), two.clone()]).delete, [idle]);
        let idle = SetSeen { is_idle: true, ..two };
        assert_eq!(decide(&module("2"), &[one, idle]), Plan::default(), "the wished one stays");
    }

    #[test]
    fn what_kmm_left_of_another_version_stays_while_a_node_has_it_and_of_the_wished_one_it_goes() {
        let kmms = |version: &str| SetSeen {
            name: format!("gauge-device-plugin-{version}"),
            wish: None,
            ..seen(&decide(&module(version), &[]).apply.unwrap())
        };
        let (former, present) = (kmms("1"), kmms("2"));
        let first = decide(&module("2"), &[former.clone(), present.clone()]);
        assert_eq!((first.apply.as_ref(), first.delete), (None, vec![present]));
        let second = decide(&module("2"), std::slice::from_ref(&former));
        assert!(second.apply.is_some() && second.delete.is_empty());
        let idle = SetSeen { is_idle: true, ..former };
        assert_eq!(
            decide(&module("2"), std::slice::from_ref(&idle)).delete,
            [idle],
            "when no node has it any more"
        );
    }

    #[test]
    fn a_former_versions_stays_while_a_node_has_it_and_cannot_run_its_pod_for_a_moment() {
        let one = SetSeen { is_idle: true, ..seen(&decide(&module("1"), &[]).apply.unwrap()) };
        let two = seen(&decide(&module("2"), &[]).apply.unwrap());
        let (module, sets) = (module("2"), [one.clone(), two]);
        let with = |versions: &[&str]| {
            let versions = versions.iter().map(|version| (*version).to_owned()).collect();
            plan(&Observed { sets: &sets, versions: &versions, ..minimal(&module) }).delete
        };
        assert_eq!(with(&["1"]), []);
        assert_eq!(with(&["1", "2"]), []);
        assert_eq!(with(&["2", "3"]), [one]);
    }

    #[test]
    fn another_roles_goes_also_while_nodes_have_its_version() {
        let one = seen(&decide(&module("1"), &[]).apply.unwrap());
        let versions = [one.version.clone().unwrap()].into();
        let (module, sets) = (module("2"), [SetSeen { role: Some(Role::Dra), ..one }]);
        assert_eq!(plan(&Observed { sets: &sets, versions: &versions, ..minimal(&module) }).delete, sets);
    }

    #[test]
    fn from_unordered_to_ordered_and_back_there_are_never_two() {
        for (before, after) in [("", "1"), ("1", "")] {
            let former = seen(&decide(&module(before), &[]).apply.unwrap());
            let decided = decide(&module(after), std::slice::from_ref(&former));
            assert_eq!((decided.apply, decided.delete), (None, vec![former]));
        }
    }

    #[test]
    fn a_paused_modules_plugin_stays_as_it_is() {
        let mut module = module("1");
        let made = seen(&decide(&module, &[]).apply.unwrap());
        module.annotations_mut().insert(annotation::PAUSED.to_owned(), "true".to_owned());
        assert_eq!(decide(&module, &[]), Plan::default(), "nothing comes");
        module.metadata.deletion_timestamp = Some(serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap());
        assert_eq!(decide(&module, std::slice::from_ref(&made)), Plan::default(), "nothing goes");
    }

    /// What a Module with a DRA driver may have become by its user's hand.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Turned {
        Same,
        Renamed,
        Versioned,
        Without,
        DevicePlugin,
        Deleted,
    }

    fn turned(into: Turned) -> Module {
        let mut module = module(if into == Turned::Versioned { "1" } else { "" });
        let driver = if into == Turned::Renamed { "meter.test" } else { "gauge.test" };
        if into != Turned::DevicePlugin {
            module.spec.device_plugin = None;
        }
        if !matches!(into, Turned::Without | Turned::DevicePlugin) {
            let dra = serde_json::json!({"driverName": driver, "container": {"image": "r.test/d:1"}});
            module.spec.dra = Some(serde_json::from_value(dra).unwrap());
        }
        if into == Turned::Deleted {
            let now = serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap();
            module.metadata.deletion_timestamp = Some(now);
        }
        module
    }

    /// Every way in which a DRA driver is given up or changed, by everything that counts for whether it may go.
    #[test]
    fn a_dra_driver_that_is_not_wished_any_more_stays_as_long_as_its_devices_are_in_use() {
        use Turned::{Deleted, DevicePlugin, Renamed, Same, Versioned, Without};
        let made = seen(&decide(&turned(Same), &[]).apply.unwrap());
        assert_eq!(made.driver.as_deref(), Some("gauge.test"));
        let told = "pine: pod hall/x uses claim hall/c";
        for into in [Same, Renamed, Versioned, Without, DevicePlugin, Deleted] {
            for used in [None, Some("gauge.test"), Some("meter.test"), Some("other.test")] {
                for (is_idle, is_leaving) in [(false, false), (true, false), (false, true), (true, true)] {
                    let state = format!("{into:?}, {used:?} is in use, idle {is_idle}, leaving {is_leaving}");
                    let (module, set) = (turned(into), SetSeen { is_idle, is_leaving, ..made.clone() });
                    let in_use: BTreeMap<_, _> =
                        used.map(|driver| (driver.to_owned(), told.to_owned())).into_iter().collect();
                    let sets = std::slice::from_ref(&set);
                    let plan = plan(&Observed { sets, in_use: &in_use, ..minimal(&module) });
                    assert_eq!(is_former(&module, &set), into != Same, "{state}");

                    let has_users = used == Some("gauge.test") && (!is_idle || into == Deleted);
                    let is_held = into != Same && has_users && !is_leaving;
                    let is_gone_first = matches!(into, Versioned | DevicePlugin);
                    let goes = !matches!(into, Same | Renamed) && !is_held && !is_leaving;
                    assert_eq!(plan.delete, if goes { vec![set] } else { Vec::new() }, "{state}");
                    assert_eq!(plan.apply.is_some(), into == Renamed && !is_held && !is_leaving, "{state}");
                    let is_replaced = is_gone_first || is_leaving && matches!(into, Same | Renamed);
                    let reason = match () {
                        () if is_held => Some(reasons::WAITING_FOR_CLAIMS),
                        () if is_replaced => Some(reasons::PLUGIN_REPLACED),
                        () => None,
                    };
                    assert_eq!(plan.problem.as_ref().map(|problem| problem.reason), reason, "{state}");
                    assert!(!is_held || plan.problem.unwrap().message == told, "{state}: they are named");
                }
            }
        }
    }

    #[test]
    fn a_modules_drivers_are_the_one_it_asks_for_and_those_that_its_sets_run() {
        let made = seen(&decide(&turned(Turned::Same), &[]).apply.unwrap());
        let of = |into, set: &SetSeen| drivers(&turned(into), [set]).into_iter().collect::<Vec<_>>();
        assert_eq!(of(Turned::Renamed, &made), ["gauge.test", "meter.test"]);
        assert_eq!(of(Turned::Without, &made), ["gauge.test"]);
        let anothers = SetSeen { driver: None, ..made.clone() };
        assert_eq!(of(Turned::Renamed, &anothers), ["meter.test"], "KMM's says nothing");
        let plugins = SetSeen { role: Some(Role::DevicePlugin), driver: None, ..made };
        assert!(of(Turned::DevicePlugin, &plugins).is_empty());
    }

    #[test]
    fn nothing_is_left_of_what_is_not_wished() {
        let mut module = module("1");
        let made = seen(&decide(&module, &[]).apply.unwrap());
        module.metadata.deletion_timestamp = Some(serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap());
        assert_eq!(decide(&module, std::slice::from_ref(&made)).delete, std::slice::from_ref(&made));
        module.metadata.deletion_timestamp = None;
        module.spec.device_plugin = None;
        assert_eq!(decide(&module, std::slice::from_ref(&made)).delete, [made]);
    }

    #[test]
    fn a_namespace_that_forbids_its_pods_is_named() {
        let module = module("");
        let enforced = |level| plan(&Observed { enforces: level, ..minimal(&module) });
        assert_eq!(enforced(Some("privileged")).problem, None);
        let plan = enforced(Some("restricted"));
        assert!(plan.apply.is_some(), "it is there as soon as it may be");
        assert!(plan.problem.unwrap().message.contains("enforces the Pod Security Standard restricted"));
    }
}
