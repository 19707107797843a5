//! Objects as YAML documents.

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;

const HEADER: &str = "# Written by `cargo xtask generate`; do not edit.\n";

/// One file of several objects.
pub(super) fn documents<'a, T: Serialize + 'a>(objects: impl IntoIterator<Item = &'a T>) -> Result<String> {
    let mut text = HEADER.to_owned();
    for (index, object) in objects.into_iter().enumerate() {
        if index > 0 {
            text.push_str("---\n");
        }
        // Through a value, whose keys are sorted, so that a file's order does not depend on a type's.
        let value = serde_json::to_value(object).context("turn an object into JSON")?;
        text.push_str(&serde_saphyr::to_string(&value).context("turn an object into YAML")?);
    }
    Ok(text)
}

/// Any object, to be listed with objects of other kinds.
pub(super) fn value(object: impl Serialize) -> Result<Value> {
    serde_json::to_value(object).context("turn an object into JSON")
}
