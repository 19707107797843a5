//! A node that KMM has served: what it has stays, keeps its label, and is ordered without a turn.

use tenon_api::node_modules_config::{ModulePhase, NodeModule, NodeModuleStatus, NodeModulesConfigStatus};
use tenon_order::Wish;

use super::*;
use crate::fixture::{Play, default_image};

const READY: &str = "kmm.node.kubernetes.io/lab.gauge.ready";
const STORE: &str = "000102030405060708090a0b0c0d0e0f";

/// As KMM leaves a node on which the module is loaded: entries without a bundle, no phase, no order, no store.
fn kmms() -> Play {
    let mut play = Play::registered();
    play.settle();
    let config = play.config.as_mut().unwrap();
    let [entry] = config.spec.modules.as_mut_slice() else { panic!("one module") };
    *entry = NodeModule {
        bundle: None,
        image_digest: None,
        generation: None,
        replaces: None,
        service_account_name: None,
        ..entry.clone()
    };
    let loaded = NodeModuleStatus {
        name: entry.name.clone(),
        namespace: entry.namespace.clone(),
        config: Some(entry.config.clone()),
        boot_id: Some(play.node.boot_id.clone()),
        ..NodeModuleStatus::default()
    };
    config.status = Some(NodeModulesConfigStatus { modules: vec![loaded], ..Default::default() });
    (config.spec.order, play.order) = (None, None);
    play.writes = 0;
    play
}

fn registers(play: &mut Play) {
    play.status().store_id = Some(STORE.to_owned());
}

#[test]
fn its_label_stays_until_the_loader_has_said_how_it_stands() {
    let mut play = kmms();
    play.turn = Turn::Unasked;
    assert!(play.is_ready());
    assert_eq!(play.decide_and_apply().labels, BTreeMap::new(), "before the node's agent is there");
    assert_eq!(play.writes, 0);
    registers(&mut play);
    let decided = play.decide_and_apply();
    assert!(decided.labels.is_empty() && decided.asks.is_empty(), "{decided:?}");
    assert!(matches!(play.order.as_ref().unwrap().wish(&Play::key()), Some(Wish::Loaded(_))));
    assert_eq!(play.decide(), Assignment::default(), "while the order is on its way");
    play.obey();
    assert_eq!(play.decide(), Assignment::default());
    assert!(play.is_ready());
    assert_eq!(play.writes, 2, "the order, and the report");
}

#[test]
fn what_the_loader_does_not_take_for_its_own_loses_the_label() {
    let mut play = kmms();
    registers(&mut play);
    play.decide_and_apply();
    play.answer(ModulePhase::Failed);
    play.decide_and_apply();
    assert!(!play.is_ready());
}

#[test]
fn kmms_word_counts_for_its_boot_its_content_and_no_longer_than_the_label() {
    let mut booted = kmms();
    booted.node.boot_id = "boot-2".to_owned();
    booted.decide_and_apply();
    assert!(!booted.is_ready());

    let mut changed = kmms();
    let config = changed.status().modules[0].config.as_mut().unwrap();
    config.container_image.push_str("-old");
    changed.decide_and_apply();
    assert!(!changed.is_ready());

    let mut unlabelled = kmms();
    unlabelled.node.labels.remove(READY);
    unlabelled.decide_and_apply();
    assert!(!unlabelled.is_ready(), "KMM has not said so either");
}

#[test]
fn nothing_is_ordered_before_its_image_is_known_and_nothing_is_lost_meanwhile() {
    let mut play = kmms();
    registers(&mut play);
    play.image = None;
    let decided = play.decide_and_apply();
    assert_eq!((decided.config, decided.order), (None, OrderChange::Keep));
    assert!(play.is_ready());
    play.image = Some(default_image('a'));
    play.settle();
    assert!(play.is_ready());
}

#[test]
fn a_module_that_goes_while_nobody_has_adopted_it_is_ordered_away_and_let_go() {
    let mut play = kmms();
    registers(&mut play);
    play.delete_module();
    play.decide_and_apply();
    assert_eq!(play.order.as_ref().unwrap().wish(&Play::key()), Some(&Wish::Removed));
    assert!(!play.is_ready());
    play.obey();
    play.settle();
    assert_eq!((play.order.as_ref(), play.config.as_ref().unwrap().spec.modules.len()), (None, 0));
}
