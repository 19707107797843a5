//! Everything that a plan depends on, as plain data: what the kernel has, what is wanted, what others have.

use std::collections::{BTreeMap, BTreeSet};

use tenon_order::{Digest, KmodName, ModuleKey};

use crate::record::{Piece, Record};

/// What the kernel has, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// What is loaded, by name.
    pub loaded: BTreeMap<KmodName, Loaded>,
    /// The value of `firmware_class.path`; empty when unset.
    pub firmware_path: String,
}

/// A loaded module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Loaded {
    /// The reference count: one for each holder and one for each other user.
    pub references: u32,
    /// Loaded modules that use it.
    pub holders: BTreeSet<KmodName>,
    /// The hex digits of its build id, where it has one.
    pub build_id: Option<String>,
    /// The readable parameters.
    pub parameters: BTreeMap<String, String>,
    /// Which of all modules that had the name in this boot: the number of its directory in `/sys/module`.
    pub instance: Option<u64>,
    /// Whether its init has not returned; after an oops in it, it never does.
    pub starting: bool,
    /// Whether it has no exit function: the kernel never lets go of it.
    pub permanent: bool,
    /// Whether the kernel says that it is none of its own.
    pub out_of_tree: bool,
}

/// A content whose files are known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// In the order of loading; the Module's own is the last.
    pub pieces: Vec<Piece>,
    /// Firmware files by the name that drivers ask for.
    pub firmware: BTreeMap<String, Digest>,
    /// In-tree modules that shall make room.
    pub in_tree_to_remove: BTreeSet<KmodName>,
}

/// What other Modules have on the node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Others {
    /// Their kernel modules, and whether they go with those Modules.
    pub parts: BTreeMap<KmodName, (ModuleKey, bool)>,
    /// Their firmware files.
    pub firmware: BTreeMap<String, (ModuleKey, Digest)>,
    /// What the kernel's search path for firmware was before one of them needed the store's.
    pub path_before: Option<String>,
    /// In-tree modules that are to stay away for the sake of what they have loaded.
    pub away: BTreeSet<KmodName>,
}

impl Others {
    /// What all `records` but that of `key` have in this boot.
    pub fn of<'a>(records: impl Iterator<Item = &'a Record>, key: &ModuleKey, boot_id: &str) -> Self {
        let mut others = Self::default();
        for record in records.filter(|record| record.key != *key) {
            for part in record.live_in(boot_id).iter().flat_map(|live| &live.parts) {
                let entry = others.parts.entry(part.piece.name.clone());
                entry.or_insert_with(|| (record.key.clone(), false)).1 |= part.ours;
            }
            others.away.extend(record.keeps_away_in(boot_id));
            for (path, digest) in &record.firmware {
                others.firmware.insert(path.clone(), (record.key.clone(), *digest));
            }
            if let Some(path) = record.path_before_in(boot_id) {
                others.path_before.get_or_insert_with(|| path.to_owned());
            }
        }
        others
    }
}

/// Everything that a decision about one Module depends on.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// What is remembered of the Module.
    pub record: &'a Record,
    /// What the other Modules have.
    pub others: &'a Others,
    /// What the kernel has.
    pub kernel: &'a Kernel,
    /// The host's own files for in-tree modules, each after those it needs: what is loaded again.
    pub in_tree: &'a [Piece],
    /// Firmware files of the target that drivers find as they should, by the name they ask for.
    pub linked: &'a BTreeSet<String>,
    /// Where the store keeps firmware.
    pub firmware_dir: &'a str,
}
