//! What each age of kernels does about each flaw.

use object::elf;
use rstest::rstest;

use crate::facts::KernelFacts;
use crate::failure::Errno;
use crate::object::fixture::{AMD64, ARM, Fixture, S390X};
use crate::object::{Architecture, Flaw, ModuleObject, ObjectError};
use crate::predict::tests::{driver, fails, kernel, names, read};
use crate::predict::{Circumstances, Prediction, Verdict, predict, predict_file};
use crate::release::KernelRelease;

const LOADS: Verdict = Verdict::Loads;
const REFUSED: Verdict = Verdict::Fails { errno: Errno::ENOEXEC };

fn of_release(release: &str) -> KernelFacts {
    KernelFacts { release: KernelRelease::new(release).unwrap(), ..kernel() }
}

fn on(fixture: Fixture, facts: &KernelFacts) -> Prediction {
    predict(&read(fixture), facts, &Circumstances::default())
}

#[rstest]
#[case::infos(driver().data(".modinfo", vec![0]), ("6.3.0", LOADS), ("6.4.0", REFUSED))]
#[case::structures(driver().data(".gnu.linkonce.this_module", vec![0; 1280]), ("6.3.0", LOADS), ("6.4.0", REFUSED))]
#[case::symbol_tables(driver().symbol_tables(2), ("6.3.0", LOADS), ("6.4.0", REFUSED))]
#[case::structure_not_kept(driver().flags(".gnu.linkonce.this_module", 0), ("6.3.0", Verdict::Unknown), ("6.4.0", REFUSED))]
#[case::structure_without_bytes(driver().kind(".gnu.linkonce.this_module", elf::SHT_NOBITS.0), ("6.3.0", Verdict::Unknown), ("6.4.0", REFUSED))]
#[case::checksums_without_names(driver().data("__version_ext_crcs", vec![0; 4]), ("6.13.0", LOADS), ("6.14.0", REFUSED))]
#[case::names_without_checksums(driver().data("__version_ext_names", b"x\0".to_vec()), ("6.13.0", LOADS), ("6.14.0", REFUSED))]
#[case::fewer_names(driver().data("__version_ext_crcs", vec![0; 8]).data("__version_ext_names", b"x\0".to_vec()), ("6.13.0", LOADS), ("6.14.0", REFUSED))]
#[case::no_flags(driver().export("mine", None, false, 1), ("6.19.0", LOADS), ("7.2.0", REFUSED))]
#[case::perhaps_no_flags(driver().export("mine", None, false, 1), ("7.0.0", Verdict::Unknown), ("7.1.0", Verdict::Unknown))]
#[case::flags(driver().export("mine", None, false, 1).data("__kflagstab", vec![0]), ("6.19.0", LOADS), ("7.2.0", LOADS))]
#[case::writable_code(driver().data(".both", vec![0]).flags(".both", 7), ("5.7.0", Verdict::Unknown), ("5.8.0", REFUSED))]
fn a_flaw_counts_from_a_release_on(
    #[case] fixture: Fixture,
    #[case] before: (&str, Verdict),
    #[case] since: (&str, Verdict),
) {
    let module = read(fixture);
    for (release, expected) in [before, since] {
        let prediction = predict(&module, &of_release(release), &Circumstances::default());
        assert_eq!(prediction.verdict, expected, "{release}: {:?}", prediction.reasons);
    }
}

#[test]
fn what_only_some_architectures_mind_is_unknown_on_others() {
    let both = |fixture: Fixture| fixture.data(".both", vec![0]).flags(".both", 7);
    let module = read(both(Fixture::new(S390X, "driver")));
    let facts = KernelFacts { architecture: module.architecture, ..kernel() };
    let reasons = predict(&module, &facts, &Circumstances::default()).reasons;
    let said: Vec<String> = reasons.iter().map(ToString::to_string).collect();
    let sentence =
        |said: &String| said.ends_with("written and executed; whether the kernel minds is not known");
    assert!(said.iter().any(sentence), "{said:?}");
    let jumps = |layout| Fixture::new(layout, "driver").data(".plt", vec![0]).flags(".plt", 7);
    assert_eq!(read(jumps(S390X)).flaws, []);
    assert_eq!(read(jumps(AMD64)).flaws.len(), 1);
}

/// The section headers of a file for AMD64: where they are, and where what they describe is.
fn sections(file: &[u8]) -> Vec<(usize, std::ops::Range<usize>)> {
    let number = |at: usize| usize::try_from(u64::from_le_bytes(*file[at..].first_chunk().unwrap())).unwrap();
    let count = usize::from(file[0x3c]);
    let header = |index: usize| number(0x28) + index * 64;
    let range = |at: usize| number(at + 24)..number(at + 24) + number(at + 32);
    (0..count).map(|index| (header(index), range(header(index)))).collect()
}

/// A driver in which something was changed behind its linker's back.
fn damaged(damage: impl FnOnce(&mut [u8], &[(usize, std::ops::Range<usize>)])) -> Vec<u8> {
    let mut file = driver().build();
    let sections = sections(&file);
    damage(&mut file, &sections);
    file
}

fn verdict(file: &[u8], release: &str) -> Verdict {
    predict_file(file, &of_release(release), &Circumstances::default()).verdict
}

/// Symbol names, symbols and section names stand at the end, in this order.
fn behind_the_last(
    back: usize,
    sections: &[(usize, std::ops::Range<usize>)],
) -> &(usize, std::ops::Range<usize>) {
    &sections[sections.len() - back]
}

#[rstest]
#[case::kind(4)]
#[case::address(16)]
#[case::size(32)]
fn the_first_section_must_be_none(#[case] field: usize) {
    let file = damaged(|file, sections| file[sections[0].0 + field] = 1);
    assert_eq!(ModuleObject::parse(&file).unwrap().flaws, [Flaw::FirstSection]);
    assert_eq!((verdict(&file, "5.11.0"), verdict(&file, "5.12.0")), (Verdict::Unknown, REFUSED));
}

#[test]
fn the_first_section_may_be_called_anything() {
    let file = damaged(|file, sections| file[sections[0].0..][..4].fill(0xff));
    assert_eq!(verdict(&file, "6.13.0"), LOADS);
}

#[test]
fn section_names_must_end() {
    let endless = damaged(|file, sections| file[behind_the_last(1, sections).1.end - 1] = b'x');
    assert_eq!(ModuleObject::parse(&endless), Err(ObjectError::SectionNames));
    assert_eq!((verdict(&endless, "5.11.0"), verdict(&endless, "5.12.0")), (Verdict::Unknown, REFUSED));
    let none = damaged(|file, sections| file[behind_the_last(1, sections).0 + 32..][..8].fill(0));
    assert_eq!(verdict(&none, "5.12.0"), REFUSED);
}

#[test]
fn names_stand_among_the_names() {
    let section = damaged(|file, sections| file[sections[1].0..][..4].fill(0xff));
    assert_eq!((verdict(&section, "6.12.0"), verdict(&section, "6.13.0")), (Verdict::Unknown, REFUSED));
    let symbol = damaged(|file, sections| file[behind_the_last(2, sections).1.start + 24..][..3].fill(0xff));
    assert_eq!((verdict(&symbol, "6.12.0"), verdict(&symbol, "6.13.0")), (Verdict::Unknown, REFUSED));
}

#[test]
fn symbol_names_begin_and_end_with_none() {
    let begin = damaged(|file, sections| file[behind_the_last(3, sections).1.start] = b'x');
    assert_eq!((verdict(&begin, "6.12.0"), verdict(&begin, "6.13.0")), (LOADS, REFUSED));
    let end = damaged(|file, sections| file[behind_the_last(3, sections).1.end - 1] = b'x');
    assert_eq!((verdict(&end, "6.12.0"), verdict(&end, "6.13.0")), (Verdict::Unknown, REFUSED));
    let nowhere = damaged(|file, sections| file[behind_the_last(2, sections).0 + 40..][..4].fill(0x7f));
    assert_eq!(verdict(&nowhere, "6.1.0"), REFUSED);
}

#[test]
fn a_name_that_is_too_long_to_read_is_no_fault_of_the_file() {
    let file = driver().import(&"n".repeat(600), None).build();
    assert!(matches!(ModuleObject::parse(&file), Err(ObjectError::SymbolNameLength(_))));
    assert_eq!(verdict(&file, "6.13.0"), Verdict::Unknown);
}

#[test]
fn section_headers_stand_somewhere() {
    let file = damaged(|file, _| file[0x28..0x30].fill(0));
    assert_eq!(verdict(&file, "6.1.0"), REFUSED);
}

#[test]
fn relocations_are_of_kinds_that_the_kernel_knows_and_come_behind_the_symbols() {
    let judge = |fixture: Fixture| on(fixture, &kernel());
    assert_eq!(judge(driver().relocation(elf::R_X86_64_PLT32.0)).verdict, LOADS);
    assert_eq!(judge(driver().relocation(elf::R_X86_64_GOTPCREL.0)).verdict, REFUSED);
    let unknown = driver().relocation(elf::R_X86_64_GOTPCREL.0).import("nobody", None);
    assert_eq!(judge(unknown).verdict, fails(Errno::ENOENT));
    let kept = |flags| driver().relocation(elf::R_X86_64_GOTPCREL.0).flags(".text", flags);
    assert_eq!((judge(kept(0)).verdict, judge(kept(2)).verdict), (LOADS, REFUSED));
    let bare = judge(driver().relocation(elf::R_X86_64_64.0).kind(".rel__ksymtab", elf::SHT_REL.0));
    assert_eq!((bare.verdict, names(&bare)), (REFUSED, vec!["InvalidFormat"]));
    // The kinds of others are numbered otherwise, and a 32-bit kernel wants them without addends.
    let of_arm = read(Fixture::new(ARM, "driver").relocation(250));
    assert_eq!((of_arm.architecture, of_arm.flaws), (Architecture::Arm, vec![]));
    assert_eq!(read(Fixture::new(S390X, "driver").relocation(250)).flaws, []);
}

#[test]
fn more_relocations_than_the_file_has_room_for_are_not_read() {
    let mut fixture = Fixture::new(AMD64, "driver");
    for _ in 0..4 {
        fixture = fixture.relocation(elf::R_X86_64_64.0);
    }
    let mut file = fixture.build();
    // Each claims the whole file.
    let whole = (file.len() / 24 * 24) as u64;
    for (header, _) in sections(&file) {
        if file[header + 4] == 4 {
            file[header + 24..][..8].fill(0);
            file[header + 32..][..8].copy_from_slice(&whole.to_le_bytes());
        }
    }
    assert!(matches!(ModuleObject::parse(&file), Err(ObjectError::TooMany { .. })));
}

#[test]
fn type_information_must_fit_where_the_kernel_insists() {
    let facts = |types_must_fit| {
        let mut facts = kernel();
        facts.policy.types_must_fit = types_must_fit;
        facts
    };
    let good = || driver().data(".BTF", [&[0x9f, 0xeb, 1][..], &[0; 21]].concat());
    let bad = || driver().data(".BTF", vec![0; 24]);
    let foreign =
        || good().replace_info("vermagic", Some("6.12.1-other SMP preempt mod_unload modversions "));
    let verdicts = |fixture: &dyn Fn() -> Fixture| {
        [None, Some(false), Some(true)].map(|insists| on(fixture(), &facts(insists)).verdict)
    };
    assert_eq!(verdicts(&good), [LOADS, LOADS, LOADS]);
    assert_eq!(verdicts(&bad), [Verdict::Unknown, LOADS, fails(Errno::EINVAL)]);
    assert_eq!(verdicts(&foreign), [Verdict::Unknown, LOADS, Verdict::Unknown]);
    assert_eq!(names(&on(foreign(), &facts(Some(true)))), ["TypesNotCompared"]);
}
