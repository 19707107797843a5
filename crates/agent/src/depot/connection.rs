//! One request to one address, on a connection of its own.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Address, DepotError};

/// Bounds of what a busy depot may ask for.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// Sends the request; the answer's body is still to come.
pub(super) async fn ask(
    address: &Address,
    tls: Arc<ClientConfig>,
    request: Request<Empty<Bytes>>,
    patience: Duration,
) -> Result<Response<Incoming>, DepotError> {
    let stream = timeout(patience, open(address, tls)).await.map_err(|_| silent(address, patience))??;
    let broken = |source| DepotError::Http { address: address.clone(), source };
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
pub(super) async fn next_bytes(
    address: &Address,
    body: &mut Incoming,
    patience: Duration,
) -> Result<Option<Bytes>, DepotError> {
    loop {
        let frame = timeout(patience, body.frame()).await.map_err(|_| silent(address, patience))?;
        let Some(frame) = frame else { return Ok(None) };
        let frame = frame.map_err(|source| DepotError::Http { address: address.clone(), source })?;
        if let Ok(bytes) = frame.into_data() {
            return Ok(Some(bytes));
        }
    }
}

/// How long a busy depot asks to be left alone: seconds, or a date.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Duration {
    let text = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let wait = text.and_then(|text| match text.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).ok(),
    });
    wait.unwrap_or(SHORTEST_WAIT).clamp(SHORTEST_WAIT, LONGEST_WAIT)
}

async fn open(address: &Address, tls: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, DepotError> {
    let connected = async {
        let stream = TcpStream::connect(address.endpoint()).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    let stream = connected
        .await
        .map_err(|source: io::Error| DepotError::Connect { address: address.clone(), source })?;
    TlsConnector::from(tls)
        .connect(address.server_name(), stream)
        .await
        .map_err(|source| DepotError::Tls { address: address.clone(), source })
}

fn silent(address: &Address, patience: Duration) -> DepotError {
    DepotError::Silent { address: address.clone(), patience }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

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
