//! Signed orders: they come back as they were made, and nothing else is believed.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use proptest::prelude::*;
use tenon_order::{
    Digest, Generation, KeySet, Load, Order, OrderError, OrderedModule, SignedOrderError, SigningKey,
    StoreId, Wish, read_unverified, sign, verify,
};

fn key() -> SigningKey {
    SigningKey::from_pkcs8(&SigningKey::generate_pkcs8().unwrap()).unwrap()
}

fn load(bundle: Digest) -> Load {
    Load {
        kernel: "6.12.95+deb12-cloud-amd64".to_owned(),
        bundle,
        module: "example_nic".parse().unwrap(),
        parameters: vec![],
        loading_order: vec![],
        in_tree_to_remove: vec![],
        firmware: false,
        retry: 0,
    }
}

fn ordered(key: &str, wish: Wish) -> OrderedModule {
    OrderedModule { key: key.parse().unwrap(), wish }
}

fn order(modules: Vec<OrderedModule>) -> Order {
    Order {
        node: "worker-17.rack-3.example.com".parse().unwrap(),
        store: StoreId::from_bytes([0x5e; 16]),
        generation: Generation(1_790_000_000_000),
        modules,
    }
}

fn healthy() -> Order {
    order(vec![ordered("accelerators/example-nic", Wish::Loaded(load(Digest::of(b"bundle"))))])
}

#[test]
fn an_order_for_one_module_is_short() {
    let text = sign(&healthy(), &key()).unwrap();
    assert!(text.is_ascii() && text.len() < 750, "{} bytes: {text}", text.len());
}

#[test]
fn only_listed_keys_are_obeyed() {
    let (ours, theirs) = (key(), key());
    let text = sign(&healthy(), &theirs).unwrap();
    let keys: KeySet = [ours.public()].into_iter().collect();
    assert!(
        matches!(verify(&text, &keys), Err(SignedOrderError::UnknownKey(id)) if id == theirs.public().id())
    );
    // The id of a listed key with another key's signature.
    let forged = text.replace(&theirs.public().id().to_string(), &ours.public().id().to_string());
    assert!(matches!(verify(&forged, &keys), Err(SignedOrderError::Signature(_))));
    assert!(matches!(verify(&text, &KeySet::default()), Err(SignedOrderError::UnknownKey(_))));
}

#[test]
fn what_is_the_same_ignores_generation_and_sequence_only() {
    let one =
        order(vec![ordered("a/x", Wish::Removed), ordered("a/y", Wish::Loaded(load(Digest::of(b"1"))))]);
    let mut same = one.clone();
    same.modules.reverse();
    same.generation = Generation(7);
    assert!(one.content_eq(&same));
    assert_ne!(one, same);
    for change in [
        |order: &mut Order| order.store = StoreId::from_bytes([1; 16]),
        |order: &mut Order| order.node = "other".parse().unwrap(),
        |order: &mut Order| order.modules[0].wish = Wish::Loaded(load(Digest::of(b"2"))),
        |order: &mut Order| order.modules.truncate(1),
    ] {
        let mut other = one.clone();
        change(&mut other);
        assert!(!one.content_eq(&other), "{other:?}");
    }
}

#[test]
fn the_sequence_of_modules_does_not_change_the_text() {
    let key = key();
    let one = order(vec![ordered("a/x", Wish::Removed), ordered("a/y", Wish::Removed)]);
    let mut two = one.clone();
    two.modules.reverse();
    assert_eq!(sign(&one, &key).unwrap(), sign(&two, &key).unwrap());
}

#[test]
fn orders_that_no_loader_could_follow_are_not_signed() {
    let with = |change: fn(&mut Load)| {
        let mut load = load(Digest::of(b""));
        change(&mut load);
        order(vec![ordered("a/x", Wish::Loaded(load))])
    };
    let key: tenon_order::ModuleKey = "a/x".parse().unwrap();
    for (order, error) in [
        (
            order(vec![
                ordered("a/x", Wish::Removed),
                ordered("a/y", Wish::Removed),
                ordered("a/x", Wish::Removed),
            ]),
            OrderError::Duplicate(key.clone()),
        ),
        (with(|load| load.kernel = "../6.1".to_owned()), OrderError::Kernel(key.clone())),
        (with(|load| load.kernel = String::new()), OrderError::Kernel(key.clone())),
        (with(|load| load.parameters = vec!["a=1\0".to_owned()]), OrderError::Parameters(key.clone())),
        (with(|load| load.parameters = vec![String::new()]), OrderError::Parameters(key.clone())),
        (with(|load| load.parameters = vec!["x".repeat(5000)]), OrderError::Parameters(key.clone())),
        (
            with(|load| load.loading_order = vec!["dep".parse().unwrap(), "example-nic".parse().unwrap()]),
            OrderError::LoadingOrder(key.clone()),
        ),
    ] {
        assert!(
            matches!(sign(&order, &self::key()), Err(SignedOrderError::Content(found)) if found == error)
        );
    }
    let dashed =
        with(|load| load.loading_order = vec!["example-nic".parse().unwrap(), "dep".parse().unwrap()]);
    assert_eq!(dashed.check(), Ok(()));
}

#[test]
fn fields_of_a_later_version_are_refused() {
    let json = serde_json::to_value(healthy()).unwrap();
    assert!(serde_json::from_value::<Order>(json.clone()).is_ok());
    for pointer in ["", "/m/0", "/m/0/w/l"] {
        let mut later = json.clone();
        later.pointer_mut(pointer).unwrap().as_object_mut().unwrap().insert("z".to_owned(), 1.into());
        assert!(serde_json::from_value::<Order>(later).is_err(), "at {pointer:?}");
    }
}

fn any_load() -> impl Strategy<Value = Load> {
    let name = "[a-z][a-z0-9_-]{0,20}";
    (
        any::<[u8; 32]>(),
        name,
        prop::collection::vec("[a-z]{1,8}=[ -~é]{0,16}", 0..4),
        prop::collection::vec(name, 0..3),
        any::<bool>(),
        any::<u64>(),
    )
        .prop_map(|(bundle, module, parameters, removed, firmware, retry)| Load {
            module: module.parse().unwrap(),
            parameters,
            in_tree_to_remove: removed.iter().map(|name| name.parse().unwrap()).collect(),
            firmware,
            retry,
            ..load(Digest::from_bytes(bundle))
        })
}

prop_compose! {
    fn any_order()(
        modules in prop::collection::btree_map("[a-z]{1,5}/[a-z]([a-z.]{0,5}[a-z])?", prop::option::of(any_load()), 0..5)
            .prop_filter("names without empty labels", |modules| modules.keys().all(|key| !key.contains(".."))),
        generation in any::<u64>(),
    ) -> Order {
        let modules = modules.into_iter().map(|(key, load)| {
            ordered(&key, load.map_or(Wish::Removed, Wish::Loaded))
        });
        Order { generation: Generation(generation), ..order(modules.collect()) }
    }
}

proptest! {
    #[test]
    fn a_signed_order_comes_back(order in any_order()) {
        let key = key();
        let text = sign(&order, &key).unwrap();
        let keys: KeySet = [key.public()].into_iter().collect();
        let verified = verify(&text, &keys).unwrap();
        prop_assert!(verified.content_eq(&order));
        prop_assert_eq!(verified.generation, order.generation);
        prop_assert_eq!(read_unverified(&text).unwrap(), verified.into_inner());
    }

    #[test]
    fn a_changed_byte_is_noticed(order in any_order(), at in any::<prop::sample::Index>(), other in 0_u8..128) {
        let key = key();
        let keys: KeySet = [key.public()].into_iter().collect();
        let text = sign(&order, &key).unwrap();
        let mut bytes = text.clone().into_bytes();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != other);
        bytes[at] = other;
        prop_assert!(verify(&String::from_utf8(bytes).unwrap(), &keys).is_err());
        prop_assert!(verify(&text[..at], &keys).is_err());
        let longer = text + char::from(other).to_string().as_str();
        prop_assert!(verify(&longer, &keys).is_err());
    }

    #[test]
    fn random_text_is_refused(text in ".{0,200}", payload in "[A-Za-z0-9_-]{0,80}") {
        let keys = KeySet::default();
        prop_assert!(verify(&text, &keys).is_err());
        let shaped = format!("tenon-order-v1.{payload}.0123456789abcdef.{payload}");
        prop_assert!(verify(&shaped, &keys).is_err());
        prop_assert!(read_unverified(&shaped).is_err());
    }
}
