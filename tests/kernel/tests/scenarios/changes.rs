//! What is loaded changes as ordered, goes back when the new cannot be loaded, and is taken over when it is the same.

use rstest::rstest;
use tenon_lab::drivers::{Driver, Recipe};
use tenon_lab::kernel::Origin;
use tenon_order::wire::Request;
use tenon_order::{Load, Phase, Reason};

use crate::bundle::Bundle;
use crate::node::{FIRMWARE_PATH, Node, names, of};

const PROC: &str = "/proc/simple-procfs-kmod";
const ONE: Recipe<'_> = Recipe { driver: Driver::SimpleProcfsKmod, version: "1.0", unknown_symbol: false };
const TWO: Recipe<'_> = Recipe { version: "2.0", ..ONE };

#[rstest]
#[tokio::test]
async fn changes_are_made_or_taken_back(#[values(Origin::Stable, Origin::Backports)] origin: Origin) {
    let mut node = Node::boot_with(origin, &["simple_kmod.count=40", "simple_kmod.greeting=boot"]).await;
    a_new_version(&mut node).await;
    a_version_that_does_not_load(&mut node).await;
    a_start_that_fails_is_taken_back(&mut node).await;
    parameters(&mut node).await;
    the_command_line_comes_before_the_order(&mut node).await;
    the_same_build_is_adopted(&mut node).await;
    what_kmm_has_loaded_with_its_firmware_is_taken_over(&mut node).await;
    another_build_is_left_alone(&mut node).await;
    what_someone_unloaded_is_loaded_again(&mut node).await;
    what_someone_put_in_its_place_is_not_ours(&mut node).await;
    holders_are_named(&mut node).await;
    assert_eq!(node.modules().await, [""; 0]);
}

fn counted(load: &Load, count: &str) -> Load {
    Load { parameters: vec![format!("count={count}")], ..load.clone() }
}

async fn a_new_version(node: &mut Node) {
    let (one, two) = (node.content(ONE), node.content(TWO));
    let first = node.load("procfs", &one).await;
    let again = of(&node.apply().await, "procfs");
    assert_eq!(first, again, "the same order changes nothing");
    let report = node.load("procfs", &two).await;
    assert_eq!((report.phase, report.bundle), (Phase::Loaded, Some(two.bundle)));
    assert!(report.loaded_at > first.loaded_at);
    assert_eq!(node.text(PROC).await, "simple-procfs-kmod 2.0");
}

/// The second version is loaded; the third is for another kernel, which the node can see before it takes the second away.
async fn a_version_that_does_not_load(node: &mut Node) {
    let two = node.content(TWO);
    let wrong = Bundle::built(node.other_kernel(), Recipe { version: "3.0", ..ONE });
    let three = node.content_of(wrong, Driver::SimpleProcfsKmod);
    let before = of(&node.ask(Request::Report).await, "procfs");
    // The way back needs nobody.
    node.depot.remove(&two.bundle);
    let report = node.load("procfs", &three).await;
    assert_eq!(report.phase, Phase::Failed);
    assert!(matches!(report.reason, Reason::SymbolVersion | Reason::StructModuleSize), "{report:?}");
    assert!(report.message.contains("is not tried, and what is loaded stays"), "{}", report.message);
    assert_eq!((report.bundle, report.loaded_at), (Some(two.bundle), before.loaded_at), "it was never gone");
    assert_eq!(names(&report), ["simple_procfs_kmod"]);
    assert_eq!(node.text(PROC).await, "simple-procfs-kmod 2.0");
    let again = of(&node.apply().await, "procfs");
    assert_eq!(again, report, "the same order changes nothing");
    // The driver is not taken away for what the node can see is no module.
    let broken = Bundle::default().with("modules/extra/simple-procfs-kmod.ko", "no module");
    let broken = node.content_of(broken, Driver::SimpleProcfsKmod);
    let report = node.load("procfs", &broken).await;
    assert_eq!((report.phase, report.reason), (Phase::Failed, Reason::ModuleInvalid));
    assert_eq!((report.bundle, report.loaded_at), (Some(two.bundle), again.loaded_at));
    assert_eq!(node.text(PROC).await, "simple-procfs-kmod 2.0");
    let one = node.content(ONE);
    assert_eq!(node.load("procfs", &one).await.phase, Phase::Loaded);
    assert_eq!(node.text(PROC).await, "simple-procfs-kmod 1.0");
    assert_eq!(node.remove("procfs").await.phase, Phase::Removed);
}

async fn parameters(node: &mut Node) {
    let load = node.content(Driver::SimpleKmod);
    for count in ["3", "4"] {
        assert_eq!(node.load("simple", &counted(&load, count)).await.phase, Phase::Loaded);
        assert_eq!(node.parameter("simple_kmod", "count").await, count);
    }
    let report = node.load("simple", &counted(&load, "many")).await;
    assert_eq!((report.phase, report.reason), (Phase::Failed, Reason::InvalidParameter));
    assert_eq!(report.parameters, ["count=4"]);
    assert_eq!(node.parameter("simple_kmod", "count").await, "4");
    assert_eq!(node.load("simple", &counted(&load, "5")).await.phase, Phase::Loaded);
    assert_eq!(node.parameter("simple_kmod", "count").await, "5");
}

/// What only its own init can say: the old one was gone, and is back.
async fn a_start_that_fails_is_taken_back(node: &mut Node) {
    let modes = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let old = Load { parameters: modes(&["mode=slow", "delay=1"]), ..node.content(Driver::Panic) };
    assert_eq!(node.load("panic", &old).await.phase, Phase::Loaded);
    let new = Load { parameters: modes(&["mode=none"]), ..old.clone() };
    let report = node.load("panic", &new).await;
    assert_eq!((report.phase, report.reason), (Phase::RolledBack, Reason::InitFailed));
    assert_eq!((&report.parameters, report.rolled_back), (&old.parameters, Some(new.bundle)));
    assert_eq!(node.parameter("lab_panic", "mode").await, "slow");
    let again = of(&node.apply().await, "panic");
    assert_eq!(again, report, "what failed is not tried again");
    assert_eq!(node.remove("panic").await.phase, Phase::Removed);
}

async fn the_command_line_comes_before_the_order(node: &mut Node) {
    let load = node.content(Driver::SimpleKmod);
    // Of the last case: the order's word is the last.
    assert_eq!(node.parameter("simple_kmod", "greeting").await, "boot");
    let report = node.load("simple", &load).await;
    assert_eq!((report.phase, report.parameters), (Phase::Loaded, vec![]));
    assert_eq!(node.parameter("simple_kmod", "count").await, "40");
    assert_eq!(node.remove("simple").await.phase, Phase::Removed);
}

/// Loads a driver's file by hand, as an administrator or another program does.
async fn insmod(node: &Node, recipe: Recipe<'_>, parameters: &str) {
    by_hand(node, "", recipe, parameters).await;
}

/// The same after another command, at once: the loader is not to come between.
async fn by_hand(node: &Node, first: &str, recipe: Recipe<'_>, parameters: &str) {
    let name = recipe.driver.modules().last().unwrap();
    let bundle = Bundle::built(node.kernel(), recipe);
    let path = format!("/root/{name}.ko");
    node.guest.write_file(&path, 0o644, bundle.module(name)).await.unwrap();
    node.guest.shell(&format!("{first} insmod {path} {parameters}")).await.unwrap();
}

async fn the_same_build_is_adopted(node: &mut Node) {
    insmod(node, Driver::SimpleKmod.into(), "count=6 greeting=boot").await;
    let load = node.content(Driver::SimpleKmod);
    let report = node.load("simple", &counted(&load, "6")).await;
    assert_eq!((report.phase, report.reason), (Phase::Loaded, Reason::Adopted));
    assert_eq!(names(&report), ["simple_kmod"]);
    // From now on it is Tenon's: changed and removed like any other.
    let report = node.load("simple", &counted(&load, "7")).await;
    assert_eq!((report.phase, report.reason), (Phase::Loaded, Reason::Loaded));
    assert_eq!(node.parameter("simple_kmod", "count").await, "7");
    assert_eq!(node.remove("simple").await.phase, Phase::Removed);
    assert_eq!(node.modules().await, [""; 0]);
}

/// k#737: KMM's worker writes its `firmwareHostPath` to `firmware_class.path`, copies the image's firmware there, and leaves
/// both behind.
async fn what_kmm_has_loaded_with_its_firmware_is_taken_over(node: &mut Node) {
    let mut version = |version, text: &str| {
        let recipe = Recipe { version, ..Driver::Firmware.into() };
        let bundle = Bundle::built(node.kernel(), recipe).with("firmware/lab-firmware.bin", text);
        Load { firmware: true, ..node.content_of(bundle, Driver::Firmware) }
    };
    let (one, two) = (version("1.0", "first"), version("2.0", "second"));
    // Its default, which the kernel would search anyway, and the folder of a host whose /lib is read-only.
    for host_path in ["/lib/firmware", "/var/lib/firmware"] {
        let is_usual = host_path == "/lib/firmware";
        let worker = format!(
            "mkdir -p {host_path} && printf first >{host_path}/lab-firmware.bin && printf {host_path} >{FIRMWARE_PATH} &&"
        );
        by_hand(node, &worker, Driver::Firmware.into(), "").await;
        let report = node.load("firmware", &one).await;
        assert_eq!(
            (report.phase, report.reason),
            (Phase::Loaded, Reason::Adopted),
            "{host_path}: {report:?}"
        );
        let path = if is_usual { "/var/lib/tenon/firmware" } else { host_path };
        assert_eq!(node.text(FIRMWARE_PATH).await, path);
        assert_eq!(of(&node.apply().await, "firmware"), report, "{host_path}: and so it stays");
        let upgraded = node.load("firmware", &two).await;
        if is_usual {
            assert_eq!((upgraded.phase, upgraded.reason), (Phase::Loaded, Reason::Loaded), "{upgraded:?}");
            assert_eq!(node.parameter("lab_firmware", "text").await, "second", "of the store");
        } else {
            let failed = (Phase::Failed, Reason::FirmwarePathTaken);
            assert_eq!((upgraded.phase, upgraded.reason), failed, "{upgraded:?}");
            assert!(upgraded.message.contains(&format!("is {host_path:?}, set by someone else (KMM")));
            assert_eq!((upgraded.bundle, upgraded.loaded_at), (Some(one.bundle), report.loaded_at));
            assert_eq!(node.parameter("lab_firmware", "text").await, "first", "what was loaded stays");
        }
        assert_eq!(node.remove("firmware").await.phase, Phase::Removed);
        assert_eq!(node.text(FIRMWARE_PATH).await, host_path, "as it was before Tenon");
        assert_eq!(node.guest.shell("ls -A /var/lib/tenon/firmware").await.unwrap(), "");
        node.guest.shell(&format!("rm {host_path}/lab-firmware.bin; echo >{FIRMWARE_PATH}")).await.unwrap();
    }
}

async fn another_build_is_left_alone(node: &mut Node) {
    insmod(node, TWO, "").await;
    insmod(node, Driver::SimpleKmod.into(), "count=8").await;
    let loads = [("procfs", node.content(ONE)), ("simple", counted(&node.content(Driver::SimpleKmod), "9"))];
    for (module, load) in &loads {
        let report = node.load(module, load).await;
        assert_eq!((report.phase, report.reason), (Phase::Failed, Reason::ForeignModule), "{module}");
        assert!(report.message.contains("was not loaded by Tenon"), "{}", report.message);
    }
    for (module, _) in &loads {
        let report = node.remove(module).await;
        assert_eq!(report.phase, Phase::Removed, "nothing of Tenon's is there: {report:?}");
    }
    assert_eq!(node.modules().await, ["simple_procfs_kmod", "simple_kmod"]);
    assert_eq!(node.text(PROC).await, "simple-procfs-kmod 2.0");
    assert_eq!(node.parameter("simple_kmod", "count").await, "8");
    // It is replaced when the Module names it.
    let (module, load) = &loads[0];
    let named = Load { in_tree_to_remove: vec!["simple_procfs_kmod".parse().unwrap()], ..load.clone() };
    assert_eq!(node.load(module, &named).await.phase, Phase::Loaded);
    assert_eq!(node.text(PROC).await, "simple-procfs-kmod 1.0");
    assert_eq!(node.remove(module).await.phase, Phase::Removed);
    node.guest.shell("rmmod simple_kmod").await.unwrap();
}

/// The loader notices it by itself, a few seconds later, and hangs up so that its agent asks.
async fn what_someone_unloaded_is_loaded_again(node: &mut Node) {
    let load = node.content(ONE);
    let first = node.load("procfs", &load).await;
    let (mut agent, _) = node.agent().await;
    node.guest.shell("rmmod simple_procfs_kmod").await.unwrap();
    let report = of(&agent.report(&Request::Report).unwrap(), "procfs");
    assert_eq!((report.phase, report.reason), (Phase::Failed, Reason::Disappeared));
    let hung_up = tokio::task::spawn_blocking(move || agent.wait_for_end());
    hung_up.await.unwrap();
    let report = of(&node.ask(Request::Report).await, "procfs");
    assert_eq!((report.phase, report.reason), (Phase::Loaded, Reason::Reloaded));
    assert!(report.loaded_at > first.loaded_at);
    assert_eq!(node.text(PROC).await, "simple-procfs-kmod 1.0");
    assert_eq!(of(&node.apply().await, "procfs"), report, "and says so as long as it is that");
    assert_eq!(node.remove("procfs").await.phase, Phase::Removed);
}

/// Another program unloads ours and loads its own under the same name.
async fn what_someone_put_in_its_place_is_not_ours(node: &mut Node) {
    let one = node.content(ONE);
    assert_eq!(node.load("procfs", &one).await.phase, Phase::Loaded);
    by_hand(node, "rmmod simple_procfs_kmod &&", TWO, "").await;
    let report = of(&node.apply().await, "procfs");
    assert_eq!((report.phase, report.reason), (Phase::Failed, Reason::ForeignModule));
    let three = node.content(Recipe { version: "3.0", ..ONE });
    assert_eq!(node.load("procfs", &three).await.reason, Reason::ForeignModule);
    let report = node.remove("procfs").await;
    assert_eq!(report.phase, Phase::Removed, "nothing of Tenon's is there: {report:?}");
    assert_eq!(node.text(PROC).await, "simple-procfs-kmod 2.0");
    node.guest.shell("rmmod simple_procfs_kmod").await.unwrap();
}

/// A module of someone else's uses ours.
async fn holders_are_named(node: &mut Node) {
    let pair = Bundle::built(node.kernel(), Driver::Pair.into());
    let core = Bundle::default().with("modules/extra/lab-core.ko", pair.module("lab-core"));
    let core = Load { module: "lab_core".parse().unwrap(), ..node.content_of(core, Driver::Pair) };
    assert_eq!(node.load("core", &core).await.phase, Phase::Loaded);
    insmod(node, Driver::Pair.into(), "").await;
    let report = node.remove("core").await;
    assert_eq!((report.phase, report.message.as_str()), (Phase::InUse, "lab_core is in use by lab_client"));
    node.guest.shell("rmmod lab_client").await.unwrap();
    assert_eq!(of(&node.apply().await, "core").phase, Phase::Removed);
}
