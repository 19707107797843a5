//! Each rule of the kernel, with a module that breaks it and nothing else.

use rstest::rstest;

use super::*;
use crate::ModuleName;
use crate::facts::{KernelSymbol, Namespace};
use crate::object::fixture::{AMD64, Fixture, Layout, S390X};
use crate::object::{Architecture, Export, signature};
use crate::release::KernelRelease;
use crate::vermagic::VerMagic;

const VERMAGIC: &str = "6.12.9-test SMP preempt mod_unload modversions ";

fn name(text: &str) -> ModuleName {
    ModuleName::new(text).unwrap()
}

fn symbol(crc: u32) -> KernelSymbol {
    KernelSymbol { crc: Some(crc), gpl_only: Some(false), namespace: Namespace::Global, provider: None }
}

/// A 6.12 with checksums, forced loading, and one symbol of each sort.
pub(super) fn kernel() -> KernelFacts {
    let mut facts = KernelFacts::new(KernelRelease::new("6.12.9-test").unwrap(), Architecture::Amd64);
    facts.vermagic = Some(VerMagic::new(VERMAGIC));
    facts.this_module_size = Some(1280);
    facts.modversions = Some(true);
    facts.complete = true;
    facts.covers_modules = true;
    facts.policy.force_load = Some(true);
    facts.policy.signatures = Some(true);
    facts.policy.missing_imports_allowed = Some(false);
    facts.exports.extend([
        ("module_layout".to_owned(), symbol(0x11)),
        ("printk".to_owned(), symbol(0x22)),
        ("gpl".to_owned(), KernelSymbol { gpl_only: Some(true), ..symbol(0x33) }),
        ("spaced".to_owned(), KernelSymbol { namespace: Namespace::Named("SPACE".into()), ..symbol(0x44) }),
        ("in_llc".to_owned(), KernelSymbol { provider: Some(name("llc")), ..symbol(0x55) }),
    ]);
    facts
}

/// One that loads.
pub(super) fn driver() -> Fixture {
    driver_named("driver")
}

fn driver_named(name: &str) -> Fixture {
    Fixture::new(AMD64, name)
        .replace_info("vermagic", Some(VERMAGIC))
        .this_module_size(1280)
        .version("module_layout", 0x11)
        .import("printk", Some(0x22))
}

pub(super) fn read(fixture: Fixture) -> ModuleObject {
    ModuleObject::parse(&fixture.build()).unwrap()
}

fn judge(fixture: Fixture) -> Prediction {
    predict(&read(fixture), &kernel(), &Circumstances::default())
}

pub(super) fn judge_in(fixture: Fixture, circumstances: &Circumstances) -> Prediction {
    predict(&read(fixture), &kernel(), circumstances)
}

pub(super) fn fails(errno: Errno) -> Verdict {
    Verdict::Fails { errno }
}

pub(super) fn names(prediction: &Prediction) -> Vec<&'static str> {
    prediction.reasons.iter().map(Reason::name).collect()
}

#[test]
fn a_module_that_fits_loads_without_a_word() {
    let expected = Prediction { verdict: Verdict::Loads, reasons: vec![], proprietary: Some(false) };
    assert_eq!(judge(driver()), expected);
}

#[rstest]
#[case::size(driver().this_module_size(896), Errno::ENOEXEC, "StructModuleSize")]
#[case::layout(Fixture::new(AMD64, "d").replace_info("vermagic", Some(VERMAGIC)).this_module_size(1280)
    .version("module_layout", 0x99).import("printk", Some(0x22)), Errno::ENOEXEC, "ModuleLayout")]
#[case::flags(driver().replace_info("vermagic", Some("6.12.9-test SMP mod_unload modversions ")), Errno::ENOEXEC, "VermagicMismatch")]
#[case::trailing_space(driver().replace_info("vermagic", Some(VERMAGIC.trim_end())), Errno::ENOEXEC, "VermagicMismatch")]
#[case::crc(driver().import("gpl", Some(0x99)), Errno::EINVAL, "SymbolVersion")]
#[case::weak_crc(driver().weak_import("gpl").version("gpl", 0x99), Errno::EINVAL, "SymbolVersion")]
#[case::unknown(driver().import("nobody", Some(1)), Errno::ENOENT, "UnknownSymbol")]
#[case::gpl(driver().replace_info("license", Some("Proprietary")).import("gpl", Some(0x33)), Errno::ENOENT, "GplOnlySymbol")]
#[case::no_licence(driver().replace_info("license", None).import("gpl", Some(0x33)), Errno::ENOENT, "GplOnlySymbol")]
#[case::namespace(driver().import("spaced", Some(0x44)), Errno::EINVAL, "NamespaceNotImported")]
#[case::duplicate(driver().export("printk", None, false, 1), Errno::ENOEXEC, "DuplicateSymbol")]
fn each_rule_refuses_with_its_number(#[case] fixture: Fixture, #[case] errno: Errno, #[case] reason: &str) {
    let prediction = judge(fixture);
    assert_eq!(prediction.verdict, fails(errno), "{:?}", prediction.reasons);
    assert_eq!(names(&prediction), [reason]);
    assert!(prediction.reasons[0].way_out().is_some());
}

#[rstest]
#[case::other_release(driver().replace_info("vermagic", Some("6.12.1-other SMP preempt mod_unload modversions ")), &[])]
#[case::no_vermagic(driver().replace_info("vermagic", None), &["NoVermagic"])]
#[case::weak(driver().weak_import("nobody"), &[])]
#[case::not_versioned(driver().import("gpl", None), &[])]
#[case::imported(driver().import("spaced", Some(0x44)).info("import_ns", "SPACE"), &[])]
#[case::in_tree(driver().import("in_llc", Some(0x55)), &["NeedsModules"])]
#[case::proprietary(driver().replace_info("license", Some("Proprietary")), &[])]
fn what_the_kernel_lets_pass_loads(#[case] fixture: Fixture, #[case] notes: &[&str]) {
    let prediction = judge(fixture);
    assert_eq!(prediction.verdict, Verdict::Loads, "{:?}", prediction.reasons);
    assert_eq!(names(&prediction), notes);
}

#[test]
fn without_checksums_a_module_loads_only_by_force() {
    let bare = || {
        let fixture = Fixture::new(AMD64, "driver").replace_info("vermagic", Some(VERMAGIC));
        read(fixture.this_module_size(1280).import("printk", None))
    };
    let mut facts = kernel();
    let judge = |facts: &KernelFacts| {
        let prediction = predict(&bare(), facts, &Circumstances::default());
        assert_eq!(names(&prediction), ["NoVersions"]);
        prediction.verdict
    };
    assert_eq!(judge(&facts), Verdict::Loads);
    facts.policy.force_load = Some(false);
    assert_eq!(judge(&facts), fails(Errno::ENOEXEC));
    facts.policy.force_load = None;
    assert_eq!(judge(&facts), Verdict::Unknown);
}

#[test]
fn without_checksums_the_release_counts() {
    let fixture = Fixture::new(AMD64, "driver").this_module_size(1280).import("printk", None);
    let fixture = fixture.replace_info("vermagic", Some("6.12.1-other SMP preempt mod_unload modversions "));
    assert_eq!(judge(fixture).verdict, fails(Errno::ENOEXEC));
}

#[test]
fn a_kernel_without_modversions_compares_the_whole_version_magic_and_no_checksums() {
    let mut facts = kernel();
    facts.modversions = Some(false);
    facts.vermagic = Some(VerMagic::new("7.2.0 SMP mod_unload "));
    let module = |release: &str| {
        let magic = format!("{release} SMP mod_unload ");
        read(driver().replace_info("vermagic", Some(&magic)).import("gpl", Some(0x99)))
    };
    let verdict = |module: &ModuleObject| predict(module, &facts, &Circumstances::default()).verdict;
    assert_eq!(verdict(&module("7.2.0")), Verdict::Loads);
    assert_eq!(verdict(&module("7.2.1")), fails(Errno::ENOEXEC));
}

#[rstest]
#[case(&["nobody", "gpl"], Errno::EINVAL)]
#[case(&["gpl", "nobody"], Errno::ENOENT)]
fn of_several_failing_symbols_the_last_decides(#[case] symbols: &[&str], #[case] errno: Errno) {
    let fixture = symbols.iter().fold(driver(), |fixture, symbol| fixture.import(symbol, Some(0x99)));
    let prediction = judge(fixture);
    assert_eq!((prediction.verdict, prediction.reasons.len()), (fails(errno), 2));
}

#[test]
fn an_earlier_check_decides_over_a_later_one_and_both_are_told() {
    let prediction = judge(driver().this_module_size(1).import("nobody", None));
    assert_eq!(prediction.verdict, fails(Errno::ENOEXEC));
    assert_eq!(names(&prediction), ["StructModuleSize", "UnknownSymbol"]);
}

#[test]
fn extended_checksums_count_alone_since_6_14() {
    let both = |basic, extended| {
        let fixture = driver().import("gpl", Some(basic));
        read(fixture.extended_versions(&[("module_layout", 0x11), ("printk", 0x22), ("gpl", extended)]))
    };
    let verdict = |release: &str, module: &ModuleObject| {
        let facts = KernelFacts { release: KernelRelease::new(release).unwrap(), ..kernel() };
        predict(module, &facts, &Circumstances::default()).verdict
    };
    assert_eq!(verdict("6.14.0", &both(0x99, 0x33)), Verdict::Loads);
    assert_eq!(verdict("6.14.0", &both(0x33, 0x99)), fails(Errno::EINVAL));
    assert_eq!(verdict("6.12.0", &both(0x33, 0x99)), Verdict::Loads);
    assert_eq!(verdict("6.12.0", &both(0x99, 0x33)), fails(Errno::EINVAL));
}

#[test]
fn before_6_4_nobody_looks_at_the_size_and_nobody_can_say_what_comes_of_it() {
    let facts = KernelFacts { release: KernelRelease::new("6.1.0-9").unwrap(), ..kernel() };
    let prediction = predict(&read(driver().this_module_size(896)), &facts, &Circumstances::default());
    assert_eq!((prediction.verdict, names(&prediction)), (Verdict::Unknown, vec!["StructModuleSize"]));
}

#[test]
fn a_module_for_another_machine_is_told_nothing_else() {
    let prediction = judge(Fixture::new(S390X, "driver"));
    assert_eq!((prediction.verdict, names(&prediction)), (fails(Errno::ENOEXEC), vec!["Architecture"]));
}

#[rstest]
#[case::kernel(driver().import("nobody", Some(1)), "SymbolsNotKnown")]
#[case::crc(driver().import("gpl", Some(0x33)), "SymbolsNotKnown")]
fn what_incomplete_facts_do_not_cover_is_unknown(#[case] fixture: Fixture, #[case] reason: &str) {
    let mut facts = kernel();
    facts.complete = false;
    facts.exports.get_mut("gpl").unwrap().crc = None;
    let prediction = predict(&read(fixture), &facts, &Circumstances::default());
    assert_eq!((prediction.verdict, names(&prediction)), (Verdict::Unknown, vec![reason]));
}

#[test]
fn facts_that_lack_the_version_magic_or_the_size_never_say_loads() {
    let module = read(driver());
    let verdict = |facts: &KernelFacts| predict(&module, facts, &Circumstances::default()).verdict;
    assert_eq!(verdict(&KernelFacts { vermagic: None, ..kernel() }), Verdict::Unknown);
    // Equal checksums of module_layout vouch for the size; without them nobody does.
    assert_eq!(verdict(&KernelFacts { this_module_size: None, ..kernel() }), Verdict::Loads);
    let facts = KernelFacts {
        this_module_size: None,
        modversions: Some(false),
        vermagic: Some(VerMagic::new(VERMAGIC)),
        ..kernel()
    };
    assert_eq!(verdict(&facts), Verdict::Unknown);
}

#[test]
fn a_symbol_of_an_in_tree_module_that_is_not_loaded_is_missing_to_insmod() {
    let circumstances = |loaded: &[&str]| {
        let mut circumstances =
            Circumstances { prerequisites: Prerequisites::AsListed, ..Circumstances::default() };
        for module in loaded {
            circumstances.add_loaded(name(module));
        }
        circumstances
    };
    let verdict =
        |loaded: &[&str]| judge_in(driver().import("in_llc", Some(0x55)), &circumstances(loaded)).verdict;
    assert_eq!(verdict(&[]), fails(Errno::ENOENT));
    assert_eq!(verdict(&["llc"]), Verdict::Loads);
}

#[test]
fn a_set_is_judged_in_order_with_what_those_before_export() {
    let core = read(
        Fixture::new(AMD64, "core")
            .replace_info("vermagic", Some(VERMAGIC))
            .this_module_size(1280)
            .version("module_layout", 0x11)
            .export("core_open", None, false, 0x77),
    );
    let client = |crc| {
        read(driver().info("depends", "core").import("core_open", Some(crc)).export("mine", None, false, 1))
    };
    let verdicts = |modules: &[&ModuleObject]| {
        let predictions = predict_in_order(modules.iter().copied(), &kernel(), Circumstances::default());
        predictions.into_iter().map(|prediction| prediction.verdict).collect::<Vec<_>>()
    };
    assert_eq!(verdicts(&[&core, &client(0x77)]), [Verdict::Loads, Verdict::Loads]);
    assert_eq!(verdicts(&[&core, &client(0x78)]), [Verdict::Loads, fails(Errno::EINVAL)]);
    assert_eq!(verdicts(&[&client(0x77), &core]), [fails(Errno::ENOENT), Verdict::Loads]);
    assert_eq!(verdicts(&[&core, &core]), [Verdict::Loads, fails(Errno::EEXIST)]);
    let rival = read(
        Fixture::new(AMD64, "rival")
            .replace_info("vermagic", Some(VERMAGIC))
            .this_module_size(1280)
            .version("module_layout", 0x11)
            .export("core_open", None, false, 0x77),
    );
    assert_eq!(verdicts(&[&core, &rival]), [Verdict::Loads, fails(Errno::ENOEXEC)]);
}

#[test]
fn what_depends_on_an_unknown_load_is_unknown() {
    let core =
        read(
            Fixture::new(AMD64, "core")
                .replace_info("vermagic", Some(VERMAGIC))
                .this_module_size(1280)
                .export("core_open", None, false, 1),
        );
    let mut facts = kernel();
    // Without checksums, core loads by force or not at all.
    facts.policy.force_load = None;
    let client = read(driver().import("core_open", Some(1)));
    let predictions = predict_in_order([&core, &client], &facts, Circumstances::default());
    assert_eq!((predictions[0].verdict, predictions[1].verdict), (Verdict::Unknown, Verdict::Unknown));
    assert_eq!(names(&predictions[1]), ["ProviderNotKnown"]);
}

#[test]
fn a_module_that_depends_on_one_of_which_nothing_is_known_is_unknown() {
    let module = || driver().info("depends", "stranger").import("strange", Some(1));
    let facts = KernelFacts { covers_modules: false, ..kernel() };
    let prediction = predict(&read(module()), &facts, &Circumstances::default());
    assert_eq!((prediction.verdict, names(&prediction)), (Verdict::Unknown, vec!["ProviderNotKnown"]));
    // Where the kernel's own modules are all known, it is nobody's.
    assert_eq!(judge(module()).verdict, fails(Errno::ENOENT));
    let mut circumstances = Circumstances::default();
    circumstances.add_loaded(name("stranger"));
    assert_eq!(judge_in(module(), &circumstances).verdict, Verdict::Unknown);
}

fn with_proprietary_core() -> Circumstances {
    let export = Export { symbol: "core_open".into(), crc: Some(7), gpl_only: false, namespace: None };
    let core = LoadedModule { exports: Some(vec![export]), proprietary: Some(true), uncertain: false };
    let mut circumstances = Circumstances::default();
    circumstances.loaded.insert(name("core"), core);
    circumstances
}

#[test]
fn gpl_only_symbols_and_proprietary_modules_do_not_meet() {
    let circumstances = with_proprietary_core();
    // In this order the kernel has noted the GPL-only symbol when it meets the proprietary one ...
    let first = driver().import("gpl", Some(0x33)).import("core_open", Some(7));
    let prediction = judge_in(first, &circumstances);
    assert_eq!((prediction.verdict, names(&prediction)), (fails(Errno::ENOENT), vec!["ProprietarySymbols"]));
    // ... and in this one the module counts as proprietary when it asks for the GPL-only one.
    let second = driver().import("core_open", Some(7)).import("gpl", Some(0x33));
    let prediction = judge_in(second, &circumstances);
    assert_eq!(
        (prediction.verdict, names(&prediction)),
        (fails(Errno::ENOENT), vec!["GplOnlySymbol", "InheritsProprietary"])
    );
    let alone = judge_in(driver().import("core_open", Some(7)), &circumstances);
    assert_eq!((alone.verdict, alone.proprietary), (Verdict::Loads, Some(true)));
}

#[rstest]
#[case(Enforcement::Permissive, None, Verdict::Loads)]
#[case(Enforcement::Permissive, Some(true), fails(Errno::EKEYREJECTED))]
#[case(Enforcement::Enforced, None, fails(Errno::EKEYREJECTED))]
#[case(Enforcement::Lockdown, None, fails(Errno::EPERM))]
#[case(Enforcement::Lockdown, Some(true), fails(Errno::EKEYREJECTED))]
fn an_unsigned_module_is_refused_where_signatures_are_enforced(
    #[case] enforcement: Enforcement,
    #[case] forced: Option<bool>,
    #[case] expected: Verdict,
) {
    let circumstances = Circumstances { enforcement, ..Circumstances::default() };
    let mut facts = kernel();
    facts.policy.signatures_forced = forced;
    assert_eq!(predict(&read(driver()), &facts, &circumstances).verdict, expected);
}

fn signed(frame: [u8; 8], length: u32) -> ModuleObject {
    let file = [&driver().build()[..], b"0\x01s", &frame, &length.to_be_bytes(), signature::MAGIC].concat();
    ModuleObject::parse(&file).unwrap()
}

#[rstest]
#[case::pkcs7([0, 0, 2, 0, 0, 0, 0, 0], 3, Verdict::Loads, Verdict::Unknown)]
#[case::other_kind([0, 0, 7, 0, 0, 0, 0, 0], 3, Verdict::Loads, fails(Errno::EKEYREJECTED))]
#[case::too_long([0, 0, 2, 0, 0, 0, 0, 0], u32::MAX, fails(Errno::EBADMSG), fails(Errno::EBADMSG))]
#[case::fields([1, 0, 2, 0, 0, 0, 0, 0], 3, fails(Errno::EBADMSG), fails(Errno::EBADMSG))]
fn the_frame_of_a_signature_is_judged(
    #[case] frame: [u8; 8],
    #[case] length: u32,
    #[case] permissive: Verdict,
    #[case] enforced: Verdict,
) {
    let module = signed(frame, length);
    let verdict = |facts: &KernelFacts, enforcement| {
        let circumstances = Circumstances { enforcement, ..Circumstances::default() };
        predict(&module, facts, &circumstances).verdict
    };
    assert_eq!(verdict(&kernel(), Enforcement::Permissive), permissive);
    assert_eq!(verdict(&kernel(), Enforcement::Enforced), enforced);
    let mut ignorant = kernel();
    ignorant.policy.signatures = Some(false);
    assert_eq!(verdict(&ignorant, Enforcement::Permissive), Verdict::Loads);
}

#[rstest]
#[case::good(SignatureCheck::Good { elliptic: false, long_hash: false }, Verdict::Loads, Verdict::Loads)]
#[case::of_a_kind_that_it_lacks(
    SignatureCheck::Good { elliptic: true, long_hash: false },
    Verdict::Loads,
    fails(Errno::EKEYREJECTED)
)]
#[case::of_a_kind_that_it_may_lack(
    SignatureCheck::Good { elliptic: false, long_hash: true },
    Verdict::Loads,
    Verdict::Unknown
)]
#[case::by_a_stranger(SignatureCheck::UnknownSigner, Verdict::Loads, fails(Errno::EKEYREJECTED))]
#[case::in_another_form(SignatureCheck::Unsupported, Verdict::Loads, fails(Errno::EKEYREJECTED))]
#[case::bad(SignatureCheck::Bad, fails(Errno::EKEYREJECTED), fails(Errno::EKEYREJECTED))]
fn what_a_signature_is_worth_decides_where_signatures_are_enforced(
    #[case] signature: SignatureCheck,
    #[case] permissive: Verdict,
    #[case] enforced: Verdict,
) {
    let module = signed([0, 0, 2, 0, 0, 0, 0, 0], 3);
    let mut facts = kernel();
    (facts.policy.ecdsa, facts.policy.sha512) = (Some(false), None);
    let verdict = |enforcement| {
        let circumstances = Circumstances { enforcement, signature, ..Circumstances::default() };
        predict(&module, &facts, &circumstances).verdict
    };
    assert_eq!((verdict(Enforcement::Permissive), verdict(Enforcement::Enforced)), (permissive, enforced));
}

#[test]
fn a_switched_off_loader_and_a_blacklist_refuse_everything() {
    let disabled = Circumstances { modules_disabled: true, ..Circumstances::default() };
    assert_eq!(judge_in(driver(), &disabled).verdict, fails(Errno::EPERM));
    let listed = Circumstances { blacklist: [name("driver")].into(), ..Circumstances::default() };
    let prediction = judge_in(driver(), &listed);
    assert_eq!((prediction.verdict, names(&prediction)), (fails(Errno::EPERM), vec!["Blacklisted"]));
    // By then the kernel has measured `struct module`, and not yet compared checksums.
    let verdict = |fixture| judge_in(fixture, &listed).verdict;
    assert_eq!(verdict(driver().this_module_size(896)), fails(Errno::ENOEXEC));
    assert_eq!(verdict(driver().replace_info("vermagic", Some("other"))), fails(Errno::EPERM));
}

#[test]
fn absent_firmware_is_told_and_keeps_nothing_from_loading() {
    let fixture = || driver().info("firmware", "lab/a.bin").info("firmware", "lab/b.bin");
    let circumstances = Circumstances { firmware: Some(["lab/a.bin".into()].into()), ..Default::default() };
    let prediction = judge_in(fixture(), &circumstances);
    assert_eq!(prediction.verdict, Verdict::Loads);
    assert_eq!(prediction.reasons[0].to_string(), "firmware file lab/b.bin is not there");
    assert_eq!(judge(fixture()).reasons, []);
}

#[test]
fn namespaces_that_name_modules_are_for_these_modules_and_never_imported() {
    let mut facts = kernel();
    facts.release = KernelRelease::new("6.16.0").unwrap();
    let spaced = facts.exports.get_mut("spaced").unwrap();
    spaced.namespace = Namespace::Named("module:other,dri*".into());
    let verdict = |fixture: Fixture| predict(&read(fixture), &facts, &Circumstances::default()).verdict;
    assert_eq!(verdict(driver().import("spaced", Some(0x44))), Verdict::Loads);
    let stranger = driver_named("stranger").import("spaced", Some(0x44));
    assert_eq!(verdict(stranger), fails(Errno::EINVAL));
    assert_eq!(verdict(driver().info("import_ns", "module:x")), fails(Errno::EPERM));
}

#[rstest]
#[case(Vec::new(), fails(Errno::EINVAL))]
#[case(b"#!/bin/sh\n".to_vec(), fails(Errno::ENOEXEC))]
#[case(b"\x1f\x8b\x08".to_vec(), fails(Errno::ENOEXEC))]
#[case(driver().build()[..900].to_vec(), fails(Errno::ENOEXEC))]
#[case(driver().without_section(".gnu.linkonce.this_module").build(), fails(Errno::ENOEXEC))]
#[case(driver().build(), Verdict::Loads)]
fn files_are_judged_as_they_are(#[case] bytes: Vec<u8>, #[case] expected: Verdict) {
    assert_eq!(predict_file(&bytes, &kernel(), &Circumstances::default()).verdict, expected);
}

#[test]
fn long_lists_of_symbols_end_in_a_count() {
    let fixture = (0..9).fold(driver(), |fixture, n| fixture.import(&format!("s{n}"), None));
    assert_eq!(judge(fixture).reasons[0].to_string(), "unknown symbol s0, s1, s2, s3, s4 and 4 more");
}

/// Class, byte order and version, where they contradict the rest of the file, are passed over.
#[rstest]
#[case(4, 3)]
#[case(4, 1)]
#[case(5, 2)]
#[case(6, 0)]
fn a_kernel_reads_every_file_as_one_of_its_own_class_byte_order_and_version(
    #[case] at: usize,
    #[case] value: u8,
) {
    let mut file = driver().build();
    file[at] = value;
    assert!(ModuleObject::parse(&file).is_err());
    assert_eq!(predict_file(&file, &kernel(), &Circumstances::default()).verdict, Verdict::Loads);
}

#[rstest]
#[case(AMD64, 0x3a, 40)] // e_shentsize
#[case(AMD64, 0x3c, 0)] // e_shnum
#[case(AMD64, 0x3e, 0)] // e_shstrndx
#[case(AMD64, 0x12, 183)] // e_machine
#[case(S390X, 0, 0x7f)]
fn a_header_that_no_kernel_reads_is_refused(#[case] layout: Layout, #[case] at: usize, #[case] value: u8) {
    let mut file = Fixture::new(layout, "driver").build();
    file[at] = value;
    let verdict = predict_file(&file, &kernel(), &Circumstances::default()).verdict;
    assert_eq!(verdict, fails(Errno::ENOEXEC));
}

#[test]
fn where_signatures_are_enforced_they_are_looked_at_before_anything_else() {
    let judge = |enforcement| {
        let circumstances = Circumstances { enforcement, ..Circumstances::default() };
        predict_file(b"#!/bin/sh\n", &kernel(), &circumstances).verdict
    };
    assert_eq!(judge(Enforcement::Permissive), fails(Errno::ENOEXEC));
    assert_eq!(judge(Enforcement::Enforced), fails(Errno::EKEYREJECTED));
    assert_eq!(judge(Enforcement::Lockdown), fails(Errno::EPERM));
}

#[test]
fn a_common_symbol_is_refused_and_the_last_failing_symbol_still_decides() {
    assert_eq!(judge(driver().common("placeless")).verdict, fails(Errno::ENOEXEC));
    assert_eq!(judge(driver().common("placeless").import("nobody", None)).verdict, fails(Errno::ENOENT));
    assert_eq!(judge(driver().import("nobody", None).common("placeless")).verdict, fails(Errno::ENOEXEC));
    assert_eq!(judge(driver().common("__gnu_lto_v1")).verdict, Verdict::Loads);
}

#[test]
fn debian_kernels_want_a_checksum_of_every_symbol() {
    let mut facts = kernel();
    facts.release = KernelRelease::new("6.12.95+deb12-cloud-amd64").unwrap();
    let prediction = predict(&read(driver().import("gpl", None)), &facts, &Circumstances::default());
    assert_eq!((prediction.verdict, names(&prediction)), (fails(Errno::EINVAL), vec!["NoSymbolVersion"]));
    // Where it is the checksum of `struct module`, the module is of another kernel.
    let without_layout = || {
        let fixture = Fixture::new(AMD64, "driver").replace_info("vermagic", Some(VERMAGIC));
        read(fixture.this_module_size(1280).import("printk", Some(0x22)))
    };
    let verdict = |facts: &KernelFacts| predict(&without_layout(), facts, &Circumstances::default()).verdict;
    assert_eq!(verdict(&facts), fails(Errno::ENOEXEC));
    assert_eq!(verdict(&kernel()), Verdict::Loads);
}

#[test]
fn of_several_checksums_of_a_symbol_the_first_counts() {
    let repeated = |first, second| judge(driver().version("gpl", first).import("gpl", Some(second))).verdict;
    assert_eq!(repeated(0x33, 0x99), Verdict::Loads);
    assert_eq!(repeated(0x99, 0x33), fails(Errno::EINVAL));
}

#[test]
fn tables_that_are_not_kept_in_memory_are_none() {
    let wrong = || driver().import("gpl", Some(0x99));
    assert_eq!(judge(wrong()).verdict, fails(Errno::EINVAL));
    let prediction = judge(wrong().hidden_versions());
    assert_eq!((prediction.verdict, names(&prediction)), (Verdict::Loads, vec!["NoVersions"]));
}

#[test]
fn a_symbol_without_a_name_is_wanted_like_any_other() {
    assert_eq!(judge(driver().import("", None)).verdict, fails(Errno::ENOENT));
}

#[test]
fn a_module_is_there_by_the_name_in_its_structure() {
    let loaded = |name: &str| {
        let mut circumstances = Circumstances::default();
        circumstances.add_loaded(super::tests::name(name));
        judge_in(driver().replace_info("name", Some("other")), &circumstances).verdict
    };
    assert_eq!(loaded("driver"), fails(Errno::EEXIST));
    assert_eq!(loaded("other"), Verdict::Loads);
}
