//! Looking things up in an image's tree of names.

use super::tree::{FileAt, Id, Kind, LinkError, TooManyNames, Tree, Walker, Way};
use crate::path::ImagePath;

/// Directories below each other, counting those behind links.
const MAX_DEPTH: usize = 64;

/// What a name leads to, links followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A file.
    File(FileAt),
    /// A device or pipe.
    Special,
    /// Nothing: a broken link.
    Broken(LinkError),
}

/// A file, or what should have been one, below a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walked {
    /// The path from the directory: bytes, since nothing makes an image keep to UTF-8.
    pub path: Vec<u8>,
    /// What it leads to.
    pub found: Found,
}

impl Tree {
    /// What a path leads to, links followed; `None` where nothing has that name or the end of its links, or a directory.
    pub fn find(&self, path: &ImagePath) -> Option<Found> {
        let parts = parts(path);
        let (name, parents) = parts.split_last()?;
        match self.way_to(parents).and_then(|way| self.follow(&way, name)) {
            Ok(Step::Leaf(found)) => Some(found),
            Ok(Step::Directory(_)) | Err(LinkError::Dangling | LinkError::NotDirectory) => None,
            Err(error @ (LinkError::Loop | LinkError::Escape | LinkError::TooLong)) => {
                Some(Found::Broken(error))
            }
        }
    }

    /// The names of the directories in a directory. `None` where there is no such directory.
    pub fn directories_in(&self, directory: &ImagePath) -> Option<Vec<String>> {
        let way = self.way_to(&parts(directory)).ok()?;
        let children = self.children(*way.last()?);
        let directories =
            children.filter(|(name, _)| matches!(self.follow(&way, name), Ok(Step::Directory(_))));
        Some(directories.map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect())
    }

    /// Everything but directories below a directory, sorted by path. Links are followed; names that `skip` picks are
    /// left out with all below them. `None` where there is no such directory.
    pub fn walk(
        &self,
        directory: &ImagePath,
        skip: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Option<Vec<Walked>>, TooManyNames> {
        let Ok(start) = self.way_to(&parts(directory)) else { return Ok(None) };
        let mut walk = Walk {
            tree: self,
            skip,
            trail: start.last().copied().into_iter().collect(),
            found: Vec::new(),
            names_left: self.limits.entries,
            bytes_left: self.limits.names,
        };
        walk.directory(&start, b"")?;
        walk.found.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(Some(walk.found))
    }

    fn follow(&self, way: &Way, name: &[u8]) -> Result<Step, LinkError> {
        let mut walker = Walker::from(way.clone(), std::iter::once(name.into()));
        while let Some((directory, name)) = walker.next()? {
            let id = self.child(directory, &name).ok_or(LinkError::Dangling)?;
            match self.kind(id) {
                Kind::Directory => walker.way.push(id),
                Kind::Symlink(target) => walker.detour(target)?,
                _ if !walker.ahead.is_empty() => return Err(LinkError::NotDirectory),
                Kind::File(at) => return Ok(Step::Leaf(Found::File(*at))),
                Kind::Special => return Ok(Step::Leaf(Found::Special)),
            }
        }
        Ok(Step::Directory(walker.way))
    }
}

/// What one name leads to.
enum Step {
    Directory(Way),
    Leaf(Found),
}

struct Walk<'a> {
    tree: &'a Tree,
    skip: &'a dyn Fn(&[u8]) -> bool,
    /// The directories entered and not yet left: a link to one of them would never end.
    trail: Vec<Id>,
    found: Vec<Walked>,
    /// Links can make more names than the image has entries, so what is listed is bounded too.
    names_left: u32,
    bytes_left: usize,
}

impl Walk<'_> {
    fn directory(&mut self, way: &Way, path: &[u8]) -> Result<(), TooManyNames> {
        let Some(directory) = way.last() else { return Ok(()) };
        for (name, _) in self.tree.children(*directory).filter(|(name, _)| !(self.skip)(name)) {
            let below = if path.is_empty() { name.to_vec() } else { [path, name].join(b"/".as_slice()) };
            let too_many = TooManyNames(self.tree.limits.entries);
            self.names_left = self.names_left.checked_sub(1).ok_or(too_many)?;
            self.bytes_left = self.bytes_left.checked_sub(below.len()).ok_or(too_many)?;
            let found = match self.tree.follow(way, name) {
                Ok(Step::Directory(next)) => {
                    if self.enter(&next, &below)? {
                        continue;
                    }
                    Found::Broken(LinkError::Loop)
                }
                Ok(Step::Leaf(found)) => found,
                Err(error) => Found::Broken(error),
            };
            self.found.push(Walked { path: below, found });
        }
        Ok(())
    }

    fn enter(&mut self, way: &Way, path: &[u8]) -> Result<bool, TooManyNames> {
        let Some(id) = way.last().filter(|id| !self.trail.contains(id)) else { return Ok(false) };
        if self.trail.len() > MAX_DEPTH {
            return Ok(false);
        }
        self.trail.push(*id);
        self.directory(way, path)?;
        self.trail.pop();
        Ok(true)
    }
}

fn parts(path: &ImagePath) -> Vec<Box<[u8]>> {
    path.parts().map(|part| part.as_bytes().into()).collect()
}
