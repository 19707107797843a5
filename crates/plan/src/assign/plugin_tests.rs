//! One node with a driver and its plugin, played through: what leaves first, what comes back last, and at what price.

use std::collections::BTreeMap;

use rstest::rstest;
use tenon_api::labels::{HOLD, annotation};
use tenon_api::node_modules_config::ModulePhase;
use tenon_order::Wish;

use super::{Assignment, OrderChange, reasons};
use crate::fixture::{Play, module, ready_image};
use crate::rollout::Turn;
use crate::workload::claim::{InUse, Users};
use crate::workload::{PluginPod, Role};

const READY: &str = "kmm.node.kubernetes.io/lab.gauge.ready";
const TARGET: &str = "kmm.node.kubernetes.io/lab.gauge.device-plugin-target";
const PLUGIN_READY: &str = "kmm.node.kubernetes.io/lab.gauge.device-plugin-ready";
const DRA_READY: &str = "kmm.node.kubernetes.io/lab.gauge.dra-ready";
const USERS: &str = "kmm.node.kubernetes.io/version-module.lab.gauge";
const WORKER: &str = "beta.kmm.node.kubernetes.io/version-worker-pod.lab.gauge";
const SCHEDULE: &str = "beta.kmm.node.kubernetes.io/version-schedule-pod.lab.gauge";
const FORMER: &str = "beta.kmm.node.kubernetes.io/version-device-plugin.lab.gauge";

fn versioned(version: &str, image: &str) -> tenon_api::Module {
    let version = if version.is_empty() { String::new() } else { format!("version: '{version}'\n") };
    module(&format!(
        "{version}modprobe: {{moduleName: gauge}}\nkernelMappings: [{{regexp: '^.+$'}}]\ncontainerImage: 'registry.test/gauge:{image}'"
    ))
}

/// A node on which a Module of this version, with a device plugin, is settled and its plugin runs.
fn running(version: &str) -> Play {
    let mut play = Play::registered();
    play.wish(version, "1", 'a');
    if !version.is_empty() {
        play.label(USERS, version);
    }
    play.settle();
    play.start_plugin();
    play.settle();
    play.writes = 0;
    play
}

impl Play {
    fn wish(&mut self, version: &str, image: &str, fill: char) {
        let mut module = versioned(version, image);
        module.spec.device_plugin = Some(tenon_api::module::DevicePlugin::default());
        self.module = Some(module);
        self.image = Some(ready_image(&format!("registry.test/gauge:{image}"), fill));
    }

    fn label(&mut self, key: &str, value: &str) {
        self.node.labels.insert(key.to_owned(), value.to_owned());
    }

    fn says(&self, key: &str) -> Option<&str> {
        self.node.labels.get(key).map(String::as_str)
    }

    /// What a DaemonSet's controller and a kubelet do where the labels let them.
    fn start_plugin(&mut self) {
        assert!(self.says(READY).is_some() && self.says(TARGET).is_some(), "{:?}", self.node.labels);
        self.pods = vec![pod(Role::DevicePlugin, true)];
    }

    fn is_told_to_change(&self) -> bool {
        self.decide().order != OrderChange::Keep
    }
}

fn pod(role: Role, is_ready: bool) -> PluginPod {
    PluginPod { name: "gauge-device-plugin-x".to_owned(), role, is_ready }
}

#[test]
fn a_load_with_a_plugin_costs_four_writes() {
    let mut play = Play::registered();
    play.wish("1", "1", 'a');
    play.label(USERS, "1");
    play.settle();
    assert_eq!(play.writes, 3, "assign, report, and one for all labels");
    let labels = [READY, TARGET, WORKER, SCHEDULE].map(|key| play.says(key));
    assert_eq!(labels, [Some(""), Some(""), Some("1"), Some("1")]);
    assert_eq!(play.says(PLUGIN_READY), None);
    play.start_plugin();
    play.settle();
    assert_eq!((play.says(PLUGIN_READY), play.writes), (Some(""), 4));
    assert_eq!(play.decide(), Assignment::default(), "and then nothing is written");
}

#[test]
fn a_change_of_the_plugin_alone_touches_neither_driver_nor_node() {
    let mut play = running("");
    let plugin = play.module.as_mut().and_then(|module| module.spec.device_plugin.as_mut()).unwrap();
    plugin.container.image = "registry.test/plugin:2".to_owned();
    play.module.as_mut().unwrap().metadata.generation = Some(4);
    assert_eq!(play.decide(), Assignment::default());
}

#[test]
fn before_a_driver_is_changed_its_plugin_leaves_and_comes_back_after() {
    let mut play = running("");
    play.wish("", "2", 'b');
    let first = play.decide_and_apply();
    assert_eq!(first.order, OrderChange::Keep, "the plugin is still there");
    assert_eq!(first.waiting[&Play::key()].reason, reasons::WAITING_FOR_PLUGIN);
    assert_eq!((play.says(READY), play.says(PLUGIN_READY)), (None, None));
    assert!(!play.is_told_to_change());
    play.pods = vec![pod(Role::DevicePlugin, false)];
    assert_eq!(play.decide_and_apply().labels, BTreeMap::new(), "it ends; nothing is written meanwhile");
    play.pods.clear();
    play.settle();
    assert_eq!(play.says(READY), Some(""));
    play.start_plugin();
    play.settle();
    assert_eq!(play.says(PLUGIN_READY), Some(""));
    assert!(play.writes <= 7, "{}", play.writes);
    assert_eq!(play.writes, 5, "withdraw, assign, report, label, and the plugin's label");
}

#[test]
fn an_ordered_change_goes_step_by_step_at_six_writes() {
    let mut play = running("1");
    play.wish("2", "2", 'b');
    assert_eq!(play.decide_and_apply().order, OrderChange::Keep, "the node's label does not ask for it yet");
    assert_eq!((play.says(READY), play.writes), (Some(""), 0));
    play.label(USERS, "2");
    play.decide_and_apply();
    assert_eq!([READY, SCHEDULE, WORKER].map(|key| play.says(key)), [None, None, Some("1")]);
    assert!(!play.is_told_to_change());
    play.pods.clear();
    let ordered = play.decide_and_apply();
    assert!(matches!(ordered.order, OrderChange::Replace(_)));
    assert_eq!(play.says(WORKER), None, "before the order goes out");
    play.obey();
    play.settle();
    assert_eq!([READY, SCHEDULE, WORKER].map(|key| play.says(key)), [Some(""), Some("2"), Some("2")]);
    play.start_plugin();
    play.settle();
    assert_eq!(play.writes, 6);
}

#[rstest]
#[case::the_module_is_deleted(|play: &mut Play| play.delete_module())]
#[case::the_node_is_not_selected(|play: &mut Play| { play.node.labels.remove("hall"); })]
#[case::the_version_label_goes(|play: &mut Play| { play.node.labels.remove(USERS); })]
fn before_a_driver_is_removed_its_plugin_leaves(#[case] end: impl Fn(&mut Play)) {
    let mut play = running("1");
    end(&mut play);
    let first = play.decide_and_apply();
    assert_eq!(first.order, OrderChange::Keep);
    assert_eq!([READY, TARGET, PLUGIN_READY, SCHEDULE].map(|key| play.says(key)), [None; 4]);
    assert_eq!(play.says(WORKER), Some("1"));
    assert!(!play.is_told_to_change());
    play.pods.clear();
    play.decide_and_apply();
    let wish = play.order.as_ref().and_then(|order| order.wish(&Play::key()).cloned());
    assert_eq!(wish, Some(Wish::Removed));
    assert_eq!(play.says(WORKER), None);
    play.pods = vec![pod(Role::DevicePlugin, true)];
    assert!(!matches!(play.decide().order, OrderChange::Withdraw), "what is ordered is not taken back");
}

#[test]
fn a_module_that_gives_up_its_driver_keeps_its_plugin_running_and_is_not_held_up_by_it() {
    let mut play = running("");
    play.module.as_mut().unwrap().spec.module_loader = None;
    play.settle();
    assert!(play.config.as_ref().unwrap().spec.modules.is_empty());
    assert!(play.status().modules.is_empty(), "the driver is gone");
    assert_eq!((play.says(READY), play.says(TARGET), play.says(PLUGIN_READY)), (None, Some(""), Some("")));
}

#[rstest]
fn on_a_paused_module_and_a_node_on_hold_the_plugin_stays_where_it_is(
    #[values(
        |play: &mut Play| play.delete_module(),
        |play: &mut Play| play.module.as_mut().unwrap().spec.device_plugin = None,
        |play: &mut Play| play.wish("", "2", 'b'),
    )]
    happens: fn(&mut Play),
    #[values(true, false)] by_module: bool,
) {
    let mut play = running("");
    happens(&mut play);
    if by_module {
        let annotations = &mut play.module.as_mut().unwrap().metadata.annotations;
        annotations.get_or_insert_default().insert(annotation::PAUSED.to_owned(), "true".to_owned());
    } else {
        play.label(HOLD, "true");
    }
    let decided = Assignment { waiting: BTreeMap::new(), ..play.decide() };
    assert_eq!(decided, Assignment::default());
    assert_eq!((play.says(TARGET), play.says(PLUGIN_READY)), (Some(""), Some("")));
}

#[test]
fn a_node_that_was_switched_off_does_not_load_what_was_removed_meanwhile_however_its_pods_hang() {
    let mut play = running("");
    let unreachable = k8s_openapi::api::core::v1::Taint {
        key: "node.kubernetes.io/unreachable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Default::default()
    };
    play.node.taints.push(unreachable);
    play.delete_module();
    play.decide_and_apply();
    play.decide_and_apply();
    let wish = |play: &Play| play.order.as_ref().and_then(|order| order.wish(&Play::key()).cloned());
    assert!(!play.pods.is_empty(), "nobody ends them");
    assert_eq!(wish(&play), Some(Wish::Removed));
    // It is back, and its kubelet has not ended them yet.
    play.node.taints.clear();
    play.decide_and_apply();
    assert_eq!(wish(&play), Some(Wish::Removed), "what is ordered is not taken back");
}

#[test]
fn a_cordon_takes_neither_driver_nor_plugin_and_holds_up_no_change() {
    let mut play = running("");
    play.node.taints.push(k8s_openapi::api::core::v1::Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Default::default()
    });
    assert_eq!(play.decide(), Assignment::default());
    play.delete_module();
    play.decide_and_apply();
    assert_eq!(play.says(READY), None);
    play.pods.clear();
    assert!(play.is_told_to_change(), "what goes, goes on a cordoned node, too");
}

#[test]
fn a_plugin_that_does_not_leave_holds_up_only_a_node_that_has_its_turn() {
    let mut play = running("");
    play.wish("", "2", 'b');
    play.turn = Turn::Refused { unavailable: 1, allowed: 1 };
    let refused = play.decide();
    assert_eq!(
        (refused.labels.len(), &*refused.waiting[&Play::key()].reason),
        (0, reasons::WAITING_FOR_ROLLOUT)
    );
    play.turn = Turn::Unasked;
    assert!(play.decide().asks.contains(&Play::key()));
    play.node.taints.push(k8s_openapi::api::core::v1::Taint {
        key: "node.kubernetes.io/unreachable".to_owned(),
        effect: "NoExecute".to_owned(),
        ..Default::default()
    });
    assert!(play.decide().asks.is_empty(), "a node that has fallen silent gives its turn back");
}

#[test]
fn a_version_that_comes_later_unloads_nothing_and_reloads_nothing() {
    let mut play = running("");
    play.wish("1", "1", 'a');
    let decided = play.decide_and_apply();
    assert_eq!(decided.order, OrderChange::Keep);
    assert_eq!(decided.waiting[&Play::key()].reason, reasons::WAITING_FOR_VERSION_LABEL);
    assert_eq!((play.says(READY), play.says(WORKER)), (Some(""), None));
    let order = play.order.clone();
    play.label(USERS, "1");
    play.settle();
    assert_eq!(play.order, order, "the same content is not loaded anew");
    assert_eq!([WORKER, SCHEDULE].map(|key| play.says(key)), [Some("1"); 2]);
    play.node.labels.remove(USERS);
    play.pods.clear();
    play.settle();
    assert_eq!(play.says(READY), None, "from now on the label counts");
}

#[test]
fn a_version_that_goes_unloads_nothing_and_leaves_no_label() {
    let mut play = running("1");
    let order = play.order.clone();
    play.wish("", "1", 'a');
    play.settle();
    assert_eq!((play.order.clone(), play.says(READY)), (order, Some("")));
    // The pods may be those of the plugin without a version already, and stay.
    assert_eq!([SCHEDULE, WORKER].map(|key| play.says(key)), [None, None]);
}

#[test]
fn the_former_name_of_the_schedules_label_is_understood_and_cleaned_up() {
    let mut play = running("1");
    play.label(FORMER, "1");
    play.node.labels.remove(SCHEDULE);
    play.settle();
    assert_eq!([SCHEDULE, FORMER].map(|key| play.says(key)), [Some("1"); 2]);
    play.wish("2", "2", 'b');
    play.label(USERS, "2");
    play.decide_and_apply();
    assert_eq!([SCHEDULE, FORMER].map(|key| play.says(key)), [None; 2]);
}

#[test]
fn a_dra_drivers_pod_has_a_label_of_its_own() {
    let mut play = Play::registered();
    play.wish("", "1", 'a');
    let spec = &mut play.module.as_mut().unwrap().spec;
    spec.device_plugin = None;
    spec.dra = Some(tenon_api::module::Dra::default());
    play.settle();
    play.pods = vec![pod(Role::Dra, true)];
    play.settle();
    assert_eq!([DRA_READY, PLUGIN_READY, TARGET].map(|key| play.says(key)), [Some(""), None, None]);
    play.pods = vec![pod(Role::Dra, false)];
    play.settle();
    assert_eq!(play.says(DRA_READY), None);
}

#[test]
fn a_driver_that_fails_keeps_the_plugin_away_at_no_price() {
    let mut play = running("");
    play.node.boot_id = "boot-2".to_owned();
    play.pods.clear();
    play.decide_and_apply();
    assert_eq!([READY, TARGET, PLUGIN_READY].map(|key| play.says(key)), [None, Some(""), None]);
    play.answer(ModulePhase::Loaded);
    play.settle();
    assert_eq!(play.says(READY), Some(""));
}

/// A node on which a Module with a DRA driver is settled, and its plugin runs.
fn running_dra() -> Play {
    let mut play = Play::registered();
    play.wish_dra("1", 'a');
    play.settle();
    play.pods = vec![pod(Role::Dra, true)];
    play.settle();
    play.writes = 0;
    play
}

impl Play {
    fn wish_dra(&mut self, image: &str, fill: char) {
        self.wish("", image, fill);
        let spec = &mut self.module.as_mut().unwrap().spec;
        spec.device_plugin = None;
        spec.dra =
            Some(tenon_api::module::Dra { driver_name: "gauge.test".to_owned(), ..Default::default() });
    }

    fn use_devices(&mut self) {
        let first = InUse {
            claim: "hall/c".to_owned(),
            node: self.node.name.clone(),
            drivers: ["gauge.test".to_owned()].into(),
            user: "pod hall/x".to_owned(),
        };
        self.users = Users::Known { first, others: 0 };
    }
}

#[rstest]
fn as_long_as_devices_are_in_use_neither_driver_nor_plugin_leaves(
    #[values(
        |play: &mut Play| play.wish_dra("2", 'b'),
        |play: &mut Play| play.delete_module(),
        |play: &mut Play| play.module.as_mut().unwrap().spec.module_loader = None,
        |play: &mut Play| { play.node.labels.remove("hall"); },
    )]
    happens: fn(&mut Play),
    #[values(true, false)] is_known: bool,
    #[values(Turn::Unasked, Turn::Given)] turn: Turn,
) {
    let mut play = running_dra();
    play.use_devices();
    if !is_known {
        play.users = Users::Unknown;
    }
    assert_eq!(play.decide(), Assignment::default(), "use alone is nothing to write of");
    happens(&mut play);
    play.turn = turn;
    let held = play.decide();
    assert_eq!(held.waiting[&Play::key()].reason, reasons::WAITING_FOR_CLAIMS);
    assert_eq!(is_known, held.waiting[&Play::key()].message.starts_with("pod hall/x uses claim hall/c: "));
    assert!(held.asks.is_empty(), "a node that is not to change takes no turn from another");
    assert_eq!(held.order, OrderChange::Keep);
    assert!(!held.labels.contains_key(READY), "{:?}", held.labels);
    assert_eq!(held.config, None);
    // It ends by itself when they are gone: first the plugin, then the driver.
    play.users = Users::Nobody;
    play.turn = Turn::Given;
    let keeps_plugin = play.module.as_ref().unwrap().spec.module_loader.is_none();
    if !keeps_plugin {
        play.decide_and_apply();
        assert_eq!(play.says(READY), None);
        assert!(!play.is_told_to_change(), "the plugin is there");
        play.pods.clear();
    }
    assert!(play.is_told_to_change());
}

#[test]
fn a_user_that_comes_while_the_plugin_leaves_has_it_come_back() {
    let mut play = running_dra();
    play.wish_dra("2", 'b');
    play.decide_and_apply();
    assert_eq!(play.says(READY), None);
    play.pods.clear();
    play.use_devices();
    play.decide_and_apply();
    assert_eq!(play.says(READY), Some(""), "else nobody would prepare its devices, or unprepare them");
    assert!(!play.is_told_to_change());
}

#[test]
fn users_hold_up_nothing_where_the_plugin_is_away_anyhow() {
    // The driver failed: its plugin is away, and nobody could unprepare anything before there is another.
    let mut play = running_dra();
    play.wish_dra("2", 'b');
    play.pods.clear();
    play.decide_and_apply();
    play.answer(ModulePhase::Failed);
    play.use_devices();
    play.wish_dra("3", 'c');
    assert!(play.is_told_to_change());
    // A first load takes nothing from anybody.
    let mut play = Play::registered();
    play.use_devices();
    play.wish_dra("1", 'a');
    play.settle();
    assert_eq!(play.says(READY), Some(""));
}

#[test]
fn on_a_cordoned_node_the_order_is_the_same_and_on_a_silent_one_nobody_is_waited_for() {
    let taint = |key: &str| k8s_openapi::api::core::v1::Taint {
        key: key.to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Default::default()
    };
    let mut play = running_dra();
    play.node.taints.push(taint("node.kubernetes.io/unschedulable"));
    play.use_devices();
    play.delete_module();
    assert_eq!(play.decide().waiting[&Play::key()].reason, reasons::WAITING_FOR_CLAIMS);
    play.users = Users::Nobody;
    play.decide_and_apply();
    assert_eq!(play.says(READY), None, "its pod leaves a cordoned node, too");
    let mut play = running_dra();
    play.use_devices();
    play.node.taints.push(taint("node.kubernetes.io/unreachable"));
    play.delete_module();
    play.decide_and_apply();
    let wish = play.order.as_ref().and_then(|order| order.wish(&Play::key()).cloned());
    assert_eq!(wish, Some(Wish::Removed));
}
