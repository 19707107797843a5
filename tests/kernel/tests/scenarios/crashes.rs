//! A driver that takes the node down is given up after two tries; a node that goes down for other reasons is not held
//! against what was being loaded.

use rstest::rstest;
use tenon_lab::drivers::Driver;
use tenon_lab::kernel::Origin;
use tenon_lab::wait;
use tenon_order::wire::Request;
use tenon_order::{Load, Phase, Reason, Wish};

use crate::node::{Node, SOON, names, of};

fn mode(node: &mut Node, mode: &str) -> Load {
    Load { parameters: vec![format!("mode={mode}")], ..node.content(Driver::Panic) }
}

#[rstest]
#[tokio::test]
async fn a_driver_whose_init_panics_is_given_up_after_two_tries(
    #[values(Origin::Stable, Origin::Backports)] origin: Origin,
) {
    let mut node = Node::boot(origin).await;
    let good = node.content(Driver::SimpleKmod);
    assert_eq!(node.load("simple", &good).await.phase, Phase::Loaded);
    let load = mode(&mut node, "init");
    // Before the good one by name, so after it only by caution.
    node.wish("bad", Wish::Loaded(load.clone()));
    node.apply_to_the_end().await;
    // The next boot tries once more: when everything else is loaded, and not at once.
    node.switch_on().await;
    let told = {
        let (mut agent, _) = node.agent().await;
        agent.report(&Request::Silent)
    };
    // On a machine that is slow enough its time has come already.
    if let Ok(report) = told {
        let postponed = of(&report, "bad");
        assert_eq!((postponed.phase, postponed.reason), (Phase::Failed, Reason::LoadPostponed));
        assert_eq!(of(&report, "simple").phase, Phase::Loaded);
    }
    node.guest.wait_for_end().await.unwrap();
    node.switch_on().await;
    let report = node.ask(Request::Silent).await;
    let given_up = of(&report, "bad");
    assert_eq!((given_up.phase, given_up.reason), (Phase::CrashSuspected, Reason::CrashSuspected));
    assert_eq!(names(&given_up), [""; 0]);
    assert_eq!(of(&report, "simple").phase, Phase::Loaded, "others are not kept from loading");
    // Still in the next boot, and however the last one ended.
    node.reset().await;
    assert_eq!(of(&node.ask(Request::Silent).await, "bad").phase, Phase::CrashSuspected);
    // A retry is another try.
    node.wish("bad", Wish::Loaded(Load { retry: 1, ..load.clone() }));
    node.apply_to_the_end().await;
    // As are other parameters.
    node.switch_on().await;
    let tame = Load { parameters: vec!["mode=slow".to_owned(), "delay=1".to_owned()], ..load };
    assert_eq!(node.load("bad", &tame).await.phase, Phase::Loaded);
}

#[rstest]
#[tokio::test]
async fn power_cuts_during_and_after_a_load_are_not_held_against_it(
    #[values(Origin::Stable, Origin::Backports)] origin: Origin,
) {
    let mut node = Node::boot(origin).await;
    let slow = mode(&mut node, "slow");
    let slow = Load { parameters: [slow.parameters.clone(), vec!["delay=3000".to_owned()]].concat(), ..slow };
    node.wish("slow", Wish::Loaded(slow));
    // In the middle of its init.
    node.start_applying().await;
    let begun = async || {
        let modules = node.text("/proc/modules").await;
        modules.lines().any(|line| line.starts_with("lab_panic ") && line.contains(" Loading ")).then_some(())
    };
    wait::until("the driver's init to run", SOON, begun).await.unwrap();
    node.reset().await;
    let report = of(&node.ask(Request::Silent).await, "slow");
    assert_eq!(
        (report.phase, report.reason),
        (Phase::Failed, Reason::LoadPostponed),
        "it may have been the driver"
    );
    // While it waits for its turn, and again and again just after it was loaded.
    for _ in 0..3 {
        node.reset().await;
        let report = of(&node.ask(Request::Silent).await, "slow");
        assert!(matches!(report.reason, Reason::LoadPostponed | Reason::Loaded), "{report:?}");
        node.until("slow", Phase::Loaded).await;
    }
}

#[rstest]
#[tokio::test]
async fn a_node_that_is_told_to_go_down_loads_again_at_once(#[values(Origin::Backports)] origin: Origin) {
    let mut node = Node::boot(origin).await;
    let load = node.content(Driver::SimpleKmod);
    assert_eq!(node.load("simple", &load).await.phase, Phase::Loaded);
    for _ in 0..3 {
        node.guest.power_off().await.unwrap();
        node.switch_on().await;
        assert_eq!(of(&node.ask(Request::Silent).await, "simple").phase, Phase::Loaded);
    }
}

#[rstest]
#[tokio::test]
async fn a_fault_in_init_is_no_load(#[values(Origin::Stable, Origin::Backports)] origin: Origin) {
    let mut node = Node::boot(origin).await;
    let load = mode(&mut node, "oops");
    node.wish("bad", Wish::Loaded(load));
    {
        let (mut agent, _) = node.agent().await;
        agent.apply(&node.signed(), &node.depot).unwrap_err();
    }
    // The loader died of it; the next one sees what is left of the driver.
    let report = of(&node.ask(Request::Silent).await, "bad");
    assert_eq!((report.phase, report.reason), (Phase::Failed, Reason::InitFailed));
    assert!(report.message.contains("its init has not returned"), "{}", report.message);
    let good = node.content(Driver::SimpleKmod);
    assert_eq!(node.load("simple", &good).await.phase, Phase::Loaded, "the rest goes on");
}
