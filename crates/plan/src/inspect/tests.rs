use proptest::prelude::*;
use rstest::rstest;
use tenon_api::module_image::VerdictReason;
use tenon_api::node_modules_config::{
    NodeModule, NodeModuleStatus, NodeModulesConfigSpec, NodeModulesConfigStatus,
};

use super::*;
use crate::fixture::{KERNEL, bundle, default_image, minimal_module, node};
use crate::resolve::resolve;

const BUILD: &str = "00ff";
const OTHER_BUILD: &str = "11ee";

fn verdict(build_id: Option<&str>, source: &str, result: Predicted) -> KernelVerdict {
    let module = minimal_module();
    let load = resolve(&module, &KERNEL.parse().unwrap()).unwrap().load;
    let build_id = build_id.map(str::to_owned);
    let evidence = Evidence { build_id: build_id.clone(), source: Source::Admin, version: String::new() };
    KernelVerdict {
        build_id,
        result,
        errno: (result == Predicted::Fails).then(|| "EINVAL".to_owned()),
        reasons: vec![VerdictReason {
            reason: "VersionMismatch".to_owned(),
            message: "disagrees about version of symbol printk".into(),
        }],
        source: source.to_owned(),
        question: Question::new(&bundle('a'), &load, &evidence, &Surroundings::default()).into_text(),
    }
}

fn image(verdicts: Vec<KernelVerdict>) -> ModuleImage {
    let mut image = default_image('a');
    image.status.as_mut().unwrap().verdicts = verdicts;
    image
}

/// A node whose agent has reported.
struct Place {
    node: NodeFacts,
    config: NodeModulesConfig,
}

impl Place {
    fn new(name: &str) -> Self {
        let node = node(name);
        let mut config = NodeModulesConfig::new(name, NodeModulesConfigSpec::default());
        config.status = Some(NodeModulesConfigStatus {
            boot_id: Some(node.boot_id.clone()),
            kernel_version: Some(KERNEL.to_owned()),
            kernel_build_id: Some(BUILD.to_owned()),
            ..NodeModulesConfigStatus::default()
        });
        Self { node, config }
    }

    fn peer(&self) -> Peer<'_> {
        Peer { node: &self.node, config: Some(&self.config) }
    }

    fn told(mut self, fill: char) -> Self {
        self.config.spec.modules.push(NodeModule {
            namespace: "lab".to_owned(),
            name: "gauge".to_owned(),
            bundle: Some(bundle(fill)),
            ..NodeModule::default()
        });
        self
    }

    fn reporting(mut self, phase: ModulePhase, fill: char, boot: &str) -> Self {
        self.config.status.as_mut().unwrap().modules.push(NodeModuleStatus {
            namespace: "lab".to_owned(),
            name: "gauge".to_owned(),
            bundle: Some(bundle(fill)),
            phase: Some(phase),
            boot_id: Some(boot.to_owned()),
            ..NodeModuleStatus::default()
        });
        self
    }
}

fn held(module: &Module, image: &ModuleImage, me: &Place, peers: &[Place]) -> Option<&'static str> {
    let resolved = resolve(module, &me.node.kernel).unwrap();
    hold(module, &resolved, image, me.peer(), peers.iter().map(Place::peer)).map(|(reason, _)| reason)
}

fn with(inspection: Option<Inspection>) -> Module {
    let mut module = minimal_module();
    module.spec.inspection = inspection;
    module
}

#[rstest]
#[case::nothing_is_known(&[], None)]
#[case::it_loads(&[(Some(BUILD), "package", Predicted::Loads)], None)]
#[case::it_fails(&[(Some(BUILD), "package", Predicted::Fails)], Some(reasons::WILL_NOT_LOAD))]
#[case::unknown_is_no_obstacle(&[(Some(BUILD), "admin", Predicted::Unknown)], None)]
#[case::another_build_is_another_kernel(&[(Some(OTHER_BUILD), "admin", Predicted::Fails)], None)]
#[case::facts_of_every_build(&[(None, "package", Predicted::Fails)], Some(reasons::WILL_NOT_LOAD))]
#[case::its_own_word(&[(Some(BUILD), "node:n1", Predicted::Fails)], Some(reasons::WILL_NOT_LOAD))]
#[case::the_better_source_counts(
    &[(Some(BUILD), "node:n1", Predicted::Fails), (None, "admin", Predicted::Loads)],
    None
)]
#[case::who_knows_counts_before_who_does_not(
    &[(Some(BUILD), "admin", Predicted::Unknown), (None, "toolkit", Predicted::Fails)],
    Some(reasons::WILL_NOT_LOAD)
)]
#[case::an_unreadable_source_is_none(&[(Some(BUILD), "somebody", Predicted::Fails)], None)]
fn what_is_known_of_a_kernel_decides(
    #[case] known: &[(Option<&str>, &str, Predicted)],
    #[case] expected: Option<&str>,
) {
    let verdicts = known.iter().map(|(build, source, result)| verdict(*build, source, *result)).collect();
    assert_eq!(held(&with(None), &image(verdicts), &Place::new("n1"), &[]), expected);
}

#[rstest]
#[case(None, KERNEL, true)]
#[case(None, "6.9.0-own", false)]
#[case(Some(Inspection::Enforce), "6.9.0-own", true)]
#[case(Some(Inspection::Warn), KERNEL, false)]
fn only_kernels_of_known_builders_are_enforced_unasked(
    #[case] asked: Option<Inspection>,
    #[case] kernel: &str,
    #[case] enforced: bool,
) {
    let level = level(&with(asked), &kernel.parse().unwrap());
    assert_eq!(level == Inspection::Enforce, enforced);
}

#[test]
fn with_warn_it_is_tried_and_told() {
    let (module, place) = (with(Some(Inspection::Warn)), Place::new("n1"));
    let image = image(vec![verdict(Some(BUILD), "admin", Predicted::Fails)]);
    let resolved = resolve(&module, &place.node.kernel).unwrap();
    assert_eq!(held(&module, &image, &place, &[]), None);
    let judged = judge(&module, &resolved, &image, &place.node, Some(&place.config));
    let Judgement::Warned(verdict) = judged else { panic!("{judged:?}") };
    assert_eq!(
        sentence(verdict),
        "the kernel will refuse it with EINVAL: disagrees about version of symbol printk"
    );
}

#[test]
fn what_the_kernel_has_loaded_is_proven_against_any_prediction() {
    let image = image(vec![verdict(Some(BUILD), "admin", Predicted::Fails)]);
    let cases = [
        (ModulePhase::Loaded, 'a', "boot-1", None),
        (ModulePhase::Loaded, 'b', "boot-1", Some(reasons::WILL_NOT_LOAD)),
        (ModulePhase::Loaded, 'a', "boot-0", Some(reasons::WILL_NOT_LOAD)),
        (ModulePhase::Failed, 'a', "boot-1", Some(reasons::WILL_NOT_LOAD)),
    ];
    for (phase, fill, boot, expected) in cases {
        let place = Place::new("n1").reporting(phase, fill, boot);
        assert_eq!(held(&with(None), &image, &place, &[]), expected, "{phase:?} {fill} {boot}");
    }
}

#[test]
fn a_node_that_has_restarted_is_judged_by_what_it_runs_now() {
    let image = image(vec![verdict(Some(BUILD), "admin", Predicted::Fails)]);
    let mut place = Place::new("n1");
    "boot-2".clone_into(&mut place.node.boot_id);
    assert_eq!(held(&with(None), &image, &place, &[]), Some(reasons::WAITING_FOR_NODE));
    place.config.status = None;
    assert_eq!(held(&with(None), &image, &place, &[]), Some(reasons::WAITING_FOR_NODE));
    assert_eq!(held(&with(Some(Inspection::Warn)), &image, &place, &[]), None);
}

#[test]
fn a_verdict_on_other_settings_counts_no_more() {
    let image = image(vec![verdict(Some(BUILD), "admin", Predicted::Fails)]);
    let mut module = with(None);
    let loader = module.spec.module_loader.as_mut().unwrap();
    loader.container.modprobe.parameters = vec!["rate=5".to_owned()];
    assert_eq!(held(&module, &image, &Place::new("n1"), &[]), Some(reasons::INSPECTING));
}

#[test]
fn one_nodes_word_sends_one_other_node_first() {
    let image = image(vec![verdict(Some(BUILD), "node:n0", Predicted::Fails)]);
    let module = with(None);
    let waits = Some(reasons::WAITING_FOR_FIRST_NODE);
    let others = |name: &str| [Place::new("n0"), Place::new(name)];
    assert_eq!(held(&module, &image, &Place::new("n0"), &others("n1")), Some(reasons::WILL_NOT_LOAD));
    assert_eq!(held(&module, &image, &Place::new("n1"), &others("n2")), None);
    assert_eq!(held(&module, &image, &Place::new("n2"), &others("n1")), waits);

    let told = [Place::new("n1"), Place::new("n2").told('a')];
    assert_eq!(held(&module, &image, &Place::new("n1"), &told), waits, "the first stays the first");
    for (phase, expected) in [(ModulePhase::Failed, waits), (ModulePhase::Loaded, None)] {
        let tried = [Place::new("n1"), Place::new("n2").told('a').reporting(phase, 'a', "boot-1")];
        assert_eq!(held(&module, &image, &Place::new("n1"), &tried), expected, "{phase:?}");
    }
}

#[test]
fn a_node_of_another_build_or_unselected_is_not_the_first() {
    let image = image(vec![verdict(Some(BUILD), "node:n9", Predicted::Fails)]);
    let mut foreign = Place::new("n1");
    foreign.config.status.as_mut().unwrap().kernel_build_id = Some(OTHER_BUILD.to_owned());
    let mut elsewhere = Place::new("n2");
    elsewhere.node.labels.clear();
    assert_eq!(held(&with(None), &image, &Place::new("n3"), &[foreign, elsewhere]), None);
}

fn results() -> impl Strategy<Value = Predicted> {
    prop_oneof![Just(Predicted::Loads), Just(Predicted::Fails), Just(Predicted::Unknown)]
}

proptest! {
    /// What one node says of its kernel keeps no other node from it for ever: of those that are alike exactly one goes
    /// first, the same whoever asks, and all go once it has loaded the driver.
    #[test]
    fn a_lying_node_blocks_nobody_else(
        names in prop::collection::btree_set(0..20_u8, 1..8),
        told in prop::option::of(0..8_usize),
        liar in 20..30_u8,
    ) {
        let mut verdict = verdict(Some(BUILD), "admin", Predicted::Fails);
        verdict.source = format!("node:n{liar}");
        let (image, module) = (image(vec![verdict]), with(None));
        let mut places: Vec<_> = names.iter().map(|name| Place::new(&format!("n{name}"))).collect();
        places.push(Place::new(&format!("n{liar}")));
        let honest = names.len();
        if let Some(told) = told.filter(|told| *told < honest) {
            let name = places[told].node.name.to_string();
            places[told] = Place::new(&name).told('a');
        }
        let may: Vec<_> =
            (0..honest).filter(|at| held(&module, &image, &places[*at], &places).is_none()).collect();
        prop_assert_eq!(may.len(), 1);
        let first = places[may[0]].node.name.to_string();
        places[may[0]] = Place::new(&first).told('a').reporting(ModulePhase::Loaded, 'a', "boot-1");
        for place in &places[..honest] {
            prop_assert_eq!(held(&module, &image, place, &places), None);
        }
        prop_assert_eq!(held(&module, &image, &places[honest], &places), Some(reasons::WILL_NOT_LOAD));
    }

    /// The order in which verdicts stand says nothing.
    #[test]
    fn the_order_of_verdicts_does_not_count(
        known in prop::collection::vec((any::<bool>(), 0..5_usize, results()), 0..6),
        turn in 0..6_usize,
    ) {
        let sources = ["admin", "package", "toolkit", "node:n1", "node:n2"];
        let mut verdicts: Vec<_> = known
            .iter()
            .map(|(exact, source, result)| verdict(exact.then_some(BUILD), sources[*source], *result))
            .collect();
        // One verdict per build and source, as the operator keeps them.
        let key = |verdict: &KernelVerdict| (verdict.source.clone(), verdict.build_id.clone());
        verdicts.sort_by_key(key);
        verdicts.dedup_by_key(|verdict| key(verdict));
        let place = Place::new("n1");
        let before = held(&with(None), &image(verdicts.clone()), &place, &[]);
        let turn = turn.min(verdicts.len());
        verdicts.rotate_left(turn);
        prop_assert_eq!(held(&with(None), &image(verdicts), &place, &[]), before);
    }

    /// Nothing is ever taken from a node by a prediction: what it has assigned stays assigned.
    #[test]
    fn no_verdict_unloads(results in prop::collection::vec((results(), any::<bool>(), 0..3_usize), 0..4)) {
        let sources = ["admin", "node:n1", "node:n2"];
        let mut play = crate::fixture::Play::registered();
        play.settle();
        let before = play.config.clone().unwrap().spec;
        let mut next = image(
            results.iter().map(|(r, exact, s)| verdict(exact.then_some(BUILD), sources[*s], *r)).collect(),
        );
        next.status.as_mut().unwrap().bundle.as_mut().unwrap().digest = bundle('b');
        play.image = Some(next);
        play.decide_and_apply();
        let after = play.config.clone().unwrap().spec;
        prop_assert_eq!(after.modules.len(), before.modules.len());
        prop_assert!(play.order.unwrap().modules.iter().all(|module| module.wish != tenon_order::Wish::Removed));
    }
}

fn evidence(build: Option<&str>, source: &str, version: &str) -> Evidence {
    Evidence {
        build_id: build.map(str::to_owned),
        source: source.parse().unwrap(),
        version: version.to_owned(),
    }
}

#[test]
fn of_each_build_the_best_source_is_asked() {
    let all = vec![
        evidence(Some(BUILD), "node:n1", "1"),
        evidence(None, "toolkit", "2"),
        evidence(Some(BUILD), "admin", "3"),
        evidence(Some(OTHER_BUILD), "node:n2", "4"),
        evidence(None, "package", "5"),
    ];
    let mut turned = all.clone();
    turned.reverse();
    let best = verdict::best(all);
    let asked: Vec<_> = best.iter().map(|evidence| evidence.version.as_str()).collect();
    assert_eq!(asked, ["5", "3", "4"]);
    assert_eq!(verdict::best(turned), best);
    let many = (0..99).map(|n| evidence(Some(&format!("{n:04}")), "admin", "1")).collect();
    assert_eq!(verdict::best(many).len(), tenon_api::module_image::MAX_VERDICTS);
}

#[test]
fn a_verdict_answers_its_own_question_and_no_other() {
    let load = resolve(&minimal_module(), &KERNEL.parse().unwrap()).unwrap().load;
    let facts = evidence(Some(BUILD), "admin", "1");
    let question = Question::new(&bundle('a'), &load, &facts, &Surroundings::default());
    let mut given = verdict(Some(BUILD), "admin", Predicted::Loads);
    given.question = question.clone().into_text();
    let given = [given];
    assert!(verdict::answer(&given, std::slice::from_ref(&question)));
    assert!(!verdict::answer(&given, &[]), "the facts are gone");
    assert!(!verdict::answer(&[], &[question]), "nobody has answered");
    let other_order =
        crate::resolve::LoadSettings { loading_order: vec!["a".parse().unwrap()], ..load.clone() };
    for other in [
        Question::new(&bundle('b'), &load, &facts, &Surroundings::default()),
        Question::new(&bundle('a'), &other_order, &facts, &Surroundings::default()),
        Question::new(&bundle('a'), &load, &evidence(Some(BUILD), "admin", "2"), &Surroundings::default()),
        Question::new(&bundle('a'), &load, &facts, &Surroundings { others: true, ..Surroundings::default() }),
    ] {
        assert!(!verdict::answer(&given, &[other]));
    }
}

#[test]
fn a_verdict_without_facts_says_why_and_is_no_obstacle() {
    let module = with(None);
    let load = resolve(&module, &KERNEL.parse().unwrap()).unwrap().load;
    let why = Err("ConfigMap kernel-facts-1 has no binaryData.facts".to_owned());
    let given = verdict::verdict(
        &bundle('a'),
        &[],
        &load,
        &evidence(None, "admin", "1"),
        &why,
        &Surroundings::default(),
    );
    assert_eq!((given.result, given.errno.as_deref()), (Predicted::Unknown, None));
    assert!(sentence(&given).contains("kernel-facts-1"));
    let image = image(vec![given.clone()]);
    assert_eq!(held(&module, &image, &Place::new("n1"), &[]), None);
    let now = serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap();
    let status = verdict::report(&image, image.status.clone().unwrap(), vec![given], &now);
    let predicted = status.conditions.iter().find(|condition| condition.type_ == "Predicted").unwrap();
    assert_eq!((predicted.status.as_str(), predicted.reason.as_str()), ("Unknown", reasons::NOT_PREDICTED));
    let again = ModuleImage { status: Some(status.clone()), ..image.clone() };
    let later = serde_json::from_str("\"2027-01-01T00:00:00Z\"").unwrap();
    assert_eq!(verdict::report(&again, status.clone(), status.verdicts.clone(), &later), status);
}
