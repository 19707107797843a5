//! One node, played through: what is written when, and above all what is not unloaded.

use k8s_openapi::api::core::v1::LocalObjectReference;
use kube::ResourceExt as _;
use proptest::prelude::*;
use rstest::rstest;
use tenon_api::labels::{HOLD, STARTUP_TAINT, annotation};
use tenon_api::module::{Modprobe, Validation};
use tenon_api::node_modules_config::ModulePhase;
use tenon_order::{KmodName, Wish};

use super::assigned::MOST_AHEAD;
use super::*;
use crate::fixture::{KERNEL, NOW, Play, bundle, default_image, module, ready_image};

fn wish(play: &Play) -> Option<Wish> {
    play.order.as_ref().and_then(|order| order.wish(&Play::key()).cloned())
}

#[test]
fn a_module_is_loaded_with_three_writes_and_then_nothing_is_written() {
    let mut play = Play::registered();
    play.settle();
    assert!(play.is_ready());
    assert_eq!(play.writes, 3, "assign, report, label");
    let Some(Wish::Loaded(load)) = wish(&play) else { panic!("{:?}", play.order) };
    assert_eq!((load.kernel.as_str(), load.bundle.to_string()), (KERNEL, bundle('a')));
    assert_eq!(play.decide(), Assignment::default());
}

#[test]
fn nothing_is_promised_to_a_node_whose_agent_has_not_registered() {
    let mut play = Play::registered();
    play.status().store_id = None;
    let decided = play.decide();
    assert_eq!((decided.config, decided.order), (None, OrderChange::Keep));
    assert_eq!(decided.waiting.get(&Play::key()).unwrap().reason, reasons::WAITING_FOR_NODE);
}

#[test]
fn a_change_costs_four_writes_and_withdraws_the_label_first() {
    let mut play = Play::registered();
    play.settle();
    play.image = Some(default_image('b'));
    play.writes = 0;
    let decided = play.decide();
    assert_eq!(decided.labels.into_values().collect::<Vec<_>>(), [None]);
    assert!(matches!(decided.order, OrderChange::Replace(_)));
    play.settle();
    assert!(play.is_ready());
    assert_eq!(play.writes, 4, "withdraw, assign, report, label");
}

#[test]
fn a_removal_costs_four_writes_and_leaves_nothing() {
    let mut play = Play::registered();
    play.settle();
    play.delete_module();
    play.writes = 0;
    let decided = play.decide_and_apply();
    assert_eq!(wish(&play), Some(Wish::Removed));
    assert!(decided.labels.values().all(Option::is_none) && !play.is_ready());
    play.obey();
    play.settle();
    assert_eq!(play.writes, 4, "withdraw, order the removal, report, tidy up");
    let config = play.config.as_ref().unwrap();
    assert_eq!((play.order.as_ref(), config.spec.modules.len(), config.labels().len()), (None, 0, 0));
    assert_eq!(play.decide(), Assignment::default());
}

#[test]
fn a_module_that_is_wanted_again_while_it_goes_is_not_ready_before_it_is_back() {
    let mut play = Play::registered();
    play.settle();
    play.node.labels.remove("hall");
    play.decide_and_apply();
    assert_eq!(wish(&play), Some(Wish::Removed));
    play.node.labels.insert("hall".to_owned(), "a".to_owned());
    // What the node has reported is from before it was told to unload.
    play.decide_and_apply();
    assert!(matches!(wish(&play), Some(Wish::Loaded(_))));
    assert!(!play.is_ready(), "while the removal is in force");
    play.decide_and_apply();
    assert!(!play.is_ready(), "while nobody knows whether it was carried out");
    play.obey();
    play.settle();
    assert!(play.is_ready());
}

#[test]
fn a_ready_label_stays_while_another_order_for_the_same_content_is_on_its_way() {
    let mut play = Play::registered();
    play.settle();
    play.order.as_mut().unwrap().generation.0 += 5;
    assert_eq!(play.decide().labels, BTreeMap::new());
    assert!(play.is_ready());
}

#[test]
fn a_removal_stays_ordered_until_the_node_confirms_it() {
    let mut play = Play::registered();
    play.settle();
    play.delete_module();
    play.decide_and_apply();
    play.now += 3_600_000;
    assert_eq!(play.decide(), Assignment::default(), "the node has not answered");
    play.answer(ModulePhase::Loaded);
    assert_eq!(wish(&play), Some(Wish::Removed));
    // The report names nothing any more, but it is about an older order: no confirmation.
    play.status().order_generation = Some(1);
    assert_eq!(play.decide().order, OrderChange::Keep);
}

#[rstest]
#[case::image_gone(|play: &mut Play| play.image = None)]
#[case::image_being_resolved(|play: &mut Play| play.image.as_mut().unwrap().metadata.generation = Some(2))]
#[case::cordoned(|play: &mut Play| play.node.taints = vec![taint("node.kubernetes.io/unschedulable", "NoSchedule")])]
#[case::tainted(|play: &mut Play| play.node.taints = vec![taint("acme.test/broken", "NoExecute")])]
#[case::bad_template(|play: &mut Play| {
    play.module = Some(module("modprobe: {moduleName: gauge}\nkernelMappings: [{regexp: '.'}]\ncontainerImage: 'a:${NOPE}'"));
})]
#[case::refused_argument(|play: &mut Play| {
    play.module = Some(module(
        "modprobe: {moduleName: gauge, args: {load: ['--force']}}\nkernelMappings: [{regexp: '.'}]\ncontainerImage: 'a:b'",
    ));
})]
fn what_is_loaded_stays(#[case] happens: fn(&mut Play)) {
    let mut play = Play::registered();
    play.settle();
    let before = (play.config.clone(), play.order.clone());
    happens(&mut play);
    play.settle();
    assert_eq!((play.config.clone(), play.order.clone()), before);
    assert!(play.is_ready());
}

fn taint(key: &str, effect: &str) -> k8s_openapi::api::core::v1::Taint {
    k8s_openapi::api::core::v1::Taint { key: key.to_owned(), effect: effect.to_owned(), ..Default::default() }
}

#[rstest]
#[case::deleted(|play: &mut Play| play.delete_module())]
#[case::deselected(|play: &mut Play| drop(play.node.labels.remove("hall")))]
#[case::mapping_removed(|play: &mut Play| {
    play.module = Some(module("modprobe: {moduleName: gauge}\nkernelMappings: [{literal: other}]\ncontainerImage: 'a:b'"));
})]
#[case::loader_removed(|play: &mut Play| play.module.as_mut().unwrap().spec.module_loader = None)]
fn a_changed_wish_unloads(#[case] happens: fn(&mut Play)) {
    let mut play = Play::registered();
    play.settle();
    happens(&mut play);
    play.decide_and_apply();
    assert_eq!(wish(&play), Some(Wish::Removed));
}

#[rstest]
fn a_paused_module_and_a_node_on_hold_stay_as_they_are_until_they_are_told_to_go_on(
    #[values(
        |play: &mut Play| play.delete_module(),
        |play: &mut Play| drop(play.node.labels.remove("hall")),
        |play: &mut Play| play.module.as_mut().unwrap().spec.module_loader = None,
        |play: &mut Play| play.image = Some(default_image('b')),
    )]
    happens: fn(&mut Play),
    #[values(true, false)] by_module: bool,
) {
    let mut play = Play::registered();
    play.settle();
    let before = (play.config.clone(), play.order.clone());
    happens(&mut play);
    let module = play.module.as_mut().unwrap();
    if by_module {
        module.annotations_mut().insert(annotation::PAUSED.to_owned(), "true".to_owned());
    } else {
        play.node.labels.insert(HOLD.to_owned(), "true".to_owned());
    }
    let decided = play.decide_and_apply();
    play.settle();
    assert_eq!((&play.config, &play.order), (&before.0, &before.1));
    assert!(play.is_ready());
    let told = decided.waiting.values().next().unwrap().reason.clone();
    assert_eq!(told, if by_module { reasons::PAUSED } else { reasons::NODE_ON_HOLD });

    play.node.labels.remove(HOLD);
    play.module.as_mut().unwrap().annotations_mut().remove(annotation::PAUSED);
    play.settle();
    assert_ne!(play.order, before.1);
}

#[rstest]
#[case::paused(|play: &mut Play| {
    play.module.as_mut().unwrap().annotations_mut().insert(annotation::PAUSED.to_owned(), String::new());
})]
#[case::on_hold(|play: &mut Play| drop(play.node.labels.insert(HOLD.to_owned(), "broken-fan".to_owned())))]
#[case::tainted(|play: &mut Play| play.node.taints = vec![taint("acme.test/broken", "NoSchedule")])]
#[case::deselected(|play: &mut Play| drop(play.node.labels.remove("hall")))]
#[case::deleted(|play: &mut Play| play.delete_module())]
#[case::no_image(|play: &mut Play| play.image = None)]
#[case::other_image(|play: &mut Play| play.image = Some(ready_image("registry.test/old:1", 'c')))]
fn nothing_new_comes_to_a_node(#[case] that_is: fn(&mut Play)) {
    let mut play = Play::registered();
    that_is(&mut play);
    play.settle();
    assert_eq!((play.writes, play.order.clone()), (0, None));
}

#[test]
fn a_module_that_is_simply_not_there_is_forgotten_and_never_ordered_away() {
    let mut play = Play::registered();
    play.settle();
    play.module = None;
    let decided = play.decide_and_apply();
    assert!(matches!(&decided.order, OrderChange::Replace(order) if order.modules.is_empty()), "{decided:?}");
    assert!(decided.config.unwrap().spec.modules.is_empty());
    assert_eq!(play.decide(), Assignment::default(), "until the node has heard of it");
    let generation = play.order.as_ref().and_then(|order| i64::try_from(order.generation.0).ok());
    play.status().order_generation = generation;
    play.status().modules.iter_mut().for_each(|module| module.phase = Some(ModulePhase::Orphaned));
    assert_eq!(play.decide(), Assignment::default(), "that is how it stays");
}

#[test]
fn a_node_made_anew_that_follows_an_order_about_a_module_that_is_gone_is_told_that_nothing_is_ordered() {
    let mut play = Play::registered();
    play.settle();
    // With its Node the object went, with it the order; the machine has them both yet.
    play.order = None;
    let config = play.config.as_mut().unwrap();
    (config.spec.order, config.spec.modules) = (None, Vec::new());
    let image = play.image.take();
    assert_eq!(
        play.decide().order,
        OrderChange::Keep,
        "what is loaded is the Module's, whose image is looked for"
    );
    play.image = image;
    play.module = None;
    let decided = play.decide();
    assert!(matches!(&decided.order, OrderChange::Replace(order) if order.modules.is_empty()), "{decided:?}");
}

#[test]
fn a_removal_under_a_key_that_is_gone_is_ordered_anew_as_long_as_there_is_a_module_that_wants_it() {
    let mut play = Play::registered();
    play.settle();
    play.delete_module();
    play.decide_and_apply();
    let former = play.order.clone().unwrap();
    play.status().modules.clear();
    play.is_unproven = true;
    play.now += 1_000;
    let decided = play.decide();
    let OrderChange::Replace(order) = &decided.order else { panic!("{decided:?}") };
    assert_eq!(order.wish(&Play::key()), Some(&Wish::Removed));
    assert!(order.generation > former.generation);
    let module = play.module.take();
    assert_eq!(play.decide().order, OrderChange::Withdraw, "on its word alone nothing is removed");
    play.status().order_generation = i64::try_from(former.generation.0).ok();
    play.delete_module_of(module.unwrap());
    assert_eq!(play.decide().order, OrderChange::Withdraw, "the node has followed it");
}

#[test]
fn a_startup_taint_goes_when_every_driver_is_ready_and_labelled() {
    let mut play = Play::registered();
    let starting = |effect: &str| taint(STARTUP_TAINT, effect);
    play.node.taints =
        vec![starting("NoSchedule"), taint("acme.test/gpu", "PreferNoSchedule"), starting("NoExecute")];
    let untaint = |play: &Play| play.decide().untaint;
    assert_eq!(untaint(&play), Vec::<usize>::new(), "the driver is to come");
    play.decide_and_apply();
    assert!(wish(&play).is_some(), "which the taint does not keep away");
    play.answer(ModulePhase::Failed);
    assert_eq!(untaint(&play), Vec::<usize>::new(), "the driver has failed");
    play.obey();
    assert_eq!(untaint(&play), Vec::<usize>::new(), "its label is to be set first");
    play.settle();
    assert_eq!(untaint(&play), [2, 0]);

    play.node.taints.clear();
    assert_eq!(play.decide(), Assignment::default());
}

#[rstest]
#[case::cordoned(|play: &mut Play| play.node.taints = vec![taint("node.kubernetes.io/unschedulable", "NoSchedule")])]
#[case::made_anew(|play: &mut Play| play.node.taints = vec![taint("node.kubernetes.io/not-ready", "NoSchedule")])]
#[case::undiscovered(|play: &mut Play| {
    let module = play.module.as_mut().unwrap();
    module.spec.selector.insert("feature.node.kubernetes.io/gauge".to_owned(), "true".to_owned());
})]
fn what_only_the_report_knows_of_stays_while_something_is_absent(#[case] happens: fn(&mut Play)) {
    let mut play = Play::registered();
    play.settle();
    // The node's object was lost, and made anew; the agent reports what is loaded.
    let spec = &mut play.config.as_mut().unwrap().spec;
    (spec.modules, spec.order, play.order) = (Vec::new(), None, None);
    happens(&mut play);
    for _ in 0..3 {
        play.decide_and_apply();
        assert_ne!(wish(&play), Some(Wish::Removed));
    }
}

#[rstest]
#[case::not_ready("node.kubernetes.io/not-ready")]
#[case::without_a_network("node.kubernetes.io/network-unavailable")]
#[case::uninitialized("node.cloudprovider.kubernetes.io/uninitialized")]
fn a_startup_taint_stays_while_the_node_is_only_coming_up(#[case] key: &str) {
    let mut play = Play::registered();
    play.node.taints = vec![taint(STARTUP_TAINT, "NoSchedule"), taint(key, "NoSchedule")];
    assert_eq!(play.decide().untaint, Vec::<usize>::new(), "the driver is not for a node with {key} yet");
    play.node.taints.pop();
    assert_eq!(play.decide().untaint, Vec::<usize>::new(), "now it is to come");
    play.settle();
    assert_eq!(play.decide().untaint, [0]);
}

#[rstest]
#[case::deselected(|play: &mut Play| drop(play.node.labels.remove("hall")))]
#[case::for_other_kernels(|play: &mut Play| {
    play.module = Some(module("modprobe: {moduleName: gauge}\nkernelMappings: [{literal: other}]\ncontainerImage: 'a:b'"));
})]
#[case::deleted(|play: &mut Play| play.delete_module())]
fn a_startup_taint_waits_for_no_driver_that_is_not_for_the_node(#[case] that_is: fn(&mut Play)) {
    let mut play = Play::registered();
    play.node.taints = vec![taint(STARTUP_TAINT, "NoSchedule")];
    that_is(&mut play);
    assert_eq!(play.decide().untaint, [0]);
}

/// What is read of an image, and how, decides about the bundle: with the former bundle's the new settings would be loaded.
#[rstest]
#[case::another_directory(|module: &mut Module| modprobe(module).dir_name = "/elsewhere".to_owned())]
#[case::firmware(|module: &mut Module| modprobe(module).firmware_path = Some("/firmware".to_owned()))]
#[case::a_secret(|module: &mut Module| module.spec.image_repo_secret = Some(LocalObjectReference { name: "pull".to_owned() }))]
#[case::another_look(|module: &mut Module| module.spec.image_rebuild_trigger_generation = Some(1))]
fn nothing_changes_before_the_image_is_looked_at_as_the_module_asks_now(
    #[case] change: impl Fn(&mut Module),
) {
    let mut play = Play::registered();
    play.settle();
    let before = play.decide();
    change(play.module.as_mut().unwrap());
    let decided = play.decide();
    assert_eq!(decided.waiting.get(&Play::key()).unwrap().reason, reasons::RESOLVING);
    assert_eq!(Assignment { waiting: BTreeMap::new(), ..decided }, before);
}

fn modprobe(module: &mut Module) -> &mut Modprobe {
    &mut module.spec.module_loader.as_mut().unwrap().container.modprobe
}

#[test]
fn labels_go_before_others_come() {
    let mut play = Play::registered();
    play.decide_and_apply();
    play.obey();
    play.node.labels.insert("kmm.node.kubernetes.io/lab.former.ready".to_owned(), String::new());
    // A Module's name may end so, too.
    play.node
        .labels
        .insert("kmm.node.kubernetes.io/version-module.lab.gauge.ready".to_owned(), "1".to_owned());
    assert_eq!(play.decide_and_apply().labels.into_values().collect::<Vec<_>>(), [None]);
    assert_eq!(play.decide_and_apply().labels.into_values().collect::<Vec<_>>(), [Some(String::new())]);
}

#[test]
fn a_discovered_label_is_missed_only_after_its_grace_period() {
    let discovered = "feature.node.kubernetes.io/pci-10de.present";
    let mut play = Play::registered();
    play.module.as_mut().unwrap().spec.selector.insert(discovered.to_owned(), "true".to_owned());
    play.node.labels.insert(discovered.to_owned(), "true".to_owned());
    play.settle();
    play.node.labels.remove(discovered);
    play.undiscovered_for = Some(DISCOVERY_GRACE - 1_000);
    let decided = play.decide();
    assert_eq!((decided.order, decided.again_after), (OrderChange::Keep, Some(1_000)));
    play.undiscovered_for = Some(DISCOVERY_GRACE);
    play.decide_and_apply();
    assert_eq!(wish(&play), Some(Wish::Removed));
}

#[test]
fn the_version_label_decides_when_a_version_is_set() {
    let label = "kmm.node.kubernetes.io/version-module.lab.gauge";
    let versioned = |version: &str| {
        module(&format!(
            "version: {version}\nmodprobe: {{moduleName: gauge}}\nkernelMappings: [{{regexp: '.'}}]\ncontainerImage: 'registry.test/gauge:${{KERNEL_VERSION}}'"
        ))
    };
    let mut play = Play::registered();
    play.module = Some(versioned("v1"));
    play.settle();
    assert_eq!(play.writes, 0, "no label, no module");
    play.node.labels.insert(label.to_owned(), "v1".to_owned());
    play.settle();
    assert_eq!(play.node.labels.get("kmm.node.kubernetes.io/lab.gauge.version.ready").unwrap(), "v1");
    play.module = Some(versioned("v2"));
    play.image = Some(default_image('b'));
    play.settle();
    let Some(Wish::Loaded(load)) = wish(&play) else { panic!() };
    assert_eq!(load.bundle.to_string(), bundle('a'), "the node's turn has not come");
    play.node.labels.insert(label.to_owned(), "v2".to_owned());
    play.settle();
    assert_eq!(play.node.labels.get("kmm.node.kubernetes.io/lab.gauge.version.ready").unwrap(), "v2");
    play.node.labels.remove(label);
    play.decide_and_apply();
    assert_eq!(wish(&play), Some(Wish::Removed));
}

#[rstest]
#[case(ModulePhase::Failed)]
#[case(ModulePhase::RolledBack)]
#[case(ModulePhase::InUse)]
#[case(ModulePhase::WaitingForBundle)]
#[case(ModulePhase::Unvalidated)]
#[case(ModulePhase::Unknown)]
fn a_node_is_not_ready_unless_it_says_loaded(#[case] phase: ModulePhase) {
    let mut play = Play::registered();
    play.decide_and_apply();
    play.answer(phase);
    assert_eq!(play.decide().labels.len(), 0);
    assert!(!play.is_ready());
}

fn validate(play: &mut Play, paths: &[&str]) {
    let loader = play.module.as_mut().unwrap().spec.module_loader.as_mut().unwrap();
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    loader.validation = Some(Validation { paths, timeout_seconds: None });
}

#[test]
fn a_node_is_ready_when_all_has_been_there_that_must_be_after_the_load() {
    let mut play = Play::registered();
    validate(&mut play, &["/dev/gauge0", "/sys/class/gauge"]);
    play.decide_and_apply();
    for validated in [&[][..], &["/dev/gauge0"][..]] {
        play.obey();
        play.status().modules[0].validated = validated.iter().map(|path| (*path).to_owned()).collect();
        assert_eq!(play.decide().labels.len(), 0, "{validated:?}: also of an agent that looks for nothing");
    }
    play.obey();
    play.decide_and_apply();
    assert!(play.is_ready());
}

#[test]
fn a_validation_that_changes_reloads_nothing_and_takes_the_label_only_by_the_nodes_word() {
    let mut play = Play::registered();
    play.settle();
    validate(&mut play, &["/dev/gauge0"]);
    let decided = play.decide_and_apply();
    assert_eq!((decided.order, decided.labels.len()), (OrderChange::Keep, 0));
    assert!(play.config.as_ref().unwrap().spec.modules[0].validation.is_some(), "the node is told");
    assert!(play.is_ready(), "it has not looked yet");
    let report = &mut play.status().modules[0];
    (report.phase, report.reason) = (Some(ModulePhase::Unvalidated), Some("Validating".to_owned()));
    play.decide_and_apply();
    assert!(!play.is_ready());
    play.obey();
    play.decide_and_apply();
    assert!(play.is_ready());
}

#[test]
fn the_ready_label_goes_at_the_first_sight_of_another_boot() {
    let mut play = Play::registered();
    play.settle();
    play.node.boot_id = "boot-2".to_owned();
    let decided = play.decide_and_apply();
    assert_eq!(decided.order, OrderChange::Keep, "the store loads by itself");
    assert!(!play.is_ready());
    play.obey();
    play.settle();
    assert!(play.is_ready());
}

#[test]
fn another_store_gets_an_order_of_its_own() {
    let mut play = Play::registered();
    play.settle();
    let before = play.order.clone().unwrap();
    play.status().store_id = Some("ff112233445566778899aabbccddeeff".to_owned());
    play.status().modules.clear();
    play.status().order_generation = None;
    play.decide_and_apply();
    let after = play.order.clone().unwrap();
    assert_eq!(after.modules, before.modules);
    assert!(after.generation > before.generation && after.store != before.store);
}

#[test]
fn an_order_is_newer_than_what_the_node_holds_and_a_node_far_ahead_is_left_alone() {
    let mut play = Play::registered();
    play.status().order_generation = Some(i64::try_from(NOW).unwrap() + 5_000);
    play.decide_and_apply();
    assert_eq!(play.order.as_ref().unwrap().generation.0, NOW + 5_001);
    let mut ahead = Play::registered();
    ahead.status().order_generation = Some(i64::try_from(NOW + MOST_AHEAD).unwrap() + 1);
    let decided = ahead.decide();
    assert_eq!((decided.order, decided.config), (OrderChange::Keep, None));
    assert_eq!(decided.waiting.get(&Play::key()).unwrap().reason, reasons::GENERATION_AHEAD);
}

#[test]
fn an_order_older_than_what_the_node_holds_is_signed_anew() {
    let mut play = Play::registered();
    play.settle();
    let held = play.order.as_ref().unwrap().generation.0 + 30;
    play.status().order_generation = i64::try_from(held).ok();
    play.decide_and_apply();
    assert!(play.order.as_ref().unwrap().generation.0 > held);
}

#[test]
fn a_toleration_that_changes_reloads_nothing() {
    let mut play = Play::registered();
    play.settle();
    let before = play.order.clone();
    play.module.as_mut().unwrap().spec.tolerations =
        vec![serde_json::from_str(r#"{"operator":"Exists"}"#).unwrap()];
    play.settle();
    assert_eq!(play.order, before);
    assert!(play.is_ready());
}

#[test]
fn settings_reach_the_order() {
    let mut play = Play::registered();
    play.module = Some(module(
        "modprobe:\n  moduleName: gauge\n  parameters: [a=1, 'b=x y']\n  firmwarePath: /fw\n  modulesLoadingOrder: [gauge, base]\ninTreeModulesToRemove: [old_gauge]\nkernelMappings: [{literal: 6.1.0-56-cloud-amd64, containerImage: 'registry.test/gauge:6.1.0-56-cloud-amd64'}]",
    ));
    play.image.as_mut().unwrap().spec.firmware_path = Some("/fw".to_owned());
    play.decide_and_apply();
    let Some(Wish::Loaded(load)) = wish(&play) else { panic!() };
    let name = |name: &str| name.parse::<KmodName>().unwrap();
    assert_eq!(load.parameters, ["a=1", "b=x y"]);
    assert_eq!(load.loading_order, [name("gauge"), name("base")]);
    assert_eq!(load.in_tree_to_remove, [name("old_gauge")]);
    assert!(load.firmware);
}

#[derive(Debug, Clone)]
enum Happening {
    Image(char),
    NoImage,
    Label(bool),
    Taint(bool),
    Delete,
    Obey,
    Fail,
    Reboot(u8),
    NewStore(u8),
    Later(u32),
    Decide,
    /// The decision is made and lost: the operator died before writing.
    Crash,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (0..3_u8).prop_map(|fill| Happening::Image(char::from(b'a' + fill))),
        Just(Happening::NoImage),
        any::<bool>().prop_map(Happening::Label),
        any::<bool>().prop_map(Happening::Taint),
        Just(Happening::Delete),
        Just(Happening::Obey),
        Just(Happening::Fail),
        any::<u8>().prop_map(Happening::Reboot),
        (0..2_u8).prop_map(Happening::NewStore),
        any::<u32>().prop_map(Happening::Later),
        Just(Happening::Decide),
        Just(Happening::Crash),
    ]
}

fn happen(play: &mut Play, happening: &Happening) {
    match happening {
        Happening::Image(fill) => play.image = Some(default_image(*fill)),
        Happening::NoImage => play.image = None,
        Happening::Label(true) => drop(play.node.labels.insert("hall".to_owned(), "a".to_owned())),
        Happening::Label(false) => drop(play.node.labels.remove("hall")),
        Happening::Taint(true) => play.node.taints = vec![taint("acme.test/x", "NoSchedule")],
        Happening::Taint(false) => play.node.taints.clear(),
        Happening::Delete => play.delete_module(),
        Happening::Obey => play.obey(),
        Happening::Fail => play.answer(ModulePhase::Failed),
        Happening::Reboot(boot) => play.node.boot_id = format!("boot-{boot}"),
        Happening::NewStore(store) => {
            play.status().store_id = Some(format!("{store:032x}"));
            play.status().modules.clear();
            play.status().order_generation = None;
        }
        Happening::Later(millis) => play.now += u64::from(*millis),
        Happening::Decide => drop(play.decide_and_apply()),
        Happening::Crash => drop(play.decide()),
    }
}

proptest! {
    #[test]
    fn any_history_settles_in_the_wish_and_then_nothing_is_written(history in proptest::collection::vec(happening(), 0..30)) {
        let mut play = Play::registered();
        let mut generation = 0;
        for happening in &history {
            happen(&mut play, happening);
            if let Some(order) = &play.order {
                prop_assert!(order.generation.0 >= generation, "generations never go back");
                generation = order.generation.0;
                prop_assert!(order.check().is_ok());
            }
        }
        play.obey();
        play.settle();
        prop_assert_eq!(Assignment { waiting: BTreeMap::new(), ..play.decide() }, Assignment::default());
        let module = play.module.as_ref().unwrap();
        let wanted = module.metadata.deletion_timestamp.is_none() && play.node.labels.contains_key("hall");
        if !wanted {
            prop_assert!(!play.is_ready());
            prop_assert!(!matches!(wish(&play), Some(Wish::Loaded(_))));
            prop_assert!(!crate::removal::is_held(&Play::key(), play.config.as_ref().unwrap(), play.order.as_ref()));
        } else if let (Some(image), true) = (&play.image, play.node.taints.is_empty()) {
            let Some(Wish::Loaded(load)) = wish(&play) else { panic!("{:?}", play.order) };
            prop_assert_eq!(Some(load.bundle.to_string()), provision::bundle(image).map(|(bundle, _)| bundle.digest.clone()));
            prop_assert!(play.is_ready());
        }
    }

    #[test]
    fn only_a_changed_wish_orders_a_removal(history in proptest::collection::vec(happening(), 0..30)) {
        let mut play = Play::registered();
        let mut unwished = false;
        for happening in &history {
            happen(&mut play, happening);
            unwished |= matches!(happening, Happening::Delete | Happening::Label(false));
            if let Some(order) = &play.order {
                prop_assert!(unwished || order.modules.iter().all(|module| module.wish != Wish::Removed));
            }
        }
    }
}
