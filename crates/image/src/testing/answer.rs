//! The distribution API over the store: from a request to an answer, before any fault.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Bytes;
use hyper::header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use hyper::{HeaderMap, Method, Response, StatusCode};
use serde_json::json;
use tenon_order::Digest;

use super::fault::Route;
use super::store::{Auth, Deletion, Store};

const CONTENT_DIGEST: &str = "docker-content-digest";

/// A request with its body read.
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

pub(super) type Answer = Response<Bytes>;

/// Where a path leads: the kind of request, the repository, the last part.
pub(super) fn route(path: &str) -> Option<(Route, &str, &str)> {
    if path == "/token" {
        return Some((Route::Token, "", ""));
    }
    let rest = path.strip_prefix("/v2/")?;
    let kinds = [
        ("/blobs/uploads/", Route::Upload),
        ("/blobs/", Route::Blob),
        ("/manifests/", Route::Manifest),
        ("/tags/", Route::Tags),
    ];
    kinds
        .into_iter()
        .find_map(|(part, route)| rest.rsplit_once(part).map(|(repository, name)| (route, repository, name)))
}

pub(super) fn answer(store: &mut Store, asked: &Asked) -> Answer {
    let Some((route, repository, name)) = route(&asked.path) else { return plain(StatusCode::NOT_FOUND) };
    if route == Route::Token {
        return token(store, asked);
    }
    if let Some(refusal) = refusal(store, asked, repository) {
        return refusal;
    }
    match (route, &asked.method) {
        (Route::Manifest, &Method::GET | &Method::HEAD) => manifest(store, repository, name),
        (Route::Manifest, &Method::PUT) => put_manifest(store, asked, repository, name),
        (Route::Manifest, &Method::DELETE) => delete_manifest(store, repository, name),
        (Route::Tags, &Method::GET) => tags(store, asked, repository),
        (Route::Blob, &Method::GET | &Method::HEAD) => blob(store, asked, repository, name),
        (Route::Upload, &Method::POST) => open_upload(store, asked, repository),
        (Route::Upload, &Method::PUT) => put_blob(store, asked, repository),
        _ => plain(StatusCode::METHOD_NOT_ALLOWED),
    }
}

fn manifest(store: &Store, repository: &str, name: &str) -> Answer {
    let Some((media_type, bytes)) = store.manifest(repository, name) else {
        return unknown("MANIFEST_UNKNOWN");
    };
    with(StatusCode::OK, &[(CONTENT_TYPE.as_str(), &media_type), (CONTENT_DIGEST, &digest(&bytes))], bytes)
}

fn put_manifest(store: &mut Store, asked: &Asked, repository: &str, name: &str) -> Answer {
    let media_type =
        asked.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let digest = store.put_manifest(repository, name, media_type, asked.body.clone());
    with(StatusCode::CREATED, &[(CONTENT_DIGEST, &digest.to_string())], Bytes::new())
}

fn delete_manifest(store: &mut Store, repository: &str, name: &str) -> Answer {
    match store.deletion {
        Deletion::Ignored => plain(StatusCode::OK),
        Deletion::Allowed | Deletion::Unanswered => {
            let deleted = store.delete_manifest(repository, name);
            if deleted { plain(StatusCode::ACCEPTED) } else { unknown("MANIFEST_UNKNOWN") }
        }
        Deletion::Unsupported => {
            error(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "The operation is unsupported.")
        }
        Deletion::Denied => {
            error(StatusCode::FORBIDDEN, "DENIED", "requested access to the resource is denied")
        }
    }
}

/// Two to a page: who follows no links learns of few.
fn tags(store: &Store, asked: &Asked, repository: &str) -> Answer {
    const PAGE: usize = 2;
    let last = asked.query.split('&').find_map(|pair| pair.strip_prefix("last=")).unwrap_or_default();
    let mut tags: Vec<_> = store.tags(repository).filter(|tag| *tag > last).collect();
    tags.sort_unstable();
    let more = tags.len() > PAGE;
    tags.truncate(PAGE);
    let body = json!({"name": repository, "tags": tags}).to_string();
    let next =
        tags.last().map(|last| format!("</v2/{repository}/tags/list?n={PAGE}&last={last}>; rel=\"next\""));
    let link = next.filter(|_| more);
    let headers: Vec<_> = link.iter().map(|link| ("link", link.as_str())).collect();
    with(StatusCode::OK, &headers, body.into())
}

fn blob(store: &Store, asked: &Asked, repository: &str, name: &str) -> Answer {
    let found = name.parse().ok().and_then(|digest: Digest| store.blob(repository, &digest));
    let Some(bytes) = found else { return unknown("BLOB_UNKNOWN") };
    let range = asked.headers.get("range").and_then(|value| value.to_str().ok());
    let start = range
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        .filter(|start: &usize| *start < bytes.len());
    match start {
        Some(start) => {
            let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            with(StatusCode::PARTIAL_CONTENT, &[(CONTENT_RANGE.as_str(), &range)], bytes.slice(start..))
        }
        None => with(StatusCode::OK, &[(ACCEPT_RANGES.as_str(), "bytes")], bytes),
    }
}

/// An upload, or at once the blob of another repository.
fn open_upload(store: &mut Store, asked: &Asked, repository: &str) -> Answer {
    let parameter = |name: &str| {
        let value = asked.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
        Some(value.replace("%3A", ":").replace("%2F", "/"))
    };
    let mounted = parameter("mount").and_then(|digest| digest.parse().ok()).zip(parameter("from"));
    if let Some(bytes) = mounted.and_then(|(digest, from)| store.blob(&from, &digest)) {
        let digest = store.put_blob(repository, bytes);
        return with(StatusCode::CREATED, &[(CONTENT_DIGEST, &digest.to_string())], Bytes::new());
    }
    store.uploads += 1;
    let location = format!("/v2/{repository}/blobs/uploads/{}?state=x", store.uploads);
    with(StatusCode::ACCEPTED, &[(LOCATION.as_str(), &location)], Bytes::new())
}

fn put_blob(store: &mut Store, asked: &Asked, repository: &str) -> Answer {
    let wanted = asked.query.split('&').find_map(|pair| pair.strip_prefix("digest="));
    if wanted.map(|text| text.replace("%3A", ":")) != Some(digest(&asked.body)) {
        return error(
            StatusCode::BAD_REQUEST,
            "DIGEST_INVALID",
            "provided digest did not match uploaded content",
        );
    }
    let digest = store.put_blob(repository, asked.body.clone());
    with(StatusCode::CREATED, &[(CONTENT_DIGEST, &digest.to_string())], Bytes::new())
}

/// The answer to somebody who may not; nothing for those who may.
fn refusal(store: &Store, asked: &Asked, repository: &str) -> Option<Answer> {
    let authorization =
        asked.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let challenge = match &store.auth {
        Auth::Open => return None,
        Auth::Basic(user, password) if authorization == basic(user, password) => return None,
        Auth::Basic(..) => "Basic realm=\"test\"".to_owned(),
        Auth::Token { .. }
            if authorization.strip_prefix("Bearer ").is_some_and(|token| store.tokens.contains(token)) =>
        {
            return None;
        }
        Auth::Token { realm, .. } => {
            let realm = realm.clone().unwrap_or_else(|| format!("{}/token", store.url));
            format!("Bearer realm=\"{realm}\",service=\"test\",scope=\"repository:{repository}:pull\"")
        }
    };
    let mut answer = error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required");
    set(&mut answer, WWW_AUTHENTICATE.as_str(), &challenge);
    Some(answer)
}

fn token(store: &mut Store, asked: &Asked) -> Answer {
    let authorization = asked.headers.get("authorization").and_then(|value| value.to_str().ok());
    let known = match &store.auth {
        Auth::Token { user, password, .. } => authorization == Some(&basic(user, password)),
        Auth::Open | Auth::Basic(..) => true,
    };
    if !known {
        return plain(StatusCode::UNAUTHORIZED);
    }
    let body = json!({"token": store.new_token(), "expires_in": 300}).to_string();
    with(StatusCode::OK, &[(CONTENT_TYPE.as_str(), "application/json")], body.into())
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn digest(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

fn unknown(code: &str) -> Answer {
    error(StatusCode::NOT_FOUND, code, "unknown to registry")
}

fn error(status: StatusCode, code: &str, message: &str) -> Answer {
    let body = json!({"errors": [{"code": code, "message": message}]}).to_string();
    with(status, &[(CONTENT_TYPE.as_str(), "application/json")], body.into())
}

pub(super) fn plain(status: StatusCode) -> Answer {
    with(status, &[], Bytes::new())
}

fn with(status: StatusCode, headers: &[(&'static str, &str)], body: Bytes) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    for (name, value) in headers {
        set(&mut answer, name, value);
    }
    answer
}

/// Sets a header; a value that is none is left out.
pub(super) fn set(answer: &mut Answer, name: &'static str, value: &str) {
    if let Ok(value) = value.parse() {
        answer.headers_mut().insert(name, value);
    }
}
