//! Only an order that is signed by a known key, for this node and this store, and newer than the last changes anything;
//! and what an order does not speak of stays as it is.

use rstest::rstest;
use tenon_lab::drivers::{Driver, Recipe};
use tenon_lab::kernel::Origin;
use tenon_order::wire::{Refusal, Request};
use tenon_order::{Generation, Order, Phase, Reason, SigningKey, Wish, sign};

use crate::agent::Refused;
use crate::node::{Node, names, of};

#[rstest]
#[tokio::test]
async fn only_the_operators_latest_order_counts(#[values(Origin::Stable, Origin::Backports)] origin: Origin) {
    let mut node = Node::boot(origin).await;
    nothing_is_accepted_of_others(&mut node).await;
    an_order_takes_effect_once_and_in_sequence(&mut node).await;
    what_is_not_spoken_of_stays(&mut node).await;
    keys_change(&mut node).await;
}

fn other_key() -> SigningKey {
    SigningKey::from_pkcs8(&SigningKey::generate_pkcs8().unwrap()).unwrap()
}

/// The loader refuses this text for this reason, and nothing changes by it.
async fn assert_refused(node: &Node, order: String, reason: Refusal, words: &str) {
    let before = node.modules().await;
    let (mut agent, hello) = node.agent().await;
    let Refused { reason: found, message } = agent.refusal(&Request::Order { order });
    println!("{found:?}: {message}");
    assert_eq!(found, reason);
    assert!(message.contains(words), "{words:?} is missing: {message}");
    let report = agent.report(&Request::Apply).unwrap();
    assert_eq!(report.generation, hello.generation);
    assert_eq!(node.modules().await, before);
}

async fn nothing_is_accepted_of_others(node: &mut Node) {
    let load = node.content(Driver::SimpleKmod);
    node.wish("simple", Wish::Loaded(load));
    let order = node.order.clone();
    let signed = |order: &Order| sign(order, &node.key).unwrap();
    let foreign = sign(&order, &other_key()).unwrap();
    assert_refused(node, foreign, Refusal::Signature, "which is not among the known keys").await;
    let elsewhere = Order { node: "press-8".parse().unwrap(), ..order.clone() };
    assert_refused(node, signed(&elsewhere), Refusal::WrongNode, "for node press-8, this is press-7").await;
    let earlier = Order { store: "ab".repeat(16).parse().unwrap(), ..order.clone() };
    assert_refused(node, signed(&earlier), Refusal::WrongStore, &order.store.to_string()).await;
    // The signature of one order under another order's words.
    let removed = Order { modules: vec![], ..order.clone() };
    let (words, _) = signed(&order).rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let (_, signature) =
        signed(&removed).rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert_refused(node, format!("{words}.{signature}"), Refusal::Signature, "does not match").await;
    let cut = signed(&order).split_at(40).0.to_owned();
    assert_refused(node, cut, Refusal::Malformed, "read the order").await;
    assert_eq!(node.hello().await.generation, None);
}

async fn an_order_takes_effect_once_and_in_sequence(node: &mut Node) {
    let report = of(&node.apply().await, "simple");
    assert_eq!((report.phase, names(&report)), (Phase::Loaded, vec!["simple_kmod"]));
    let held = node.order.generation;
    let older = Order { generation: Generation(held.0 - 1), modules: vec![], ..node.order.clone() };
    let older = sign(&older, &node.key).unwrap();
    assert_refused(node, older, Refusal::OlderGeneration, &format!("{held} is held")).await;
    let same = Order { modules: vec![], ..node.order.clone() };
    let same = sign(&same, &node.key).unwrap();
    assert_refused(node, same, Refusal::SameGeneration, &held.to_string()).await;
    assert_eq!(of(&node.apply().await, "simple"), report, "the same order again is no other one");
}

async fn what_is_not_spoken_of_stays(node: &mut Node) {
    node.forget("simple");
    let report = of(&node.apply().await, "simple");
    assert_eq!((report.phase, report.reason), (Phase::Orphaned, Reason::NotOrdered));
    assert_eq!(names(&report), ["simple_kmod"]);
    assert_eq!(node.modules().await, ["simple_kmod"]);
    // Spoken of again, it is as it was.
    let load = node.content(Driver::SimpleKmod);
    let again = node.load("simple", &load).await;
    assert_eq!((again.phase, again.loaded_at), (Phase::Loaded, report.loaded_at));
}

async fn keys_change(node: &mut Node) {
    let (old, new) = (std::mem::replace(&mut node.key, other_key()), node.key.public().id());
    let load = node.content(Recipe { version: "2.0", ..Driver::SimpleKmod.into() });
    node.wish("simple", Wish::Loaded(load.clone()));
    assert_refused(node, node.signed(), Refusal::Signature, &new.to_string()).await;
    node.write_keys(&[&old, &node.key]).await;
    let report = of(&node.apply().await, "simple");
    assert_eq!((report.phase, report.bundle), (Phase::Loaded, Some(load.bundle)));
    node.write_keys(&[&node.key]).await;
    node.order.generation.0 += 1;
    let by_the_old = sign(&node.order, &old).unwrap();
    assert_refused(node, by_the_old, Refusal::Signature, &old.public().id().to_string()).await;
    // A list that is gone is no list of nobody.
    node.write_keys(&[]).await;
    assert_eq!(node.remove("simple").await.phase, Phase::Removed);
    assert_eq!(node.modules().await, [""; 0]);
}
