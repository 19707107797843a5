//! The depot's client against a real TLS server that misbehaves in every way it can.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test program: whatever fails ends it")]

mod support;

use std::convert::Infallible;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tenon_agent::depot::{Depot, DepotError, Fetched, Interrupted};
use tenon_agent::https::HttpsError;
use tenon_image::bundle::BundleReader;
use tenon_order::Digest;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// What the server does with one request.
enum Deed {
    /// Answers with the whole, or with the rest that was asked for.
    Serve,
    /// Sends this many bytes and then hangs up.
    BreakAfter(usize),
    /// Sends this many bytes and then nothing.
    StallAfter(usize),
    /// Answers with a status and headers.
    Answer(StatusCode, &'static [(&'static str, &'static str)]),
    /// Answers a range with another.
    OtherRange,
    /// Serves another form of the bundle under another tag from now on.
    Repacked(Vec<u8>),
}

struct Server {
    address: SocketAddr,
    certificate: String,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

struct State {
    content: Vec<u8>,
    etag: &'static str,
    deeds: Vec<Deed>,
    /// Path, authorization and range of each request.
    asked: Vec<(String, String, Option<String>)>,
}

impl Server {
    async fn start(content: Vec<u8>, deeds: Vec<Deed>) -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![cert.der().clone()], key)
                .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { content, etag: "\"one\"", deeds, asked: vec![] }));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), Arc::clone(&state)));
        Self { address, certificate: cert.pem(), state, _tasks: tasks }
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    fn ranges(&self) -> Vec<Option<String>> {
        self.state.lock().unwrap().asked.iter().map(|(_, _, range)| range.clone()).collect()
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, state) = (tls.clone(), Arc::clone(&state));
        connections.spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(|request| {
                let response = answer(&state, &request);
                async { Ok::<_, Infallible>(response) }
            });
            // The client hanging up is part of what is tested.
            drop(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}

fn answer(state: &Mutex<State>, request: &Request<Incoming>) -> Response<Body> {
    let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let mut state = state.lock().unwrap();
    let range = header("range").filter(|_| header("if-range").as_deref() == Some(state.etag));
    state.asked.push((
        request.uri().path().to_owned(),
        header("authorization").unwrap_or_default(),
        header("range"),
    ));
    let deed = if state.deeds.is_empty() { Deed::Serve } else { state.deeds.remove(0) };
    match deed {
        Deed::Serve => whole_or_rest(&state, range, None),
        Deed::BreakAfter(bytes) => whole_or_rest(&state, range, Some((bytes, End::Break))),
        Deed::StallAfter(bytes) => whole_or_rest(&state, range, Some((bytes, End::Stall))),
        Deed::Answer(status, headers) => {
            let response = headers
                .iter()
                .fold(Response::builder(), |response, (name, value)| response.header(*name, *value));
            response.status(status).body(full(Bytes::new())).unwrap()
        }
        Deed::OtherRange => Response::builder()
            .status(StatusCode::PARTIAL_CONTENT)
            .header("etag", state.etag)
            .header("content-range", "bytes 1-2/3")
            .body(full(Bytes::from_static(b"xx")))
            .unwrap(),
        Deed::Repacked(content) => {
            state.content = content;
            state.etag = "\"two\"";
            whole_or_rest(&state, None, None)
        }
    }
}

#[derive(Clone, Copy)]
enum End {
    Break,
    Stall,
}

fn whole_or_rest(state: &State, range: Option<String>, end: Option<(usize, End)>) -> Response<Body> {
    let from =
        range.map(|range| range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap());
    let content = Bytes::copy_from_slice(&state.content[from.unwrap_or(0)..]);
    let mut response = Response::builder().header("etag", state.etag).header("content-length", content.len());
    if let Some(from) = from {
        let total = state.content.len();
        response = response
            .status(StatusCode::PARTIAL_CONTENT)
            .header("content-range", format!("bytes {from}-{}/{total}", total - 1));
    }
    let body = match end {
        None => full(content),
        Some((bytes, end)) => partial(content.slice(..bytes), end),
    };
    response.body(body).unwrap()
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn partial(bytes: Bytes, end: End) -> Body {
    let first = futures::stream::iter([Ok(Frame::data(bytes))]);
    let rest = futures::stream::once(async move {
        match end {
            End::Stall => std::future::pending::<()>().await,
            // The bytes before shall arrive: hyper sends what it has whenever a body has nothing to give.
            End::Break => tokio::task::yield_now().await,
        }
        Err(std::io::Error::other("hang up"))
    });
    StreamBody::new(first.chain(rest)).boxed_unsync()
}

/// The agent's side: the directories that the kubelet would provide.
struct Client {
    dir: TempDir,
    depot: Depot,
}

impl Client {
    fn new(addresses: &[String], certificates: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let work_dir = dir.path().join("work");
        std::fs::create_dir(&work_dir).unwrap();
        std::fs::write(dir.path().join("addresses"), addresses.join("\n") + "\n").unwrap();
        std::fs::write(dir.path().join("ca.crt"), certificates.concat()).unwrap();
        std::fs::write(dir.path().join("token"), "a-token\n").unwrap();
        let depot = Depot {
            dir: dir.path().to_owned(),
            token_file: dir.path().join("token"),
            work_dir,
            patience: Duration::from_millis(500),
        };
        Self { dir, depot }
    }

    fn of(server: &Server) -> Self {
        Self::new(&[server.url()], &[&server.certificate])
    }

    fn assert_nothing_is_left(&self) {
        let left: Vec<_> = std::fs::read_dir(&self.depot.work_dir).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn some_bundle() -> (Digest, Vec<u8>) {
    support::bundle(&[("modules/nic.ko", &support::noise(300_000)), ("modules/modules.dep", b"nic.ko:\n")])
}

/// The digest of what has arrived: a failed comparison of the bytes themselves would fill the screen.
fn read(mut fetched: Fetched) -> Digest {
    let mut bytes = vec![];
    fetched.file.read_to_end(&mut bytes).unwrap();
    Digest::of(&bytes)
}

fn message(error: &DepotError) -> String {
    tenon_api::message::chain(error)
}

#[tokio::test]
async fn a_bundle_arrives_whole_and_leaves_no_file() {
    let (name, content) = some_bundle();
    let server = Server::start(content.clone(), vec![]).await;
    let client = Client::of(&server);
    let fetched = client.depot.fetch(name, None).await.unwrap();
    assert_eq!(fetched.from.to_string(), server.url());
    assert_eq!(read(fetched), Digest::of(&content));
    let asked = &server.state.lock().unwrap().asked;
    assert_eq!(*asked, [(format!("/v1/bundles/{name}"), "Bearer a-token".to_owned(), None)]);
    client.assert_nothing_is_left();
}

#[tokio::test]
async fn an_interrupted_transfer_goes_on_where_it_ended() {
    let (name, content) = some_bundle();
    let server =
        Server::start(content.clone(), vec![Deed::BreakAfter(100_000), Deed::BreakAfter(70_000)]).await;
    let client = Client::of(&server);
    let fetched = client.depot.fetch(name, None).await.unwrap();
    assert_eq!(read(fetched), Digest::of(&content));
    let ranges = server.ranges();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned()), Some("bytes=170000-".to_owned())]);
}

#[tokio::test]
async fn what_has_arrived_is_kept_for_the_next_try() {
    let (name, content) = some_bundle();
    let deeds = vec![Deed::BreakAfter(10_000)];
    let server = Server::start(content.clone(), deeds).await;
    let client = Client::of(&server);
    // Too little for another try at once.
    let Interrupted { error, transfer } = client.depot.fetch(name, None).await.unwrap_err();
    assert!(matches!(error, DepotError::Https(HttpsError::Http { .. })), "{error:?}");
    client.assert_nothing_is_left();
    let fetched = client.depot.fetch(name, transfer).await.unwrap();
    assert_eq!(read(fetched), Digest::of(&content));
    assert_eq!(server.ranges(), [None, Some("bytes=10000-".to_owned())]);
}

#[tokio::test]
async fn a_bundle_that_was_packed_anew_meanwhile_is_fetched_from_the_start() {
    let (name, content) = some_bundle();
    let deeds = vec![Deed::BreakAfter(100_000), Deed::Repacked(b"another form".to_vec())];
    let server = Server::start(content, deeds).await;
    let fetched = Client::of(&server).depot.fetch(name, None).await.unwrap();
    assert_eq!(read(fetched), Digest::of(b"another form"));
}

#[tokio::test]
async fn a_wrong_range_is_refused_and_the_transfer_begins_again() {
    let (name, content) = some_bundle();
    let server = Server::start(content.clone(), vec![Deed::BreakAfter(100_000), Deed::OtherRange]).await;
    let client = Client::of(&server);
    let Interrupted { error, transfer } = client.depot.fetch(name, None).await.unwrap_err();
    assert!(message(&error).contains("asked for the bytes from 100000 on"), "{}", message(&error));
    assert_eq!(read(client.depot.fetch(name, transfer).await.unwrap()), Digest::of(&content));
    assert_eq!(server.ranges().last(), Some(&None));
}

#[tokio::test]
async fn a_silent_depot_is_given_up() {
    let (name, content) = some_bundle();
    let server = Server::start(content, vec![Deed::StallAfter(10)]).await;
    let interrupted = Client::of(&server).depot.fetch(name, None).await.unwrap_err();
    assert!(
        matches!(interrupted.error, DepotError::Https(HttpsError::Silent { .. })),
        "{:?}",
        interrupted.error
    );
    assert_eq!(interrupted.transfer.unwrap().length(), 10);
}

#[tokio::test]
async fn a_busy_depot_says_when_to_come_back() {
    for status in [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE] {
        let (name, content) = some_bundle();
        let server = Server::start(content, vec![Deed::Answer(status, &[("retry-after", "17")])]).await;
        let error = Client::of(&server).depot.fetch(name, None).await.unwrap_err().error;
        assert_eq!(error.retry_after(), Some(Duration::from_secs(17)));
        assert!(message(&error).contains(&server.url()), "{}", message(&error));
    }
}

#[tokio::test]
async fn a_refusal_names_the_address_the_status_and_what_it_means() {
    for (status, meaning) in [
        (StatusCode::UNAUTHORIZED, "401 Unauthorized: it does not accept this pod's token"),
        (StatusCode::FORBIDDEN, "403 Forbidden: the operator has not assigned the bundle to this node"),
        (StatusCode::NOT_FOUND, "404 Not Found: it cannot make the bundle"),
        (StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error"),
    ] {
        let (name, content) = some_bundle();
        let server = Server::start(content, vec![Deed::Answer(status, &[])]).await;
        let error = Client::of(&server).depot.fetch(name, None).await.unwrap_err().error;
        assert!(
            message(&error).starts_with(&format!("{} answered {meaning}", server.url())),
            "{}",
            message(&error)
        );
        assert_eq!(error.retry_after(), None);
    }
}

#[tokio::test]
async fn every_address_is_tried_and_one_that_serves_is_enough() {
    let (name, content) = some_bundle();
    let refusals = std::iter::repeat_with(|| Deed::Answer(StatusCode::FORBIDDEN, &[]));
    let refusing = Server::start(vec![], refusals.take(6).collect()).await;
    let serving = Server::start(content.clone(), vec![]).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let addresses = [format!("https://{gone}"), refusing.url(), serving.url()];
    let client = Client::new(&addresses, &[&refusing.certificate, &serving.certificate]);
    for _ in 0..6 {
        assert_eq!(read(client.depot.fetch(name, None).await.unwrap()), Digest::of(&content));
    }
}

#[tokio::test]
async fn of_several_refusals_the_one_that_says_most_is_told() {
    let name = Digest::of(b"");
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let busy =
        || vec![Deed::Answer(StatusCode::SERVICE_UNAVAILABLE, &[]), Deed::Answer(StatusCode::NOT_FOUND, &[])];
    let server = Server::start(vec![], busy()).await;
    let client = Client::new(&[format!("https://{gone}"), server.url()], &[&server.certificate]);
    assert!(matches!(client.depot.fetch(name, None).await.unwrap_err().error, DepotError::Busy { .. }));
    assert!(matches!(client.depot.fetch(name, None).await.unwrap_err().error, DepotError::Status { .. }));
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_not_believed_and_nothing_is_asked() {
    let server = Server::start(vec![], vec![]).await;
    let other = Server::start(vec![], vec![]).await;
    let client = Client::new(&[server.url()], &[&other.certificate]);
    let error = client.depot.fetch(Digest::of(b""), None).await.unwrap_err().error;
    assert!(matches!(error, DepotError::Https(HttpsError::Tls { .. })), "{error:?}");
    assert!(server.ranges().is_empty());
}

#[tokio::test]
async fn what_the_kubelet_renews_is_used_at_once() {
    let (name, content) = some_bundle();
    let server = Server::start(content, vec![]).await;
    let client = Client::new(&[], &[]);
    let error = client.depot.fetch(name, None).await.unwrap_err().error;
    assert!(matches!(error, DepotError::Https(HttpsError::Certificates { .. })), "{error:?}");
    std::fs::write(client.dir.path().join("ca.crt"), &server.certificate).unwrap();
    let error = client.depot.fetch(name, None).await.unwrap_err().error;
    assert!(matches!(error, DepotError::NoAddress { .. }), "{error:?}");
    std::fs::write(client.dir.path().join("addresses"), format!("\n  {}/  \n", server.url())).unwrap();
    std::fs::write(client.dir.path().join("token"), "renewed").unwrap();
    client.depot.fetch(name, None).await.unwrap();
    assert_eq!(server.state.lock().unwrap().asked[0].1, "Bearer renewed");
}

#[tokio::test]
async fn a_missing_or_broken_setting_is_named() {
    let server = Server::start(vec![], vec![]).await;
    for (file, content, expected) in [
        ("addresses", Some("http://depot"), "addresses: \"http://depot\" is not https://host[:port]"),
        ("addresses", None, "addresses, which the operator or the kubelet provides"),
        ("ca.crt", Some("nonsense"), "ca.crt holds no certificate"),
        ("token", Some(" \n"), "token holds no token"),
        ("token", None, "token, which the operator or the kubelet provides"),
    ] {
        let client = Client::of(&server);
        let path = client.dir.path().join(file);
        match content {
            Some(content) => std::fs::write(&path, content).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let error = client.depot.fetch(Digest::of(b""), None).await.unwrap_err().error;
        assert!(message(&error).contains(expected), "{}", message(&error));
    }
}

#[tokio::test]
async fn wrong_bytes_are_for_the_reader_to_refuse() {
    let (name, _) = some_bundle();
    let (_, other) = support::bundle(&[("modules/other.ko", b"other")]);
    let server = Server::start(other, vec![]).await;
    let fetched = Client::of(&server).depot.fetch(name, None).await.unwrap();
    let error = BundleReader::open(fetched.file, &name).unwrap_err();
    assert!(error.to_string().contains(&name.to_string()), "{error}");
}
