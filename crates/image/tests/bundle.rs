//! Bundles from images in a registry, and what a reader refuses.

#![expect(clippy::unwrap_used, reason = "what a test is made of may fail like the test")]

use std::fs;
use std::io::Write as _;
use std::path::Path;

use tenon_image::bundle::{
    BuildError, BuiltBundle, BundleBuilder, BundleReader, BundleRequest, ReadError, SelectError,
};
use tenon_image::keyring::Keyring;
use tenon_image::layers::Limits;
use tenon_image::registry::{Proxies, Registry, Timing, TlsSettings, Transport};
use tenon_image::testing::{TestRegistry, layer};
use tenon_image::{Retry, reference::ImageReference};
use tenon_kmod::KernelRelease;
use tenon_order::{BundleManifest, Digest, ManifestEntry};

const KERNEL: &str = "6.1.0-9-test";

fn client() -> Registry {
    let transport = Transport::new(Proxies::default());
    let tls = TlsSettings { plain_http: true, ..TlsSettings::default() };
    Registry::new(&transport, &tls, Keyring::default(), Timing::default()).unwrap()
}

fn request(image: &ImageReference) -> BundleRequest {
    BundleRequest {
        image: image.clone(),
        architecture: "amd64".parse().unwrap(),
        kernel: KernelRelease::new(KERNEL).unwrap(),
        dir_name: "/opt".parse().unwrap(),
        firmware_path: None,
    }
}

async fn build(
    layers: &[Vec<u8>],
    change: impl FnOnce(&mut BundleRequest),
) -> Result<BuiltBundle, BuildError> {
    let out = tempfile::tempdir().unwrap().keep();
    build_in(layers, change, &Limits::default(), &out).await
}

async fn build_in(
    layers: &[Vec<u8>],
    change: impl FnOnce(&mut BundleRequest),
    limits: &Limits,
    out: &Path,
) -> Result<BuiltBundle, BuildError> {
    let registry = TestRegistry::start().await.unwrap();
    registry.put_image("acme/driver", "v1", "amd64", layers);
    let image: ImageReference = format!("{}/acme/driver:v1", registry.host()).parse().unwrap();
    let mut request = request(&image);
    change(&mut request);
    let client = client();
    let found = client.image(&image, &request.architecture).await.unwrap();
    let work = tempfile::tempdir().unwrap();
    let built = BundleBuilder::new(work.path().to_owned(), limits.clone())
        .build(&client, &found, &request, out)
        .await;
    assert_eq!(fs::read_dir(work.path()).unwrap().count(), 0, "temporary files stay behind");
    built
}

/// Every file of a bundle, by path.
fn unpack(bundle: &[u8], digest: &Digest) -> Result<Vec<(String, Vec<u8>)>, ReadError> {
    let mut reader = BundleReader::open(bundle, digest)?;
    let mut files = Vec::new();
    while let Some(file) = reader.next_file()? {
        let path = file.entry().path.to_string();
        let mut bytes = Vec::new();
        file.copy_to(&mut bytes)?;
        files.push((path, bytes));
    }
    Ok(files)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn modules(name: &str) -> String {
    format!("opt/lib/modules/{KERNEL}/{name}")
}

#[tokio::test]
async fn a_bundle_holds_what_a_node_needs_and_nothing_else() {
    let (one, two, three) = (modules("extra/one.ko"), modules("two.ko.gz"), modules("three.ko.zst"));
    let (dep, order, notes) = (modules("modules.dep"), modules("modules.order"), modules("extra/notes.txt"));
    let base = layer(&[
        ("bin/sh", b"shell"),
        (&one, b"old one"),
        (&notes, b"notes"),
        ("firmware/acme/fw.bin", b"fw"),
    ]);
    let packed = zstd::encode_all(&b"module three"[..], 3).unwrap();
    let top = layer(&[
        (&one, b"module one"),
        (&two, &gzip(b"module two")),
        (&three, &packed),
        (&modules("four.ko.xz"), &xz(b"module four")),
        (&dep, b"extra/one.ko:\n"),
        (&order, b"extra/one.ko\n"),
        ("opt/lib/modules/5.10.0-1-test/old.ko", b"another kernel's"),
    ]);
    let built = build(&[base, top], |request| request.firmware_path = Some("/firmware".parse().unwrap()))
        .await
        .unwrap();

    let bytes = fs::read(&built.file).unwrap();
    assert_eq!(bytes.len() as u64, built.size);
    assert!(built.file.ends_with(format!("{}.tar.zst", built.digest.hex())));
    let expected: [NamedBytes<'_>; 7] = [
        ("firmware/acme/fw.bin", b"fw"),
        ("modules/extra/one.ko", b"module one"),
        ("modules/four.ko", b"module four"),
        ("modules/modules.dep", b"extra/one.ko:\n"),
        ("modules/modules.order", b"extra/one.ko\n"),
        ("modules/three.ko", b"module three"),
        ("modules/two.ko", b"module two"),
    ];
    let expected: Vec<_> = expected.map(|(path, bytes)| (path.to_owned(), bytes.to_vec())).into();
    assert_eq!(unpack(&bytes, &built.digest).unwrap(), expected);

    // And it is a tar archive like any other.
    let mut tar = tar::Archive::new(&*zstd::decode_all(&*bytes).unwrap()).entries().unwrap().count();
    tar -= 1;
    assert_eq!(tar, built.manifest.entries().len());
}

#[tokio::test]
async fn equal_contents_make_equal_bytes_however_they_were_packed() {
    let (plain, packed) = (modules("a.ko"), modules("a.ko.gz"));
    let first = build(&[layer(&[(&plain, b"module")])], |_| ()).await.unwrap();
    let second =
        build(&[layer(&[("x", b"y")]), layer(&[(&packed, &gzip(b"module"))])], |_| ()).await.unwrap();
    assert_eq!(first.digest, second.digest);
    assert_eq!(fs::read(first.file).unwrap(), fs::read(second.file).unwrap());
}

#[tokio::test]
async fn a_kernel_that_the_image_does_not_hold_is_said_with_those_that_it_does() {
    let other = layer(&[("opt/lib/modules/5.10.0-1-test/a.ko", b"module")]);
    let error = build(&[other], |_| ()).await.unwrap_err();
    let BuildError::Select { source: error @ SelectError::NoDirectory { .. }, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(
        error.to_string(),
        "the image has no directory /opt/lib/modules/6.1.0-9-test; it has modules for 5.10.0-1-test"
    );
    let elsewhere = layer(&[("lib/modules/6.1.0-9-test/a.ko", b"module")]);
    let error = build(&[elsewhere], |_| ()).await.unwrap_err();
    assert_eq!(error.retry(), Retry::AfterChange);
    assert!(
        std::error::Error::source(&error).unwrap().to_string().ends_with("for no kernel below that dirName")
    );
    let empty = layer(&[(&modules("notes.txt"), b"no module")]);
    let error = build(&[empty], |_| ()).await.unwrap_err();
    assert!(matches!(error, BuildError::Select { source: SelectError::NoModules(_), .. }), "{error:?}");
}

#[tokio::test]
async fn a_kernel_with_a_plus_is_found_with_and_without_it() {
    for directory in ["6.1.0-9-test", "6.1.0-9-test+"] {
        let name = format!("opt/lib/modules/{directory}/a.ko");
        let plus =
            |request: &mut BundleRequest| request.kernel = KernelRelease::new("6.1.0-9-test+").unwrap();
        let built = build(&[layer(&[(&name, b"module")])], plus).await.unwrap();
        assert_eq!(built.manifest.entries().len(), 1);
    }
}

#[tokio::test]
async fn the_same_module_packed_in_two_ways_is_refused() {
    let twice = layer(&[(&modules("a.ko"), b"module"), (&modules("a.ko.gz"), &gzip(b"other"))]);
    let error = build(&[twice], |_| ()).await.unwrap_err();
    assert!(matches!(error, BuildError::Select { source: SelectError::Twice(_), .. }), "{error:?}");
}

#[tokio::test]
async fn a_module_that_unpacks_without_end_is_refused_and_leaves_nothing() {
    let bomb = layer(&[(&modules("a.ko.gz"), &gzip(&vec![0; 1 << 20]))]);
    let limits = Limits { module: 1 << 16, ..Limits::default() };
    let out = tempfile::tempdir().unwrap();
    let error = build_in(&[bomb], |_| (), &limits, out.path()).await.unwrap_err();
    assert!(matches!(&error, BuildError::Unpack { path, .. } if path == "modules/a.ko"), "{error:?}");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn missing_firmware_is_named() {
    let image = layer(&[(&modules("a.ko"), b"module")]);
    let error =
        build(&[image], |request| request.firmware_path = Some("/fw".parse().unwrap())).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "the image has no directory /fw, the Module's firmwarePath");
}

type NamedBytes<'a> = (&'a str, &'a [u8]);

/// A bundle with these entries after the manifest, whatever the manifest says.
fn forged(listed: &[(&str, &[u8])], held: &[(&str, &[u8])]) -> (Vec<u8>, Digest) {
    let entry = |(path, bytes): &(&str, &[u8])| ManifestEntry {
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        path: path.parse().unwrap(),
    };
    let manifest = BundleManifest::new(listed.iter().map(entry).collect()).unwrap();
    let text = manifest.emit();
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in [("manifest", text.as_bytes())].iter().chain(held) {
        let mut header = tar::Header::new_ustar();
        header.set_path(path).unwrap();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_device_major(0).unwrap();
        header.set_device_minor(0).unwrap();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        // As GNU tar writes it; the library has one more digit.
        let sum = format!("{:06o}\0 ", header.cksum().unwrap());
        header.as_mut_bytes()[148..156].copy_from_slice(sum.as_bytes());
        tar.append(&header, *bytes).unwrap();
    }
    (zstd::encode_all(&*tar.into_inner().unwrap(), 3).unwrap(), manifest.digest())
}

#[test]
fn only_what_the_manifest_lists_is_read() {
    let [a, b]: [NamedBytes<'_>; 2] = [("modules/a.ko", b"aa"), ("modules/b.ko", b"bb")];
    let read = |listed: &[(&str, &[u8])], held: &[(&str, &[u8])]| {
        let (bytes, digest) = forged(listed, held);
        unpack(&bytes, &digest)
    };
    assert_eq!(read(&[a, b], &[a, b]).unwrap().len(), 2);
    assert!(
        matches!(read(&[a, b], &[b, a]), Err(ReadError::Misplaced(path)) if path.as_str() == "modules/a.ko")
    );
    assert!(matches!(read(&[a, b], &[a]), Err(ReadError::Misplaced(_))));
    assert!(matches!(read(&[a], &[a, b]), Err(ReadError::Trailing)));
    let [other, longer]: [NamedBytes<'_>; 2] = [("modules/a.ko", b"xx"), ("modules/a.ko", b"aaa")];
    assert!(matches!(read(&[a], &[other]), Err(ReadError::OtherContent { .. })));
    assert!(matches!(read(&[a], &[longer]), Err(ReadError::Misplaced(_))));
}

#[test]
fn another_bundle_is_refused_before_any_file() {
    let (bytes, _) = forged(&[("a", b"a")], &[("a", b"a")]);
    let asked = Digest::of(b"another");
    assert!(
        matches!(unpack(&bytes, &asked), Err(ReadError::OtherBundle { expected, .. }) if expected == asked)
    );
}

#[test]
fn every_truncation_and_every_changed_byte_is_noticed() {
    let content: Vec<u8> = (0..3000_u32).flat_map(|number| (number * 7919).to_le_bytes()).collect();
    let (bytes, digest) = forged(&[("modules/a.ko", &content)], &[("modules/a.ko", &content)]);
    let whole = unpack(&bytes, &digest).unwrap();
    for length in (0..bytes.len()).step_by(97) {
        assert!(unpack(&bytes[..length], &digest).is_err(), "cut at {length}");
    }
    for at in (0..bytes.len()).step_by(61) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x20;
        // A change may hit bytes that mean nothing (a checksum that nobody needs): then all is as it was.
        if let Ok(files) = unpack(&changed, &digest) {
            assert_eq!(files, whole, "changed at {at}");
        }
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(unpack(&longer, &digest), Err(ReadError::Trailing)));
}

#[test]
fn a_receiver_that_fails_is_not_the_bundles_fault() {
    let (bytes, digest) = forged(&[("a", b"content")], &[("a", b"content")]);
    let mut reader = BundleReader::open(&*bytes, &digest).unwrap();
    let mut full: &mut [u8] = &mut [0; 2];
    let error = reader.next_file().unwrap().unwrap().copy_to(&mut full).unwrap_err();
    assert!(matches!(error, ReadError::Write { .. }) && !error.is_bundles_fault());
}
