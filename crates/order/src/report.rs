//! What a loader says of its node.

use serde::{Deserialize, Serialize};

use crate::{Digest, Generation, KeyId, KmodName, ModuleKey, StoreId};

/// The most bytes of a [`ModuleReport::message`].
pub const MAX_MESSAGE: usize = 512;

/// The state of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// The store that this is about.
    pub store: StoreId,
    /// The highest order held; `None` before the first.
    pub generation: Option<Generation>,
    /// `/proc/sys/kernel/random/boot_id`: another one means that everything was loaded anew.
    pub boot_id: String,
    /// The running kernel's release, `uname -r`.
    pub kernel: String,
    /// The keys whose orders are accepted.
    pub key_ids: Vec<KeyId>,
    /// Modules ordered, loaded or remembered, by key.
    pub modules: Vec<ModuleReport>,
}

/// The state of one Module on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleReport {
    /// Which Module.
    pub key: ModuleKey,
    /// Where it stands.
    pub phase: Phase,
    /// Why it stands there.
    pub reason: Reason,
    /// The reason in words for a human, at most [`MAX_MESSAGE`] bytes.
    pub message: String,
    /// The bundle that is loaded; where none is, the one that was ordered.
    pub bundle: Option<Digest>,
    /// The parameters that belong to `bundle`.
    pub parameters: Vec<String>,
    /// When it was loaded or adopted, in milliseconds since 1970 by the node's clock.
    pub loaded_at: Option<u64>,
    /// The kernel modules of it that are loaded, in the order of loading.
    pub modules: Vec<KmodName>,
    /// The ordered bundle that did not load, where `phase` is [`Phase::RolledBack`] and `bundle` its predecessor.
    pub rolled_back: Option<Digest>,
}

/// Where a Module stands. Only settled states: a loader that reports does nothing else meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Ordered, loaded and identical to the order.
    Loaded,
    /// Ordered and not loaded, or not as ordered while what was loaded before stays loaded.
    Failed,
    /// Its successor did not load; the last content that did is loaded again.
    RolledBack,
    /// Removed as ordered: nothing of it is left.
    Removed,
    /// Loaded, but the order does not speak of it.
    Orphaned,
    /// Its loads were followed by the node's end, more than once: not tried again.
    CrashSuspected,
    /// To be removed or replaced, but in use; all of it is still loaded.
    InUse,
    /// Ordered, and its files are not here yet.
    WaitingForBundle,
}

/// Why a Module stands where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// The loader loaded it.
    Loaded,
    /// It was found loaded and is the same build.
    Adopted,
    /// Something other than the loader had unloaded it, and the loader has loaded it again.
    Reloaded,
    /// It was removed.
    Removed,
    /// The order does not speak of it.
    NotOrdered,
    /// It was loaded, and something other than the loader unloaded it.
    Disappeared,
    /// It is ordered, and the loader has not been told to apply the order yet.
    NotApplied,
    /// The bundle is not in the store, or not all of it.
    BundleMissing,
    /// The order is for another kernel than the one that runs.
    WrongKernel,
    /// The bundle has no such module, or it is not a module.
    ModuleInvalid,
    /// A dependency is neither in the bundle nor on the host.
    DependencyMissing,
    /// A module of this name is loaded, was not loaded by Tenon and is not the same build.
    ForeignModule,
    /// Something uses the module.
    InUse,
    /// Something uses an in-tree module that should make room.
    InTreeModuleInUse,
    /// Another Module brought a different firmware file under the same name.
    FirmwareConflict,
    /// `firmware_class.path` holds someone else's value.
    FirmwarePathTaken,
    /// `firmware_class.path` could not be written.
    FirmwarePathFailed,
    /// An in-tree module that should make room could not be brought back: the host has no file of it.
    NoWayBack,
    /// It has no exit function: no kernel unloads it.
    Permanent,
    /// The node went down during or soon after the last load: it is tried again alone, a little later.
    LoadPostponed,
    /// Loads of it took the node down more than once.
    CrashSuspected,
    // From here on: what the kernel said.
    /// A module of this name is loaded already.
    AlreadyLoaded,
    /// A symbol is missing, or not for this module's licence.
    UnknownSymbol,
    /// It needs GPL-only symbols and symbols of a proprietary module.
    ProprietarySymbols,
    /// A symbol is there in another version.
    SymbolVersion,
    /// It was built for another kernel: its version magic differs.
    VersionMagic,
    /// It was built for another kernel series or configuration.
    StructModuleSize,
    /// It uses a symbol without importing its namespace.
    NamespaceNotImported,
    /// It offers a symbol that another module offers.
    DuplicateSymbol,
    /// A parameter's value is invalid.
    InvalidParameter,
    /// The file is damaged, or no module for this machine.
    InvalidFormat,
    /// Its BTF does not fit the kernel.
    TypeInformation,
    /// The kernel's command line forbids it.
    Blacklisted,
    /// The kernel wants a signature that it trusts.
    SignatureRejected,
    /// Kernel lockdown forbids it.
    Lockdown,
    /// IMA appraisal wants a signature on the file.
    ImaAppraisal,
    /// Another security policy of the node forbids it.
    SecurityModule,
    /// The loader lacks the capability.
    NoCapability,
    /// `kernel.modules_disabled` is set: nothing can be loaded or unloaded before a reboot.
    ModulesDisabled,
    /// A firmware file that the module asked for is not there.
    FirmwareMissing,
    /// The module's own init function gave up, for example because there is no device.
    InitFailed,
    /// The kernel refused, in a way that this version does not know.
    KernelRefused,
    /// The store on the node's disk could not be read or written.
    StoreFailed,
}

/// `text` cut to [`MAX_MESSAGE`] bytes at a character's end.
pub fn clip(text: &str) -> &str {
    let end = text.floor_char_boundary(MAX_MESSAGE);
    text.split_at(end).0
}
