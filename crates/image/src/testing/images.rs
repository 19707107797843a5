//! Small images for the test registry.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use tenon_order::Digest;

use super::TestRegistry;
use crate::manifest::{OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST};

/// A compressed layer of plain files.
pub fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        // Writing to memory cannot fail, and a name that does not fit shows up as a missing file. A name that fits is
        // written as it is: hostile ones are what tests are for.
        let _ = match header.as_mut_bytes().get_mut(..100).and_then(|field| field.get_mut(..name.len())) {
            Some(field) => {
                field.copy_from_slice(name.as_bytes());
                header.set_cksum();
                tar.append(&header, *bytes)
            }
            None => tar.append_data(&mut header, name, *bytes),
        };
    }
    let compressed = tar.into_inner().and_then(|mut encoder| {
        encoder.flush()?;
        encoder.finish()
    });
    compressed.unwrap_or_default()
}

impl TestRegistry {
    /// Stores an image for one architecture, the lowest layer first. Returns its digest.
    pub fn put_image(&self, repository: &str, tag: &str, architecture: &str, layers: &[Vec<u8>]) -> Digest {
        let config = json!({"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
        let config = config.to_string();
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| {
                let digest = self.put_blob(repository, layer);
                json!({"mediaType": OCI_LAYER_GZIP, "digest": digest, "size": layer.len()})
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {
                "mediaType": OCI_CONFIG,
                "digest": self.put_blob(repository, config.as_bytes()),
                "size": config.len()
            },
            "layers": layers,
        });
        self.put_manifest(repository, tag, OCI_MANIFEST, manifest.to_string().as_bytes())
    }

    /// Stores an index over images that were stored before, given by architecture and digest.
    pub fn put_index(&self, repository: &str, tag: &str, images: &[(&str, Digest)]) -> Digest {
        let manifests: Vec<_> = images
            .iter()
            .map(|(architecture, digest)| {
                let size = self.manifest(repository, &digest.to_string()).map_or(0, |bytes| bytes.len());
                json!({
                    "mediaType": OCI_MANIFEST,
                    "digest": digest,
                    "size": size,
                    "platform": {"os": "linux", "architecture": architecture}
                })
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
        self.put_manifest(repository, tag, OCI_INDEX, index.to_string().as_bytes())
    }
}
