//! The API server's audit log, read as counts: who wrote what, how often.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::path::PathBuf;

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

/// Every request once, when it is answered, without bodies; watches also when they begin, for one may outlive the server.
pub(super) const POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: Metadata
  verbs: [watch]
  omitStages: [RequestReceived]
- level: Metadata
  omitStages: [RequestReceived, ResponseStarted]
";

/// One kind of write: equal writes are counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Write {
    /// The user that the API server saw.
    pub user: String,
    /// `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: String,
    /// The resource's plural name.
    pub resource: String,
    /// The subresource, or nothing.
    pub subresource: String,
    /// The object's namespace, or nothing.
    pub namespace: String,
    /// The object's name, or nothing where the server draws it.
    pub name: String,
    /// The HTTP status of the answer.
    pub code: u16,
}

/// One kind of request, whichever object it was about: equal requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Request {
    /// The user that the API server saw.
    pub user: String,
    /// `get`, `list`, `watch`, or as a [`Write`]'s.
    pub verb: String,
    /// The resource's plural name; nothing where the request was about none.
    pub resource: String,
    /// The subresource, or nothing.
    pub subresource: String,
    /// The HTTP status of the answer.
    pub code: u16,
}

impl Request {
    /// Whether it was to change something.
    pub fn is_write(&self) -> bool {
        WRITES.contains(&self.verb.as_str())
    }
}

/// The stage of a watch that is told when it begins: it is counted when it ends.
const BEGUN: &str = "ResponseStarted";

/// The verbs that change something.
const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

/// A log on disk.
#[derive(Debug, Clone)]
pub struct AuditLog {
    pub(super) path: PathBuf,
}

/// A moment in a log: what the API server was asked for before it is not counted.
///
/// A moment and no place, because a request enters the log after its answer was sent: what a test has awaited already
/// may still be on its way into the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mark(Timestamp);

/// Why a log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file.
    #[error("read the audit log {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A line of it.
    #[error("read line {line} of the audit log {path}")]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

impl AuditLog {
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Now: the API server runs on this machine, so its clock is ours.
    pub fn mark(&self) -> Mark {
        Mark(Timestamp::now())
    }

    /// The writes after a mark, counted.
    pub fn writes_since(&self, mark: Mark) -> Result<BTreeMap<Write, u64>, AuditError> {
        let text = self.read()?;
        count(&text, mark).map_err(|(line, source)| AuditError::Line {
            path: self.path.clone(),
            line,
            source,
        })
    }

    /// All requests after a mark, counted, a line at a time: the log of a large cluster does not fit in memory twice.
    pub fn requests_since(&self, mark: Mark) -> Result<BTreeMap<Request, u64>, AuditError> {
        let unread = |source| AuditError::Read { path: self.path.clone(), source };
        let mut lines = BufReader::new(File::open(&self.path).map_err(unread)?);
        let (mut requests, mut line, mut number) = (BTreeMap::new(), String::new(), 0);
        // The last line may be half written.
        while lines.read_line(&mut line).map_err(unread)? > 0 && line.ends_with('\n') {
            number += 1;
            let event: Event = serde_json::from_str(&line).map_err(|source| AuditError::Line {
                path: self.path.clone(),
                line: number,
                source,
            })?;
            if event.request_received_timestamp >= mark.0 && event.stage != BEGUN {
                *requests.entry(event.into_request()).or_default() += 1;
            }
            line.clear();
        }
        Ok(requests)
    }

    /// All writes, counted.
    pub fn writes(&self) -> Result<BTreeMap<Write, u64>, AuditError> {
        self.writes_since(Mark::default())
    }

    fn read(&self) -> Result<String, AuditError> {
        let text = fs::read_to_string(&self.path)
            .map_err(|source| AuditError::Read { path: self.path.clone(), source })?;
        // The last line may be half written.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        Ok(text.get(..whole).unwrap_or_default().to_owned())
    }
}

/// Counts the writes in a log's text that were asked for after a mark; an error names the line, from 1.
pub fn count(text: &str, since: Mark) -> Result<BTreeMap<Write, u64>, (usize, serde_json::Error)> {
    let mut writes = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let event: Event = serde_json::from_str(line).map_err(|error| (index + 1, error))?;
        if event.request_received_timestamp < since.0 {
            continue;
        }
        if let Some(write) = event.into_write() {
            *writes.entry(write).or_default() += 1;
        }
    }
    Ok(writes)
}

/// The fields of `audit.k8s.io/v1` Event that are counted.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    #[serde(default)]
    request_received_timestamp: Timestamp,
    #[serde(default)]
    stage: String,
    verb: String,
    user: User,
    #[serde(default)]
    object_ref: Option<ObjectRef>,
    #[serde(default)]
    response_status: Option<Status>,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ObjectRef {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
}

impl Event {
    fn into_request(self) -> Request {
        let object = self.object_ref.unwrap_or_default();
        Request {
            user: self.user.username,
            verb: self.verb,
            resource: object.resource,
            subresource: object.subresource,
            code: self.response_status.map_or(0, |status| status.code),
        }
    }

    fn into_write(self) -> Option<Write> {
        if !WRITES.contains(&self.verb.as_str()) {
            return None;
        }
        let object = self.object_ref.unwrap_or_default();
        Some(Write {
            user: self.user.username,
            verb: self.verb,
            resource: object.resource,
            subresource: object.subresource,
            namespace: object.namespace,
            name: object.name,
            code: self.response_status.map_or(0, |status| status.code),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"{"kind":"Event","verb":"list","user":{"username":"a"},"objectRef":{"resource":"pods"},"responseStatus":{"code":200}}
{"kind":"Event","verb":"patch","user":{"username":"a"},"objectRef":{"resource":"nodes","name":"n1","apiVersion":"v1","subresource":"status"},"responseStatus":{"metadata":{},"code":200}}
{"kind":"Event","verb":"patch","user":{"username":"a"},"objectRef":{"resource":"nodes","name":"n1","subresource":"status"},"responseStatus":{"code":200}}
{"kind":"Event","verb":"patch","user":{"username":"a"},"objectRef":{"resource":"nodes","name":"n1","subresource":"status"},"responseStatus":{"code":409}}
"#;

    #[test]
    fn equal_writes_are_counted_together_and_reads_not_at_all() {
        let writes = count(LOG, Mark::default()).unwrap();
        let write = Write {
            user: "a".into(),
            verb: "patch".into(),
            resource: "nodes".into(),
            subresource: "status".into(),
            name: "n1".into(),
            code: 200,
            ..Write::default()
        };
        assert_eq!(writes.get(&write), Some(&2));
        assert_eq!(writes.get(&Write { code: 409, ..write }), Some(&1));
        assert_eq!(writes.len(), 2);
    }

    #[test]
    fn requests_are_counted_by_kind_and_reads_too() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("{LOG}{{\"verb\":\"cre")).unwrap();
        let requests = AuditLog::at(file.path().to_owned()).requests_since(Mark::default()).unwrap();
        let counted: Vec<_> =
            requests.iter().map(|(request, count)| (request.is_write(), request.code, *count)).collect();
        assert_eq!(counted, [(false, 200, 1), (true, 200, 2), (true, 409, 1)]);
    }

    #[test]
    fn a_half_written_line_waits_for_its_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("{LOG}{{\"verb\":\"cre")).unwrap();
        let log = AuditLog::at(file.path().to_owned());
        assert_eq!(log.writes().unwrap().len(), 2);
    }

    #[test]
    fn a_request_that_enters_the_log_late_counts_for_when_it_was_made() {
        let line = |second: u32| {
            format!(
                r#"{{"verb":"patch","user":{{}},"objectRef":{{"name":"n{second}"}},"requestReceivedTimestamp":"2026-01-01T00:00:0{second}.500000Z"}}"#
            )
        };
        let mark = Mark("2026-01-01T00:00:02Z".parse().unwrap());
        let text = format!("{}\n{}\n", line(3), line(1));
        let names: Vec<_> = count(&text, mark).unwrap().into_keys().map(|write| write.name).collect();
        assert_eq!(names, ["n3"]);
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = count("{\"verb\":\"get\",\"user\":{}}\nrubbish\n", Mark::default()).unwrap_err();
        assert_eq!(error.0, 2);
    }
}
