//! Images as an attacker would make them, read as the operator reads them: layers in, a bundle or a named error out. Nothing
//! escapes, and memory and disk stay within bounds that are measured here: every test of this program runs alone, under an
//! allocator that counts.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what a test is made of may fail like the test"
)]

#[path = "hostile/archive.rs"]
mod archive;
#[path = "hostile/memory.rs"]
mod memory;

use std::error::Error;
use std::fs;
use std::io::Write as _;

use archive::{Archive, Packing};
use memory::Measured;
use rstest::rstest;
use tenon_image::bundle::{BuildError, BuiltBundle, BundleBuilder, BundleRequest, SelectError};
use tenon_image::layers::{ArchiveError, Layer, LayersError, Limits, LinkError, TreeError};

const KERNEL: &str = "6.1.0";
const MODULES: &str = "opt/lib/modules/6.1.0";
const MIB: usize = 1 << 20;

/// What any image may take of memory while it is read, beside what the test itself holds.
const MEMORY: usize = 160 * MIB;

/// What came of an image, and what it took.
struct Read {
    built: Result<BuiltBundle, BuildError>,
    peak: usize,
    /// Bytes that are left in the folders of the builder.
    left: u64,
    /// All files that are left, by name.
    names: Vec<String>,
}

/// Reads an image in a folder of its own, beside a file that it must not touch.
fn read(layers: Vec<Layer>, limits: &Limits) -> Read {
    let root = tempfile::tempdir().unwrap();
    let (work, out, canary) = (root.path().join("work"), root.path().join("out"), root.path().join("canary"));
    for folder in [&work, &out] {
        fs::create_dir(folder).unwrap();
    }
    fs::write(&canary, "untouched").unwrap();
    let request = BundleRequest {
        image: "registry.test/driver:v1".parse().unwrap(),
        architecture: "amd64".parse().unwrap(),
        kernel: KERNEL.parse().unwrap(),
        dir_name: "/opt".parse().unwrap(),
        firmware_path: Some("/firmware".parse().unwrap()),
    };
    let builder = BundleBuilder::new(work.clone(), limits.clone());
    let measured = Measured::begin();
    let built = builder.pack(layers, &request, &out);
    let peak = measured.peak();
    assert_eq!(fs::read_to_string(&canary).unwrap(), "untouched");
    let (mut left, mut names) = (0, Vec::new());
    for folder in [&work, &out] {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            left += entry.metadata().unwrap().len();
            names.push(entry.file_name().into_string().unwrap());
        }
    }
    Read { built, peak, left, names }
}

/// The refusal of an image, its causes and all, within the bounds.
fn refused(layers: Vec<Layer>, limits: &Limits) -> (BuildError, String) {
    let read = read(layers, limits);
    assert!(read.peak < MEMORY, "{} bytes of memory", read.peak);
    assert_eq!((read.left, read.names), (0, Vec::new()), "something is left on the disk");
    let error = read.built.err().unwrap_or_else(|| panic!("nothing was refused"));
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    (error, text)
}

/// A whole image but for what is added: one module and a firmware file.
fn image() -> Archive {
    Archive::default().file(&format!("{MODULES}/good.ko"), b"module").file("firmware/good.bin", b"firmware")
}

fn tree_error(error: &BuildError) -> Option<&TreeError> {
    match error {
        BuildError::Layers { source: LayersError::Tree { source, .. }, .. } => Some(source),
        _ => None,
    }
}

fn archive_error(error: &BuildError) -> Option<&ArchiveError> {
    match error {
        BuildError::Layers { source: LayersError::Archive { source, .. }, .. } => Some(source),
        _ => None,
    }
}

#[test]
fn an_honest_image_becomes_one_bundle_with_what_it_holds() {
    let read = read(vec![image().layer(Packing::Plain)], &Limits::default());
    let built = read.built.unwrap();
    let paths: Vec<_> = built.manifest.entries().iter().map(|entry| entry.path.to_string()).collect();
    assert_eq!(paths, ["firmware/good.bin", "modules/good.ko"]);
    assert_eq!(read.names, [format!("{}.tar.zst", built.digest.hex())]);
    assert_eq!(read.left, built.size);
}

#[rstest]
#[case::upwards(image().file("../canary", b"x"), "`..`")]
#[case::upwards_inside(image().file("opt/../../canary", b"x"), "`..`")]
#[case::a_zero_byte(image().pax(&[("path", b"opt/a\0b")]).file("a", b"x"), "zero byte")]
#[case::too_long_a_part(image().pax(&[("path", &[b'n'; 300])]).file("a", b"x"), "too long")]
#[case::too_long_a_path(image().pax(&[("path", "d/".repeat(3000).as_bytes())]).directory("a"), "too long")]
#[case::hard_link_upwards(image().hardlink("opt/a.ko", "../canary"), "way out")]
#[case::hard_link_to_the_host(image().hardlink("opt/a.ko", "/etc/shadow"), "hard link to nothing")]
#[case::hard_link_to_a_directory(image().hardlink("opt/a.ko", "/opt"), "hard link to nothing")]
#[case::below_a_link_outwards(image().symlink("up", "../..").file("up/canary", b"x"), "leads out of the image")]
#[case::below_links_in_a_circle(image().symlink("a", "b").symlink("b", "a").file("a/x", b"x"), "in a circle")]
#[case::below_a_file(image().file("f", b"x").file("f/x", b"x"), "not a directory")]
#[case::the_root_as_a_file(image().file("/", b"x"), "`..`, a zero byte")]
#[case::a_whiteout_of_the_parent(image().file("opt/.wh...", b""), "whiteout of nothing")]
#[case::a_sparse_file(image().entry(b'S', "disk", "", b""), "type 'S'")]
#[case::a_sparse_file_by_extension(
    image().pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"10737418240")]).file("disk", b"x"),
    "extended header"
)]
#[case::a_volume_label(image().entry(b'V', "label", "", b""), "type 'V'")]
#[case::a_continued_file(image().entry(b'M', "more", "", b""), "type 'M'")]
#[case::sizes_of_two_dialects(
    image().pax(&[("size", b"0")]).file(&format!("{MODULES}/evil.ko"), b"hidden header"),
    "contradict"
)]
#[case::names_of_two_dialects(image().gnu_name(b"one").pax(&[("path", b"two")]).file("a", b"x"), "contradict")]
#[case::targets_of_two_dialects(
    image().entry(b'K', "././@LongLink", "", b"one\0").pax(&[("linkpath", b"two")]).symlink("a", "x"),
    "contradict"
)]
#[case::a_name_twice(image().pax(&[("path", b"one"), ("path", b"two")]).file("a", b"x"), "extended header")]
#[case::names_for_all_to_come(image().entry(b'g', "g", "", b"17 path=opt/evil\n").file("a", b"x"), "extended header")]
#[case::a_link_with_content(image().entry(b'2', "l", "x", b"content"), "only files have content")]
#[case::a_huge_extended_header(image().announced(b'x', "pax", 1 << 32), "too long")]
#[case::a_huge_name(image().announced(b'L', "././@LongLink", 1 << 32), "too long")]
#[case::a_negative_size(image().size_field(b"-0000000001\0"), "damaged")]
#[case::a_size_in_base_256(image().size_field(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), "damaged")]
#[case::something_behind_the_end(image().end().file("a", b"x"), "after the archive's end")]
fn what_no_builder_writes_is_refused_by_name(#[case] archive: Archive, #[case] words: &str) {
    let (_, text) = refused(vec![archive.layer(Packing::Gzip)], &Limits::default());
    assert!(text.contains(words), "{text}");
}

#[rstest]
#[case::to_the_host("/etc/shadow", LinkError::Dangling)]
#[case::upwards("../../../../../etc/shadow", LinkError::Escape)]
#[case::to_itself("evil.ko", LinkError::Loop)]
fn a_module_that_is_a_link_out_of_the_image_is_no_module(#[case] target: &str, #[case] expected: LinkError) {
    let archive = image().symlink(&format!("{MODULES}/evil.ko"), target);
    let (error, _) = refused(vec![archive.layer(Packing::Zstd)], &Limits::default());
    let BuildError::Select { source: SelectError::Broken { path, source }, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!((path.as_str(), source), ("/opt/lib/modules/6.1.0/evil.ko", expected));
}

#[rstest]
#[case::a_device(b'3')]
#[case::a_block_device(b'4')]
#[case::a_pipe(b'6')]
fn a_device_is_no_module_and_no_firmware(#[case] kind: u8) {
    for name in [format!("{MODULES}/evil.ko"), "firmware/evil.bin".to_owned()] {
        let archive = image().entry(kind, &name, "", b"");
        let (error, _) = refused(vec![archive.layer(Packing::Plain)], &Limits::default());
        assert!(
            matches!(&error, BuildError::Select { source: SelectError::NotAFile(path), .. } if path.contains("evil"))
        );
    }
}

#[test]
fn names_that_a_bundle_cannot_hold_are_refused() {
    for name in [format!("{MODULES}/a\u{1b}[2J.ko"), format!("{MODULES}/{}/x.ko", "d".repeat(250))] {
        let archive = image().pax(&[("path", name.as_bytes())]).file("a", b"x");
        let read = read(vec![archive.layer(Packing::Plain)], &Limits::default());
        let error = read.built.unwrap_err();
        let named = matches!(
            &error,
            BuildError::Select { source: SelectError::Name { .. }, .. } | BuildError::Write { .. }
        );
        assert!(named && read.left == 0, "{error:?}");
    }
}

#[test]
fn a_million_entries_end_at_the_limit_and_within_memory() {
    let layer = image().files(1_000_000, |number| format!("{MODULES}/{number}.ko"), Packing::Gzip);
    let (error, _) = refused(vec![layer], &Limits::default());
    assert!(matches!(tree_error(&error), Some(TreeError::TooManyEntries(400_000))), "{error:?}");
}

#[test]
fn as_many_entries_as_there_may_be_are_read_within_memory() {
    let layer = image().files(390_000, |number| format!("usr/share/{number:032}"), Packing::Gzip);
    let read = read(vec![layer], &Limits::default());
    assert!(read.peak < MEMORY, "{} bytes of memory", read.peak);
    assert!(read.built.is_ok(), "{:?}", read.built);
}

#[test]
fn links_that_multiply_names_end_at_the_limit_and_within_memory() {
    let links =
        (0..200).fold(image(), |archive, number| archive.symlink(&format!("{MODULES}/{number:x}"), "x"));
    let layer = links.files(60_000, |number| format!("{MODULES}/x/{number:x}.ko"), Packing::Gzip);
    let (error, _) = refused(vec![layer], &Limits::default());
    assert!(
        matches!(error, BuildError::Select { source: SelectError::TooManyNames { .. }, .. }),
        "{error:?}"
    );
}

#[test]
fn directories_cannot_be_nested_without_end_by_way_of_links() {
    let deep = |top: &str| format!("{top}/{}", vec!["d"; 200].join("/"));
    let mut archive = image().long_directory(&deep("top0"));
    for number in 1..40 {
        let link = format!("l{number}");
        archive = archive.long_symlink(&link, &deep(&format!("top{}", number - 1)));
        archive = archive.long_directory(&deep(&format!("{link}/top{number}")));
    }
    // And then everything is hidden, which walks as deep as it goes.
    let hides = image().file(".wh.top0", b"");
    let (error, _) =
        refused(vec![archive.layer(Packing::Zstd), hides.layer(Packing::Plain)], &Limits::default());
    let Some(TreeError::Place { source, .. }) = tree_error(&error) else { panic!("{error:?}") };
    assert_eq!(*source, LinkError::TooLong);
}

#[test]
fn hiding_a_directory_again_and_again_costs_no_more_than_once() {
    const FILES: u64 = 120_000;
    let name = |number| match number {
        0..FILES => format!("d/{number}"),
        number if number % 2 == 0 => "d/.wh..wh..opq".to_owned(),
        _ => ".wh.d".to_owned(),
    };
    let read = read(vec![image().files(3 * FILES, name, Packing::Gzip)], &Limits::default());
    assert!(read.peak < MEMORY, "{} bytes of memory", read.peak);
    assert!(read.built.is_ok(), "{:?}", read.built);
}

#[test]
fn long_links_cost_a_bounded_number_of_steps_for_each_name() {
    let detour = "opt/../".repeat(500);
    let archive = image().long_symlink("way", &format!("{detour}opt")).file("way/x", b"");
    let (error, text) = refused(vec![archive.layer(Packing::Plain)], &Limits::default());
    assert!(tree_error(&error).is_some() && text.contains("more than 256 parts"), "{text}");
}

#[rstest]
#[case(Packing::Gzip)]
#[case(Packing::Zstd)]
fn a_layer_that_unpacks_without_end_is_refused(#[case] packing: Packing) {
    let limits = Limits { expanded: 96 << 20, ..Limits::default() };
    let bomb = image().zeros("disk", 128 << 20, packing);
    let (error, _) = refused(vec![bomb], &limits);
    assert!(matches!(archive_error(&error), Some(ArchiveError::Expansion)), "{error:?}");
}

#[test]
fn a_layer_that_is_mostly_air_is_refused_by_its_ratio() {
    let bomb = image().zeros("disk", 256 << 20, Packing::Zstd);
    let (error, _) = refused(vec![bomb], &Limits::default());
    assert!(matches!(archive_error(&error), Some(ArchiveError::Expansion)), "{error:?}");
}

#[rstest]
#[case::gzip("gz", Packing::Gzip)]
#[case::zstd("zst", Packing::Zstd)]
#[case::xz("xz", Packing::Xz)]
fn a_module_that_unpacks_without_end_is_refused_before_it_fills_the_disk(
    #[case] suffix: &str,
    #[case] packing: Packing,
) {
    let packed = packing.pack(&vec![0; 32 << 20]);
    let archive = image().file(&format!("{MODULES}/bomb.ko.{suffix}"), &packed);
    let limits = Limits { module: 1 << 20, ..Limits::default() };
    let (error, _) = refused(vec![archive.layer(Packing::Plain)], &limits);
    assert!(matches!(&error, BuildError::Unpack { path, .. } if path == "modules/bomb.ko"), "{error:?}");
}

#[test]
fn a_module_larger_than_memory_allows_is_refused_by_its_size() {
    let limits = Limits { ratio: 1 << 40, ..Limits::default() };
    let huge = image().zeros(&format!("{MODULES}/huge.ko"), 200 << 20, Packing::Zstd);
    let (error, _) = refused(vec![huge], &limits);
    let BuildError::Select { source: SelectError::TooLarge { path, size, limit }, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!((path.as_str(), size, limit), ("modules/huge.ko", 200 << 20, 192 << 20));
}

#[test]
fn a_window_larger_than_memory_allows_is_refused() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(30).unwrap();
    encoder.write_all(&image().bytes()).unwrap();
    let layer = archive::stored(&encoder.finish().unwrap());
    let (error, _) = refused(vec![layer], &Limits::default());
    assert!(matches!(archive_error(&error), Some(ArchiveError::Damaged(_))), "{error:?}");
}

#[test]
fn more_layers_than_any_runtime_takes_are_refused() {
    let layers = (0..1100).map(|_| image().layer(Packing::Plain)).collect();
    let (error, _) = refused(layers, &Limits::default());
    assert!(
        matches!(error, BuildError::Layers { source: LayersError::TooManyLayers(1100), .. }),
        "{error:?}"
    );
}

#[test]
fn an_archive_cut_anywhere_or_with_any_byte_changed_gives_a_bundle_or_an_error_and_nothing_else() {
    let whole = image().symlink("lib", "opt/lib").hardlink("opt/b.ko", &format!("{MODULES}/good.ko")).bytes();
    for at in (0..whole.len()).step_by(13) {
        let mut changed = whole.clone();
        changed[at] ^= 0x55;
        for bytes in [&whole[..at], &changed[..]] {
            let read = read(vec![archive::stored(bytes)], &Limits::default());
            assert!(read.peak < MEMORY, "{} bytes of memory at {at}", read.peak);
            let bundles = usize::from(read.built.is_ok());
            assert_eq!(read.names.len(), bundles, "at {at}: {:?}", read.names);
        }
    }
}
