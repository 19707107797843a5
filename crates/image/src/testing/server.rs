//! The sockets of the test registry, and its faults.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt, future, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::CONTENT_LENGTH;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::answer::{Answer, Asked, answer, plain, route, set};
use super::fault::Fault;
use super::store::{Deletion, Seen, Store};

type Shared = Arc<Mutex<Store>>;
type Pieces = Pin<Box<dyn Stream<Item = io::Result<Frame<Bytes>>> + Send>>;

/// Serves until dropped, connections included.
pub(super) async fn run(listener: TcpListener, tls: Option<ServerConfig>, store: Shared) {
    let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        connections.spawn(connection(socket, tls.clone(), Arc::clone(&store)));
    }
}

/// A connection that breaks is the client's to notice.
async fn connection(socket: TcpStream, tls: Option<TlsAcceptor>, store: Shared) {
    let service = service_fn(move |request| respond(request, Arc::clone(&store)));
    let server = http1::Builder::new();
    let _ = match tls {
        None => server.serve_connection(TokioIo::new(socket), service).await,
        Some(tls) => match tls.accept(socket).await {
            Ok(socket) => server.serve_connection(TokioIo::new(socket), service).await,
            Err(_) => Ok(()),
        },
    };
}

async fn respond(request: Request<Incoming>, store: Shared) -> io::Result<Response<StreamBody<Pieces>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let asked = Asked {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body,
    };
    let (answer, fault) = {
        let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen(&asked);
        store.seen.push(seen.clone());
        let aimed = store.aimed_fault(&seen);
        let fault = aimed.or_else(|| route(&asked.path).and_then(|(route, _, _)| store.next_fault(route)));
        let hangs = matches!(store.deletion, Deletion::Ignored | Deletion::Unanswered);
        let hangs = hangs && asked.method == Method::DELETE;
        let answer = match fault {
            // What is not answered is not done either.
            Some(Fault::Status(..) | Fault::Hang | Fault::Close) => plain(StatusCode::OK),
            _ => answer(&mut store, &asked),
        };
        (answer, if hangs { Some(Fault::Hang) } else { fault })
    };
    spoil(answer, fault, &asked.method).await
}

fn seen(asked: &Asked) -> Seen {
    let header =
        |name: &str| asked.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let query = if asked.query.is_empty() { String::new() } else { format!("?{}", asked.query) };
    Seen {
        method: asked.method.clone(),
        path: format!("{}{query}", asked.path),
        authorization: header("authorization"),
        range: header("range"),
    }
}

async fn spoil(
    mut answer: Answer,
    fault: Option<Fault>,
    method: &Method,
) -> io::Result<Response<StreamBody<Pieces>>> {
    let mut shape = Shape::Whole;
    match fault {
        None => {}
        Some(Fault::Hang) => future::pending().await,
        Some(Fault::Close | Fault::Lose) => return Err(io::ErrorKind::ConnectionAborted.into()),
        Some(Fault::Status(status, header)) => {
            *answer.status_mut() = StatusCode::from_u16(status).map_err(io::Error::other)?;
            if let Some((name, value)) = header {
                set(&mut answer, name, &value);
            }
        }
        Some(Fault::Header(name, value)) => set(&mut answer, name, &value),
        Some(Fault::Body(bytes)) => *answer.body_mut() = bytes.into(),
        Some(Fault::Corrupt) => {
            let mut bytes = answer.body().to_vec();
            bytes.iter_mut().take(1).for_each(|byte| *byte ^= 1);
            *answer.body_mut() = bytes.into();
        }
        Some(Fault::Truncate(after)) => shape = Shape::Cut(after),
        Some(Fault::Slow(piece, pause)) => shape = Shape::Slow(piece, pause),
    }
    let (mut head, bytes) = answer.into_parts();
    head.headers.insert(CONTENT_LENGTH, bytes.len().into());
    let bytes = if method == Method::HEAD { Bytes::new() } else { bytes };
    Ok(Response::from_parts(head, StreamBody::new(shape.pieces(bytes))))
}

/// How a body travels.
enum Shape {
    Whole,
    Cut(usize),
    Slow(usize, std::time::Duration),
}

impl Shape {
    fn pieces(self, bytes: Bytes) -> Pieces {
        match self {
            Self::Whole => Box::pin(stream::iter([Ok(Frame::data(bytes))])),
            Self::Cut(after) => {
                let part = bytes.slice(..after.min(bytes.len()));
                let end = stream::once(async {
                    // What was written leaves before the connection closes.
                    tokio::task::yield_now().await;
                    Err(io::ErrorKind::ConnectionAborted.into())
                });
                Box::pin(stream::iter([Ok(Frame::data(part))]).chain(end))
            }
            Self::Slow(piece, pause) => {
                let pieces: Vec<Bytes> = bytes.chunks(piece.max(1)).map(Bytes::copy_from_slice).collect();
                Box::pin(stream::iter(pieces).then(move |piece| async move {
                    tokio::time::sleep(pause).await;
                    Ok(Frame::data(piece))
                }))
            }
        }
    }
}
