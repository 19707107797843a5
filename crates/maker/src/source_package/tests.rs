use std::fs;

use super::*;

const PACKAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata");

/// A folder with this package in its sources, as a Job has it when it is to be unpacked.
fn bench(bytes: &[u8]) -> tempfile::TempDir {
    let work = tempfile::tempdir().unwrap();
    for folder in ["source/drivers", gather::PACKAGE] {
        fs::create_dir_all(work.path().join(folder)).unwrap();
    }
    fs::write(work.path().join("source/drivers/a.src.rpm"), bytes).unwrap();
    work
}

fn package(name: &str) -> Vec<u8> {
    fs::read(Path::new(PACKAGES).join(name)).unwrap()
}

fn unpacked(work: &tempfile::TempDir, patched_by_user: bool) -> Result<String, PackageError> {
    let path = "source/drivers/a.src.rpm".to_owned();
    unpack(&Package { path, patched_by_user }, work.path())
}

#[test]
fn the_first_source_is_unpacked_and_the_rest_lies_beside() {
    let work = bench(&package("simple-kmod-1.0-1.src.rpm"));
    let told = unpacked(&work, false).unwrap();
    assert_eq!(told, "2 files of simple-kmod-1.0.tar.gz, the first source of simple-kmod-1.0");
    let at = |name: &str| work.path().join(name);
    let makefile = fs::read_to_string(at("unpacked/Makefile")).unwrap();
    assert!(makefile.contains("obj-m := simple-kmod.o"), "the archive's one directory is left out");
    assert_eq!(fs::read_to_string(at("package/blacklist.conf")).unwrap(), "blacklist other\n");
    assert!(at("package/simple-kmod.spec").is_file() && at("package/simple-kmod-1.0.tar.gz").is_file());
}

#[test]
fn patches_are_left_to_the_user_who_says_so() {
    let bytes = package("patched-kmod-1.0-1.src.rpm");
    let refused = unpacked(&bench(&bytes), false).unwrap_err().to_string();
    assert!(refused.contains("one.patch") && refused.contains("build.source.before"), "{refused}");
    let work = bench(&bytes);
    unpacked(&work, true).unwrap();
    assert!(
        work.path().join("package/one.patch").is_file() && work.path().join("unpacked/Makefile").is_file()
    );
}

#[test]
fn what_is_no_source_package_is_said_to_be_so() {
    let refused = |bytes: &[u8]| unpacked(&bench(bytes), false).unwrap_err();
    let whole = package("simple-kmod-1.0-1.src.rpm");
    assert!(matches!(refused(b"PK\x03\x04 something else, which is long enough to have a lead of ninety-six bytes, all told, and more"), PackageError::Header(HeaderError::Magic)));
    assert!(matches!(refused(&whole[..300]), PackageError::Header(HeaderError::Read(_))));
    assert!(matches!(refused(&whole[..whole.len() - 200]), PackageError::Cpio(_)));
    let nowhere = Package { path: "source/none.src.rpm".to_owned(), patched_by_user: false };
    assert!(matches!(unpack(&nowhere, bench(&whole).path()), Err(PackageError::Absent)));
}

#[test]
fn a_link_in_the_sources_leads_nowhere() {
    let work = bench(&package("simple-kmod-1.0-1.src.rpm"));
    std::os::unix::fs::symlink("drivers", work.path().join("source/again")).unwrap();
    let through = Package { path: "source/again/a.src.rpm".to_owned(), patched_by_user: false };
    assert!(matches!(unpack(&through, work.path()), Err(PackageError::Absent)));
}

/// An entry of an archive.
fn entry(name: &str, mode: usize, content: &[u8]) -> Vec<u8> {
    let fields = [0, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
    let mut bytes = b"070701".to_vec();
    bytes.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
    bytes.extend(name.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[test]
fn an_archive_puts_plain_files_into_its_folder_and_nothing_else_anywhere() {
    let end = entry("TRAILER!!!", 0, b"");
    let unpacked = |bytes: Vec<u8>| {
        let folder = tempfile::tempdir().unwrap();
        let done = cpio::unpack(&mut [bytes, end.clone()].concat().as_slice(), folder.path());
        (done, fs::read_dir(folder.path()).unwrap().count())
    };
    let (done, files) = unpacked([entry("a.c", 0o100_644, b"12345"), entry("./b", 0o100_755, b"")].concat());
    assert_eq!((done.unwrap(), files), (vec!["a.c".to_owned(), "b".to_owned()], 2));
    let evil = [
        ("../a", 0o100_644),
        ("/etc/a", 0o100_644),
        ("a/b", 0o100_644),
        ("..", 0o100_644),
        ("link", 0o120_777),
        ("d", 0o040_755),
    ];
    for (name, mode) in evil {
        let (done, files) = unpacked(entry(name, mode, b"target"));
        assert!(matches!(done, Err(CpioError::Name(_))), "{name}");
        assert_eq!(files, 0, "{name}");
    }
    let twice = [entry("a", 0o100_644, b"1"), entry("a", 0o100_644, b"2")].concat();
    assert!(matches!(unpacked(twice).0, Err(CpioError::Write { .. })));
}

proptest::proptest! {
    #[test]
    fn no_package_panics(flips in proptest::collection::vec((0..8000_usize, proptest::prelude::any::<u8>()), 1..6)) {
        let mut bytes = package("simple-kmod-1.0-1.src.rpm");
        for (at, byte) in flips {
            let length = bytes.len();
            bytes[at % length] = byte;
        }
        let _ = unpacked(&bench(&bytes), false);
    }
}
