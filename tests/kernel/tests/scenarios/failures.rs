//! Every way in which a load can fail: the kernel's reason reaches the report, in words, and the node is as before.

use rstest::rstest;
use tenon_lab::drivers::{Driver, Recipe};
use tenon_lab::kernel::Origin;
use tenon_order::{Load, ModuleReport, Phase, Reason, Wish};

use crate::bundle::Bundle;
use crate::node::{FIRMWARE_PATH, Node, names, of};

#[rstest]
#[tokio::test]
async fn what_cannot_be_loaded_says_why(#[values(Origin::Stable, Origin::Backports)] origin: Origin) {
    let mut node = Node::boot(origin).await;
    another_kernels_order(&mut node).await;
    another_kernels_build(&mut node).await;
    a_truncated_file(&mut node).await;
    a_module_that_is_not_there(&mut node).await;
    an_unknown_symbol(&mut node).await;
    a_bad_value(&mut node).await;
    an_unknown_parameter_is_only_ignored(&mut node).await;
    a_driver_that_gives_up(&mut node).await;
    missing_firmware(&mut node).await;
    firmware_looked_for_elsewhere(&mut node).await;
    files_that_never_came(&mut node).await;
    assert_eq!(node.modules().await, [""; 0]);
}

#[rstest]
#[tokio::test]
async fn what_is_in_use_stays(#[values(Origin::Stable, Origin::Backports)] origin: Origin) {
    let mut node = Node::boot(origin).await;
    let load = node.content(Driver::Chardev);
    assert_eq!(node.load("chardev", &load).await.phase, Phase::Loaded);
    node.guest.hold("/dev/lab-chardev").await.unwrap();
    // Neither removed nor replaced.
    let report = node.remove("chardev").await;
    assert_eq!((report.phase, report.reason), (Phase::InUse, Reason::InUse));
    assert_eq!(
        report.message,
        "lab_chardev is in use: 1 reference is held, by an open device, a mount or a socket for example"
    );
    let second = node.content(Recipe { version: "2.0", ..Driver::Chardev.into() });
    let report = node.load("chardev", &second).await;
    assert_eq!((report.phase, report.reason), (Phase::InUse, Reason::InUse));
    assert_eq!((report.bundle, names(&report)), (Some(load.bundle), vec!["lab_chardev"]));
    assert_eq!(node.modules().await, ["lab_chardev"]);
    // The same order, applied again when the device is closed.
    node.guest.let_go("/dev/lab-chardev").await.unwrap();
    assert_eq!(of(&node.apply().await, "chardev").phase, Phase::Loaded);
    assert_eq!(node.text("/dev/lab-chardev").await, "lab-chardev 2.0");

    // What two Modules share goes with the last of them.
    let pair = Bundle::built(node.kernel(), Driver::Pair.into());
    let core = Bundle::default().with("modules/extra/lab-core.ko", pair.module("lab-core"));
    let core = Load { module: "lab_core".parse().unwrap(), ..node.content_of(core, Driver::Pair) };
    let client = node.content_of(pair, Driver::Pair);
    assert_eq!(node.load("core", &core).await.phase, Phase::Loaded);
    assert_eq!(node.load("client", &client).await.phase, Phase::Loaded);
    assert_eq!(node.remove("core").await.phase, Phase::Removed);
    assert_eq!(node.modules().await, ["lab_chardev", "lab_core", "lab_client"]);
    assert_eq!(node.remove("client").await.phase, Phase::Removed);
    assert_eq!(node.modules().await, ["lab_chardev"]);
}

/// It failed for this reason, with these words, and nothing of it is loaded.
fn assert_failed(report: &ModuleReport, reason: Reason, words: &[&str]) {
    assert_eq!((report.phase, report.reason), (Phase::Failed, reason), "{report:?}");
    for words in words {
        assert!(report.message.contains(words), "{words:?} is missing: {}", report.message);
    }
    assert_eq!((names(report), report.loaded_at), (vec![], None));
}

async fn another_kernels_order(node: &mut Node) {
    let (here, other) = (node.kernel().release.clone(), node.other_kernel().release.clone());
    let load = Load { kernel: other.clone(), ..node.content(Driver::SimpleKmod) };
    let report = node.load("order", &load).await;
    assert_failed(&report, Reason::WrongKernel, &[&here, &other]);
}

async fn another_kernels_build(node: &mut Node) {
    let bundle = Bundle::built(node.other_kernel(), Driver::SimpleKmod.into());
    let load = node.content_of(bundle, Driver::SimpleKmod);
    let report = node.load("build", &load).await;
    let reason = match node.kernel().origin {
        Origin::Stable => Reason::SymbolVersion,
        Origin::Backports | Origin::Unstable | Origin::NewerBackports => Reason::StructModuleSize,
    };
    assert_failed(
        &report,
        reason,
        &["simple_kmod did not load: it was built for ", "[ENOEXEC]", "the kernel says: "],
    );
}

async fn a_truncated_file(node: &mut Node) {
    let whole = Bundle::built(node.kernel(), Driver::SimpleKmod.into());
    let module = whole.module("simple-kmod");
    let half = module.split_at(module.len() / 2).0;
    let bundle = Bundle::default().with("modules/extra/simple-kmod.ko", half);
    let load = node.content_of(bundle, Driver::SimpleKmod);
    let report = node.load("truncated", &load).await;
    assert_failed(&report, Reason::ModuleInvalid, &["extra/simple-kmod.ko"]);
}

async fn a_module_that_is_not_there(node: &mut Node) {
    let bundle = Bundle::built(node.kernel(), Driver::SimpleProcfsKmod.into());
    let load = node.content_of(bundle, Driver::SimpleKmod);
    let report = node.load("absent", &load).await;
    assert_failed(&report, Reason::ModuleInvalid, &["the bundle has no module simple-kmod"]);
}

async fn an_unknown_symbol(node: &mut Node) {
    let load = node.content(Recipe { unknown_symbol: true, ..Driver::Pair.into() });
    let report = node.load("symbol", &load).await;
    let words = ["lab_client did not load: ", "lab_exported_by_nobody", "[ENOENT]"];
    assert_failed(&report, Reason::UnknownSymbol, &words);
    assert_eq!(node.modules().await, [""; 0], "what the client needs went with it");
}

async fn a_bad_value(node: &mut Node) {
    let bad = vec!["greeting=hello".to_owned(), "count=many".to_owned()];
    let load = Load { parameters: bad, ..node.content(Driver::SimpleKmod) };
    let report = node.load("value", &load).await;
    assert_failed(&report, Reason::InvalidParameter, &["\"many\"", "count", "[EINVAL]"]);
}

async fn an_unknown_parameter_is_only_ignored(node: &mut Node) {
    let load = Load { parameters: vec!["colour=red".to_owned()], ..node.content(Driver::SimpleKmod) };
    let report = node.load("unknown", &load).await;
    assert_eq!((report.phase, report.reason), (Phase::Loaded, Reason::Loaded));
    let log = node.guest.shell("dmesg | grep simple_kmod: ").await.unwrap();
    assert!(log.contains("unknown parameter 'colour' ignored"), "{log}");
    assert_eq!(node.remove("unknown").await.phase, Phase::Removed);
}

async fn a_driver_that_gives_up(node: &mut Node) {
    let load = node.content(Driver::Broken);
    let report = node.load("broken", &load).await;
    let words = ["lab_broken did not load: its init failed", "ENODEV", "lab-broken 1.0: no such device"];
    assert_failed(&report, Reason::InitFailed, &words);
    // What it fails with is the driver's to say: this one is neither a symbol nor a file.
    let load = Load { parameters: vec!["error=2".to_owned()], ..load };
    let report = node.load("broken", &load).await;
    assert_failed(&report, Reason::InitFailed, &["its init failed", "ENOENT"]);
}

async fn missing_firmware(node: &mut Node) {
    let load = node.content(Driver::Firmware);
    let report = node.load("firmware", &load).await;
    assert_failed(&report, Reason::FirmwareMissing, &["lab-firmware.bin", "[ENOENT]"]);
    // A directory of firmware without this file is no better, and nothing of it is left.
    let bundle = Bundle::built(node.kernel(), Driver::Firmware.into()).with("firmware/other.bin", "x");
    let load = Load { firmware: true, ..node.content_of(bundle, Driver::Firmware) };
    let report = node.load("firmware", &load).await;
    assert_failed(&report, Reason::FirmwareMissing, &["lab-firmware.bin", "[ENOENT]"]);
    assert_eq!(node.text(FIRMWARE_PATH).await, "");
}

async fn firmware_looked_for_elsewhere(node: &mut Node) {
    node.guest.shell(&format!("printf /vendor >{FIRMWARE_PATH}")).await.unwrap();
    let bundle = Bundle::built(node.kernel(), Driver::Firmware.into());
    let bundle = bundle.with("firmware/lab-firmware.bin", "found");
    let load = Load { firmware: true, ..node.content_of(bundle, Driver::Firmware) };
    let report = node.load("taken", &load).await;
    assert_failed(&report, Reason::FirmwarePathTaken, &["\"/vendor\""]);
    assert_eq!(node.text(FIRMWARE_PATH).await, "/vendor");
    node.guest.shell(&format!("echo >{FIRMWARE_PATH}")).await.unwrap();
    assert_eq!(of(&node.apply().await, "taken").phase, Phase::Loaded);
    assert_eq!(node.remove("taken").await.phase, Phase::Removed);
}

async fn files_that_never_came(node: &mut Node) {
    let late = Recipe { version: "9.0", ..Driver::SimpleKmod.into() };
    let load = node.content(late);
    node.depot.clear();
    node.wish("late", Wish::Loaded(load.clone()));
    let report = of(&node.apply().await, "late");
    assert_eq!((report.phase, report.reason), (Phase::WaitingForBundle, Reason::BundleMissing));
    assert!(report.message.contains(&load.bundle.to_string()), "{}", report.message);
    assert_eq!(node.content(late), load);
    assert_eq!(of(&node.apply().await, "late").phase, Phase::Loaded);
    assert_eq!(node.remove("late").await.phase, Phase::Removed);
}
