//! What a prediction depends on beside the module and the kernel: what is loaded, what the administrator enforces, what
//! the module is given.

use std::collections::{BTreeMap, BTreeSet};

use super::{Prediction, Verdict};
use crate::ModuleName;
use crate::object::{Export, ModuleObject};
use crate::parameters::Parameter;

/// The state of a node as far as it decides over a load. The default is a node that runs an ordinary kernel, enforces
/// nothing, has nothing loaded, and loads what a module needs of the kernel's own modules before it.
#[derive(Clone, Debug, Default)]
pub struct Circumstances {
    /// What is loaded, by name.
    pub loaded: BTreeMap<ModuleName, LoadedModule>,
    /// Whether the kernel's own modules that are not listed as loaded come before the module that needs them.
    pub prerequisites: Prerequisites,
    /// What decides over unsigned modules.
    pub enforcement: Enforcement,
    /// What the module's last signature is worth.
    pub signature: SignatureCheck,
    /// Whether `/proc/sys/kernel/modules_disabled` is 1.
    pub modules_disabled: bool,
    /// The kernel command line's `module_blacklist`.
    pub blacklist: BTreeSet<ModuleName>,
    /// What the module is given.
    pub parameters: Vec<Parameter>,
    /// The firmware files that are there, relative to the firmware directory; none where nobody looked.
    pub firmware: Option<BTreeSet<String>>,
}

/// What happens about modules of the kernel's own that another one needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prerequisites {
    /// They are loaded before: what modprobe and Tenon do.
    #[default]
    LoadedBefore,
    /// Only what is listed is loaded: a bare `insmod`.
    AsListed,
}

/// What a kernel does about a module without a good signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// It loads, and taints the kernel; unless the kernel was built to refuse it.
    #[default]
    Permissive,
    /// `module.sig_enforce=1`, or Secure Boot: `EKEYREJECTED`.
    Enforced,
    /// `lockdown=integrity` or more, without the former: `EPERM`.
    Lockdown,
}

/// What a module's last signature is worth, as far as somebody has compared it with the certificates that the kernel trusts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SignatureCheck {
    /// Nobody has.
    #[default]
    Unread,
    /// It is good, and by a key that the kernel trusts.
    Good {
        /// An elliptic key's: not every kernel verifies these.
        elliptic: bool,
        /// Over SHA-384 or SHA-512: not every kernel verifies these.
        long_hash: bool,
    },
    /// It is by a key that the kernel does not trust.
    UnknownSigner,
    /// It names a key that the kernel trusts, and is not that key's over these bytes.
    Bad,
    /// Its message has a form that no kernel accepts.
    Unsupported,
}

/// A module that is there already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadedModule {
    /// What it exports; none where only its name is known. The kernel's own modules are then looked up in its facts.
    pub exports: Option<Vec<Export>>,
    /// Whether its licence, or that of a module it uses, makes it proprietary; none where nobody knows.
    pub proprietary: Option<bool>,
    /// Whether it only may be there, because its own prediction was unknown.
    pub uncertain: bool,
}

impl Circumstances {
    /// A module of which only the name is known, for example from `/proc/modules`.
    pub fn add_loaded(&mut self, name: ModuleName) {
        self.loaded.entry(name).or_default();
    }

    /// The state after a load that was predicted: the module is there when it loads, and may be there when that is unknown.
    pub fn advance(&mut self, module: &ModuleObject, prediction: &Prediction) {
        let uncertain = match prediction.verdict {
            Verdict::Loads => false,
            Verdict::Unknown => true,
            Verdict::Fails { .. } => return,
        };
        let loaded = LoadedModule {
            exports: Some(module.exports.clone()),
            proprietary: prediction.proprietary,
            uncertain,
        };
        self.loaded.insert(module.name.clone(), loaded);
    }
}
