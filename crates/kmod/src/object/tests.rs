use proptest::prelude::*;
use rstest::rstest;

use super::fixture::{AMD64, ARM, Fixture, Layout, S390X};
use super::*;

fn parse(fixture: Fixture) -> ModuleObject {
    ModuleObject::parse(&fixture.build()).unwrap()
}

fn import(symbol: &str, weak: bool, crc: Option<u32>) -> Import {
    Import { symbol: symbol.into(), weak, crc }
}

#[rstest]
#[case(AMD64, "amd64")]
#[case(S390X, "s390x")]
#[case(ARM, "arm")]
fn a_module_is_read_in_every_class_and_byte_order(#[case] layout: Layout, #[case] architecture: &str) {
    let module = parse(
        Fixture::new(layout, "lab_a")
            .import("_printk", Some(0x9270_1234))
            .weak_import("maybe")
            .import("module_layout_user", None)
            .export("lab_open", None, false, 0x1111_2222)
            .export("lab_gpl", Some("LAB"), true, 0x3333_4444)
            .export("lab_gpl2", None, true, 0x5555_6666),
    );
    assert_eq!((module.name.as_str(), module.architecture.as_str()), ("lab_a", architecture));
    assert_eq!(module.this_module_size, 896);
    let imports = [
        import("_printk", false, Some(0x9270_1234)),
        import("maybe", true, None),
        import("module_layout_user", false, None),
    ];
    assert_eq!(module.imports, imports);
    let export = |symbol: &str, crc, gpl_only, namespace: Option<&str>| Export {
        symbol: symbol.into(),
        crc: Some(crc),
        gpl_only,
        namespace: namespace.map(Into::into),
    };
    let expected = [
        export("lab_open", 0x1111_2222, false, None),
        export("lab_gpl", 0x3333_4444, true, Some("LAB")),
        export("lab_gpl2", 0x5555_6666, true, None),
    ];
    assert_eq!(module.exports, expected);
}

#[test]
fn everything_a_module_says_about_itself_is_read() {
    let info = parse(
        Fixture::new(AMD64, "lab")
            .info("depends", "llc,stp")
            .info("softdep", "pre: crc32c nf-tables post: later")
            .info("softdep", "post: last")
            .info("parm", "count:How many: at most 7")
            .info("parmtype", "count:int")
            .info("parmtype", "names:array of charp")
            .info("firmware", "lab/a.bin")
            .info("firmware", "lab/b.bin")
            .info("alias", "pci:v00001AF4d*")
            .info("import_ns", "LAB")
            .info("version", "1.2")
            .info("srcversion", "ABC")
            .info("intree", "Y")
            .info("license", "Proprietary"),
    )
    .info;
    let vermagic = info.vermagic().unwrap();
    assert_eq!((vermagic.release(), vermagic.has_modversions()), ("6.1.0-9-test", true));
    assert_eq!(info.depends().map(|name| name.to_string()).collect::<Vec<_>>(), ["llc", "stp"]);
    let soft = info.soft_dependencies();
    assert_eq!(soft.pre, ["crc32c", "nf-tables"]);
    assert_eq!(soft.post, ["later", "last"]);
    let parameters = info.parameters();
    assert_eq!(parameters.len(), 2);
    assert_eq!((parameters[0].name.as_str(), parameters[0].kind.as_deref()), ("count", Some("int")));
    assert_eq!(parameters[0].description.as_deref(), Some("How many: at most 7"));
    assert_eq!((parameters[1].name.as_str(), parameters[1].description.as_deref()), ("names", None));
    assert_eq!(info.firmware().collect::<Vec<_>>(), ["lab/a.bin", "lab/b.bin"]);
    assert_eq!(info.aliases().collect::<Vec<_>>(), ["pci:v00001AF4d*"]);
    assert_eq!(info.imported_namespaces().collect::<Vec<_>>(), ["LAB"]);
    assert_eq!((info.version(), info.source_version()), (Some("1.2"), Some("ABC")));
    assert!(info.is_in_tree() && !info.has_retpoline());
    // Of two licences the kernel takes the first.
    assert_eq!((info.license(), info.is_gpl_compatible()), (Some("GPL"), true));
}

#[test]
fn without_modinfo_the_name_stands_in_the_module_structure() {
    let module = parse(Fixture::new(AMD64, "old-one").without_info());
    assert_eq!((module.name.as_str(), module.info.vermagic()), ("old_one", None));
}

#[test]
fn extended_versions_win_over_basic_ones() {
    let module = parse(
        Fixture::new(S390X, "lab")
            .import("a", Some(1))
            .import("b", Some(2))
            .extended_versions(&[("module_layout", 9), ("b", 7)]),
    );
    assert_eq!(module.imports, [import("a", false, None), import("b", false, Some(7))]);
    let versions = module.versions.unwrap();
    assert_eq!((versions.form, versions.crcs.get("module_layout")), (VersionsForm::Extended, Some(&9)));
    assert_eq!(parse(Fixture::new(AMD64, "lab").import("a", None)).versions, None);
}

#[test]
fn merged_symbol_tables_mark_gpl_symbols_by_flags() {
    let fixture = Fixture::new(AMD64, "lab").export("open", None, false, 1).export("closed", None, false, 2);
    let module = parse(fixture.data("__kflagstab", vec![0, 1]));
    assert_eq!(module.exports.iter().map(|export| export.gpl_only).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn the_build_id_is_found_behind_other_notes() {
    let note = |kind: u8, name: &[u8], description: &[u8]| {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
        [&length(name)[..], &length(description), &[kind, 0, 0, 0], name, description].concat()
    };
    let notes =
        [note(1, b"Linux\0\0\0", b"\x01\x02\x03\x04"), note(3, b"GNU\0", b"0123456789abcdef0123")].concat();
    let module = parse(Fixture::new(AMD64, "lab").data(".note.gnu.build-id", notes));
    assert_eq!(module.build_id.as_deref(), Some(&b"0123456789abcdef0123"[..]));
}

#[test]
fn a_symbol_that_the_assembler_left_behind_is_no_import() {
    assert_eq!(parse(Fixture::new(AMD64, "lab").import("_GLOBAL_OFFSET_TABLE_", None)).imports, []);
}

#[test]
fn a_signature_at_the_end_disturbs_nothing() {
    let mut file = Fixture::new(AMD64, "lab").import("a", Some(1)).build();
    let plain = ModuleObject::parse(&file).unwrap();
    let length = file.len();
    file.extend(b"0\x01s\0\0\x02\0\0\0\0\0\0\0\0\x03~Module signature appended~\n");
    let signed = ModuleObject::parse(&file).unwrap();
    let Signature::Appended(signature) = &signed.signature else { panic!("{:?}", signed.signature) };
    assert_eq!(signature.signed_length, length);
    assert_eq!(ModuleObject { signature: Signature::Absent, ..signed }, plain);
}

#[test]
fn a_module_may_lie_at_any_address() {
    let shifted = [b"x".to_vec(), Fixture::new(AMD64, "lab").build()].concat();
    assert!(ModuleObject::parse(&shifted[1..]).is_ok());
}

fn patched(layout: Layout, offset: usize, value: u8) -> Vec<u8> {
    let mut file = Fixture::new(layout, "lab").build();
    file[offset] = value;
    file
}

#[rstest]
#[case(Vec::new(), ObjectError::Empty)]
#[case(b"#!/bin/sh\n".to_vec(), ObjectError::NotElf)]
#[case(b"\x7fELF".to_vec(), ObjectError::Truncated { needed: 16, length: 4 })]
#[case(b"\x7fELF\x02\x01\x01".to_vec(), ObjectError::Truncated { needed: 64, length: 7 })]
#[case(b"\x1f\x8b\x08".to_vec(), ObjectError::Packed(Compression::Gzip))]
#[case(patched(AMD64, 4, 3), ObjectError::Class(3))]
#[case(patched(AMD64, 16, 3), ObjectError::NotRelocatable(3))]
#[case(patched(AMD64, 18, 200), ObjectError::Machine(200))]
#[case(Fixture::new(AMD64, "lab").without_section(".gnu.linkonce.this_module").build(), ObjectError::NotAModule)]
#[case(Fixture::new(AMD64, "").without_info().build(), ObjectError::NoName)]
#[case(Fixture::new(AMD64, "a/b").build(), ObjectError::Name(ModuleNameError::Character('/')))]
fn what_is_not_a_module_is_named(#[case] file: Vec<u8>, #[case] expected: ObjectError) {
    assert_eq!(ModuleObject::parse(&file), Err(expected));
}

#[rstest]
#[case(AMD64)]
#[case(ARM)]
fn a_file_cut_anywhere_is_cut_off(#[case] layout: Layout) {
    let file = Fixture::new(layout, "lab").import("a", Some(1)).export("b", None, true, 2).build();
    for length in 4..file.len() {
        let error = ModuleObject::parse(&file[..length]).unwrap_err();
        assert!(matches!(error, ObjectError::Truncated { .. }), "{length} of {}: {error}", file.len());
    }
}

fn rich(layout: Layout) -> Vec<u8> {
    Fixture::new(layout, "lab")
        .info("parm", "a:b")
        .import("a", Some(1))
        .weak_import("w")
        .export("b", Some("NS"), true, 2)
        .export("c", None, false, 3)
        .extended_versions(&[("a", 1)])
        .data(".note.gnu.build-id", b"\x04\0\0\0\x04\0\0\0\x03\0\0\0GNU\0abcd".to_vec())
        .build()
}

proptest! {
    #[test]
    fn random_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = ModuleObject::parse(&[b"\x7fELF\x02\x01\x01".as_slice(), &bytes].concat());
        let _ = ModuleObject::parse(&bytes);
    }

    #[test]
    fn mutated_modules_do_not_panic(
        layout in prop::sample::select(vec![AMD64, S390X, ARM]),
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let mut file = rich(layout);
        for (position, value) in mutations {
            let position = position.index(file.len());
            file[position] = value;
        }
        let _ = ModuleObject::parse(&file);
    }
}

#[test]
fn more_imports_than_any_module_has_are_refused() {
    let limit = 1 << 16;
    let fixture = (0..limit).fold(Fixture::new(AMD64, "lab"), |fixture, _| fixture.weak_import("w"));
    // The table's first entry is the null symbol.
    let expected = ObjectError::TooMany { count: limit + 1, limit };
    assert_eq!(ModuleObject::parse(&fixture.build()), Err(expected));
}

#[rstest]
fn the_table_of_parameters_names_who_reads_them(#[values(AMD64, ARM)] layout: Layout) {
    let parameters = [("count", Some("param_ops_int")), ("own-way", None)];
    let readers = parse(Fixture::new(layout, "lab").parameters(&parameters)).parameter_readers;
    let expected = [("count".to_owned(), Some("param_ops_int".to_owned())), ("own_way".to_owned(), None)];
    assert_eq!(readers, expected.into());
    // One that names neither makes it no table.
    let cut = Fixture::new(layout, "lab").data("__param", vec![0; 40]);
    assert_eq!(parse(cut).parameter_readers, [].into());
}

#[test]
fn a_module_that_says_more_of_itself_than_any_is_refused() {
    let fields = (0..40_000).fold(Fixture::new(AMD64, "lab"), |fixture, _| fixture.info("a", ""));
    let refused = ModuleObject::parse(&fields.build());
    assert!(matches!(refused, Err(ObjectError::TooMany { count, .. }) if count > 40_000), "{refused:?}");
    let long = Fixture::new(AMD64, "lab").info("description", &"d".repeat(5 << 20));
    let refused = ModuleObject::parse(&long.build());
    assert!(matches!(refused, Err(ObjectError::Information { .. })), "{refused:?}");
}

#[test]
fn many_parameters_are_listed_once_each_and_quickly() {
    let name = |number: u32| format!("p{}", number % 15_000);
    let fixture = (0..30_000).fold(Fixture::new(AMD64, "lab"), |fixture, number| {
        let kind = if number < 15_000 { "parm" } else { "parmtype" };
        fixture.info(kind, &format!("{}:int", name(number)))
    });
    let parameters = parse(fixture).info.parameters();
    assert_eq!(parameters.len(), 15_000);
    assert!(parameters.iter().all(|parameter| parameter.kind.is_some() && parameter.description.is_some()));
}

#[rstest]
#[case::checksums(Fixture::new(AMD64, "lab").data("__versions", vec![1; 64 * 70_000]))]
#[case::extended_checksums(
    Fixture::new(AMD64, "lab").data("__version_ext_crcs", vec![0; 4 * 70_000]).data("__version_ext_names", vec![0; 9])
)]
fn tables_without_end_are_refused(#[case] fixture: Fixture) {
    let fixture =
        fixture.flags("__versions", 2).flags("__version_ext_crcs", 2).flags("__version_ext_names", 2);
    let refused = ModuleObject::parse(&fixture.build());
    assert!(matches!(refused, Err(ObjectError::TooMany { count: 70_000, .. })), "{refused:?}");
}

#[test]
fn parameters_with_limits_are_bounded() {
    let fixture = (0..5000).fold(Fixture::new(AMD64, "lab"), |fixture, number| {
        fixture.weak_import(&format!("__param_arr_{number}"))
    });
    assert!(matches!(ModuleObject::parse(&fixture.build()), Err(ObjectError::TooMany { count: 5000, .. })));
}

#[test]
fn every_text_counts_for_what_the_facts_take() {
    let plain = || Fixture::new(AMD64, "lab");
    let base = parse(plain()).footprint();
    let long = "n".repeat(400);
    for fixture in [
        plain().info("description", &long),
        plain().weak_import(&long),
        plain().export(&long, None, false, 1),
        plain().export("short", Some(&long), false, 1),
        plain().parameters(&[(&long, None)]),
    ] {
        assert!(parse(fixture).footprint() > base + 400);
    }
    assert!(parse(plain().version("symbol", 1)).footprint() >= base + 6);
}
