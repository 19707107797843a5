//! Bundles as the depot would serve them: a manifest and its files.

use std::collections::BTreeMap;
use std::fs;

use tenon_lab::drivers::{self, Recipe};
use tenon_lab::kernel::Kernel;
use tenon_order::{BundleManifest, Digest, ManifestEntry};

/// A bundle's files by path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bundle {
    files: BTreeMap<String, Vec<u8>>,
}

/// Bundles by digest.
pub(crate) type Depot = BTreeMap<Digest, Bundle>;

impl Bundle {
    /// A driver's modules, built for this kernel.
    pub(crate) fn built(kernel: &Kernel, recipe: Recipe<'_>) -> Self {
        let mut bundle = Self::default();
        for file in drivers::build(kernel, recipe).unwrap().files() {
            let name = file.file_name().unwrap().to_str().unwrap();
            bundle = bundle.with(&format!("modules/extra/{name}"), fs::read(&file).unwrap());
        }
        bundle
    }

    /// With this file, too, or instead of the one of that path.
    pub(crate) fn with(mut self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.insert(path.to_owned(), bytes.into());
        self
    }

    /// The module that it has under this name.
    pub(crate) fn module(&self, name: &str) -> &[u8] {
        self.files.get(&format!("modules/extra/{name}.ko")).unwrap()
    }

    /// The bytes with this digest.
    pub(crate) fn file(&self, digest: Digest) -> &[u8] {
        self.files.values().find(|bytes| Digest::of(bytes) == digest).unwrap()
    }

    pub(crate) fn manifest(&self) -> BundleManifest {
        let entries = self.files.iter().map(|(path, bytes)| ManifestEntry {
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            path: path.parse().unwrap(),
        });
        BundleManifest::new(entries.collect()).unwrap()
    }
}
