//! What a builder has left in a folder is published: with some files changed, as it is, or not at all.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what a test is made of may fail like the test"
)]

#[path = "layout/hostile.rs"]
mod hostile;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::io::Read as _;
use std::sync::Arc;

use rstest::rstest;
use serde_json::{Value, json};
use tenon_image::ImageReference;
use tenon_image::keyring::Keyring;
use tenon_image::layers::{Found, ImageFiles, LayersError, Limits};
use tenon_image::layout::{Contents, Layout, LayoutError, LayoutFault, read_index, read_version};
use tenon_image::manifest::OCI_LAYER_GZIP;
use tenon_image::registry::{Proxies, PullError, Registry, RegistryError, Timing, TlsSettings, Transport};
use tenon_image::revise::{Blobs, ReviseError, Revised, Revision, Source, revise};
use tenon_image::testing::{TestLayout, TestRegistry, layer};
use tenon_order::Digest;

const MODULE: &str = "/opt/lib/modules/6.1/a.ko";
const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const DOCKER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// Puts an exclamation mark behind each of these files.
fn louder(files: &[&str]) -> Revision {
    Revision {
        files: files.iter().map(|file| file.parse().unwrap()).collect(),
        change: Arc::new(|_, bytes| Ok(Some([bytes, b"!"].concat()))),
        note: "made louder".to_owned(),
        lenient: false,
        labels: BTreeMap::from([("example/louder".to_owned(), "yes".to_owned())]),
        limits: Limits::default(),
    }
}

fn as_it_is() -> Revision {
    Revision { labels: BTreeMap::new(), ..louder(&[]) }
}

/// A layout in a folder of its own, and a registry to publish to.
struct Bench {
    layout: TestLayout,
    registry: TestRegistry,
    client: Registry,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let registry = TestRegistry::start().await.unwrap();
        let tls = TlsSettings { plain_http: true, ..TlsSettings::default() };
        let timing = Timing { attempts: 1, ..Timing::default() };
        let client =
            Registry::new(&Transport::new(Proxies::default()), &tls, Keyring::default(), timing).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let layout = TestLayout::create(&folder.path().join("image")).unwrap();
        Self { layout, registry, client, folder }
    }

    /// With one image of these layers.
    async fn with(layers: &[(&str, Vec<u8>)]) -> Self {
        let bench = Self::new().await;
        let image = bench.layout.put_image("amd64", layers).unwrap();
        bench.layout.put_index(&[image]).unwrap();
        bench
    }

    fn to(&self) -> ImageReference {
        format!("{}/drivers:1", self.registry.host()).parse().unwrap()
    }

    fn open(&self) -> Layout {
        Layout::open(self.layout.folder()).unwrap()
    }

    async fn publish(&self, layout: &Layout, revision: &Revision) -> Result<Revised, ReviseError> {
        let work = tempfile::tempdir_in(&self.folder).unwrap();
        let to = self.to();
        let revised = revise(Source::Layout(layout), (&self.client, &to), revision, work.path()).await;
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 0, "something is left in the work folder");
        revised
    }

    async fn refused(&self, revision: &Revision) -> (ReviseError, String) {
        let error = self.publish(&self.open(), revision).await.unwrap_err();
        assert!(self.registry.manifest("drivers", "1").is_none(), "something was published");
        let text = chain(&error);
        (error, text)
    }

    /// What a file of the published image is.
    async fn content(&self, architecture: &str, path: &str) -> String {
        let image = self.client.image(&self.to(), &architecture.parse().unwrap()).await.unwrap();
        let layers =
            self.client.pull_layers(&image, &std::env::temp_dir(), &Limits::default()).await.unwrap();
        let files = ImageFiles::flatten(layers, &Limits::default()).unwrap();
        let Some(Found::File(at)) = files.tree().find(&path.parse().unwrap()) else { return String::new() };
        let mut text = String::new();
        let mut take = |_, content: &mut dyn std::io::Read| content.read_to_string(&mut text).map(drop);
        files.read(&[at].into(), &mut take, &|error| std::io::Error::other(error)).unwrap();
        text
    }

    fn published(&self) -> (Value, Value) {
        let manifest: Value =
            serde_json::from_slice(&self.registry.manifest("drivers", "1").unwrap()).unwrap();
        let config = manifest["config"]["digest"].as_str().unwrap().parse().unwrap();
        let config = serde_json::from_slice(&self.registry.blob("drivers", &config).unwrap()).unwrap();
        (manifest, config)
    }

    fn uploads(&self) -> usize {
        self.registry
            .seen()
            .iter()
            .filter(|seen| seen.method == "PUT" && seen.path.contains("/blobs/"))
            .count()
    }
}

fn chain(error: &dyn Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn modules() -> Vec<u8> {
    layer(&[("opt/lib/modules/6.1/a.ko", b"a"), ("opt/lib/modules/6.1/b.ko", b"b")])
}

fn unpacked(layer: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(layer).read_to_end(&mut tar).unwrap();
    tar
}

#[rstest]
#[case::gzip(OCI_LAYER_GZIP, modules())]
#[case::plain(PLAIN, unpacked(&modules()))]
#[case::zstd(ZSTD, zstd::encode_all(unpacked(&modules()).as_slice(), 3).unwrap())]
#[case::docker(DOCKER, modules())]
#[tokio::test]
async fn a_named_file_is_changed_and_layers_go_as_they_are(#[case] media_type: &str, #[case] bytes: Vec<u8>) {
    let base = layer(&[("usr/bin/tool", &vec![7; 300_000])]);
    let digest = Digest::of(&bytes);
    let bench = Bench::with(&[(OCI_LAYER_GZIP, base.clone()), (media_type, bytes)]).await;
    let layout = bench.open();
    let revised = bench.publish(&layout, &louder(&[MODULE])).await.unwrap();

    assert_eq!(revised.changed, BTreeMap::from([("linux/amd64".to_owned(), vec![MODULE.to_owned()])]));
    assert_eq!((revised.fetched, revised.blobs), (0, Blobs { copied: 2, ..Blobs::default() }));
    assert_eq!(bench.content("amd64", MODULE).await, "a!");
    assert_eq!(bench.content("amd64", "/opt/lib/modules/6.1/b.ko").await, "b");
    let (manifest, config) = bench.published();
    assert_eq!(manifest["layers"][1]["digest"], json!(digest));
    assert_eq!(manifest["layers"][1]["mediaType"], media_type);
    assert_eq!(bench.registry.blob("drivers", &Digest::of(&base)), Some(base));
    assert_eq!(config["created"], "2026-11-22T10:00:00.123456789Z");
    assert_eq!(config["history"][0]["created"], "2026-11-22T10:00:00.123456789Z");
    assert_eq!(config["config"]["Labels"], json!({"io.buildah.version": "1.28.2", "example/louder": "yes"}));

    let again = bench.publish(&bench.open(), &louder(&[MODULE])).await.unwrap();
    assert_eq!(again.reference, revised.reference, "the same bytes every time");
    assert_eq!(again.blobs, Blobs { present: 2, ..Blobs::default() });
}

#[tokio::test]
async fn without_files_the_image_is_published_as_it_is() {
    let bench = Bench::with(&[(OCI_LAYER_GZIP, modules())]).await;
    let layout = bench.open();
    let revised = bench.publish(&layout, &as_it_is()).await.unwrap();
    assert_eq!(revised.reference.digest(), Some(&layout.digest()));
    assert_eq!(revised.blobs, Blobs { copied: 2, ..Blobs::default() });
    assert_eq!(bench.content("amd64", MODULE).await, "a");

    let labelled = bench.publish(&layout, &louder(&[])).await.unwrap();
    assert_eq!((labelled.changed.len(), labelled.fetched), (0, 0));
    let (manifest, config) = bench.published();
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    assert_eq!(config["config"]["Labels"]["example/louder"], "yes");
    assert_eq!(config["history"].as_array().unwrap().len(), 1, "no layer, no line of history");
    let uploads = bench.uploads();
    assert_eq!(bench.publish(&layout, &louder(&[])).await.unwrap().reference, labelled.reference);
    assert_eq!(bench.uploads(), uploads, "a second time nothing is sent");
}

#[tokio::test]
async fn an_image_for_several_platforms_is_published_whole() {
    for nested in [true, false] {
        let bench = Bench::new().await;
        let image = |architecture, name| {
            bench.layout.put_image(architecture, &[(OCI_LAYER_GZIP, layer(&[(name, b"a")]))]).unwrap()
        };
        let images = [
            image("amd64", "opt/lib/modules/6.1/a.ko"),
            image("arm64", "opt/lib/modules/6.1/a.ko"),
            image("s390x", "opt/other"),
        ];
        let index =
            if nested { vec![bench.layout.put_nested_index(&images).unwrap()] } else { images.to_vec() };
        bench.layout.put_index(&index).unwrap();
        let layout = bench.open();
        let whole = bench.publish(&layout, &as_it_is()).await.unwrap();
        assert_eq!(whole.reference.digest(), Some(&layout.digest()), "nested: {nested}");
        let revised = bench.publish(&layout, &louder(&[MODULE])).await.unwrap();
        assert_eq!(revised.changed.keys().collect::<Vec<_>>(), ["linux/amd64", "linux/arm64"]);
        for architecture in ["amd64", "arm64"] {
            assert_eq!(bench.content(architecture, MODULE).await, "a!");
        }
        assert_eq!(bench.content("s390x", "/opt/other").await, "a");
    }
}

#[tokio::test]
async fn a_registry_that_has_a_layer_is_not_sent_it() {
    let bench = Bench::with(&[(OCI_LAYER_GZIP, modules())]).await;
    bench.registry.put_blob("drivers", &modules());
    let layout = bench.open();
    // Only who reads the file would notice.
    fs::write(bench.layout.blob(&Digest::of(&modules())), vec![0; modules().len()]).unwrap();
    let revised = bench.publish(&layout, &louder(&[])).await.unwrap();
    assert_eq!(revised.blobs, Blobs { present: 1, ..Blobs::default() });
    assert_eq!(bench.content("amd64", MODULE).await, "a");
}

/// Spoils a layout that was whole, and has one image with this layer.
type Spoil = fn(&TestLayout, &Digest);

const EXCHANGED: [Spoil; 3] = [
    // Other bytes.
    |layout, layer| {
        let size = fs::metadata(layout.blob(layer)).unwrap().len();
        fs::write(layout.blob(layer), vec![7; usize::try_from(size).unwrap()]).unwrap();
    },
    // Another archive.
    |layout, layer| {
        let mut other =
            self::layer(&[("opt/lib/modules/6.1/a.ko", b"x"), ("opt/lib/modules/6.1/b.ko", b"b")]);
        other.resize(usize::try_from(fs::metadata(layout.blob(layer)).unwrap().len()).unwrap(), 0);
        fs::write(layout.blob(layer), other).unwrap();
    },
    // Fewer bytes.
    |layout, layer| {
        fs::OpenOptions::new().write(true).open(layout.blob(layer)).unwrap().set_len(10).unwrap();
    },
];

#[tokio::test]
async fn a_layer_that_was_exchanged_is_neither_read_nor_sent() {
    for spoil in EXCHANGED {
        let bench = Bench::with(&[(OCI_LAYER_GZIP, modules())]).await;
        let layout = bench.open();
        let layer = Digest::of(&modules());
        spoil(&bench.layout, &layer);
        let shorter = fs::metadata(bench.layout.blob(&layer)).unwrap().len() < modules().len() as u64;
        for revision in [louder(&[MODULE]), as_it_is()] {
            let error = bench.publish(&layout, &revision).await.unwrap_err();
            let text = chain(&error);
            match error {
                // Its size is looked at before it is read, and by whom it is read depends on what is wanted.
                ReviseError::Layers(LayersError::Digest { layer: of, .. }) => {
                    assert!(of == layer && !shorter && !revision.files.is_empty(), "{text}");
                }
                ReviseError::Layout(LayoutError { file, source: LayoutFault::Digest { .. }, .. }) => {
                    assert!(file.ends_with(&layer.hex()) && !shorter && revision.files.is_empty(), "{text}");
                }
                ReviseError::Layout(LayoutError { file, source: LayoutFault::Size { .. }, .. }) => {
                    assert!(file.ends_with(&layer.hex()) && shorter, "{text}");
                }
                _ => panic!("{text}"),
            }
            assert!(bench.registry.blob("drivers", &layer).is_none(), "{text}");
            assert!(bench.registry.manifest("drivers", "1").is_none(), "{text}");
        }
    }
}

#[tokio::test]
async fn who_writes_to_a_layer_after_it_was_read_has_nothing_published() {
    let bench = Bench::with(&[(OCI_LAYER_GZIP, modules())]).await;
    let layout = bench.open();
    let file = bench.layout.blob(&Digest::of(&modules()));
    let write = move |_: &str, bytes: &[u8]| {
        fs::write(&file, vec![7; modules().len()])?;
        Ok(Some([bytes, b"!"].concat()))
    };
    let revision = Revision { change: Arc::new(write), ..louder(&[MODULE]) };
    let error = bench.publish(&layout, &revision).await.unwrap_err();
    assert!(
        matches!(&error, ReviseError::Layout(LayoutError { source: LayoutFault::Digest { .. }, .. })),
        "{error}"
    );
    assert!(bench.registry.manifest("drivers", "1").is_none());
    assert_eq!(bench.uploads(), 0);
}

#[tokio::test]
async fn what_is_written_while_it_is_sent_is_refused_by_the_registry() {
    let bench = Bench::new().await;
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, b"other bytes").unwrap();
    let digest = Digest::of(b"those bytes");
    let blob = tenon_image::registry::Blob::File { file: file.into(), digest, size: 11 };
    let error = bench.client.push_blob(&bench.to(), &blob).await.unwrap_err();
    assert!(matches!(error, RegistryError::Invalid { .. }), "{error}");
    assert!(bench.registry.blob("drivers", &digest).is_none());
}

#[tokio::test]
async fn a_layer_of_zeros_without_end_is_not_read() {
    let bench = Bench::new().await;
    let layer = json!({"mediaType": PLAIN, "digest": Digest::of(b"large"), "size": 1_u64 << 40});
    let large = fs::File::create(bench.layout.blob(&Digest::of(b"large"))).unwrap();
    large.set_len(1 << 40).unwrap();
    let config = json!({"architecture": "amd64", "os": "linux"});
    let config = bench.layout.put_blob("", config.to_string().as_bytes()).unwrap();
    let manifest = json!({"config": config, "layers": [layer]});
    let manifest = bench.layout.put_blob("", manifest.to_string().as_bytes()).unwrap();
    bench.layout.put_index(&[manifest]).unwrap();
    for revision in [louder(&[MODULE]), as_it_is()] {
        let (error, text) = bench.refused(&revision).await;
        assert!(matches!(error, ReviseError::Pull(PullError::TooLarge { .. })), "{text}");
    }
    assert_eq!(bench.registry.seen().len(), 0);
}

proptest::proptest! {
    #[test]
    fn what_is_read_is_one_image_or_one_for_each_platform(
        platforms in proptest::collection::vec("linux|unknown|plan9", 0..6),
        cut in 0_usize..400,
    ) {
        let entries: Vec<_> = platforms.iter().map(|os| {
            json!({"digest": Digest::of(os.as_bytes()), "size": 1, "platform": {"os": os, "architecture": "amd64"}})
        }).collect();
        let index = json!({"manifests": entries}).to_string();
        let runnable = platforms.iter().filter(|os| *os != "unknown").count();
        let distinct = platforms.iter().filter(|os| *os != "unknown").collect::<BTreeSet<_>>().len();
        match read_index(index.as_bytes()) {
            Ok(Contents::One(_)) => proptest::prop_assert_eq!(platforms.len(), 1),
            Ok(Contents::Platforms(all)) => {
                proptest::prop_assert!(runnable > 0 && runnable == distinct);
                proptest::prop_assert_eq!(all.len(), platforms.len());
            }
            Err(error) => {
                let named = matches!(error, LayoutFault::Images(found) if found == runnable);
                proptest::prop_assert!(named && (runnable == 0 || runnable > distinct));
            }
        }
        // Cut short it is nothing, and no reason to panic.
        if let Some(part) = index.get(..cut.min(index.len() - 1)) {
            proptest::prop_assert!(read_index(part.as_bytes()).is_err() && read_version(part.as_bytes()).is_err());
        }
    }
}
