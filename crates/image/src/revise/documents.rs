//! The documents of an image with one more layer. Edited as they are: what nobody here knows stays.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tenon_order::Digest;

use super::Made;
use crate::manifest::{DOCKER_MANIFEST, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST};
use crate::new_layer::WrittenLayer;

/// Docker's gzip layer.
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// A document that cannot be edited.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON.
    #[error("read the {0}")]
    Json(&'static str, #[source] serde_json::Error),
    /// Without what such a document has.
    #[error("the {0} is not one")]
    Form(&'static str),
}

fn object(bytes: &[u8], what: &'static str) -> Result<Map<String, Value>, DocumentError> {
    serde_json::from_slice(bytes).map_err(|error| DocumentError::Json(what, error))
}

fn bytes(document: Map<String, Value>) -> Vec<u8> {
    // It was JSON before.
    serde_json::to_vec(&Value::Object(document)).unwrap_or_default()
}

/// The configuration with these labels, and with a layer on top of those that it lists, if there is one.
pub(super) fn config(
    config: &[u8],
    layer: Option<&WrittenLayer>,
    note: &str,
    labels: &BTreeMap<String, String>,
) -> Result<Vec<u8>, DocumentError> {
    const WHAT: &str = "configuration";
    let mut document = object(config, WHAT)?;
    if let Some(layer) = layer {
        let layers = document.get_mut("rootfs").and_then(|rootfs| rootfs.get_mut("diff_ids"));
        let layers = layers.and_then(Value::as_array_mut).ok_or(DocumentError::Form(WHAT))?;
        layers.push(json!(layer.diff_id));
        // Where there is a history, it has a line for each layer.
        if let Some(history) = document.get_mut("history").and_then(Value::as_array_mut) {
            history.push(json!({ "created_by": note }));
        }
    }
    if !labels.is_empty() {
        let run = entry(&mut document, "config").ok_or(DocumentError::Form(WHAT))?;
        let there = entry(run, "Labels").ok_or(DocumentError::Form(WHAT))?;
        there.extend(labels.iter().map(|(key, value)| (key.clone(), json!(value))));
    }
    Ok(bytes(document))
}

/// The object under this key; one that is missing, or null as some builders write it, is made.
fn entry<'d>(document: &'d mut Map<String, Value>, key: &str) -> Option<&'d mut Map<String, Value>> {
    let there = document.entry(key).or_insert(Value::Null);
    if there.is_null() {
        *there = json!({});
    }
    there.as_object_mut()
}

/// The manifest with this configuration, and with a layer on top, if there is one.
pub(super) fn manifest(
    manifest: &[u8],
    config: &[u8],
    layer: Option<&WrittenLayer>,
) -> Result<Made, DocumentError> {
    const WHAT: &str = "manifest";
    let mut document = object(manifest, WHAT)?;
    let media_type = media_type(&document, OCI_MANIFEST);
    let described =
        document.get_mut("config").and_then(Value::as_object_mut).ok_or(DocumentError::Form(WHAT))?;
    described.insert("digest".to_owned(), json!(Digest::of(config)));
    described.insert("size".to_owned(), json!(config.len()));
    if let Some(layer) = layer {
        let layers =
            document.get_mut("layers").and_then(Value::as_array_mut).ok_or(DocumentError::Form(WHAT))?;
        let kind = if media_type == DOCKER_MANIFEST { DOCKER_LAYER } else { OCI_LAYER_GZIP };
        layers.push(json!({ "mediaType": kind, "digest": layer.digest, "size": layer.size }));
    }
    Ok(Made { media_type, document: bytes(document) })
}

/// The manifest of an image in which nothing was changed.
pub(super) fn unchanged(manifest: &[u8]) -> Result<Made, DocumentError> {
    let media_type = media_type(&object(manifest, "manifest")?, OCI_MANIFEST);
    Ok(Made { media_type, document: manifest.to_owned() })
}

/// The index with these images in place of those; byte for byte where all are the same. What describes others, such as
/// attestations, is about what they were.
pub(super) fn index(index: &[u8], replaced: &[(Digest, Made)]) -> Result<Made, DocumentError> {
    const WHAT: &str = "index";
    let mut document = object(index, WHAT)?;
    let media_type = media_type(&document, OCI_INDEX);
    let entries =
        document.get_mut("manifests").and_then(Value::as_array_mut).ok_or(DocumentError::Form(WHAT))?;
    let (mut left, mut same) = (Vec::new(), true);
    for mut entry in std::mem::take(entries) {
        let digest = entry.get("digest").and_then(Value::as_str).and_then(|text| text.parse::<Digest>().ok());
        let Some((old, made)) = replaced.iter().find(|(old, _)| Some(*old) == digest) else {
            same = false;
            continue;
        };
        same &= *old == made.digest();
        let fields = entry.as_object_mut().ok_or(DocumentError::Form(WHAT))?;
        fields.insert("digest".to_owned(), json!(made.digest()));
        fields.insert("size".to_owned(), json!(made.document.len()));
        left.push(entry);
    }
    *entries = left;
    let document = if same { index.to_owned() } else { bytes(document) };
    Ok(Made { media_type, document })
}

fn media_type(document: &Map<String, Value>, otherwise: &str) -> String {
    document.get("mediaType").and_then(Value::as_str).unwrap_or(otherwise).to_owned()
}
