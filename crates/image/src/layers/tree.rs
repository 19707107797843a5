//! The names of an image, layer upon layer: what the union of its layers looks like from inside.
//!
//! Entries come in one by one, from the lowest layer up. The rules are those by which container runtimes unpack
//! (OCI image specification, "Image Layer Filesystem Changeset"): whiteouts hide what lower layers brought and never
//! what their own layer brings, whichever comes first; a directory over a directory merges, everything else replaces;
//! the directory of an entry's name may be a symbolic link of a lower layer (`/lib` → `usr/lib`). Links are followed
//! inside the image only, as if its root were `/`.

use std::collections::BTreeMap;

use super::{Limits, Member, MemberKind};

/// Symbolic links followed for one name: as many as Linux follows.
pub(crate) const MAX_LINKS: usize = 40;
/// Parts looked up for one name, those of links counted. It bounds how deep directories lie (work below them recurses), and
/// what one entry of an archive can cost.
pub(crate) const MAX_STEPS: usize = 256;

/// The way from the root to a directory, both included.
pub(super) type Way = Vec<Id>;

/// Where a file's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileAt {
    /// The layer, counted from the lowest.
    pub(crate) layer: u16,
    /// The entry's place in the layer's archive.
    pub(crate) member: u32,
    /// In bytes, as it is in the image.
    pub(crate) size: u64,
    /// Whether anybody may run it.
    pub(crate) executable: bool,
}

impl FileAt {
    /// In bytes, as it is in the image.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Why a name leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// More links than Linux follows, or links in a circle.
    #[error("its symbolic links lead in a circle or are more than 40")]
    Loop,
    /// `..` above the image's root.
    #[error("its symbolic link leads out of the image")]
    Escape,
    /// The link's target is not in the image.
    #[error("its symbolic link leads to nothing")]
    Dangling,
    /// A part of the way is a file.
    #[error("a part of its path is not a directory")]
    NotDirectory,
    /// Deeper than images are.
    #[error("its path has more than {MAX_STEPS} parts, those of its symbolic links counted")]
    TooLong,
}

/// Why an entry cannot be part of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The limit on entries.
    #[error("the image has more than {0} entries")]
    TooManyEntries(u32),
    /// The limit on names.
    #[error("the image's names have more than {0} bytes")]
    TooManyNames(usize),
    /// The way to it is broken.
    #[error("entry {name:?} has no place")]
    Place {
        /// The entry.
        name: String,
        /// Why.
        source: LinkError,
    },
    /// A whiteout of `.`, `..` or nothing.
    #[error("entry {0:?} is a whiteout of nothing")]
    Whiteout(String),
    /// The target is not in the image, or is a directory.
    #[error("entry {0:?} is a hard link to nothing")]
    Hardlink(String),
    /// The root replaced by a file.
    #[error("the image's root is not a directory")]
    Root,
}

/// The image's names are too many, or too long, to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its links make more than {0} names, or too long ones")]
pub struct TooManyNames(pub(super) u32);

/// A node of the tree.
pub(super) type Id = u32;
const ROOT: Id = 0;

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Directory,
    File(FileAt),
    Symlink(Box<[u8]>),
    Special,
}

#[derive(Debug)]
struct Node {
    kind: Kind,
    /// The layer that brought it last.
    layer: u16,
    /// The layer that last hid what layers below it brought to this directory. Doing so twice would find nothing, and could
    /// be made to cost without end.
    swept: Option<u16>,
}

/// The names of an image.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    names: BTreeMap<(Id, Box<[u8]>), Id>,
    /// Entries and name bytes that may still come.
    entries_left: u32,
    bytes_left: usize,
    pub(super) limits: Limits,
}

impl Tree {
    /// An image without layers.
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            nodes: vec![Node { kind: Kind::Directory, layer: 0, swept: None }],
            names: BTreeMap::new(),
            entries_left: limits.entries,
            bytes_left: limits.names,
            limits: limits.clone(),
        }
    }

    /// Adds an entry of `layer`, which is not below any layer given before.
    pub(super) fn apply(&mut self, layer: u16, member: &Member) -> Result<(), TreeError> {
        let target = if let MemberKind::Symlink(target) = &member.kind { target.len() } else { 0 };
        self.charge(target + member.name.last().map_or(0, |name| name.len()))?;
        let Some((last, parents)) = member.name.split_last() else {
            return if member.kind == MemberKind::Directory { Ok(()) } else { Err(TreeError::Root) };
        };
        if let Some(hidden) = last.strip_prefix(b".wh.") {
            return self.hide(layer, parents, hidden, member);
        }
        let parent = self.make_way(parents, layer, member)?;
        let kind = self.kind_of(layer, member)?;
        self.place(parent, last, kind, layer);
        Ok(())
    }

    /// What a node is.
    pub(super) fn kind(&self, id: Id) -> &Kind {
        self.nodes.get(id as usize).map_or(&Kind::Special, |node| &node.kind)
    }

    /// What is directly in a directory, sorted by name.
    pub(super) fn children(&self, directory: Id) -> impl Iterator<Item = (&[u8], Id)> {
        let range = (directory, Box::default())..(directory + 1, Box::default());
        self.names.range(range).map(|((_, name), id)| (name.as_ref(), *id))
    }

    /// One name of a directory.
    pub(super) fn child(&self, directory: Id, name: &[u8]) -> Option<Id> {
        self.names.get(&(directory, name.into())).copied()
    }

    /// The directory at the end of these parts. What is missing is made, as brought by `layer`.
    fn make_way(&mut self, parts: &[Box<[u8]>], layer: u16, member: &Member) -> Result<Id, TreeError> {
        let no_place = |source| TreeError::Place { name: shown(&member.name), source };
        let mut walker = Walker::from_root(parts);
        while let Some((directory, name)) = walker.next().map_err(no_place)? {
            let Some(id) = self.child(directory, &name) else {
                self.charge(name.len())?;
                walker.way.push(self.insert(directory, name, Kind::Directory, layer));
                continue;
            };
            match self.kind(id) {
                Kind::Directory => walker.way.push(id),
                Kind::Symlink(target) => walker.detour(target).map_err(no_place)?,
                Kind::File(_) | Kind::Special => return Err(no_place(LinkError::NotDirectory)),
            }
        }
        Ok(walker.here())
    }

    /// One entry, be it one that only a longer name implies, and so many bytes of names.
    fn charge(&mut self, bytes: usize) -> Result<(), TreeError> {
        self.entries_left =
            self.entries_left.checked_sub(1).ok_or(TreeError::TooManyEntries(self.limits.entries))?;
        self.bytes_left =
            self.bytes_left.checked_sub(bytes).ok_or(TreeError::TooManyNames(self.limits.names))?;
        Ok(())
    }

    /// Whiteouts: `.wh.<name>` hides a name, `.wh..wh..opq` all of a directory, other names in `.wh..wh.` mean nothing.
    fn hide(
        &mut self,
        layer: u16,
        parents: &[Box<[u8]>],
        hidden: &[u8],
        member: &Member,
    ) -> Result<(), TreeError> {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(TreeError::Whiteout(shown(&member.name)));
        }
        // Where the directory is not there, neither is anything to hide.
        let Ok(way) = self.way_to(parents) else { return Ok(()) };
        let Some(directory) = way.last().copied() else { return Ok(()) };
        if hidden == b".wh..opq" {
            self.prune_children(directory, layer);
        } else if !hidden.starts_with(b".wh.") {
            self.prune(directory, hidden, layer);
        }
        Ok(())
    }

    /// Removes what layers below `layer` brought; a directory stays while something is left in it. Depth is bounded by
    /// [`MAX_STEPS`].
    fn prune(&mut self, directory: Id, name: &[u8], layer: u16) {
        let Some(id) = self.child(directory, name) else { return };
        self.prune_children(id, layer);
        let older = self.nodes.get(id as usize).is_some_and(|node| node.layer < layer);
        if older && self.children(id).next().is_none() {
            self.names.remove(&(directory, name.into()));
        }
    }

    fn prune_children(&mut self, directory: Id, layer: u16) {
        let Some(node) = self.nodes.get_mut(directory as usize) else { return };
        if node.swept.replace(layer) == Some(layer) {
            return;
        }
        let names: Vec<Box<[u8]>> = self.children(directory).map(|(name, _)| name.into()).collect();
        for name in names {
            self.prune(directory, &name, layer);
        }
    }

    fn kind_of(&self, layer: u16, member: &Member) -> Result<Kind, TreeError> {
        Ok(match &member.kind {
            MemberKind::Directory => Kind::Directory,
            MemberKind::File { size, executable } => {
                let (size, executable) = (*size, *executable);
                Kind::File(FileAt { layer, member: member.index, size, executable })
            }
            MemberKind::Symlink(target) => Kind::Symlink(target.clone()),
            MemberKind::Special => Kind::Special,
            MemberKind::Hardlink(target) => self
                .linked(target)
                .filter(|kind| !matches!(kind, Kind::Directory))
                .ok_or_else(|| TreeError::Hardlink(shown(&member.name)))?,
        })
    }

    /// What a hard link shares: the last part of its target is not followed.
    fn linked(&self, target: &[Box<[u8]>]) -> Option<Kind> {
        let (last, parents) = target.split_last()?;
        let way = self.way_to(parents).ok()?;
        self.child(*way.last()?, last).map(|id| self.kind(id).clone())
    }

    fn place(&mut self, parent: Id, name: &[u8], kind: Kind, layer: u16) {
        if let Some(id) = self.child(parent, name) {
            let merges = matches!((self.kind(id), &kind), (Kind::Directory, Kind::Directory));
            if merges {
                if let Some(node) = self.nodes.get_mut(id as usize) {
                    node.layer = layer;
                }
                return;
            }
            // Above every layer: whatever is there goes.
            self.prune(parent, name, u16::MAX);
        }
        self.insert(parent, name.into(), kind, layer);
    }

    fn insert(&mut self, parent: Id, name: Box<[u8]>, kind: Kind, layer: u16) -> Id {
        // Every node was charged for, and the limit is a u32.
        let id = Id::try_from(self.nodes.len()).unwrap_or(Id::MAX);
        self.nodes.push(Node { kind, layer, swept: None });
        self.names.insert((parent, name), id);
        id
    }

    /// The way to the directory at the end of these parts.
    pub(super) fn way_to(&self, parts: &[Box<[u8]>]) -> Result<Way, LinkError> {
        let mut walker = Walker::from_root(parts);
        while let Some((directory, name)) = walker.next()? {
            let id = self.child(directory, &name).ok_or(LinkError::Dangling)?;
            match self.kind(id) {
                Kind::Directory => walker.way.push(id),
                Kind::Symlink(target) => walker.detour(target)?,
                Kind::File(_) | Kind::Special => return Err(LinkError::NotDirectory),
            }
        }
        Ok(walker.way)
    }
}

/// A name to look up, and the directory to do it in.
type Step = (Id, Box<[u8]>);

/// Walks names and the links in them, never above the root.
pub(super) struct Walker {
    pub(super) way: Way,
    /// Parts still to come, the next one last.
    pub(super) ahead: Vec<Box<[u8]>>,
    links: usize,
    steps: usize,
}

impl Walker {
    fn from_root(parts: &[Box<[u8]>]) -> Self {
        Self::from(vec![ROOT], parts.iter().cloned())
    }

    pub(super) fn from(way: Way, parts: impl DoubleEndedIterator<Item = Box<[u8]>>) -> Self {
        Self { way, ahead: parts.rev().collect(), links: 0, steps: 0 }
    }

    /// Where the walk is.
    pub(super) fn here(&self) -> Id {
        self.way.last().copied().unwrap_or(ROOT)
    }

    /// The next name to look up, and where.
    pub(super) fn next(&mut self) -> Result<Option<Step>, LinkError> {
        while let Some(part) = self.ahead.pop() {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(LinkError::TooLong);
            }
            if *part != *b".." {
                return Ok(Some((self.here(), part)));
            }
            if self.way.len() < 2 {
                return Err(LinkError::Escape);
            }
            self.way.pop();
        }
        Ok(None)
    }

    /// Goes on with a symbolic link's target.
    pub(super) fn detour(&mut self, target: &[u8]) -> Result<(), LinkError> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(LinkError::Loop);
        }
        if target.starts_with(b"/") {
            self.way.truncate(1);
        }
        let parts = target.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
        self.ahead.extend(parts.rev().map(Box::from));
        Ok(())
    }
}

fn shown(name: &[Box<[u8]>]) -> String {
    let name = name.join(b"/".as_slice());
    String::from_utf8_lossy(name.get(..200).unwrap_or(&name)).into_owned()
}
