//! Reads every module of a bundle once, in an unprivileged place, before any node gets it.

use std::fs::File;
use std::io;
use std::path::Path;

use tenon_image::bundle::{BundleReader, ReadError};
use tenon_image::platform::Architecture;
use tenon_kmod::ModuleObject;
use tenon_kmod::object::ObjectError;
use tenon_order::Digest;

/// Why a bundle's modules will load on no node of the architecture.
#[derive(Debug, thiserror::Error)]
pub(super) enum InspectError {
    /// The bundle that was just written cannot be opened.
    #[error("open the bundle")]
    Open(#[source] io::Error),
    /// The bundle that was just written cannot be read.
    #[error("read the bundle")]
    Read(#[source] ReadError),
    /// A file is no kernel module.
    #[error("{path} is no loadable kernel module")]
    Object {
        /// Its path in the bundle.
        path: String,
        /// What is wrong with it.
        #[source]
        source: ObjectError,
    },
    /// A module for other machines.
    #[error("{path} was compiled for {found}, the nodes are {wanted}")]
    Architecture {
        /// Its path in the bundle.
        path: String,
        /// What it was compiled for.
        found: Architecture,
        /// What the nodes are.
        wanted: Architecture,
    },
}

/// Checks that every `.ko` of the bundle in `file` is a whole module for the architecture. Blocks.
pub(super) fn inspect(file: &Path, digest: &Digest, wanted: &Architecture) -> Result<(), InspectError> {
    let file = File::open(file).map_err(InspectError::Open)?;
    let mut bundle = BundleReader::open(io::BufReader::new(file), digest).map_err(InspectError::Read)?;
    while let Some(file) = bundle.next_file().map_err(InspectError::Read)? {
        let path = file.entry().path.to_string();
        if path.strip_suffix(".ko").is_none() {
            continue;
        }
        let mut bytes = Vec::new();
        file.copy_to(&mut bytes).map_err(InspectError::Read)?;
        let object = ModuleObject::parse(&bytes)
            .map_err(|source| InspectError::Object { path: path.clone(), source })?;
        let found = Architecture::from(object.architecture);
        if found != *wanted {
            return Err(InspectError::Architecture { path, found, wanted: wanted.clone() });
        }
    }
    bundle.verify_rest().map_err(InspectError::Read)
}
