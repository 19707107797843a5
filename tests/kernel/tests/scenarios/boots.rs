//! What is loaded survives boots by the store alone; a lost store unloads nothing; a driver that takes the node down is
//! given up.

use rstest::rstest;
use tenon_lab::drivers::{Driver, Recipe};
use tenon_lab::kernel::Origin;
use tenon_lab::wait;
use tenon_order::wire::Request;
use tenon_order::{Load, Phase, Reason, Wish};

use crate::bundle::Bundle;
use crate::node::{FIRMWARE_PATH, Node, SOON, names, of};

const PROC: &str = "/proc/simple-procfs-kmod";

#[rstest]
#[tokio::test]
async fn the_store_is_enough_to_boot(#[values(Origin::Stable, Origin::Backports)] origin: Origin) {
    let mut node = Node::boot(origin).await;
    let bundle = Bundle::built(node.kernel(), Driver::Firmware.into());
    let bundle = bundle.with("firmware/lab-firmware.bin", "kept");
    let firmware = Load { firmware: true, ..node.content_of(bundle, Driver::Firmware) };
    let procfs = node.content(Recipe { version: "5.0", ..Driver::SimpleProcfsKmod.into() });
    for (module, load) in [("firmware", &firmware), ("procfs", &procfs)] {
        assert_eq!(node.load(module, load).await.phase, Phase::Loaded);
    }
    node.reset().await;
    assert_eq!(node.modules().await, [""; 0]);
    let waiting = of(&node.ask(Request::Report).await, "procfs");
    assert_eq!((waiting.phase, waiting.reason), (Phase::Failed, Reason::NotApplied));
    // The agent says that nobody can be reached.
    let report = node.ask(Request::Silent).await;
    for module in ["firmware", "procfs"] {
        assert_eq!(of(&report, module).phase, Phase::Loaded);
    }
    assert_eq!((report.store, report.generation), (node.order.store, Some(node.order.generation)));
    assert_eq!(node.text(PROC).await, "simple-procfs-kmod 5.0");
    assert_eq!(node.parameter("lab_firmware", "text").await, "kept");
    assert_eq!(node.text(FIRMWARE_PATH).await, "/var/lib/tenon/firmware");

    // After the next boot the first word is the order to remove them.
    node.reset().await;
    for module in ["firmware", "procfs"] {
        node.wish(module, Wish::Removed);
    }
    let report = node.apply().await;
    for module in ["firmware", "procfs"] {
        assert_eq!(of(&report, module).phase, Phase::Removed);
    }
    assert_eq!(node.modules().await, [""; 0]);
    let said = node.guest.shell("dmesg | grep -c lab-firmware || true").await.unwrap();
    assert_eq!(said, "0\n", "it was not loaded first to be removed then");
}

#[rstest]
#[tokio::test]
async fn without_a_word_of_the_agent_the_store_is_loaded(
    #[values(Origin::Stable, Origin::Backports)] origin: Origin,
) {
    let mut node = Node::boot(origin).await;
    let (pair, procfs) = (node.content(Driver::Pair), node.content(Driver::SimpleProcfsKmod));
    assert_eq!(node.load("pair", &pair).await.phase, Phase::Loaded);
    assert_eq!(node.load("procfs", &procfs).await.phase, Phase::Loaded);
    // One of them is not spoken of any more.
    node.forget("procfs");
    assert_eq!(of(&node.apply().await, "procfs").phase, Phase::Orphaned);
    node.reset().await;
    let all = ["lab_core", "lab_client", "simple_procfs_kmod"];
    let loaded = async || (node.modules().await == all).then_some(());
    wait::until("the store's modules", SOON, loaded).await.unwrap();
    let report = node.ask(Request::Report).await;
    assert_eq!(of(&report, "pair").phase, Phase::Loaded);
    assert_eq!(of(&report, "procfs").phase, Phase::Orphaned);
}

#[rstest]
#[tokio::test]
async fn another_kernel_loads_nothing_of_this_one(
    #[values(Origin::Stable, Origin::Backports)] origin: Origin,
) {
    let mut node = Node::boot(origin).await;
    let load = node.content(Driver::SimpleProcfsKmod);
    assert_eq!(node.load("procfs", &load).await.phase, Phase::Loaded);
    let other = node.other_kernel().origin;
    node.reset_to(other).await;
    let report = of(&node.ask(Request::Silent).await, "procfs");
    assert_eq!((report.phase, report.reason), (Phase::Failed, Reason::WrongKernel));
    assert_eq!(node.modules().await, [""; 0]);
    // The way back is in the store.
    node.reset_to(origin).await;
    assert_eq!(of(&node.ask(Request::Silent).await, "procfs").phase, Phase::Loaded);
}

#[rstest]
#[tokio::test]
async fn a_lost_store_unloads_nothing(#[values(Origin::Stable, Origin::Backports)] origin: Origin) {
    let mut node = Node::boot(origin).await;
    let load = node.content(Driver::SimpleProcfsKmod);
    assert_eq!(node.load("procfs", &load).await.phase, Phase::Loaded);
    let lost = node.order.store;
    node.guest.stop_container("loader").await.unwrap();
    node.guest.shell("rm -rf /var/lib/tenon/*").await.unwrap();
    node.start_loader().await;
    let hello = node.hello().await;
    assert_ne!(hello.store, lost);
    assert_eq!(hello.generation, None);
    assert!(node.ask(Request::Silent).await.modules.is_empty());
    assert_eq!(node.modules().await, ["simple_procfs_kmod"]);
    // The operator orders it anew.
    node.order.store = hello.store;
    let report = node.load("procfs", &load).await;
    assert_eq!((report.phase, report.reason), (Phase::Loaded, Reason::Adopted));
    assert_eq!(node.remove("procfs").await.phase, Phase::Removed);
    assert_eq!(node.modules().await, [""; 0]);
}

#[rstest]
#[tokio::test]
async fn a_driver_that_takes_the_node_down_twice_is_given_up(
    #[values(Origin::Stable, Origin::Backports)] origin: Origin,
) {
    let mut node = Node::boot(origin).await;
    let good = node.content(Driver::SimpleKmod);
    assert_eq!(node.load("simple", &good).await.phase, Phase::Loaded);
    let load = Load { parameters: vec!["panic=1".to_owned()], ..node.content(Driver::Broken) };
    node.wish("broken", Wish::Loaded(load.clone()));
    {
        let (mut agent, _) = node.agent().await;
        agent.apply(&node.signed(), &node.depot).unwrap_err();
    }
    node.guest.wait_for_end().await.unwrap();
    // The next boot tries once more.
    node.reset().await;
    {
        let (mut agent, _) = node.agent().await;
        agent.report(&Request::Silent).unwrap_err();
    }
    node.guest.wait_for_end().await.unwrap();
    node.reset().await;
    let report = node.ask(Request::Silent).await;
    let given_up = of(&report, "broken");
    assert_eq!((given_up.phase, given_up.reason), (Phase::CrashSuspected, Reason::CrashSuspected));
    assert_eq!(names(&given_up), [""; 0]);
    assert_eq!(of(&report, "simple").phase, Phase::Loaded, "others are not kept from loading");
    // Other parameters are another try.
    let tame = Load { parameters: vec!["error=0".to_owned()], ..load };
    assert_eq!(node.load("broken", &tame).await.phase, Phase::Loaded);
}
