//! Every example driver loads as its order says, is reported, and leaves nothing behind.

use rstest::rstest;
use tenon_lab::drivers::{Driver, Recipe};
use tenon_lab::kernel::Origin;
use tenon_order::{Load, ModuleReport, Phase, Reason};

use crate::bundle::Bundle;
use crate::node::{FIRMWARE_PATH, Node, names};

#[rstest]
#[tokio::test]
async fn every_driver_loads_and_leaves_nothing_behind(
    #[values(Origin::Stable, Origin::Backports)] origin: Origin,
) {
    let mut node = Node::boot(origin).await;
    parameters_of_every_type(&mut node).await;
    a_version_in_proc(&mut node).await;
    a_dependency_comes_first_and_goes_last(&mut node).await;
    independent_drivers_come_in_the_order_that_the_module_gives_and_go_in_reverse(&mut node).await;
    firmware_is_found_in_the_store(&mut node).await;
    a_device(&mut node).await;
}

fn assert_loaded(report: &ModuleReport, modules: &[&str]) {
    assert_eq!((report.phase, report.reason), (Phase::Loaded, Reason::Loaded), "{report:?}");
    assert_eq!(names(report), modules);
    assert!(report.loaded_at.is_some());
}

async fn removed(node: &mut Node, module: &str) {
    let report = node.remove(module).await;
    assert_eq!((report.phase, report.reason), (Phase::Removed, Reason::Removed), "{report:?}");
    assert_eq!((names(&report), report.bundle, report.loaded_at), (vec![], None, None));
    assert_eq!(node.modules().await, [""; 0]);
}

async fn parameters_of_every_type(node: &mut Node) {
    let parameters = ["count=7", "greeting=good morning", "loud=1", "numbers=4,5,6"].map(str::to_owned);
    let load = Load { parameters: parameters.to_vec(), ..node.content(Driver::SimpleKmod) };
    let report = node.load("simple", &load).await;
    assert_loaded(&report, &["simple_kmod"]);
    assert_eq!((report.bundle, &report.parameters), (Some(load.bundle), &load.parameters));
    assert_eq!(node.modules().await, ["simple_kmod"]);
    for (name, value) in [("count", "7"), ("greeting", "good morning"), ("loud", "Y"), ("numbers", "4,5,6")] {
        assert_eq!(node.parameter("simple_kmod", name).await, value, "{name}");
    }
    removed(node, "simple").await;
}

async fn a_version_in_proc(node: &mut Node) {
    let load = node.content(Recipe { version: "1.4", ..Driver::SimpleProcfsKmod.into() });
    assert_loaded(&node.load("procfs", &load).await, &["simple_procfs_kmod"]);
    assert_eq!(node.text("/proc/simple-procfs-kmod").await, "simple-procfs-kmod 1.4");
    removed(node, "procfs").await;
    assert!(node.guest.read_file("/proc/simple-procfs-kmod").await.is_err());
}

async fn a_dependency_comes_first_and_goes_last(node: &mut Node) {
    let load = node.content(Driver::Pair);
    assert_loaded(&node.load("pair", &load).await, &["lab_core", "lab_client"]);
    assert_eq!(node.modules().await, ["lab_core", "lab_client"]);
    assert_eq!(node.guest.shell("ls /sys/module/lab_core/holders").await.unwrap(), "lab_client\n");
    removed(node, "pair").await;
}

/// k#1301: no symbol and no alphabet says what the Module does.
async fn independent_drivers_come_in_the_order_that_the_module_gives_and_go_in_reverse(node: &mut Node) {
    let mut bundle = Bundle::built(node.kernel(), Driver::SimpleKmod.into());
    for (driver, name) in [(Driver::Chardev, "lab-chardev"), (Driver::SimpleProcfsKmod, "simple-procfs-kmod")]
    {
        let other = Bundle::built(node.kernel(), driver.into());
        bundle = bundle.with(&format!("modules/extra/{name}.ko"), other.module(name));
    }
    let order = ["simple-kmod", "lab-chardev", "simple-procfs-kmod"].map(|name| name.parse().unwrap());
    let load = Load { loading_order: order.to_vec(), ..node.content_of(bundle, Driver::SimpleKmod) };
    let trace = |events: &str| format!("cd /sys/kernel/tracing && {events}");
    let begin =
        "echo >trace && echo 1 >events/module/module_load/enable && echo 1 >events/module/module_free/enable";
    let mount = "mount -t tracefs tracefs /sys/kernel/tracing";
    node.guest.shell(&format!("{mount} && {}", trace(begin))).await.unwrap();
    let loaded = ["simple_procfs_kmod", "lab_chardev", "simple_kmod"];
    assert_loaded(&node.load("ordered", &load).await, &loaded);
    assert_eq!(node.modules().await, loaded);
    removed(node, "ordered").await;
    // What the kernel itself saw of both.
    let seen =
        node.guest.shell(&trace(r"sed -n 's/.*: module_\([a-z]*: [a-z_]*\).*/\1/p' trace")).await.unwrap();
    let seen: Vec<_> = seen.lines().collect();
    let come = loaded.map(|name| format!("load: {name}"));
    let go = ["simple_kmod", "lab_chardev", "simple_procfs_kmod"].map(|name| format!("free: {name}"));
    assert_eq!(seen, [come, go].concat());
    node.guest.shell("umount /sys/kernel/tracing").await.unwrap();
}

async fn firmware_is_found_in_the_store(node: &mut Node) {
    let bundle = Bundle::built(node.kernel(), Driver::Firmware.into());
    let bundle = bundle.with("firmware/lab-firmware.bin", "tenon and mortise");
    let load = Load { firmware: true, ..node.content_of(bundle, Driver::Firmware) };
    assert_loaded(&node.load("firmware", &load).await, &["lab_firmware"]);
    assert_eq!(node.parameter("lab_firmware", "length").await, "17");
    assert_eq!(node.parameter("lab_firmware", "text").await, "tenon and mortise");
    assert_eq!(node.text(FIRMWARE_PATH).await, "/var/lib/tenon/firmware");
    removed(node, "firmware").await;
    assert_eq!(node.text(FIRMWARE_PATH).await, "");
    assert_eq!(node.guest.shell("ls -A /var/lib/tenon/firmware").await.unwrap(), "");
}

async fn a_device(node: &mut Node) {
    let load = node.content(Driver::Chardev);
    assert_loaded(&node.load("chardev", &load).await, &["lab_chardev"]);
    assert_eq!(node.text("/dev/lab-chardev").await, "lab-chardev 1.0");
    removed(node, "chardev").await;
    assert!(node.guest.read_file("/dev/lab-chardev").await.is_err());
    // Of what is removed no file is kept either.
    let files = "ls -A /var/lib/tenon/files /var/lib/tenon/bundles /var/lib/tenon/marks | grep -v : | grep .";
    assert_eq!(node.guest.shell(&format!("{files} || true")).await.unwrap(), "");
}
