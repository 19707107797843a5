//! A proxy between pods and what they fetch, as companies have one at their border: it forwards requests (RFC 9110, 7.3.2) and opens
//! tunnels (`CONNECT`), to those hosts alone that it was told of, whose names nobody else knows.
//!
//! In: names, and where they lead. Out: an address for `HTTP_PROXY`, and a record of who asked for what.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{CONNECTION, HOST, PROXY_AUTHORIZATION};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What concerns one connection, and not the request.
const HOP_BY_HOP: [HeaderName; 3] =
    [CONNECTION, PROXY_AUTHORIZATION, HeaderName::from_static("proxy-connection")];

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// A request that the proxy was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// By whom.
    pub from: IpAddr,
    /// How.
    pub method: Method,
    /// For what.
    pub uri: Uri,
}

/// A running proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct ForwardProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _server: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    hosts: BTreeMap<String, SocketAddr>,
    asked: Mutex<Vec<Asked>>,
}

impl ForwardProxy {
    /// Listens at this address, and leads to these hosts.
    pub async fn start(address: IpAddr, hosts: BTreeMap<String, SocketAddr>) -> io::Result<Self> {
        let listener = TcpListener::bind((address, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { hosts, asked: Mutex::default() });
        let mut server = JoinSet::new();
        server.spawn(accept(listener, shared.clone()));
        Ok(Self { address, shared, _server: server })
    }

    /// Its address, as variables of the environment name it.
    pub fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was asked for so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    // A connection that broke before it was taken is no loss.
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, from)) = accepted {
                    connections.spawn(serve(stream, from.ip(), shared.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, from: IpAddr, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(&shared, from, request).await) }
    });
    // Whoever hangs up is not missed.
    let _ = server::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

async fn answer(shared: &Shared, from: IpAddr, request: Request<Incoming>) -> Response<Body> {
    let asked = Asked { from, method: request.method().clone(), uri: request.uri().clone() };
    shared.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    let Some(to) = request.uri().host().and_then(|host| shared.hosts.get(host)).copied() else {
        return refusal(StatusCode::FORBIDDEN, "the proxy leads to no such host");
    };
    let Ok(stream) = TcpStream::connect(to).await else {
        return refusal(StatusCode::BAD_GATEWAY, "the host does not answer");
    };
    if request.method() == Method::CONNECT {
        tokio::spawn(tunnel(request, stream));
        return Response::new(empty());
    }
    match forward(request, stream).await {
        Ok(response) => response,
        Err(error) => refusal(StatusCode::BAD_GATEWAY, &error.to_string()),
    }
}

/// It ends with either end of it.
async fn tunnel(request: Request<Incoming>, mut stream: TcpStream) {
    if let Ok(upgraded) = hyper::upgrade::on(request).await {
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(upgraded), &mut stream).await;
    }
}

async fn forward(mut request: Request<Incoming>, stream: TcpStream) -> Result<Response<Body>, hyper::Error> {
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await?;
    // It ends when the answer has been read.
    tokio::spawn(connection);
    let authority = request.uri().authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
    for header in HOP_BY_HOP {
        request.headers_mut().remove(header);
    }
    if let Some(authority) = authority {
        request.headers_mut().insert(HOST, authority);
    }
    let mut response = sender.send_request(request).await?;
    response.headers_mut().remove(CONNECTION);
    Ok(response.map(Incoming::boxed_unsync))
}

fn refusal(status: StatusCode, why: &str) -> Response<Body> {
    let body = Full::from(format!("{why}\n")).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn empty() -> Body {
    Full::default().map_err(|never| match never {}).boxed_unsync()
}
