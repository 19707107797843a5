//! The connection.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HOST, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Address, HttpsError};

/// Bounds of what a busy server may ask for.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// Sends the request; the answer's body is still to come.
pub(crate) async fn ask<B>(
    address: &Address,
    tls: Arc<ClientConfig>,
    mut request: Request<B>,
    patience: Duration,
) -> Result<Response<Incoming>, HttpsError>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    if let Ok(host) = HeaderValue::from_str(&address.authority()) {
        request.headers_mut().insert(HOST, host);
    }
    let stream = timeout(patience, open(address, tls)).await.map_err(|_| silent(address, patience))??;
    let broken = |source| HttpsError::Http { address: address.clone(), source };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends by itself with the answer's body, or when nobody wants it any more; its errors reach the body.
    drop(tokio::spawn(connection));
    timeout(patience, sender.send_request(request))
        .await
        .map_err(|_| silent(address, patience))?
        .map_err(broken)
}

/// The next bytes of the body; `None` at its end.
pub(crate) async fn next_bytes(
    address: &Address,
    body: &mut Incoming,
    patience: Duration,
) -> Result<Option<Bytes>, HttpsError> {
    loop {
        let frame = timeout(patience, body.frame()).await.map_err(|_| silent(address, patience))?;
        let Some(frame) = frame else { return Ok(None) };
        let frame = frame.map_err(|source| HttpsError::Http { address: address.clone(), source })?;
        if let Ok(bytes) = frame.into_data() {
            return Ok(Some(bytes));
        }
    }
}

/// How long a busy server asks to be left alone: seconds, or a date.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Duration {
    let text = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let wait = text.and_then(|text| match text.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).ok(),
    });
    wait.unwrap_or(SHORTEST_WAIT).clamp(SHORTEST_WAIT, LONGEST_WAIT)
}

async fn open(address: &Address, tls: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, HttpsError> {
    let connected = async {
        let stream = TcpStream::connect(address.endpoint()).await?;
        stream.set_nodelay(true)?;
        keep_alive(&stream)?;
        Ok(stream)
    };
    let stream = connected
        .await
        .map_err(|source: io::Error| HttpsError::Connect { address: address.clone(), source })?;
    TlsConnector::from(tls)
        .connect(address.server_name(), stream)
        .await
        .map_err(|source| HttpsError::Tls { address: address.clone(), source })
}

/// A watch says nothing for minutes; without this, a server that vanished would not be missed before its end.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    // Milliseconds: also what was sent and never acknowledged ends the connection.
    sockopt::set_tcp_user_timeout(stream, 30_000)?;
    Ok(())
}

fn silent(address: &Address, patience: Duration) -> HttpsError {
    HttpsError::Silent { address: address.clone(), patience }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_understood_within_bounds() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let date = httpdate::fmt_http_date(now + Duration::from_secs(90));
        let past = httpdate::fmt_http_date(now - Duration::from_secs(90));
        for (text, seconds) in
            [("7", 7), (" 7 ", 7), ("0", 1), ("86400", 300), (&date, 90), (&past, 1), ("soon", 1), ("-5", 1)]
        {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(text).unwrap())]);
            assert_eq!(retry_after(&headers, now), Duration::from_secs(seconds), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), SHORTEST_WAIT);
    }
}
