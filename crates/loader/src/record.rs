//! What is remembered of a Module: what is loaded now, what loaded last, and how the last try went.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tenon_order::{Digest, KmodName, Load, ModuleKey, Phase, Reason, clip};

use crate::content::kernel_names;
use crate::situation::Kernel;

/// One file that is, was or shall be in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// The kernel's spelling of its name.
    pub name: KmodName,
    /// Where its bytes are.
    pub source: Source,
    /// Its parameters, in the order in which the kernel reads them.
    pub parameters: Vec<String>,
    /// The hex digits of its `.note.gnu.build-id`, where it has one.
    pub build_id: Option<String>,
    /// Whether the rest does without it: a soft dependency.
    pub soft: bool,
}

/// Where a piece's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A file of the store: it came with a bundle.
    Store(Digest),
    /// A file below the host's `/lib/modules/<release>/`: it came with the kernel.
    Host(String),
}

impl Piece {
    /// Whether it came with a bundle.
    pub fn is_bundled(&self) -> bool {
        matches!(self.source, Source::Store(_))
    }

    /// Whether the other is the same code with the same parameters.
    pub fn is_same(&self, other: &Self) -> bool {
        let same_code =
            self.source == other.source || (self.build_id.is_some() && self.build_id == other.build_id);
        same_code && self.parameters == other.parameters
    }
}

/// A piece of a loaded Module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// What it is.
    pub piece: Piece,
    /// Whether it goes with the Module: loaded by Tenon or adopted. What was there before stays.
    pub ours: bool,
    /// Which of all modules that ever had the name ([`Loaded::instance`](crate::situation::Loaded::instance)); `None`
    /// where that was not known.
    #[serde(default)]
    pub instance: Option<u64>,
}

impl Part {
    /// Whether it is loaded, and not only its name taken since.
    pub fn is_there(&self, kernel: &Kernel) -> bool {
        let Some(found) = kernel.loaded.get(&self.piece.name) else { return false };
        self.instance.is_none() || found.instance.is_none() || self.instance == found.instance
    }
}

/// What is loaded of a Module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Live {
    /// The boot in which it was loaded: in another one nothing of it is.
    pub boot_id: String,
    /// As ordered.
    pub content: Load,
    /// In the order of loading.
    pub parts: Vec<Part>,
    /// In milliseconds since 1970.
    pub loaded_at: u64,
    /// Whether it was found loaded.
    pub adopted: bool,
    /// Whether something else had unloaded it, and it was loaded again.
    #[serde(default)]
    pub reloaded: bool,
}

/// What an interrupted run may have loaded: written before it begins, removed when it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    /// The boot in which it began.
    pub boot_id: String,
    /// What it was to load.
    pub pieces: Vec<Piece>,
}

/// What `firmware_class.path` was before the store took its place. A boot sets it anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathBefore {
    /// The boot in which it was so.
    pub boot_id: String,
    /// The value; empty where it was not set.
    pub path: String,
}

/// How the last try went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// Where the Module stands.
    pub phase: Phase,
    /// Why.
    pub reason: Reason,
    /// In words, cut to the report's bound.
    pub message: String,
}

impl Outcome {
    /// An outcome whose message is cut to the report's bound.
    pub fn new(phase: Phase, reason: Reason, message: &str) -> Self {
        Self { phase, reason, message: clip(message).to_owned() }
    }
}

/// A content that did not load while its predecessor did: not tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// What failed.
    pub content: Load,
    /// How.
    pub outcome: Outcome,
}

/// What the store remembers of one Module: `modules/<namespace>/<name>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Which Module.
    pub key: ModuleKey,
    /// The last content that loaded.
    pub kept: Option<Load>,
    /// What is loaded.
    pub live: Option<Live>,
    /// What a run that did not end may have loaded.
    pub pending: Option<Pending>,
    /// The ordered content that was given up for `kept`.
    pub failed: Option<Failure>,
    /// In-tree modules that were unloaded to make room, by the kernel's names; loaded again when the Module goes.
    pub in_tree: Vec<KmodName>,
    /// Firmware files that are linked for it, by the name drivers ask for.
    pub firmware: BTreeMap<String, Digest>,
    /// What the kernel's search path for firmware is to be again when nobody needs the store's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_before: Option<PathBefore>,
    /// How the last try went.
    pub outcome: Outcome,
}

impl Record {
    /// Nothing is known of the Module yet.
    pub fn new(key: ModuleKey) -> Self {
        Self {
            key,
            kept: None,
            live: None,
            pending: None,
            failed: None,
            in_tree: Vec::new(),
            firmware: BTreeMap::new(),
            path_before: None,
            outcome: Outcome::new(Phase::Failed, Reason::NotApplied, "not applied yet"),
        }
    }

    /// What is loaded in this boot.
    pub fn live_in(&self, boot_id: &str) -> Option<&Live> {
        self.live.as_ref().filter(|live| live.boot_id == boot_id)
    }

    /// The in-tree modules that what is loaded in this boot wants away.
    pub fn keeps_away_in(&self, boot_id: &str) -> BTreeSet<KmodName> {
        self.live_in(boot_id).map(|live| kernel_names(&live.content.in_tree_to_remove)).unwrap_or_default()
    }

    /// What a run that did not end may have loaded in this boot.
    pub fn pending_in(&self, boot_id: &str) -> Option<&Pending> {
        self.pending.as_ref().filter(|pending| pending.boot_id == boot_id)
    }

    /// What the kernel's search path for firmware was in this boot, before it was the store's.
    pub fn path_before_in(&self, boot_id: &str) -> Option<&str> {
        let before = self.path_before.as_ref().filter(|before| before.boot_id == boot_id);
        before.map(|before| before.path.as_str())
    }

    /// Whether something of it was loaded once and nothing is in this boot.
    pub fn awaits_boot(&self, boot_id: &str) -> bool {
        self.kept.is_some() && self.live_in(boot_id).is_none() && !self.is_tombstone()
    }

    /// Whether only the memory of a removal is left.
    pub fn is_tombstone(&self) -> bool {
        self.outcome.phase == Phase::Removed
    }
}

/// The names of everything that a content's load depends on: equal content, equal fingerprint.
pub fn fingerprint(key: &ModuleKey, content: &Load) -> Digest {
    // A Load is plain data; it cannot fail to become JSON. If it could, equal fingerprints would only be too careful.
    let json = serde_json::to_vec(content).unwrap_or_default();
    let mut hasher = tenon_order::Hasher::new();
    hasher.update(key.to_string().as_bytes());
    hasher.update(b"\n");
    hasher.update(&json);
    hasher.finish()
}
