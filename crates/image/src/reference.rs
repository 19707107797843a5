//! Image references as the distribution specification writes them: `[host[:port]/]name[:tag][@sha256:<hex>]`.
//!
//! Text comes in, an [`ImageReference`] with docker.io's defaults filled in goes out. A host may be an IPv6 literal.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use tenon_order::{Digest, DigestError};

const DOCKER_HUB: &str = "docker.io";

/// Text that is no image reference, with what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing there.
    #[error("read the image reference: it is empty")]
    Empty,
    /// A part of the name breaks the grammar.
    #[error(
        "read the image reference {reference:?}: {part:?} cannot be part of a name (lower-case letters and digits, \
         joined by `.`, `_`, `__` or dashes)"
    )]
    Name {
        /// All of it.
        reference: String,
        /// The part that is wrong.
        part: String,
    },
    /// The name alone is too long for registries.
    #[error("read the image reference {0:?}: the name is longer than 255 characters")]
    NameTooLong(String),
    /// What stands before the first slash looks like a host and is none.
    #[error("read the image reference {reference:?}: {host:?} is not a registry's host")]
    Host {
        /// All of it.
        reference: String,
        /// What should have been a host.
        host: String,
    },
    /// Kernel releases such as `6.1.0+rt` do not fit a tag as they are.
    #[error(
        "read the image reference {reference:?}: a tag cannot hold `+`; write `{suggestion}` (a mapping's \
         `literal` or `regexp` keeps the kernel's own spelling)"
    )]
    PlusInTag {
        /// All of it.
        reference: String,
        /// The tag with `_` for every `+`.
        suggestion: String,
    },
    /// Another violation of the tag's grammar.
    #[error(
        "read the image reference {reference:?}: {tag:?} is not a tag (at most 128 letters, digits, `_`, `.` and `-`, \
         not starting with `.` or `-`)"
    )]
    Tag {
        /// All of it.
        reference: String,
        /// What stands after the colon.
        tag: String,
    },
    /// Not a SHA-256 digest.
    #[error("read the image reference {reference:?}")]
    Digest {
        /// All of it.
        reference: String,
        /// Why.
        source: DigestError,
    },
    /// A URL was given.
    #[error("read the image reference {0:?}: leave out the scheme before `://`")]
    Scheme(String),
}

/// A checked image reference, cheap to clone. Shown in full: `docker.io/library/busybox:latest`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageReference(Arc<Parts>);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Parts {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageReference {
    /// Host and, if given, port: `docker.io`, `localhost:5000`, `[::1]:5000`. Lower case.
    pub fn registry(&self) -> &str {
        &self.0.registry
    }

    /// The name inside the registry: `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.0.repository
    }

    /// The tag; a reference without digest always has one.
    pub fn tag(&self) -> Option<&str> {
        self.0.tag.as_deref()
    }

    /// The digest, when the reference names one.
    pub fn digest(&self) -> Option<&Digest> {
        self.0.digest.as_ref()
    }

    /// The same image, pinned: tag and digest.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self(Arc::new(Parts { digest: Some(digest), ..Parts::clone(&self.0) }))
    }

    /// The same image by this digest alone: what is stored under it has no name yet.
    #[must_use]
    pub fn by_digest(&self, digest: Digest) -> Self {
        Self(Arc::new(Parts { tag: None, digest: Some(digest), ..(*self.0).clone() }))
    }

    /// The same tag and digest of another registry and repository: `registry/repository`.
    pub fn renamed(&self, name: &str) -> Result<Self, ReferenceError> {
        let (registry, repository) = split_host(name, name)?;
        check_repository(&repository, name)?;
        Ok(Self(Arc::new(Parts { registry, repository, ..Parts::clone(&self.0) })))
    }

    /// What has this tag in the same repository; `None` where it is no tag.
    pub fn by_tag(&self, tag: &str) -> Option<Self> {
        format!("{}:{tag}", self.name()).parse().ok()
    }

    /// What a request for the manifest names: the digest where there is one, else the tag.
    pub fn manifest_name(&self) -> String {
        match (&self.0.digest, &self.0.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// Registry and repository: what the rules of pull secrets are matched against.
    pub fn name(&self) -> String {
        format!("{}/{}", self.0.registry, self.0.repository)
    }
}

impl FromStr for ImageReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.contains("://") {
            return Err(ReferenceError::Scheme(text.to_owned()));
        }
        let (rest, digest) = split_digest(text)?;
        let (name, tag) = split_tag(rest, text)?;
        let (registry, repository) = split_host(name, text)?;
        check_repository(&repository, text)?;
        let tag = match (tag, &digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self(Arc::new(Parts { registry, repository, tag, digest })))
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.registry, self.0.repository)?;
        if let Some(tag) = &self.0.tag {
            write!(f, ":{tag}")?;
        }
        match &self.0.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn split_digest(text: &str) -> Result<(&str, Option<Digest>), ReferenceError> {
    let Some((rest, digest)) = text.split_once('@') else { return Ok((text, None)) };
    let digest =
        digest.parse().map_err(|source| ReferenceError::Digest { reference: text.to_owned(), source })?;
    Ok((rest, Some(digest)))
}

/// A colon after the last slash starts a tag; one before it starts a port.
fn split_tag<'a>(rest: &'a str, text: &str) -> Result<(&'a str, Option<&'a str>), ReferenceError> {
    let name_start = rest.rfind('/').map_or(0, |at| at + 1);
    let Some((name, tag)) = rest.rsplit_once(':').filter(|(name, _)| name.len() >= name_start) else {
        return Ok((rest, None));
    };
    if is_tag(tag) {
        return Ok((name, Some(tag)));
    }
    let plain = tag.replace('+', "_");
    Err(if is_tag(&plain) {
        ReferenceError::PlusInTag { reference: text.to_owned(), suggestion: plain }
    } else {
        ReferenceError::Tag { reference: text.to_owned(), tag: tag.to_owned() }
    })
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// What stands before the first slash is a host when it could not be a name: it has a dot, a colon or an upper-case
/// letter, or is `localhost`.
fn split_host(name: &str, text: &str) -> Result<(String, String), ReferenceError> {
    let looks_like_host = |part: &str| {
        part.contains(['.', ':', '['])
            || part == "localhost"
            || part.bytes().any(|byte| byte.is_ascii_uppercase())
    };
    let (host, repository) = match name.split_once('/') {
        Some((host, repository)) if looks_like_host(host) => (host.to_ascii_lowercase(), repository),
        _ => (DOCKER_HUB.to_owned(), name),
    };
    // One that only its upper case makes a host would, in lower case, be read as a name of another registry.
    if !is_host(&host) || !looks_like_host(&host) {
        return Err(ReferenceError::Host { reference: text.to_owned(), host });
    }
    // The historical name of the same registry.
    let host = if host == "index.docker.io" { DOCKER_HUB.to_owned() } else { host };
    let repository = if host == DOCKER_HUB && !repository.contains('/') {
        format!("library/{repository}")
    } else {
        repository.to_owned()
    };
    Ok((host, repository))
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => return address.parse::<std::net::Ipv6Addr>().is_ok(),
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
                ("ip", port.strip_prefix(':').unwrap_or("none"))
            }
            _ => return false,
        },
        None => host.split_once(':').unwrap_or((host, "443")),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.len() <= 253
        && name.split('.').all(label)
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn check_repository(repository: &str, text: &str) -> Result<(), ReferenceError> {
    if repository.len() > 255 {
        return Err(ReferenceError::NameTooLong(text.to_owned()));
    }
    match repository.split('/').find(|part| !is_name_part(part)) {
        Some(part) => Err(ReferenceError::Name { reference: text.to_owned(), part: part.to_owned() }),
        None => Ok(()),
    }
}

/// Runs of lower-case letters and digits, joined by one dot, one or two underscores, or dashes.
fn is_name_part(part: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends_in_words = part.bytes().next().is_some_and(word) && part.bytes().next_back().is_some_and(word);
    let mut separators = part.split(|c: char| u8::try_from(c).is_ok_and(word)).filter(|run| !run.is_empty());
    ends_in_words
        && separators.all(|run| matches!(run, "." | "_" | "__") || run.bytes().all(|byte| byte == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> ImageReference {
        text.parse().unwrap()
    }

    #[test]
    fn defaults_are_docker_hubs() {
        for (text, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("acme/dummy:1", "docker.io/acme/dummy:1"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
            ("localhost/dummy", "localhost/dummy:latest"),
            ("localhost:5000/a/b-c__d.e:6.1.0-53_rt", "localhost:5000/a/b-c__d.e:6.1.0-53_rt"),
            ("[::1]:5000/x:y", "[::1]:5000/x:y"),
            ("Quay.IO/acme/x:Y", "quay.io/acme/x:Y"),
            ("LOCALHOST/x", "localhost/x:latest"),
            ("Registry:5000/x", "registry:5000/x:latest"),
        ] {
            assert_eq!(read(text).to_string(), full);
            assert_eq!(read(full).to_string(), full);
        }
    }

    #[test]
    fn a_digest_wins_over_the_tag() {
        let digest = Digest::of(b"manifest");
        let pinned = read(&format!("quay.io/acme/x:1@{digest}"));
        assert_eq!((pinned.tag(), pinned.digest()), (Some("1"), Some(&digest)));
        assert_eq!(pinned.manifest_name(), digest.to_string());
        assert_eq!(read(&format!("quay.io/acme/x@{digest}")).tag(), None);
        assert_eq!(read("quay.io/acme/x:1").with_digest(digest), pinned);
    }

    #[test]
    fn a_plus_in_a_tag_comes_with_the_way_out() {
        let error = "quay.io/acme/x:6.1.0+rt".parse::<ImageReference>().unwrap_err();
        let reference = "quay.io/acme/x:6.1.0+rt".to_owned();
        assert_eq!(error, ReferenceError::PlusInTag { reference, suggestion: "6.1.0_rt".to_owned() });
    }

    #[test]
    fn what_breaks_the_grammar_is_refused() {
        for text in [
            "",
            "/",
            "x/",
            "x//y",
            "X",
            "x:",
            "x:-a",
            "x:a/b",
            "https://quay.io/x",
            "a..b/c",
            "-a.io/x",
            "a.io:0/x",
            "a.io:99999/x",
            "a.io:x/y",
            "[::1/x",
            "[::g]/x",
            "x___y",
            "x@sha256:12",
            "x@sha512:12",
            "é/x",
            "a.io/é",
            "a.io:+1/x",
            "I/dipe",
            "Registry/acme/x",
        ] {
            assert!(text.parse::<ImageReference>().is_err(), "{text}");
        }
        assert!(format!("x/{}", "y".repeat(256)).parse::<ImageReference>().is_err());
        assert!(format!("x:{}", "y".repeat(129)).parse::<ImageReference>().is_err());
    }

    proptest::proptest! {
        #[test]
        fn what_is_read_is_read_again(text in "\\PC{0,40}|([a-z]{1,5}[.:/@]){0,4}[a-z0-9._:-]{1,9}") {
            if let Ok(reference) = text.parse::<ImageReference>() {
                proptest::prop_assert_eq!(reference.to_string().parse::<ImageReference>(), Ok(reference));
            }
        }
    }
}
