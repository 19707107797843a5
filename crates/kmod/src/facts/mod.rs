//! What must be known of a kernel to say whether a module will load into it: its version magic, the symbols it exports
//! with their checksums, the size of its `struct module`, and which of its rules are switched on.
//!
//! Facts come from a kernel image, from its headers, or from its in-tree modules; [`KernelFacts::merge`] joins them. What
//! no source says stays unknown: a field that is `None`, or a symbol that is not listed while the list is not
//! [complete](KernelFacts::complete).

pub mod boot_image;
mod btf;
mod build_id;
mod encoding;
mod headers;
mod image;
mod in_tree;
mod merge;
mod policy;
mod symbol;
mod vmlinux;

use std::collections::BTreeMap;

pub use build_id::{BuildId, BuildIdError};
pub use encoding::{DecodeError, MAX_ENCODED};
pub use headers::{HeaderFiles, Headers, HeadersError};
pub use image::{ImageError, struct_module_size};
pub use in_tree::{Left, ModuleSurvey};
pub use merge::MergeError;
pub use policy::{Decompression, KernelPolicy};
pub use symbol::{KernelSymbol, Namespace};
pub use vmlinux::VmlinuxError;

use crate::object::Architecture;
use crate::release::KernelRelease;
use crate::vermagic::VerMagic;

/// Where facts were read from. Merged facts have several sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The kernel itself: a boot image or `vmlinux`.
    pub image: bool,
    /// The tree to build modules against.
    pub headers: bool,
    /// The kernel's own `.ko` files.
    pub modules: bool,
}

/// What is known of one build of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFacts {
    /// What `uname -r` says.
    pub release: KernelRelease,
    /// The linker's identifier of this very build; two builds may have one release.
    pub build_id: Option<BuildId>,
    /// The machine.
    pub architecture: Architecture,
    /// What the kernel compares a module's version magic with.
    pub vermagic: Option<VerMagic>,
    /// `sizeof(struct module)`, in bytes.
    pub this_module_size: Option<u64>,
    /// `CONFIG_MODVERSIONS`: whether the kernel compares checksums of symbols, and then skips the release.
    pub modversions: Option<bool>,
    /// The symbols that modules may use, by name; `module_layout`, which stands for `struct module`, among them.
    pub exports: BTreeMap<String, KernelSymbol>,
    /// Whether [`Self::exports`] has everything that the kernel itself exports: if not, a symbol that is not listed is
    /// unknown, not absent.
    pub complete: bool,
    /// Whether [`Self::exports`] has everything that the kernel's own modules export, too.
    pub covers_modules: bool,
    /// Where all this was read.
    pub sources: Sources,
    /// The rules that are switched on at build time.
    pub policy: KernelPolicy,
}

impl KernelFacts {
    /// Facts of which nothing is known yet but the kernel they are about.
    pub fn new(release: KernelRelease, architecture: Architecture) -> Self {
        Self {
            release,
            build_id: None,
            architecture,
            vermagic: None,
            this_module_size: None,
            modversions: None,
            exports: BTreeMap::new(),
            complete: false,
            covers_modules: false,
            sources: Sources::default(),
            policy: KernelPolicy::default(),
        }
    }

    /// Whether the kernel is of this version or a later one; none where the release does not say. Distributions take
    /// rules over into older kernels, so this is for rules that all of them have or that are told no other way.
    pub(crate) fn is_since(&self, major: u32, minor: u32) -> Option<bool> {
        self.release.version().map(|(x, y, _)| (x, y) >= (major, minor))
    }
}
