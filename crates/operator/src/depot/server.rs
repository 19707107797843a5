//! The depot's server: connections, and what happens to one request.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tenon_api::pull;
use tenon_order::{Digest, NodeName};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::answer::{Body, Refused, Selected, known};
use super::assignments::{Assignments, Verdict};
use super::cache::{BundleCache, CachedBundle};
use super::issuer::{TokenError, TokenVerifier};
use super::kernels::{Build, Demand, Kernels};
use super::places::{Place, Places};
use super::pulled::Pulled;
use super::stall::Stalling;
use super::token::Refusal;
use super::transfer::{self, Transfers};
use super::uploads::{Upload, Uploads};
use super::wanted::Wanted;
use crate::identity::serving::ServingCertificate;
use crate::metrics::{Metrics, Rejection};

const PATH: &str = "/v1/bundles/";
const KERNELS: &str = "/v1/kernels/";
/// Nothing read and nothing written for so long ends a connection.
const STALL: Duration = Duration::from_secs(20);
/// For the TLS handshake, and for a request's headers.
const GREETING: Duration = Duration::from_secs(10);
/// Bytes and number of a request's headers: a token and a few more.
const HEADER_BYTES: usize = 32 * 1024;
const HEADERS: usize = 32;

/// What the depot serves from.
#[derive(Debug)]
pub struct Depot {
    /// Which node may have which bundle.
    pub assignments: Assignments,
    /// The bundles on disk.
    pub cache: Arc<BundleCache>,
    /// Where to say that a bundle is missing.
    pub wanted: Wanted,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Who is asking.
    pub verifier: TokenVerifier,
    /// Bundles that are sent at the same time.
    pub transfers: u16,
    /// Which kernels there are facts about, and who is asked for more.
    pub kernels: Kernels,
    /// Where facts go that a node sends.
    pub uploads: mpsc::Sender<Upload>,
    /// What pods bring that take drivers out of images.
    pub pulled: Pulled,
}

/// A depot that can be run.
pub struct Server {
    depot: Arc<Depot>,
    transfers: Transfers,
    uploads: Uploads,
    tls: TlsAcceptor,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("depot", &self.depot).finish_non_exhaustive()
    }
}

impl Server {
    /// Serves with whatever `certificate` holds when a connection begins; without one, handshakes fail.
    pub fn new(depot: Depot, certificate: Arc<ServingCertificate>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(certificate);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let transfers = Transfers::new(depot.transfers, depot.metrics.clone());
        let uploads = Uploads::new(depot.uploads.clone());
        Ok(Server { depot: Arc::new(depot), transfers, uploads, tls: Arc::new(config).into() })
    }

    /// Serves until `shutdown`, then lets running transfers end.
    pub async fn run(self, listener: TcpListener, shutdown: CancellationToken) {
        let server = Arc::new(self);
        let places = Places::new();
        while let Some(accepted) = shutdown.run_until_cancelled(accept(&listener, &places)).await {
            let Some((stream, place)) = accepted else { continue };
            let (server, shutdown) = (server.clone(), shutdown.clone());
            tokio::spawn(async move {
                server.connection(stream, shutdown).await;
                drop(place);
            });
        }
        drop(listener);
        // All places free means that no connection is left.
        places.all_free().await;
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, shutdown: CancellationToken) {
        let handshake = self.tls.accept(Stalling::new(stream, STALL));
        let stream = match tokio::time::timeout(GREETING, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return debug!(%error, "a handshake was not completed"),
            Err(_) => return debug!("a handshake took too long"),
        };
        let service = service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(GREETING)
            .max_buf_size(HEADER_BYTES)
            .max_headers(HEADERS)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(%error, "a connection broke");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if request.uri().path() == pull::PATH {
            return self.told(self.pulled(request).await);
        }
        let served = match request.uri().path().strip_prefix(KERNELS).map(Build::parse) {
            None => self.serve(&request).await,
            Some(None) => Err(Refused::Path),
            Some(Some(build)) => self.kernel(request, build).await,
        };
        self.told(served)
    }

    fn told(&self, served: Result<Response<Body>, Refused>) -> Response<Body> {
        served.unwrap_or_else(|refused| {
            self.depot.metrics.rejected(refused.reason());
            debug!(reason = refused.reason().as_str(), "not served");
            refused.answer()
        })
    }

    async fn serve(&self, request: &Request<Incoming>) -> Result<Response<Body>, Refused> {
        let bundle: Digest = request
            .uri()
            .path()
            .strip_prefix(PATH)
            .and_then(|name| name.parse().ok())
            .ok_or(Refused::Path)?;
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Refused::Method { allowed: "GET, HEAD" });
        }
        let node = self.depot.verifier.verify(bearer(request.headers())?).await?;
        self.check_assigned(&node, &bundle)?;
        let found = self.find(&bundle).await?;
        let selected = Selected::of(request.headers(), found.size, &found.bytes)?;
        if request.method() == Method::HEAD {
            return Ok(selected.answer(Empty::new().map_err(|never| match never {}).boxed_unsync()));
        }
        let place = self.transfers.admit(&node).await.map_err(|full| match full {
            Rejection::NodeBusy => Refused::NodeBusy,
            _ => Refused::Busy,
        })?;
        let sending = transfer::send(found.file, selected.range.clone(), place).await;
        let sending = sending.map_err(|error| unreadable(&bundle, &error))?;
        let body = StreamBody::new(sending.map_ok(Frame::<Bytes>::data)).boxed_unsync();
        Ok(selected.answer(body))
    }

    /// Facts about the kernel that a node runs: whether they are wanted of it, or here they are.
    async fn kernel(&self, request: Request<Incoming>, build: Build) -> Result<Response<Body>, Refused> {
        if !matches!(*request.method(), Method::HEAD | Method::PUT) {
            return Err(Refused::Method { allowed: "HEAD, PUT" });
        }
        let node = self.depot.verifier.verify(bearer(request.headers())?).await?;
        let kernels = &self.depot.kernels;
        match kernels.demand(&node, &build, Instant::now()) {
            Demand::Known => Ok(known()),
            Demand::AskedElsewhere => Err(Refused::AskedElsewhere),
            Demand::ToldLately => Err(Refused::ToldLately),
            Demand::NotItsOwn => Err(Refused::NotItsKernel),
            Demand::Unread => Err(Refused::AssignmentsUnknown),
            Demand::Wanted if request.method() == Method::HEAD => Err(Refused::FactsWanted),
            Demand::Wanted => {
                let running = kernels.running(&node).filter(|running| running.build == build);
                let running = running.ok_or(Refused::NotItsKernel)?;
                self.uploads.take(node.clone(), running, request.into_body()).await?;
                kernels.told(&node, Instant::now());
                Ok(known())
            }
        }
    }

    /// What a pod takes out of an image: whether it is expected, or here it is.
    async fn pulled(&self, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
        if !matches!(*request.method(), Method::HEAD | Method::PUT) {
            return Err(Refused::Method { allowed: "HEAD, PUT" });
        }
        let pod = self.depot.verifier.verify_puller(bearer(request.headers())?).await?;
        if request.method() == Method::HEAD {
            self.depot.pulled.check(&pod)?;
        } else {
            self.depot.pulled.receive(&pod, request.into_body(), self.depot.cache.staging()).await?;
        }
        Ok(known())
    }

    fn check_assigned(&self, node: &NodeName, bundle: &Digest) -> Result<(), Refused> {
        match self.depot.assignments.verdict(node, bundle) {
            Verdict::Assigned => Ok(()),
            Verdict::NotAssigned => Err(Refused::NotAssigned),
            Verdict::Unknown => Err(Refused::AssignmentsUnknown),
        }
    }

    async fn find(&self, bundle: &Digest) -> Result<CachedBundle, Refused> {
        match self.depot.cache.get(bundle).await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => {
                self.depot.wanted.ask(*bundle);
                Err(Refused::NotCached)
            }
            Err(error) => Err(unreadable(bundle, &error)),
        }
    }
}

fn unreadable(bundle: &Digest, error: &dyn std::fmt::Display) -> Refused {
    warn!(%bundle, %error, "a bundle could not be read");
    Refused::Unreadable
}

/// The next connection, once there is a place for it.
async fn accept(listener: &TcpListener, places: &Places) -> Option<(TcpStream, Place)> {
    let free = places.free().await?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            let place = places.give(free, peer.ip());
            if place.is_none() {
                debug!(%peer, "has as many connections as one address may have");
            }
            Some((stream, place?))
        }
        Err(error) => {
            // Out of descriptors, mostly: some will be free again soon.
            warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, TokenError> {
    let malformed = TokenError::Refused(Refusal::Malformed);
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).ok_or(malformed)?;
    let (scheme, token) = value.split_once(' ').ok_or(malformed)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(malformed) }
}
