//! What the depot answers: everything about a response that is decided without reading a bundle.

use std::ops::Range;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderValue, IF_RANGE, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use tenon_order::Digest;

use super::issuer::TokenError;
use super::range::{Requested, requested};
use crate::metrics::Rejection;

/// The body of any answer.
pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error(
        "there are only /v1/bundles/sha256:<64 hex digits>, /v1/kernels/<release>/<build-id> and /v1/pulled"
    )]
    Path,
    #[error("here only {allowed} are allowed")]
    Method { allowed: &'static str },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the node is not assigned this bundle")]
    NotAssigned,
    #[error("what the node is assigned is not known yet")]
    AssignmentsUnknown,
    #[error("the bundle is being made")]
    NotCached,
    #[error("all transfers are taken")]
    Busy,
    #[error("the node has too many transfers already")]
    NodeBusy,
    #[error("the range lies beyond the bundle's {size} bytes")]
    Range { size: u64 },
    #[error("the depot's disk could not be used")]
    Unreadable,
    #[error("the node has not reported that it runs this build of the kernel")]
    NotItsKernel,
    #[error("facts about this build of the kernel are wanted of this node")]
    FactsWanted,
    #[error("another node is asked for facts about this build of the kernel")]
    AskedElsewhere,
    #[error("this node has told of another kernel a moment ago")]
    ToldLately,
    #[error("these are no facts about this build of the kernel, or too many bytes")]
    Facts,
    #[error("the transfer took too long")]
    TooSlow,
    #[error("the facts are not kept: another replica leads, or the API server refuses them")]
    NotKept,
    #[error("nothing is expected of this pod here, or not yet")]
    NotExpected,
    #[error("this pod has brought something already")]
    Brought,
    #[error("that is more than a bundle may be made of")]
    TooLarge,
    #[error("the transfer broke off")]
    Interrupted,
}

impl Refused {
    /// Its name in the metrics.
    pub(super) fn reason(self) -> Rejection {
        match self {
            Refused::Path | Refused::Method { .. } => Rejection::BadRequest,
            Refused::Token(TokenError::Refused(refusal)) => refusal.into(),
            Refused::Token(TokenError::KeysUnknown) => Rejection::KeysUnknown,
            Refused::NotAssigned => Rejection::NotAssigned,
            Refused::AssignmentsUnknown => Rejection::AssignmentsUnknown,
            Refused::NotCached => Rejection::NotCached,
            Refused::Busy => Rejection::Busy,
            Refused::NodeBusy | Refused::ToldLately => Rejection::NodeBusy,
            Refused::Range { .. } => Rejection::BadRange,
            Refused::Unreadable => Rejection::ReadFailed,
            Refused::NotItsKernel => Rejection::NotItsKernel,
            Refused::FactsWanted | Refused::AskedElsewhere => Rejection::FactsMissing,
            Refused::Facts | Refused::TooSlow => Rejection::BadFacts,
            Refused::NotKept => Rejection::FactsNotKept,
            Refused::NotExpected | Refused::Brought => Rejection::PulledUnexpected,
            Refused::TooLarge | Refused::Interrupted => Rejection::BadPulled,
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Refused::Path | Refused::FactsWanted => StatusCode::NOT_FOUND,
            Refused::AskedElsewhere | Refused::Brought => StatusCode::CONFLICT,
            Refused::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Refused::Interrupted => StatusCode::BAD_REQUEST,
            Refused::Facts => StatusCode::UNPROCESSABLE_ENTITY,
            Refused::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Refused::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Refused::Token(TokenError::Refused(_)) => StatusCode::UNAUTHORIZED,
            Refused::NotAssigned | Refused::NotItsKernel => StatusCode::FORBIDDEN,
            Refused::NodeBusy | Refused::ToldLately => StatusCode::TOO_MANY_REQUESTS,
            Refused::Range { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Refused::Token(TokenError::KeysUnknown)
            | Refused::AssignmentsUnknown
            | Refused::NotCached
            | Refused::Busy
            | Refused::NotKept
            | Refused::NotExpected
            | Refused::Unreadable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Seconds after which it is worth trying again.
    fn retry_after(self) -> Option<u64> {
        match self {
            Refused::Busy | Refused::NodeBusy | Refused::NotExpected => Some(2),
            Refused::Token(TokenError::KeysUnknown) | Refused::AssignmentsUnknown | Refused::NotCached => {
                Some(5)
            }
            Refused::Unreadable | Refused::NotKept => Some(10),
            Refused::ToldLately => Some(600),
            _ => None,
        }
    }

    /// One line that says why. The connection is closed: a place for a node that can be served.
    pub(super) fn answer(self) -> Response<Body> {
        let text = Full::new(Bytes::from(format!("{self}\n"))).map_err(|never| match never {});
        let mut response = Response::new(text.boxed_unsync());
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        match self {
            Refused::Token(TokenError::Refused(_)) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Refused::Method { allowed } => {
                headers.insert(ALLOW, HeaderValue::from_static(allowed));
            }
            Refused::Range { size } => put(headers, CONTENT_RANGE, &format!("bytes */{size}")),
            _ => {}
        }
        response
    }
}

/// There is nothing more to say: there are facts, or what was brought is here.
pub(super) fn known() -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// A part of a bundle that is about to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selected {
    pub(super) range: Range<u64>,
    size: u64,
    etag: String,
    partial: bool,
}

impl Selected {
    /// The part of a bundle of `size` bytes with the digest `bytes` that the request's headers ask for.
    pub(super) fn of(headers: &HeaderMap, size: u64, bytes: &Digest) -> Result<Self, Refused> {
        let etag = format!("\"{bytes}\"");
        // A range of what the requester has begun to fetch is no use to it if this is something else.
        let same = headers.get(IF_RANGE).is_none_or(|known| known.as_bytes() == etag.as_bytes());
        let range = headers.get(RANGE).filter(|_| same).and_then(|range| range.to_str().ok());
        match range.map_or(Requested::Whole, |range| requested(range, size)) {
            Requested::Whole => Ok(Selected { range: 0..size, size, etag, partial: false }),
            Requested::Part(range) => Ok(Selected { range, size, etag, partial: true }),
            Requested::Beyond => Err(Refused::Range { size }),
        }
    }

    pub(super) fn answer(&self, body: Body) -> Response<Body> {
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(CONTENT_LENGTH, (self.range.end - self.range.start).into());
        put(headers, ETAG, &self.etag);
        if self.partial {
            let Range { start, end } = self.range;
            put(headers, CONTENT_RANGE, &format!("bytes {start}-{}/{}", end - 1, self.size));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        response
    }
}

/// Sets a header to a text that is made of digits, hex and punctuation, which every header may hold.
fn put(headers: &mut HeaderMap, name: http::HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}
