//! What can go wrong with a registry.

use std::time::Duration;

use super::store::Seen;

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Manifests, read or written.
    Manifest,
    /// Blobs, read or asked for.
    Blob,
    /// Lists of tags.
    Tags,
    /// The requests of an upload.
    Upload,
    /// The token service.
    Token,
}

/// How an answer is spoilt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Another status, with one more header or none.
    Status(u16, Option<(&'static str, String)>),
    /// No answer, ever.
    Hang,
    /// The connection closes instead of an answer.
    Close,
    /// What was asked for is done, and the connection closes instead of an answer.
    Lose,
    /// The body comes in pieces of so many bytes, with a pause after each.
    Slow(usize, Duration),
    /// The connection closes after so many bytes of the body.
    Truncate(usize),
    /// The body's first byte is another.
    Corrupt,
    /// The body is this.
    Body(Vec<u8>),
    /// A header is this.
    Header(&'static str, String),
}

/// A fault that one request meets.
#[derive(Debug, Clone)]
pub(super) struct Aim {
    pub(super) method: String,
    /// What the request's path begins with.
    pub(super) path: String,
    /// How many such requests are let pass.
    pub(super) skip: usize,
    pub(super) fault: Fault,
}

impl Aim {
    /// Whether this is the one; counts it.
    pub(super) fn is_hit(&mut self, request: &Seen) -> bool {
        if request.method.as_str() != self.method || !request.path.starts_with(&self.path) {
            return false;
        }
        let is_it = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        is_it
    }
}
