//! The planner against single situations, and against a model of the kernel that refuses what the kernel refuses.

use proptest::prelude::*;

use super::*;
use crate::record::{Live, PathBefore, Pending, Record, Source};
use crate::situation::{Kernel, Others};

const BOOT: &str = "this boot";
const FIRMWARE: &str = "/store/firmware";

fn name(text: &str) -> KmodName {
    text.parse().unwrap()
}

fn key(text: &str) -> ModuleKey {
    text.parse().unwrap()
}

/// A module of a bundle; `version` makes another build.
fn bundled(text: &str, version: u8) -> Piece {
    Piece {
        name: name(text),
        source: Source::Store(Digest::of(&[text.as_bytes(), &[version]].concat())),
        parameters: vec![],
        build_id: Some(format!("{text}-{version}")),
        soft: false,
    }
}

fn hosted(text: &str) -> Piece {
    Piece { source: Source::Host(format!("kernel/{text}.ko")), build_id: None, ..bundled(text, 0) }
}

fn target(pieces: Vec<Piece>) -> Target {
    Target { pieces, ..Target::default() }
}

fn content() -> tenon_order::Load {
    tenon_order::Load {
        kernel: "6.1".to_owned(),
        bundle: Digest::of(b"bundle"),
        module: name("nic"),
        parameters: vec![],
        loading_order: vec![],
        in_tree_to_remove: vec![],
        firmware: false,
        retry: 0,
    }
}

fn record(parts: Vec<Part>) -> Record {
    let boot_id = BOOT.to_owned();
    let live = Live { boot_id, content: content(), parts, loaded_at: 1, adopted: false, reloaded: false };
    Record { live: Some(live), ..Record::new(key("drivers/nic")) }
}

fn ours(piece: Piece) -> Part {
    Part { piece, ours: true, instance: None }
}

fn fresh() -> Record {
    Record::new(key("drivers/nic"))
}

fn loaded(piece: &Piece, holders: &[&str], others: u32) -> (KmodName, Loaded) {
    let holders: BTreeSet<_> = holders.iter().map(|holder| name(holder)).collect();
    let references = u32::try_from(holders.len()).unwrap() + others;
    let build_id = piece.build_id.clone();
    (piece.name.clone(), Loaded { references, holders, build_id, ..Loaded::default() })
}

fn kernel(modules: Vec<(KmodName, Loaded)>) -> Kernel {
    Kernel { boot_id: BOOT.to_owned(), loaded: modules.into_iter().collect(), ..Kernel::default() }
}

fn decide(target: Option<&Target>, record: &Record, kernel: &Kernel) -> Result<Plan, Block> {
    decide_among(target, record, kernel, &Others::default(), &[])
}

fn decide_among(
    target: Option<&Target>,
    record: &Record,
    kernel: &Kernel,
    others: &Others,
    in_tree: &[Piece],
) -> Result<Plan, Block> {
    // Links are as the record says.
    let linked = record.firmware.keys().cloned().collect();
    plan(target, &Situation { record, others, kernel, in_tree, linked: &linked, firmware_dir: FIRMWARE })
}

fn insert(piece: &Piece) -> Step {
    Step::Insert(piece.clone())
}

fn remove(piece: &Piece) -> Step {
    Step::Remove { name: piece.name.clone(), back: Some(piece.clone()) }
}

#[test]
fn a_first_load_inserts_in_order() {
    let pieces = vec![hosted("core"), bundled("lib", 1), bundled("nic", 1)];
    let plan = decide(Some(&target(pieces.clone())), &fresh(), &kernel(vec![])).unwrap();
    assert_eq!(plan.steps, pieces.iter().map(insert).collect::<Vec<_>>());
    assert!(plan.parts.iter().all(|part| part.ours));
}

#[test]
fn what_is_loaded_as_wanted_needs_nothing() {
    let nic = bundled("nic", 1);
    let known = record(vec![ours(nic.clone())]);
    let plan = decide(Some(&target(vec![nic.clone()])), &known, &kernel(vec![loaded(&nic, &[], 3)])).unwrap();
    assert_eq!((plan.steps, plan.afterwards), (vec![], vec![]));
}

#[test]
fn the_same_build_is_adopted_and_another_is_foreign() {
    let nic = bundled("nic", 1);
    let found = kernel(vec![loaded(&nic, &[], 1)]);
    let plan = decide(Some(&target(vec![nic])), &fresh(), &found).unwrap();
    assert!(plan.steps.is_empty() && plan.parts.iter().all(|part| part.ours));
    let other = target(vec![bundled("nic", 2)]);
    assert_eq!(decide(Some(&other), &fresh(), &found), Err(Block::Foreign(name("nic"))));
}

#[test]
fn without_a_build_id_nothing_is_adopted() {
    let nic = Piece { build_id: None, ..bundled("nic", 1) };
    let found = kernel(vec![loaded(&nic, &[], 0)]);
    assert_eq!(decide(Some(&target(vec![nic])), &fresh(), &found), Err(Block::Foreign(name("nic"))));
}

#[test]
fn parameters_decide_over_adoption_as_far_as_they_can_be_read() {
    let with = |found: &[(&str, &str)], wanted: &[&str]| {
        let parameters = wanted.iter().map(|text| (*text).to_owned()).collect();
        let nic = Piece { parameters, ..bundled("nic", 1) };
        let (key, mut module) = loaded(&nic, &[], 0);
        module.parameters =
            found.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        decide(Some(&target(vec![nic])), &fresh(), &kernel(vec![(key, module)])).is_ok()
    };
    assert!(with(&[], &["hidden=1"]), "not readable");
    assert!(with(&[("queues", "16")], &["queues=0x10"]));
    assert!(with(&[("fast_path", "Y")], &["fast-path=1"]));
    assert!(with(&[("fast", "Y")], &["fast"]));
    assert!(with(&[("mode", "a b")], &["mode=\"a b\""]));
    assert!(with(&[("queues", "4")], &["queues=2", "queues=4"]), "the last one counts");
    assert!(!with(&[("queues", "8")], &["queues=4"]));
    assert!(!with(&[("fast", "N")], &["fast"]));
}

#[test]
fn another_build_of_ours_is_replaced_with_all_that_uses_it() {
    let (lib, nic) = (bundled("lib", 1), bundled("nic", 1));
    let known = record(vec![ours(lib.clone()), ours(nic.clone())]);
    let found = kernel(vec![loaded(&lib, &["nic"], 0), loaded(&nic, &[], 0)]);
    let new = bundled("lib", 2);
    let plan = decide(Some(&target(vec![new.clone(), nic.clone()])), &known, &found).unwrap();
    assert_eq!(plan.steps, [remove(&nic), remove(&lib), insert(&new), insert(&nic)]);
    assert_eq!(undo(&plan.steps[..3]), [remove(&new), insert(&lib), insert(&nic)]);
}

#[test]
fn other_parameters_reload_only_the_module() {
    let (lib, nic) = (bundled("lib", 1), bundled("nic", 1));
    let known = record(vec![ours(lib.clone()), ours(nic.clone())]);
    let found = kernel(vec![loaded(&lib, &["nic"], 0), loaded(&nic, &[], 0)]);
    let tuned = Piece { parameters: vec!["queues=4".to_owned()], ..nic.clone() };
    let plan = decide(Some(&target(vec![lib, tuned.clone()])), &known, &found).unwrap();
    assert_eq!(plan.steps, [remove(&nic), insert(&tuned)]);
}

#[test]
fn what_is_in_use_is_not_torn_out() {
    let nic = bundled("nic", 1);
    let known = record(vec![ours(nic.clone())]);
    let open = kernel(vec![loaded(&nic, &[], 2)]);
    let in_use = Block::InUse { name: name("nic"), references: 2, holders: vec![], in_tree: false };
    assert_eq!(decide(None, &known, &open), Err(in_use.clone()));
    assert_eq!(decide(Some(&target(vec![bundled("nic", 2)])), &known, &open), Err(in_use));
    let stranger = hosted("stranger");
    let held = kernel(vec![loaded(&nic, &["stranger"], 0), loaded(&stranger, &[], 0)]);
    let error = decide(None, &known, &held).unwrap_err();
    assert_eq!(error.to_string(), "nic is in use by stranger");
    assert_eq!(error.outcome(), (Phase::InUse, Reason::InUse));
}

#[test]
fn in_tree_modules_make_room_and_come_back() {
    let (ours_nic, theirs) = (bundled("nic", 1), hosted("nic"));
    let wanted = Target { in_tree_to_remove: [name("nic")].into(), ..target(vec![ours_nic.clone()]) };
    let found =
        kernel(vec![(name("nic"), Loaded { build_id: Some("kernel's".to_owned()), ..Loaded::default() })]);
    let in_tree = [theirs.clone()];
    let plan = decide_among(Some(&wanted), &fresh(), &found, &Others::default(), &in_tree).unwrap();
    assert_eq!(plan.steps, [remove(&theirs), insert(&ours_nic)]);
    assert_eq!(undo(&plan.steps), [remove(&ours_nic), insert(&theirs)]);
    assert_eq!(plan.in_tree, [name("nic")]);

    let known = Record { in_tree: plan.in_tree, ..record(plan.parts) };
    let found = kernel(vec![loaded(&ours_nic, &[], 0)]);
    let settled = decide_among(Some(&wanted), &known, &found, &Others::default(), &in_tree).unwrap();
    assert_eq!((settled.steps, settled.in_tree), (vec![], vec![name("nic")]), "ours is not taken for theirs");
    let removal = decide_among(None, &known, &found, &Others::default(), &in_tree).unwrap();
    assert_eq!((removal.steps, removal.afterwards), (vec![remove(&ours_nic)], vec![insert(&theirs)]));
    assert!(removal.in_tree.is_empty());
}

#[test]
fn an_in_tree_module_that_another_module_wants_away_does_not_come_back() {
    let nic = bundled("nic", 1);
    let known = Record { in_tree: vec![name("old")], ..record(vec![ours(nic.clone())]) };
    let found = kernel(vec![loaded(&nic, &[], 0)]);
    let others = Others { away: [name("old")].into(), ..Others::default() };
    let removal = decide_among(None, &known, &found, &others, &[hosted("old")]).unwrap();
    assert_eq!((removal.steps, removal.afterwards), (vec![remove(&nic)], vec![]));
}

#[test]
fn an_in_tree_module_that_is_still_named_does_not_come_back_with_another() {
    let nic = bundled("nic", 1);
    let wanted = Target { in_tree_to_remove: [name("new")].into(), ..target(vec![nic.clone()]) };
    let known = Record { in_tree: vec![name("old")], ..record(vec![ours(nic.clone())]) };
    let found = kernel(vec![loaded(&nic, &[], 0)]);
    let in_tree = [hosted("old"), hosted("new")];
    let plan = decide_among(Some(&wanted), &known, &found, &Others::default(), &in_tree).unwrap();
    assert_eq!((plan.steps, plan.afterwards), (vec![], vec![insert(&hosted("old"))]));
}

#[test]
fn what_another_module_has_loaded_makes_no_room() {
    let wanted = Target { in_tree_to_remove: [name("lib")].into(), ..target(vec![bundled("nic", 1)]) };
    let found = kernel(vec![loaded(&bundled("lib", 1), &[], 0)]);
    let others = Others { parts: [(name("lib"), (key("drivers/other"), true))].into(), ..Others::default() };
    let block = decide_among(Some(&wanted), &fresh(), &found, &others, &[]).unwrap_err();
    assert_eq!(block, Block::Shared { name: name("lib"), other: key("drivers/other") });
}

#[test]
fn an_in_tree_module_in_use_stays() {
    let wanted = Target { in_tree_to_remove: [name("old")].into(), ..target(vec![bundled("nic", 1)]) };
    let found = kernel(vec![loaded(&hosted("old"), &[], 1)]);
    let in_tree = [hosted("old")];
    let block = decide_among(Some(&wanted), &fresh(), &found, &Others::default(), &in_tree).unwrap_err();
    assert_eq!(block.outcome(), (Phase::Failed, Reason::InTreeModuleInUse));
}

#[test]
fn defect_25_an_in_tree_module_without_a_file_to_come_back_from_stays() {
    let wanted = Target { in_tree_to_remove: [name("old")].into(), ..target(vec![bundled("nic", 1)]) };
    let (old, mut module) = loaded(&hosted("old"), &[], 0);
    let found = kernel(vec![(old.clone(), module.clone())]);
    assert_eq!(decide(Some(&wanted), &fresh(), &found), Err(Block::NoWayBack(old.clone())));
    // Of someone else's module the user's word is enough.
    module.out_of_tree = true;
    let plan = decide(Some(&wanted), &fresh(), &kernel(vec![(old.clone(), module)])).unwrap();
    assert_eq!(plan.steps, [Step::Remove { name: old, back: None }, insert(&bundled("nic", 1))]);
}

#[test]
fn what_someone_loaded_since_under_the_same_name_is_not_ours() {
    let nic = bundled("nic", 1);
    let known = record(vec![Part { instance: Some(70), ..ours(nic.clone()) }]);
    let found = |piece: &Piece, instance| {
        let (name, module) = loaded(piece, &[], 0);
        kernel(vec![(name, Loaded { instance: Some(instance), ..module })])
    };
    assert_eq!(decide(None, &known, &found(&nic, 70)).unwrap().steps, [remove(&nic)]);
    // Another build, and one that cannot be told apart by its build.
    let unnamed = Piece { build_id: None, ..nic.clone() };
    for theirs in [bundled("nic", 9), unnamed] {
        let found = found(&theirs, 71);
        assert_eq!(decide(None, &known, &found).unwrap(), Plan::default(), "{theirs:?}");
        let changed = target(vec![bundled("nic", 2)]);
        assert_eq!(decide(Some(&changed), &known, &found), Err(Block::Foreign(name("nic"))));
    }
    // The same build is taken over.
    let plan = decide(Some(&target(vec![nic.clone()])), &known, &found(&nic, 71)).unwrap();
    assert!(plan.steps.is_empty() && plan.parts[0].ours);
}

#[test]
fn without_a_known_instance_the_build_tells_whose_it_is() {
    let nic = bundled("nic", 1);
    let pending = Pending { boot_id: BOOT.to_owned(), pieces: vec![nic.clone()] };
    let interrupted = Record { pending: Some(pending), ..fresh() };
    let theirs = kernel(vec![loaded(&bundled("nic", 9), &[], 0)]);
    for known in [interrupted, record(vec![ours(nic)])] {
        assert_eq!(decide(None, &known, &theirs).unwrap(), Plan::default());
    }
}

#[test]
fn what_has_no_exit_function_is_said_to_stay() {
    let nic = bundled("nic", 1);
    let (key, module) = loaded(&nic, &[], 1);
    let found = kernel(vec![(key, Loaded { permanent: true, ..module })]);
    let block = decide(None, &record(vec![ours(nic)]), &found).unwrap_err();
    assert_eq!(block.outcome(), (Phase::InUse, Reason::Permanent));
    assert!(block.to_string().contains("no exit function"), "{block}");
}

#[test]
fn what_never_got_through_its_init_is_not_taken_for_loaded() {
    let nic = bundled("nic", 1);
    let pending = Pending { boot_id: BOOT.to_owned(), pieces: vec![nic.clone()] };
    let known = Record { pending: Some(pending), ..fresh() };
    let (key, module) = loaded(&nic, &[], 1);
    let found = kernel(vec![(key, Loaded { starting: true, ..module })]);
    let block = decide(Some(&target(vec![nic])), &known, &found).unwrap_err();
    assert_eq!(block, Block::Starting(name("nic")));
}

#[test]
fn a_firmware_file_that_is_not_in_its_place_is_put_there_again() {
    let (nic, digest) = (bundled("nic", 1), Digest::of(b"a"));
    let firmware: BTreeMap<_, _> = [("nic/a.bin".to_owned(), digest)].into();
    let wanted = Target { firmware: firmware.clone(), ..target(vec![nic.clone()]) };
    let record = Record { firmware, ..fresh() };
    let found = kernel(vec![]);
    let found = Kernel { firmware_path: FIRMWARE.to_owned(), ..found };
    let (others, nothing) = (Others::default(), BTreeSet::new());
    let situation = Situation {
        record: &record,
        others: &others,
        kernel: &found,
        in_tree: &[],
        linked: &nothing,
        firmware_dir: FIRMWARE,
    };
    let link = Step::Link { path: "nic/a.bin".to_owned(), digest, had: true };
    assert_eq!(plan(Some(&wanted), &situation).unwrap().steps, [link, insert(&nic)]);
    assert_eq!(decide(Some(&wanted), &record, &found).unwrap().steps, [insert(&nic)]);
}

#[test]
fn prerequisites_that_were_there_before_stay() {
    let (core, nic) = (hosted("core"), bundled("nic", 1));
    let wanted = target(vec![core.clone(), nic.clone()]);
    let plan = decide(Some(&wanted), &fresh(), &kernel(vec![loaded(&core, &[], 0)])).unwrap();
    assert_eq!(plan.steps, [insert(&nic)]);
    let found = kernel(vec![loaded(&core, &["nic"], 0), loaded(&nic, &[], 0)]);
    let removal = decide(None, &record(plan.parts), &found).unwrap();
    assert_eq!((removal.steps, removal.afterwards), (vec![remove(&nic)], vec![]));
}

#[test]
fn prerequisites_that_were_loaded_for_it_go_unless_used() {
    let (core, nic) = (hosted("core"), bundled("nic", 1));
    let known = record(vec![ours(core.clone()), ours(nic.clone())]);
    let gone = Step::Remove { name: name("core"), back: None };
    let found = |others| kernel(vec![loaded(&core, &["nic"], others), loaded(&nic, &[], 0)]);
    assert_eq!(decide(None, &known, &found(0)).unwrap().afterwards, [gone]);
    assert_eq!(decide(None, &known, &found(1)).unwrap().afterwards, []);
    let others =
        Others { parts: [(name("core"), (key("drivers/other"), false))].into(), ..Others::default() };
    assert_eq!(decide_among(None, &known, &found(0), &others, &[]).unwrap().afterwards, []);
}

#[test]
fn what_a_shared_prerequisite_owes_passes_to_the_other_module() {
    let core = hosted("core");
    let others = Others { parts: [(name("core"), (key("drivers/other"), true))].into(), ..Others::default() };
    let found = kernel(vec![loaded(&core, &[], 0)]);
    let wanted = target(vec![core]);
    let plan = decide_among(Some(&wanted), &fresh(), &found, &others, &[]).unwrap();
    assert!(plan.parts[0].ours);
}

#[test]
fn another_modules_build_is_not_replaced() {
    let others = Others { parts: [(name("lib"), (key("drivers/other"), true))].into(), ..Others::default() };
    let found = kernel(vec![loaded(&bundled("lib", 1), &[], 0)]);
    let wanted = target(vec![bundled("lib", 2)]);
    let block = decide_among(Some(&wanted), &fresh(), &found, &others, &[]).unwrap_err();
    assert_eq!(block, Block::Shared { name: name("lib"), other: key("drivers/other") });
}

#[test]
fn an_interrupted_run_owns_what_it_may_have_loaded() {
    let nic = Piece { build_id: None, ..bundled("nic", 1) };
    let pending = Pending { boot_id: BOOT.to_owned(), pieces: vec![nic.clone()] };
    let known = Record { pending: Some(pending), ..fresh() };
    let found = kernel(vec![loaded(&nic, &[], 0)]);
    let plan = decide(Some(&target(vec![nic.clone()])), &known, &found).unwrap();
    assert_eq!(plan.steps, [Step::Remove { name: name("nic"), back: None }, insert(&nic)]);
    assert_eq!(decide(None, &known, &found).unwrap().steps, [Step::Remove { name: name("nic"), back: None }]);
}

#[test]
fn an_interrupted_runs_prerequisites_are_no_obstacle() {
    let (core, nic) = (hosted("core"), bundled("nic", 1));
    let pending = Pending { boot_id: BOOT.to_owned(), pieces: vec![core.clone(), nic.clone()] };
    let known = Record { pending: Some(pending), ..fresh() };
    let used = kernel(vec![loaded(&core, &[], 3)]);
    assert_eq!(decide(None, &known, &used).unwrap(), Plan::default(), "someone uses it meanwhile: it stays");
    let plan = decide(Some(&target(vec![core.clone(), nic.clone()])), &known, &used).unwrap();
    assert_eq!(plan.steps, [insert(&nic)]);
    assert!(plan.parts.iter().all(|part| part.ours));
}

#[test]
fn nothing_of_another_boot_is_ours() {
    let nic = bundled("nic", 1);
    let known = record(vec![ours(nic.clone())]);
    let mut found = kernel(vec![loaded(&bundled("nic", 9), &[], 0)]);
    found.boot_id = "next boot".to_owned();
    assert_eq!(decide(None, &known, &found).unwrap(), Plan::default());
    assert_eq!(decide(Some(&target(vec![nic])), &known, &found), Err(Block::Foreign(name("nic"))));
}

#[test]
fn defect_17_firmware_is_there_before_the_module_and_gone_after_it() {
    let nic = bundled("nic", 1);
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    let wanted = Target { firmware: [("nic/a.bin".to_owned(), a)].into(), ..target(vec![nic.clone()]) };
    let plan = decide(Some(&wanted), &fresh(), &kernel(vec![])).unwrap();
    let link = |digest| Step::Link { path: "nic/a.bin".to_owned(), digest, had: false };
    let unlink = |digest| Step::Unlink { path: "nic/a.bin".to_owned(), digest };
    assert_eq!(plan.steps, [link(a), path_step("", FIRMWARE), insert(&nic)]);

    let known = Record { firmware: wanted.firmware.clone(), ..record(plan.parts) };
    let mut found = kernel(vec![loaded(&nic, &[], 0)]);
    found.firmware_path = FIRMWARE.to_owned();
    assert_eq!(decide(Some(&wanted), &known, &found).unwrap().steps, []);
    let changed = Target { firmware: [("nic/a.bin".to_owned(), b)].into(), ..wanted };
    assert_eq!(decide(Some(&changed), &known, &found).unwrap().steps, [unlink(a), link(b)]);
    let removal = decide(None, &known, &found).unwrap();
    assert_eq!(removal.steps, [remove(&nic), path_step(FIRMWARE, ""), unlink(a)]);
}

#[test]
fn a_failed_load_leaves_the_firmware_that_was_there() {
    let digest = Digest::of(b"a");
    let firmware: BTreeMap<_, _> = [("nic/a.bin".to_owned(), digest)].into();
    let wanted = Target { firmware: firmware.clone(), ..target(vec![]) };
    let mut found = kernel(vec![]);
    found.firmware_path = FIRMWARE.to_owned();
    let link = Step::Link { path: "nic/a.bin".to_owned(), digest, had: true };
    let theirs = [("nic/a.bin".to_owned(), (key("drivers/other"), digest))].into();
    let others = Others { firmware: theirs, ..Others::default() };
    let shared = decide_among(Some(&wanted), &fresh(), &found, &others, &[]).unwrap();
    let pending = Some(Pending { boot_id: BOOT.to_owned(), pieces: vec![] });
    let interrupted = Record { pending, firmware, ..fresh() };
    let repeated = decide(Some(&wanted), &interrupted, &found).unwrap();
    for plan in [shared, repeated] {
        assert_eq!((undo(&plan.steps), plan.steps), (vec![], vec![link.clone()]));
    }
}

#[test]
fn firmware_of_others_is_respected() {
    let digest = Digest::of(b"a");
    let path = "nic/a.bin".to_owned();
    let wanted = Target { firmware: [(path.clone(), digest)].into(), ..target(vec![]) };
    let others = |digest| Others {
        firmware: [(path.clone(), (key("drivers/other"), digest))].into(),
        ..Others::default()
    };
    let block =
        decide_among(Some(&wanted), &fresh(), &kernel(vec![]), &others(Digest::of(b"b")), &[]).unwrap_err();
    assert_eq!(block, Block::FirmwareConflict { path: path.clone(), other: key("drivers/other") });
    // The same file for two Modules goes with the last.
    let mut found = kernel(vec![]);
    found.firmware_path = FIRMWARE.to_owned();
    let known = Record { firmware: wanted.firmware.clone(), ..fresh() };
    assert_eq!(decide_among(None, &known, &found, &others(digest), &[]).unwrap().steps, []);
}

fn path_step(from: &str, to: &str) -> Step {
    Step::FirmwarePath { from: from.to_owned(), to: to.to_owned() }
}

/// A driver with firmware, and the kernel in which KMM has loaded it after setting the path.
fn loaded_by_kmm(path: &str) -> (Target, Kernel) {
    let nic = bundled("nic", 1);
    let found = Kernel {
        release: "6.1".to_owned(),
        firmware_path: path.to_owned(),
        ..kernel(vec![loaded(&nic, &[], 0)])
    };
    (Target { firmware: [("nic/a.bin".to_owned(), Digest::of(b"a"))].into(), ..target(vec![nic]) }, found)
}

#[test]
fn a_path_that_the_kernel_searches_anyway_gives_way_and_comes_back() {
    for path in [
        "/lib/firmware",
        "/lib/firmware/",
        "/lib/firmware/6.1",
        "/lib/firmware/updates",
        "/lib/firmware/updates/6.1/",
    ] {
        let (wanted, mut found) = loaded_by_kmm(path);
        let link = Step::Link { path: "nic/a.bin".to_owned(), digest: Digest::of(b"a"), had: false };
        let adoption = decide(Some(&wanted), &fresh(), &found).unwrap();
        assert_eq!(adoption.steps, [link, path_step(path, FIRMWARE)]);
        assert_eq!(adoption.path_before.as_deref(), Some(path));
        assert_eq!(undo(&adoption.steps)[0], path_step(FIRMWARE, path));
        // Remembered as long as it is needed, and in this boot.
        found.firmware_path = FIRMWARE.to_owned();
        let before = PathBefore { boot_id: BOOT.to_owned(), path: path.to_owned() };
        let known = Record { firmware: wanted.firmware.clone(), ..record(adoption.parts) };
        let known = Record { path_before: Some(before.clone()), ..known };
        let settled = decide(Some(&wanted), &known, &found).unwrap();
        assert_eq!((settled.steps, settled.path_before.as_deref()), (vec![], Some(path)));
        let removal = decide(None, &known, &found).unwrap();
        assert!(removal.steps.contains(&path_step(FIRMWARE, path)), "{:?}", removal.steps);
        let stale = PathBefore { boot_id: "another boot".to_owned(), ..before };
        let removal = decide(None, &Record { path_before: Some(stale), ..known }, &found).unwrap();
        assert!(removal.steps.contains(&path_step(FIRMWARE, "")), "{:?}", removal.steps);
    }
}

#[test]
fn the_path_before_is_handed_from_module_to_module() {
    let (wanted, found) = loaded_by_kmm(FIRMWARE);
    let others = Others {
        firmware: [("other.bin".to_owned(), (key("drivers/other"), Digest::of(b"o")))].into(),
        path_before: Some("/lib/firmware".to_owned()),
        ..Others::default()
    };
    let second = decide_among(Some(&wanted), &fresh(), &found, &others, &[]).unwrap();
    assert_eq!(second.path_before.as_deref(), Some("/lib/firmware"));
}

#[test]
fn another_path_hinders_what_is_to_be_loaded_and_not_what_is() {
    for path in ["/var/lib/firmware", "/lib/firmware/vendor", "/lib/firmware/6.12", "/lib/firmware-6.1"] {
        let (wanted, found) = loaded_by_kmm(path);
        let adoption = decide(Some(&wanted), &fresh(), &found).unwrap();
        assert!(matches!(adoption.steps.as_slice(), [Step::Link { .. }]), "{:?}", adoption.steps);
        assert_eq!((adoption.path_before, adoption.parts.len()), (None, 1));
        // A soft dependency that KMM did not load is nothing to fail for.
        let soft = Piece { soft: true, ..bundled("soft", 1) };
        let mut accompanied = wanted.clone();
        accompanied.pieces.insert(0, soft.clone());
        let plan = decide(Some(&accompanied), &fresh(), &found).unwrap();
        assert_eq!(plan.soft_inserts(), [soft.name]);

        let known = record(adoption.parts);
        let changed = Target { pieces: vec![bundled("nic", 2)], ..wanted.clone() };
        let block = decide(Some(&changed), &known, &found).unwrap_err();
        assert_eq!(block, Block::FirmwarePathTaken(path.to_owned()));
        assert!(block.to_string().contains(&format!("firmware_class.path is {path:?}")), "{block}");
        let gone = Kernel { firmware_path: path.to_owned(), ..kernel(vec![]) };
        assert_eq!(decide(Some(&wanted), &fresh(), &gone), Err(block));
        // One without firmware of its own does not care.
        let bare = target(vec![bundled("nic", 1)]);
        assert_eq!(decide(Some(&bare), &fresh(), &gone).unwrap().steps, [insert(&bundled("nic", 1))]);
        assert_eq!(decide(None, &known, &found).unwrap().steps, [remove(&bundled("nic", 1))]);
    }
}

#[test]
fn what_nothing_uses_goes_in_the_reverse_order_of_loading() {
    let pieces = ["procfs", "chardev", "kmod"].map(|name| bundled(name, 1));
    let known = record(pieces.iter().cloned().map(ours).collect());
    let found = kernel(pieces.iter().map(|piece| loaded(piece, &[], 0)).collect());
    let [procfs, chardev, kmod] = &pieces;
    assert_eq!(decide(None, &known, &found).unwrap().steps, [remove(kmod), remove(chardev), remove(procfs)]);
    // Users come first all the same, whatever was remembered.
    let used = kernel(vec![loaded(procfs, &[], 0), loaded(chardev, &[], 0), loaded(kmod, &["procfs"], 0)]);
    assert_eq!(decide(None, &known, &used).unwrap().steps, [remove(chardev), remove(procfs), remove(kmod)]);
}

/// A kernel that does what it is told and refuses what the real one refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Model {
    /// What is loaded, by which file, and how many descriptors are open on it.
    modules: BTreeMap<KmodName, (Piece, u32)>,
}

/// The letters before this one that it uses.
fn needs(name: &KmodName) -> Vec<KmodName> {
    let letters: &[&str] = match name.as_ref() {
        "b" | "c" => &["a"],
        "d" => &["b"],
        "e" => &["b", "c"],
        _ => &[],
    };
    letters.iter().map(|letter| letter.parse().unwrap()).collect()
}

impl Model {
    fn view(&self) -> Kernel {
        let holders = |name: &KmodName| -> BTreeSet<_> {
            self.modules.keys().filter(|user| needs(user).contains(name)).cloned().collect()
        };
        let modules = self.modules.iter().map(|(name, (piece, open))| {
            let holders = holders(name);
            let references = u32::try_from(holders.len()).unwrap() + open;
            let build_id = piece.build_id.clone();
            (name.clone(), Loaded { references, holders, build_id, ..Loaded::default() })
        });
        kernel(modules.collect())
    }

    fn perform(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Insert(piece) => {
                let missing =
                    needs(&piece.name).into_iter().find(|needed| !self.modules.contains_key(needed));
                if let Some(missing) = missing {
                    return Err(format!("{} needs {missing}", piece.name));
                }
                match self.modules.insert(piece.name.clone(), (piece.clone(), 0)) {
                    None => Ok(()),
                    Some(_) => Err(format!("{} is loaded", piece.name)),
                }
            }
            Step::Remove { name, .. } => match self.view().loaded.get(name) {
                Some(module) if module.references == 0 => {
                    self.modules.remove(name);
                    Ok(())
                }
                found => Err(format!("{name}: {found:?}")),
            },
            _ => Ok(()),
        }
    }
}

/// `a` to `e`, any of which is there or not, in one of two builds, from the bundle or (only `a`) from the host.
fn any_pieces() -> impl Strategy<Value = Vec<Piece>> {
    prop::collection::vec(prop::option::of(1_u8..3), 5).prop_map(|versions| {
        let letters = ["a", "b", "c", "d", "e"];
        let chosen =
            letters.into_iter().zip(&versions).filter_map(|(letter, version)| Some((letter, (*version)?)));
        let mut pieces: Vec<Piece> = Vec::new();
        for (letter, version) in chosen {
            // What a module needs comes with it.
            for needed in ["a", "b", "c"].into_iter().filter(|needed| closure(letter).contains(needed)) {
                if !pieces.iter().any(|piece| piece.name.as_ref() == needed) {
                    pieces.push(if needed == "a" { hosted("a") } else { bundled(needed, version) });
                }
            }
            if !pieces.iter().any(|piece| piece.name.as_ref() == letter) {
                pieces.push(if letter == "a" { hosted("a") } else { bundled(letter, version) });
            }
        }
        pieces
    })
}

fn closure(letter: &str) -> &'static [&'static str] {
    match letter {
        "b" | "c" => &["a"],
        "d" => &["a", "b"],
        "e" => &["a", "b", "c"],
        _ => &[],
    }
}

proptest! {
    #[test]
    fn plans_work_are_settled_afterwards_and_can_be_undone(
        before in any_pieces(),
        wanted in any_pieces(),
        borrowed in any::<bool>(),
        open in prop::option::of(0_usize..5),
        stop in any::<prop::sample::Index>(),
    ) {
        let is_ours = |piece: &Piece| !(borrowed && piece.name.as_ref() == "a");
        let known = record(before.iter().map(|piece| Part { ours: is_ours(piece), ..ours(piece.clone()) }).collect());
        let mut model = Model { modules: BTreeMap::new() };
        for (index, piece) in before.iter().enumerate() {
            model.modules.insert(piece.name.clone(), (piece.clone(), u32::from(open == Some(index))));
        }
        let start = model.clone();
        let wanted = target(wanted);
        let plan = match decide(Some(&wanted), &known, &model.view()) {
            Ok(plan) => plan,
            Err(block) => {
                let in_use = matches!(block, Block::InUse { .. });
                prop_assert!(in_use && open.is_some(), "{block}");
                return Ok(());
            }
        };
        // Wherever it stops, what was done can be taken back.
        let stop = stop.index(plan.steps.len() + 1);
        let mut halfway = model.clone();
        for step in &plan.steps[..stop] {
            halfway.perform(step).unwrap();
        }
        for step in undo(&plan.steps[..stop]) {
            halfway.perform(&step).unwrap();
        }
        prop_assert_eq!(&halfway, &start);
        // Done to its end, the kernel has what is wanted and nothing that was ours beside it.
        for step in plan.steps.iter().chain(&plan.afterwards) {
            model.perform(step).unwrap();
        }
        for piece in &wanted.pieces {
            prop_assert!(model.modules.get(&piece.name).is_some_and(|(found, _)| found.is_same(piece)));
        }
        for (name, (piece, open)) in &model.modules {
            let kept = wanted.pieces.iter().any(|piece| piece.name == *name) || !is_ours(piece) || *open > 0;
            prop_assert!(kept, "{} is left", name);
        }
        // A second look finds nothing to do.
        let settled = decide(Some(&wanted), &record(plan.parts), &model.view()).unwrap();
        prop_assert_eq!((settled.steps, settled.afterwards), (vec![], vec![]));
    }
}
