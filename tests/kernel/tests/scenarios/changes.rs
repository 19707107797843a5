//! What is loaded changes as ordered, goes back when the new cannot be loaded, and is taken over when it is the same.

use rstest::rstest;
use tenon_lab::drivers::{Driver, Recipe};
use tenon_lab::kernel::Origin;
use tenon_order::{Load, Phase, Reason};

use crate::bundle::Bundle;
use crate::node::{Node, names, of};

const PROC: &str = "/proc/simple-procfs-kmod";
const ONE: Recipe<'_> = Recipe { driver: Driver::SimpleProcfsKmod, version: "1.0", unknown_symbol: false };
const TWO: Recipe<'_> = Recipe { version: "2.0", ..ONE };

#[rstest]
#[tokio::test]
async fn changes_are_made_or_taken_back(#[values(Origin::Stable, Origin::Backports)] origin: Origin) {
    let mut node = Node::boot_with(origin, &["simple_kmod.count=40", "simple_kmod.greeting=boot"]).await;
    a_new_version(&mut node).await;
    a_version_that_does_not_load(&mut node).await;
    parameters(&mut node).await;
    the_command_line_comes_before_the_order(&mut node).await;
    the_same_build_is_adopted(&mut node).await;
    another_build_is_left_alone(&mut node).await;
    what_someone_unloaded_is_noticed(&mut node).await;
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

/// The second version is loaded; the third is for another kernel.
async fn a_version_that_does_not_load(node: &mut Node) {
    let two = node.content(TWO);
    let wrong = Bundle::built(node.other_kernel(), Recipe { version: "3.0", ..ONE });
    let three = node.content_of(wrong, Driver::SimpleProcfsKmod);
    // The way back needs nobody.
    node.depot.remove(&two.bundle);
    let report = node.load("procfs", &three).await;
    assert_eq!(report.phase, Phase::RolledBack);
    assert!(matches!(report.reason, Reason::SymbolVersion | Reason::StructModuleSize), "{report:?}");
    assert_eq!((report.bundle, report.rolled_back), (Some(two.bundle), Some(three.bundle)));
    assert_eq!(names(&report), ["simple_procfs_kmod"]);
    assert_eq!(node.text(PROC).await, "simple-procfs-kmod 2.0");
    let again = of(&node.apply().await, "procfs");
    assert_eq!(again, report, "what failed is not tried again");
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
    assert_eq!((report.phase, report.reason), (Phase::RolledBack, Reason::InvalidParameter));
    assert_eq!(report.parameters, ["count=4"]);
    assert_eq!(report.rolled_back, Some(load.bundle));
    assert_eq!(node.parameter("simple_kmod", "count").await, "4");
    assert_eq!(node.load("simple", &counted(&load, "5")).await.phase, Phase::Loaded);
    assert_eq!(node.parameter("simple_kmod", "count").await, "5");
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
    let name = recipe.driver.modules().last().unwrap();
    let bundle = Bundle::built(node.kernel(), recipe);
    let path = format!("/root/{name}.ko");
    node.guest.write_file(&path, 0o644, bundle.module(name)).await.unwrap();
    node.guest.shell(&format!("insmod {path} {parameters}")).await.unwrap();
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

async fn what_someone_unloaded_is_noticed(node: &mut Node) {
    let load = node.content(ONE);
    assert_eq!(node.load("procfs", &load).await.phase, Phase::Loaded);
    node.guest.shell("rmmod simple_procfs_kmod").await.unwrap();
    let report = of(&node.ask(tenon_order::wire::Request::Report).await, "procfs");
    assert_eq!((report.phase, report.reason), (Phase::Failed, Reason::Disappeared));
    let report = of(&node.apply().await, "procfs");
    assert_eq!((report.phase, report.reason), (Phase::Loaded, Reason::Loaded));
    assert_eq!(node.remove("procfs").await.phase, Phase::Removed);
}
