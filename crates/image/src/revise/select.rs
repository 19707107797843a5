//! The wanted files of an image, changed, as a layer.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek as _, Write as _};
use std::path::Path;

use super::source::Image;
use super::{FilePattern, ReviseError, Revision};
use crate::layers::{FileAt, Found, ImageFiles, Layer, LayersError, Tree};
use crate::new_layer::{AppendError, NewLayer, WrittenLayer};
use crate::registry::PullError;

/// A layer, and the paths of the files in it.
pub(super) type Changed = (WrittenLayer, Vec<String>);

/// What became of an image's wanted files.
pub(super) struct Files {
    /// The layer with those that were changed, and their paths; none where nothing was.
    pub(super) layer: Option<Changed>,
    /// Those that stayed as they are.
    pub(super) unchanged: Vec<String>,
    /// Bytes of layers that came here from a registry.
    pub(super) fetched: u64,
}

/// Finds the wanted files and changes them.
pub(super) async fn changed(
    image: &Image<'_>,
    revision: &Revision,
    work: &Path,
) -> Result<Files, ReviseError> {
    let size = image.layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.size));
    let limit = revision.limits.compressed;
    if size > limit {
        return Err(PullError::TooLarge { size, limit }.into());
    }
    // Where each path is named, a layer in which all are found hides what lies below.
    let named = revision.files.iter().all(|pattern| pattern.literal().is_some());
    let (mut layers, mut fetched) = (Vec::new(), 0);
    let mut below = image.layers.iter().rev().peekable();
    loop {
        for descriptor in below.by_ref().take(if named { 1 } else { usize::MAX }) {
            let (layer, came) = image.layer(descriptor, work).await?;
            fetched += came;
            layers.insert(0, layer);
        }
        let last = below.peek().is_none();
        let (platform, revision, work) = (image.platform(), revision.clone(), work.to_owned());
        let step = move || step(layers, last, &platform, &revision, &work);
        match tokio::task::spawn_blocking(step).await.map_err(ReviseError::Thread)?? {
            Step::More(back) => layers = back,
            Step::Done(layer, unchanged) => return Ok(Files { layer, unchanged, fetched }),
        }
    }
}

enum Step {
    /// Something is not there: it may be in a layer below.
    More(Vec<Layer>),
    Done(Option<Changed>, Vec<String>),
}

fn step(
    layers: Vec<Layer>,
    last: bool,
    platform: &str,
    revision: &Revision,
    work: &Path,
) -> Result<Step, ReviseError> {
    let spool = |source| ReviseError::Spool { directory: work.to_owned(), source };
    let copies: Vec<Layer> = layers.iter().map(Layer::try_clone).collect::<Result<_, _>>().map_err(spool)?;
    let image = match ImageFiles::flatten(layers, &revision.limits) {
        Ok(image) => image,
        Err(error) if last || matches!(error, LayersError::Digest { .. }) => return Err(error.into()),
        // A layer may hold links to what lies below it: alone it says nothing yet.
        Err(_) => return Ok(Step::More(copies)),
    };
    // Above the lowest layer, what is missing may still come.
    match wanted(image.tree(), platform, revision, revision.lenient && last) {
        Ok(wanted) => {
            let (layer, unchanged) = change(&image, &wanted, revision, work)?;
            Ok(Step::Done(layer, unchanged))
        }
        Err(ReviseError::NoFile { .. } | ReviseError::NotAFile { .. }) if !last => Ok(Step::More(copies)),
        Err(error) => Err(error),
    }
}

/// The files that are meant, by path.
fn wanted(
    tree: &Tree,
    platform: &str,
    revision: &Revision,
    lenient: bool,
) -> Result<BTreeMap<String, FileAt>, ReviseError> {
    let (mut wanted, mut missing) = (BTreeMap::new(), None);
    for pattern in &revision.files {
        let found = matching(tree, pattern)?;
        if found.is_empty() {
            missing = missing.or(Some(pattern));
        }
        for (path, found) in found {
            let Found::File(at) = found else {
                return Err(ReviseError::NotAFile { platform: platform.to_owned(), path });
            };
            let limit = revision.limits.module;
            if at.size() > limit {
                return Err(ReviseError::TooLarge { path, size: at.size(), limit });
            }
            wanted.insert(path, at);
        }
    }
    match missing {
        Some(pattern) if !lenient || wanted.is_empty() => {
            Err(ReviseError::NoFile { platform: platform.to_owned(), pattern: pattern.to_string() })
        }
        _ => Ok(wanted),
    }
}

/// What a pattern means, links followed.
fn matching(tree: &Tree, pattern: &FilePattern) -> Result<Vec<(String, Found)>, ReviseError> {
    if let Some(path) = pattern.literal() {
        return Ok(tree.find(path).into_iter().map(|found| (path.to_string(), found)).collect());
    }
    let root = pattern.root();
    let failed = |error| ReviseError::Change { path: root.to_string(), source: Box::new(error) };
    let below = tree.walk(&root, &|_| false).map_err(failed)?;
    let top = root.as_str().trim_end_matches('/');
    let named = below.into_iter().flatten().filter_map(|walked| {
        let path = format!("{top}/{}", String::from_utf8(walked.path).ok()?);
        pattern.matches(&path).then_some((path, walked.found))
    });
    Ok(named.collect())
}

/// Changes files, and writes those that are others now into a layer, in the order of their paths.
fn change(
    image: &ImageFiles,
    wanted: &BTreeMap<String, FileAt>,
    revision: &Revision,
    work: &Path,
) -> Result<(Option<Changed>, Vec<String>), ReviseError> {
    let spool = |source| ReviseError::Spool { directory: work.to_owned(), source };
    let places: BTreeSet<FileAt> = wanted.values().copied().collect();
    let mut changed: BTreeMap<&str, (std::fs::File, u64)> = BTreeMap::new();
    let mut unchanged = Vec::new();
    let mut take = |at: FileAt, content: &mut dyn Read| -> Result<(), ReviseError> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(spool)?;
        // Links make several paths of one file.
        for path in wanted.iter().filter(|(_, place)| **place == at).map(|(path, _)| path) {
            let change = (revision.change)(path, &bytes);
            match change.map_err(|source| ReviseError::Change { path: path.clone(), source })? {
                None => unchanged.push(path.clone()),
                Some(new) => {
                    let mut file = tempfile::tempfile_in(work).map_err(spool)?;
                    file.write_all(&new).and_then(|()| file.rewind()).map_err(spool)?;
                    changed.insert(path, (file, new.len() as u64));
                }
            }
        }
        Ok(())
    };
    image.read(&places, &mut take, &ReviseError::Layers)?;
    unchanged.sort();
    if changed.is_empty() {
        return Ok((None, unchanged));
    }
    let paths = changed.keys().map(|path| (*path).to_owned()).collect();
    let mut layer = NewLayer::new(work).map_err(spool)?;
    for (path, (mut file, size)) in changed {
        let added = layer.file(path.trim_start_matches('/'), size, &mut file);
        added.map_err(|error| match error {
            AppendError::Name(source) => ReviseError::Name { path: path.to_owned(), source },
            AppendError::Read(source) | AppendError::Spool(source) => spool(source),
        })?;
    }
    Ok((Some((layer.finish().map_err(spool)?, paths)), unchanged))
}
