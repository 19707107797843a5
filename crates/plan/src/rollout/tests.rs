use proptest::prelude::*;
use rstest::rstest;
use tenon_api::module::Validation;
use tenon_api::node_modules_config::Replaced;

use super::*;
use crate::assign::Assignment;
use crate::fixture::{Play, bundle, default_image, minimal_module, node};
use crate::workload::{PluginPod, Role};

fn limited(limit: Option<IntOrString>) -> Module {
    let mut module = minimal_module();
    module.spec.rollout = limit.map(|limit| tenon_api::module::Rollout { max_unavailable: Some(limit) });
    module
}

fn text(text: &str) -> IntOrString {
    IntOrString::String(text.to_owned())
}

#[rstest]
#[case::default_is_a_tenth(None, 30, 3)]
#[case::rounded_down(None, 39, 3)]
#[case::never_none(None, 3, 1)]
#[case::of_no_nodes(None, 0, 1)]
#[case::a_number(Some(IntOrString::Int(4)), 3, 4)]
#[case::nonsense_is_one(Some(IntOrString::Int(-4)), 100, 1)]
#[case::percentage(Some(text("25%")), 10, 2)]
#[case::all(Some(text("100%")), 7, 7)]
#[case::too_much_is_all(Some(text("900%")), 7, 7)]
#[case::unreadable_is_the_default(Some(text("some")), 50, 5)]
fn so_many_may_change(#[case] limit: Option<IntOrString>, #[case] nodes: usize, #[case] expected: usize) {
    assert_eq!(allowed(&limited(limit), nodes), expected);
}

fn judged(play: &Play) -> Standing {
    let config = play.config.as_ref().unwrap();
    standing(config.spec.modules.first().unwrap(), config.status.as_ref(), &play.node)
}

fn loaded() -> Play {
    let mut play = Play::registered();
    play.settle();
    play
}

/// Its next content is ordered and not answered.
fn changing() -> Play {
    let mut play = loaded();
    play.image = Some(default_image('b'));
    play.decide_and_apply();
    play
}

#[test]
fn a_change_has_come_up_once_its_device_is_there() {
    let mut play = loaded();
    let loader = play.module.as_mut().unwrap().spec.module_loader.as_mut().unwrap();
    let paths = vec!["/dev/gauge0".to_owned()];
    loader.validation = Some(Validation { paths: paths.clone(), timeout_seconds: None });
    play.settle();
    assert_eq!(judged(&play), Standing::Serving, "the wish alone takes nothing away");
    play.image = Some(default_image('b'));
    play.decide_and_apply();
    play.obey();
    let report = &mut play.status().modules[0];
    (report.phase, report.validated) = (Some(ModulePhase::Unvalidated), vec![]);
    assert_eq!(judged(&play), Standing::Unavailable);
    play.status().modules[0].phase = Some(ModulePhase::Loaded);
    assert_eq!(judged(&play), Standing::Unavailable, "of an agent that looks for nothing");
    play.status().modules[0].validated = paths;
    assert_eq!(judged(&play), Standing::Serving);
}

#[test]
fn a_first_load_is_never_counted_whatever_becomes_of_it() {
    let mut play = Play::registered();
    play.decide_and_apply();
    for phase in [ModulePhase::WaitingForBundle, ModulePhase::Failed, ModulePhase::CrashSuspected] {
        play.answer(phase);
        assert_eq!(judged(&play), Standing::Free, "{phase:?}");
    }
    play.answer(ModulePhase::Loaded);
    assert_eq!(judged(&play), Standing::Serving);
}

#[rstest]
#[case(ModulePhase::Failed)]
#[case(ModulePhase::RolledBack)]
#[case(ModulePhase::InUse)]
#[case(ModulePhase::WaitingForBundle)]
#[case(ModulePhase::CrashSuspected)]
fn a_change_counts_from_its_order_until_it_is_loaded(#[case] phase: ModulePhase) {
    let mut play = changing();
    assert_eq!(judged(&play), Standing::Unavailable);
    play.answer(phase);
    assert_eq!(judged(&play), Standing::Unavailable);
    play.node.boot_id = "boot-2".to_owned();
    assert_eq!(judged(&play), Standing::Unavailable, "a reboot is no cure");
    play.answer(ModulePhase::Loaded);
    assert_eq!(judged(&play), Standing::Serving);
}

#[test]
fn what_was_reported_before_the_order_is_no_answer_to_it() {
    let mut play = changing();
    let replaces = play.config.as_ref().unwrap().spec.modules.first().unwrap().replaces.clone().unwrap();
    assert_eq!(replaces.bundle, Some(bundle('a')));
    // Changed back before the node has answered: it may be in the midst of the change.
    play.image = Some(default_image('a'));
    play.now += 1;
    play.decide_and_apply();
    assert_eq!(judged(&play), Standing::Unavailable);
    assert!(!play.is_ready());
    play.obey();
    assert_eq!(judged(&play), Standing::Serving);
}

#[test]
fn a_node_that_lost_its_module_for_its_own_reasons_does_not_count_and_is_changed_at_once() {
    let mut play = changing();
    play.obey();
    play.node.boot_id = "boot-2".to_owned();
    let boot_id = play.node.boot_id.clone();
    let reported = play.status().modules.first_mut().unwrap();
    (reported.phase, reported.boot_id) = (Some(ModulePhase::Failed), None);
    assert_eq!(judged(&play), Standing::Free, "it came up once, in {boot_id} it does not");
    play.image = Some(default_image('c'));
    play.turn = Turn::Refused { unavailable: 1, allowed: 1 };
    play.decide_and_apply();
    let entry = play.config.as_ref().unwrap().spec.modules.first().unwrap();
    assert_eq!((entry.bundle.clone(), entry.replaces.clone()), (Some(bundle('c')), None));
}

#[test]
fn a_node_that_boots_has_something_to_lose() {
    let mut play = loaded();
    play.node.boot_id = "boot-2".to_owned();
    assert_eq!(judged(&play), Standing::Serving);
    play.image = Some(default_image('b'));
    play.turn = Turn::Unasked;
    assert_eq!(play.decide().asks.len(), 1);
}

#[test]
fn another_kernel_has_nothing_to_lose() {
    let mut play = loaded();
    play.node.kernel = "6.1.0-57-cloud-amd64".parse().unwrap();
    play.node.boot_id = "boot-2".to_owned();
    assert_eq!(judged(&play), Standing::Free);
    let mut wished = play.config.as_ref().unwrap().spec.modules.first().unwrap().clone();
    wished.config.kernel_version = play.node.kernel.to_string();
    wished.bundle = Some(bundle('b'));
    let reported = play.config.as_ref().unwrap().status.as_ref().unwrap().modules.first();
    assert!(!takes_away(&wished, reported, &play.node));
}

#[test]
fn what_comes_up_as_other_content_is_taken_away_by_its_order() {
    let play = loaded();
    let config = play.config.as_ref().unwrap();
    let mut wished = config.spec.modules.first().unwrap().clone();
    let reported = config.status.as_ref().unwrap().modules.first();
    assert!(!takes_away(&wished, reported, &play.node));
    wished.config.modprobe.parameters.push("speed=2".to_owned());
    assert!(takes_away(&wished, reported, &play.node));
    assert!(!takes_away(&wished, None, &play.node));
}

fn name(number: usize) -> NodeName {
    node(&format!("n{number}")).name
}

#[test]
fn a_turn_is_used_by_the_next_version_of_the_object_and_by_nothing_else() {
    let mut turns = Turns::default();
    assert_eq!(turns.ask(&name(1), Some("7"), 1, 0), Turn::Given);
    assert_eq!(turns.ask(&name(2), Some("3"), 1, 0), Turn::Refused { unavailable: 1, allowed: 1 });
    // The write's answer was lost, and the watch brings what was known: it may still land.
    turns.note(&name(1), Some(Standing::Serving), false, Some("7"));
    assert_eq!(turns.next(1), []);
    assert_eq!(turns.ask(&name(1), Some("7"), 1, 0), Turn::Given, "whoever has it keeps it");
    // Somebody else was quicker: the write was refused. By now the node may not want it any more.
    turns.note(&name(1), Some(Standing::Serving), false, Some("8"));
    assert_eq!(turns.next(1), []);
    assert_eq!(turns.give_back(&name(1), 1), None, "nothing is under way");
    assert_eq!(turns.next(1), [name(2)]);
    assert_eq!(turns.ask(&name(2), Some("3"), 1, 0), Turn::Given);
    turns.note(&name(2), Some(Standing::Unavailable), true, Some("4"));
    assert_eq!(turns.taken(), 1);
    turns.note(&name(2), Some(Standing::Serving), false, Some("5"));
    assert_eq!(turns.taken(), 0);
}

#[test]
fn while_its_plugin_leaves_a_node_keeps_its_turn_whatever_is_written_into_its_object() {
    let mut turns = Turns::default();
    assert_eq!(turns.ask(&name(1), Some("7"), 1, 0), Turn::Given);
    assert_eq!(turns.ask(&name(2), Some("3"), 1, 0), Turn::Refused { unavailable: 1, allowed: 1 });
    for version in ["8", "9"] {
        turns.note(&name(1), Some(Standing::Serving), true, Some(version));
        assert_eq!((turns.taken(), turns.next(1)), (1, Vec::new()));
        assert_eq!(turns.ask(&name(2), Some("3"), 1, 0), Turn::Refused { unavailable: 1, allowed: 1 });
        assert_eq!(turns.ask(&name(1), Some(version), 1, 0), Turn::Given);
    }
}

#[test]
fn whoever_has_had_a_plugin_taken_away_counts_for_a_new_leader_and_goes_first() {
    let mut turns = Turns::default();
    turns.note(&name(1), Some(Standing::Serving), true, Some("7"));
    turns.note(&name(2), Some(Standing::Serving), false, Some("3"));
    assert_eq!(turns.ask(&name(2), Some("3"), 1, 0), Turn::Refused { unavailable: 1, allowed: 1 });
    assert_eq!(turns.ask(&name(1), Some("7"), 1, 0), Turn::Given);
    // More than may be, for whatever reason: nobody goes on before a label has come back.
    let mut turns = Turns::default();
    for number in [1, 2] {
        turns.note(&name(number), Some(Standing::Serving), true, Some("7"));
    }
    assert_eq!(turns.ask(&name(1), Some("7"), 1, 0), Turn::Refused { unavailable: 1, allowed: 1 });
    turns.note(&name(2), Some(Standing::Serving), false, Some("8"));
    assert_eq!(turns.next(1), [], "it counts itself, until its label is back, too");
    turns.note(&name(1), Some(Standing::Serving), false, Some("8"));
    assert_eq!(turns.next(1), [name(1)]);
}

#[test]
fn a_turn_that_is_not_wanted_any_more_goes_back_when_its_write_can_do_nothing_more() {
    let mut turns = Turns::default();
    turns.ask(&name(1), Some("7"), 1, 1_000);
    turns.ask(&name(2), Some("7"), 1, 1_000);
    assert_eq!(turns.give_back(&name(1), 2_000), Some(WRITES_LAND_WITHIN - 1_000));
    assert_eq!(turns.next(1), []);
    assert_eq!(turns.give_back(&name(1), 1_000 + WRITES_LAND_WITHIN), None);
    assert_eq!(turns.next(1), [name(2)]);
    turns.forget(&name(2));
    assert!(turns.is_empty());
}

/// A fleet whose Module changes, with everything that can go wrong between the decision and its object.
#[derive(Debug, Clone)]
enum Happening {
    Change(char),
    /// A worker decides about a node; its write is applied or not, and its answer comes or not.
    Decide {
        node: usize,
        applied: bool,
        answered: bool,
    },
    /// A write whose answer was lost is applied late, if it still can be.
    Late(usize),
    Answer(usize, ModulePhase),
    /// The watch brings what there is.
    Watch(usize),
    Reboot(usize),
    /// The kubelet and the `DaemonSet`'s controller do what the label asks for: the plugin's pod comes, or has left.
    Pod(usize),
    /// Another process takes over: it knows what a consistent list says, and nothing of turns.
    Takeover,
}

fn phase() -> impl Strategy<Value = ModulePhase> {
    prop::sample::select(vec![
        ModulePhase::Loaded,
        ModulePhase::Loaded,
        ModulePhase::Failed,
        ModulePhase::RolledBack,
        ModulePhase::InUse,
        ModulePhase::CrashSuspected,
    ])
}

const FLEET: usize = 8;

fn happening() -> impl Strategy<Value = Happening> {
    let node = 0..FLEET;
    prop_oneof![
        1 => (0..3_u8).prop_map(|fill| Happening::Change(char::from(b'a' + fill))),
        8 => (node.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(node, applied, answered)| Happening::Decide { node, applied, answered }),
        1 => node.clone().prop_map(Happening::Late),
        5 => (node.clone(), phase()).prop_map(|(node, phase)| Happening::Answer(node, phase)),
        3 => node.clone().prop_map(Happening::Watch),
        1 => node.clone().prop_map(Happening::Reboot),
        4 => node.prop_map(Happening::Pod),
        1 => Just(Happening::Takeover),
    ]
}

/// One node: what there is, what the operator knows, and writes under way.
struct Member {
    there: Play,
    known: Play,
    version: u64,
    known_version: u64,
    late: Option<(u64, Play)>,
    /// It was its turn, and the label of a driver that is loaded has been withdrawn: its plugin may not run.
    is_withdrawn: bool,
}

impl Member {
    fn see(&mut self, turns: &mut Turns) {
        let image = self.known.image.clone();
        self.known = self.there.clone();
        self.known.image = image;
        self.known_version = self.version;
        self.tell(turns);
    }

    fn tell(&self, turns: &mut Turns) {
        let config = self.known.config.as_ref().unwrap();
        let entry = config.spec.modules.first().unwrap();
        let is_withdrawn = is_withdrawn(entry, config.status.as_ref(), &self.known.node);
        let version = self.known_version.to_string();
        turns.note(&self.known.node.name, Some(judged(&self.known)), is_withdrawn, Some(&version));
    }

    fn has_driver(&self) -> bool {
        let config = self.there.config.as_ref().unwrap();
        let entry = config.spec.modules.first().unwrap();
        crate::assign::is_loaded(entry, config.status.as_ref(), &self.there.node)
    }

    /// Labels are written on whatever version of the Node there is, if they are taken away, and known at once.
    fn label(&mut self, decided: &Assignment, has_turn: bool) {
        let was_ready = self.there.is_ready();
        for node in [&mut self.there.node, &mut self.known.node] {
            for (key, value) in &decided.labels {
                match value {
                    Some(value) => node.labels.insert(key.clone(), value.clone()),
                    None => node.labels.remove(key),
                };
            }
        }
        match (was_ready, self.there.is_ready()) {
            (true, false) => self.is_withdrawn = has_turn && self.has_driver(),
            (_, true) => self.is_withdrawn = false,
            (false, false) => {}
        }
    }

    /// The write takes effect if nobody has written since.
    fn write(&mut self, version: u64, decided: &Play) {
        if version == self.version {
            self.there.config.clone_from(&decided.config);
            self.there.order.clone_from(&decided.order);
            self.version += 1;
        }
    }
}

fn plugin_pod() -> PluginPod {
    PluginPod { name: "lab/gauge-x".to_owned(), role: Role::DevicePlugin, is_ready: true }
}

struct Fleet {
    members: Vec<Member>,
    turns: Turns,
    now: u64,
}

impl Fleet {
    fn new() -> Self {
        let members = (0..FLEET).map(|number| {
            let mut there = Play::registered();
            there.node = node(&format!("n{number}"));
            let module = there.module.as_mut().unwrap();
            module.spec.device_plugin = Some(tenon_api::module::DevicePlugin::default());
            there.settle();
            there.pods = vec![plugin_pod()];
            there.settle();
            Member {
                known: there.clone(),
                there,
                version: 1,
                known_version: 1,
                late: None,
                is_withdrawn: false,
            }
        });
        let mut fleet = Self { members: members.collect(), turns: Turns::default(), now: 0 };
        for member in &fleet.members {
            member.tell(&mut fleet.turns);
        }
        fleet
    }

    fn happen(&mut self, happening: &Happening, allowed: usize) {
        self.now += 1;
        match happening {
            Happening::Change(fill) => {
                for member in &mut self.members {
                    member.known.image = Some(default_image(*fill));
                }
            }
            Happening::Decide { node, applied, answered } => self.decide(*node, *applied, *answered, allowed),
            Happening::Late(node) => {
                let member = &mut self.members[*node];
                if let Some((version, decided)) = member.late.take() {
                    member.write(version, &decided);
                }
            }
            Happening::Answer(node, phase) => {
                let member = &mut self.members[*node];
                // A node that goes down long after it said that all is well, or for other reasons, cannot be foreseen.
                if *phase != ModulePhase::CrashSuspected || judged(&member.there) == Standing::Unavailable {
                    member.there.answer(*phase);
                    member.version += 1;
                    // Whoever has lost the driver has no plugin to lose.
                    member.is_withdrawn &= member.has_driver();
                }
            }
            Happening::Watch(node) => self.members[*node].see(&mut self.turns),
            Happening::Reboot(node) => {
                let member = &mut self.members[*node];
                member.there.node.boot_id.push('x');
                member.is_withdrawn = false;
            }
            Happening::Pod(node) => {
                let member = &mut self.members[*node];
                let pods = member.there.is_ready().then(plugin_pod);
                member.there.pods = pods.into_iter().collect();
                member.known.pods.clone_from(&member.there.pods);
            }
            Happening::Takeover => {
                self.turns = Turns::default();
                for member in &mut self.members {
                    // The lease is longer than a write of the former leader may take.
                    member.late = None;
                    member.see(&mut self.turns);
                }
            }
        }
    }

    fn decide(&mut self, node: usize, applied: bool, answered: bool, allowed: usize) {
        let member = &mut self.members[node];
        let name = member.known.node.name.clone();
        let version = member.known_version.to_string();
        let mut decided = member.known.clone();
        decided.turn = Turn::Unasked;
        decided.now += self.now;
        if decided.decide().asks.is_empty() {
            self.turns.give_back(&name, self.now);
        } else {
            decided.turn = self.turns.ask(&name, Some(&version), allowed, self.now);
        }
        let assignment = decided.decide_and_apply();
        if !assignment.labels.is_empty() && (applied || answered) {
            member.label(&assignment, decided.turn == Turn::Given);
            member.tell(&mut self.turns);
        }
        if assignment.config.is_none() {
            return;
        }
        let version = member.known_version;
        if applied {
            member.write(version, &decided);
        } else if !answered {
            member.late = Some((version, decided));
        }
        if answered {
            member.see(&mut self.turns);
        }
    }

    fn unavailable(&self) -> usize {
        let is_unavailable =
            |member: &&Member| member.is_withdrawn || judged(&member.there) == Standing::Unavailable;
        self.members.iter().filter(is_unavailable).count()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever is lost, late, stale or taken over: no more nodes than allowed are unavailable because of a change.
    #[test]
    fn never_more_than_allowed_are_unavailable(
        history in proptest::collection::vec(happening(), 0..120), allowed in 1..4_usize,
    ) {
        let mut fleet = Fleet::new();
        for (step, happening) in history.iter().enumerate() {
            fleet.happen(happening, allowed);
            prop_assert!(fleet.unavailable() <= allowed, "{} at step {step}: {happening:?}", fleet.unavailable());
        }
    }

    /// When nothing goes wrong any more, everybody gets the present content: nobody waits for a turn for ever.
    #[test]
    fn in_the_end_everybody_is_changed(
        history in proptest::collection::vec(happening(), 0..60), allowed in 1..4_usize,
    ) {
        let mut fleet = Fleet::new();
        for happening in &history {
            fleet.happen(happening, allowed);
        }
        fleet.happen(&Happening::Change('c'), allowed);
        for round in 0..4 * FLEET {
            fleet.now += WRITES_LAND_WITHIN;
            for node in 0..FLEET {
                fleet.members[node].late = None;
                fleet.happen(&Happening::Pod(node), allowed);
                fleet.happen(&Happening::Watch(node), allowed);
                fleet.happen(&Happening::Decide { node, applied: true, answered: true }, allowed);
            }
            for node in 0..FLEET {
                fleet.happen(&Happening::Answer(node, ModulePhase::Loaded), allowed);
                fleet.happen(&Happening::Watch(node), allowed);
            }
            let done = fleet.members.iter().all(|member| {
                let entry = &member.there.config.as_ref().unwrap().spec.modules[0];
                entry.bundle == Some(bundle('c')) && judged(&member.there) == Standing::Serving
            });
            if done {
                return Ok(());
            }
            prop_assert!(round < 4 * FLEET - 1, "some node was never changed");
        }
    }
}

#[test]
fn a_marker_is_kept_until_the_entry_is_written_anew_for_another_reason() {
    let mut play = changing();
    play.obey();
    play.settle();
    let entry = |play: &Play| play.config.as_ref().unwrap().spec.modules.first().unwrap().clone();
    let order = i64::try_from(play.order.as_ref().unwrap().generation.0).unwrap();
    assert_eq!(entry(&play).replaces, Some(Replaced { bundle: Some(bundle('a')), order }));
    let module = play.module.as_mut().unwrap();
    module.spec.tolerations = vec![serde_json::from_str(r#"{"operator":"Exists"}"#).unwrap()];
    play.settle();
    assert_eq!(entry(&play).replaces, None);
}
