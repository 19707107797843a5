use proptest::prelude::*;
use rstest::rstest;
use tenon_api::node_modules_config::{
    ModuleConfig, ModulePhase, NodeModule, NodeModulesConfig, NodeModulesConfigSpec,
};
use tenon_order::{
    KeyId, Load, ModuleReport, NodeName, Order, OrderedModule, PublicKey, Reason, SigningKey, StoreId, Wish,
    sign,
};

use super::*;

const KERNEL: &str = "6.12.0-31-cloud-amd64";
const BUILD: &str = "00112233445566778899aabbccddeeff00112233";
const BOOT: &str = "0b8a1c52-6c3f-4a4e-9d0e-5d5f4f7c2a11";

fn key() -> SigningKey {
    SigningKey::from_pkcs8(&SigningKey::generate_pkcs8().unwrap()).unwrap()
}

fn key_id(number: u8) -> KeyId {
    PublicKey::from_bytes([number; 32]).id()
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn wish(name: &str, bundle: &str) -> NodeModule {
    NodeModule {
        name: name.to_owned(),
        namespace: "drivers".to_owned(),
        config: ModuleConfig {
            kernel_version: KERNEL.to_owned(),
            container_image: format!("registry.example/{name}:{bundle}"),
            ..ModuleConfig::default()
        },
        bundle: Some(digest(bundle).to_string()),
        image_digest: Some(digest("image").to_string()),
        generation: Some(3),
        ..NodeModule::default()
    }
}

fn spec(generation: u64, modules: Vec<NodeModule>) -> NodeModulesConfigSpec {
    let ordered = modules.iter().map(|module| OrderedModule {
        key: format!("{}/{}", module.namespace, module.name).parse().unwrap(),
        wish: Wish::Loaded(Load {
            kernel: KERNEL.to_owned(),
            bundle: module.bundle.as_ref().unwrap().parse().unwrap(),
            module: module.name.parse().unwrap(),
            parameters: vec![],
            loading_order: vec![],
            in_tree_to_remove: vec![],
            firmware: false,
            retry: 0,
        }),
    });
    let order = Order {
        node: "node-7".parse::<NodeName>().unwrap(),
        store: StoreId::from_bytes([7; 16]),
        generation: Generation(generation),
        modules: ordered.collect(),
    };
    NodeModulesConfigSpec { modules, order: Some(sign(&order, &key()).unwrap()) }
}

fn module(name: &str, phase: Phase, bundle: &str) -> ModuleReport {
    let is_loaded = matches!(phase, Phase::Loaded | Phase::RolledBack | Phase::Orphaned | Phase::InUse);
    ModuleReport {
        key: format!("drivers/{name}").parse().unwrap(),
        phase,
        reason: if phase == Phase::Loaded { Reason::Loaded } else { Reason::UnknownSymbol },
        message: if phase == Phase::Loaded { String::new() } else { "as the kernel says".to_owned() },
        bundle: Some(digest(bundle)),
        parameters: vec!["debug=1".to_owned()],
        loaded_at: is_loaded.then_some(1_700_000_000_123),
        modules: if is_loaded { vec![name.parse().unwrap()] } else { vec![] },
        rolled_back: None,
    }
}

fn report(generation: u64, modules: Vec<ModuleReport>) -> NodeReport {
    NodeReport {
        store: StoreId::from_bytes([7; 16]),
        generation: (generation > 0).then_some(Generation(generation)),
        boot_id: BOOT.to_owned(),
        kernel: KERNEL.to_owned(),
        key_ids: vec![key_id(1)],
        modules,
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn status(
    spec: &NodeModulesConfigSpec,
    previous: &NodeModulesConfigStatus,
    report: &NodeReport,
) -> NodeModulesConfigStatus {
    let bundles = BTreeMap::new();
    let now = at(1_800_000_000);
    compute(&Facts {
        spec,
        previous,
        report: Some(report),
        build_id: Some(BUILD),
        obstacle: None,
        bundles: &bundles,
        validations: &Validations::default(),
        now,
    })
}

fn ready(status: &NodeModulesConfigStatus) -> (&str, &str, &str) {
    let [condition] = status.conditions.as_slice() else { panic!("{:?}", status.conditions) };
    assert_eq!(condition.type_, "Ready");
    (&condition.status, &condition.reason, &condition.message)
}

#[test]
fn a_loaded_module_has_the_config_that_was_asked_for() {
    let spec = spec(9, vec![wish("nic", "new")]);
    let status = status(
        &spec,
        &NodeModulesConfigStatus::default(),
        &report(9, vec![module("nic", Phase::Loaded, "new")]),
    );
    let [entry] = status.modules.as_slice() else { panic!("{status:?}") };
    assert_eq!(entry.config.as_ref(), Some(&spec.modules[0].config));
    assert_eq!(entry.boot_id.as_deref(), Some(BOOT));
    assert_eq!((entry.phase, entry.module_generation), (Some(ModulePhase::Loaded), Some(3)));
    assert_eq!(entry.loaded_at.as_ref().unwrap().0, at(1_700_000_000));
    assert_eq!(status.order_generation, Some(9));
    assert_eq!(ready(&status), ("True", "Loaded", "the module is loaded"));
}

#[rstest]
#[case::an_order_that_is_not_held(8, Phase::Loaded, "new")]
#[case::another_bundle(9, Phase::Loaded, "other")]
#[case::a_failure(9, Phase::Failed, "new")]
#[case::a_fall_back(9, Phase::RolledBack, "other")]
fn the_new_config_is_not_claimed_for(#[case] generation: u64, #[case] phase: Phase, #[case] bundle: &str) {
    let spec = spec(9, vec![wish("nic", "new")]);
    let report = report(generation, vec![module("nic", phase, bundle)]);
    let status = status(&spec, &NodeModulesConfigStatus::default(), &report);
    assert_eq!(status.modules[0].config, None);
    assert_eq!(status.modules[0].module_generation, None);
}

#[rstest]
#[case::rolled_back(Phase::RolledBack, "old", true)]
#[case::in_use(Phase::InUse, "old", true)]
#[case::orphaned(Phase::Orphaned, "old", true)]
#[case::gone(Phase::Failed, "old", true)]
#[case::something_else(Phase::RolledBack, "third", false)]
fn content_that_came_up_once_keeps_the_config_that_it_came_up_with(
    #[case] phase: Phase,
    #[case] bundle: &str,
    #[case] stays: bool,
) {
    let old = spec(8, vec![wish("nic", "old")]);
    let none = NodeModulesConfigStatus::default();
    let before = status(&old, &none, &report(8, vec![module("nic", Phase::Loaded, "old")]));
    let new = spec(9, vec![wish("nic", "new")]);
    let after = status(&new, &before, &report(9, vec![module("nic", phase, bundle)]));
    assert_eq!(after.modules[0].config, stays.then(|| old.modules[0].config.clone()));
    assert_eq!(
        after.modules[0].boot_id.is_some(),
        !report(9, vec![module("nic", phase, bundle)]).modules[0].modules.is_empty()
    );
    assert_eq!(ready(&after).0, "False");
}

#[test]
fn an_adopted_module_is_loaded_and_one_that_somebody_unloaded_is_not() {
    let spec = spec(9, vec![wish("nic", "new")]);
    // The loader names only the kernel modules that it loaded itself.
    let adopted =
        ModuleReport { reason: Reason::Adopted, modules: vec![], ..module("nic", Phase::Loaded, "new") };
    let before = status(&spec, &NodeModulesConfigStatus::default(), &report(9, vec![adopted.clone()]));
    assert_eq!(before.modules[0].config.as_ref(), Some(&spec.modules[0].config));
    assert_eq!(before.modules[0].boot_id.as_deref(), Some(BOOT));
    let gone = ModuleReport { phase: Phase::Failed, reason: Reason::Disappeared, ..adopted };
    let after = status(&spec, &before, &report(9, vec![gone]));
    assert_eq!(after.modules[0].boot_id, None);
    assert_eq!(after.modules[0].config.as_ref(), Some(&spec.modules[0].config), "it came up once");
}

#[test]
fn removed_modules_are_not_listed_and_orphaned_ones_are() {
    let spec = spec(9, vec![]);
    let modules = vec![module("gone", Phase::Removed, "a"), module("left", Phase::Orphaned, "b")];
    let status = status(&spec, &NodeModulesConfigStatus::default(), &report(9, modules));
    assert_eq!(status.modules.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["left"]);
    assert_eq!(ready(&status), ("True", "NoOrder", "nothing is asked of this node"));
}

#[test]
fn the_gravest_module_gives_the_reason_and_all_are_named() {
    let wishes = ["a", "b", "c", "d"].map(|name| wish(name, name)).to_vec();
    let modules = vec![
        module("a", Phase::Loaded, "a"),
        module("b", Phase::Failed, "b"),
        module("c", Phase::WaitingForBundle, "c"),
        module("gone", Phase::InUse, "x"),
    ];
    let status = status(&spec(9, wishes), &NodeModulesConfigStatus::default(), &report(9, modules));
    let message = "1 of 4 modules are loaded; drivers/b failed, drivers/c waits for its bundle, \
                   drivers/d is not ordered yet, drivers/gone is in use";
    assert_eq!(ready(&status), ("False", "LoadFailed", message));
}

#[test]
fn what_hinders_a_transfer_stands_in_its_module() {
    let spec = spec(9, vec![wish("nic", "new")]);
    let report = report(9, vec![module("nic", Phase::WaitingForBundle, "old")]);
    let problem = format!("https://depot:8443 answered 403 Forbidden{}", "!".repeat(900));
    let status = compute(&Facts {
        spec: &spec,
        previous: &NodeModulesConfigStatus::default(),
        report: Some(&report),
        build_id: Some(BUILD),
        obstacle: None,
        bundles: &BTreeMap::from([(digest("new"), problem)]),
        validations: &Validations::default(),
        now: at(0),
    });
    let message = status.modules[0].message.as_ref().unwrap().as_str();
    assert!(message.starts_with("https://depot:8443 answered 403 Forbidden!"), "{message}");
    assert!(message.len() <= 512);
}

#[rstest]
#[case(Refusal::NoKeys)]
#[case(Refusal::Signature)]
#[case(Refusal::Malformed)]
#[case(Refusal::WrongNode)]
#[case(Refusal::WrongStore)]
#[case(Refusal::OlderGeneration)]
#[case(Refusal::SameGeneration)]
#[case(Refusal::StoreFailed)]
fn a_refusal_keeps_the_modules_and_says_what_is_next(#[case] reason: Refusal) {
    let spec = spec(9, vec![wish("nic", "new")]);
    let report = report(8, vec![module("nic", Phase::Loaded, "old")]);
    let obstacle = Obstacle::Refused { reason, message: "in its words".to_owned() };
    let status = compute(&Facts {
        spec: &spec,
        previous: &NodeModulesConfigStatus::default(),
        report: Some(&report),
        build_id: Some(BUILD),
        obstacle: Some(&obstacle),
        bundles: &BTreeMap::new(),
        validations: &Validations::default(),
        now: at(0),
    });
    let (ready, word, message) = ready(&status);
    assert_eq!((ready, word), ("False", "OrderRefused"));
    assert!(
        message.starts_with("the loader refused the order: in its words; ") && message.len() > 60,
        "{message}"
    );
    assert_eq!(status.modules.len(), 1);
    assert_eq!(status.order_generation, Some(8));
}

#[test]
fn a_loader_that_never_answered_changes_nothing_but_the_condition() {
    let spec = spec(9, vec![wish("nic", "new")]);
    let before = status(
        &spec,
        &NodeModulesConfigStatus::default(),
        &report(9, vec![module("nic", Phase::Loaded, "new")]),
    );
    let obstacle = Obstacle::Unreachable("connect to the loader at /x: no".to_owned());
    let after = compute(&Facts {
        spec: &spec,
        previous: &before,
        report: None,
        build_id: Some(BUILD),
        obstacle: Some(&obstacle),
        bundles: &BTreeMap::new(),
        validations: &Validations::default(),
        now: at(1_900_000_000),
    });
    assert_eq!(ready(&after).1, "LoaderUnreachable");
    assert_eq!(after.conditions[0].last_transition_time.0, at(1_900_000_000));
    assert_eq!(NodeModulesConfigStatus { conditions: before.conditions.clone(), ..after }, before);
}

#[rstest]
#[case::nothing_to_do(vec![], "True", "nothing is asked of this node")]
#[case::not_signed_yet(vec![wish("nic", "new")], "False", "the operator has not signed an order for this node's store yet")]
fn without_an_order(#[case] modules: Vec<NodeModule>, #[case] status_: &str, #[case] message: &str) {
    let spec = NodeModulesConfigSpec { modules, order: None };
    let status = status(&spec, &NodeModulesConfigStatus::default(), &report(0, vec![]));
    assert_eq!(ready(&status), (status_, "NoOrder", message));
    assert_eq!(status.order_generation, None);
}

#[test]
fn what_others_put_beside_it_does_not_count() {
    let spec = spec(9, vec![wish("a", "a"), wish("b", "b")]);
    let modules = vec![module("b", Phase::Loaded, "b"), module("a", Phase::Loaded, "a")];
    let report = report(9, modules);
    let written = status(&spec, &NodeModulesConfigStatus::default(), &report);
    let mut stored = written.clone();
    stored.modules.reverse();
    let mut foreign = stored.conditions[0].clone();
    foreign.type_ = "Foreign".to_owned();
    stored.conditions.push(foreign);
    assert!(!differs(&stored, &status(&spec, &stored, &report)));
}

#[test]
fn a_healthy_node_is_a_small_object() {
    let spec = spec(1_795_258_000_000, vec![wish("nic", "new")]);
    let mut module = module("nic", Phase::Loaded, "new");
    module.parameters = vec![];
    let report = report(1_795_258_000_000, vec![module]);
    let mut object = NodeModulesConfig::new("node-7.eu-central-1.compute.internal", spec);
    object.metadata.uid = Some(BOOT.to_owned());
    object.metadata.resource_version = Some("123456789".to_owned());
    object.status = Some(status(&object.spec, &NodeModulesConfigStatus::default(), &report));
    let size = serde_json::to_vec(&object).unwrap().len();
    assert!(size < 2660, "{size} bytes");
}

#[test]
fn a_new_key_is_to_be_known_and_an_old_one_is_not() {
    let spec = spec(9, vec![]);
    let one = report(9, vec![]);
    let two = NodeReport { key_ids: [one.key_ids.clone(), vec![key_id(2)]].concat(), ..one.clone() };
    let known_two = status(&spec, &NodeModulesConfigStatus::default(), &two);
    let known_one = status(&spec, &NodeModulesConfigStatus::default(), &one);
    assert!(!registration_differs(&known_two, &one) && !registration_differs(&known_two, &two));
    assert!(registration_differs(&known_one, &two));
    assert!(differs(&known_two, &known_one));
}

fn any_module() -> impl Strategy<Value = ModuleReport> {
    let phases = prop::sample::select(vec![
        Phase::Loaded,
        Phase::Failed,
        Phase::RolledBack,
        Phase::Removed,
        Phase::Orphaned,
        Phase::CrashSuspected,
        Phase::InUse,
        Phase::WaitingForBundle,
    ]);
    ("[a-d]", phases, "[xyz]", ".{0,200}")
        .prop_map(|(name, phase, bundle, message)| ModuleReport { message, ..module(&name, phase, &bundle) })
}

fn any_modules() -> impl Strategy<Value = Vec<ModuleReport>> {
    prop::collection::vec(any_module(), 0..5).prop_map(|mut modules| {
        modules.sort_by(|a, b| a.key.cmp(&b.key));
        modules.dedup_by(|a, b| a.key == b.key);
        modules
    })
}

proptest! {
    #[test]
    fn computing_it_again_from_what_is_stored_changes_nothing(
        before in any_modules(),
        after in any_modules(),
        held in 0_u64..3,
    ) {
        let spec = spec(2, vec![wish("a", "x"), wish("b", "y")]);
        let earlier = status(&spec, &NodeModulesConfigStatus::default(), &report(1, before));
        let report = report(held, after);
        let first = status(&spec, &earlier, &report);
        let stored: NodeModulesConfigStatus =
            serde_json::from_value(serde_json::to_value(&first).unwrap()).unwrap();
        prop_assert_eq!(&stored, &first);
        let facts = Facts {
            spec: &spec,
            previous: &stored,
            report: Some(&report),
            build_id: Some(BUILD),
            obstacle: None,
            bundles: &BTreeMap::new(),
            validations: &Validations::default(),
            now: at(1_900_000_000),
        };
        prop_assert!(!differs(&stored, &compute(&facts)));
    }

    #[test]
    fn the_order_of_modules_and_keys_does_not_matter(modules in any_modules(), turn in 0_usize..5) {
        let spec = spec(2, vec![wish("a", "x"), wish("b", "y")]);
        let one = report(2, modules);
        let mut other = one.clone();
        if !other.modules.is_empty() {
            let turn = turn % other.modules.len();
            other.modules.rotate_left(turn);
        }
        other.key_ids.reverse();
        let nothing = NodeModulesConfigStatus::default();
        prop_assert_eq!(status(&spec, &nothing, &one), status(&spec, &nothing, &other));
    }
}

/// As KMM says it: without a phase.
fn kmms(name: &str, boot_id: &str) -> NodeModulesConfigStatus {
    let entry = NodeModuleStatus {
        name: name.to_owned(),
        namespace: "drivers".to_owned(),
        config: Some(wish(name, "new").config),
        boot_id: Some(boot_id.to_owned()),
        ..NodeModuleStatus::default()
    };
    NodeModulesConfigStatus { modules: vec![entry], ..NodeModulesConfigStatus::default() }
}

fn kmms_spec() -> NodeModulesConfigSpec {
    let entry = NodeModule { bundle: None, image_digest: None, generation: None, ..wish("nic", "new") };
    NodeModulesConfigSpec { modules: vec![entry], order: None }
}

#[test]
fn what_kmm_has_loaded_is_told_until_the_loader_is_told_about_it() {
    let before = kmms("nic", BOOT);
    let registered = status(&kmms_spec(), &before, &report(0, vec![]));
    assert_eq!(registered.modules, before.modules);
    assert_eq!(ready(&registered).1, "NoOrder");
    assert!(!differs(&registered, &status(&kmms_spec(), &registered, &report(0, vec![]))));

    // An order about another Module, while this one's image is still looked for.
    let mut other = spec(9, vec![wish("gpu", "new")]);
    other.modules.extend(kmms_spec().modules);
    let report_of_gpu = report(9, vec![module("gpu", Phase::Loaded, "new")]);
    let told = status(&other, &before, &report_of_gpu);
    assert_eq!(told.modules.len(), 2);
    assert!(ready(&told).2.contains("drivers/nic is not ordered yet"), "{:?}", ready(&told));

    let ordered = spec(9, vec![wish("nic", "new")]);
    let adopted = status(&ordered, &before, &report(9, vec![module("nic", Phase::Loaded, "new")]));
    let [entry] = adopted.modules.as_slice() else { panic!("{adopted:?}") };
    assert_eq!(entry.phase, Some(ModulePhase::Loaded));
}

#[test]
fn kmms_word_is_not_kept_beyond_its_boot_nor_of_what_nobody_wishes() {
    let booted = status(&kmms_spec(), &kmms("nic", "another-boot"), &report(0, vec![]));
    assert_eq!(booted.modules, []);
    let removed = spec(9, vec![]);
    let told = status(&removed, &kmms("nic", BOOT), &report(9, vec![]));
    assert_eq!(told.modules, []);
}
