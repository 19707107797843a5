//! What was asked, when, and what came of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::{Method, Uri};

use super::Fault;

/// What a request is to the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Reads objects, or asks a question that changes nothing (a review).
    Read,
    /// Follows changes.
    Watch,
    /// Changes something.
    Write,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its place among all requests, from 0.
    pub number: usize,
    /// When it came.
    pub at: Instant,
    /// What it is.
    pub kind: Kind,
    /// Its method.
    pub method: String,
    /// Its path without the query.
    pub path: String,
    /// The fields that a list or a watch is about, as they stand in the query.
    pub selector: Option<String>,
    /// What it met.
    pub fault: Option<Fault>,
    /// What the API server answered, once it has, whether or not the client ever heard of it.
    pub status: Option<u16>,
}

impl Seen {
    pub(super) fn new(method: &Method, uri: &Uri, number: usize) -> Self {
        Self {
            number,
            at: Instant::now(),
            kind: kind(method, uri),
            method: method.to_string(),
            path: uri.path().to_owned(),
            selector: uri.query().and_then(selector).map(str::to_owned),
            fault: None,
            status: None,
        }
    }

    /// Method and path, as in `PATCH /api/v1/nodes/pine`.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

fn selector(query: &str) -> Option<&str> {
    query.split('&').find_map(|part| part.strip_prefix("fieldSelector="))
}

fn kind(method: &Method, uri: &Uri) -> Kind {
    let watches = uri
        .query()
        .is_some_and(|query| query.split('&').any(|part| part == "watch=true" || part == "watch=1"));
    let resource = uri.path().rsplit('/').next().unwrap_or_default();
    match *method {
        Method::GET | Method::HEAD | Method::OPTIONS if watches => Kind::Watch,
        Method::GET | Method::HEAD | Method::OPTIONS => Kind::Read,
        Method::POST if resource.ends_with("reviews") => Kind::Read,
        _ => Kind::Write,
    }
}

/// All requests, in the order in which they came.
#[derive(Debug, Clone, Default)]
pub struct Journal(Vec<Seen>);

impl Journal {
    /// All of them.
    pub fn all(&self) -> &[Seen] {
        &self.0
    }

    /// The writes.
    pub fn writes(&self) -> impl DoubleEndedIterator<Item = &Seen> {
        self.0.iter().filter(|seen| seen.kind == Kind::Write)
    }

    /// Those that met a fault.
    pub fn struck(&self) -> impl Iterator<Item = &Seen> {
        self.0.iter().filter(|seen| seen.fault.is_some())
    }

    /// The most requests of one method, path and selector within `window`, and which: a client that asks in a hot loop shows here.
    /// Watches count as what they are, too: one that is opened again and again is no better.
    pub fn busiest(&self, window: Duration) -> Option<(String, usize)> {
        let mut times: BTreeMap<String, Vec<Instant>> = BTreeMap::new();
        for seen in &self.0 {
            let watch = if seen.kind == Kind::Watch { " (watch)" } else { "" };
            let selector = seen.selector.as_deref().unwrap_or_default();
            let line = format!("{} {selector}{watch}", seen.line());
            times.entry(line.trim_end().to_owned()).or_default().push(seen.at);
        }
        let most = times.into_iter().map(|(line, times)| (line, most_within(&times, window)));
        most.max_by_key(|(_, count)| *count)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn next_number(&self) -> usize {
        self.0.len()
    }

    pub(super) fn add(&mut self, seen: Seen) {
        self.0.push(seen);
    }

    /// What the API server answered to a request.
    pub(super) fn answered(&mut self, seen: &Seen, status: u16) {
        // After a `clear` the number is another request's.
        let known = self.0.get_mut(seen.number).filter(|known| known.at == seen.at);
        if let Some(known) = known {
            known.status = Some(status);
        }
    }
}

/// The most of these ascending times that lie within one window.
fn most_within(times: &[Instant], window: Duration) -> usize {
    let count = |(first, at): (usize, &Instant)| {
        times.iter().skip(first).take_while(|other| **other < *at + window).count()
    };
    times.iter().enumerate().map(count).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_changes_nothing_and_a_watch_is_told_from_a_list() {
        let kind = |method: Method, uri: &str| kind(&method, &uri.parse().unwrap());
        assert_eq!(kind(Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews"), Kind::Read);
        assert_eq!(kind(Method::POST, "/api/v1/namespaces/a/configmaps"), Kind::Write);
        assert_eq!(kind(Method::DELETE, "/api/v1/namespaces/a/configmaps/b"), Kind::Write);
        assert_eq!(kind(Method::GET, "/api/v1/nodes?limit=5&watch=true"), Kind::Watch);
        assert_eq!(kind(Method::GET, "/api/v1/nodes?limit=5&unwatch=true"), Kind::Read);
    }

    #[test]
    fn the_busiest_second_is_found_wherever_it_begins() {
        let start = Instant::now();
        let mut journal = Journal::default();
        for (path, at) in [
            ("/a", 0),
            ("/b", 100),
            ("/a", 900),
            ("/a?fieldSelector=x", 950),
            ("/a", 1000),
            ("/a", 1899),
            ("/b", 5000),
        ] {
            let seen = Seen::new(&Method::GET, &path.parse().unwrap(), journal.next_number());
            journal.add(Seen { at: start + Duration::from_millis(at), ..seen });
        }
        assert_eq!(journal.busiest(Duration::from_secs(1)), Some(("GET /a".to_owned(), 3)));
    }
}
