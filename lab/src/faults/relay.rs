//! Connections and requests.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::journal::{Kind, Seen};
use super::rule::Fault;
use super::watching::{self, Open};
use super::{Shared, lock};

pub(super) type Body = UnsyncBoxBody<Bytes, Cut>;

/// The client gets no (further) answer: its connection is cut.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cut {
    #[error("the connection is to break here")]
    Wanted,
    #[error("speak with the API server")]
    Upstream(#[from] hyper::Error),
    #[error("connect to the API server")]
    Connect(#[from] io::Error),
}

/// Takes connections for ever.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // A connection that broke before it was taken is no loss.
                let Ok((stream, _)) = accepted else { continue };
                if !shared.weather.borrow().down {
                    connections.spawn(serve(stream, shared.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let mut weather = shared.weather.subscribe();
    let _ = stream.set_nodelay(true);
    let conversation = async {
        // Who does not speak our TLS is no client of ours.
        let Ok(stream) = shared.acceptor.accept(stream).await else { return };
        let upstream = Arc::new(Mutex::new(None));
        let service = service_fn(|request| {
            let (shared, upstream) = (shared.clone(), upstream.clone());
            async move { answer(&shared, &upstream, request).await }
        });
        // An error is the client's end, or ours on purpose.
        let _ =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    };
    tokio::select! {
        () = conversation => {}
        _ = weather.wait_for(|weather| weather.down) => {}
    }
}

/// The connection to the API server that belongs to a client's connection.
type Upstream = Mutex<Option<SendRequest<Full<Bytes>>>>;

async fn answer(
    shared: &Arc<Shared>,
    upstream: &Upstream,
    request: Request<Incoming>,
) -> Result<Response<Body>, Cut> {
    let (head, body) = request.into_parts();
    // What could not be read whole was never asked.
    let body = body.collect().await?.to_bytes();
    let seen = note(shared, &head);
    let forward = || async {
        let mut request = Request::new(Full::new(body.clone()));
        (*request.method_mut(), *request.headers_mut()) = (head.method.clone(), head.headers.clone());
        *request.uri_mut() =
            head.uri.path_and_query().map_or_else(http::Uri::default, |path| path.clone().into());
        let response = send(shared, upstream, request).await?;
        lock(&shared.journal).answered(&seen, response.status().as_u16());
        Ok::<_, Cut>(response)
    };
    match seen.fault {
        None => {}
        Some(Fault::KillBefore) => return Err(kill(shared)),
        Some(Fault::KillAfter) => {
            whole(forward().await?).await?;
            return Err(kill(shared));
        }
        Some(Fault::Answer(status, after)) => return Ok(refusal(status, after)),
        Some(Fault::Swallow) => return std::future::pending().await,
        Some(Fault::Hush) => {
            whole(forward().await?).await?;
            return std::future::pending().await;
        }
        Some(Fault::LoseAnswer) => {
            whole(forward().await?).await?;
            return Err(Cut::Wanted);
        }
        Some(Fault::Twice) => {
            whole(forward().await?).await?;
        }
        Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
    }
    if seen.kind == Kind::Watch {
        let (head, body) = forward().await?.into_parts();
        let body = watching::body(body, &seen.path, Open::new(shared.clone()));
        return Ok(Response::from_parts(plain(head), body));
    }
    whole(forward().await?).await
}

/// Writes the request down, with the fault that it meets.
fn note(shared: &Shared, head: &http::request::Parts) -> Seen {
    let mut journal = lock(&shared.journal);
    let mut seen = Seen::new(&head.method, &head.uri, journal.next_number());
    seen.fault = lock(&shared.rules).iter_mut().find_map(|rule| rule.strike(&seen));
    journal.add(seen.clone());
    seen
}

fn kill(shared: &Shared) -> Cut {
    let killer = lock(&shared.killer).clone();
    if let Some(kill) = killer {
        kill();
    }
    Cut::Wanted
}

/// Sends on, over the connection that is there or a new one.
async fn send(
    shared: &Shared,
    upstream: &Upstream,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Cut> {
    let mut held = upstream.lock().await;
    // Closed when the last answer was not read to its end, or the server went away meanwhile.
    let mut ready = None;
    if let Some(mut sender) = held.take() {
        ready = sender.ready().await.ok().map(|()| sender);
    }
    let mut sender = match ready {
        Some(sender) => sender,
        None => connect(shared).await?,
    };
    let response = sender.send_request(request).await?;
    *held = Some(sender);
    Ok(response)
}

async fn connect(shared: &Shared) -> Result<SendRequest<Full<Bytes>>, Cut> {
    let stream = TcpStream::connect(("127.0.0.1", shared.upstream)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
    let stream = shared.connector.connect(name, stream).await?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the sender.
    tokio::spawn(connection);
    Ok(sender)
}

/// The answer, once all of it is here.
async fn whole(response: Response<Incoming>) -> Result<Response<Body>, Cut> {
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Response::from_parts(plain(head), full(body)))
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// Without what is between us and the API server only.
fn plain(mut head: http::response::Parts) -> http::response::Parts {
    for name in [CONNECTION, TRANSFER_ENCODING, CONTENT_LENGTH] {
        head.headers.remove(name);
    }
    head
}

/// What an API server says when it does not do what it was asked.
fn refusal(status: u16, retry_after: Option<u32>) -> Response<Body> {
    let reason = match status {
        409 => "Conflict",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        _ => "Unknown",
    };
    let text = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": status, "reason": reason,
        "message": "the lab's proxy was told to refuse this",
        "details": retry_after.map(|seconds| serde_json::json!({ "retryAfterSeconds": seconds })),
    });
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    let mut response = Response::new(full(text.to_string().into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = headers;
    response
}
