//! The documents of a published image.

use std::fs::{self, File};
use std::io::{self, Seek as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tenon_order::Digest;

use super::contents::Contents;
use super::layer;
use crate::manifest::{Descriptor, OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST};
use crate::new_layer::WrittenLayer;
use crate::platform::Architecture;
use crate::registry::Blob;
use crate::ustar::UstarError;

/// Why an image could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file that goes into the image.
    #[error("read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// Somebody writes into the directory.
    #[error("read {path}: it became shorter meanwhile; wait for the build to end", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A name too long, or a file too large.
    #[error("pack {path}", path = path.display())]
    Name {
        /// The file.
        path: PathBuf,
        /// Why.
        source: UstarError,
    },
    /// The directory for temporary files.
    #[error("write the layer to a temporary file in {directory}", directory = directory.display())]
    Spool {
        /// Where.
        directory: PathBuf,
        /// What happened.
        source: io::Error,
    },
}

/// An image that is ready to be pushed.
#[derive(Debug)]
pub struct Packed {
    pub(super) layer: WrittenLayer,
    pub(super) config: Vec<u8>,
    pub(super) manifest: Vec<u8>,
}

impl Packed {
    /// Of the image: equal contents give equal digests.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// Writes the image into a new folder, as an OCI image layout. Blocks.
    pub fn write_layout(&self, folder: &Path) -> io::Result<()> {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        let at = |digest: &Digest| blobs.join(digest.to_string().trim_start_matches("sha256:"));
        for document in [&self.config, &self.manifest] {
            fs::write(at(&Digest::of(document)), document)?;
        }
        if let Blob::File { file, digest, .. } = self.layer.blob() {
            let mut from: &File = &file;
            from.rewind()?;
            io::copy(&mut from, &mut File::create_new(at(&digest))?)?;
        }
        let index = document(&Index {
            schema_version: 2,
            manifests: [Descriptor {
                media_type: OCI_MANIFEST.to_owned(),
                digest: self.digest(),
                size: self.manifest.len() as u64,
                platform: None,
            }],
        });
        fs::write(folder.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        fs::write(folder.join("index.json"), index)
    }

    /// Of the layer, in bytes.
    pub fn layer_size(&self) -> u64 {
        self.layer.size
    }
}

/// Packs the files into an image for this architecture, with temporary files in `work`. Blocks.
pub fn pack(contents: &Contents, architecture: &Architecture, work: &Path) -> Result<Packed, PackError> {
    let layer = layer::write(contents, work)?;
    let config = document(&Config {
        architecture: architecture.as_str(),
        os: "linux",
        run: Empty {},
        rootfs: RootFs { kind: "layers", diff_ids: [layer.diff_id] },
        history: [History { created_by: "kubectl tenon image push" }],
    });
    let descriptor = |media_type: &str, digest, size| Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        platform: None,
    };
    let manifest = document(&Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST,
        config: descriptor(OCI_CONFIG, Digest::of(&config), config.len() as u64),
        layers: [descriptor(OCI_LAYER_GZIP, layer.digest, layer.size)],
    });
    Ok(Packed { layer, config, manifest })
}

/// Fields in the order of the types below: an image's digest must not depend on how a map happens to be sorted.
fn document(value: &impl Serialize) -> Vec<u8> {
    // Plain structs of strings and numbers: nothing in them can fail.
    serde_json::to_vec(value).unwrap_or_default()
}

#[derive(Serialize)]
struct Config<'a> {
    architecture: &'a str,
    os: &'a str,
    #[serde(rename = "config")]
    run: Empty,
    rootfs: RootFs,
    history: [History; 1],
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: &'static str,
    diff_ids: [Digest; 1],
}

#[derive(Serialize)]
struct History {
    created_by: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u8,
    media_type: &'static str,
    config: Descriptor,
    layers: [Descriptor; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u8,
    manifests: [Descriptor; 1],
}
