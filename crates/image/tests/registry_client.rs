//! The client against a real HTTP server that misbehaves.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what a test is made of may fail like the test"
)]

use std::sync::Arc;
use std::time::Duration;

use tenon_image::Retry;
use tenon_image::keyring::{Credential, Keyring};
use tenon_image::manifest::{DOCKER_LIST, OCI_MANIFEST};
use tenon_image::platform::Architecture;
use tenon_image::reference::ImageReference;
use tenon_image::registry::{
    Blob, PlatformImage, Proxies, Pushed, Registry, RegistryError, Timing, TlsSettings, Transport, Trouble,
    Violation,
};
use tenon_image::testing::{Auth, Fault, Route, TestRegistry, layer};
use tenon_order::Digest;

const REPOSITORY: &str = "acme/driver";

fn quick() -> Timing {
    Timing {
        manifest: Duration::from_secs(5),
        blob: Duration::from_secs(5),
        pause: Duration::from_millis(5),
        attempts: 4,
    }
}

fn plain() -> TlsSettings {
    TlsSettings { plain_http: true, ..TlsSettings::default() }
}

fn client_with(keyring: Keyring, timing: Timing) -> Registry {
    Registry::new(&Transport::new(Proxies::default()), &plain(), keyring, timing).unwrap()
}

fn client() -> Registry {
    client_with(Keyring::default(), quick())
}

fn keyring(entries: &[(&str, &str, &str)]) -> Keyring {
    let mut keyring = Keyring::default();
    for (key, user, password) in entries {
        keyring.insert(key, Credential::new(*user, *password)).unwrap();
    }
    keyring
}

fn amd64() -> Architecture {
    "amd64".parse().unwrap()
}

fn reference(registry: &TestRegistry) -> ImageReference {
    format!("{}/{REPOSITORY}:v1", registry.host()).parse().unwrap()
}

/// A registry with one image.
async fn stocked() -> (TestRegistry, ImageReference, Digest) {
    let registry = TestRegistry::start().await.unwrap();
    let digest = registry.put_image(REPOSITORY, "v1", "amd64", &[layer(&[("a", &[b'x'; 5000])])]);
    let image = reference(&registry);
    (registry, image, digest)
}

async fn pull(client: &Registry, image: &PlatformImage) -> Result<Vec<u8>, RegistryError> {
    let file = client.pull_blob(image, &image.layers()[0], tempfile::tempfile().unwrap()).await?;
    let mut file = &file;
    let mut bytes = Vec::new();
    std::io::Seek::rewind(&mut file).unwrap();
    std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
    Ok(bytes)
}

#[tokio::test]
async fn an_image_is_pinned_by_what_was_read() {
    let (registry, image, digest) = stocked().await;
    let client = client();
    assert_eq!(client.resolve(&image).await.unwrap(), digest);
    let found = client.image(&image, &amd64()).await.unwrap();
    assert_eq!(found.reference(), &image.with_digest(digest));

    // The tag moves; what was pinned does not.
    registry.put_image(REPOSITORY, "v1", "amd64", &[layer(&[("a", b"other")])]);
    assert_ne!(client.resolve(&image).await.unwrap(), digest);
    assert_eq!(client.image(found.reference(), &amd64()).await.unwrap().digest(), digest);
    assert_eq!(client.resolve(found.reference()).await.unwrap(), digest);
}

#[tokio::test]
async fn the_index_says_which_image_is_for_the_platform() {
    let registry = TestRegistry::start().await.unwrap();
    let images = ["amd64", "arm64"]
        .map(|name| (name, registry.put_image(REPOSITORY, name, name, &[layer(&[(name, b"x")])])));
    let index = registry.put_index(REPOSITORY, "v1", &images);
    let image = reference(&registry);
    let client = client();
    let found = client.image(&image, &"arm64".parse().unwrap()).await.unwrap();
    assert_eq!((found.reference().digest(), found.digest()), (Some(&index), images[1].1));
    let error = client.image(&image, &"s390x".parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Platform { .. }), "{error:?}");
}

#[tokio::test]
async fn an_image_for_another_platform_does_not_count() {
    let (registry, image, digest) = stocked().await;
    let client = client();
    let error = client.image(&image, &"arm64".parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Platform { .. }), "{error:?}");
    // Nor does one that the index lies about.
    registry.put_index(REPOSITORY, "v1", &[("arm64", digest)]);
    let error = client.image(&image, &"arm64".parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Platform { .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_not_there_is_absent() {
    let (registry, _, _) = stocked().await;
    for name in ["acme/driver:v2", "acme/other:v1"] {
        let image = format!("{}/{name}", registry.host()).parse().unwrap();
        assert!(matches!(client().image(&image, &amd64()).await, Err(RegistryError::Absent(_))));
        assert!(matches!(client().resolve(&image).await, Err(RegistryError::Absent(_))));
    }
}

#[tokio::test]
async fn basic_credentials_are_sent_when_asked_for_and_all_are_tried() {
    let (registry, image, _) = stocked().await;
    registry.require(Auth::Basic("ada".to_owned(), "hunter2".to_owned()));
    let host = registry.host();
    let wrong = keyring(&[(&host, "eve", "guess")]);
    let error = client_with(wrong, quick()).image(&image, &amd64()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Denied { status: 401, .. }), "{error:?}");
    assert!(!format!("{error:?}").contains("guess"));
    assert!(matches!(client().image(&image, &amd64()).await, Err(RegistryError::Denied { .. })));

    let specific = format!("{host}/acme");
    let both = keyring(&[(&specific, "eve", "guess"), (&host, "ada", "hunter2")]);
    let client = client_with(both, quick());
    let found = client.image(&image, &amd64()).await.unwrap();
    // What worked for the manifest is what the layers are asked for with.
    let before = registry.seen().len();
    pull(&client, &found).await.unwrap();
    assert_eq!(registry.seen().len(), before + 1);
}

#[tokio::test]
async fn one_token_serves_everyone_who_waits_for_it() {
    let (registry, image, _) = stocked().await;
    registry.require(Auth::Token { user: "ada".to_owned(), password: "hunter2".to_owned(), realm: None });
    let client = client_with(keyring(&[(&registry.host(), "ada", "hunter2")]), quick());
    let arch = amd64();
    let all = futures::future::join_all((0..8).map(|_| client.image(&image, &arch))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    let tokens = |registry: &TestRegistry| {
        registry.seen().iter().filter(|seen| seen.path.starts_with("/token")).count()
    };
    assert_eq!(tokens(&registry), 1);

    registry.revoke_tokens();
    client.image(&image, &arch).await.unwrap();
    assert_eq!(tokens(&registry), 2);
    // The password went to the token service only.
    let to_registry = registry.seen().into_iter().filter(|seen| seen.path.starts_with("/v2/"));
    assert!(to_registry.filter_map(|seen| seen.authorization).all(|header| header.starts_with("Bearer ")));
}

#[tokio::test]
async fn a_refused_token_is_a_denial_and_a_broken_token_service_is_trouble() {
    let (registry, image, _) = stocked().await;
    registry.require(Auth::Token { user: "ada".to_owned(), password: "hunter2".to_owned(), realm: None });
    assert!(matches!(client().image(&image, &amd64()).await, Err(RegistryError::Denied { .. })));
    registry.inject(Route::Token, usize::MAX, Fault::Status(503, None));
    assert!(matches!(client().image(&image, &amd64()).await, Err(RegistryError::Unreachable { .. })));
}

#[tokio::test]
async fn a_token_service_that_gives_none_or_hides_nowhere_is_invalid() {
    let (registry, image, _) = stocked().await;
    let token = |realm: Option<&str>| Auth::Token {
        user: "ada".to_owned(),
        password: "hunter2".to_owned(),
        realm: realm.map(str::to_owned),
    };
    let client = || client_with(keyring(&[(&registry.host(), "ada", "hunter2")]), quick());
    registry.require(token(None));
    registry.inject(Route::Token, 1, Fault::Body(b"{\"token\": \"two\\nlines\"}".to_vec()));
    let error = client().image(&image, &amd64()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Invalid { source: Violation::TokenService(_), .. }), "{error:?}");
    for realm in ["ftp://tokens/x", "http://ada:x@tokens/x", "tokens"] {
        registry.require(token(Some(realm)));
        let error = client().image(&image, &amd64()).await.unwrap_err();
        assert!(
            matches!(error, RegistryError::Invalid { source: Violation::TokenService(_), .. }),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn trouble_that_passes_is_waited_for() {
    let (registry, image, _) = stocked().await;
    let client = client();
    for fault in [Fault::Status(503, None), Fault::Status(500, None), Fault::Close] {
        registry.inject(Route::Manifest, 2, fault.clone());
        let found = client.image(&image, &amd64()).await;
        assert!(found.is_ok(), "{fault:?}: {found:?}");
    }
    registry.inject(Route::Manifest, 1, Fault::Status(429, Some(("retry-after", "0".to_owned()))));
    assert!(client.image(&image, &amd64()).await.is_ok());
}

#[tokio::test]
async fn what_the_registry_asks_to_wait_is_handed_on_when_it_is_too_long() {
    for (header, seconds) in [
        ("3600", 3600),
        // More than a day is not believed.
        ("18446744073709551615", 86_400),
        ("Tue, 31 Dec 2999 23:59:59 GMT", 86_400),
    ] {
        let (registry, image, _) = stocked().await;
        registry.inject(Route::Manifest, 9, Fault::Status(429, Some(("retry-after", header.to_owned()))));
        let error = client().image(&image, &amd64()).await.unwrap_err();
        let Retry::Later(Some(wait)) = error.retry() else { panic!("{error:?}") };
        assert_eq!(wait.as_secs(), seconds, "{header}");
        assert_eq!(registry.seen().len(), 1);
    }
    // A date that has passed means now.
    let (registry, image, _) = stocked().await;
    let past = "Fri, 31 Dec 1999 23:59:59 GMT".to_owned();
    registry.inject(Route::Manifest, 1, Fault::Status(503, Some(("retry-after", past))));
    client().image(&image, &amd64()).await.unwrap();
}

#[tokio::test]
async fn denials_and_absence_are_not_asked_again() {
    let (registry, image, _) = stocked().await;
    for status in [403, 404, 400] {
        let before = registry.seen().len();
        registry.inject(Route::Manifest, 1, Fault::Status(status, None));
        assert!(client().image(&image, &amd64()).await.is_err());
        assert_eq!(registry.seen().len(), before + 1, "{status}");
    }
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let (registry, image, _) = stocked().await;
    let timing = Timing { manifest: Duration::from_millis(200), blob: Duration::from_millis(200), ..quick() };
    let client = client_with(Keyring::default(), timing);
    let found = client.image(&image, &amd64()).await.unwrap();
    for fault in [Fault::Hang, Fault::Slow(1, Duration::from_millis(50))] {
        registry.inject(Route::Manifest, 1, fault.clone());
        let error = client.image(&image, &amd64()).await.unwrap_err();
        assert!(
            matches!(error, RegistryError::Unreachable { source: Trouble::Deadline(_), .. }),
            "{error:?}"
        );
        registry.inject(Route::Blob, 1, fault);
        let error = pull(&client, &found).await.unwrap_err();
        assert!(
            matches!(error, RegistryError::Unreachable { source: Trouble::Deadline(_), .. }),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn nobody_there_is_trouble() {
    let (registry, image, _) = stocked().await;
    let host = registry.host();
    drop(registry);
    let listener = std::net::TcpListener::bind(&host);
    drop(listener);
    let error = client().image(&image, &amd64()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { source: Trouble::Connection(_), .. }), "{error:?}");
}

#[tokio::test]
async fn manifests_that_lie_are_refused() {
    let (registry, image, digest) = stocked().await;
    let ask = async |fault| {
        registry.inject(Route::Manifest, 1, fault);
        client().image(&image, &amd64()).await.unwrap_err()
    };
    let other = Digest::of(b"other").to_string();
    for fault in [Fault::Corrupt, Fault::Header("docker-content-digest", other)] {
        let error = ask(fault).await;
        assert!(
            matches!(error, RegistryError::Invalid { source: Violation::Digest { .. }, .. }),
            "{error:?}"
        );
    }
    for fault in [
        Fault::Header("docker-content-digest", "md5:12".to_owned()),
        Fault::Header("content-type", DOCKER_LIST.to_owned()),
        Fault::Status(302, Some(("location", "ftp://elsewhere/".to_owned()))),
        Fault::Status(302, None),
        Fault::Status(418, None),
    ] {
        let error = ask(fault.clone()).await;
        assert!(matches!(error, RegistryError::Invalid { .. }), "{fault:?}: {error:?}");
    }
    // Where nothing else names the digest, the pinned reference does.
    registry.inject(Route::Manifest, 1, Fault::Corrupt);
    let error = client().image(&image.with_digest(digest), &amd64()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Invalid { .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_no_manifest_is_said_with_what_it_is() {
    let registry = TestRegistry::start().await.unwrap();
    let image = reference(&registry);
    for (media_type, body) in [
        ("text/html", "<html>log in</html>".to_owned()),
        (OCI_MANIFEST, "{\"schemaVersion\": 2}".to_owned()),
        (OCI_MANIFEST, format!("{{\"x\": \"{}\"}}", "x".repeat(5 << 20))),
    ] {
        registry.put_manifest(REPOSITORY, "v1", media_type, body.as_bytes());
        let error = client().image(&image, &amd64()).await.unwrap_err();
        assert!(matches!(error, RegistryError::Invalid { .. }), "{media_type}: {error:?}");
    }
}

#[tokio::test]
async fn a_blob_is_what_its_digest_says_or_an_error() {
    let (registry, image, _) = stocked().await;
    let client = client();
    let found = client.image(&image, &amd64()).await.unwrap();
    registry.inject(Route::Blob, 1, Fault::Corrupt);
    let error = pull(&client, &found).await.unwrap_err();
    assert!(matches!(error, RegistryError::Invalid { source: Violation::Digest { .. }, .. }), "{error:?}");
    registry.inject(Route::Blob, 1, Fault::Body(vec![b'x'; 1 << 20]));
    let error = pull(&client, &found).await.unwrap_err();
    assert!(matches!(error, RegistryError::Invalid { source: Violation::Size { .. }, .. }), "{error:?}");
    registry.inject(Route::Blob, 9, Fault::Body(b"short".to_vec()));
    let error = pull(&client, &found).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Unreachable { source: Trouble::Truncated { .. }, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_stopped() {
    let (registry, image, _) = stocked().await;
    let client = client();
    let found = client.image(&image, &amd64()).await.unwrap();
    let whole = registry.blob(REPOSITORY, &found.layers()[0].digest).unwrap();
    registry.inject(Route::Blob, 1, Fault::Truncate(30));
    assert_eq!(pull(&client, &found).await.unwrap(), whole);
    assert_eq!(registry.seen().last().unwrap().range.as_deref(), Some("bytes=30-"));
}

#[tokio::test]
async fn redirects_are_followed_without_authorization() {
    let (registry, image, _) = stocked().await;
    registry.require(Auth::Basic("ada".to_owned(), "hunter2".to_owned()));
    let storage = TestRegistry::start().await.unwrap();
    let client = client_with(keyring(&[(&registry.host(), "ada", "hunter2")]), quick());
    let found = client.image(&image, &amd64()).await.unwrap();
    let digest = found.layers()[0].digest;
    let bytes = registry.blob(REPOSITORY, &digest).unwrap();
    storage.put_blob("bucket", &bytes);
    let to = format!("{}/v2/bucket/blobs/{digest}?signature=secret", storage.url());
    registry.inject(Route::Blob, 1, Fault::Status(307, Some(("location", to))));
    assert_eq!(pull(&client, &found).await.unwrap(), bytes);
    let seen = storage.seen();
    assert_eq!((seen.len(), seen[0].authorization.clone()), (1, None));
    assert!(registry.seen().last().unwrap().authorization.is_some());

    // A signed address is nobody else's business.
    let nowhere = format!("{}/v2/bucket/blobs/{digest}?signature=secret", storage.url());
    drop(storage);
    registry.inject(Route::Blob, 9, Fault::Status(307, Some(("location", nowhere))));
    let error = pull(&client, &found).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Unreachable { .. }) && !format!("{error:?}").contains("signature"),
        "{error:?}"
    );
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let (registry, image, _) = stocked().await;
    let client = client();
    let found = client.image(&image, &amd64()).await.unwrap();
    registry.inject(Route::Blob, usize::MAX, Fault::Status(302, Some(("location", "?again".to_owned()))));
    let error = pull(&client, &found).await.unwrap_err();
    assert!(matches!(error, RegistryError::Invalid { source: Violation::Redirect, .. }), "{error:?}");
}

#[tokio::test]
async fn blobs_and_manifests_are_pushed_once() {
    let registry = TestRegistry::start().await.unwrap();
    registry.require(Auth::Token { user: "ada".to_owned(), password: "hunter2".to_owned(), realm: None });
    let client = client_with(keyring(&[(&registry.host(), "ada", "hunter2")]), quick());
    let to = reference(&registry);
    let content = vec![7; 100_000];
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, &content).unwrap();
    let large = Blob::File { file: file.into(), digest: Digest::of(&content), size: 100_000 };
    for blob in [Blob::Bytes(b"config".to_vec()), large] {
        registry.inject(Route::Upload, 1, Fault::Status(503, None));
        assert_eq!(client.push_blob(&to, &blob).await.unwrap(), Pushed::Uploaded);
        assert_eq!(client.push_blob(&to, &blob).await.unwrap(), Pushed::Present);
        assert!(registry.blob(REPOSITORY, &blob.digest()).is_some());
    }
    let manifest = br#"{"schemaVersion": 2}"#;
    let digest = client.push_manifest(&to, OCI_MANIFEST, manifest).await.unwrap();
    assert_eq!(
        (registry.manifest(REPOSITORY, "v1").unwrap(), digest),
        (manifest.to_vec(), Digest::of(manifest))
    );
    let scopes = registry.seen().into_iter().filter(|seen| seen.path.starts_with("/token"));
    assert!(scopes.map(|seen| seen.path).all(|path| path.contains("pull%2Cpush")));
}

#[tokio::test]
async fn a_registry_that_stores_something_else_is_caught() {
    let registry = TestRegistry::start().await.unwrap();
    let other = Digest::of(b"other").to_string();
    registry.inject(Route::Manifest, 1, Fault::Header("docker-content-digest", other));
    let error = client().push_manifest(&reference(&registry), OCI_MANIFEST, b"{}").await.unwrap_err();
    assert!(matches!(error, RegistryError::Invalid { source: Violation::Digest { .. }, .. }), "{error:?}");
}

/// A server's TLS settings and the authority that vouches for them.
fn tls() -> (rustls::ServerConfig, Vec<u8>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let pem = authority.pem().into_bytes();
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    (config, pem)
}

#[tokio::test]
async fn tls_is_verified_unless_told_otherwise() {
    let (config, authority) = tls();
    let registry = TestRegistry::start_tls(config).await.unwrap();
    registry.put_image(REPOSITORY, "v1", "amd64", &[layer(&[("a", b"x")])]);
    let image = reference(&registry);
    let transport = Transport::new(Proxies::default());
    let ask = async |tls: TlsSettings| {
        let client = Registry::new(&transport, &tls, Keyring::default(), quick()).unwrap();
        client.image(&image, &amd64()).await
    };
    let error = ask(TlsSettings::default()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { source: Trouble::Certificate(_), .. }), "{error:?}");
    ask(TlsSettings { authority: Some(authority), ..TlsSettings::default() }).await.unwrap();
    ask(TlsSettings { skip_verify: true, ..TlsSettings::default() }).await.unwrap();
    // A registry on TLS must not lead to one without, nor its users to a token service without.
    let plain = TestRegistry::start().await.unwrap();
    let skip = TlsSettings { skip_verify: true, ..TlsSettings::default() };
    registry.inject(
        Route::Manifest,
        1,
        Fault::Status(302, Some(("location", format!("{}/v2/", plain.url())))),
    );
    assert!(matches!(
        ask(skip.clone()).await,
        Err(RegistryError::Invalid { source: Violation::Redirect, .. })
    ));
    let realm = Some(format!("{}/token", plain.url()));
    registry.require(Auth::Token { user: "ada".to_owned(), password: "hunter2".to_owned(), realm });
    assert!(matches!(
        ask(skip).await,
        Err(RegistryError::Invalid { source: Violation::TokenService(_), .. })
    ));
    assert!(plain.seen().is_empty());
}

#[tokio::test]
async fn proxies_are_used_except_where_they_are_not_to_be() {
    let (registry, image, _) = stocked().await;
    let proxy = TestRegistry::start().await.unwrap();
    let client = |except: &str| {
        let except = except.to_owned();
        let proxies = Proxies::from_variables(|name| match name {
            "HTTP_PROXY" => Some(proxy.url()),
            "NO_PROXY" => Some(except.clone()),
            _ => None,
        });
        Registry::new(&Transport::new(proxies), &plain(), Keyring::default(), quick()).unwrap()
    };
    client("127.0.0.1").resolve(&image).await.unwrap();
    assert!(proxy.seen().is_empty());
    // The proxy is no proxy, but it was asked.
    assert!(client("").resolve(&image).await.is_err());
    assert_eq!((proxy.seen().len(), registry.seen().len()), (1, 1));
}
