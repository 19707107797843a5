//! The kernel's own modules: loaded where a driver needs them, unloaded where one is in its way, and put back.

use rstest::rstest;
use tenon_lab::drivers::Driver;
use tenon_lab::kernel::Origin;
use tenon_order::{Load, Phase, Reason};

use crate::bundle::Bundle;
use crate::node::{Node, names};

#[rstest]
#[tokio::test]
async fn the_kernels_own_modules_come_and_go(#[values(Origin::Stable, Origin::Backports)] origin: Origin) {
    let mut node = Node::boot(origin).await;
    a_prerequisite_comes_with_the_driver(&mut node).await;
    a_prerequisite_that_was_there_stays(&mut node).await;
    one_in_the_way_makes_room_and_comes_back(&mut node).await;
    one_that_two_want_away_comes_back_after_the_last(&mut node).await;
    one_that_is_used_makes_no_room(&mut node).await;
    it_comes_back_when_the_driver_cannot_be_loaded(&mut node).await;
}

/// The newer kernel's modules are packed; the older one could not unpack them by itself.
async fn a_prerequisite_comes_with_the_driver(node: &mut Node) {
    let load = node.content(Driver::InTreeUser);
    let report = node.load("user", &load).await;
    assert_eq!((report.phase, names(&report)), (Phase::Loaded, vec!["crc7", "lab_intree_user"]));
    assert_eq!(node.modules().await, ["crc7", "lab_intree_user"]);
    assert_eq!(node.parameter("lab_intree_user", "checksum").await, crc7(b"tenon").to_string());
    assert_eq!(node.remove("user").await.phase, Phase::Removed);
    assert_eq!(node.modules().await, [""; 0]);
}

/// `crc7_be` of the kernel's `lib/crc7.c`: polynomial x^7 + x^3 + 1, the result in the upper seven bits.
fn crc7(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8)
            .fold(crc ^ byte, |crc: u8, _| if crc & 0x80 == 0 { crc << 1 } else { (crc << 1) ^ (0x09 << 1) })
    })
}

async fn a_prerequisite_that_was_there_stays(node: &mut Node) {
    node.guest.shell("modprobe crc7").await.unwrap();
    let load = node.content(Driver::InTreeUser);
    let report = node.load("user", &load).await;
    assert_eq!((report.phase, names(&report)), (Phase::Loaded, vec!["lab_intree_user"]));
    assert_eq!(node.remove("user").await.phase, Phase::Removed);
    assert_eq!(node.modules().await, ["crc7"]);
    node.guest.shell("rmmod crc7").await.unwrap();
}

fn without_dummy(load: Load) -> Load {
    Load { in_tree_to_remove: vec!["dummy".parse().unwrap()], ..load }
}

async fn one_in_the_way_makes_room_and_comes_back(node: &mut Node) {
    node.guest.shell("modprobe dummy numdummies=0").await.unwrap();
    let load = without_dummy(node.content(Driver::SimpleProcfsKmod));
    assert_eq!(node.load("instead", &load).await.phase, Phase::Loaded);
    assert_eq!(node.modules().await, ["simple_procfs_kmod"]);
    assert_eq!(node.remove("instead").await.phase, Phase::Removed);
    assert_eq!(node.modules().await, ["dummy"]);
    // One that is no longer named comes back, too.
    assert_eq!(node.load("instead", &load).await.phase, Phase::Loaded);
    assert_eq!(node.modules().await, ["simple_procfs_kmod"]);
    let load = node.content(Driver::SimpleProcfsKmod);
    assert_eq!(node.load("instead", &load).await.phase, Phase::Loaded);
    assert_eq!(node.modules().await, ["simple_procfs_kmod", "dummy"]);
    assert_eq!(node.remove("instead").await.phase, Phase::Removed);
    node.guest.shell("rmmod dummy").await.unwrap();
    // One that was not loaded is not loaded afterwards.
    let load = without_dummy(node.content(Driver::SimpleProcfsKmod));
    assert_eq!(node.load("instead", &load).await.phase, Phase::Loaded);
    assert_eq!(node.remove("instead").await.phase, Phase::Removed);
    assert_eq!(node.modules().await, [""; 0]);
}

/// Whichever of the two goes first, and whichever of them it made room for.
async fn one_that_two_want_away_comes_back_after_the_last(node: &mut Node) {
    for (first, last) in [("one", "two"), ("two", "one")] {
        node.guest.shell("modprobe dummy numdummies=0").await.unwrap();
        let load = without_dummy(node.content(Driver::SimpleKmod));
        assert_eq!(node.load("one", &load).await.phase, Phase::Loaded);
        let load = without_dummy(node.content(Driver::SimpleProcfsKmod));
        assert_eq!(node.load("two", &load).await.phase, Phase::Loaded);
        assert_eq!(node.modules().await, ["simple_kmod", "simple_procfs_kmod"]);
        assert_eq!(node.remove(first).await.phase, Phase::Removed);
        assert!(!node.modules().await.contains(&"dummy".to_owned()), "{last} wants it away");
        assert_eq!(node.remove(last).await.phase, Phase::Removed);
        assert_eq!(node.modules().await, ["dummy"]);
        node.guest.shell("rmmod dummy").await.unwrap();
    }
}

async fn one_that_is_used_makes_no_room(node: &mut Node) {
    node.guest
        .shell("modprobe loop && : >/root/disk && truncate -s 1M /root/disk && losetup /dev/loop0 /root/disk")
        .await
        .unwrap();
    let in_tree_to_remove = vec!["loop".parse().unwrap()];
    let load = Load { in_tree_to_remove, ..node.content(Driver::SimpleProcfsKmod) };
    let report = node.load("instead", &load).await;
    assert_eq!((report.phase, report.reason), (Phase::Failed, Reason::InTreeModuleInUse));
    assert!(report.message.starts_with("loop is in use"), "{}", report.message);
    assert_eq!(node.modules().await, ["loop"]);
    node.guest.shell("losetup -d /dev/loop0").await.unwrap();
    assert_eq!(node.load("instead", &load).await.phase, Phase::Loaded);
    assert_eq!(node.modules().await, ["simple_procfs_kmod"]);
    assert_eq!(node.remove("instead").await.phase, Phase::Removed);
    assert_eq!(node.modules().await, ["loop"]);
    node.guest.shell("rmmod loop").await.unwrap();
}

async fn it_comes_back_when_the_driver_cannot_be_loaded(node: &mut Node) {
    node.guest.shell("modprobe dummy numdummies=0").await.unwrap();
    let wrong = Bundle::built(node.other_kernel(), Driver::SimpleProcfsKmod.into());
    let load = without_dummy(node.content_of(wrong, Driver::SimpleProcfsKmod));
    let report = node.load("instead", &load).await;
    assert_eq!(report.phase, Phase::Failed);
    assert_eq!(node.modules().await, ["dummy"]);
}
