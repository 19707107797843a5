//! What agent and loader say to each other over a stream socket.
//!
//! Each message is its length as a big endian `u32`, at most [`MAX_MESSAGE`], and that many bytes of JSON. The agent
//! asks, the loader answers every request once; only [`Request::File`] is followed by raw bytes, exactly as many as it
//! says, before the answer. Both come from one release, so unknown fields are an error and there is no negotiation.
//!
//! A conversation: `Hello`; `Order`, whose answer names the bundles that are missing; for each `Bundle` with its
//! manifest, whose answer names the files that are missing; for each `File`; then `Apply`, whose answer is the report.
//! `Silent` instead of `Order` says that the API server cannot be reached: what the store holds is to be loaded.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Digest, Generation, KeyId, NodeName, NodeReport, StoreId};

/// The most bytes of one message.
pub const MAX_MESSAGE: usize = 1024 * 1024;

/// A message that could not be sent or understood.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The other side is gone, between two messages.
    #[error("read a message: the connection is closed")]
    Closed,
    /// Longer than [`MAX_MESSAGE`].
    #[error("message of {0} bytes: at most {MAX_MESSAGE} are allowed")]
    TooLong(usize),
    /// The socket refused.
    #[error("transfer a message")]
    Io(#[source] io::Error),
    /// Not the message that was expected.
    #[error("understand a message")]
    Json(#[source] serde_json::Error),
    /// A file ended before its announced size.
    #[error("send file {digest}: it ended after {sent} of {size} bytes")]
    FileTooShort {
        /// The announced digest.
        digest: Digest,
        /// The announced size.
        size: u64,
        /// The bytes that there were.
        sent: u64,
    },
}

/// What the agent asks of the loader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Request {
    /// Who are you? → [`Reply::Hello`].
    Hello,
    /// Here is the current order. → [`Reply::Accepted`] or [`Reply::Refused`].
    Order {
        /// The signed text.
        order: String,
    },
    /// Here is the list of a bundle's files. → [`Reply::Need`]; an empty list means that the bundle is complete.
    Bundle {
        /// The bundle's name.
        digest: Digest,
        /// The canonical text that has this digest.
        manifest: String,
    },
    /// Here is a file; `size` raw bytes follow. → [`Reply::Stored`] or [`Reply::Refused`].
    File {
        /// The SHA-256 of the bytes.
        digest: Digest,
        /// How many bytes follow.
        size: u64,
    },
    /// Do what the order says, as far as its bundles are here. → [`Reply::Report`].
    Apply,
    /// How do things stand? → [`Reply::Report`]; changes nothing.
    Report,
    /// The API server does not answer: load what the store holds. → [`Reply::Report`].
    Silent,
}

/// What the loader answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Reply {
    /// Who it is.
    Hello(Hello),
    /// The order is kept, and obeyed at the next [`Request::Apply`].
    Accepted {
        /// The generation now held.
        generation: Generation,
        /// Bundles that it names and that are not complete in the store.
        missing: Vec<Digest>,
    },
    /// Files of the bundle that are not in the store.
    Need {
        /// Each file once.
        files: Vec<NeededFile>,
    },
    /// The file is in the store.
    Stored,
    /// How things stand.
    Report(NodeReport),
    /// The request was not followed, and nothing was changed by it.
    Refused {
        /// Why.
        reason: Refusal,
        /// Why in words.
        message: String,
    },
}

/// Who a loader is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// Its store.
    pub store: StoreId,
    /// The node that the store belongs to.
    pub node: NodeName,
    /// The highest order held; `None` before the first.
    pub generation: Option<Generation>,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel: String,
    /// The keys whose orders are accepted.
    pub key_ids: Vec<KeyId>,
}

/// A file that the loader wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeededFile {
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

/// Why a request was not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// No key is known yet: no order can be accepted.
    NoKeys,
    /// The order is not signed by a known key.
    Signature,
    /// Not an order, or one with fields that this version does not know.
    Malformed,
    /// The order is for another node.
    WrongNode,
    /// The order is for another store.
    WrongStore,
    /// A later order is held.
    OlderGeneration,
    /// An order of the same generation is held, and it is not this one.
    SameGeneration,
    /// The manifest is not the bundle's.
    WrongManifest,
    /// No order or manifest here asks for this bundle or file.
    NotWanted,
    /// The bytes have another digest.
    WrongDigest,
    /// The store on the node's disk could not be read or written.
    StoreFailed,
}

/// Writes one message.
pub fn write_message<T: Serialize>(to: &mut impl Write, message: &T) -> Result<(), WireError> {
    let json = serde_json::to_vec(message).map_err(WireError::Json)?;
    let length = u32::try_from(json.len()).ok().filter(|_| json.len() <= MAX_MESSAGE);
    let length = length.ok_or(WireError::TooLong(json.len()))?;
    // One write: a message must not be held back by the other side's delayed acknowledgement.
    let mut frame = Vec::with_capacity(json.len() + 4);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&json);
    to.write_all(&frame).and_then(|()| to.flush()).map_err(WireError::Io)
}

/// Reads one message. Memory grows with what arrives, not with what is announced.
pub fn read_message<T: DeserializeOwned>(from: &mut impl Read) -> Result<T, WireError> {
    let length = read_length(from)?;
    if length > MAX_MESSAGE {
        return Err(WireError::TooLong(length));
    }
    let mut json = Vec::new();
    let read = from.take(length as u64).read_to_end(&mut json).map_err(WireError::Io)?;
    if read < length {
        return Err(WireError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_slice(&json).map_err(WireError::Json)
}

fn read_length(from: &mut impl Read) -> Result<usize, WireError> {
    let mut bytes = Vec::with_capacity(4);
    from.take(4).read_to_end(&mut bytes).map_err(WireError::Io)?;
    match *bytes {
        [] => Err(WireError::Closed),
        [a, b, c, d] => Ok(u32::from_be_bytes([a, b, c, d]) as usize),
        _ => Err(WireError::Io(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// The agent's side of a connection. Blocking.
#[derive(Debug)]
pub struct Client<S> {
    stream: S,
}

impl<S: Read + Write> Client<S> {
    /// Talks over this stream.
    pub fn new(stream: S) -> Self {
        Self { stream }
    }

    /// Asks and waits for the answer. [`Request::File`] is asked by [`Client::send_file`].
    pub fn call(&mut self, request: &Request) -> Result<Reply, WireError> {
        write_message(&mut self.stream, request)?;
        read_message(&mut self.stream)
    }

    /// Sends a file of which `content` gives the bytes, and waits for the answer.
    pub fn send_file(&mut self, digest: Digest, size: u64, content: impl Read) -> Result<Reply, WireError> {
        write_message(&mut self.stream, &Request::File { digest, size })?;
        let sent = io::copy(&mut content.take(size), &mut self.stream).map_err(WireError::Io)?;
        if sent < size {
            // The loader waits for bytes that do not exist: the connection is of no more use.
            return Err(WireError::FileTooShort { digest, size, sent });
        }
        read_message(&mut self.stream)
    }
}
