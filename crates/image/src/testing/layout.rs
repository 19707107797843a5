//! Small image layouts in folders, as builders leave them, and as they should not.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tenon_order::Digest;

use crate::manifest::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};

/// A folder with an OCI image layout; whoever gave the folder removes it.
#[derive(Debug, Clone)]
pub struct TestLayout {
    folder: PathBuf,
}

impl TestLayout {
    /// Writes an empty layout into a folder that is made, with an index of nothing.
    pub fn create(folder: &Path) -> io::Result<Self> {
        let layout = Self { folder: folder.to_owned() };
        fs::create_dir_all(folder.join("blobs/sha256"))?;
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        layout.put_index(&[])?;
        Ok(layout)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a blob is.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.hex())
    }

    /// Writes a blob; gives what names it.
    pub fn put_blob(&self, media_type: &str, bytes: &[u8]) -> io::Result<Value> {
        let digest = Digest::of(bytes);
        fs::write(self.blob(&digest), bytes)?;
        Ok(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
    }

    /// Writes an image for Linux on this architecture, of layers given by media type, the lowest first; gives what names it.
    pub fn put_image(&self, architecture: &str, layers: &[(&str, Vec<u8>)]) -> io::Result<Value> {
        let config = json!({
            "created": "2026-11-22T10:00:00.123456789Z",
            "architecture": architecture,
            "os": "linux",
            "config": {"Labels": {"io.buildah.version": "1.28.2"}},
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|(_, layer)| Digest::of(layer)).collect::<Vec<_>>()},
            "history": [{"created": "2026-11-22T10:00:00.123456789Z", "created_by": "/bin/sh -c make"}],
        });
        let layers = layers.iter().map(|(media_type, layer)| self.put_blob(media_type, layer));
        // Without a media type of its own, as buildah writes it.
        let manifest = json!({
            "schemaVersion": 2,
            "config": self.put_blob(OCI_CONFIG, config.to_string().as_bytes())?,
            "layers": layers.collect::<io::Result<Vec<_>>>()?,
            "annotations": {"org.opencontainers.image.base.name": "registry.test/base:1"},
        });
        let mut named = self.put_blob(OCI_MANIFEST, manifest.to_string().as_bytes())?;
        set(&mut named, "platform", json!({"architecture": architecture, "os": "linux"}));
        Ok(named)
    }

    /// Writes an index of these as a blob; gives what names it.
    pub fn put_nested_index(&self, entries: &[Value]) -> io::Result<Value> {
        self.put_blob(OCI_INDEX, index(entries).to_string().as_bytes())
    }

    /// Writes `index.json`.
    pub fn put_index(&self, entries: &[Value]) -> io::Result<()> {
        let mut entries = entries.to_vec();
        for entry in &mut entries {
            set(entry, "annotations", json!({"org.opencontainers.image.ref.name": "made"}));
        }
        fs::write(self.folder.join("index.json"), index(&entries).to_string())
    }
}

fn index(entries: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
}

fn set(entry: &mut Value, key: &str, value: Value) {
    if let Some(entry) = entry.as_object_mut() {
        entry.insert(key.to_owned(), value);
    }
}
