//! The one layer of a published image: what a directory holds, and the directories above it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::contents::Contents;
use super::image::PackError;
use crate::new_layer::{AppendError, NewLayer, WrittenLayer};

/// Writes the layer into a temporary file of `work`. Blocks.
pub(super) fn write(contents: &Contents, work: &Path) -> Result<WrittenLayer, PackError> {
    let spool = |source| PackError::Spool { directory: work.to_owned(), source };
    let mut layer = NewLayer::new(work).map_err(spool)?;
    for directory in directories(contents) {
        layer.directory(&directory).map_err(|error| failed(error, Path::new(&directory), work))?;
    }
    for (name, path) in &contents.files {
        let read = |source| PackError::Read { path: path.clone(), source };
        let mut file = File::open(path).map_err(read)?;
        let size = file.metadata().map_err(read)?.len();
        layer.file(name, size, &mut file).map_err(|error| failed(error, path, work))?;
    }
    layer.finish().map_err(spool)
}

fn failed(error: AppendError, path: &Path, work: &Path) -> PackError {
    let (path, directory): (PathBuf, PathBuf) = (path.to_owned(), work.to_owned());
    match error {
        AppendError::Name(source) => PackError::Name { path, source },
        AppendError::Read(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
            PackError::Changed { path }
        }
        AppendError::Read(source) => PackError::Read { path, source },
        AppendError::Spool(source) => PackError::Spool { directory, source },
    }
}

/// Every directory of every file, parents first, each ending in a slash.
fn directories(contents: &Contents) -> BTreeSet<String> {
    let parents = |name: &String| -> Vec<String> {
        name.match_indices('/')
            .filter_map(|(at, slash)| name.get(..at + slash.len()).map(str::to_owned))
            .collect()
    };
    contents.files.keys().flat_map(parents).collect()
}
