//! Pull secrets: which credentials fit an image.
//!
//! In come the data of Secrets of type `kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg`; out go the
//! credentials to try for an image, in the kubelet's order (`pkg/credentialprovider/keyring.go`): keys are
//! `host[:port][/path]`, labels of the host may hold globs, ports must be equal, paths are prefixes, keys are tried in
//! descending order of their text, and Docker Hub's old name stands in for `docker.io`. Credential helpers that a
//! configuration names are never run: it is somebody else's text.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};

use crate::reference::ImageReference;

/// The key under which docker stores Docker Hub's credentials.
const DOCKER_HUB_KEY: &str = "index.docker.io";

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The two forms of pull secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretFormat {
    /// `.dockerconfigjson` of type `kubernetes.io/dockerconfigjson`; also what `docker login` writes.
    DockerConfigJson,
    /// `.dockercfg` of type `kubernetes.io/dockercfg`.
    DockerCfg,
}

impl SecretFormat {
    /// The key of a Secret's data.
    pub const fn data_key(self) -> &'static str {
        match self {
            Self::DockerConfigJson => ".dockerconfigjson",
            Self::DockerCfg => ".dockercfg",
        }
    }
}

/// A pull secret that cannot be read. Never holds any of its values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read the pull secret: {path} {problem}")]
pub struct KeyringError {
    /// Where in the Secret's data: `.dockerconfigjson: auths["quay.io"].auth`.
    pub path: String,
    /// What is wrong there.
    pub problem: KeyringProblem,
}

/// What is wrong at a place of a pull secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyringProblem {
    /// Not JSON at all.
    #[error("is not JSON (line {line}, column {column})")]
    NotJson {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// Another JSON type.
    #[error("is not an object")]
    NotObject,
    /// Another JSON type.
    #[error("is not a string")]
    NotString,
    /// Needed and not there.
    #[error("is missing")]
    Missing,
    /// Not what `docker login` writes.
    #[error("is not base64 of `user:password`")]
    NotUserAndPassword,
    /// Not `host[:port][/path]`.
    #[error("is not a registry's host with an optional port and path")]
    NotHost,
}

/// A user name and a password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credential {
    username: String,
    password: String,
}

impl Credential {
    /// Of these.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: password.into() }
    }

    /// The value of an `Authorization` header.
    pub(crate) fn basic(&self) -> String {
        format!("Basic {}", BASE64.encode(format!("{}:{}", self.username, self.password)))
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Credentials by the images that they are for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keyring {
    /// Per key, in the order in which they were added.
    credentials: BTreeMap<Key, Vec<Credential>>,
    helpers: bool,
}

impl Keyring {
    /// Adds what a Secret holds: all of it, or nothing and the place that is wrong.
    pub fn add(&mut self, format: SecretFormat, data: &[u8]) -> Result<(), KeyringError> {
        let place = Place(format.data_key().to_owned());
        let value: Value = serde_json::from_slice(data).map_err(|error| {
            place.wrong(KeyringProblem::NotJson { line: error.line(), column: error.column() })
        })?;
        let top = place.object(&value)?;
        let entries = match format {
            SecretFormat::DockerCfg => read_entries(&place, top)?,
            SecretFormat::DockerConfigJson => match top.get("auths") {
                None if top.is_empty() => return Err(place.field("auths").wrong(KeyringProblem::Missing)),
                // `docker login` with a helper writes a file without them.
                None => Vec::new(),
                Some(auths) => {
                    let place = place.field("auths");
                    read_entries(&place, place.object(auths)?)?
                }
            },
        };
        self.helpers |= ["credsStore", "credHelpers"].iter().any(|key| top.contains_key(*key));
        for (key, credential) in entries {
            self.credentials.entry(key).or_default().push(credential);
        }
        Ok(())
    }

    /// Adds one credential under a key like `quay.io` or `*.acme.io:5000/team`.
    pub fn insert(&mut self, key: &str, credential: Credential) -> Result<(), KeyringError> {
        let place = Place(key.to_owned());
        let key = Key::read(key).ok_or_else(|| place.wrong(KeyringProblem::NotHost))?;
        self.credentials.entry(key).or_default().push(credential);
        Ok(())
    }

    /// The credentials to try for an image, in this order. Empty: ask without any.
    pub fn find(&self, image: &ImageReference) -> Vec<&Credential> {
        let fits = self.credentials.iter().rev().filter(|(key, _)| key.fits(image));
        let found: Vec<_> = fits.flat_map(|(_, credentials)| credentials).collect();
        if found.is_empty() && image.registry() == "docker.io" {
            let hub = self.credentials.iter().find(|(key, _)| key.text == DOCKER_HUB_KEY);
            return hub.into_iter().flat_map(|(_, credentials)| credentials).collect();
        }
        found
    }

    /// The configuration names credential helpers, which were not run.
    pub fn mentions_helpers(&self) -> bool {
        self.helpers
    }
}

/// `host[:port][/path]`, ordered by its text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    text: String,
    host: String,
    port: String,
    path: String,
}

impl Key {
    fn read(text: &str) -> Option<Self> {
        let bare = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
        let bare = bare.split(['?', '#']).next().unwrap_or(bare);
        let (authority, path) = match bare.find('/') {
            Some(slash) => bare.split_at(slash),
            None => (bare, ""),
        };
        let versionless = ["/v1/", "/v2/"].iter().any(|version| path.starts_with(version));
        let path = if versionless { path.get(3..).unwrap_or_default() } else { path };
        let path = if path == "/" { "" } else { path };
        let (host, port) = split_port(authority);
        let wrong =
            host.is_empty() || host.contains(['@', ' ']) || !port.bytes().all(|byte| byte.is_ascii_digit());
        (!wrong).then(|| Self {
            text: format!("{authority}{path}"),
            host: host.to_owned(),
            port: port.to_owned(),
            path: path.to_owned(),
        })
    }

    fn fits(&self, image: &ImageReference) -> bool {
        let (host, port) = split_port(image.registry());
        let labels = |host: &str| host.split('.').count();
        self.port == port
            && labels(&self.host) == labels(host)
            && format!("/{}", image.repository()).starts_with(&self.path)
            && self.host.split('.').zip(host.split('.')).all(|(glob, label)| glob_fits(glob, label))
    }
}

/// A colon inside the brackets of an IPv6 address does not start a port.
fn split_port(authority: &str) -> (&str, &str) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, ""),
    }
}

/// `*` is any text, `?` any one character.
fn glob_fits(glob: &str, label: &str) -> bool {
    let mut chars = glob.chars();
    match chars.next() {
        None => label.is_empty(),
        Some('*') => {
            let ends = label.char_indices().map(|(at, _)| at).chain([label.len()]);
            ends.filter_map(|at| label.get(at..)).any(|rest| glob_fits(chars.as_str(), rest))
        }
        Some(wanted) => {
            let mut label = label.chars();
            label.next().is_some_and(|found| wanted == '?' || wanted == found)
                && glob_fits(chars.as_str(), label.as_str())
        }
    }
}

/// A place in a Secret's data, for messages.
struct Place(String);

impl Place {
    fn field(&self, name: &str) -> Self {
        let joint = if self.0.starts_with('.') && !self.0.contains(": ") { ": " } else { "." };
        Self(format!("{}{joint}{name}", self.0))
    }

    fn entry(&self, key: &str) -> Self {
        Self(format!("{}[{key:?}]", self.0))
    }

    fn wrong(&self, problem: KeyringProblem) -> KeyringError {
        KeyringError { path: self.0.clone(), problem }
    }

    fn object<'a>(&self, value: &'a Value) -> Result<&'a Map<String, Value>, KeyringError> {
        value.as_object().ok_or_else(|| self.wrong(KeyringProblem::NotObject))
    }

    fn text<'a>(&self, object: &'a Map<String, Value>, name: &str) -> Result<&'a str, KeyringError> {
        match object.get(name) {
            None | Some(Value::Null) => Ok(""),
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(self.field(name).wrong(KeyringProblem::NotString)),
        }
    }
}

fn read_entries(place: &Place, map: &Map<String, Value>) -> Result<Vec<(Key, Credential)>, KeyringError> {
    let mut entries = Vec::new();
    for (text, value) in map {
        let place = place.entry(text);
        let key = Key::read(text).ok_or_else(|| place.wrong(KeyringProblem::NotHost))?;
        if let Some(credential) = read_credential(&place, place.object(value)?)? {
            entries.push((key, credential));
        }
    }
    Ok(entries)
}

/// `auth` wins over `username` and `password`. Entries without any are what helpers leave behind.
fn read_credential(place: &Place, entry: &Map<String, Value>) -> Result<Option<Credential>, KeyringError> {
    let auth = place.text(entry, "auth")?;
    let (username, password) = (place.text(entry, "username")?, place.text(entry, "password")?);
    if !auth.is_empty() {
        let wrong = || place.field("auth").wrong(KeyringProblem::NotUserAndPassword);
        let decoded = BASE64.decode(auth.trim()).map_err(|_| wrong())?;
        let text = String::from_utf8(decoded).map_err(|_| wrong())?;
        let (username, password) = text.split_once(':').ok_or_else(wrong)?;
        return Ok(Some(Credential::new(username, password)));
    }
    Ok((!username.is_empty() || !password.is_empty()).then(|| Credential::new(username, password)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keyring(keys: &[&str]) -> Keyring {
        let mut keyring = Keyring::default();
        for key in keys {
            keyring.insert(key, Credential::new(*key, "p")).unwrap();
        }
        keyring
    }

    fn found<'a>(keyring: &'a Keyring, image: &str) -> Vec<&'a str> {
        keyring.find(&image.parse().unwrap()).into_iter().map(|found| found.username.as_str()).collect()
    }

    #[test]
    fn the_most_specific_key_comes_first() {
        let keyring =
            keyring(&["*.acme.io", "registry.acme.io", "registry.acme.io/team", "registry.acme.io/other"]);
        assert_eq!(
            found(&keyring, "registry.acme.io/team/x"),
            ["registry.acme.io/team", "registry.acme.io", "*.acme.io"]
        );
        assert_eq!(found(&keyring, "mirror.acme.io/team/x"), ["*.acme.io"]);
        assert!(found(&keyring, "a.mirror.acme.io/team/x").is_empty());
    }

    #[test]
    fn ports_are_equal_and_paths_are_prefixes_of_text() {
        let keyring = keyring(&["acme.io:5000", "acme.io/te", "https://acme.io/v2/"]);
        assert_eq!(found(&keyring, "acme.io:5000/team/x"), ["acme.io:5000"]);
        assert_eq!(found(&keyring, "acme.io/team/x"), ["acme.io/te", "https://acme.io/v2/"]);
    }

    #[test]
    fn docker_hubs_old_name_stands_in() {
        let keyring = keyring(&["https://index.docker.io/v1/", "quay.io"]);
        assert_eq!(found(&keyring, "busybox"), ["https://index.docker.io/v1/"]);
        assert_eq!(
            found(&super::tests::keyring(&["docker.io", "index.docker.io"]), "busybox"),
            ["docker.io"]
        );
    }

    #[test]
    fn both_formats_are_read() {
        let mut keyring = Keyring::default();
        let auth = BASE64.encode("user:pass:word");
        let entries = format!(
            r#"{{"quay.io": {{"auth": "{auth}"}}, "acme.io": {{"username": "u", "password": "p"}}}}"#
        );
        keyring.add(SecretFormat::DockerCfg, entries.as_bytes()).unwrap();
        let file = format!(r#"{{"auths": {entries}, "credsStore": "desktop"}}"#);
        keyring.add(SecretFormat::DockerConfigJson, file.as_bytes()).unwrap();
        let credential = Credential::new("user", "pass:word");
        assert_eq!(keyring.find(&"quay.io/x".parse().unwrap()), [&credential, &credential]);
        assert!(keyring.mentions_helpers());
    }

    #[test]
    fn errors_name_the_place_and_never_the_secret() {
        for (data, path, problem) in [
            ("{", ".dockerconfigjson", KeyringProblem::NotJson { line: 1, column: 1 }),
            ("[]", ".dockerconfigjson", KeyringProblem::NotObject),
            ("{}", ".dockerconfigjson: auths", KeyringProblem::Missing),
            (r#"{"auths": 1}"#, ".dockerconfigjson: auths", KeyringProblem::NotObject),
            (r#"{"auths": {"a.io": 1}}"#, r#".dockerconfigjson: auths["a.io"]"#, KeyringProblem::NotObject),
            (
                r#"{"auths": {"a.io": {"auth": "hunter2"}}}"#,
                r#".dockerconfigjson: auths["a.io"].auth"#,
                KeyringProblem::NotUserAndPassword,
            ),
            (
                r#"{"auths": {"a.io": {"password": 5}}}"#,
                r#".dockerconfigjson: auths["a.io"].password"#,
                KeyringProblem::NotString,
            ),
            (
                r#"{"auths": {"a.io:x": {}}}"#,
                r#".dockerconfigjson: auths["a.io:x"]"#,
                KeyringProblem::NotHost,
            ),
        ] {
            let error = Keyring::default().add(SecretFormat::DockerConfigJson, data.as_bytes()).unwrap_err();
            assert_eq!(error, KeyringError { path: path.to_owned(), problem }, "{data}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn debug_output_has_no_passwords() {
        let mut keyring = Keyring::default();
        keyring.insert("quay.io", Credential::new("ada", "hunter2")).unwrap();
        let shown = format!("{keyring:?}");
        assert!(shown.contains("ada") && !shown.contains("hunter2"), "{shown}");
    }

    fn label() -> impl Strategy<Value = String> {
        "[a-z][a-z0-9]{0,4}"
    }

    /// A part of a path. A key's path that begins with these means the registry's interface, and is dropped.
    fn part() -> impl Strategy<Value = String> {
        label().prop_filter("the registry's interface", |label| !matches!(label.as_str(), "v1" | "v2"))
    }

    proptest! {
        /// A key made from the image by widening it fits; narrowing any part of it does not.
        #[test]
        fn keys_fit_what_they_were_widened_from(
            labels in prop::collection::vec((label(), 0..3_u8), 2..4),
            port in prop::option::of(1..9999_u16),
            path in prop::collection::vec(part(), 1..4),
            depth in 0..4_usize,
        ) {
            let port = port.map_or(String::new(), |port| format!(":{port}"));
            let host: Vec<_> = labels.iter().map(|(label, _)| label.clone()).collect();
            let widened = labels.iter().map(|(label, how)| match how {
                0 => label.clone(),
                1 => "*".to_owned(),
                _ => format!("{}*", &label[..1]),
            });
            let widened: Vec<_> = widened.collect();
            let image = format!("{}{port}/{}", host.join("."), path.join("/"));
            let parts: Vec<&str> = path.iter().take(depth).map(String::as_str).collect();
            let prefix = if parts.is_empty() { String::new() } else { format!("/{}", parts.join("/")) };
            let key = format!("{}{port}{prefix}", widened.join("."));
            let fits = |key: &str| Key::read(key).unwrap().fits(&image.parse().unwrap());
            prop_assert!(fits(&key));
            let name = widened.join(".");
            let other_port = format!("{name}:1{}{prefix}", port.trim_start_matches(':'));
            prop_assert!(!fits(&other_port));
            let more_labels = format!("x.{key}");
            let longer_path = format!("{key}{}/zz", image.len());
            prop_assert!(!fits(&more_labels));
            prop_assert!(!fits(&longer_path));
        }

        #[test]
        fn no_secret_panics(data in prop::collection::vec(any::<u8>(), 0..64), text in "\\PC{0,40}") {
            for format in [SecretFormat::DockerCfg, SecretFormat::DockerConfigJson] {
                let _ = Keyring::default().add(format, &data);
                let auths = serde_json::json!({"auths": {&text: {"auth": &text}}}).to_string();
                let _ = Keyring::default().add(format, auths.as_bytes());
            }
        }
    }
}
