//! The loader as the agent meets it: over a socket, with a node whose kernel is a directory of files.
//!
//! Nothing here loads or unloads anything: what is ordered is loaded already, or cannot be.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails like a test")]

mod fixture;

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use self::fixture::{manifest, note};
use tempfile::TempDir;
use tenon_loader::chores::Chores;
use tenon_loader::record::{Pending, Piece, Record, Source};
use tenon_loader::serve::talk;
use tenon_loader::settings::Settings;
use tenon_loader::store::Store;
use tenon_order::wire::{Client, Hello, NeededFile, Refusal, Reply, Request};
use tenon_order::{
    Digest, Generation, Load, ModuleReport, NodeName, NodeReport, Order, OrderedModule, Phase, Reason,
    SigningKey, StoreId, Wish, sign,
};

const BUILD_ID: [u8; 4] = [0xfe, 0xed, 0xbe, 0xef];

/// A node with a store, an operator's key, and a kernel made of files.
struct Node {
    directory: TempDir,
    settings: Settings,
    key: SigningKey,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let settings = Settings {
            store: at("store"),
            socket: at("socket"),
            keys: at("keys"),
            lib_modules: at("lib"),
            firmware_class: at("firmware_class"),
            proc: at("proc"),
            sys: at("sys"),
            agent_uid: rustix::process::getuid().as_raw(),
            node: Some(node_name()),
            ..Settings::default()
        };
        fs::create_dir_all(at("proc/sys/kernel/random")).unwrap();
        fs::create_dir_all(at("firmware_class")).unwrap();
        fs::create_dir_all(at("keys")).unwrap();
        let key = SigningKey::from_pkcs8(&SigningKey::generate_pkcs8().unwrap()).unwrap();
        fs::write(at("keys").join(key.public().id().to_string()), key.public().to_base64()).unwrap();
        let node = Self { directory, settings, key };
        node.boots("first");
        node.write("proc/modules", "");
        node.write("proc/cmdline", "quiet");
        node.write("firmware_class/path", "\n");
        node
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn boots(&self, id: &str) {
        self.write("proc/sys/kernel/random/boot_id", format!("{id}\n"));
    }

    /// As if someone had loaded the module.
    fn has_loaded(&self, build_id: [u8; 4]) {
        self.write("proc/modules", "fixture_nic 16384 1 - Live 0x0 (OE)\n");
        self.write("sys/module/fixture_nic/notes/.note.gnu.build-id", note(build_id));
        self.write("sys/module/fixture_nic/parameters/queues", "4\n");
    }

    fn connect(&self) -> Connection {
        let (agent, loader) = UnixStream::pair().unwrap();
        let settings = self.settings.clone();
        let run = move || talk(&loader, &settings, &node_name(), &mut Chores::new(&settings, None).unwrap());
        Connection { client: Client::new(agent), loader: thread::spawn(run) }
    }

    /// One conversation in which the order is brought with all that it needs, and applied.
    fn apply(&self, order: &Order, files: &[(&str, &[u8])]) -> NodeReport {
        let mut connection = self.connect();
        let Reply::Accepted { missing, .. } = connection.order(&self.sign(order)) else {
            panic!("not accepted")
        };
        for digest in missing {
            let manifest = manifest(files).emit();
            let Reply::Need { files: needed } = connection.call(&Request::Bundle { digest, manifest }) else {
                panic!("not needed")
            };
            for NeededFile { digest, size } in needed {
                let (_, bytes) = files.iter().find(|(_, bytes)| Digest::of(bytes) == digest).unwrap();
                assert_eq!(connection.client.send_file(digest, size, *bytes).unwrap(), Reply::Stored);
            }
        }
        connection.apply()
    }

    fn order(&self, generation: u64, modules: Vec<OrderedModule>) -> Order {
        let store = self.connect().hello().store;
        Order { node: node_name(), store, generation: Generation(generation), modules }
    }

    fn sign(&self, order: &Order) -> String {
        sign(order, &self.key).unwrap()
    }
}

struct Connection {
    client: Client<UnixStream>,
    loader: JoinHandle<()>,
}

impl Connection {
    fn call(&mut self, request: &Request) -> Reply {
        self.client.call(request).unwrap()
    }

    fn hello(mut self) -> Hello {
        let Reply::Hello(hello) = self.call(&Request::Hello) else { panic!("no hello") };
        drop(self.client);
        self.loader.join().unwrap();
        hello
    }

    fn order(&mut self, text: &str) -> Reply {
        self.call(&Request::Order { order: text.to_owned() })
    }

    fn refusal(&mut self, request: &Request) -> Refusal {
        let Reply::Refused { reason, .. } = self.call(request) else { panic!("not refused") };
        reason
    }

    fn apply(mut self) -> NodeReport {
        let Reply::Report(report) = self.call(&Request::Apply) else { panic!("no report") };
        drop(self.client);
        self.loader.join().unwrap();
        report
    }

    fn report(mut self) -> NodeReport {
        let Reply::Report(report) = self.call(&Request::Report) else { panic!("no report") };
        report
    }
}

fn node_name() -> NodeName {
    "worker-3".parse().unwrap()
}

fn running() -> String {
    rustix::system::uname().release().to_str().unwrap().to_owned()
}

fn load(files: &[(&str, &[u8])]) -> Load {
    Load {
        kernel: running(),
        bundle: manifest(files).digest(),
        module: "fixture-nic".parse().unwrap(),
        parameters: vec!["queues=4".to_owned()],
        loading_order: vec![],
        in_tree_to_remove: vec![],
        firmware: false,
        retry: 0,
    }
}

fn wished(wish: Wish) -> Vec<OrderedModule> {
    vec![OrderedModule { key: "drivers/nic".parse().unwrap(), wish }]
}

/// The fixture of which the kernel has the build `BUILD_ID`.
fn module(build_id: [u8; 4]) -> Vec<u8> {
    fixture::module("fixture_nic", "", build_id)
}

fn only(report: NodeReport) -> ModuleReport {
    let [module] = <[ModuleReport; 1]>::try_from(report.modules).unwrap();
    module
}

#[test]
fn another_user_is_not_heard() {
    let mut node = Node::new();
    node.settings.agent_uid += 1;
    let mut connection = node.connect();
    assert!(connection.client.call(&Request::Hello).is_err());
    connection.loader.join().unwrap();
}

#[test]
fn it_says_who_it_is() {
    let node = Node::new();
    let hello = node.connect().hello();
    assert_eq!((hello.node, hello.generation), (node_name(), None));
    assert_eq!((hello.boot_id.as_str(), hello.kernel), ("first", running()));
    assert_eq!(hello.key_ids, [node.key.public().id()]);
    assert_eq!(node.connect().hello().store, hello.store);
}

#[test]
fn only_orders_for_here_and_now_are_accepted() {
    let node = Node::new();
    let order = node.order(5, wished(Wish::Removed));
    let stranger = SigningKey::from_pkcs8(&SigningKey::generate_pkcs8().unwrap()).unwrap();
    let mut connection = node.connect();
    let mut refusal = |text: String| connection.refusal(&Request::Order { order: text });
    assert_eq!(refusal(sign(&order, &stranger).unwrap()), Refusal::Signature);
    assert_eq!(refusal("tenon-order-v2.a.b.c".to_owned()), Refusal::Malformed);
    let elsewhere = Order { node: "worker-4".parse().unwrap(), ..order.clone() };
    assert_eq!(refusal(node.sign(&elsewhere)), Refusal::WrongNode);
    let earlier = Order { store: StoreId::from_bytes([1; 16]), ..order.clone() };
    assert_eq!(refusal(node.sign(&earlier)), Refusal::WrongStore);
    assert_eq!(node.connect().hello().generation, None, "nothing of this was kept");

    let text = node.sign(&order);
    let accepted = Reply::Accepted { generation: Generation(5), missing: vec![] };
    let mut connection = node.connect();
    assert_eq!(connection.order(&text), accepted);
    assert_eq!(connection.order(&text), accepted, "the same again is no harm");
    let mut refusal = |order: &Order| connection.refusal(&Request::Order { order: node.sign(order) });
    assert_eq!(refusal(&Order { modules: vec![], ..order.clone() }), Refusal::SameGeneration);
    assert_eq!(refusal(&Order { generation: Generation(4), ..order.clone() }), Refusal::OlderGeneration);
    assert_eq!(node.connect().hello().generation, Some(Generation(5)));
}

#[test]
fn without_keys_no_order_is_accepted() {
    let node = Node::new();
    let order = Order {
        node: node_name(),
        store: StoreId::from_bytes([0; 16]),
        generation: Generation(1),
        modules: vec![],
    };
    fs::remove_dir_all(&node.settings.keys).unwrap();
    let mut connection = node.connect();
    assert_eq!(connection.refusal(&Request::Order { order: node.sign(&order) }), Refusal::NoKeys);
}

#[test]
fn a_store_does_not_follow_another_node() {
    let node = Node::new();
    let order = node.order(1, vec![]);
    let mut connection = node.connect();
    connection.order(&node.sign(&order));
    fs::write(node.settings.store.join("node"), "worker-1").unwrap();
    let later = Order { generation: Generation(2), ..order };
    assert_eq!(connection.refusal(&Request::Order { order: node.sign(&later) }), Refusal::WrongNode);
}

#[test]
fn only_what_was_ordered_is_taken() {
    let node = Node::new();
    let files: [(&str, &[u8]); 1] = [("modules/nic.ko", b"nic")];
    let order = node.order(1, wished(Wish::Loaded(load(&files))));
    let mut connection = node.connect();
    let bundle = |digest, text: &str| Request::Bundle { digest, manifest: text.to_owned() };
    let (list, digest) = (manifest(&files).emit(), manifest(&files).digest());
    assert_eq!(connection.refusal(&bundle(digest, &list)), Refusal::NotWanted, "before any order");
    assert_eq!(
        connection.order(&node.sign(&order)),
        Reply::Accepted { generation: Generation(1), missing: vec![digest] }
    );
    assert_eq!(connection.refusal(&bundle(Digest::of(b"x"), &list)), Refusal::NotWanted);
    assert_eq!(connection.refusal(&bundle(digest, "")), Refusal::WrongManifest);
    let mut send =
        |bytes: &[u8]| connection.client.send_file(Digest::of(b"nic"), bytes.len() as u64, bytes).unwrap();
    assert!(matches!(send(b"nic"), Reply::Refused { reason: Refusal::NotWanted, .. }), "before its manifest");
    let needed = NeededFile { digest: Digest::of(b"nic"), size: 3 };
    assert_eq!(connection.call(&bundle(digest, &list)), Reply::Need { files: vec![needed] });
    let mut send =
        |bytes: &[u8]| connection.client.send_file(Digest::of(b"nic"), bytes.len() as u64, bytes).unwrap();
    assert!(matches!(send(b"nick"), Reply::Refused { reason: Refusal::NotWanted, .. }));
    assert!(matches!(send(b"nac"), Reply::Refused { reason: Refusal::WrongDigest, .. }));
    assert_eq!(send(b"nic"), Reply::Stored);
    assert_eq!(connection.call(&bundle(digest, &list)), Reply::Need { files: vec![] });
}

#[test]
fn what_cannot_be_loaded_is_reported_with_its_reason() {
    let node = Node::new();
    let files: [(&str, &[u8]); 1] = [("modules/fixture-nic.ko", b"\x7fELF, but not really")];
    let order = node.order(1, wished(Wish::Loaded(load(&files))));
    let mut connection = node.connect();
    connection.order(&node.sign(&order));
    let waiting = only(connection.apply());
    assert_eq!((waiting.phase, waiting.reason), (Phase::WaitingForBundle, Reason::BundleMissing));
    let broken = only(node.apply(&order, &files));
    assert_eq!((broken.phase, broken.reason), (Phase::Failed, Reason::ModuleInvalid));
    let other = Load { kernel: "1.0.0".to_owned(), ..load(&files) };
    let other = node.order(2, wished(Wish::Loaded(other)));
    let wrong = only(node.apply(&other, &files));
    assert_eq!((wrong.phase, wrong.reason), (Phase::Failed, Reason::WrongKernel));
    assert!(wrong.modules.is_empty() && wrong.loaded_at.is_none());
    let module = module(BUILD_ID);
    let elsewhere: [(&str, &[u8]); 1] = [("modules/other.ko", &module)];
    let report = only(node.apply(&node.order(3, wished(Wish::Loaded(load(&elsewhere)))), &elsewhere));
    assert_eq!(report.phase, Phase::Failed);
}

#[test]
fn a_module_found_loaded_is_adopted_kept_and_missed() {
    let node = Node::new();
    node.has_loaded(BUILD_ID);
    let module = module(BUILD_ID);
    let files: [(&str, &[u8]); 1] = [("modules/extra/fixture-nic.ko", &module)];
    let order = node.order(1, wished(Wish::Loaded(load(&files))));
    let adopted = only(node.apply(&order, &files));
    assert_eq!((adopted.phase, adopted.reason), (Phase::Loaded, Reason::Adopted), "{}", adopted.message);
    assert_eq!(adopted.bundle, Some(load(&files).bundle));
    assert_eq!(adopted.modules, ["fixture_nic".parse().unwrap()]);
    assert!(adopted.loaded_at.is_some());
    // The same again changes nothing.
    assert_eq!(only(node.apply(&order, &files)), adopted);
    // An order that no longer names it unloads nothing, and one that does finds it as it was.
    let silent = node.order(2, vec![]);
    let orphaned = only(node.apply(&silent, &files));
    assert_eq!((orphaned.phase, orphaned.reason), (Phase::Orphaned, Reason::NotOrdered));
    assert_eq!(orphaned.modules, adopted.modules);
    let again = node.order(3, wished(Wish::Loaded(load(&files))));
    assert_eq!(only(node.apply(&again, &files)), adopted);
    // Someone unloads it.
    node.write("proc/modules", "");
    let missed = only(node.connect().report());
    assert_eq!((missed.phase, missed.reason), (Phase::Failed, Reason::Disappeared));
}

#[test]
fn a_predecessor_is_back_when_the_kernel_has_it_and_not_when_the_record_says_so() {
    let node = Node::new();
    let (old, new) = (module(BUILD_ID), module([1, 2, 3, 4]));
    let old: [(&str, &[u8]); 1] = [("modules/fixture_nic.ko", &old)];
    let new: [(&str, &[u8]); 1] = [("modules/fixture_nic.ko", &new)];
    node.has_loaded(BUILD_ID);
    let adopted = node.apply(&node.order(1, wished(Wish::Loaded(load(&old)))), &old);
    assert_eq!(only(adopted).phase, Phase::Loaded);
    // As a run leaves it that is killed when it has unloaded the old one.
    node.write("proc/modules", "");
    let failed = node.apply(&node.order(2, wished(Wish::Loaded(load(&new)))), &new);
    assert_eq!(only(failed).phase, Phase::Failed);
    let (_, record) = Store::open(&node.settings.store).unwrap().records().unwrap().remove(0);
    let record = record.unwrap();
    assert!(record.outcome.message.contains("; its predecessor: "), "{}", record.outcome.message);
    assert_eq!((record.outcome.phase, record.failed), (Phase::Failed, None));
}

#[test]
fn what_an_interrupted_run_left_is_known_until_it_is_gone() {
    let node = Node::new();
    let nic = module(BUILD_ID);
    let files: [(&str, &[u8]); 1] = [("modules/fixture_nic.ko", &nic)];
    let order = node.order(1, wished(Wish::Loaded(load(&files))));
    let left = Piece {
        name: "fixture_lib".parse().unwrap(),
        source: Source::Store(Digest::of(b"lib")),
        parameters: vec![],
        build_id: None,
        soft: false,
    };
    let pending = Some(Pending { boot_id: "first".to_owned(), pieces: vec![left] });
    let record = Record { pending: pending.clone(), ..Record::new("drivers/nic".parse().unwrap()) };
    Store::open(&node.settings.store).unwrap().write_record(&record).unwrap();
    // The kernel does not unload what it does not have.
    node.write("proc/modules", "fixture_lib 16384 0 - Live 0x0 (OE)\n");
    assert_eq!(only(node.apply(&order, &files)).phase, Phase::Failed);
    let (_, record) = Store::open(&node.settings.store).unwrap().records().unwrap().remove(0);
    assert_eq!(record.unwrap().pending, pending);
}

#[test]
fn another_build_and_other_parameters_are_foreign() {
    let node = Node::new();
    let module = module(BUILD_ID);
    let files: [(&str, &[u8]); 1] = [("modules/fixture-nic.ko", &module)];
    node.has_loaded([1, 2, 3, 4]);
    let order = node.order(1, wished(Wish::Loaded(load(&files))));
    let foreign = only(node.apply(&order, &files));
    assert_eq!((foreign.phase, foreign.reason), (Phase::Failed, Reason::ForeignModule));
    node.has_loaded(BUILD_ID);
    let tuned = Load { parameters: vec!["queues=8".to_owned()], ..load(&files) };
    let order = node.order(2, wished(Wish::Loaded(tuned)));
    assert_eq!(only(node.apply(&order, &files)).reason, Reason::ForeignModule);
}

#[test]
fn a_started_node_has_nothing_loaded_until_it_is_told() {
    let node = Node::new();
    node.has_loaded(BUILD_ID);
    let module = module(BUILD_ID);
    let files: [(&str, &[u8]); 1] = [("modules/fixture-nic.ko", &module)];
    let order = node.order(1, wished(Wish::Loaded(load(&files))));
    node.apply(&order, &files);
    node.boots("second");
    let report = node.connect().report();
    assert_eq!(report.boot_id, "second");
    let started = only(report);
    assert_eq!((started.phase, started.reason), (Phase::Failed, Reason::NotApplied));
    assert!(started.modules.is_empty());
    // The agent says that nobody answers: what the store holds counts.
    let mut connection = node.connect();
    let Reply::Report(report) = connection.call(&Request::Silent) else { panic!("no report") };
    assert_eq!(only(report).phase, Phase::Loaded);
}

#[test]
fn a_current_order_after_a_boot_needs_no_further_word() {
    let node = Node::new();
    node.has_loaded(BUILD_ID);
    let module = module(BUILD_ID);
    let files: [(&str, &[u8]); 1] = [("modules/fixture-nic.ko", &module)];
    let order = node.order(1, wished(Wish::Loaded(load(&files))));
    node.apply(&order, &files);
    node.boots("second");
    let mut connection = node.connect();
    connection.order(&node.sign(&order));
    assert_eq!(only(connection.report()).phase, Phase::Loaded);
}

#[test]
fn a_damaged_record_harms_only_its_module() {
    let node = Node::new();
    node.has_loaded(BUILD_ID);
    let module = module(BUILD_ID);
    let files: [(&str, &[u8]); 1] = [("modules/fixture-nic.ko", &module)];
    let order = node.order(1, wished(Wish::Loaded(load(&files))));
    node.apply(&order, &files);
    let bad = node.settings.store.join("modules/drivers/bad.json");
    fs::write(bad, "{\"key\":\"drivers/bad\"").unwrap();
    let report = node.apply(&order, &files);
    let outcomes: Vec<_> = report.modules.iter().map(|module| (module.key.name(), module.reason)).collect();
    assert_eq!(outcomes, [("bad", Reason::StoreFailed), ("nic", Reason::Adopted)]);
    assert!(report.modules[0].message.contains("bad.json is damaged"));
}

#[test]
fn a_damaged_order_loads_nothing_and_is_named() {
    let node = Node::new();
    node.order(1, vec![]);
    fs::write(node.settings.store.join("order"), "tenon-order-v1.torn").unwrap();
    let mut connection = node.connect();
    for request in [Request::Apply, Request::Report, Request::Silent] {
        assert_eq!(connection.refusal(&request), Refusal::StoreFailed);
    }
}

#[test]
fn removing_what_is_not_there_is_done_at_once() {
    let node = Node::new();
    let removed = only(node.apply(&node.order(1, wished(Wish::Removed)), &[]));
    assert_eq!((removed.phase, removed.reason), (Phase::Removed, Reason::Removed));
    let report = node.apply(&node.order(2, vec![]), &[]);
    assert_eq!(report.modules, []);
}

#[test]
fn an_agent_whose_message_drips_is_not_heard_for_ever() {
    let mut node = Node::new();
    node.settings.patience = Duration::from_millis(200);
    let (agent, loader) = UnixStream::pair().unwrap();
    let settings = node.settings.clone();
    let heard = thread::spawn(move || {
        talk(&loader, &settings, &node_name(), &mut Chores::new(&settings, None).unwrap());
    });
    // A message of 1 MiB, and every moment a byte of it: no pause is long.
    (&agent).write_all(&(1_u32 << 20).to_be_bytes()).unwrap();
    while (&agent).write_all(b" ").is_ok() {
        thread::park_timeout(Duration::from_millis(5));
    }
    heard.join().unwrap();
    // The next one is.
    assert_eq!(node.connect().hello().node, node_name());
}
