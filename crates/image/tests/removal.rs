//! Deleting images by content, and what else in a registry stands for it.

#![expect(clippy::unwrap_used, reason = "what a test is made of may fail like the test")]

use tenon_image::ImageReference;
use tenon_image::keyring::Keyring;
use tenon_image::manifest::{OCI_INDEX, OCI_MANIFEST};
use tenon_image::registry::{
    Proxies, Registry, RegistryError, TagOf, Timing, TlsSettings, Transport, Violation,
};
use tenon_image::testing::{Auth, Deletion, Fault, Route, TestRegistry, layer};
use tenon_order::Digest;

struct Bench {
    registry: TestRegistry,
    client: Registry,
    image: ImageReference,
    digest: Digest,
}

impl Bench {
    /// A registry with `gauge:1`.
    async fn new() -> Self {
        let registry = TestRegistry::start().await.unwrap();
        registry.put_image("gauge", "1", "amd64", &[layer(&[("a", b"a")])]);
        let digest = Digest::of(&registry.manifest("gauge", "1").unwrap());
        let transport = Transport::new(Proxies::from_variables(|_| None));
        let tls = TlsSettings { plain_http: true, ..TlsSettings::default() };
        let client = Registry::new(&transport, &tls, Keyring::default(), Timing::default()).unwrap();
        let image = format!("{}/gauge:1", registry.host()).parse().unwrap();
        Self { registry, client, image, digest }
    }

    fn tag(&self, tag: &str, media_type: &str, bytes: &[u8]) {
        self.registry.put_manifest("gauge", tag, media_type, bytes);
    }

    async fn tags(&self, most: usize) -> Option<Vec<TagOf>> {
        self.client.tags_of(&self.image, &[self.digest], most).await.unwrap()
    }
}

#[tokio::test]
async fn what_is_deleted_answers_404_and_other_content_stays() {
    let bench = Bench::new().await;
    bench.registry.put_image("gauge", "2", "amd64", &[layer(&[("b", b"b")])]);
    bench.client.delete(&bench.image, bench.digest).await.unwrap();
    assert!(matches!(bench.client.resolve(&bench.image).await, Err(RegistryError::Absent(_))));
    assert!(bench.registry.manifest("gauge", "2").is_some());
    let again = bench.client.delete(&bench.image, bench.digest).await;
    assert!(matches!(again, Err(RegistryError::Absent(_))));
}

#[tokio::test]
async fn a_tag_that_stands_for_something_else_by_now_stays() {
    let bench = Bench::new().await;
    bench.registry.put_image("gauge", "1", "amd64", &[layer(&[("b", b"b")])]);
    let moved = bench.registry.manifest("gauge", "1");
    bench.client.delete(&bench.image, bench.digest).await.unwrap();
    assert_eq!(bench.registry.manifest("gauge", "1"), moved);
}

#[tokio::test]
async fn all_tags_that_lead_to_an_image_are_found_on_all_pages() {
    let bench = Bench::new().await;
    let manifest = bench.registry.manifest("gauge", "1").unwrap();
    for other in ["2", "3", "4"] {
        bench.registry.put_image("gauge", other, "amd64", &[layer(&[("b", other.as_bytes())])]);
    }
    bench.tag("stable", OCI_MANIFEST, &manifest);
    let entry =
        format!(r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":{}}}"#, bench.digest, manifest.len());
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{entry}]}}"#);
    bench.tag("several", OCI_INDEX, index.as_bytes());
    bench.tag("chart", OCI_MANIFEST, br#"{"schemaVersion":2}"#);
    let mut found = bench.tags(100).await.unwrap();
    found.sort_by(|one, other| one.tag.cmp(&other.tag));
    let found: Vec<_> = found.iter().map(|tag| (tag.tag.as_str(), tag.digest == bench.digest)).collect();
    assert_eq!(found, [("1", true), ("several", false), ("stable", true)]);
    assert_eq!(bench.tags(6).await, None, "more than anybody wants to look at");
    // A registry that lists no tags says nothing of any.
    bench.registry.inject(Route::Tags, 1, Fault::Status(404, None));
    assert_eq!(bench.tags(100).await, None);
}

#[tokio::test]
async fn who_does_not_delete_says_so() {
    let bench = Bench::new().await;
    bench.registry.set_deletion(Deletion::Unsupported);
    let refused = bench.client.delete(&bench.image, bench.digest).await;
    assert!(
        matches!(refused, Err(RegistryError::Invalid { source: Violation::Status { status: 405, .. }, .. })),
        "{refused:?}"
    );
    bench.registry.set_deletion(Deletion::Denied);
    let refused = bench.client.delete(&bench.image, bench.digest).await;
    assert!(matches!(refused, Err(RegistryError::Denied { status: 403, .. })), "{refused:?}");
    assert!(bench.registry.manifest("gauge", "1").is_some());
}

#[tokio::test]
async fn a_token_is_asked_for_that_allows_to_delete() {
    let bench = Bench::new().await;
    let (user, password) = ("u".to_owned(), "p".to_owned());
    bench.registry.require(Auth::Token { user, password, realm: None });
    let _ = bench.client.delete(&bench.image, bench.digest).await;
    let seen = bench.registry.seen();
    let asked = seen.iter().find(|seen| seen.path.starts_with("/token")).expect("a token is asked for");
    assert!(asked.path.contains("delete"), "{}", asked.path);
}
