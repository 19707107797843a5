//! Reads every module of a bundle once, in an unprivileged place, before any node gets it.

use std::fs::File;
use std::io;
use std::path::Path;

use tenon_image::bundle::{BundleReader, ReadError};
use tenon_image::platform::Architecture;
use tenon_kmod::ModuleObject;
use tenon_kmod::object::ObjectError;
use tenon_order::Digest;

/// Bytes of memory that the facts about all modules of a bundle may take: who judges it holds them at once. Those about all
/// modules of a distribution's kernel take half of it.
const FACTS: usize = 128 << 20;

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
    /// More to say of its modules than can be held.
    #[error("{path} is one module too many: the facts about all take more than {limit} bytes")]
    TooMuch {
        /// The first that was too much, by its path in the bundle.
        path: String,
        /// In bytes.
        limit: usize,
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
    inspect_within(FACTS, file, digest, wanted)
}

fn inspect_within(
    limit: usize,
    file: &Path,
    digest: &Digest,
    wanted: &Architecture,
) -> Result<(), InspectError> {
    let mut left = limit;
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
        left = left
            .checked_sub(object.footprint())
            .ok_or_else(|| InspectError::TooMuch { path: path.clone(), limit })?;
        let found = Architecture::from(object.architecture);
        if found != *wanted {
            return Err(InspectError::Architecture { path, found, wanted: wanted.clone() });
        }
    }
    bundle.verify_rest().map_err(InspectError::Read)
}

#[cfg(test)]
mod tests {
    use tenon_image::testing::module;

    use super::*;
    use crate::depot::testing::{bundle, file};

    #[test]
    fn a_bundle_is_refused_whose_facts_take_too_much_memory() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = module(62, "anvil", "6.1.0");
        let (digest, packed) = bundle(&bytes, 1);
        let file = file(folder.path(), "bundle", &packed);
        let wanted = "amd64".parse().unwrap();
        let takes = ModuleObject::parse(&bytes).unwrap().footprint();
        inspect_within(takes, &file, &digest, &wanted).unwrap();
        let error = inspect_within(takes - 1, &file, &digest, &wanted).unwrap_err();
        assert!(
            matches!(&error, InspectError::TooMuch { path, .. } if path == "modules/extra/anvil.ko"),
            "{error}"
        );
    }
}
