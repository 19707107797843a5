//! What must not leave the cluster, blotted out of texts and objects.
//!
//! Three nets, one behind the other: the values of the Secrets that could be read, wherever they stand; what looks like a credential;
//! and what stands in a place for values, such as a container's environment, a build's arguments, or under a credential's name.

use std::collections::BTreeSet;

use regex::{Captures, Regex};
use serde_json::{Map, Value};

use super::known::Known;

/// What stands in the place of what was there.
pub(crate) const BLOT: &str = "<redacted>";
/// What stands in the place of a Dockerfile: anything may be in it.
const NO_DOCKERFILE: &str = "<left out: a Dockerfile>";

/// Lists whose members have a name and a value, of which the value is nobody's business.
const VALUED: [&str; 3] = ["env", "buildArgs", "httpHeaders"];
/// What programs write about objects and nobody reads, and what repeats an object as its author wrote it.
const DROPPED: [&str; 2] = ["managedFields", "kubectl.kubernetes.io/last-applied-configuration"];
/// Where a Dockerfile stands: in a Module, and in an annotation of the pod that builds.
const DOCKERFILES: [&str; 2] = ["dockerfile", "tenon.dev/dockerfile"];
/// The flag after which a build's argument stands.
const BUILD_ARGUMENT: &str = "--build-arg";

/// What a name ends in under which a credential stands.
const CREDENTIAL: &str = r"(?:tokens?|passw(?:or)?ds?|passphrases?|secrets?|credentials?|(?:api|access|private|secret|encryption)[-_.]?keys?|\bauth|authorization)";
/// A text within quotes, or within quotes of a text within quotes, or up to where it ends without any. What is never closed ends
/// with its line.
const VALUE: &str = r#"(?:"(?:[^"\\]|\\.)*"|'[^']*'|\\"(?:[^"\\]|\\\\(?:\\["\\]|[^"\\]))*\\"|\\+["'][^"'\n]*["']?|[^\s,;&}"']+|["'][^\n]*)"#;

/// Expressions of what looks like a credential; its groups `keep` and `end` stay. `CREDENTIAL` and `VALUE` stand for those above.
const LOOKS: [&str; 10] = [
    // A user and a password in a URL.
    r"(?P<keep>[A-Za-z][A-Za-z0-9+.-]*://)[^/\s@]+(?P<end>@)",
    r"(?i)(?P<keep>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}",
    r#"(?i)(?P<keep>(?:token|password|passwd|passphrase|api[_-]?key|client[_-]?secret|secret[_-]?key|access[_-]?key|private[_-]?key|\bauth)\\*["']?\s*[=:]\s*)VALUE"#,
    // A flag and what follows it, in a command or in a list.
    r#"(?im)(?P<keep>(?:^|[\s"'\[,])--?[a-z0-9_.-]*(?:CREDENTIAL|key)\\*["']?[=, \t]+)VALUE"#,
    // A build's argument: where its value ends, nobody knows.
    r#"(?P<keep>--build-arg\\*["']?[=, \t]+\\*["']?[A-Za-z_][A-Za-z0-9_]*=)[^\n]*"#,
    // A JSON Web Token.
    r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*",
    r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)",
    // The end of a private key in a log of which only the end is there, with the time before each line.
    r"(?m)(?:^(?:\S+[ \t])?[A-Za-z0-9+/=]+\r?\n)+(?:\S+[ \t])?-----END [A-Z ]*PRIVATE KEY-----",
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-)[A-Za-z0-9_-]{16,}",
];

/// Why nothing is blotted out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RedactError {
    #[error("make an expression of what looks secret")]
    Looks(#[from] regex::Error),
    #[error("make a search of what is secret")]
    Known(#[from] aho_corasick::BuildError),
}

/// Blots out.
#[derive(Debug)]
pub(crate) struct Redactor {
    known: Known,
    looks: Vec<Regex>,
    /// The name of a field.
    credential: Regex,
    /// A flag without its value.
    flag: Regex,
    /// A flag with its value: group `keep` is all but the value.
    flag_and_value: Regex,
}

impl Redactor {
    /// That knows these values by themselves.
    pub(crate) fn new(known: BTreeSet<String>) -> Result<Self, RedactError> {
        let whole = |look: &str| Regex::new(&look.replace("CREDENTIAL", CREDENTIAL).replace("VALUE", VALUE));
        Ok(Self {
            known: Known::new(known)?,
            looks: LOOKS.into_iter().map(whole).collect::<Result<_, _>>()?,
            credential: whole(r"(?i)CREDENTIAL\z")?,
            flag: whole(r"(?i)\A--?[a-z0-9_.-]*(?:CREDENTIAL|key)\z")?,
            flag_and_value: whole(
                r"(?is)\A(?P<keep>(?:--?[a-z0-9_.-]*(?:CREDENTIAL|key)|--build-arg[= ][a-z_][a-z0-9_]*)=).*\z",
            )?,
        })
    }

    /// The text without what is secret.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut text = self.known.blot_out(text, BLOT);
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
            Value::String(text) => Value::String(self.string(&text)),
            Value::Array(items) => self.list(items),
            Value::Object(fields) => Value::Object(self.fields(fields)),
            other => other,
        }
    }

    fn fields(&self, fields: Map<String, Value>) -> Map<String, Value> {
        let kept = fields.into_iter().filter(|(name, _)| !DROPPED.contains(&name.as_str()));
        kept.map(|(name, value)| {
            let value = self.field(&name, value);
            (name, value)
        })
        .collect()
    }

    fn field(&self, name: &str, value: Value) -> Value {
        if VALUED.contains(&name) {
            self.values(value)
        } else if DOCKERFILES.contains(&name) && value.is_string() {
            Value::String(NO_DOCKERFILE.to_owned())
        } else if self.credential.is_match(name) {
            self.credential(value)
        } else {
            self.object(value)
        }
    }

    /// What stands under a credential's name. Objects there are often references: they are looked through like any other.
    fn credential(&self, value: Value) -> Value {
        match value {
            Value::String(_) | Value::Number(_) => Value::String(BLOT.to_owned()),
            Value::Array(items) => items.into_iter().map(|item| self.credential(item)).collect(),
            other => self.object(other),
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

    /// A list, which may be a command: what stands in it depends on what stands before.
    fn list(&self, items: Vec<Value>) -> Value {
        let mut before = String::new();
        let shown = items.into_iter().map(|item| {
            let Value::String(text) = item else {
                before.clear();
                return self.object(item);
            };
            let shown = self.argument(&before, &text);
            before = text;
            Value::String(shown)
        });
        shown.collect()
    }

    fn argument(&self, before: &str, text: &str) -> String {
        match text.split_once('=') {
            _ if self.flag.is_match(before) => BLOT.to_owned(),
            Some((name, _)) if before == BUILD_ARGUMENT => format!("{}={BLOT}", self.text(name)),
            _ => self.string(text),
        }
    }

    /// A text in an object: it may be an object itself, or a flag with a value of several lines.
    fn string(&self, text: &str) -> String {
        if let Some(object) = inner(text) {
            let shown = self.object(object.clone());
            return if shown == object { self.text(text) } else { shown.to_string() };
        }
        let flag = self.flag_and_value.captures(text).and_then(|found| found.name("keep"));
        match flag {
            Some(flag) => self.text(&format!("{}{BLOT}", flag.as_str())),
            None => self.text(text),
        }
    }
}

/// The object or list that a text is, as in annotations.
fn inner(text: &str) -> Option<Value> {
    let object = serde_json::from_str(text.trim_start().starts_with(['{', '[']).then_some(text)?).ok()?;
    Some(object).filter(|object: &Value| object.is_object() || object.is_array())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn plain() -> Redactor {
        Redactor::new(BTreeSet::new()).unwrap()
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
    #[case::no_end("token=\"CANARY x\nend", "token=<redacted>\nend")]
    #[case::quotes_in_quotes(r#"{"token":"a\"CANARY","n":1}"#, r#"{"token":<redacted>,"n":1}"#)]
    #[case::json_in_json(r#""{\"token\":\"CANARY x\",\"n\":1}""#, r#""{\"token\":<redacted>,\"n\":1}""#)]
    #[case::quotes_in_it(r#"{\"token\":\"a\\\"CANARY\",\"n\":1}"#, r#"{\"token\":<redacted>,\"n\":1}"#)]
    #[case::twice(
        r#"{\\\"token\\\":\\\"CANARY\\\",\\\"n\\\":1}"#,
        r#"{\\\"token\\\":<redacted>,\\\"n\\\":1}"#
    )]
    #[case("curl --password CANARY --verbose", "curl --password <redacted> --verbose")]
    #[case("sign --key 'CANARY x' --n=1", "sign --key <redacted> --n=1")]
    #[case(r#"ran ["--client-secret","CANARY","y"]"#, r#"ran ["--client-secret",<redacted>,"y"]"#)]
    #[case("build --build-arg=A=CANARY x\nend", "build --build-arg=A=<redacted>\nend")]
    #[case("build --build-arg A='CANARY x' .", "build --build-arg A=<redacted>")]
    #[case(r#"ran ["--build-arg","A=CANARY"]"#, r#"ran ["--build-arg","A=<redacted>"#)]
    #[case("12:00 CANARY+/\n12:01 CANARY==\n12:02 -----END PRIVATE KEY-----\nend", "<redacted>\nend")]
    fn what_looks_like_a_credential_is_blotted_out(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(plain().text(text), expected);
    }

    #[rstest]
    #[case("SecretMissing: Secret hall/key does not exist")]
    #[case("imageRepoSecret: pull")]
    #[case("registry.example/gauge@sha256:0123456789abcdef")]
    #[case("Module hall/gauge loaded into the kernel")]
    #[case("--build-arg=A --build-context=base:1=docker-image://registry.example/base@sha256:0123")]
    #[case("tenon-loader serve --keys /run/keys --token-file=/run/token --verbose")]
    fn what_helps_stays(#[case] text: &str) {
        assert_eq!(plain().text(text), text);
    }

    #[rstest]
    #[case::a_job_s_arguments(
        json!({ "args": ["--build-arg=A=CANARY\nCANARY", "--build-arg=B", "--build-context=x=y"] }),
        json!({ "args": ["--build-arg=A=<redacted>", "--build-arg=B", "--build-context=x=y"] }),
    )]
    #[case::in_two_items(json!(["--build-arg", "A=CANARY\nx", "."]), json!(["--build-arg", "A=<redacted>", "."]))]
    #[case::a_flag_and_its_value(
        json!({ "command": ["login", "--password", "CANARY", "--user", "joe", "--key", "CANARY", "--api-token=CANARY\nCANARY"] }),
        json!({ "command": ["login", "--password", BLOT, "--user", "joe", "--key", BLOT, "--api-token=<redacted>"] }),
    )]
    #[case::under_its_name(
        json!({ "ci.example/api-token": "CANARY", "accessToken": "CANARY", "DB_PASSWORD": 1234, "tokens": ["CANARY", { "n": 1 }] }),
        json!({ "ci.example/api-token": BLOT, "accessToken": BLOT, "DB_PASSWORD": BLOT, "tokens": [BLOT, { "n": 1 }] }),
    )]
    #[case::a_text_that_is_an_object(
        json!({ "kapp.k14s.io/original": r#"{"spec":{"env":[{"name":"A","value":"CANARY"}],"args":["--token","CANARY"]}}"# }),
        json!({ "kapp.k14s.io/original": r#"{"spec":{"args":["--token","<redacted>"],"env":[{"name":"A","value":"<redacted>"}]}}"# }),
    )]
    #[case::one_in_another(
        json!(json!([json!({ "secret": "CANARY" }).to_string()]).to_string()),
        json!(json!([json!({ "secret": BLOT }).to_string()]).to_string()),
    )]
    #[case::a_dockerfile(
        json!({ "tenon.dev/dockerfile": "FROM x\nENV A=CANARY", "dockerfile": "CANARY" }),
        json!({ "tenon.dev/dockerfile": NO_DOCKERFILE, "dockerfile": NO_DOCKERFILE }),
    )]
    #[case::a_probe_s_headers(
        json!({ "httpHeaders": [{ "name": "X-Mine", "value": "CANARY" }] }),
        json!({ "httpHeaders": [{ "name": "X-Mine", "value": BLOT }] }),
    )]
    fn a_place_for_values_is_blotted_out(#[case] object: Value, #[case] expected: Value) {
        assert_eq!(plain().object(object), expected);
    }

    #[rstest]
    #[case(json!({ "imageRepoSecret": { "name": "pull" }, "keySecret": { "name": "key" }, "secretName": "pull" }))]
    #[case(json!({ "tolerations": [{ "key": "a", "operator": "Exists" }], "automountServiceAccountToken": false }))]
    #[case(json!({ "entries": ["token", "ca.crt"], "imagePullSecrets": [{ "name": "pull" }] }))]
    #[case(json!({ "note": "{ \"spacing\":  1 }", "list": ["[x]", "--user", "joe"] }))]
    #[case(json!({ "build": { "dockerfileConfigMap": { "name": "recipe" } } }))]
    fn what_helps_stays_in_objects(#[case] object: Value) {
        assert_eq!(plain().object(object.clone()), object);
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
