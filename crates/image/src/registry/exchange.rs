//! One request and its answer: authorization, redirects, statuses; and doing it again within a deadline.

use std::error::Error as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, stream};
use reqwest::header::{AUTHORIZATION, HeaderMap, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout_at};

use super::auth::{Asking, Permission};
use super::challenge::Challenge;
use super::{Access, Registry, RegistryError, Subject, Trouble, Violation};
use crate::keyring::Credential;
use crate::reference::ImageReference;

/// From a registry to the storage behind it, and perhaps once more.
const MAX_REDIRECTS: usize = 4;
/// Attempts wait no longer than this for each other, unless the registry says so.
const MAX_PAUSE: Duration = Duration::from_secs(8);
/// What a registry may ask for at most.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(24);
/// Of an error's body.
const MAX_ERROR: u64 = 16 * 1024;
/// Of a file, read and sent at once.
const PIECE: u64 = 128 * 1024;
/// Of a registry's own words in our messages.
const MAX_WORDS: usize = 200;

/// What to ask of a registry; can be asked again.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Payload<'a>,
    pub(super) subject: &'a Subject,
    /// What it takes.
    pub(super) rights: Rights,
    /// Another repository that is read from.
    pub(super) also: Option<&'a str>,
}

/// What a request takes, each more than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    Pull,
    Push,
    Delete,
}

impl Rights {
    /// In the words of token services.
    fn actions(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
            Self::Delete => "pull,push,delete",
        }
    }
}

/// What is sent along.
pub(super) enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
    File { file: &'a Arc<File>, size: u64 },
}

impl Registry {
    /// `https://<registry>/v2/<repository>/<rest>`
    pub(super) fn url(
        &self,
        image: &ImageReference,
        rest: &str,
        subject: &Subject,
    ) -> Result<Url, RegistryError> {
        let scheme = if self.plain_http { "http" } else { "https" };
        let host = if image.registry() == "docker.io" { "registry-1.docker.io" } else { image.registry() };
        Url::parse(&format!("{scheme}://{host}/v2/{}/{rest}", image.repository()))
            .map_err(|_| RegistryError::invalid(subject, Violation::Header("Location")))
    }

    /// Tries the credentials that fit the image, one after the other, as the kubelet does.
    pub(super) async fn with_access<T>(
        &self,
        image: &ImageReference,
        mut attempt: impl AsyncFnMut(Access) -> Result<T, RegistryError>,
    ) -> Result<(T, Access), RegistryError> {
        let found: Vec<&Credential> = self.keyring.find(image);
        let mut accesses: Vec<Access> = found.into_iter().map(|found| Some(found.clone().into())).collect();
        if accesses.is_empty() {
            accesses.push(None);
        }
        let mut outcome = None;
        for access in accesses {
            match attempt(access.clone()).await {
                Ok(done) => return Ok((done, access)),
                // Registries hide what one may not see. One that says "absent" to somebody it knows is believed.
                Err(error @ RegistryError::Absent(_)) => outcome = Some(error),
                Err(error @ RegistryError::Denied { .. }) => outcome = outcome.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        // There was at least one attempt.
        Err(outcome.unwrap_or_else(|| RegistryError::Absent(Subject::manifest(image))))
    }

    /// Does something until it succeeds, fails for good, or the time is over.
    pub(super) async fn persist<T>(
        &self,
        subject: &Subject,
        allowed: Duration,
        mut attempt: impl AsyncFnMut() -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let deadline = Instant::now() + allowed;
        let mut pause = self.timing.pause;
        for number in 1.. {
            let Ok(outcome) = timeout_at(deadline, attempt()).await else { break };
            let asked = match &outcome {
                Err(RegistryError::Unreachable { retry_after, .. }) => *retry_after,
                _ => return outcome,
            };
            let wait = asked.unwrap_or(pause);
            if number >= self.timing.attempts || Instant::now() + wait >= deadline {
                return outcome;
            }
            tracing::debug!(%subject, ?wait, "registry did not answer, will ask again");
            sleep(wait).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
        Err(super::auth::late(subject, allowed))
    }

    /// One request with authorization, following redirects. Answers that are no success are errors.
    pub(super) async fn exchange(&self, call: &Call<'_>, access: &Access) -> Result<Response, RegistryError> {
        let origin = call.url.clone();
        let response = self.authorized(call, access).await?;
        if response.status().is_redirection() && matches!(call.method, Method::GET | Method::HEAD) {
            return self.follow(call, &origin, response).await;
        }
        require_success(response, call.subject).await
    }

    async fn authorized(&self, call: &Call<'_>, access: &Access) -> Result<Response, RegistryError> {
        let permission = Permission {
            origin: call.url.origin().ascii_serialization(),
            scope: scope(call),
            access: access.clone(),
        };
        let registry = &call.url;
        let asking =
            Asking { clients: &self.clients, registry, subject: call.subject, permission: &permission };
        let mut header = self.auth.header(&asking).await?;
        // Twice refused: once before the challenge was known, once with a token that expired on the way.
        for _ in 0..2 {
            let response = self.request(call, header.as_deref()).await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            let Some(challenge) = challenge(response.headers()) else { return Ok(response) };
            let Some(other) = self.auth.answer(&asking, challenge, header.as_deref()).await? else {
                return Ok(response);
            };
            header = Some(other);
        }
        self.request(call, header.as_deref()).await
    }

    async fn request(&self, call: &Call<'_>, authorization: Option<&str>) -> Result<Response, RegistryError> {
        let mut request =
            self.clients.for_url(&call.url, &call.url).request(call.method.clone(), call.url.clone());
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        send(attach(request, call), call.subject).await
    }

    /// To the registry's storage. Authorization stays at home, also when the way leads back.
    async fn follow(
        &self,
        call: &Call<'_>,
        registry: &Url,
        mut response: Response,
    ) -> Result<Response, RegistryError> {
        let mut from = registry.clone();
        for _ in 0..MAX_REDIRECTS {
            let to = location(&response, &from)
                .filter(|to| to.scheme() == "https" || registry.scheme() == "http")
                .ok_or_else(|| RegistryError::invalid(call.subject, Violation::Redirect))?;
            let mut request = self.clients.for_url(&to, registry).request(call.method.clone(), to.clone());
            for (name, value) in &call.headers {
                request = request.header(*name, value);
            }
            response = send(request, call.subject).await?;
            if !response.status().is_redirection() {
                return require_success(response, call.subject).await;
            }
            from = to;
        }
        Err(RegistryError::invalid(call.subject, Violation::Redirect))
    }
}

fn attach(request: RequestBuilder, call: &Call<'_>) -> RequestBuilder {
    match call.body {
        Payload::None => request,
        Payload::Bytes(bytes) => request.body(bytes.to_vec()),
        Payload::File { file, size } => {
            let pieces = Body::wrap_stream(pieces(Arc::clone(file), size));
            request.header("Content-Length", size).body(pieces)
        }
    }
}

/// The first `size` bytes of a file. Each piece is read at its own place: an attempt that was given up may still be reading by
/// the same handle.
fn pieces(file: Arc<File>, size: u64) -> impl Stream<Item = io::Result<Vec<u8>>> + Send {
    stream::try_unfold(0, move |at| {
        let file = Arc::clone(&file);
        async move {
            let length = (size - at).min(PIECE);
            if length == 0 {
                return Ok(None);
            }
            let read = tokio::task::spawn_blocking(move || piece(&file, at, length)).await;
            Ok(Some((read.map_err(io::Error::other)??, at + length)))
        }
    })
}

fn piece(file: &File, at: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

fn scope(call: &Call<'_>) -> String {
    let actions = call.rights.actions();
    let own = format!("repository:{}:{actions}", call.subject.image().repository());
    call.also.map_or_else(|| own.clone(), |other| format!("{own} repository:{other}:pull"))
}

fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    Challenge::choose(headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()))
}

/// Where an answer points to.
pub(super) fn location(response: &Response, from: &Url) -> Option<Url> {
    let text = response.headers().get(LOCATION)?.to_str().ok()?;
    from.join(text).ok().filter(|to| matches!(to.scheme(), "http" | "https") && to.host().is_some())
}

/// Sends; a connection that fails is trouble that may pass.
pub(super) async fn send(request: RequestBuilder, subject: &Subject) -> Result<Response, RegistryError> {
    request.send().await.map_err(|error| connection_error(error, subject))
}

/// Without the URL: storage behind registries is reached by signed ones.
pub(super) fn connection_error(error: reqwest::Error, subject: &Subject) -> RegistryError {
    let trouble = match certificate_error(&error) {
        Some(certificate) => Trouble::Certificate(certificate),
        None => Trouble::Connection(error.without_url()),
    };
    RegistryError::unreachable(subject, trouble)
}

fn certificate_error(error: &reqwest::Error) -> Option<rustls::Error> {
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(tls @ rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
            return Some(tls.clone());
        }
        // An io::Error does not count what it wraps as its source.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = wrapped.map_or_else(|| error.source(), |wrapped| Some(wrapped));
    }
    None
}

/// The whole body, if it is not longer than this.
pub(super) async fn read_bounded(
    mut response: Response,
    limit: u64,
    subject: &Subject,
) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| connection_error(error, subject))? {
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Err(RegistryError::invalid(subject, Violation::TooLarge(limit)));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

async fn require_success(response: Response, subject: &Subject) -> Result<Response, RegistryError> {
    if response.status().is_success() { Ok(response) } else { Err(response_trouble(response, subject).await) }
}

/// What an answer that is no success means.
pub(super) async fn response_trouble(response: Response, subject: &Subject) -> RegistryError {
    let subject = subject.clone();
    let status = response.status().as_u16();
    if status == 404 {
        return RegistryError::Absent(subject);
    }
    let retry_after = retry_after(response.headers());
    // Its words are a courtesy: when they do not come, the status stands.
    let body = read_bounded(response, MAX_ERROR, &subject).await.unwrap_or_default();
    let message = words(&body);
    match status {
        401 | 403 => RegistryError::Denied { subject, status, message },
        408 | 425 | 429 | 500..=599 => {
            RegistryError::Unreachable { subject, retry_after, source: Trouble::Status { status, message } }
        }
        _ => RegistryError::Invalid { subject, source: Violation::Status { status, message } },
    }
}

/// Seconds or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if let Ok(seconds) = text.parse() {
        Duration::from_secs(seconds)
    } else {
        let date = httpdate::parse_http_date(text).ok()?;
        // A date that has passed means now.
        date.duration_since(std::time::SystemTime::now()).unwrap_or_default()
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[derive(Deserialize)]
struct ErrorBody {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    code: Option<String>,
    message: Option<String>,
}

/// The first error of the specification's error body, cut and without line breaks.
fn words(body: &[u8]) -> Option<String> {
    let body: ErrorBody = serde_json::from_slice(body).ok()?;
    let entry = body.errors.into_iter().next()?;
    let text = entry.message.filter(|text| !text.is_empty()).or(entry.code)?;
    Some(text.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect())
}
