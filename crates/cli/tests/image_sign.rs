//! `kubectl tenon image sign` as a person runs it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "what a test is made of may fail like the test")]

use std::process::Output;

use tenon_image::layers::{Found, ImageFiles, Limits};
use tenon_image::manifest::OCI_LAYER_GZIP;
use tenon_image::registry::{Proxies, Registry, Timing, TlsSettings, Transport};
use tenon_image::testing::{TestLayout, TestRegistry, layer, module};
use tenon_image::{ImagePath, ImageReference};
use tenon_sign::{Certificate, Hash, Verdict, verify};
use tokio::process::Command;

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sign/testdata");
const DUMMY: &str = "/opt/lib/modules/6.1.0-9-test/dummy.ko";

async fn sign(arguments: &[&str]) -> Output {
    let (key, certificate) = (format!("{KEYS}/rsa.key"), format!("{KEYS}/rsa.pem"));
    Command::new(env!("CARGO_BIN_EXE_kubectl-tenon"))
        .args(["image", "sign", "--key", &key, "--cert", &certificate])
        .args(arguments)
        .env_clear()
        .output()
        .await
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// With `drivers:1`: a module on something large.
async fn registry() -> TestRegistry {
    let registry = TestRegistry::start().await.unwrap();
    let base = layer(&[("usr/lib/large", &vec![0; 1_000_000])]);
    let dummy = module(62, "dummy", "6.1.0-9-test");
    let name = DUMMY.trim_start_matches('/');
    registry.put_image("drivers", "1", "amd64", &[base, layer(&[(name, &dummy), ("opt/readme.ko", b"no")])]);
    registry
}

async fn verdict(image: &str, path: &ImagePath) -> Verdict {
    let tls = TlsSettings { plain_http: true, ..TlsSettings::default() };
    let transport = Transport::new(Proxies::default());
    let registry =
        Registry::new(&transport, &tls, tenon_image::keyring::Keyring::default(), Timing::default()).unwrap();
    let image: ImageReference = image.parse().unwrap();
    let image = registry.image(&image, &"amd64".parse().unwrap()).await.unwrap();
    let layers = registry.pull_layers(&image, &std::env::temp_dir(), &Limits::default()).await.unwrap();
    let files = ImageFiles::flatten(layers, &Limits::default()).unwrap();
    let Some(Found::File(at)) = files.tree().find(path) else { panic!("{path} is not there") };
    let mut bytes = Vec::new();
    let mut take = |_, content: &mut dyn std::io::Read| content.read_to_end(&mut bytes).map(drop);
    files.read(&[at].into(), &mut take, &|error| std::io::Error::other(error)).unwrap();
    let certificate = std::fs::read(format!("{KEYS}/rsa.pem")).unwrap();
    verify(&bytes, &[Certificate::read(&certificate).unwrap()])
}

#[tokio::test]
async fn the_signed_image_is_the_result_and_the_same_every_time() {
    let registry = registry().await;
    let (from, to) =
        (format!("{}/drivers:1", registry.host()), format!("{}/signed/drivers:1", registry.host()));
    let arguments = [&from, &to, "--file", DUMMY, "--hash", "sha512", "--plain-http"];
    let output = sign(&arguments).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let manifest = registry.manifest("signed/drivers", "1").unwrap();
    let result = format!("{to}@{}\n", tenon_order::Digest::of(&manifest));
    assert_eq!(text(&output.stdout), result);
    assert!(said.contains(&format!("signed {DUMMY} (linux/amd64)\n")), "{said}");
    assert!(said.contains("2 blobs mounted, 0 copied, 0 there before"), "{said}");
    let hash = Hash::Sha512;
    assert_eq!(verdict(&to, &DUMMY.parse().unwrap()).await, Verdict::Good { certificate: 0, hash });
    assert_eq!(verdict(&from, &DUMMY.parse().unwrap()).await, Verdict::Unsigned);
    assert_eq!(text(&sign(&arguments).await.stdout), result);
    // What is signed already is not signed once more.
    let third = format!("{}/third:1", registry.host());
    let output = sign(&[&to, &third, "--file", DUMMY, "--hash", "sha512", "--plain-http"]).await;
    assert!(text(&output.stderr).contains(&format!("was signed: {DUMMY}")), "{}", text(&output.stderr));
    assert_eq!(registry.manifest("third", "1").unwrap(), manifest);
}

#[tokio::test]
async fn what_a_builder_has_left_in_a_folder_is_published_signed() {
    let registry = TestRegistry::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let layout = TestLayout::create(&folder.path().join("image")).unwrap();
    let dummy = module(62, "dummy", "6.1.0-9-test");
    let files = layer(&[(DUMMY.trim_start_matches('/'), &dummy)]);
    layout.put_index(&[layout.put_image("amd64", &[(OCI_LAYER_GZIP, files)]).unwrap()]).unwrap();
    let to = format!("{}/drivers:1", registry.host());
    let from = format!("oci:{}", layout.folder().display());
    let output = sign(&[&from, &to, "--file", DUMMY, "--plain-http"]).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("fetched 0 bytes of layers; 0 blobs mounted, 1 copied"), "{said}");
    let hash = Hash::Sha256;
    assert_eq!(verdict(&to, &DUMMY.parse().unwrap()).await, Verdict::Good { certificate: 0, hash });

    let output = sign(&[&format!("{from}-not"), &to, "--file", DUMMY, "--plain-http"]).await;
    let said = text(&output.stderr);
    assert!(
        output.status.code() == Some(1) && said.contains("image-not") && said.contains("it is not there"),
        "{said}"
    );
}

#[tokio::test]
async fn what_is_wrong_is_named_and_nothing_is_published() {
    let registry = registry().await;
    let (from, to) = (format!("{}/drivers:1", registry.host()), format!("{}/signed:1", registry.host()));
    let pinned = format!("{to}@sha256:{}", "0".repeat(64));
    for (arguments, code, words) in [
        (vec![&*from, &to, "--file", "/opt/readme.ko"], 1, "/opt/readme.ko: "),
        (
            vec![&from, &to, "--file", "/opt/absent*.ko"],
            1,
            "the image for linux/amd64 has no file /opt/absent*.ko",
        ),
        (vec![&from, &to, "--file", "opt/a.ko"], 2, "it must be absolute"),
        (vec![&from, &pinned, "--file", DUMMY], 1, "give a tag instead"),
        (vec!["127.0.0.1:1/x:1", &to, "--file", DUMMY], 3, "127.0.0.1:1/x:1"),
    ] {
        let arguments = [&arguments[..], &["--plain-http"]].concat();
        let output = sign(&arguments).await;
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(words), "{arguments:?}: {said}");
        assert!(registry.manifest("signed", "1").is_none(), "{arguments:?}");
    }
}
