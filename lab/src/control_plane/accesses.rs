//! What Tenon's own service accounts asked of an API server, left in a folder when it ends: so that whoever runs all tests can compare
//! it with what they may.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::path::PathBuf;

use serde::Deserialize;
use tenon_api::node_pod::NAMESPACE;

use super::audit::AuditLog;

/// Names the folder; without it nothing is left.
pub const FOLDER: &str = "TENON_LAB_ACCESSES";

/// Why nothing could be left.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}")]
pub struct AccessError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    verb: String,
    user: User,
    #[serde(default)]
    impersonated_user: Option<User>,
    #[serde(default)]
    object_ref: Option<ObjectRef>,
    #[serde(default)]
    annotations: Annotations,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ObjectRef {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Annotations {
    #[serde(rename = "authorization.k8s.io/decision")]
    decision: String,
}

/// Reads a log, and writes what it says of our accounts: a line for each kind of access, in columns.
pub(super) fn leave(log: &AuditLog) -> Result<(), AccessError> {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return Ok(()) };
    let failed = |action, path: &PathBuf| {
        let path = path.clone();
        move |source| AccessError { action, path, source }
    };
    let read = failed("read", &log.path);
    let lines = match File::open(&log.path) {
        Ok(file) => BufReader::new(file).lines(),
        // It never came up.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(read(error)),
    };
    let accounts = format!("system:serviceaccount:{NAMESPACE}:");
    let mut accesses = BTreeSet::new();
    for line in lines {
        let line = line.map_err(failed("read", &log.path))?;
        // Most of a log is others': the controllers' of Kubernetes, the tests' own. The last line may be half written.
        if line.contains(&accounts)
            && let Ok(event) = serde_json::from_str::<Event>(&line)
        {
            accesses.extend(access(event, &accounts));
        }
    }
    if accesses.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
    // Folders of labs have names of their own.
    let name = log.path.parent().and_then(|folder| folder.file_name()).unwrap_or_default();
    let path = folder.join(name).with_extension("tsv");
    let text: String = accesses.into_iter().map(|access| access + "\n").collect();
    fs::write(&path, text).map_err(failed("write", &path))
}

/// The columns: account, verb, group, resource (with its subresource), namespace, name, decision. Namespace and name only where rules
/// tell them apart.
fn access(event: Event, accounts: &str) -> Option<String> {
    let user = event.impersonated_user.unwrap_or(event.user).username;
    let account = user.strip_prefix(accounts)?;
    let object = event.object_ref?;
    let resource = match object.subresource.as_str() {
        "" => object.resource,
        subresource => format!("{}/{subresource}", object.resource),
    };
    let own = object.namespace == NAMESPACE || resource == "leases";
    let (namespace, name) =
        if own { (object.namespace, object.name) } else { (String::new(), String::new()) };
    Some(
        [account, &event.verb, &object.api_group, &resource, &namespace, &name, &event.annotations.decision]
            .join("\t"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNTS: &str = "system:serviceaccount:tenon-system:";

    fn seen(user: &str, object: &str, decision: &str) -> Option<String> {
        let line = format!(
            r#"{{"verb": "get", "user": {{"username": "{user}"}}, "objectRef": {object},
                "annotations": {{"authorization.k8s.io/decision": "{decision}", "other": "x"}}}}"#
        );
        access(serde_json::from_str(&line).unwrap(), ACCOUNTS)
    }

    #[test]
    fn an_access_is_told_as_rules_see_it() {
        let operator = "system:serviceaccount:tenon-system:tenon-operator";
        let secret = r#"{"resource": "secrets", "namespace": "hall", "name": "key", "apiVersion": "v1"}"#;
        assert_eq!(
            seen(operator, secret, "allow").as_deref(),
            Some("tenon-operator\tget\t\tsecrets\t\t\tallow")
        );
        let own = r#"{"resource": "secrets", "namespace": "tenon-system", "name": "tenon-order-key"}"#;
        let expected = "tenon-operator\tget\t\tsecrets\ttenon-system\ttenon-order-key\tforbid";
        assert_eq!(seen(operator, own, "forbid").as_deref(), Some(expected));
        let status = r#"{"resource": "modules", "subresource": "status", "apiGroup": "kmm.sigs.x-k8s.io"}"#;
        let expected = "tenon-operator\tget\tkmm.sigs.x-k8s.io\tmodules/status\t\t\tallow";
        assert_eq!(seen(operator, status, "allow").as_deref(), Some(expected));
        assert_eq!(seen("lab-admin", secret, "allow"), None);
    }
}
