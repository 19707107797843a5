//! What has arrived of a bundle so far.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, ETAG, IF_RANGE, RANGE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Empty;
use tenon_order::Digest;

/// The most bytes of a bundle: a little less than the pod's work directory may hold, or the kubelet ends the pod.
pub(super) const MAX_BYTES: u64 = 1900 * 1024 * 1024;

/// The answer does not continue what has arrived.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("asked for the bytes from {asked} on, the answer is {status} with {range:?}")]
pub struct WrongRange {
    asked: u64,
    status: StatusCode,
    range: Option<HeaderValue>,
}

/// A bundle that is arriving, in a file without a name: whatever happens to this process, nothing of it is left.
#[derive(Debug)]
pub struct Transfer {
    file: File,
    length: u64,
    /// Which compressed form of the bundle this is: replicas of different age may pack differently.
    etag: Option<HeaderValue>,
}

impl Transfer {
    pub(super) fn begin(work_dir: &Path) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile_in(work_dir)?, length: 0, etag: None })
    }

    /// How many bytes have arrived.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The request for what is missing.
    pub(super) fn request(&self, bundle: Digest, token: &HeaderValue) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        // A digest is always a valid path.
        *request.uri_mut() = http::Uri::try_from(format!("/v1/bundles/{bundle}")).unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, token.clone());
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        if let (Some(etag), Ok(range)) =
            (&self.etag, HeaderValue::from_str(&format!("bytes={}-", self.length)))
            && self.length > 0
        {
            headers.insert(RANGE, range);
            headers.insert(IF_RANGE, etag.clone());
        }
        request
    }

    /// Prepares for what the answer brings: the rest, or everything once more.
    pub(super) fn expect<B>(&mut self, response: &Response<B>) -> Result<(), WrongRange> {
        let etag = response.headers().get(ETAG);
        let range = response.headers().get(CONTENT_RANGE);
        let wrong = || WrongRange { asked: self.length, status: response.status(), range: range.cloned() };
        match response.status() {
            StatusCode::OK => {
                self.length = 0;
                self.etag = etag.filter(|etag| !etag.as_bytes().starts_with(b"W/")).cloned();
                Ok(())
            }
            StatusCode::PARTIAL_CONTENT => {
                let from = range.and_then(|range| first_byte(range.to_str().ok()?));
                let is_rest = self.length > 0 && from == Some(self.length) && etag == self.etag.as_ref();
                if is_rest { Ok(()) } else { Err(wrong()) }
            }
            _ => Err(wrong()),
        }
    }

    /// Forgets what has arrived.
    pub(super) fn restart(&mut self) {
        self.etag = None;
        self.length = 0;
    }

    /// Takes the next bytes. A few KiB into the page cache: to hand each to another thread would cost more.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Neither wherever a failed write has left off nor behind what was forgotten.
        self.file.seek(SeekFrom::Start(self.length))?;
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// The file, at its beginning.
    pub(super) fn finish(mut self) -> io::Result<File> {
        self.file.set_len(self.length)?;
        self.file.rewind()?;
        Ok(self.file)
    }
}

/// The first byte's position in `bytes 5-9/10`.
fn first_byte(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun() -> Transfer {
        let mut transfer = Transfer::begin(&std::env::temp_dir()).unwrap();
        transfer.expect(&answer(200, None, Some("\"a\""))).unwrap();
        transfer.append(b"01234").unwrap();
        transfer
    }

    fn answer(status: u16, range: Option<&str>, etag: Option<&str>) -> Response<()> {
        let mut response = Response::builder().status(status);
        for (name, value) in [(CONTENT_RANGE, range), (ETAG, etag)] {
            if let Some(value) = value {
                response = response.header(name, value);
            }
        }
        response.body(()).unwrap()
    }

    #[test]
    fn only_the_same_form_of_the_bundle_is_continued() {
        assert!(begun().expect(&answer(206, Some("bytes 5-9/10"), Some("\"a\""))).is_ok());
        for (range, etag) in [
            (Some("bytes 4-9/10"), Some("\"a\"")),
            (Some("bytes */10"), Some("\"a\"")),
            (None, Some("\"a\"")),
            (Some("bytes 5-9/10"), Some("\"b\"")),
            (Some("bytes 5-9/10"), None),
        ] {
            assert!(begun().expect(&answer(206, range, etag)).is_err(), "{range:?} {etag:?}");
        }
    }

    #[test]
    fn a_whole_answer_replaces_what_has_arrived() {
        let mut transfer = begun();
        transfer.expect(&answer(200, None, Some("\"b\""))).unwrap();
        transfer.append(b"new").unwrap();
        assert_eq!(transfer.length(), 3);
        assert_eq!(io::read_to_string(transfer.finish().unwrap()).unwrap(), "new");
    }

    #[test]
    fn without_a_strong_tag_nothing_is_continued() {
        let token = HeaderValue::from_static("Bearer t");
        for (etag, range) in [(Some("\"a\""), Some("bytes=5-")), (Some("W/\"a\""), None), (None, None)] {
            let mut transfer = begun();
            transfer.expect(&answer(200, None, etag)).unwrap();
            transfer.append(b"01234").unwrap();
            let request = transfer.request(Digest::of(b""), &token);
            assert_eq!(request.headers().get(RANGE).map(|value| value.to_str().unwrap()), range, "{etag:?}");
        }
    }
}
