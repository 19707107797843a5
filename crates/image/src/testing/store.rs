//! What the test registry holds and remembers.

use std::collections::{HashMap, HashSet};

use hyper::Method;
use hyper::body::Bytes;
use tenon_order::Digest;

use super::fault::{Aim, Fault, Route};

/// How the registry knows its users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// It asks nobody.
    Open,
    /// User and password with every request.
    Basic(String, String),
    /// A token, for this user and password, from this realm (its own `/token` where it is not given).
    Token {
        /// The user.
        user: String,
        /// The password.
        password: String,
        /// Another token service.
        realm: Option<String>,
    },
}

/// What the registry does when a manifest is to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// It deletes it.
    Allowed,
    /// It deletes nothing: 405.
    Unsupported,
    /// Not for this user: 403.
    Denied,
    /// It neither deletes nor answers.
    Ignored,
    /// It deletes, and does not answer.
    Unanswered,
}

/// A request that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The `Range` header.
    pub range: Option<String>,
}

type Named<K, V> = HashMap<(String, K), V>;

#[derive(Debug)]
pub(super) struct Store {
    pub(super) url: String,
    pub(super) auth: Auth,
    pub(super) deletion: Deletion,
    pub(super) tokens: HashSet<String>,
    tokens_given: usize,
    pub(super) faults: Vec<(Route, usize, Fault)>,
    pub(super) aims: Vec<Aim>,
    pub(super) seen: Vec<Seen>,
    pub(super) uploads: usize,
    blobs: Named<Digest, Bytes>,
    manifests: Named<Digest, (String, Bytes)>,
    tags: Named<String, Digest>,
}

impl Store {
    pub(super) fn new(url: String) -> Self {
        Self {
            url,
            auth: Auth::Open,
            deletion: Deletion::Allowed,
            tokens: HashSet::new(),
            tokens_given: 0,
            faults: Vec::new(),
            aims: Vec::new(),
            seen: Vec::new(),
            uploads: 0,
            blobs: HashMap::new(),
            manifests: HashMap::new(),
            tags: HashMap::new(),
        }
    }

    /// The fault that is aimed at this request.
    pub(super) fn aimed_fault(&mut self, request: &Seen) -> Option<Fault> {
        let hit = self.aims.iter_mut().position(|aim| aim.is_hit(request))?;
        Some(self.aims.remove(hit).fault)
    }

    /// The fault for a request of this route, if one is left.
    pub(super) fn next_fault(&mut self, route: Route) -> Option<Fault> {
        let (_, times, fault) = self.faults.iter_mut().find(|(on, times, _)| *on == route && *times > 0)?;
        *times -= 1;
        Some(fault.clone())
    }

    pub(super) fn new_token(&mut self) -> String {
        self.tokens_given += 1;
        let token = format!("token-{}", self.tokens_given);
        self.tokens.insert(token.clone());
        token
    }

    pub(super) fn put_blob(&mut self, repository: &str, bytes: Bytes) -> Digest {
        let digest = Digest::of(&bytes);
        self.blobs.insert((repository.to_owned(), digest), bytes);
        digest
    }

    pub(super) fn put_manifest(
        &mut self,
        repository: &str,
        name: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Digest {
        let digest = Digest::of(&bytes);
        self.manifests.insert((repository.to_owned(), digest), (media_type.to_owned(), bytes));
        if name.parse::<Digest>().is_err() {
            self.tags.insert((repository.to_owned(), name.to_owned()), digest);
        }
        digest
    }

    pub(super) fn blob(&self, repository: &str, digest: &Digest) -> Option<Bytes> {
        self.blobs.get(&(repository.to_owned(), *digest)).cloned()
    }

    pub(super) fn manifest(&self, repository: &str, name: &str) -> Option<(String, Bytes)> {
        let digest = match name.parse() {
            Ok(digest) => digest,
            Err(_) => *self.tags.get(&(repository.to_owned(), name.to_owned()))?,
        };
        self.manifests.get(&(repository.to_owned(), digest)).cloned()
    }

    /// A repository's tags.
    pub(super) fn tags<'s>(&'s self, repository: &'s str) -> impl Iterator<Item = &'s str> {
        self.tags.keys().filter(move |(known, _)| known == repository).map(|(_, tag)| tag.as_str())
    }

    /// Deletes by digest, with all tags; whether it was there.
    pub(super) fn delete_manifest(&mut self, repository: &str, name: &str) -> bool {
        let Ok(digest) = name.parse::<Digest>() else { return false };
        self.tags.retain(|(known, _), tagged| known != repository || *tagged != digest);
        self.manifests.remove(&(repository.to_owned(), digest)).is_some()
    }
}
