//! An image is published again with some of its files changed.

#![expect(clippy::unwrap_used, reason = "what a test is made of may fail like the test")]

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tenon_image::ImageReference;
use tenon_image::keyring::{Keyring, SecretFormat};
use tenon_image::layers::{ImageFiles, Limits};
use tenon_image::registry::{Proxies, Registry, Timing, TlsSettings, Transport};
use tenon_image::revise::{Blobs, FilePattern, ReviseError, Revised, Revision, Source, revise};
use tenon_image::testing::{Auth, Fault, Route, TestRegistry, layer};

const MODULE: &str = "/opt/lib/modules/6.1/a.ko";

/// Puts an exclamation mark behind what has none.
fn louder(files: &[&str]) -> Revision {
    Revision {
        files: files.iter().map(|file| file.parse::<FilePattern>().unwrap()).collect(),
        change: Arc::new(|_, bytes| Ok((!bytes.ends_with(b"!")).then(|| [bytes, b"!"].concat()))),
        note: "made louder".to_owned(),
        lenient: false,
        labels: BTreeMap::from([("example/louder".to_owned(), "yes".to_owned())]),
        limits: Limits::default(),
    }
}

fn client(host: &str) -> Registry {
    let mut keyring = Keyring::default();
    let logins = format!(r#"{{"auths":{{"{host}":{{"username":"u","password":"p"}}}}}}"#);
    keyring.add(SecretFormat::DockerConfigJson, logins.as_bytes()).unwrap();
    let tls = TlsSettings { plain_http: true, ..TlsSettings::default() };
    let timing = Timing { attempts: 1, ..Timing::default() };
    Registry::new(&Transport::new(Proxies::default()), &tls, keyring, timing).unwrap()
}

fn reference(registry: &TestRegistry, rest: &str) -> ImageReference {
    format!("{}/{rest}", registry.host()).parse().unwrap()
}

/// Within one registry, from `drivers:1` to `signed/drivers:1`.
async fn revise_here(registry: &TestRegistry, revision: &Revision) -> Result<Revised, ReviseError> {
    let client = client(&registry.host());
    let (from, to) = (reference(registry, "drivers:1"), reference(registry, "signed/drivers:1"));
    revise(Source::Registry(&client, &from), (&client, &to), revision, &std::env::temp_dir()).await
}

/// What a file of an image is, as whoever runs it sees it.
async fn content(registry: &TestRegistry, image: &ImageReference, architecture: &str, path: &str) -> String {
    let client = client(&registry.host());
    let image = client.image(image, &architecture.parse().unwrap()).await.unwrap();
    let layers = client.pull_layers(&image, &std::env::temp_dir(), &Limits::default()).await.unwrap();
    let files = ImageFiles::flatten(layers, &Limits::default()).unwrap();
    let Some(tenon_image::layers::Found::File(at)) = files.tree().find(&path.parse().unwrap()) else {
        return String::new();
    };
    let mut text = String::new();
    let mut take = |_, content: &mut dyn std::io::Read| content.read_to_string(&mut text).map(drop);
    files.read(&[at].into(), &mut take, &|error| std::io::Error::other(error)).unwrap();
    text
}

fn document(registry: &TestRegistry, repository: &str, name: &str) -> Value {
    serde_json::from_slice(&registry.manifest(repository, name).unwrap()).unwrap()
}

#[tokio::test]
async fn a_named_file_is_changed_and_nothing_else_moves() {
    let registry = TestRegistry::start().await.unwrap();
    let base = layer(&[("usr/bin/tool", &vec![7; 100_000])]);
    let modules = layer(&[("opt/lib/modules/6.1/a.ko", b"a"), ("opt/lib/modules/6.1/b.ko", b"b")]);
    let top = layer(&[("etc/motd", b"hello")]);
    registry.put_image("drivers", "1", "amd64", &[base.clone(), modules, top]);
    let revised = revise_here(&registry, &louder(&[MODULE])).await.unwrap();

    assert_eq!(revised.changed, BTreeMap::from([("linux/amd64".to_owned(), vec![MODULE.to_owned()])]));
    // Three layers; the configuration is another.
    assert_eq!(revised.blobs, Blobs { mounted: 3, ..Blobs::default() });
    let fetched = |digest: &tenon_order::Digest| {
        let path = format!("/v2/drivers/blobs/{digest}");
        registry.seen().iter().any(|seen| seen.method == "GET" && seen.path == path)
    };
    assert!(!fetched(&tenon_order::Digest::of(&base)), "what lies below the file is not read");
    let (tag, pinned) = (reference(&registry, "signed/drivers:1"), &revised.reference);
    assert_eq!(content(&registry, &tag, "amd64", MODULE).await, "a!");
    assert_eq!(content(&registry, pinned, "amd64", "/opt/lib/modules/6.1/b.ko").await, "b");
    assert_eq!(content(&registry, pinned, "amd64", "/etc/motd").await, "hello");
    assert_eq!(content(&registry, &reference(&registry, "drivers:1"), "amd64", MODULE).await, "a");
    let manifest = document(&registry, "signed/drivers", "1");
    let labels =
        client(&registry.host()).image(&tag, &"amd64".parse().unwrap()).await.unwrap().labels().clone();
    assert_eq!(labels.get("example/louder").map(String::as_str), Some("yes"));
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 4);

    let again = revise_here(&registry, &louder(&[MODULE])).await.unwrap();
    assert_eq!(again.reference, revised.reference, "the same bytes every time");
    assert_eq!(again.blobs, Blobs { present: 3, ..Blobs::default() });
}

#[tokio::test]
async fn who_is_lenient_passes_over_what_is_not_there_but_not_over_everything() {
    let registry = TestRegistry::start().await.unwrap();
    // The lower one is not missing only because it lies lower.
    let lower = layer(&[("opt/lib/modules/6.1/b.ko", b"b")]);
    registry.put_image("drivers", "1", "amd64", &[lower, layer(&[("opt/lib/modules/6.1/a.ko", b"a")])]);
    let files = [MODULE, "/opt/lib/modules/7.0/a.ko", "/opt/lib/modules/6.1/b.ko"];
    let lenient = |files: &[&str]| Revision { lenient: true, ..louder(files) };
    let revised = revise_here(&registry, &lenient(&files)).await.unwrap();
    let changed = revised.changed.get("linux/amd64").unwrap();
    assert_eq!(changed, &[MODULE, "/opt/lib/modules/6.1/b.ko"]);
    let none = revise_here(&registry, &lenient(&files[1..2])).await.unwrap_err();
    assert!(matches!(none, ReviseError::NoFile { .. }), "{none}");
    assert!(matches!(revise_here(&registry, &louder(&files)).await, Err(ReviseError::NoFile { .. })));
}

#[tokio::test]
async fn a_pattern_means_whatever_is_there_and_what_was_hidden_is_not() {
    let registry = TestRegistry::start().await.unwrap();
    let lower = layer(&[
        ("opt/lib/modules/6.1/a.ko", b"a"),
        ("opt/lib/modules/6.1/gone.ko", b"gone"),
        ("opt/lib/modules/6.1/loud.ko", b"loud!"),
        ("opt/lib/modules/6.1/net/deep.ko", b"deep"),
    ]);
    let upper = layer(&[("opt/lib/modules/6.1/.wh.gone.ko", b""), ("opt/lib/modules/6.1/new.ko", b"new")]);
    registry.put_image("drivers", "1", "amd64", &[lower, upper]);
    let revised = revise_here(&registry, &louder(&["/opt/lib/modules/*/*.ko"])).await.unwrap();
    let of = |files: &[&str]| {
        let files = files.iter().map(|file| format!("/opt/lib/modules/6.1/{file}")).collect();
        BTreeMap::from([("linux/amd64".to_owned(), files)])
    };
    assert_eq!(revised.changed, of(&["a.ko", "new.ko"]));
    assert_eq!(revised.unchanged, of(&["loud.ko"]));

    for hidden in ["/opt/lib/modules/6.1/gone.ko", "/opt/lib/modules/6.2/*.ko", "/opt/lib/modules/6.1"] {
        let error = revise_here(&registry, &louder(&[hidden])).await.unwrap_err();
        assert!(matches!(&error, ReviseError::NoFile { pattern, .. } if pattern == hidden), "{error}");
    }
}

#[tokio::test]
async fn each_image_of_an_index_is_changed_and_what_described_them_goes() {
    let registry = TestRegistry::start().await.unwrap();
    let image =
        |tag, architecture, name| registry.put_image("drivers", tag, architecture, &[layer(&[(name, b"a")])]);
    let amd64 = image("amd64", "amd64", "opt/lib/modules/6.1/a.ko");
    let arm64 = image("arm64", "arm64", "opt/lib/modules/6.1/a.ko");
    let s390x = image("s390x", "s390x", "opt/lib/modules/6.1/other.ko");
    registry.put_index("drivers", "1", &[("amd64", amd64), ("arm64", arm64), ("s390x", s390x)]);
    let mut index = document(&registry, "drivers", "1");
    let attestation = serde_json::json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 2,
        "digest": tenon_order::Digest::of(b"{}"), "platform": {"os": "unknown", "architecture": "unknown"}});
    index["manifests"].as_array_mut().unwrap().push(attestation);
    let media_type = index["mediaType"].as_str().unwrap().to_owned();
    registry.put_manifest("drivers", "1", &media_type, index.to_string().as_bytes());

    let revised = revise_here(&registry, &louder(&[MODULE])).await.unwrap();
    assert_eq!(revised.changed.keys().collect::<Vec<_>>(), ["linux/amd64", "linux/arm64"]);
    for architecture in ["amd64", "arm64"] {
        assert_eq!(content(&registry, &revised.reference, architecture, MODULE).await, "a!");
    }
    let other = "/opt/lib/modules/6.1/other.ko";
    assert_eq!(content(&registry, &revised.reference, "s390x", other).await, "a");
    let index = document(&registry, "signed/drivers", "1");
    assert_eq!(index["manifests"].as_array().unwrap().len(), 3, "{index:#}");
    let error = revise_here(&registry, &louder(&["/nowhere.ko"])).await.unwrap_err();
    assert!(matches!(error, ReviseError::NoFile { .. }), "{error}");
}

#[tokio::test]
async fn without_files_the_image_is_published_as_it_is_and_no_layer_comes_here() {
    let registry = TestRegistry::start().await.unwrap();
    let image = |tag, architecture| {
        registry.put_image("drivers", tag, architecture, &[layer(&[("opt/lib/modules/6.1/a.ko", b"a")])])
    };
    let (amd64, arm64) = (image("amd64", "amd64"), image("arm64", "arm64"));
    let layers = || {
        registry.seen().iter().filter(|seen| seen.method == "GET" && seen.path.contains("/blobs/")).count()
    };
    for whole in [amd64, registry.put_index("drivers", "1", &[("amd64", amd64), ("arm64", arm64)])] {
        let (from, to) =
            (reference(&registry, "drivers:1").with_digest(whole), reference(&registry, "signed/drivers:1"));
        let client = client(&registry.host());
        let publish = async |labels| {
            let revision = Revision { labels, ..louder(&[]) };
            let from = Source::Registry(&client, &from);
            revise(from, (&client, &to), &revision, &std::env::temp_dir()).await.unwrap()
        };
        let before = layers();
        let as_it_is = publish(BTreeMap::new()).await;
        assert_eq!(as_it_is.reference.digest(), Some(&whole));
        let labelled = publish(louder(&[]).labels).await;
        assert_ne!(labelled.reference, as_it_is.reference);
        assert_eq!(
            (labelled.fetched, labelled.changed, labelled.unchanged),
            (0, BTreeMap::new(), BTreeMap::new())
        );
        assert_eq!(content(&registry, &labelled.reference, "amd64", MODULE).await, "a");
        let configurations = if whole == amd64 { 2 } else { 4 };
        // What `content` reads: a configuration and a layer.
        assert_eq!(layers() - before, configurations + 2);
    }
}

#[tokio::test]
async fn another_registry_gets_copies() {
    let (here, there) = (TestRegistry::start().await.unwrap(), TestRegistry::start().await.unwrap());
    here.put_image("drivers", "1", "amd64", &[layer(&[("opt/lib/modules/6.1/a.ko", b"a")])]);
    let (from, to) = (reference(&here, "drivers:1"), reference(&there, "drivers:1"));
    let (source, target) = (client(&here.host()), client(&there.host()));
    let work = std::env::temp_dir();
    let from = Source::Registry(&source, &from);
    let revised = revise(from, (&target, &to), &louder(&[MODULE]), &work).await.unwrap();
    assert_eq!(revised.blobs, Blobs { copied: 1, ..Blobs::default() });
    assert_eq!(content(&there, &to, "amd64", MODULE).await, "a!");
}

#[tokio::test]
async fn a_token_for_mounting_is_for_both_repositories() {
    let registry = TestRegistry::start().await.unwrap();
    registry.put_image("drivers", "1", "amd64", &[layer(&[("opt/lib/modules/6.1/a.ko", b"a")])]);
    registry.require(Auth::Token { user: "u".to_owned(), password: "p".to_owned(), realm: None });
    let revised = revise_here(&registry, &louder(&[MODULE])).await.unwrap();
    assert_eq!(revised.blobs.mounted, 1);
    let asked = |scope: &str| {
        let scope = scope.replace(':', "%3A").replace('/', "%2F").replace(',', "%2C");
        registry.seen().iter().any(|seen| seen.path.starts_with("/token") && seen.path.contains(&scope))
    };
    assert!(asked("scope=repository:signed/drivers:pull,push&scope=repository:drivers:pull"));
}

#[tokio::test]
async fn what_goes_wrong_leaves_no_name_behind() {
    let registry = TestRegistry::start().await.unwrap();
    registry.put_image("drivers", "1", "amd64", &[layer(&[("opt/lib/modules/6.1/a.ko", b"a")])]);
    let refused = Revision { change: Arc::new(|_, _| Err("no".into())), ..louder(&[MODULE]) };
    let error = revise_here(&registry, &refused).await.unwrap_err();
    assert!(matches!(&error, ReviseError::Change { path, .. } if path == MODULE), "{error}");
    for (route, fault) in [
        (Route::Blob, Fault::Corrupt),
        (Route::Upload, Fault::Status(500, None)),
        (Route::Manifest, Fault::Close),
    ] {
        // The manifest and the configuration come before the layer.
        registry.inject(route, usize::MAX, fault.clone());
        let outcome = revise_here(&registry, &louder(&[MODULE])).await;
        assert!(outcome.is_err(), "{fault:?}");
        registry.heal();
        assert!(registry.manifest("signed/drivers", "1").is_none(), "{fault:?}");
    }
    revise_here(&registry, &louder(&[MODULE])).await.unwrap();
    assert!(registry.manifest("signed/drivers", "1").is_some());
}
