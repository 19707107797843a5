//! The link to the loader, with the real loader at the other end: everything but the kernel itself.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test program: whatever fails ends it"
)]

mod support;

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;
use tenon_agent::loader_link::{Answer, Link, LinkError};
use tenon_loader::chores::Chores;
use tenon_loader::serve::talk;
use tenon_loader::settings::Settings;
use tenon_order::wire::Refusal;
use tenon_order::{
    Digest, Generation, Load, NodeName, Order, OrderedModule, Phase, Reason, SigningKey, StoreId, Wish, sign,
};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);

struct Loader {
    dir: TempDir,
    key: SigningKey,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// A loader that serves this many connections, one after the other.
    fn serving(connections: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = new_key();
        let keys = dir.path().join("keys");
        std::fs::create_dir(&keys).unwrap();
        std::fs::write(keys.join(key.public().id().to_string()), key.public().to_base64()).unwrap();
        std::fs::create_dir(dir.path().join("lib-modules")).unwrap();
        // A kernel with nothing in it: whether the real one has modules is no matter here.
        let proc = dir.path().join("proc");
        std::fs::create_dir_all(proc.join("sys/kernel/random")).unwrap();
        std::fs::write(proc.join("sys/kernel/random/boot_id"), "0b8a1c52-6c3f-4a4e-9d0e-5d5f4f7c2a11\n")
            .unwrap();
        std::fs::write(proc.join("modules"), "").unwrap();
        std::fs::write(proc.join("cmdline"), "").unwrap();
        let settings = Settings {
            store: dir.path().join("store"),
            socket: dir.path().join("loader.sock"),
            keys,
            lib_modules: dir.path().join("lib-modules"),
            firmware_class: dir.path().join("firmware-class"),
            proc,
            sys: dir.path().join("sys"),
            agent_uid: std::fs::metadata(dir.path()).unwrap().uid(),
            node: Some(node()),
            ..Settings::default()
        };
        let listener = UnixListener::bind(&settings.socket).unwrap();
        let thread = std::thread::spawn(move || {
            let mut chores = Chores::new(&settings, None).unwrap();
            for stream in listener.incoming().take(connections) {
                talk(&stream.unwrap(), &settings, &node(), &mut chores);
            }
        });
        Self { dir, key, thread: Some(thread) }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("loader.sock")
    }

    fn order(&self, store: StoreId, generation: u64, bundle: Digest) -> String {
        order(&self.key, store, generation, bundle)
    }

    /// Ends when every connection that it was to serve is closed.
    fn join(mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

fn node() -> NodeName {
    "node-7".parse().unwrap()
}

fn new_key() -> SigningKey {
    SigningKey::from_pkcs8(&SigningKey::generate_pkcs8().unwrap()).unwrap()
}

fn order(key: &SigningKey, store: StoreId, generation: u64, bundle: Digest) -> String {
    let load = Load {
        kernel: "0.0.0-of-no-machine".to_owned(),
        bundle,
        module: "nic".parse().unwrap(),
        parameters: vec![],
        loading_order: vec![],
        in_tree_to_remove: vec![],
        firmware: false,
        retry: 0,
    };
    let modules = vec![OrderedModule { key: "drivers/nic".parse().unwrap(), wish: Wish::Loaded(load) }];
    let order = Order { node: node(), store, generation: Generation(generation), modules };
    sign(&order, key).unwrap()
}

fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file.rewind().unwrap();
    file
}

fn missing(answer: Answer) -> Vec<Digest> {
    match answer {
        Answer::Accepted { missing, .. } => missing,
        Answer::Refused { reason, message } => panic!("{reason:?}: {message}"),
    }
}

#[tokio::test]
async fn an_order_and_its_bundle_reach_the_store() {
    let loader = Loader::serving(1);
    let (link, report) = Link::connect(&loader.socket()).await.unwrap();
    assert_eq!((report.generation, report.modules.len()), (None, 0));
    assert_eq!(report.key_ids, [loader.key.public().id()]);
    let twice = support::noise(200_000);
    let (name, content) = support::bundle(&[
        ("firmware/nic.bin", &twice),
        ("modules/copy.ko", &twice),
        ("modules/empty.ko", b""),
        ("modules/nic.ko", &support::noise(90_000)),
    ]);
    let order = loader.order(report.store, 5, name);
    let answer = link.tell(order.clone()).await.unwrap();
    assert_eq!(answer, Answer::Accepted { generation: Generation(5), missing: vec![name] });
    link.supply(name, file(&content)).await.unwrap();
    assert_eq!(missing(link.tell(order.clone()).await.unwrap()), []);
    // What is there is not brought again, and does no harm when it is.
    link.supply(name, file(&content)).await.unwrap();
    let report = link.apply().await.unwrap();
    assert_eq!(report.generation, Some(Generation(5)));
    assert_eq!((report.modules[0].phase, report.modules[0].reason), (Phase::Failed, Reason::WrongKernel));
    assert_eq!(link.look().await.unwrap(), report);
    assert_eq!(link.go_on_alone().await.unwrap(), report);
    drop(link);
    loader.join();
}

#[tokio::test]
async fn refusals_are_answers_and_the_conversation_goes_on() {
    let loader = Loader::serving(1);
    let (link, report) = Link::connect(&loader.socket()).await.unwrap();
    let bundle = Digest::of(b"bundle");
    let refusal = |answer| match answer {
        Answer::Refused { reason, message } => {
            assert!(!message.is_empty());
            reason
        }
        Answer::Accepted { .. } => panic!("accepted"),
    };
    let foreign = order(&new_key(), report.store, 5, bundle);
    assert_eq!(refusal(link.tell(foreign).await.unwrap()), Refusal::Signature);
    let other_store = loader.order(StoreId::from_bytes([9; 16]), 5, bundle);
    assert_eq!(refusal(link.tell(other_store).await.unwrap()), Refusal::WrongStore);
    assert_eq!(refusal(link.tell("nonsense".to_owned()).await.unwrap()), Refusal::Malformed);
    missing(link.tell(loader.order(report.store, 5, bundle)).await.unwrap());
    let older = loader.order(report.store, 4, bundle);
    assert_eq!(refusal(link.tell(older).await.unwrap()), Refusal::OlderGeneration);
    drop(link);
    loader.join();
}

#[tokio::test]
async fn a_bundle_that_is_not_what_it_says_is_named_and_not_kept() {
    let good: &[(&str, &[u8])] = &[("modules/a.ko", b"first"), ("modules/nic.ko", b"right")];
    let bad: &[(&str, &[u8])] = &[("modules/a.ko", b"first"), ("modules/nic.ko", b"wrong")];
    let (name, other) = support::bundle_holding(good, bad);
    let (_, whole) = support::bundle(good);
    let (_, another) = support::bundle(&[("modules/nic.ko", b"another")]);
    let cut = whole.get(..whole.len() - 9).unwrap().to_vec();
    let loader = Loader::serving(5);
    for (content, words) in [
        (other, "modules/nic.ko"),
        (another, "expected sha256:"),
        (cut, "read the bundle's"),
        (b"no bundle at all".to_vec(), "not the zstd stream"),
    ] {
        let (link, report) = Link::connect(&loader.socket()).await.unwrap();
        let order = loader.order(report.store, 5, name);
        // Ed25519 signatures of equal bytes are equal: it is the same order each time.
        assert_eq!(missing(link.tell(order).await.unwrap()), [name]);
        let error = link.supply(name, file(&content)).await.unwrap_err();
        assert!(error.is_bundles_fault(), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let (link, report) = Link::connect(&loader.socket()).await.unwrap();
    let order = loader.order(report.store, 5, name);
    assert_eq!(missing(link.tell(order.clone()).await.unwrap()), [name]);
    link.supply(name, file(&whole)).await.unwrap();
    assert_eq!(missing(link.tell(order).await.unwrap()), []);
    drop(link);
    loader.join();
}

#[tokio::test]
async fn a_bundle_that_no_order_names_is_refused() {
    let loader = Loader::serving(1);
    let (link, _) = Link::connect(&loader.socket()).await.unwrap();
    let (name, content) = support::bundle(&[("modules/nic.ko", b"right")]);
    let error = link.supply(name, file(&content)).await.unwrap_err();
    assert!(matches!(error, LinkError::Refused { reason: Refusal::NotWanted, .. }), "{error:?}");
    assert!(!error.is_bundles_fault());
    drop(link);
    loader.join();
}

#[tokio::test]
async fn only_the_loaders_end_ends_the_wait_between_conversations() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("loader.sock");
    let loader = Loader::serving(1);
    // A way in the middle that can be cut.
    let listener = UnixListener::bind(&socket).unwrap();
    let behind = loader.socket();
    let middle = std::thread::spawn(move || {
        let (front, _) = listener.accept().unwrap();
        let back = UnixStream::connect(behind).unwrap();
        let mut ways =
            [(front.try_clone().unwrap(), back.try_clone().unwrap()), (back, front.try_clone().unwrap())];
        let copies = ways.iter_mut().map(|(from, to)| {
            let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to))
        });
        (copies.collect::<Vec<_>>(), front)
    });
    let (link, _) = Link::connect(&socket).await.unwrap();
    let (_copies, front) = middle.join().unwrap();
    for _ in 0..3 {
        let mut closed = std::pin::pin!(link.closed());
        assert!(futures::poll!(&mut closed).is_pending());
        // A conversation in between takes the connection back and leaves nothing behind.
        link.look().await.unwrap();
    }
    let mut closed = std::pin::pin!(link.closed());
    assert!(futures::poll!(&mut closed).is_pending());
    front.shutdown(Shutdown::Both).unwrap();
    timeout(DEADLINE, closed).await.expect("the connection's end was not noticed").unwrap();
    assert!(matches!(link.look().await, Err(LinkError::Wire(_))));
}

#[tokio::test]
async fn a_loader_that_is_not_there_is_named_by_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    let error = Link::connect(&dir.path().join("none.sock")).await.unwrap_err();
    assert!(error.to_string().ends_with("none.sock"), "{error}");
}
