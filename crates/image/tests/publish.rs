//! A directory becomes an image, and the image a bundle.

#![expect(clippy::unwrap_used, reason = "what a test is made of may fail like the test")]

use std::fs;
use std::path::Path;

use tenon_image::bundle::{BundleBuilder, BundleRequest};
use tenon_image::keyring::Keyring;
use tenon_image::layers::Limits;
use tenon_image::platform::Architecture;
use tenon_image::publish::{Contents, ContentsError, Layout, Packed, Progress, pack, push};
use tenon_image::reference::ImageReference;
use tenon_image::registry::{Proxies, Pushed, Registry, Timing, TlsSettings, Transport};
use tenon_image::testing::{Fault, TestRegistry, module};
use tenon_kmod::KernelRelease;

const AMD64: u16 = 62;
const ARM64: u16 = 183;

fn directory(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    directory
}

fn scan(directory: &Path, firmware: Option<&Path>) -> Result<Contents, ContentsError> {
    Contents::scan(directory, &"/opt".parse().unwrap(), firmware)
}

fn packed(contents: &Contents) -> Packed {
    pack(contents, &contents.architecture, &std::env::temp_dir()).unwrap()
}

#[test]
fn all_layouts_make_the_same_image() {
    let file = || module(AMD64, "dummy", "6.1.0-9-test");
    let image_of = |prefix: &str, layout| {
        let tree = directory(&[
            (&format!("{prefix}6.1.0-9-test/extra/dummy.ko"), file()),
            (&format!("{prefix}6.1.0-9-test/modules.dep"), b"extra/dummy.ko:\n".to_vec()),
            (&format!("{prefix}6.1.0-9-test/Module.symvers"), b"exports".to_vec()),
            (&format!("{prefix}notes/README"), b"ignored".to_vec()),
        ]);
        std::os::unix::fs::symlink("/usr/src", tree.path().join(format!("{prefix}6.1.0-9-test/build")))
            .unwrap();
        let contents = scan(tree.path(), None).unwrap();
        assert_eq!((contents.layout, contents.kernels.len(), contents.kernels[0].modules), (layout, 1, 1));
        assert_eq!(contents.kernels[0].metadata, ["modules.dep"]);
        packed(&contents).digest()
    };
    let digest = image_of("", Layout::Kernels);
    assert_eq!(image_of("opt/lib/modules/", Layout::Image), digest);
    assert_eq!(image_of("lib/modules/", Layout::Installed), digest);
}

#[tokio::test]
async fn what_is_pushed_can_be_bundled_for_every_kernel() {
    let tree = directory(&[
        ("6.1.0-9-test/dummy.ko", module(AMD64, "dummy", "6.1.0-9-test")),
        ("6.1.0-9-test/Module.symvers", b"for whoever compiles against it".to_vec()),
        ("5.10.0-1-test/dummy.ko", module(AMD64, "dummy", "5.10.0-1-test")),
    ]);
    let firmware = directory(&[("acme/fw.bin", b"firmware".to_vec())]);
    let contents = scan(tree.path(), Some(firmware.path())).unwrap();
    assert_eq!((contents.kernels.len(), contents.firmware), (2, 1));

    let server = TestRegistry::start().await.unwrap();
    let tls = TlsSettings { plain_http: true, ..TlsSettings::default() };
    let transport = Transport::new(Proxies::default());
    let registry = Registry::new(&transport, &tls, Keyring::default(), Timing::default()).unwrap();
    let to: ImageReference = format!("{}/acme/dummy:v1", server.host()).parse().unwrap();
    let image = packed(&contents);
    let mut uploads = Vec::new();
    let pushed = push(&registry, &to, &image, &mut |Progress::Blob { pushed, .. }| uploads.push(pushed))
        .await
        .unwrap();
    assert_eq!(pushed, to.with_digest(image.digest()));
    push(&registry, &to, &packed(&contents), &mut |Progress::Blob { pushed, .. }| uploads.push(pushed))
        .await
        .unwrap();
    assert_eq!(uploads, [Pushed::Uploaded, Pushed::Uploaded, Pushed::Present, Pushed::Present]);

    let amd64: Architecture = "amd64".parse().unwrap();
    let found = registry.image(&pushed, &amd64).await.unwrap();
    let work = tempfile::tempdir().unwrap();
    let builder = BundleBuilder::new(work.path().to_owned(), Limits::default());
    for kernel in ["6.1.0-9-test", "5.10.0-1-test"] {
        let request = BundleRequest {
            image: pushed.clone(),
            architecture: amd64.clone(),
            kernel: KernelRelease::new(kernel).unwrap(),
            dir_name: "/opt".parse().unwrap(),
            firmware_path: Some("/firmware".parse().unwrap()),
        };
        let out = tempfile::tempdir().unwrap();
        let built = builder.build(&registry, &found, &request, out.path()).await.unwrap();
        let paths: Vec<_> = built.manifest.entries().iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["firmware/acme/fw.bin", "modules/dummy.ko"]);
    }
}

/// It is known to have been published by whoever published it, whatever becomes of the last answer.
#[tokio::test]
async fn an_answer_that_is_lost_is_asked_for_once_more() {
    let tree = directory(&[("6.1.0-9-test/dummy.ko", module(AMD64, "dummy", "6.1.0-9-test"))]);
    let image = packed(&scan(tree.path(), None).unwrap());
    let server = TestRegistry::start().await.unwrap();
    let tls = TlsSettings { plain_http: true, ..TlsSettings::default() };
    let transport = Transport::new(Proxies::default());
    let registry = Registry::new(&transport, &tls, Keyring::default(), Timing::default()).unwrap();
    let to: ImageReference = format!("{}/acme/dummy:v1", server.host()).parse().unwrap();
    server.aim("PUT", "/v2/acme/dummy/blobs/", 2, Fault::Lose);
    server.aim("PUT", "/v2/acme/dummy/manifests/", 1, Fault::Lose);
    let pushed = push(&registry, &to, &image, &mut |_| ()).await.unwrap();
    assert!(server.heal(), "both were lost");
    assert_eq!(pushed, to.with_digest(image.digest()));
    let puts = |kind: &str| {
        let is_one = |path: &str| path.starts_with(&format!("/v2/acme/dummy/{kind}/"));
        server.seen().iter().filter(|seen| seen.method == "PUT" && is_one(&seen.path)).count()
    };
    assert_eq!((puts("blobs"), puts("manifests")), (2, 2), "a blob is there, a name is written again");
}

#[test]
fn a_directory_without_modules_is_said_with_what_was_expected() {
    let tree = directory(&[("6.1.0/README", Vec::new())]);
    let error = scan(tree.path(), None).unwrap_err().to_string();
    let shown = tree.path().display();
    assert!(
        error.contains(&format!("{shown}/<kernel>/*.ko or {shown}/opt/lib/modules/<kernel>/*.ko")),
        "{error}"
    );
    assert!(
        matches!(scan(Path::new("/no/such"), None), Err(ContentsError::Io { path, .. }) if path == Path::new("/no/such"))
    );
}

#[test]
fn a_loose_module_comes_with_the_kernel_that_it_was_built_for() {
    let tree = directory(&[("dummy.ko", module(AMD64, "dummy", "6.1.0-9-test"))]);
    let error = scan(tree.path(), None).unwrap_err().to_string();
    assert!(error.contains("dummy.ko") && error.ends_with("(it was built for 6.1.0-9-test)"), "{error}");
}

#[test]
fn modules_for_other_kernels_are_noted_and_for_other_machines_refused() {
    let tree = directory(&[("6.1.0-9-test/dummy.ko", module(AMD64, "dummy", "6.1.0-8-test"))]);
    let contents = scan(tree.path(), None).unwrap();
    assert_eq!(contents.kernels[0].foreign, [("dummy.ko".to_owned(), "6.1.0-8-test".to_owned())]);
    let tree = directory(&[
        ("6.1.0-9-test/a.ko", module(AMD64, "a", "6.1.0-9-test")),
        ("6.1.0-9-test/b.ko", module(ARM64, "b", "6.1.0-9-test")),
    ]);
    let error = scan(tree.path(), None).unwrap_err();
    assert!(matches!(&error, ContentsError::Mixed { found, .. } if found.as_str() == "arm64"), "{error:?}");
}

#[test]
fn what_is_no_module_is_named() {
    let tree = directory(&[("6.1.0-9-test/text.ko", b"#!/bin/sh".to_vec())]);
    let error = scan(tree.path(), None).unwrap_err();
    assert!(
        matches!(&error, ContentsError::Module { path, .. } if path.ends_with("6.1.0-9-test/text.ko")),
        "{error:?}"
    );
    let empty = tempfile::tempdir().unwrap();
    let tree = directory(&[("6.1.0-9-test/a.ko", module(AMD64, "a", "6.1.0-9-test"))]);
    let error = scan(tree.path(), Some(empty.path())).unwrap_err();
    assert!(matches!(error, ContentsError::NoFirmware { .. }), "{error:?}");
}
