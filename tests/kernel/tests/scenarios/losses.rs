//! What a node loses: its disk's room, its disk, the operator's key, the kernel that an order was made for. Nothing is
//! unloaded for that, and all goes on when it is there again.

use rstest::rstest;
use tenon_lab::drivers::{Driver, Recipe};
use tenon_lab::kernel::Origin;
use tenon_order::wire::{Refusal, Request};
use tenon_order::{Phase, Reason, SigningKey, Wish, sign};

use crate::node::{Node, of};

const PROC: &str = "/proc/simple-procfs-kmod";

#[rstest]
#[tokio::test]
async fn a_node_that_loses_something_goes_on(#[values(Origin::Stable, Origin::Backports)] origin: Origin) {
    let mut node = Node::boot(origin).await;
    let one = node.content(Driver::SimpleProcfsKmod);
    assert_eq!(node.load("procfs", &one).await.phase, Phase::Loaded);
    room_on_the_disk(&mut node).await;
    the_key(&mut node).await;
    the_kernel_of_the_order(&mut node).await;
    the_disk_and_all_on_it(&mut node).await;
}

async fn room_on_the_disk(node: &mut Node) {
    let two = node.content(Recipe { version: "2.0", ..Driver::SimpleProcfsKmod.into() });
    let fill =
        "cat /dev/zero >/disk/fill 2>/dev/null; truncate -s -64K /disk/fill; sync; df -k /disk | tail -1";
    println!("{}", node.guest.shell(fill).await.unwrap());
    node.wish("procfs", Wish::Loaded(two.clone()));
    let (mut agent, _) = node.agent().await;
    let refused = agent.try_apply(&node.signed(), &node.depot).unwrap().unwrap_err();
    assert_eq!(refused.reason, Refusal::StoreFailed);
    assert!(refused.message.contains("No space left on device"), "{}", refused.message);
    drop(agent);
    assert_eq!(node.text(PROC).await, "simple-procfs-kmod 1.0");
    node.guest.shell("rm /disk/fill && sync").await.unwrap();
    assert_eq!(of(&node.apply().await, "procfs").phase, Phase::Loaded);
    assert_eq!(node.text(PROC).await, "simple-procfs-kmod 2.0");
}

/// The operator makes another and publishes it alone; equal content is not loaded anew.
async fn the_key(node: &mut Node) {
    let before = of(&node.ask(Request::Report).await, "procfs");
    node.key = SigningKey::from_pkcs8(&SigningKey::generate_pkcs8().unwrap()).unwrap();
    node.order.generation.0 += 1;
    let (mut agent, _) = node.agent().await;
    let refused = agent.try_apply(&node.signed(), &node.depot).unwrap().unwrap_err();
    assert_eq!(refused.reason, Refusal::Signature, "its list has not come yet");
    drop(agent);
    assert_eq!(of(&node.ask(Request::Report).await, "procfs"), before);
    node.write_keys(&[&node.key]).await;
    assert_eq!(of(&node.apply().await, "procfs"), before);
}

/// It boots another kernel after it has got the order and before it has followed it.
async fn the_kernel_of_the_order(node: &mut Node) {
    let origin = node.kernel().origin;
    let three = node.content(Recipe { version: "3.0", ..Driver::SimpleProcfsKmod.into() });
    node.wish("procfs", Wish::Loaded(three.clone()));
    let (mut agent, _) = node.agent().await;
    agent.bring(&node.signed(), &node.depot).unwrap().unwrap();
    drop(agent);
    node.reset_to(node.other_kernel().origin).await;
    let report = of(&node.ask(Request::Silent).await, "procfs");
    assert_eq!((report.phase, report.reason), (Phase::Failed, Reason::WrongKernel));
    assert_eq!(node.modules().await, [""; 0]);
    node.reset_to(origin).await;
    let report = of(&node.ask(Request::Silent).await, "procfs");
    assert_eq!((report.phase, report.bundle), (Phase::Loaded, Some(three.bundle)));
    assert_eq!(node.text(PROC).await, "simple-procfs-kmod 3.0");
}

/// It is made anew under its name: another store, for which no earlier order counts.
async fn the_disk_and_all_on_it(node: &mut Node) {
    let before = node.order.store;
    let earlier = node.signed();
    node.guest.wipe_disk().unwrap();
    node.switch_on().await;
    let hello = node.hello().await;
    assert_ne!(hello.store, before);
    assert_eq!(hello.generation, None);
    let (mut agent, _) = node.agent().await;
    assert_eq!(agent.refusal(&Request::Order { order: earlier }).reason, Refusal::WrongStore);
    drop(agent);
    assert!(node.ask(Request::Silent).await.modules.is_empty());
    node.order.store = hello.store;
    assert_eq!(of(&node.apply().await, "procfs").phase, Phase::Loaded);
    assert_eq!(node.text(PROC).await, "simple-procfs-kmod 3.0");
    // Were the old store's word good here, it would be for another generation of it, too.
    let order = tenon_order::Order { store: before, ..node.order.clone() };
    let (mut agent, _) = node.agent().await;
    let order = sign(&order, &node.key).unwrap();
    assert_eq!(agent.refusal(&Request::Order { order }).reason, Refusal::WrongStore);
}
