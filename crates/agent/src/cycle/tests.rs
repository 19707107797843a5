use rstest::rstest;
use tenon_api::module::Validation;
use tenon_api::node_modules_config::{ModuleConfig, ModulePhase, NodeModule, NodeModulesConfigSpec};
use tenon_order::{
    Generation, Load, ModuleReport, Order, OrderedModule, Phase, PublicKey, Reason, SigningKey, StoreId,
    Wish, sign,
};

use super::*;

/// A cycle, a clock, and the object as the API server would have it.
struct Node {
    cycle: Cycle,
    now: Instant,
    object: NodeModulesConfig,
    writes: usize,
}

fn bundle(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn order(generation: u64, bundle: Digest) -> String {
    let load = Load {
        kernel: "6.1.0".to_owned(),
        bundle,
        module: "nic".parse().unwrap(),
        parameters: vec![],
        loading_order: vec![],
        in_tree_to_remove: vec![],
        firmware: false,
        retry: 0,
    };
    let order = Order {
        node: "node-7".parse().unwrap(),
        store: StoreId::from_bytes([7; 16]),
        generation: Generation(generation),
        modules: vec![OrderedModule { key: "drivers/nic".parse().unwrap(), wish: Wish::Loaded(load) }],
    };
    sign(&order, &SigningKey::from_pkcs8(&SigningKey::generate_pkcs8().unwrap()).unwrap()).unwrap()
}

fn report(generation: u64, modules: Vec<ModuleReport>) -> NodeReport {
    NodeReport {
        store: StoreId::from_bytes([7; 16]),
        generation: (generation > 0).then_some(Generation(generation)),
        boot_id: "boot".to_owned(),
        kernel: "6.1.0".to_owned(),
        key_ids: vec![PublicKey::from_bytes([1; 32]).id()],
        modules,
    }
}

fn module(phase: Phase, reason: Reason, bundle: Digest) -> ModuleReport {
    let is_loaded = matches!(phase, Phase::Loaded | Phase::InUse | Phase::RolledBack);
    ModuleReport {
        key: "drivers/nic".parse().unwrap(),
        phase,
        reason,
        message: String::new(),
        bundle: Some(bundle),
        parameters: vec![],
        loaded_at: is_loaded.then_some(1_000_000),
        modules: if is_loaded { vec!["nic".parse().unwrap()] } else { vec![] },
        rolled_back: None,
    }
}

fn loaded(generation: u64, name: &str) -> NodeReport {
    report(generation, vec![module(Phase::Loaded, Reason::Loaded, bundle(name))])
}

fn waiting(generation: u64, name: &str) -> NodeReport {
    report(generation, vec![module(Phase::WaitingForBundle, Reason::BundleMissing, bundle(name))])
}

impl Node {
    fn new() -> Self {
        let now = Instant::now();
        let mut object = NodeModulesConfig::new("node-7", NodeModulesConfigSpec::default());
        object.metadata.uid = Some("uid".to_owned());
        object.metadata.resource_version = Some("1".to_owned());
        Self { cycle: Cycle::new(now, Dice::new(7)), now, object, writes: 0 }
    }

    /// The operator wishes the bundle; the API server tells.
    fn wish(&mut self, generation: u64, name: &str) -> Digest {
        let text = order(generation, bundle(name));
        self.object.spec.modules = vec![NodeModule {
            name: "nic".to_owned(),
            namespace: "drivers".to_owned(),
            config: ModuleConfig { container_image: name.to_owned(), ..ModuleConfig::default() },
            bundle: Some(bundle(name).to_string()),
            ..NodeModule::default()
        }];
        self.object.spec.order = Some(text.clone());
        self.tell_object();
        Digest::of(text.as_bytes())
    }

    /// The operator wishes that these paths are there after the load.
    fn wish_paths(&mut self, paths: &[&str]) {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let validation = Validation { paths, timeout_seconds: Some(30) };
        self.object.spec.modules[0].validation = Some(validation);
        self.tell_object();
    }

    /// Of the paths that are looked for, these are there.
    fn find(&mut self, there: &[&str]) {
        assert!(matches!(self.next(), Step::Validate(_)), "{:?}", self.next());
        self.cycle.found(&there.iter().map(|path| (*path).to_owned()).collect(), self.now);
    }

    fn tell_object(&mut self) {
        let version: u64 = self.object.metadata.resource_version.as_ref().unwrap().parse().unwrap();
        self.object.metadata.resource_version = Some((version + 1).to_string());
        self.cycle.see(Seen::Present(Box::new(self.object.clone())));
    }

    fn next(&self) -> Step {
        self.cycle.next(self.now, Timestamp::from_second(1_000).unwrap())
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn connect(&mut self, report: NodeReport) {
        assert_eq!(self.next(), Step::Connect);
        self.cycle.began_talk(self.now);
        self.cycle.connected(report, self.now);
    }

    fn tell(&mut self, order: Digest, missing: &[&str]) {
        assert!(matches!(self.next(), Step::Tell(text) if Digest::of(text.as_bytes()) == order));
        self.cycle.began_talk(self.now);
        self.cycle.accepted(order, missing.iter().map(|name| bundle(name)).collect(), self.now);
    }

    fn refuse(&mut self, order: Digest, reason: Refusal) {
        assert!(matches!(self.next(), Step::Tell(_)), "{:?}", self.next());
        self.cycle.began_talk(self.now);
        self.cycle.refused(order, reason, "no".to_owned(), self.now);
    }

    fn apply(&mut self, report: NodeReport) {
        assert_eq!(self.next(), Step::Apply);
        self.cycle.began_talk(self.now);
        self.cycle.applied(report, self.now);
    }

    fn fetch(&mut self) -> Digest {
        let Step::Rest(Rest { fetch: Some(bundle), .. }) = self.next() else { panic!("{:?}", self.next()) };
        self.cycle.began_fetch(bundle);
        bundle
    }

    fn supply(&mut self, bundle: Digest) {
        self.cycle.fetched(bundle);
        assert_eq!(self.next(), Step::Supply(bundle));
        self.cycle.began_talk(self.now);
        self.cycle.supplied(bundle, self.now);
    }

    /// The status that is to be written is.
    fn write(&mut self) -> NodeModulesConfigStatus {
        let Step::Write(status) = self.next() else { panic!("{:?}", self.next()) };
        self.object.status = Some((*status).clone());
        self.writes += 1;
        let version: u64 = self.object.metadata.resource_version.as_ref().unwrap().parse().unwrap();
        self.object.metadata.resource_version = Some((version + 1).to_string());
        self.cycle.wrote(Box::new(self.object.clone()));
        *status
    }

    fn rests(&self) -> Rest {
        match self.next() {
            Step::Rest(rest) => rest,
            other => panic!("{other:?}"),
        }
    }

    /// A node that has loaded the bundle and said so.
    fn with_loaded(name: &str) -> Self {
        let mut node = Self::new();
        let order = node.wish(5, name);
        node.connect(report(0, vec![]));
        node.tell(order, &[]);
        node.apply(loaded(5, name));
        node.write();
        node.rests();
        node.writes = 0;
        node
    }
}

#[test]
fn a_new_node_registers_and_then_loads_with_one_write_for_each() {
    let mut node = Node::new();
    node.connect(report(0, vec![]));
    node.tell_object();
    assert_eq!(node.next(), Step::Silent);
    node.cycle.loaded_from_store(report(0, vec![]), node.now);
    assert_eq!(node.write().store_id, Some("07".repeat(16)));
    assert_eq!(node.rests().fetch, None);

    let order = node.wish(5, "new");
    node.tell(order, &["new"]);
    node.apply(waiting(5, "new"));
    let wanted = node.fetch();
    assert_eq!(wanted, bundle("new"));
    node.pass(Duration::from_secs(4));
    assert_eq!(node.rests().fetch, Some(wanted));
    node.supply(wanted);
    node.apply(loaded(5, "new"));
    let status = node.write();
    assert_eq!(status.order_generation, Some(5));
    assert_eq!(status.conditions[0].status, "True");
    assert_eq!(node.writes, 2);
    node.rests();
}

#[test]
fn a_changed_order_is_reported_once() {
    let mut node = Node::with_loaded("old");
    let order = node.wish(6, "new");
    node.tell(order, &["new"]);
    let mut report = waiting(6, "old");
    report.modules[0].modules = vec!["nic".parse().unwrap()];
    node.apply(report);
    let wanted = node.fetch();
    node.supply(wanted);
    node.cycle.began_talk(node.now);
    node.pass(Duration::from_secs(20));
    node.rests();
    node.cycle.applied(loaded(6, "new"), node.now);
    assert_eq!(node.write().modules[0].config.as_ref().unwrap().container_image, "new");
    assert_eq!(node.writes, 1);
}

#[test]
fn nothing_is_said_while_the_same_order_stands() {
    let mut node = Node::with_loaded("old");
    node.tell_object();
    let rest = node.rests();
    assert!(rest.until.unwrap() > node.now && rest.fetch.is_none());
    node.pass(Duration::from_secs(301));
    assert_eq!(node.next(), Step::Look);
    node.cycle.looked(loaded(5, "old"), node.now);
    node.rests();
    assert_eq!(node.writes, 0);
}

#[test]
fn a_silent_api_server_makes_the_loader_load_from_its_store() {
    let mut node = Node::new();
    node.connect(report(5, vec![]));
    assert_eq!(node.rests().until, Some(node.now + SILENCE));
    node.pass(SILENCE);
    assert_eq!(node.next(), Step::Silent);
    node.cycle.began_talk(node.now);
    node.cycle.loaded_from_store(loaded(5, "old"), node.now);
    node.rests();
    // And when it answers at last, the order is brought.
    let order = node.wish(5, "old");
    node.tell(order, &[]);
    node.apply(loaded(5, "old"));
    node.write();
    node.rests();
}

#[test]
fn an_object_that_is_gone_is_no_order_to_remove() {
    let mut node = Node::with_loaded("old");
    node.cycle.see(Seen::Absent);
    node.rests();
    // A loader that was started anew meanwhile loads what it has.
    node.cycle.lost("gone".to_owned(), node.now);
    node.connect(loaded(5, "old"));
    assert_eq!(node.next(), Step::Silent);
}

#[test]
fn a_loader_that_was_started_anew_is_told_everything_again_and_nothing_is_written() {
    let mut node = Node::with_loaded("old");
    let order = Digest::of(node.object.spec.order.as_ref().unwrap().as_bytes());
    node.cycle.lost("the loader has closed the connection".to_owned(), node.now);
    node.connect(report(5, vec![]));
    node.tell(order, &[]);
    node.apply(loaded(5, "old"));
    node.rests();
    assert_eq!(node.writes, 0);
}

#[test]
fn a_loader_that_stays_away_is_reported() {
    let mut node = Node::with_loaded("old");
    node.cycle.lost("gone".to_owned(), node.now);
    for _ in 0..3 {
        node.cycle.lost("connect to the loader: refused".to_owned(), node.now);
        assert!(node.rests().until.unwrap() > node.now);
        node.pass(Duration::from_secs(1));
    }
    // Also while somebody is listening who does not answer.
    node.pass(Duration::from_secs(7));
    node.cycle.began_talk(node.now);
    let status = node.write();
    assert_eq!(status.conditions[0].reason, "LoaderUnreachable");
    assert_eq!(status.modules.len(), 1);
    node.rests();
}

#[rstest]
#[case(Refusal::NoKeys)]
#[case(Refusal::Signature)]
#[case(Refusal::StoreFailed)]
fn an_order_is_brought_again_when_the_refusal_may_mend_itself(#[case] reason: Refusal) {
    let mut node = Node::new();
    let order = node.wish(5, "new");
    node.connect(report(0, vec![]));
    let mut waits = vec![];
    for turn in 0..6 {
        node.refuse(order, reason);
        if turn == 0 {
            assert_eq!(node.next(), Step::Silent);
            node.cycle.loaded_from_store(report(0, vec![]), node.now);
        }
        if reason != Refusal::StoreFailed {
            assert_eq!(node.next(), Step::Look);
            node.cycle.looked(report(0, vec![]), node.now);
        }
        if turn == 0 {
            assert_eq!(node.write().conditions[0].reason, "OrderRefused");
        }
        let wait = node.rests().until.unwrap() - node.now;
        node.pass(wait);
        waits.push(wait);
    }
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(30)), "{waits:?}");
    assert!(waits[5] > waits[0], "{waits:?}");
    node.tell(order, &[]);
    node.apply(loaded(5, "new"));
    assert_eq!(node.write().conditions[0].status, "True");
    assert_eq!(node.writes, 2);
}

#[rstest]
#[case(Refusal::WrongStore)]
#[case(Refusal::WrongNode)]
#[case(Refusal::OlderGeneration)]
#[case(Refusal::SameGeneration)]
#[case(Refusal::Malformed)]
fn an_order_that_cannot_be_accepted_is_not_brought_again(#[case] reason: Refusal) {
    let mut node = Node::with_loaded("old");
    let order = node.wish(6, "new");
    node.refuse(order, reason);
    assert_eq!(node.write().conditions[0].reason, "OrderRefused");
    for _ in 0..5 {
        node.pass(Duration::from_mins(10));
        assert_eq!(node.next(), Step::Look);
        node.cycle.looked(loaded(5, "old"), node.now);
        node.rests();
    }
    let order = node.wish(7, "new");
    node.tell(order, &[]);
}

#[test]
fn trouble_with_a_bundle_is_reported_after_two_seconds() {
    let mut node = Node::with_loaded("old");
    let order = node.wish(6, "new");
    node.tell(order, &["new"]);
    node.apply(waiting(6, "new"));
    let wanted = node.fetch();
    node.cycle.fetch_failed(wanted, "https://depot answered 403".to_owned(), None, node.now);
    let rest = node.rests();
    assert_eq!(rest.fetch, None);
    assert!(rest.until.unwrap() <= node.now + Duration::from_secs(1));
    node.pass(Duration::from_secs(2));
    let status = node.write();
    assert_eq!(status.modules[0].message.as_ref().unwrap().as_str(), "https://depot answered 403");
    assert_eq!(status.conditions[0].reason, "WaitingForBundle");
    // The same trouble once more is no news.
    let wanted = node.fetch();
    node.cycle.fetch_failed(wanted, "https://depot answered 403".to_owned(), None, node.now);
    node.rests();
    assert_eq!(node.writes, 1);
}

#[test]
fn a_transfer_that_takes_long_is_reported_while_it_goes_on() {
    let mut node = Node::with_loaded("old");
    let order = node.wish(6, "new");
    node.tell(order, &["new"]);
    node.apply(waiting(6, "new"));
    let wanted = node.fetch();
    node.pass(Duration::from_secs(5));
    let status = node.write();
    assert!(status.modules[0].message.as_ref().unwrap().as_str().contains("on its way"));
    assert_eq!(node.rests().fetch, Some(wanted));
}

#[test]
fn a_busy_depot_is_left_alone_for_as_long_as_it_asks() {
    let mut node = Node::with_loaded("old");
    let order = node.wish(6, "new");
    node.tell(order, &["new"]);
    node.apply(waiting(6, "new"));
    let wanted = node.fetch();
    node.cycle.fetch_failed(wanted, "busy".to_owned(), Some(Duration::from_mins(1)), node.now);
    node.pass(Duration::from_secs(59));
    node.write();
    assert_eq!(node.rests().fetch, None);
    node.pass(Duration::from_secs(31));
    assert_eq!(node.rests().fetch, Some(wanted));
}

#[test]
fn a_transfer_of_what_is_no_longer_ordered_ends() {
    let mut node = Node::with_loaded("old");
    let order = node.wish(6, "new");
    node.tell(order, &["new"]);
    node.apply(waiting(6, "new"));
    node.fetch();
    let order = node.wish(7, "newer");
    node.tell(order, &["newer"]);
    node.apply(waiting(7, "newer"));
    assert_eq!(node.rests().fetch, Some(bundle("newer")));
    let order = node.wish(8, "old");
    node.tell(order, &[]);
    node.apply(loaded(8, "old"));
    assert_eq!(node.write().conditions[0].status, "True");
    assert_eq!(node.rests().fetch, None);
}

#[test]
fn a_bundle_that_breaks_the_connection_is_not_fetched_again_at_once() {
    let mut node = Node::with_loaded("old");
    let order = node.wish(6, "new");
    node.tell(order, &["new"]);
    node.apply(waiting(6, "new"));
    let wanted = node.fetch();
    node.cycle.fetched(wanted);
    assert_eq!(node.next(), Step::Supply(wanted));
    node.cycle.began_talk(node.now);
    node.cycle.fetch_failed(wanted, "not the bundle".to_owned(), None, node.now);
    node.cycle.lost("not the bundle".to_owned(), node.now);
    node.connect(waiting(6, "new"));
    node.tell(order, &["new"]);
    node.apply(waiting(6, "new"));
    assert_eq!(node.rests().fetch, None);
    node.pass(Duration::from_secs(2));
    assert!(node.write().modules[0].message.as_ref().unwrap().as_str().contains("not the bundle"));
    assert_eq!(node.rests().fetch, Some(wanted));
}

#[rstest]
#[case::used_by_something(Phase::InUse, Reason::InUse, true)]
#[case::no_device_yet(Phase::Failed, Reason::InitFailed, true)]
#[case::disk_full(Phase::Failed, Reason::StoreFailed, true)]
#[case::lost_by_the_store(Phase::WaitingForBundle, Reason::BundleMissing, true)]
#[case::never_for_this_kernel(Phase::Failed, Reason::VersionMagic, false)]
#[case::until_a_new_order(Phase::RolledBack, Reason::InitFailed, false)]
#[case::until_a_new_wish(Phase::CrashSuspected, Reason::CrashSuspected, false)]
fn what_was_hindered_is_tried_again(#[case] phase: Phase, #[case] reason: Reason, #[case] again: bool) {
    let mut node = Node::with_loaded("old");
    let order = node.wish(6, "new");
    node.tell(order, &[]);
    let mut waits = vec![];
    for _ in 0..4 {
        node.apply(report(6, vec![module(phase, reason, bundle("new"))]));
        if waits.is_empty() {
            node.write();
        }
        let wait = node.rests().until.unwrap() - node.now;
        waits.push(wait);
        node.pass(wait);
        if !again {
            assert_eq!(wait, LOOK);
            return;
        }
        node.tell(order, &[]);
    }
    assert!(waits[0] < waits[3] && waits[0] >= Duration::from_secs(5), "{waits:?}");
    assert_eq!(node.writes, 1);
}

#[test]
fn an_older_state_of_the_object_is_not_believed() {
    let mut node = Node::with_loaded("old");
    let mut older = node.object.clone();
    older.metadata.resource_version = Some("1".to_owned());
    older.status = None;
    node.cycle.see(Seen::Present(Box::new(older.clone())));
    node.rests();
    // But an object of that name that was made anew is.
    older.metadata.uid = Some("another".to_owned());
    node.cycle.see(Seen::Present(Box::new(older)));
    assert!(matches!(node.next(), Step::Write(_)));
}

#[test]
fn an_older_state_is_believed_when_the_object_was_read_anew() {
    let mut node = Node::with_loaded("old");
    let mut restored = node.object.clone();
    restored.metadata.resource_version = Some("1".to_owned());
    restored.status = None;
    node.cycle.see_anew(Seen::Present(Box::new(restored)));
    assert!(
        matches!(node.next(), Step::Write(_)),
        "a restored cluster does not know what the node reported since"
    );
}

#[test]
fn a_status_that_was_not_written_is_written_later() {
    let mut node = Node::new();
    let order = node.wish(5, "new");
    node.connect(report(0, vec![]));
    node.tell(order, &[]);
    node.apply(loaded(5, "new"));
    assert!(matches!(node.next(), Step::Write(_)));
    node.cycle.write_failed(node.now);
    let wait = node.rests().until.unwrap() - node.now;
    assert!(wait <= Duration::from_millis(200), "{wait:?}");
    node.pass(wait);
    node.write();
    node.rests();
}

#[test]
fn loading_that_takes_long_is_reported() {
    let mut node = Node::with_loaded("old");
    let order = node.wish(6, "new");
    node.tell(order, &[]);
    assert_eq!(node.next(), Step::Apply);
    node.cycle.began_talk(node.now);
    node.pass(Duration::from_secs(30));
    assert_eq!(node.write().conditions[0].reason, "Loading");
    node.rests();
    node.cycle.applied(loaded(6, "new"), node.now);
    assert_eq!(node.write().conditions[0].status, "True");
}

#[test]
fn a_loader_without_keys_is_asked_again_soon() {
    let mut node = Node::new();
    node.tell_object();
    let keyless = NodeReport { key_ids: vec![], ..report(0, vec![]) };
    node.connect(keyless.clone());
    node.cycle.loaded_from_store(keyless, node.now);
    assert!(node.write().key_ids.is_empty());
    assert_eq!(node.rests().until, Some(node.now + LOOK_FOR_KEYS));
    node.pass(LOOK_FOR_KEYS);
    assert_eq!(node.next(), Step::Look);
    node.cycle.looked(report(0, vec![]), node.now);
    assert_eq!(node.write().key_ids.len(), 1);
    assert_eq!(node.rests().until, Some(node.now + LOOK));
}

#[test]
fn a_module_that_somebody_unloaded_is_loaded_again() {
    let mut node = Node::with_loaded("old");
    let order = Digest::of(node.object.spec.order.as_ref().unwrap().as_bytes());
    node.pass(LOOK);
    assert_eq!(node.next(), Step::Look);
    let gone = report(5, vec![module(Phase::Failed, Reason::Disappeared, bundle("old"))]);
    node.cycle.looked(gone, node.now);
    node.tell(order, &[]);
    node.apply(loaded(5, "old"));
    node.rests();
    assert_eq!(node.writes, 0);
}

#[test]
fn a_loader_that_keeps_failing_is_not_bothered_without_end() {
    let mut node = Node::with_loaded("old");
    let mut waits = vec![];
    for _ in 0..6 {
        node.cycle.lost("gone".to_owned(), node.now);
        let wait = match node.next() {
            Step::Connect => Duration::ZERO,
            _ => node.rests().until.unwrap() - node.now,
        };
        waits.push(wait);
        node.pass(wait);
        node.connect(loaded(5, "old"));
    }
    assert!(waits[0].is_zero() && waits[5] >= Duration::from_millis(800), "{waits:?}");
    // One that has served for a while may just be started anew.
    node.pass(STEADY);
    node.cycle.lost("gone".to_owned(), node.now);
    assert_eq!(node.next(), Step::Connect);
}

#[test]
fn a_loader_that_cannot_follow_is_left_alone_for_longer_each_time() {
    let mut node = Node::with_loaded("old");
    let order = node.wish(6, "new");
    let mut waits = vec![];
    for _ in 0..5 {
        node.tell(order, &[]);
        assert_eq!(node.next(), Step::Apply);
        node.cycle.began_talk(node.now);
        node.cycle.cannot_follow(Refusal::StoreFailed, "the disk is full".to_owned(), node.now);
        if waits.is_empty() {
            assert!(node.write().conditions[0].message.contains("the disk is full"));
        }
        let wait = node.rests().until.unwrap() - node.now;
        waits.push(wait);
        node.pass(wait);
    }
    assert!(waits[4] > waits[0] && waits[4] <= Duration::from_secs(30), "{waits:?}");
    assert_eq!(node.writes, 1);
    node.tell(order, &[]);
    node.apply(loaded(6, "new"));
    assert_eq!(node.write().conditions[0].status, "True");
}

#[test]
fn what_is_there_after_the_load_is_part_of_the_one_report() {
    let mut node = Node::new();
    let order = node.wish(5, "a");
    node.wish_paths(&["/dev/nic0"]);
    node.connect(report(0, vec![]));
    node.tell(order, &[]);
    node.apply(loaded(5, "a"));
    node.find(&["/dev/nic0"]);
    let status = node.write();
    assert_eq!(status.modules[0].validated, ["/dev/nic0"]);
    assert_eq!(status.modules[0].phase, Some(ModulePhase::Loaded));
    assert!(node.rests().until.is_some());
}

#[test]
fn what_is_missing_is_looked_for_until_it_comes_and_told_no_more_often_than_it_changes() {
    let mut node = Node::with_loaded("a");
    node.wish_paths(&["/dev/nic0"]);
    node.find(&[]);
    assert_eq!(node.write().modules[0].reason.as_deref(), Some("Validating"));
    let mut told = Vec::new();
    for _ in 0..20 {
        node.now = node.rests().until.unwrap();
        node.find(&[]);
        if matches!(node.next(), Step::Write(_)) {
            told.push(node.write().modules[0].reason.clone().unwrap());
        }
    }
    assert_eq!(told, ["ValidationFailed"]);
    let ready = node.object.status.as_ref().unwrap().conditions[0].clone();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "ValidationFailed"));
    node.now = node.rests().until.unwrap();
    node.find(&["/dev/nic0"]);
    let status = node.write();
    assert_eq!(
        (status.modules[0].phase, status.conditions[0].status.as_str()),
        (Some(ModulePhase::Loaded), "True")
    );
}
