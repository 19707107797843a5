//! The depot as agents meet it: real TLS, real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rstest::rstest;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tenon_order::Digest;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::testing::{bundle, bundle_of_size, file};
use super::token::tests::Authority;
use super::*;
use crate::args::ByteSize;
use crate::identity::authority::Serving;
use crate::identity::serving::ServingCertificate;
use crate::metrics::{Metrics, Rejection};

const DEADLINE: Duration = Duration::from_secs(20);

/// A running depot and everything around it.
struct Running {
    address: SocketAddr,
    serving: Serving,
    certificate: Arc<ServingCertificate>,
    authority: Authority,
    assignments: Assignments,
    cache: Arc<BundleCache>,
    wanted: Wanted,
    kernels: Kernels,
    received: tokio::sync::mpsc::Receiver<Upload>,
    pulled: Pulled,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
    _directory: TempDir,
}

fn serving() -> Serving {
    Serving::renewed(None, &["127.0.0.1".to_owned()], Timestamp::now().as_second()).unwrap()
}

async fn start(transfers: u16) -> Running {
    let (directory, authority, metrics) =
        (TempDir::new().unwrap(), Authority::new(), Arc::new(Metrics::new()));
    let (assignments, wanted, shutdown) =
        (Assignments::default(), Wanted::default(), CancellationToken::new());
    let cache = BundleCache::open(directory.path(), ByteSize(1 << 30), assignments.clone(), metrics.clone())
        .await
        .unwrap();
    let cache = Arc::new(cache);
    let (serving, certificate) = (serving(), Arc::new(ServingCertificate::default()));
    certificate.set(&serving.leaf).unwrap();
    let kernels = Kernels::default();
    let pulled = Pulled::default();
    let (uploads, received) = tokio::sync::mpsc::channel(1);
    let depot = Depot {
        assignments: assignments.clone(),
        cache: cache.clone(),
        wanted: wanted.clone(),
        metrics: metrics.clone(),
        verifier: TokenVerifier::of_issuer(authority.issuer(), "drivers"),
        transfers,
        kernels: kernels.clone(),
        uploads,
        pulled: pulled.clone(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::new(depot, certificate.clone()).unwrap();
    let ended = tokio::spawn(server.run(listener, shutdown.clone()));
    Running {
        address,
        serving,
        certificate,
        authority,
        assignments,
        cache,
        wanted,
        kernels,
        received,
        pulled,
        metrics,
        shutdown,
        ended,
        _directory: directory,
    }
}

impl Running {
    /// A bundle that is on disk and assigned to the node `pine`.
    async fn offer(&self, bundle: &(Digest, Vec<u8>)) {
        let from = file(self.cache.staging(), "new", &bundle.1);
        self.cache.insert(bundle.0, &from).await.unwrap();
        self.assignments.set(&"pine".parse().unwrap(), [bundle.0]);
        self.assignments.complete();
    }

    async fn connect(&self, trusted: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(trusted.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(config).connect(ServerName::IpAddress(self.address.ip().into()), stream).await
    }

    async fn send<B>(&self, request: Request<B>) -> Response<hyper::body::Incoming>
    where
        B: hyper::body::Body<Data = Bytes, Error = std::convert::Infallible> + Send + 'static,
    {
        let stream = self.connect(&self.serving.trusted()).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        tokio::time::timeout(DEADLINE, sender.send_request(request)).await.expect("an answer").unwrap()
    }

    /// A request of `pine`'s agent.
    fn request(&self, bundle: &Digest) -> http::request::Builder {
        let token = self.authority.token("pine", Timestamp::now().as_second());
        Request::get(format!("/v1/bundles/{bundle}")).header("authorization", format!("Bearer {token}"))
    }

    async fn get(&self, bundle: &Digest, headers: &[(&str, &str)]) -> Response<hyper::body::Incoming> {
        let request = self.request(bundle);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        self.send(request.body(Empty::new()).unwrap()).await
    }
}

async fn bytes(response: Response<hyper::body::Incoming>) -> Bytes {
    tokio::time::timeout(DEADLINE, response.into_body().collect())
        .await
        .expect("a whole body")
        .unwrap()
        .to_bytes()
}

fn header<'a>(response: &'a Response<hyper::body::Incoming>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_node_gets_the_bundle_that_it_is_assigned() {
    let depot = start(4).await;
    let offered = bundle_of_size(700_000, 1);
    depot.offer(&offered).await;
    let response = depot.get(&offered.0, &[]).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, "etag"), format!("\"{}\"", Digest::of(&offered.1)));
    assert_eq!(header(&response, "content-length"), offered.1.len().to_string());
    assert_eq!(bytes(response).await, offered.1);
    assert_eq!(depot.metrics.sent.get(), offered.1.len() as u64);
}

#[tokio::test]
async fn head_tells_everything_but_the_bytes() {
    let depot = start(4).await;
    let offered = bundle(b"driver", 3);
    depot.offer(&offered).await;
    let request = depot.request(&offered.0).method("HEAD").body(Empty::new()).unwrap();
    let response = depot.send(request).await;
    assert_eq!(header(&response, "content-length"), offered.1.len().to_string());
    assert!(bytes(response).await.is_empty());
}

#[tokio::test]
async fn an_interrupted_download_goes_on_where_it_stopped() {
    let depot = start(4).await;
    let offered = bundle_of_size(10_000, 1);
    depot.offer(&offered).await;
    let etag = format!("\"{}\"", Digest::of(&offered.1));
    let rest = depot.get(&offered.0, &[("range", "bytes=4000-"), ("if-range", &etag)]).await;
    assert_eq!(rest.status(), StatusCode::PARTIAL_CONTENT);
    let size = offered.1.len();
    assert_eq!(header(&rest, "content-range"), format!("bytes 4000-{}/{size}", size - 1));
    assert_eq!(bytes(rest).await, offered.1[4000..]);
}

#[tokio::test]
async fn a_range_of_other_bytes_is_answered_with_all_of_these() {
    let depot = start(4).await;
    let content = vec![7; 5000];
    let (weak, strong) = (bundle(&content, 1), bundle(&content, 19));
    assert_eq!(weak.0, strong.0, "compression does not count for the name");
    depot.offer(&weak).await;
    let begun_elsewhere = format!("\"{}\"", Digest::of(&strong.1));
    let whole = depot.get(&weak.0, &[("range", "bytes=5-"), ("if-range", &begun_elsewhere)]).await;
    assert_eq!(whole.status(), StatusCode::OK);
    assert_eq!(bytes(whole).await, weak.1);
}

#[tokio::test]
async fn a_range_beyond_the_end_tells_where_the_end_is() {
    let depot = start(4).await;
    let offered = bundle(b"driver", 3);
    depot.offer(&offered).await;
    let response = depot.get(&offered.0, &[("range", "bytes=9999999-")]).await;
    assert_eq!(response.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(header(&response, "content-range"), format!("bytes */{}", offered.1.len()));
}

#[tokio::test]
async fn a_node_gets_nothing_else() {
    let depot = start(4).await;
    depot.offer(&bundle(b"driver", 3)).await;
    let others = bundle(b"another nodes driver", 3);
    depot.cache.insert(others.0, &file(depot.cache.staging(), "other", &others.1)).await.unwrap();
    assert_eq!(depot.get(&others.0, &[]).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(depot.metrics.rejections(Rejection::NotAssigned), 1);
}

#[tokio::test]
async fn before_assignments_are_known_nobody_is_refused_for_good() {
    let depot = start(4).await;
    let response = depot.get(&Digest::of(b"any"), &[]).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(!header(&response, "retry-after").is_empty());
}

#[tokio::test]
async fn an_assigned_bundle_that_is_missing_is_asked_for() {
    let depot = start(4).await;
    let missing = Digest::of(b"missing");
    depot.assignments.set(&"pine".parse().unwrap(), [missing]);
    let response = depot.get(&missing, &[]).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(header(&response, "retry-after"), "5");
    let wanted = tokio::time::timeout(DEADLINE, depot.wanted.take()).await.expect("a wish");
    assert_eq!(wanted, [missing].into());
}

#[rstest]
#[case::none(None, Rejection::TokenMalformed)]
#[case::basic(Some("Basic cGluZTpwaW5l"), Rejection::TokenMalformed)]
#[case::garbage(Some("Bearer x"), Rejection::TokenMalformed)]
#[tokio::test]
async fn without_a_token_there_is_nothing(#[case] authorization: Option<&str>, #[case] reason: Rejection) {
    let depot = start(4).await;
    let offered = bundle(b"driver", 3);
    depot.offer(&offered).await;
    let mut request = Request::get(format!("/v1/bundles/{}", offered.0));
    if let Some(value) = authorization {
        request = request.header("authorization", value);
    }
    let response = depot.send(request.body(Empty::new()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(header(&response, "www-authenticate"), "Bearer");
    assert_eq!(depot.metrics.rejections(reason), 1);
    assert_eq!(bytes(response).await, "no well-formed bearer token\n");
}

#[tokio::test]
async fn another_issuers_token_is_refused() {
    let depot = start(4).await;
    let forged = Authority::new().token("pine", Timestamp::now().as_second());
    let request = Request::get(format!("/v1/bundles/{}", Digest::of(b"x")));
    let request = request.header("authorization", format!("Bearer {forged}")).body(Empty::new()).unwrap();
    assert_eq!(depot.send(request).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(depot.metrics.rejections(Rejection::TokenSignature), 1);
}

#[rstest]
#[case("GET", "/", StatusCode::NOT_FOUND)]
#[case("GET", "/v1/bundles/sha256:abc", StatusCode::NOT_FOUND)]
#[case("GET", "/v1/bundles/../../etc/passwd", StatusCode::NOT_FOUND)]
#[tokio::test]
async fn there_is_no_other_path(#[case] method: &str, #[case] path: &str, #[case] status: StatusCode) {
    let depot = start(4).await;
    let request = Request::builder().method(method).uri(path).body(Empty::new()).unwrap();
    assert_eq!(depot.send(request).await.status(), status);
}

#[rstest]
#[case::no_bundle_can_be_written(
    "PUT",
    "bundles/sha256:0000000000000000000000000000000000000000000000000000000000000000",
    "GET, HEAD"
)]
#[case::facts_are_not_given_away("GET", "kernels/6.1.0/00", "HEAD, PUT")]
#[tokio::test]
async fn other_methods_are_refused(#[case] method: &str, #[case] path: &str, #[case] allowed: &str) {
    let depot = start(4).await;
    let request = depot.request(&Digest::of(b"x")).method(method).uri(format!("/v1/{path}"));
    let response = depot.send(request.body(Empty::new()).unwrap()).await;
    assert_eq!((response.status(), header(&response, "allow")), (StatusCode::METHOD_NOT_ALLOWED, allowed));
}

#[tokio::test]
async fn large_headers_are_refused() {
    let depot = start(4).await;
    let request = depot.request(&Digest::of(b"x")).header("x-large", "x".repeat(64 * 1024));
    let response = depot.send(request.body(Empty::new()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

#[tokio::test]
async fn a_busy_depot_asks_to_come_back() {
    let depot = start(1).await;
    // More than the sockets' buffers take, so that the first transfer cannot end before it is read.
    let offered = bundle_of_size(24 << 20, 1);
    depot.offer(&offered).await;
    depot.assignments.set(&"oak".parse().unwrap(), [offered.0]);
    let running = depot.get(&offered.0, &[]).await;
    assert_eq!(running.status(), StatusCode::OK);
    let token = depot.authority.token("oak", Timestamp::now().as_second());
    let oaks =
        Request::get(format!("/v1/bundles/{}", offered.0)).header("authorization", format!("Bearer {token}"));
    let response = depot.send(oaks.body(Empty::new()).unwrap()).await;
    assert_eq!((response.status(), header(&response, "retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "2"));
    assert_eq!(bytes(running).await.len(), offered.1.len());
    assert_eq!(
        bytes(depot.get(&offered.0, &[]).await).await.len(),
        offered.1.len(),
        "the place is free again"
    );
}

#[tokio::test]
async fn one_node_takes_no_more_than_its_share() {
    let depot = start(8).await;
    let offered = bundle_of_size(24 << 20, 1);
    depot.offer(&offered).await;
    let _running = [depot.get(&offered.0, &[]).await, depot.get(&offered.0, &[]).await];
    let third = depot.get(&offered.0, &[]).await;
    assert_eq!((third.status(), header(&third, "retry-after")), (StatusCode::TOO_MANY_REQUESTS, "2"));
}

#[tokio::test]
async fn a_renewed_certificate_is_served_without_a_restart() {
    let depot = start(4).await;
    let other = serving();
    assert!(depot.connect(&other.trusted()).await.is_err());
    depot.certificate.set(&other.leaf).unwrap();
    assert!(depot.connect(&other.trusted()).await.is_ok());
}

#[tokio::test]
async fn a_running_transfer_outlives_the_shutdown() {
    let depot = start(4).await;
    let offered = bundle_of_size(24 << 20, 1);
    depot.offer(&offered).await;
    let running = depot.get(&offered.0, &[]).await;
    depot.shutdown.cancel();
    assert_eq!(bytes(running).await.len(), offered.1.len());
    tokio::time::timeout(DEADLINE, depot.ended).await.expect("the depot ends").unwrap();
}

/// A request of a node's agent about a build of a kernel.
fn about(depot: &Running, node: &str, method: &str, build: &Build, body: Vec<u8>) -> Request<Full<Bytes>> {
    let token = depot.authority.token(node, Timestamp::now().as_second());
    Request::builder()
        .method(method)
        .uri(format!("/v1/kernels/{}/{}", build.release, build.build_id))
        .header("authorization", format!("Bearer {token}"))
        .body(Full::from(body))
        .unwrap()
}

fn facts(build: &Build) -> Vec<u8> {
    use tenon_kmod::object::Architecture;
    let mut facts = tenon_kmod::facts::KernelFacts::new(
        build.release.parse().unwrap(),
        Architecture::named("amd64").unwrap(),
    );
    facts.build_id = Some(build.build_id.parse().unwrap());
    facts.encode()
}

fn running(build: &Build) -> RunningKernel {
    RunningKernel { build: build.clone(), architecture: "amd64".to_owned(), uid: "u-1".to_owned() }
}

#[tokio::test]
async fn one_node_is_asked_for_facts_about_its_own_kernel_and_no_other_node_or_kernel_counts() {
    let mut depot = start(4).await;
    let build = Build::parse("6.1.0/00ff").unwrap();
    let other = Build::parse("6.1.0/11ee").unwrap();
    let status = async |depot: &Running, node, method, build: &Build, body| {
        depot.send(about(depot, node, method, build, body)).await.status().as_u16()
    };
    assert_eq!(status(&depot, "pine", "HEAD", &build, vec![]).await, 503, "nothing is known yet");
    depot.kernels.complete();
    assert_eq!(status(&depot, "pine", "HEAD", &build, vec![]).await, 403, "it has not reported its kernel");
    for node in ["pine", "oak"] {
        depot.kernels.set_node(&node.parse().unwrap(), Some(running(&build)));
    }
    assert_eq!(status(&depot, "pine", "HEAD", &build, vec![]).await, 404, "wanted");
    assert_eq!(status(&depot, "oak", "HEAD", &build, vec![]).await, 409, "another is asked");
    assert_eq!(status(&depot, "oak", "PUT", &build, facts(&build)).await, 409);
    assert_eq!(status(&depot, "pine", "PUT", &other, facts(&other)).await, 403, "not its own");
    assert_eq!(status(&depot, "pine", "PUT", &build, facts(&other)).await, 422, "another build's");
    let elsewhere = RunningKernel { architecture: "arm64".to_owned(), ..running(&build) };
    depot.kernels.set_node(&"pine".parse().unwrap(), Some(elsewhere));
    assert_eq!(status(&depot, "pine", "PUT", &build, facts(&build)).await, 422, "another architecture's");
    depot.kernels.set_node(&"pine".parse().unwrap(), Some(running(&build)));
    assert_eq!(status(&depot, "pine", "PUT", &build, b"TENONKF1 nonsense".to_vec()).await, 422);
    let large = vec![0; tenon_api::kernel_facts::MAX_BYTES + 1];
    assert_eq!(status(&depot, "pine", "PUT", &build, large).await, 422, "too large");
    assert_eq!(status(&depot, "pine", "GET", &build, vec![]).await, 405);
    assert!(depot.received.try_recv().is_err(), "nothing of that is kept");

    for (kept, expected) in [(false, 503), (true, 204)] {
        let request = about(&depot, "pine", "PUT", &build, facts(&build));
        let mut received = std::mem::replace(&mut depot.received, tokio::sync::mpsc::channel(1).1);
        let taken = tokio::spawn(async move {
            let upload = received.recv().await.expect("an upload");
            upload.kept.send(kept).unwrap();
            (upload.node, upload.facts, received)
        });
        assert_eq!(depot.send(request).await.status().as_u16(), expected);
        let (node, bytes, received) = taken.await.unwrap();
        assert_eq!((node.as_ref(), bytes), ("pine", Bytes::from(facts(&build))));
        depot.received = received;
    }
    depot.kernels.set_node(&"pine".parse().unwrap(), Some(running(&other)));
    assert_eq!(status(&depot, "pine", "HEAD", &other, vec![]).await, 429, "it has just told of another");
    depot.kernels.set_node(&"pine".parse().unwrap(), Some(running(&build)));
    depot.kernels.set_facts("a", Some((build.release.clone(), Some(build.build_id.clone()))));
    assert_eq!(status(&depot, "oak", "HEAD", &build, vec![]).await, 204);
    assert_eq!(status(&depot, "pine", "PUT", &build, b"anything".to_vec()).await, 204, "what is there stays");
}

fn bringing(token: &str, method: &str, bytes: &'static [u8]) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri("/v1/pulled")
        .header("host", "depot")
        .header("authorization", format!("Bearer {token}"))
        .body(Full::new(Bytes::from_static(bytes)))
        .unwrap()
}

#[tokio::test]
async fn a_pod_brings_what_is_expected_of_it_and_an_agents_token_or_another_pods_brings_nothing() {
    let depot = start(1).await;
    let now = Timestamp::now().as_second();
    let status =
        async |token: &str, method: &str| depot.send(bringing(token, method, b"a layer")).await.status();
    let token = depot.authority.pods_token("p-1", now);
    assert_eq!(status(&token, "PUT").await, StatusCode::SERVICE_UNAVAILABLE, "not expected yet");
    depot.pulled.expect("p-1");
    let agents = depot.authority.token("pine", now);
    assert_eq!(status(&agents, "PUT").await, StatusCode::UNAUTHORIZED);
    let another = depot.authority.pods_token("p-2", now);
    assert_eq!(status(&another, "PUT").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(status(&token, "HEAD").await, StatusCode::NO_CONTENT);
    assert_eq!(status(&token, "GET").await, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(status(&token, "PUT").await, StatusCode::NO_CONTENT);
    assert_eq!(status(&token, "PUT").await, StatusCode::CONFLICT, "once");
    assert_eq!(depot.pulled.take("p-1").unwrap().digest, Digest::of(b"a layer"));
    let bundle = bundle(b"driver", 3);
    depot.offer(&bundle).await;
    let asked = Request::get(format!("/v1/bundles/{}", bundle.0))
        .header("host", "depot")
        .header("authorization", format!("Bearer {token}"));
    let asked = depot.send(asked.body(Empty::<Bytes>::new()).unwrap()).await;
    assert_eq!(asked.status(), StatusCode::UNAUTHORIZED, "a pod's token fetches nothing");
}
