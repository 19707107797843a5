//! A kernel of two symbols a table, in each form that its tables have had.

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::facts::{KernelSymbol, Namespace};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    /// 32-bit offsets from their own places.
    Relative,
    /// The same before 5.4, without namespaces.
    RelativeShort,
    /// Addresses.
    Absolute,
}

const BASE: u64 = 0xffff_ffff_8100_0000;

/// Names and namespaces, one after the other.
const STRINGS: &[u8] = b"\0alpha\0SPACE\0beta\0module_layout\0";

struct Kernel {
    sections: Vec<(&'static str, Vec<u8>)>,
}

impl Kernel {
    fn new() -> Self {
        let constants =
            b"Linux version 6.1.0-9-test (who) #1\n\x006.1.0-9-test SMP mod_unload modversions \0";
        Self { sections: vec![("__ksymtab_strings", STRINGS.to_vec()), (".rodata", constants.to_vec())] }
    }

    fn with(mut self, name: &'static str, data: Vec<u8>) -> Self {
        self.sections.push((name, data));
        self
    }

    /// Sections lie a page apart, the strings first.
    fn address(index: usize) -> u64 {
        BASE + 0x1000 * u64::try_from(index).unwrap()
    }

    /// Entries of a name's and a namespace's offset among the strings.
    fn table(self, name: &'static str, form: Form, entries: &[(u32, u32)]) -> Self {
        let start = Self::address(self.sections.len());
        let mut data = Vec::new();
        for &(name, namespace) in entries {
            let members = if form == Form::RelativeShort { 2 } else { 3 };
            for text in [1, name, namespace].into_iter().take(members) {
                let target = if text == 0 { 0 } else { BASE + u64::from(text) };
                if form == Form::Absolute {
                    data.extend(target.to_le_bytes());
                } else {
                    let place = start + u64::try_from(data.len()).unwrap();
                    let offset = if target == 0 { 0 } else { target.wrapping_sub(place) };
                    data.extend(&offset.to_le_bytes()[..4]);
                }
            }
        }
        self.with(name, data)
    }

    fn crcs(self, name: &'static str, crcs: &[u32]) -> Self {
        self.with(name, crcs.iter().flat_map(|crc| crc.to_le_bytes()).collect())
    }

    fn build(self) -> Vec<u8> {
        let mut names = vec![0];
        let mut headers = vec![0; 64];
        let mut body = Vec::new();
        let mut sections = self.sections;
        sections.push((".shstrtab", Vec::new()));
        let offsets: Vec<u32> = sections
            .iter()
            .map(|(name, _)| {
                let offset = u32::try_from(names.len()).unwrap();
                names.extend_from_slice(name.as_bytes());
                names.push(0);
                offset
            })
            .collect();
        let last = sections.len() - 1;
        sections[last].1 = names;
        for (index, (_, data)) in sections.iter().enumerate() {
            let offset = u64::try_from(64 + body.len()).unwrap();
            body.extend_from_slice(data);
            headers.extend(offsets[index].to_le_bytes());
            headers.extend(1_u32.to_le_bytes());
            let length = u64::try_from(data.len()).unwrap();
            for value in [0, Self::address(index), offset, length, 0, 1, 0] {
                headers.extend(value.to_le_bytes());
            }
        }
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        for value in [2_u16, 62] {
            file.extend(value.to_le_bytes());
        }
        file.extend(1_u32.to_le_bytes());
        for value in [0, 0, u64::try_from(64 + body.len()).unwrap()] {
            file.extend(value.to_le_bytes());
        }
        file.extend(0_u32.to_le_bytes());
        for value in [64, 0, 0, 64, sections.len() + 1, sections.len()] {
            file.extend(u16::try_from(value).unwrap().to_le_bytes());
        }
        [file, body, headers].concat()
    }
}

/// `alpha` in a namespace and `module_layout` for all, `beta` for the GPL.
fn kernel(form: Form) -> Kernel {
    let namespace = if form == Form::RelativeShort { 0 } else { 7 };
    Kernel::new()
        .table("__ksymtab", form, &[(1, namespace), (18, 0)])
        .table("__ksymtab_gpl", form, &[(13, 0)])
        .crcs("__kcrctab", &[0x11, 0x22])
        .crcs("__kcrctab_gpl", &[0x33])
}

fn symbol(crc: u32, gpl_only: bool, namespace: &str) -> KernelSymbol {
    KernelSymbol {
        crc: Some(crc),
        gpl_only: Some(gpl_only),
        namespace: Namespace::named(namespace),
        provider: None,
    }
}

#[rstest]
#[case(Form::Relative, "SPACE")]
#[case(Form::RelativeShort, "")]
#[case(Form::Absolute, "SPACE")]
fn symbols_are_read_in_every_form(#[case] form: Form, #[case] namespace: &str) {
    let facts = KernelFacts::from_image(&kernel(form).build()).unwrap();
    assert_eq!((facts.release.as_str(), facts.architecture), ("6.1.0-9-test", Architecture::Amd64));
    assert_eq!(facts.vermagic.unwrap().as_str(), "6.1.0-9-test SMP mod_unload modversions ");
    let expected = [
        ("alpha".to_owned(), symbol(0x11, false, namespace)),
        ("beta".to_owned(), symbol(0x33, true, "")),
        ("module_layout".to_owned(), symbol(0x22, false, "")),
    ];
    assert_eq!((facts.exports, facts.complete), (expected.into(), true));
}

#[test]
fn one_table_with_flags_and_without_checksums_is_read() {
    let image = Kernel::new()
        .table("__ksymtab", Form::Relative, &[(1, 7), (13, 0)])
        .with("__kflagstab", vec![0, 1])
        .build();
    let facts = KernelFacts::from_image(&image).unwrap();
    let told = |name: &str| (facts.exports[name].gpl_only, facts.exports[name].crc);
    assert_eq!((told("alpha"), told("beta")), ((Some(false), None), (Some(true), None)));
}

#[test]
fn without_section_headers_the_release_is_known_and_the_symbols_are_not() {
    let mut image = kernel(Form::Relative).build();
    // e_shoff and, behind it, e_shnum.
    image[40..48].fill(0);
    image[60..64].fill(0);
    let facts = KernelFacts::from_image(&image).unwrap();
    assert!(facts.vermagic.is_some() && !facts.complete && facts.exports.is_empty());
}

#[test]
fn a_table_that_does_not_fit_its_checksums_leaves_the_symbols_unknown() {
    let image = Kernel::new()
        .table("__ksymtab", Form::Relative, &[(1, 7), (13, 0)])
        .crcs("__kcrctab", &[1, 2, 3])
        .build();
    assert!(!KernelFacts::from_image(&image).unwrap().complete);
}

#[test]
fn what_is_no_kernel_is_named() {
    assert!(matches!(KernelFacts::from_image(b"text"), Err(ImageError::BootImage(_))));
    assert!(matches!(KernelFacts::from_image(b"\x7fELF\x09"), Err(ImageError::Vmlinux(_))));
    let mute = Kernel { sections: vec![(".rodata", b"nothing".to_vec())] };
    assert!(matches!(KernelFacts::from_image(&mute.build()), Err(ImageError::NoRelease)));
}

#[test]
fn the_release_is_that_of_the_banner() {
    let constants = b"x\0Linux version %s (%s) (%s) %s\n\0Linux version 6.1.0-9-test (who@where) #1 SMP\0";
    assert_eq!(find_release(constants).unwrap().as_str(), "6.1.0-9-test");
    assert_eq!(find_release(b"Linux version 6.1"), None);
    let long = [b"Linux version ", &[b'6'; 70][..], b" "].concat();
    assert_eq!(find_release(&long), None);
}

#[test]
fn the_version_magic_is_told_from_other_texts_that_begin_with_the_release() {
    let magic = b"6.1.0 (gcc)\x006.1.0 is old\x006.1.0 SMP preempt mod_unload modversions \0";
    let found = find_vermagic(magic, "6.1.0").unwrap();
    assert_eq!(found.as_str(), "6.1.0 SMP preempt mod_unload modversions ");
    let two = b"6.1.0 SMP mod_unload \x006.1.0 SMP \0";
    assert_eq!(find_vermagic(two, "6.1.0"), None);
}

#[test]
fn messages_tell_the_rules_and_silence_tells_nothing() {
    let facts = KernelFacts::new(KernelRelease::new("6.1.0").unwrap(), crate::object::Architecture::Amd64);
    assert_eq!(policy(b"other texts", &facts), KernelPolicy::default());
    let constants = b"version magic '%s' should be '%s'\n\0\x014%s: module uses symbol (%s) from namespace\0\
                      \x015Loading of %s is rejected\n";
    let expected = KernelPolicy {
        signatures: Some(true),
        signatures_forced: None,
        force_load: Some(false),
        missing_imports_allowed: Some(true),
        decompression: Some(Decompression::None),
        types_must_fit: Some(false),
        ecdsa: None,
        sha512: None,
    };
    assert_eq!(policy(constants, &facts), expected);
}

#[test]
fn what_a_kernel_says_of_type_information_tells_whether_it_insists_on_it() {
    let insists = |release: &str, text: &str| {
        let facts =
            KernelFacts::new(KernelRelease::new(release).unwrap(), crate::object::Architecture::Amd64);
        types_must_fit(|wanted| memchr::memmem::find(text.as_bytes(), wanted).is_some(), &facts)
    };
    let refuses = "failed to validate module [%s] BTF: %ld";
    assert_eq!(insists("7.2.0", refuses), Some(true));
    assert_eq!(insists("6.12.0", "Kernel module BTF mismatch detected, BTF debug info"), Some(false));
    assert_eq!(insists("7.2.0", "no types at all"), Some(false));
    // It said so before it let pass, too.
    assert_eq!(insists("6.1.0", refuses), None);
}

proptest! {
    #[test]
    fn damaged_kernels_do_not_panic(
        form in prop::sample::select(vec![Form::Relative, Form::RelativeShort, Form::Absolute]),
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut image = kernel(form).build();
        for (position, value) in mutations {
            let position = position.index(image.len());
            image[position] = value;
        }
        if let Some(cut) = cut {
            image.truncate(cut.index(image.len()));
        }
        if let Ok(facts) = KernelFacts::from_image(&image) {
            prop_assert_eq!(KernelFacts::decode(&facts.encode()).unwrap(), facts);
        }
    }
}
