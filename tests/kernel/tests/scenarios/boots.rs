//! What is loaded survives boots by the store alone, in the pod and on the host; a lost store unloads nothing.

use std::time::Instant;

use rstest::rstest;
use tenon_lab::drivers::{Driver, Recipe};
use tenon_lab::kernel::Origin;
use tenon_lab::wait;
use tenon_order::wire::Request;
use tenon_order::{Load, Phase, Reason, Wish};

use crate::bundle::Bundle;
use crate::node::{FIRMWARE_PATH, Node, SOON, of};

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
    let started = Instant::now();
    let all = ["lab_core", "lab_client", "simple_procfs_kmod"];
    let loaded = async || (node.modules().await == all).then_some(());
    wait::until("the store's modules", SOON, loaded).await.unwrap();
    println!("loaded {} ms after the loader's start, nobody having answered", started.elapsed().as_millis());
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

/// The unit for the host, and what it runs.
const UNIT: &str = include_str!("../../../../deploy/boot/tenon-boot.service");

#[rstest]
#[tokio::test]
async fn the_host_loads_from_the_store_before_any_pod_runs(
    #[values(Origin::Stable, Origin::Backports)] origin: Origin,
) {
    let mut node = Node::boot(origin).await;
    let bundle = Bundle::built(node.kernel(), Driver::Firmware.into());
    let bundle = bundle.with("firmware/lab-firmware.bin", "kept");
    let firmware = Load { firmware: true, ..node.content_of(bundle, Driver::Firmware) };
    let pair = node.content(Driver::Pair);
    for (module, load) in [("firmware", &firmware), ("pair", &pair)] {
        assert_eq!(node.load(module, load).await.phase, Phase::Loaded);
    }
    node.reset_without_pod().await;
    assert_eq!(node.modules().await, [""; 0]);
    let program = UNIT.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let program = program.replace("/usr/local/sbin/tenon-loader", "/containers/loader/rootfs/tenon-loader");
    let started = Instant::now();
    node.guest.shell(&program).await.unwrap();
    println!("`boot` took {} ms on the host", started.elapsed().as_millis());
    assert_eq!(node.modules().await, ["lab_firmware", "lab_core", "lab_client"]);
    assert_eq!(node.parameter("lab_firmware", "text").await, "kept");
    // The pod that comes later finds all as it should be, and goes on from there.
    node.start_loader().await;
    let report = node.ask(Request::Silent).await;
    for module in ["firmware", "pair"] {
        assert_eq!((of(&report, module).phase, of(&report, module).reason), (Phase::Loaded, Reason::Loaded));
        assert_eq!(node.remove(module).await.phase, Phase::Removed);
    }
    assert_eq!(node.modules().await, [""; 0]);
    let left =
        node.guest.shell("/containers/loader/rootfs/tenon-loader status | grep -c '\"Loaded\"' || true");
    assert_eq!(left.await.unwrap(), "0\n");
}

#[rstest]
#[tokio::test]
async fn firmware_is_in_its_place_after_a_boot(#[values(Origin::Stable)] origin: Origin) {
    let mut node = Node::boot(origin).await;
    let bundle = Bundle::built(node.kernel(), Driver::Firmware.into());
    let bundle = bundle.with("firmware/lab-firmware.bin", "kept");
    let load = Load { firmware: true, ..node.content_of(bundle, Driver::Firmware) };
    assert_eq!(node.load("firmware", &load).await.phase, Phase::Loaded);
    // Someone tidies up; a link leads to other bytes.
    for harm in ["rm", "rm -f {} && echo other >"] {
        let path = "/var/lib/tenon/firmware/lab-firmware.bin";
        let harm = harm.replace("{}", path);
        node.guest.shell(&format!("{harm} {path} && sync")).await.unwrap();
        // In order, so that nobody suspects the driver.
        node.guest.power_off().await.unwrap();
        node.switch_on().await;
        assert_eq!(of(&node.ask(Request::Silent).await, "firmware").phase, Phase::Loaded);
        assert_eq!(node.parameter("lab_firmware", "text").await, "kept");
    }
}
