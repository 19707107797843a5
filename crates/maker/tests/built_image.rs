//! What a builder has left in a folder is signed, and only then published.

#![expect(clippy::unwrap_used, reason = "what a test is made of may fail like the test")]

use std::fs;
use std::path::Path;

use tenon_api::task::label;
use tenon_image::ImageReference;
use tenon_image::keyring::Keyring;
use tenon_image::layout::Layout;
use tenon_image::manifest::OCI_LAYER_GZIP;
use tenon_image::registry::{Proxies, Registry, Timing, TlsSettings, Transport};
use tenon_image::revise::Source;
use tenon_image::testing::{TestLayout, TestRegistry, layer, module};
use tenon_maker::{SignRequest, credentials, sign_image};
use tenon_sign::{Hash, Identity};

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sign/testdata");
const DUMMY: &str = "opt/lib/modules/6.1.0-9-test/dummy.ko";

/// As a Job has it mounted.
fn identity(folder: &Path) -> Identity {
    for (name, file) in [("key", "rsa.key"), ("cert", "rsa.pem")] {
        fs::copy(Path::new(KEYS).join(file), folder.join(name)).unwrap();
    }
    credentials::identity(folder, folder).unwrap()
}

#[tokio::test]
async fn the_signed_image_is_known_by_what_it_was_made_of_and_no_other_is_published() {
    let folder = tempfile::tempdir().unwrap();
    let layout = TestLayout::create(&folder.path().join("image")).unwrap();
    let files = layer(&[(DUMMY, &module(62, "dummy", "6.1.0-9-test"))]);
    layout.put_index(&[layout.put_image("amd64", &[(OCI_LAYER_GZIP, files)]).unwrap()]).unwrap();
    let layout = Layout::open(layout.folder()).unwrap();

    let server = TestRegistry::start().await.unwrap();
    let tls = TlsSettings { plain_http: true, ..TlsSettings::default() };
    let transport = Transport::new(Proxies::default());
    let registry = Registry::new(&transport, &tls, Keyring::default(), Timing::default()).unwrap();
    let to: ImageReference = format!("{}/drivers:1", server.host()).parse().unwrap();
    let request = SignRequest {
        files: vec![format!("/{DUMMY}").parse().unwrap()],
        hash: Hash::Sha256,
        note: "signed".to_owned(),
        labels: [(label::REQUEST.to_owned(), "sha256:1".to_owned())].into(),
        lenient: true,
    };
    let from = Source::Layout(&layout);
    let identity = identity(folder.path());
    let signed = sign_image(from, (&registry, &to), request, identity, folder.path()).await.unwrap();

    assert_eq!(signed.changed.len(), 1);
    let labels = registry.image(&to, &"amd64".parse().unwrap()).await.unwrap().labels().clone();
    assert_eq!(labels.get(label::REQUEST).map(String::as_str), Some("sha256:1"));
    let manifests =
        server.seen().into_iter().filter(|seen| seen.method == "PUT" && seen.path.contains("/manifests/"));
    assert_eq!(manifests.count(), 1);
}
