//! Flattening against a model that knows nothing of trees: what the specification says of each path alone.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::subsequence;

use super::corpus::{Archive, contents, flatten};

/// What a layer says: files by path, directories that are opaque, paths that are whited out.
#[derive(Debug, Clone, Default)]
struct ModelLayer {
    files: BTreeSet<String>,
    opaque: BTreeSet<String>,
    hidden: BTreeSet<String>,
}

impl ModelLayer {
    fn directories(&self) -> BTreeSet<String> {
        self.files.iter().flat_map(|path| ancestors(path).map(str::to_owned)).collect()
    }

    /// Entries in an order of its own: parents before children, whiteouts first or last.
    fn archive(&self, number: usize, whiteouts_last: bool) -> Archive {
        let mut archive = Archive::default();
        if !whiteouts_last {
            archive = self.whiteouts(archive);
        }
        for directory in self.directories() {
            archive = archive.directory(&directory);
        }
        for path in &self.files {
            archive = archive.file(path, &format!("{number}:{path}"));
        }
        if whiteouts_last { self.whiteouts(archive) } else { archive }
    }

    fn whiteouts(&self, mut archive: Archive) -> Archive {
        for path in &self.hidden {
            let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
            archive = archive.file(&format!("{directory}/.wh.{name}"), "");
        }
        for path in &self.opaque {
            archive = archive.file(&format!("{path}/.wh..wh..opq"), "");
        }
        archive
    }

    /// Whether a file of a lower layer is no longer seen.
    fn covers(&self, path: &str) -> bool {
        let above: Vec<_> = ancestors(path).collect();
        let at_or_above =
            |set: &BTreeSet<String>| set.contains(path) || above.iter().any(|up| set.contains(*up));
        at_or_above(&self.hidden)
            || at_or_above(&self.files)
            || self.directories().contains(path)
            || above.iter().any(|up| self.opaque.contains(*up))
    }
}

fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

/// Paths over two names, up to three deep.
fn paths() -> Vec<String> {
    let names = ["a", "b"];
    let two = names.iter().flat_map(|one| names.map(|other| format!("{one}/{other}")));
    let three = two.clone().flat_map(|path| names.map(|name| format!("{path}/{name}")));
    names.map(str::to_owned).into_iter().chain(two).chain(three).collect()
}

fn model_layer() -> impl Strategy<Value = ModelLayer> {
    let some = || subsequence(paths(), 0..5).prop_map(BTreeSet::from_iter);
    (some(), subsequence(paths(), 0..2), subsequence(paths(), 0..3)).prop_map(
        |(files, opaque, hidden): (BTreeSet<String>, Vec<String>, Vec<String>)| {
            // A layer cannot have a file and something below it, nor be opaque where it has a file.
            let tops: BTreeSet<String> =
                files.iter().filter(|path| !ancestors(path).any(|up| files.contains(up))).cloned().collect();
            let blocked = |path: &String| tops.contains(path) || ancestors(path).any(|up| tops.contains(up));
            ModelLayer {
                opaque: opaque.into_iter().filter(|path| !blocked(path)).collect(),
                hidden: hidden
                    .into_iter()
                    .filter(|path| !ancestors(path).any(|up| tops.contains(up)))
                    .collect(),
                files: tops,
            }
        },
    )
}

fn expected(layers: &[ModelLayer]) -> Vec<(String, String)> {
    let mut seen = BTreeMap::new();
    for (number, layer) in layers.iter().enumerate() {
        seen.retain(|path: &String, _| !layer.covers(path));
        seen.extend(layer.files.iter().map(|path| (path.clone(), format!("{number}:{path}"))));
    }
    seen.into_iter().collect()
}

proptest! {
    #[test]
    fn flattening_does_what_the_specification_says_of_each_path(
        layers in prop::collection::vec((model_layer(), any::<bool>()), 1..5),
    ) {
        let archives = layers.iter().enumerate().map(|(number, (layer, last))| layer.archive(number, *last));
        let image = flatten(archives).unwrap();
        let layers: Vec<_> = layers.iter().map(|(layer, _)| layer.clone()).collect();
        prop_assert_eq!(contents(&image), expected(&layers));
    }

    #[test]
    fn no_archive_panics(
        mut bytes in Just(()).prop_map(|()| Archive::default()
            .directory("d").file("d/x", "content").symlink("l", "d").layer()),
        flips in prop::collection::vec((0..3000_usize, any::<u8>()), 1..6),
    ) {
        use std::io::{Read as _, Seek as _, Write as _};
        let mut content = Vec::new();
        bytes.file.read_to_end(&mut content).unwrap();
        for (at, byte) in flips {
            let length = content.len();
            content[at % length] = byte;
        }
        bytes.file.rewind().unwrap();
        bytes.file.write_all(&content).unwrap();
        let _ = super::ImageFiles::flatten(vec![bytes], &super::Limits::default());
    }
}
