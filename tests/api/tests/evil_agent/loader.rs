//! Attempts at the loader's socket, with what a taken-over agent really has: the operator's orders for its own node and, since
//! it may read all objects, for others.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde_json::json;
use tenon_api::node_pod::{NAMESPACE, ORDER_KEYS_CONFIG_MAP};
use tenon_image::bundle::BundleReader;
use tenon_lab::programs::{Program, program};
use tenon_lab::wait;
use tenon_order::wire::{Client, Hello, MAX_MESSAGE, Refusal, Reply, Request};
use tenon_order::{Digest, Generation, Order, SigningKey, read_unverified, sign};

use crate::stand::{OTHER, OWN, Stand};
use tenon_test_api::cluster::{SOON, order};

/// Neither root nor the agent: whatever it is told, it can load nothing into the kernel that this test runs on.
const NOBODY: u32 = 65534;

/// A loader's process.
struct Loader {
    folder: tempfile::TempDir,
    child: Child,
}

impl Loader {
    fn start(node: &str, keys: &BTreeMap<String, String>, agent: Option<u32>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::copy(program(Program::Loader).expect("the loader"), at("loader")).expect("a copy");
        fs::set_permissions(at("loader"), fs::Permissions::from_mode(0o755)).expect("permissions");
        fs::create_dir(at("keys")).expect("a folder");
        for (id, key) in keys {
            fs::write(at("keys").join(id), key).expect("a key");
        }
        let me = fs::metadata(folder.path()).expect("a folder").uid();
        let mut command = Command::new(at("loader"));
        for flag in ["store", "socket", "keys", "lib-modules", "firmware-class"] {
            command.arg(format!("--{flag}")).arg(at(flag));
        }
        command.args(["serve", "--agent-uid", &agent.unwrap_or(me).to_string()]).env("NODE_NAME", node);
        if me == 0 {
            for path in [folder.path().to_owned(), at("keys")] {
                chown(path, Some(NOBODY), Some(NOBODY)).expect("another owner");
            }
            command.uid(NOBODY).gid(NOBODY);
        }
        let child = command.stderr(Stdio::null()).spawn().expect("a process");
        Self { folder, child }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    async fn stream(&self) -> UnixStream {
        wait::until("the loader listens", SOON, async || UnixStream::connect(self.socket()).ok())
            .await
            .expect("a loader")
    }

    async fn connect(&self) -> Client<UnixStream> {
        Client::new(self.stream().await)
    }

    async fn hello(&self) -> Hello {
        let answer = self.connect().await.call(&Request::Hello);
        let Ok(Reply::Hello(hello)) = answer else { panic!("no hello: {answer:?}") };
        hello
    }

    /// Every file of the store, with its content.
    fn store(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        collect(&self.folder.path().join("store"), &mut files);
        files
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

fn collect(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            collect(&entry.path(), files);
        } else {
            files.insert(entry.path(), fs::read(entry.path()).unwrap_or_default());
        }
    }
}

/// The operator's order for the store that a loader has.
async fn ordered(stand: &Stand, node: &str, hello: &Hello, after: Generation) -> String {
    let store = hello.store.to_string();
    stand.cluster.report(node, |status| status.store_id = Some(store)).await;
    let fits = |config: &tenon_api::NodeModulesConfig| {
        order(config).is_some_and(|order| order.store == hello.store && order.generation > after)
    };
    let config = stand.cluster.config_where(node, "an order for the loader's store", fits).await;
    config.spec.order.expect("an order")
}

fn with(text: &str, part: usize, change: impl FnOnce(&str) -> String) -> String {
    let mut parts: Vec<String> = text.split('.').map(str::to_owned).collect();
    let changed = change(parts.get(part).expect("a part"));
    parts.splice(part..=part, [changed]);
    parts.join(".")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loader_obeys_nothing_but_the_operators_newest_order_for_its_own_store() {
    let mut stand = Stand::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(stand.cluster.client.clone(), NAMESPACE);
    let keys = maps.get(ORDER_KEYS_CONFIG_MAP).await.expect("keys").data.expect("keys");
    let (own, other, former) =
        (Loader::start(OWN, &keys, None), Loader::start(OTHER, &keys, None), Loader::start(OWN, &keys, None));
    let (hello, others_hello, former_hello) = (own.hello().await, other.hello().await, former.hello().await);
    let for_former = ordered(&stand, OWN, &former_hello, Generation(0)).await;
    let for_other = ordered(&stand, OTHER, &others_hello, Generation(0)).await;
    let first = ordered(&stand, OWN, &hello, Generation(0)).await;
    let older = read_unverified(&first).expect("an order");
    // On both nodes at once: nobody obeys on the other.
    let another = json!({"spec": {
        "moduleLoader": {"container": {"modprobe": {"parameters": ["a=1"]}}}, "rollout": {"maxUnavailable": 2},
    }});
    stand.cluster.apply_module("gauge", "gauge:v1", another).await;
    let newest = ordered(&stand, OWN, &hello, older.generation).await;
    let held = read_unverified(&newest).expect("an order");

    let mut agent = own.connect().await;
    let accepted = agent.call(&Request::Order { order: newest.clone() }).expect("an answer");
    let Reply::Accepted { generation, missing } = accepted else { panic!("not accepted: {accepted:?}") };
    assert_eq!((generation, missing.len()), (held.generation, 1), "the newest order is obeyed");
    drop(agent);

    let stranger = SigningKey::from_pkcs8(&SigningKey::generate_pkcs8().expect("a key")).expect("a key");
    let by_stranger = |order: &Order| sign(order, &stranger).expect("an order");
    let key_id = newest.split('.').nth(2).expect("a key").to_owned();
    let next = Order { generation: Generation(held.generation.0 + 1), ..held.clone() };
    let nothing = Order { modules: Vec::new(), ..next.clone() };
    let before = own.store();
    for (what, text, expected) in [
        ("an order of its own making", by_stranger(&next), Refusal::Signature),
        ("one that removes nothing and holds nothing", by_stranger(&nothing), Refusal::Signature),
        (
            "the same in the operator's name",
            with(&by_stranger(&next), 2, |_| key_id.clone()),
            Refusal::Signature,
        ),
        (
            "a payload of its own under the operator's signature",
            with(&newest, 1, |_| by_stranger(&next).split('.').nth(1).unwrap_or_default().to_owned()),
            Refusal::Signature,
        ),
        (
            "the payload of another order",
            with(&newest, 1, |_| for_other.split('.').nth(1).unwrap_or_default().to_owned()),
            Refusal::Signature,
        ),
        (
            // 63 bytes in whole groups of four characters.
            "a signature cut short",
            newest.get(..newest.len() - 2).unwrap_or_default().to_owned(),
            Refusal::Signature,
        ),
        ("another format", with(&newest, 0, |_| "tenon-order-v9".to_owned()), Refusal::Malformed),
        ("one part more", format!("{newest}.x"), Refusal::Malformed),
        ("no order", String::new(), Refusal::Malformed),
        ("another node's order", for_other.clone(), Refusal::WrongNode),
        ("an order for a store that the node had", for_former.clone(), Refusal::WrongStore),
        ("an older order", first.clone(), Refusal::OlderGeneration),
    ] {
        let answer = own.connect().await.call(&Request::Order { order: text }).expect("an answer");
        let Reply::Refused { reason, .. } = answer else { panic!("{what}: {answer:?}") };
        assert_eq!(reason, expected, "{what}");
        assert_eq!(own.store(), before, "{what} changed the store");
    }
    assert_eq!(own.hello().await.generation, Some(held.generation));
    files(&stand, &own, &held).await;
    nonsense(&own).await;
    stranger_on_the_socket(&keys).await;
    stand.cluster.stop_operator().await;
}

/// Files that are not what the order names.
async fn files(stand: &Stand, own: &Loader, held: &Order) {
    let bundle = held.modules.iter().find_map(|module| match &module.wish {
        tenon_order::Wish::Loaded(load) => Some(load.bundle),
        tenon_order::Wish::Removed => None,
    });
    let bundle = bundle.expect("a bundle");
    let packed = crate::depot::fetch(stand, &bundle.to_string()).await;
    let mut reader = BundleReader::open(packed.as_slice(), &bundle).expect("a bundle");
    let manifest = reader.manifest().clone();
    let mut contents = BTreeMap::new();
    while let Some(file) = reader.next_file().expect("a file") {
        let entry = file.entry().clone();
        let mut bytes = Vec::new();
        file.copy_to(&mut bytes).expect("its bytes");
        contents.insert(entry.digest, bytes);
    }
    let (digest, bytes) = contents.iter().max_by_key(|(_, bytes)| bytes.len()).expect("a file");
    let size = bytes.len() as u64;
    let mut other = bytes.clone();
    if let Some(last) = other.last_mut() {
        *last ^= 1;
    }
    let list = manifest.emit();
    let upwards = list.replace("modules/", "../../../");
    let shorter = list.lines().take(1).fold(String::new(), |text, line| format!("{text}{line}\n"));
    let foreign = Digest::of(b"another bundle");
    let before = own.store();
    for (what, request, expected) in [
        ("another bundle", Request::Bundle { digest: foreign, manifest: list.clone() }, Refusal::NotWanted),
        ("paths upwards", Request::Bundle { digest: bundle, manifest: upwards }, Refusal::WrongManifest),
        (
            "a list without a file",
            Request::Bundle { digest: bundle, manifest: shorter },
            Refusal::WrongManifest,
        ),
        (
            "a list of nothing",
            Request::Bundle { digest: bundle, manifest: String::new() },
            Refusal::WrongManifest,
        ),
    ] {
        let answer = own.connect().await.call(&request).expect("an answer");
        assert!(
            matches!(&answer, Reply::Refused { reason, .. } if *reason == expected),
            "{what}: {answer:?}"
        );
        assert_eq!(own.store(), before, "{what} changed the store");
    }
    let refused = |answer: Reply, expected: Refusal, what: &str| {
        assert!(
            matches!(&answer, Reply::Refused { reason, .. } if *reason == expected),
            "{what}: {answer:?}"
        );
    };
    let early = own.connect().await.send_file(*digest, size, bytes.as_slice()).expect("an answer");
    refused(early, Refusal::NotWanted, "a file before its list");
    assert_eq!(own.store(), before, "a file before its list");

    let mut agent = own.connect().await;
    let need = agent.call(&Request::Bundle { digest: bundle, manifest: list }).expect("an answer");
    assert!(matches!(&need, Reply::Need { files } if files.len() == contents.len()), "{need:?}");
    let listed = own.store();
    let mut send =
        |digest: Digest, size: u64, bytes: &[u8]| agent.send_file(digest, size, bytes).expect("an answer");
    refused(send(*digest, size, &other), Refusal::WrongDigest, "other bytes under its digest");
    refused(send(Digest::of(&other), size, &other), Refusal::NotWanted, "a file that no list names");
    refused(send(*digest, size - 1, bytes), Refusal::NotWanted, "a file cut short");
    refused(send(Digest::of(b""), 0, b""), Refusal::NotWanted, "an empty file");
    assert_eq!(own.store(), listed, "nothing of these is kept");
    // A race: while one connection is heard, another waits, and a transfer that breaks off leaves nothing.
    let mut half = own.stream().await;
    tenon_order::wire::write_message(&mut half, &Request::File { digest: *digest, size }).expect("a message");
    half.write_all(bytes.get(..bytes.len() / 2).unwrap_or_default()).expect("half a file");
    assert_eq!(send(*digest, size, bytes), Reply::Stored, "the right file is taken");
    let stored = own.store();
    assert_eq!(stored.values().filter(|kept| *kept == bytes).count(), 1);
    drop(half);
    drop(agent);
    assert_eq!(own.hello().await.generation, Some(held.generation));
    assert_eq!(own.store(), stored, "half a file is nothing");
}

/// What is no message ends the connection, and the loader hears the next one.
async fn nonsense(own: &Loader) {
    let before = own.store();
    let long = u32::try_from(MAX_MESSAGE + 1).expect("a number").to_be_bytes();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let framed = |json: &str| {
        let length = u32::try_from(json.len()).expect("a length").to_be_bytes();
        [length.as_slice(), json.as_bytes()].concat()
    };
    for (what, bytes) in [
        ("a message longer than any", long.to_vec()),
        ("the longest length", vec![0xff; 4]),
        ("no JSON", framed("evil")),
        ("JSON without end", framed(&deep)),
        ("a request that is none", framed(r#""Reset""#)),
        ("a field that is none", framed(r#"{"Order":{"order":"x","force":true}}"#)),
        ("a path for a digest", framed(r#"{"File":{"digest":"sha256:../../etc/passwd","size":1}}"#)),
        ("a negative size", framed(r#"{"File":{"digest":"sha256:00","size":-1}}"#)),
    ] {
        let mut stream = own.stream().await;
        stream.write_all(&bytes).expect("a message");
        let mut answer = Vec::new();
        // A connection that is closed with something unread may be reset.
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{what} is answered: {answer:?}");
        assert_eq!(own.store(), before, "{what}");
        own.hello().await;
    }
}

/// Somebody else on the node, whom the loader's container should never meet.
async fn stranger_on_the_socket(keys: &BTreeMap<String, String>) {
    let loader = Loader::start(OWN, keys, Some(4_294_000_000));
    assert!(loader.connect().await.call(&Request::Hello).is_err(), "another user is heard");
}
