//! What the operator wants of one node.
//!
//! The JSON keys are one letter long: an order is stored in etcd and watched by an agent for every node.

use serde::{Deserialize, Serialize};

use crate::{Digest, Generation, KmodName, ModuleKey, NodeName, StoreId};

/// The most Modules that one order may name.
pub const MAX_MODULES: usize = 256;
/// The most bytes of one parameter, and of all parameters of a Module together: the kernel takes one page.
const MAX_PARAMETERS: usize = 4095;
/// The most names in a list of kernel modules.
pub const MAX_NAMES: usize = 128;
/// The most bytes of a kernel release: `__NEW_UTS_LEN` of `include/uapi/linux/utsname.h`.
const MAX_RELEASE: usize = 64;

/// An order that says something impossible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// A Module is named twice.
    #[error("check the order: {0} is named twice")]
    Duplicate(ModuleKey),
    /// More than [`MAX_MODULES`].
    #[error("check the order: {0} modules, at most {MAX_MODULES} are allowed")]
    TooManyModules(usize),
    /// Not a kernel release.
    #[error("check the order for {0}: the kernel release is not 1 to 64 printable characters without `/`")]
    Kernel(ModuleKey),
    /// Parameters hold control characters or are longer than the kernel takes.
    #[error(
        "check the order for {0}: parameters are empty, hold control characters or exceed {MAX_PARAMETERS} bytes"
    )]
    Parameters(ModuleKey),
    /// A list of kernel modules is too long.
    #[error("check the order for {0}: a list names more than {MAX_NAMES} kernel modules")]
    TooManyNames(ModuleKey),
    /// `loading_order` is set but does not begin with the module itself.
    #[error("check the order for {0}: the loading order does not begin with the module")]
    LoadingOrder(ModuleKey),
}

/// Everything that one node's loader shall do. Signed by [`crate::sign`].
///
/// What is neither wished nor removed stays as it is: absence is no order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The node that this is for.
    #[serde(rename = "n")]
    pub node: NodeName,
    /// The loader's store that this is for.
    #[serde(rename = "s")]
    pub store: StoreId,
    /// Its place in the sequence: lower ones are refused.
    #[serde(rename = "g")]
    pub generation: Generation,
    /// Wishes by Module, in no particular order; each Module once.
    #[serde(rename = "m")]
    pub modules: Vec<OrderedModule>,
}

/// A Module and what is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderedModule {
    /// Which Module.
    #[serde(rename = "k")]
    pub key: ModuleKey,
    /// What is wanted.
    #[serde(rename = "w")]
    pub wish: Wish,
}

/// What is wanted of a Module on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// It shall be loaded, like this.
    #[serde(rename = "l")]
    Loaded(Load),
    /// Nothing of it shall be left.
    #[serde(rename = "r")]
    Removed,
}

/// How a Module shall be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// The kernel release that the bundle is for; on any other kernel nothing is loaded.
    #[serde(rename = "k")]
    pub kernel: String,
    /// The bundle with the files.
    #[serde(rename = "b")]
    pub bundle: Digest,
    /// The kernel module to load.
    #[serde(rename = "m")]
    pub module: KmodName,
    /// Its parameters, `name=value` or `name`.
    #[serde(rename = "p", default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<String>,
    /// The Module's `modulesLoadingOrder`: the first is `module` and is loaded last. Empty: the dependencies' order.
    #[serde(rename = "o", default, skip_serializing_if = "Vec::is_empty")]
    pub loading_order: Vec<KmodName>,
    /// In-tree modules that make room, and come back when this Module goes.
    #[serde(rename = "i", default, skip_serializing_if = "Vec::is_empty")]
    pub in_tree_to_remove: Vec<KmodName>,
    /// Whether the bundle's firmware is put where the kernel finds it.
    #[serde(rename = "f", default, skip_serializing_if = "is_false")]
    pub firmware: bool,
    /// Raised by a user's wish to try again: a load that is suspected of crashing the node is tried anew when this
    /// number differs from the one that was suspected.
    #[serde(rename = "t", default, skip_serializing_if = "is_zero")]
    pub retry: u64,
}

impl Order {
    /// Whether both say the same: node, store and wishes, whatever generation or sequence of Modules.
    pub fn content_eq(&self, other: &Self) -> bool {
        self.content() == other.content()
    }

    /// The order in its canonical sequence and with generation 0: equal exactly for orders that say the same.
    #[must_use]
    pub fn content(&self) -> Self {
        Self { generation: Generation(0), ..self.canonical() }
    }

    /// The wish for this Module; `None` is no wish at all, not a removal.
    pub fn wish(&self, key: &ModuleKey) -> Option<&Wish> {
        self.modules.iter().find(|module| module.key == *key).map(|module| &module.wish)
    }

    /// Refuses what no loader could follow.
    pub fn check(&self) -> Result<(), OrderError> {
        if self.modules.len() > MAX_MODULES {
            return Err(OrderError::TooManyModules(self.modules.len()));
        }
        let mut keys: Vec<_> = self.modules.iter().map(|module| &module.key).collect();
        keys.sort();
        if let Some((twice, _)) = keys.iter().zip(keys.iter().skip(1)).find(|(first, second)| first == second)
        {
            return Err(OrderError::Duplicate((**twice).clone()));
        }
        self.modules.iter().try_for_each(OrderedModule::check)
    }

    pub(crate) fn canonical(&self) -> Self {
        let mut order = self.clone();
        order.modules.sort_by(|a, b| a.key.cmp(&b.key));
        order
    }
}

impl OrderedModule {
    fn check(&self) -> Result<(), OrderError> {
        let Wish::Loaded(load) = &self.wish else { return Ok(()) };
        let key = || self.key.clone();
        if !is_release(&load.kernel) {
            return Err(OrderError::Kernel(key()));
        }
        if !are_parameters(&load.parameters) {
            return Err(OrderError::Parameters(key()));
        }
        if load.loading_order.len() > MAX_NAMES || load.in_tree_to_remove.len() > MAX_NAMES {
            return Err(OrderError::TooManyNames(key()));
        }
        match load.loading_order.first() {
            Some(first) if first.kernel_name() != load.module.kernel_name() => {
                Err(OrderError::LoadingOrder(key()))
            }
            _ => Ok(()),
        }
    }
}

fn is_release(text: &str) -> bool {
    (1..=MAX_RELEASE).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
        && !text.starts_with('.')
}

/// Whether these can be a module's parameters: none is empty or holds control characters, and a page holds them all.
pub fn are_parameters(parameters: &[String]) -> bool {
    let bytes: usize = parameters.iter().map(|parameter| parameter.len() + 1).sum();
    bytes <= MAX_PARAMETERS
        && parameters.iter().all(|text| !text.is_empty() && !text.chars().any(char::is_control))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}
