//! The outcomes of asking a registry.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tenon_order::Digest;

use crate::manifest::ManifestError;
use crate::platform::PlatformError;
use crate::reference::ImageReference;
use crate::retry::Retry;

/// What a request was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject(Arc<(ImageReference, What)>);

/// The thing that a request was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The image's manifest.
    Manifest,
    /// A layer or configuration.
    Blob(Digest),
}

impl Subject {
    pub(super) fn manifest(image: &ImageReference) -> Self {
        Self(Arc::new((image.clone(), What::Manifest)))
    }

    pub(super) fn blob(image: &ImageReference, digest: Digest) -> Self {
        Self(Arc::new((image.clone(), What::Blob(digest))))
    }

    /// The image that was dealt with.
    pub fn image(&self) -> &ImageReference {
        &self.0.0
    }

    /// The part of it.
    pub fn what(&self) -> What {
        self.0.1
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what() {
            What::Manifest => self.image().fmt(f),
            What::Blob(digest) => write!(f, "blob {digest} of {}", self.image().name()),
        }
    }
}

/// Why a registry did not give or take what it should.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry knows no such thing.
    #[error("{0} is not in the registry")]
    Absent(Subject),
    /// The image exists, but not for the platform.
    #[error("{subject} is not for this platform")]
    Platform {
        /// What was asked for.
        subject: Subject,
        /// What it is for.
        source: PlatformError,
    },
    /// No credentials, or none that the registry accepts for this.
    #[error("the registry denies access to {subject}: {status}{}", said(message.as_deref()))]
    Denied {
        /// What was asked for.
        subject: Subject,
        /// The HTTP status; 401 also where a token service refused.
        status: u16,
        /// The registry's own words.
        message: Option<String>,
    },
    /// No answer, or one that says to come back later.
    #[error("the registry did not deliver {subject}")]
    Unreachable {
        /// What was asked for.
        subject: Subject,
        /// How long the registry asks to be left alone.
        retry_after: Option<Duration>,
        /// What happened.
        source: Trouble,
    },
    /// An answer that cannot be right.
    #[error("the registry's answer for {subject} is invalid")]
    Invalid {
        /// What was asked for.
        subject: Subject,
        /// What is wrong with it.
        source: Violation,
    },
    /// Our own disk.
    #[error("keep {subject}")]
    Disk {
        /// What was being read or written.
        subject: Subject,
        /// What happened.
        source: std::io::Error,
    },
}

impl RegistryError {
    /// Whether it heals by itself. What a registry says can change at any time; only the pace differs, and that is the
    /// caller's.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unreachable { retry_after, .. } => Retry::Later(*retry_after),
            Self::Absent(_)
            | Self::Platform { .. }
            | Self::Denied { .. }
            | Self::Invalid { .. }
            | Self::Disk { .. } => Retry::Later(None),
        }
    }

    pub(super) fn unreachable(subject: &Subject, source: Trouble) -> Self {
        Self::Unreachable { subject: subject.clone(), retry_after: None, source }
    }

    pub(super) fn invalid(subject: &Subject, source: Violation) -> Self {
        Self::Invalid { subject: subject.clone(), source }
    }
}

fn said(message: Option<&str>) -> String {
    message.map_or_else(String::new, |message| format!(" ({message})"))
}

/// What kept a registry from answering.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Not within the time allowed.
    #[error("no complete answer within {0:?}")]
    Deadline(Duration),
    /// 429 or 5xx.
    #[error("it answered {status}{}", said(message.as_deref()))]
    Status {
        /// The HTTP status.
        status: u16,
        /// The registry's own words.
        message: Option<String>,
    },
    /// The certificate is not one that we trust.
    #[error(
        "its certificate is not trusted; give the authority's certificate, or set registryTLS to skip the verification"
    )]
    Certificate(#[source] rustls::Error),
    /// No connection, or one that broke. Without the URL, which may carry a signature.
    #[error("the connection failed")]
    Connection(#[source] reqwest::Error),
    /// The body ended before its end.
    #[error("it sent {received} of {expected} bytes")]
    Truncated {
        /// Bytes that came.
        received: u64,
        /// Bytes that should have come.
        expected: u64,
    },
}

/// What is wrong with an answer.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    /// The bytes are not those that were asked for.
    #[error("it should be {expected} and is {found}")]
    Digest {
        /// Asked for, or announced.
        expected: Digest,
        /// Of the bytes.
        found: Digest,
    },
    /// More or fewer bytes than the manifest says.
    #[error("it should have {expected} bytes and has more")]
    Size {
        /// Asked for.
        expected: u64,
    },
    /// Larger than anything of its kind.
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    /// Not an image.
    #[error("it is not an image")]
    Manifest(#[from] ManifestError),
    /// A header that does not say what it should.
    #[error("its {0} header is missing or makes no sense")]
    Header(&'static str),
    /// Not a list of tags.
    #[error("it is not a list of tags")]
    Tags,
    /// Redirects without end, to plain HTTP, or where none belong.
    #[error("it redirects where it must not")]
    Redirect,
    /// A token service that is not https, or gives no token.
    #[error("its token service {0}")]
    TokenService(TokenServiceFault),
    /// A status that the specification does not have here.
    #[error("it answered {status}{}", said(message.as_deref()))]
    Status {
        /// The HTTP status.
        status: u16,
        /// The registry's own words.
        message: Option<String>,
    },
}

/// What is wrong with a registry's token service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenServiceFault {
    /// Credentials must not travel in the clear.
    #[error("has no https address")]
    Address,
    /// Its answer holds no token.
    #[error("gave no token")]
    NoToken,
}
