//! The JSON documents of images: manifests, indexes and configurations, OCI's and Docker's.
//!
//! Only what Tenon uses is read; what a document is, is told by itself and not by an HTTP header.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tenon_order::Digest;

/// OCI's image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI's index of manifests.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI's image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI's gzip layer.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Docker's image manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's index of manifests.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A document that is no image.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or without the fields that it needs.
    #[error("the manifest is not one (content type {content_type:?})")]
    Json {
        /// What the registry said that it is.
        content_type: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Docker's schema 1, an artifact, or what comes after us.
    #[error("the manifest is of type {0:?}, which is not supported")]
    Type(String),
    /// Layers and manifests in one document: programs would disagree about what it is (CVE-2021-41190).
    #[error("the manifest is ambiguous: its type, its fields and the content type {content_type:?} disagree")]
    Ambiguous {
        /// What the registry said that it is.
        content_type: String,
    },
    /// An encrypted layer, or something that is not a file system.
    #[error("layer {digest} is of type {media_type:?}, which is not a tar archive")]
    Layer {
        /// The layer.
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
    /// Not JSON, or without the fields that it needs.
    #[error("the image's configuration is not one")]
    Config(#[source] serde_json::Error),
}

/// Names a blob or manifest by content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Of its bytes.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// In an index: what it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// In an index: whether something can run it. Attestations say of themselves that they are for an unknown system.
    pub fn is_runnable(&self) -> bool {
        self.platform.as_ref().is_none_or(|platform| platform.os != "unknown")
    }
}

/// What an image runs on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Platform {
    /// As Go spells it.
    #[serde(default)]
    pub architecture: String,
    /// As Go spells it.
    #[serde(default)]
    pub os: String,
    /// Of the architecture, such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// A manifest for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageManifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

/// What a registry holds under an image's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// An image for one platform.
    Image(ImageManifest),
    /// Images for several.
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    /// Schema 1 only.
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a manifest or index.
    pub fn read(bytes: &[u8], content_type: &str) -> Result<Self, ManifestError> {
        let content_type = content_type.split(';').next().unwrap_or_default().trim();
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|source| ManifestError::Json { content_type: content_type.to_owned(), source })?;
        let ambiguous = || ManifestError::Ambiguous { content_type: content_type.to_owned() };
        if raw.fs_layers.is_some() {
            return Err(ManifestError::Type("schema 1".to_owned()));
        }
        let (document, types) = match (raw.config, raw.layers, raw.manifests) {
            (Some(config), Some(layers), None) => {
                (Self::Image(ImageManifest { config, layers }), [OCI_MANIFEST, DOCKER_MANIFEST])
            }
            (None, None, Some(manifests)) => (Self::Index(manifests), [OCI_INDEX, DOCKER_LIST]),
            (None, None, None) => return Err(ManifestError::Type(raw.media_type.unwrap_or_default())),
            _ => return Err(ambiguous()),
        };
        let named = [raw.media_type.as_deref().unwrap_or_default(), content_type];
        let contradicts = |name: &&str| is_manifest_type(name) && !types.contains(name);
        if named.iter().any(contradicts) { Err(ambiguous()) } else { Ok(document) }
    }
}

fn is_manifest_type(name: &str) -> bool {
    [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST].contains(&name)
}

impl ImageManifest {
    /// Whether the layers are archives of files.
    pub fn check_layers(&self) -> Result<(), ManifestError> {
        let archive = |name: &str| name.contains("tar") && !name.ends_with("encrypted");
        match self.layers.iter().find(|layer| !archive(&layer.media_type)) {
            Some(layer) => {
                Err(ManifestError::Layer { digest: layer.digest, media_type: layer.media_type.clone() })
            }
            None => Ok(()),
        }
    }
}

/// Reads an image's labels, which OCI's and Docker's configurations have alike. One without any has none.
pub fn read_labels(config: &[u8]) -> BTreeMap<String, String> {
    #[derive(Deserialize)]
    struct Outer {
        config: Option<Inner>,
    }
    #[derive(Deserialize)]
    struct Inner {
        #[serde(rename = "Labels")]
        labels: Option<BTreeMap<String, String>>,
    }
    let read: Option<Outer> = serde_json::from_slice(config).ok();
    read.and_then(|outer| outer.config?.labels).unwrap_or_default()
}

/// Reads what an image's configuration says of its platform.
pub fn read_platform(config: &[u8]) -> Result<Platform, ManifestError> {
    serde_json::from_slice(config).map_err(ManifestError::Config)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn blob(name: &str) -> serde_json::Value {
        json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": Digest::of(name.as_bytes()), "size": 1})
    }

    fn read(document: &serde_json::Value, content_type: &str) -> Result<Document, ManifestError> {
        Document::read(document.to_string().as_bytes(), content_type)
    }

    #[test]
    fn a_document_is_what_its_fields_say() {
        let image = json!({"config": blob("c"), "layers": [blob("l")]});
        let index = json!({"mediaType": OCI_INDEX, "manifests": [blob("m")]});
        for content_type in ["", "application/json", "text/plain; charset=utf-8"] {
            assert!(matches!(read(&image, content_type), Ok(Document::Image(_))));
            assert!(matches!(read(&index, content_type), Ok(Document::Index(_))));
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let both = json!({"config": blob("c"), "layers": [], "manifests": []});
        assert!(matches!(read(&both, ""), Err(ManifestError::Ambiguous { .. })));
        let image = json!({"config": blob("c"), "layers": []});
        assert!(matches!(read(&image, DOCKER_LIST), Err(ManifestError::Ambiguous { .. })));
        let says_index = json!({"mediaType": OCI_INDEX, "config": blob("c"), "layers": []});
        assert!(matches!(read(&says_index, ""), Err(ManifestError::Ambiguous { .. })));
    }

    #[test]
    fn what_is_no_image_is_named() {
        assert!(
            matches!(read(&json!({"fsLayers": []}), ""), Err(ManifestError::Type(name)) if name == "schema 1")
        );
        let login = Document::read(b"<html>", "text/html").unwrap_err();
        assert!(login.to_string().contains("text/html"));
        let mut layer = blob("l");
        layer["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
        let Ok(Document::Image(image)) = read(&json!({"config": blob("c"), "layers": [layer]}), "") else {
            panic!("an image")
        };
        assert!(matches!(image.check_layers(), Err(ManifestError::Layer { .. })));
    }
}
