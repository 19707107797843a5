//! What to do in the kernel so that one Module is as it shall be. Values in, steps out: nothing is touched here.
//!
//! Three rules shape it. What is in use is not torn out: when anything that must go is used by something that stays,
//! the answer is a [`Block`] and nothing is begun. What Tenon did not load stays, unless the Module names it. And every
//! [`Step`] has an opposite, so a run that fails is undone by the opposites of what was done, in reverse.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use tenon_order::{Digest, KmodName, ModuleKey, Phase, Reason};

use self::firmware::Firmware;
use crate::record::{Part, Piece};
use crate::situation::{Loaded, Situation, Target};

mod firmware;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Load a module.
    Insert(Piece),
    /// Unload a module; `back` is what loads it again.
    Remove {
        /// The kernel's name of it.
        name: KmodName,
        /// The file to load it from again, where there is one.
        back: Option<Piece>,
    },
    /// Put a firmware file where drivers find it.
    Link {
        /// The name that drivers ask for.
        path: String,
        /// Its bytes in the store.
        digest: Digest,
        /// Whether the same file was there before, this Module's or another's: then it stays when the run fails.
        had: bool,
    },
    /// Take a firmware file away.
    Unlink {
        /// The name that drivers ask for.
        path: String,
        /// Its bytes in the store.
        digest: Digest,
    },
    /// Tell the kernel to look for firmware elsewhere: in the store, or where it was told to before.
    FirmwarePath {
        /// Where it looks until then; empty where it was told nothing.
        from: String,
        /// Where it shall look.
        to: String,
    },
}

impl Step {
    /// The module that the step loads.
    pub fn inserts(&self) -> Option<&KmodName> {
        match self {
            Self::Insert(piece) => Some(&piece.name),
            _ => None,
        }
    }

    /// What takes the step back; `None` where nothing can.
    pub fn opposite(&self) -> Option<Self> {
        Some(match self {
            Self::Insert(piece) => Self::Remove { name: piece.name.clone(), back: Some(piece.clone()) },
            Self::Remove { back, .. } => Self::Insert(back.clone()?),
            Self::Link { had: true, .. } => return None,
            Self::Link { path, digest, .. } => Self::Unlink { path: path.clone(), digest: *digest },
            Self::Unlink { path, digest } => Self::Link { path: path.clone(), digest: *digest, had: false },
            Self::FirmwarePath { from, to } => Self::FirmwarePath { from: to.clone(), to: from.clone() },
        })
    }
}

/// What takes these steps back, in the order to do it.
pub fn undo(done: &[Step]) -> Vec<Step> {
    done.iter().rev().filter_map(Step::opposite).collect()
}

/// What to do, and how things stand when it is done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// All of them or none.
    pub steps: Vec<Step>,
    /// What can be left undone when the kernel refuses: in-tree modules to bring back, prerequisites no longer needed.
    pub afterwards: Vec<Step>,
    /// What the Module then has, in the order of loading.
    pub parts: Vec<Part>,
    /// In-tree modules that have then made room, by name.
    pub in_tree: Vec<KmodName>,
    /// What `firmware_class.path` was before the store took its place; `None` where it has not.
    pub path_before: Option<String>,
}

impl Plan {
    /// Whether it loads anything: such a run is marked.
    pub fn inserts(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Insert(_)))
    }

    /// What it loads, if it takes anything away for that.
    pub fn replacements(&self) -> Vec<&Piece> {
        let removes = self.steps.iter().any(|step| matches!(step, Step::Remove { .. }));
        let inserted = self.steps.iter().filter_map(|step| match step {
            Step::Insert(piece) => Some(piece),
            _ => None,
        });
        inserted.filter(|_| removes).collect()
    }

    /// Whether all that is left to do is to load soft dependencies.
    pub fn only_soft(&self) -> bool {
        self.steps.iter().all(|step| matches!(step, Step::Insert(piece) if piece.soft))
    }

    /// The soft dependencies that it would load.
    pub fn soft_inserts(&self) -> Vec<KmodName> {
        let soft = |step: &Step| match step {
            Step::Insert(piece) if piece.soft => Some(piece.name.clone()),
            _ => None,
        };
        self.steps.iter().filter_map(soft).collect()
    }
}

/// Why nothing was begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Block {
    /// Loaded by someone else, and another build.
    #[error(
        "{0} is loaded already, was not loaded by Tenon, and is another build or has other parameters; \
         unload it, or name it in inTreeModulesToRemove"
    )]
    Foreign(KmodName),
    /// Another Module has another build of it.
    #[error("{name} is already loaded for Module {other}, as another build or with other parameters")]
    Shared {
        /// What is loaded.
        name: KmodName,
        /// For whom.
        other: ModuleKey,
    },
    /// In use.
    #[error("{name} is in use{}", users(*.references, .holders))]
    InUse {
        /// What is used.
        name: KmodName,
        /// By how many beside `holders`.
        references: u32,
        /// By which modules.
        holders: Vec<KmodName>,
        /// Whether it is one that shall only make room.
        in_tree: bool,
    },
    /// Loaded, and its init has not returned.
    #[error(
        "{0} is still starting: its init has not returned; where it died of a fault (the kernel's log would say so) only \
         a reboot of the node ends that"
    )]
    Starting(KmodName),
    /// Nothing can unload it.
    #[error("{0} has no exit function: the kernel never lets go of it, only a reboot of the node does")]
    Permanent(KmodName),
    /// It would be gone for good.
    #[error(
        "in-tree module {0} shall make room, but /lib/modules has no file to load it from again: it stays until there is \
         one"
    )]
    NoWayBack(KmodName),
    /// Another Module has a different file of that name.
    #[error("firmware {path} differs from the file that Module {other} brought under this name")]
    FirmwareConflict {
        /// The name that drivers ask for.
        path: String,
        /// Who has it.
        other: ModuleKey,
    },
    /// The kernel looks for firmware elsewhere by someone's wish.
    #[error(
        "firmware_class.path is {0:?}, set by someone else (KMM by its worker.firmwareHostPath, the kernel's command line, or \
         an administrator): this Module's firmware would not be found; clear it on the node (echo \
         >/sys/module/firmware_class/parameters/path), or reboot the node when nothing sets it at boot"
    )]
    FirmwarePathTaken(String),
}

impl Block {
    /// The phase and reason to report.
    pub fn outcome(&self) -> (Phase, Reason) {
        match self {
            Self::Foreign(_) | Self::Shared { .. } => (Phase::Failed, Reason::ForeignModule),
            Self::Starting(_) => (Phase::Failed, Reason::InitFailed),
            Self::Permanent(_) => (Phase::InUse, Reason::Permanent),
            Self::NoWayBack(_) => (Phase::Failed, Reason::NoWayBack),
            Self::InUse { in_tree: true, .. } => (Phase::Failed, Reason::InTreeModuleInUse),
            Self::InUse { in_tree: false, .. } => (Phase::InUse, Reason::InUse),
            Self::FirmwareConflict { .. } => (Phase::Failed, Reason::FirmwareConflict),
            Self::FirmwarePathTaken(_) => (Phase::Failed, Reason::FirmwarePathTaken),
        }
    }
}

fn users(references: u32, holders: &[KmodName]) -> String {
    let names: Vec<_> = holders.iter().map(ToString::to_string).collect();
    let by = if names.is_empty() { String::new() } else { format!(" by {}", names.join(", ")) };
    match references {
        0 => by,
        1 => format!("{by}: 1 reference is held, by an open device, a mount or a socket for example"),
        _ => {
            format!("{by}: {references} references are held, by open devices, mounts or sockets for example")
        }
    }
}

/// What makes the Module's kernel modules and firmware those of `target`; without one, nothing of it is left.
pub fn plan(target: Option<&Target>, situation: &Situation<'_>) -> Result<Plan, Block> {
    let nothing = Target::default();
    let target = target.unwrap_or(&nothing);
    let sorted = Sorted::of(target, situation)?;
    let removals = sorted.removals(situation)?;
    let firmware = Firmware::of(target, &sorted, situation)?;
    let mut steps = removals;
    steps.extend(firmware.unlink);
    steps.extend(firmware.link);
    steps.extend(target.pieces.iter().filter(|piece| !sorted.stays(&piece.name)).cloned().map(Step::Insert));
    let in_tree = sorted.in_tree_after(target, situation);
    let afterwards = afterwards(target, situation, &sorted, &in_tree);
    let parts = target.pieces.iter().map(|piece| sorted.part(piece, situation)).collect();
    Ok(Plan { steps, afterwards, parts, in_tree, path_before: firmware.path_before })
}

/// The loaded modules that matter, by what becomes of them.
#[derive(Debug, Default)]
struct Sorted {
    /// Loaded as the target wants it.
    keep: BTreeSet<KmodName>,
    /// Of `keep`: there before and not ours.
    borrowed: BTreeSet<KmodName>,
    /// Ours, and to go: another build or other parameters, or no longer wanted.
    replace: BTreeSet<KmodName>,
    /// Not ours, and named to make room.
    make_room: BTreeSet<KmodName>,
    /// Prerequisites from the host that are ours and no longer wanted: they go if no one uses them.
    release: Vec<KmodName>,
}

impl Sorted {
    fn of(target: &Target, situation: &Situation<'_>) -> Result<Self, Block> {
        let mut sorted = Self::default();
        let mine = mine(situation);
        for piece in &target.pieces {
            sorted.sort_wanted(piece, target, situation, &mine)?;
        }
        let wanted: BTreeSet<_> = target.pieces.iter().map(|piece| &piece.name).collect();
        for (name, mine) in mine.iter().filter(|(name, _)| !wanted.contains(name)) {
            if situation.others.parts.contains_key(name) {
                continue;
            }
            if mine.piece.is_bundled() {
                sorted.replace.insert(name.clone());
            } else {
                sorted.release.push(name.clone());
            }
        }
        for name in &target.in_tree_to_remove {
            let loaded = situation.kernel.loaded.contains_key(name);
            if loaded && !sorted.keep.contains(name) && !sorted.replace.contains(name) {
                if let Some((other, true)) = situation.others.parts.get(name) {
                    return Err(Block::Shared { name: name.clone(), other: other.clone() });
                }
                sorted.make_room.insert(name.clone());
            }
        }
        sorted.refuse_without_way_back(situation)?;
        sorted.draw_in_dependents(situation);
        Ok(sorted)
    }

    fn sort_wanted(
        &mut self,
        piece: &Piece,
        target: &Target,
        situation: &Situation<'_>,
        mine: &BTreeMap<KmodName, Mine<'_>>,
    ) -> Result<(), Block> {
        let name = &piece.name;
        let Some(loaded) = situation.kernel.loaded.get(name) else { return Ok(()) };
        if loaded.starting {
            return Err(Block::Starting(name.clone()));
        }
        let known = mine.get(name);
        let certain = known.filter(|mine| mine.certain).map(|mine| mine.piece);
        if is_as_wanted(piece, certain, loaded) {
            self.keep.insert(name.clone());
        } else if let Some((other, _)) = situation.others.parts.get(name).filter(|_| piece.is_bundled()) {
            return Err(Block::Shared { name: name.clone(), other: other.clone() });
        } else if !piece.is_bundled() && certain.is_none() {
            self.keep.insert(name.clone());
            if known.is_none() {
                self.borrowed.insert(name.clone());
            }
        } else if known.is_some() {
            self.replace.insert(name.clone());
        } else if target.in_tree_to_remove.contains(name) {
            self.make_room.insert(name.clone());
        } else {
            return Err(Block::Foreign(name.clone()));
        }
        Ok(())
    }

    /// The kernel's own modules are only taken out when they can be brought back. Someone else's goes by the user's word.
    fn refuse_without_way_back(&self, situation: &Situation<'_>) -> Result<(), Block> {
        let is_own =
            |name: &KmodName| situation.kernel.loaded.get(name).is_some_and(|found| !found.out_of_tree);
        let lost = self.make_room.iter().find(|name| is_own(name) && self.back(name, situation).is_none());
        lost.map_or(Ok(()), |name| Err(Block::NoWayBack(name.clone())))
    }

    /// What uses a module that goes has to go first; of what is ours and wanted, that is no harm: it is loaded again.
    fn draw_in_dependents(&mut self, situation: &Situation<'_>) {
        loop {
            let drawn: Vec<_> = (self.replace.iter().chain(&self.make_room))
                .flat_map(|name| {
                    situation.kernel.loaded.get(name).into_iter().flat_map(|loaded| &loaded.holders)
                })
                .filter(|holder| self.keep.contains(*holder) && !self.borrowed.contains(*holder))
                .cloned()
                .collect();
            if drawn.is_empty() {
                return;
            }
            for name in drawn {
                self.keep.remove(&name);
                self.replace.insert(name);
            }
        }
    }

    fn stays(&self, name: &KmodName) -> bool {
        self.keep.contains(name)
    }

    /// Unloads everything that goes, users first, and of those that nothing uses the one that was loaded last; refuses
    /// when something that stays uses it.
    fn removals(&self, situation: &Situation<'_>) -> Result<Vec<Step>, Block> {
        let loaded = &situation.kernel.loaded;
        let mut left: Vec<&KmodName> =
            self.replace.union(&self.make_room).filter(|name| loaded.contains_key(*name)).collect();
        // The order of loading may be the Module's own wish, of which the kernel knows nothing.
        let ours: Vec<_> = in_order_of_loading(situation).collect();
        left.sort_by_key(|name| Reverse(ours.iter().rposition(|ours| ours == name)));
        let mut steps = Vec::new();
        while let Some(first) = left.first().copied() {
            let free = |name: &KmodName| {
                loaded
                    .get(name)
                    .is_none_or(|module| !module.holders.iter().any(|holder| left.contains(&holder)))
            };
            // Modules cannot use each other in a circle; if /proc/modules said so, the kernel would refuse the first.
            let next = left.iter().copied().find(|name| free(name)).unwrap_or(first);
            self.refuse_if_used(next, situation)?;
            left.retain(|name| *name != next);
            steps.push(Step::Remove { name: next.clone(), back: self.back(next, situation) });
        }
        Ok(steps)
    }

    fn refuse_if_used(&self, name: &KmodName, situation: &Situation<'_>) -> Result<(), Block> {
        let Some(module) = situation.kernel.loaded.get(name) else { return Ok(()) };
        let goes = |holder: &&KmodName| self.replace.contains(*holder) || self.make_room.contains(*holder);
        let holders: Vec<_> = module.holders.iter().filter(|holder| !goes(holder)).cloned().collect();
        let references = others_than_holders(module);
        if module.permanent {
            return Err(Block::Permanent(name.clone()));
        }
        if holders.is_empty() && references == 0 {
            return Ok(());
        }
        let in_tree = self.make_room.contains(name);
        Err(Block::InUse { name: name.clone(), references, holders, in_tree })
    }

    fn back(&self, name: &KmodName, situation: &Situation<'_>) -> Option<Piece> {
        let from_host = || situation.in_tree.iter().find(|piece| piece.name == *name).cloned();
        if self.make_room.contains(name) {
            return from_host();
        }
        let live = situation.record.live_in(&situation.kernel.boot_id);
        let own = live.and_then(|live| live.parts.iter().find(|part| part.piece.name == *name));
        own.map(|part| part.piece.clone())
    }

    fn part(&self, piece: &Piece, situation: &Situation<'_>) -> Part {
        let shared = situation.others.parts.get(&piece.name).is_some_and(|(_, ours)| *ours);
        Part { piece: piece.clone(), ours: shared || !self.borrowed.contains(&piece.name), instance: None }
    }

    /// The in-tree modules that are gone for this Module's sake once the plan is done.
    fn in_tree_after(&self, target: &Target, situation: &Situation<'_>) -> Vec<KmodName> {
        let earlier = situation.record.in_tree.iter().filter(|name| target.in_tree_to_remove.contains(name));
        self.make_room.iter().chain(earlier).cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// What of the Module is loaded, and what a run that did not end was about to load.
fn in_order_of_loading<'a>(situation: &Situation<'a>) -> impl Iterator<Item = &'a KmodName> {
    let boot_id = &situation.kernel.boot_id;
    let live = situation.record.live_in(boot_id).into_iter().flat_map(|live| &live.parts);
    let pending = situation.record.pending_in(boot_id).into_iter().flat_map(|pending| &pending.pieces);
    live.map(|part| &part.piece.name).chain(pending.map(|piece| &piece.name))
}

/// A loaded module that is there by Tenon's doing.
#[derive(Debug, Clone, Copy)]
struct Mine<'a> {
    /// What it is, or what it was about to be.
    piece: &'a Piece,
    /// Of a run that did not end it is not known which of two builds it loaded.
    certain: bool,
}

/// What of the Module is loaded by Tenon's doing, by name: not what someone else loaded since under the same name.
fn mine<'a>(situation: &Situation<'a>) -> BTreeMap<KmodName, Mine<'a>> {
    let boot_id = &situation.kernel.boot_id;
    let live = situation.record.live_in(boot_id).into_iter().flat_map(|live| &live.parts);
    let live = live.filter(|part| part.ours).map(|part| (&part.piece, part.instance, true));
    let pending = situation.record.pending_in(boot_id).into_iter().flat_map(|pending| &pending.pieces);
    let pending = pending.map(|piece| (piece, None, false));
    let mut mine = BTreeMap::new();
    for (piece, instance, certain) in live.chain(pending) {
        let loaded = situation.kernel.loaded.get(&piece.name);
        if loaded.is_some_and(|loaded| is_it(piece, instance, loaded)) {
            mine.insert(piece.name.clone(), Mine { piece, certain });
        }
    }
    mine
}

/// Whether what is loaded is this piece, as far as can be told.
fn is_it(piece: &Piece, instance: Option<u64>, loaded: &Loaded) -> bool {
    match (instance, loaded.instance) {
        (Some(known), Some(found)) => known == found,
        _ => !matches!((&piece.build_id, &loaded.build_id), (Some(known), Some(found)) if known != found),
    }
}

fn is_as_wanted(wanted: &Piece, known: Option<&Piece>, loaded: &Loaded) -> bool {
    let same_build = match (&wanted.build_id, &loaded.build_id) {
        (Some(wanted), Some(loaded)) => Some(wanted == loaded),
        _ => None,
    };
    match known {
        Some(known) => known.is_same(wanted) && same_build != Some(false),
        None => same_build == Some(true) && has_parameters(loaded, &wanted.parameters),
    }
}

/// Whether every wanted parameter that can be read has the wanted value.
fn has_parameters(loaded: &Loaded, wanted: &[String]) -> bool {
    let last_wins: BTreeMap<_, _> =
        wanted.iter().map(|text| text.split_once('=').unwrap_or((text, "Y"))).collect();
    last_wins.into_iter().all(|(name, value)| {
        let readable = loaded.parameters.get(&name.replace('-', "_"));
        readable.is_none_or(|found| is_same_value(found, value))
    })
}

fn is_same_value(found: &str, wanted: &str) -> bool {
    let wanted = wanted.trim_matches('"');
    let flag = |text: &str| match text {
        "1" | "y" | "Y" | "on" => Some(true),
        "0" | "n" | "N" | "off" => Some(false),
        _ => None,
    };
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => i128::from_str_radix(hex, 16).ok(),
        None => text.parse::<i128>().ok(),
    };
    found == wanted
        || (number(found).is_some() && number(found) == number(wanted))
        || (flag(found).is_some() && flag(found) == flag(wanted))
}

fn others_than_holders(module: &Loaded) -> u32 {
    module.references.saturating_sub(u32::try_from(module.holders.len()).unwrap_or(u32::MAX))
}

/// What is done when all is done, as far as the kernel lets: in-tree modules come back, prerequisites go.
fn afterwards(
    target: &Target,
    situation: &Situation<'_>,
    sorted: &Sorted,
    in_tree: &[KmodName],
) -> Vec<Step> {
    let loaded = &situation.kernel.loaded;
    let goes = |name: &KmodName| sorted.replace.contains(name) || sorted.make_room.contains(name);
    let mut released: Vec<&KmodName> = Vec::new();
    // Users before what they use: each round takes what nothing but the rounds before held.
    while let Some(next) = sorted.release.iter().find(|name| {
        let free = |module: &Loaded| {
            others_than_holders(module) == 0
                && module.holders.iter().all(|holder| goes(holder) || released.contains(&holder))
        };
        !released.contains(name) && loaded.get(*name).is_some_and(free)
    }) {
        released.push(next);
    }
    let mut steps: Vec<_> =
        released.into_iter().map(|name| Step::Remove { name: name.clone(), back: None }).collect();
    if situation.record.in_tree.iter().any(|name| !in_tree.contains(name)) {
        let back = situation.in_tree.iter().filter(|piece| {
            let stays_away = in_tree.contains(&piece.name)
                || target.in_tree_to_remove.contains(&piece.name)
                || situation.others.away.contains(&piece.name);
            !stays_away && (!loaded.contains_key(&piece.name) || goes(&piece.name))
        });
        steps.extend(back.cloned().map(Step::Insert));
    }
    steps
}

#[cfg(test)]
mod tests;
