//! What a guest that only tries loads is told, and what it says of each.

use serde::{Deserialize, Serialize};

/// The plan, in the initramfs. A guest that finds it there does nothing else.
pub const PLAN: &str = "trials.json";
/// The folder with the files, each named by its number.
pub const FILES: &str = "trial-files";

/// The loads to try, in order. What a sequence has loaded is unloaded at its end, as far as the kernel lets go of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Sequences of loads: each load of a sequence meets what those before it have loaded.
    pub sequences: Vec<Vec<Attempt>>,
}

/// One `finit_module`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The file, by its place among the plan's files.
    pub file: usize,
    /// The module's parameters, separated by spaces.
    pub parameters: String,
    /// `MODULE_INIT_…` of include/uapi/linux/module.h.
    pub flags: i32,
}

/// A line on the second serial port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Line {
    /// A load was tried.
    Tried(Tried),
    /// A sequence has ended. These modules could not be unloaded: they have no exit, or are in use.
    Ended {
        /// As `/proc/modules` lists them.
        left: Vec<String>,
    },
    /// The guest could not go on.
    Broken {
        /// Why.
        message: String,
    },
    /// The plan is through.
    Through,
}

/// What came of a load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// The error number; 0 when the module is loaded.
    pub errno: i32,
    /// What the kernel's log says of it.
    pub log: Vec<String>,
    /// `/proc/modules` afterwards, the newest first.
    pub loaded: Vec<String>,
}
