//! What must not leave the cluster, blotted out of texts and objects.
//!
//! Three nets, one behind the other: the values of the Secrets that could be read, wherever they stand; what looks like a credential;
//! and what stands in a place for values, such as a container's environment.

use std::collections::BTreeSet;

use regex::{Captures, Regex, RegexBuilder};
use serde_json::Value;

/// What stands in the place of what was there.
pub(crate) const BLOT: &str = "<redacted>";
/// Shorter values are words like any other.
const LEAST: usize = 8;
/// What the expression of all known values may take in memory.
const MOST_COMPILED: usize = 64 << 20;

/// Lists whose members have a name and a value, of which the value is nobody's business.
const VALUED: [&str; 2] = ["env", "buildArgs"];
/// What programs write about objects and nobody reads, and what repeats an object as its author wrote it.
const DROPPED: [&str; 2] = ["managedFields", "kubectl.kubernetes.io/last-applied-configuration"];

/// Expressions of what looks like a credential; its groups `keep` and `end` stay.
const LOOKS: [&str; 7] = [
    // A user and a password in a URL.
    r"(?P<keep>[A-Za-z][A-Za-z0-9+.-]*://)[^/\s@]+(?P<end>@)",
    r"(?i)(?P<keep>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}",
    r#"(?i)(?P<keep>(?:token|password|passwd|passphrase|api[_-]?key|client[_-]?secret|secret[_-]?key|access[_-]?key|private[_-]?key|\bauth)["']?\s*[=:]\s*)(?:"[^"]*"|'[^']*'|[^\s,;&}"']+)"#,
    // A JSON Web Token.
    r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*",
    r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)",
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-)[A-Za-z0-9_-]{16,}",
];

/// Why nothing is blotted out.
#[derive(Debug, thiserror::Error)]
#[error("make an expression of what is secret")]
pub(crate) struct RedactError(#[from] regex::Error);

/// Blots out.
#[derive(Debug)]
pub(crate) struct Redactor {
    known: Option<Regex>,
    looks: Vec<Regex>,
}

impl Redactor {
    /// That knows these values by themselves.
    pub(crate) fn new(known: &BTreeSet<String>) -> Result<Self, RedactError> {
        // The longest first: one may begin with another.
        let mut values: Vec<_> = known.iter().collect();
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        let all: Vec<_> = values.into_iter().map(|value| regex::escape(value)).collect();
        let known = (!all.is_empty())
            .then(|| RegexBuilder::new(&all.join("|")).size_limit(MOST_COMPILED).build())
            .transpose()?;
        let looks = LOOKS.iter().map(|look| Regex::new(look)).collect::<Result<_, _>>()?;
        Ok(Self { known, looks })
    }

    /// The text without what is secret.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut text = match &self.known {
            Some(known) => known.replace_all(text, BLOT).into_owned(),
            None => text.to_owned(),
        };
        for look in &self.looks {
            let blotted = look.replace_all(&text, |found: &Captures<'_>| {
                let group = |name| found.name(name).map_or("", |group| group.as_str());
                format!("{}{BLOT}{}", group("keep"), group("end"))
            });
            text = blotted.into_owned();
        }
        text
    }

    /// The object without it.
    pub(crate) fn object(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.object(item)).collect(),
            Value::Object(fields) => {
                let kept = fields.into_iter().filter(|(name, _)| !DROPPED.contains(&name.as_str()));
                let fields = kept.map(|(name, value)| {
                    let value =
                        if VALUED.contains(&name.as_str()) { self.values(value) } else { self.object(value) };
                    (name, value)
                });
                Value::Object(fields.collect())
            }
            other => other,
        }
    }

    /// A list of names and values: the names.
    fn values(&self, list: Value) -> Value {
        let mut list = self.object(list);
        for item in list.as_array_mut().into_iter().flatten() {
            if let Some(value) = item.get_mut("value") {
                *value = Value::String(BLOT.to_owned());
            }
        }
        list
    }
}

/// The forms in which a Secret's value may be met: as it is stored, as it is, line by line, and what stands in it where it is JSON.
pub(crate) fn forms(stored: &str, value: &[u8]) -> BTreeSet<String> {
    let mut forms = BTreeSet::from([stored.to_owned()]);
    if let Ok(text) = str::from_utf8(value) {
        forms.extend(text.lines().map(|line| line.trim().to_owned()));
        if let Ok(json) = serde_json::from_str(text) {
            leaves(&json, &mut forms);
        }
    }
    // The frame of a certificate or a key is no secret.
    forms.retain(|form| form.len() >= LEAST && !form.starts_with("-----"));
    forms
}

fn leaves(json: &Value, found: &mut BTreeSet<String>) {
    match json {
        Value::String(text) => {
            found.insert(text.clone());
        }
        Value::Array(items) => items.iter().for_each(|item| leaves(item, found)),
        Value::Object(fields) => fields.values().for_each(|value| leaves(value, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn plain() -> Redactor {
        Redactor::new(&BTreeSet::new()).unwrap()
    }

    #[rstest]
    #[case("clone https://joe:CANARY@git.example/x.git", "clone https://<redacted>@git.example/x.git")]
    #[case("clone https://CANARY@git.example/x.git", "clone https://<redacted>@git.example/x.git")]
    #[case("Authorization: Bearer CANARY.abc", "Authorization: Bearer <redacted>")]
    #[case(r#"{"token":"CANARY","n":1}"#, r#"{"token":<redacted>,"n":1}"#)]
    #[case("--password=CANARY --n=1", "--password=<redacted> --n=1")]
    #[case("REGISTRY_PASSWORD: 'CANARY x'", "REGISTRY_PASSWORD: <redacted>")]
    #[case("got eyJhbGciOiJSUzI1NiJ9.CANARY.x-y_z", "got <redacted>")]
    #[case("-----BEGIN RSA PRIVATE KEY-----\nCANARY\n-----END RSA PRIVATE KEY-----\nend", "<redacted>\nend")]
    #[case("-----BEGIN PRIVATE KEY-----\nCANARY\ncut", "<redacted>")]
    #[case("AKIACANARYCANARYCANA", "<redacted>")]
    #[case("ghp_CANARYCANARYCANARYCANARY", "<redacted>")]
    fn what_looks_like_a_credential_is_blotted_out(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(plain().text(text), expected);
    }

    #[rstest]
    #[case("SecretMissing: Secret hall/key does not exist")]
    #[case("imageRepoSecret: pull")]
    #[case("registry.example/gauge@sha256:0123456789abcdef")]
    #[case("Module hall/gauge loaded into the kernel")]
    fn what_helps_stays(#[case] text: &str) {
        assert_eq!(plain().text(text), text);
    }

    #[test]
    fn a_secret_s_value_is_found_in_all_its_forms() {
        let config = r#"{"auths":{"registry.example":{"username":"joe","password":"CANARY-one"}}}"#;
        let mut known = forms("eyJhdXRocyI6IENBTkFSWQ==", config.as_bytes());
        known.extend(forms("Q0FOQVJZLWtleQ==", b"-----BEGIN X-----\nCANARY-line\n-----END X-----\n"));
        let redactor = Redactor::new(&known).unwrap();
        for text in ["x CANARY-one y", "eyJhdXRocyI6IENBTkFSWQ==", "CANARY-line", "Q0FOQVJZLWtleQ=="] {
            assert!(!redactor.text(text).contains("CANARY") && redactor.text(text).contains(BLOT), "{text}");
        }
        assert_eq!(redactor.text("-----BEGIN X-----, joe"), "-----BEGIN X-----, joe");
    }

    #[test]
    fn an_object_keeps_its_form_and_names() {
        let object = json!({
            "metadata": { "name": "gauge", "managedFields": [{}], "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "CANARY", "note": "token=CANARY" } },
            "spec": { "env": [{ "name": "A", "value": "CANARY" }, { "name": "B", "valueFrom": { "x": "y" } }],
                      "buildArgs": [{ "name": "C", "value": "CANARY" }] },
        });
        let expected = json!({
            "metadata": { "name": "gauge", "annotations": { "note": "token=<redacted>" } },
            "spec": { "env": [{ "name": "A", "value": BLOT }, { "name": "B", "valueFrom": { "x": "y" } }],
                      "buildArgs": [{ "name": "C", "value": BLOT }] },
        });
        assert_eq!(plain().object(object), expected);
    }
}
