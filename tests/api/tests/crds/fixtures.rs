//! Manifests that are accepted, and a table of mistakes in them: shared by the tests against a real API server and
//! those that evaluate the definitions' rules without one.

use std::path::PathBuf;
use std::{collections::BTreeMap, fs};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// One mistake, and what the refusal must say.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mistake {
    /// What is wrong, for the test's report.
    pub(crate) name: String,
    #[serde(default = "simple")]
    manifest: String,
    set: BTreeMap<String, Value>,
    /// The path that the refusal names.
    pub(crate) field: String,
    /// Words that the refusal contains.
    pub(crate) says: String,
    /// The machine's word for the refusal.
    pub(crate) reason: String,
    /// Whether the manifest is created first and then changed.
    #[serde(default)]
    pub(crate) update: bool,
    /// Who refuses it.
    #[serde(default)]
    pub(crate) by: RefusedBy,
}

/// Which part of a definition refuses a mistake.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RefusedBy {
    /// A rule in CEL.
    #[default]
    Rule,
    /// The schema itself.
    Schema,
}

fn simple() -> String {
    "simple.yaml".to_owned()
}

impl Mistake {
    /// The manifest without the mistake.
    pub(crate) fn right(&self) -> Value {
        manifest(&self.manifest)
    }

    /// The manifest with the mistake.
    pub(crate) fn wrong(&self) -> Value {
        let mut manifest = self.right();
        for (pointer, value) in &self.set {
            put(&mut manifest, pointer, value.clone());
        }
        manifest
    }
}

/// All mistakes of the table.
pub(crate) fn mistakes() -> Vec<Mistake> {
    let mistakes: Vec<Mistake> = read(&folder().join("module-rules.yaml"));
    assert!(mistakes.len() > 40, "the table is whole");
    mistakes
}

/// All manifests, by file name.
pub(crate) fn manifests() -> BTreeMap<String, Value> {
    let entries = fs::read_dir(folder().join("manifests")).expect("the folder of manifests");
    entries
        .map(|entry| entry.expect("an entry of the folder").file_name().into_string().expect("a UTF-8 name"))
        .map(|name| (name.clone(), manifest(&name)))
        .collect()
}

/// One manifest.
pub(crate) fn manifest(name: &str) -> Value {
    read(&folder().join("manifests").join(name))
}

fn folder() -> PathBuf {
    let start = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    start
        .ancestors()
        .map(|path| path.join("tests/api/fixtures"))
        .find(|path| path.is_dir())
        .expect("fixtures")
}

fn read<T: DeserializeOwned>(path: &std::path::Path) -> T {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("parse {}: {error}", path.display()))
}

/// Puts a value at a JSON pointer whose parent exists; null takes it away.
fn put(root: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    match root.pointer_mut(parent).unwrap_or_else(|| panic!("nothing at {parent}")) {
        Value::Object(fields) if value.is_null() => {
            fields.remove(key).unwrap_or_else(|| panic!("nothing to take away at {pointer}"));
        }
        Value::Object(fields) => {
            fields.insert(key.to_owned(), value);
        }
        other => panic!("{parent} is no object but {other}"),
    }
}
