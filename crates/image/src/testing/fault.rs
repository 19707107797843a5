//! What can go wrong with a registry.

use std::time::Duration;

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
