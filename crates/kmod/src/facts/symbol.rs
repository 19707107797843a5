//! One symbol that modules may use.

use crate::ModuleName;
use crate::object::Export;

/// What is known of an exported symbol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelSymbol {
    /// The checksum of its prototype.
    pub crc: Option<u32>,
    /// Whether only modules with a licence compatible with the GPL may use it.
    pub gpl_only: Option<bool>,
    /// The namespace that a user must import.
    pub namespace: Namespace,
    /// The module that provides it; none means the kernel itself.
    pub provider: Option<ModuleName>,
}

/// Where a symbol's name counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Namespace {
    /// Nobody said.
    #[default]
    Unknown,
    /// Everywhere.
    Global,
    /// For those who import this namespace; or, in the form `module:a,b*`, for modules with these names.
    Named(String),
}

impl Namespace {
    /// From a table in which an empty text means none.
    pub fn named(text: &str) -> Self {
        if text.is_empty() { Self::Global } else { Self::Named(text.to_owned()) }
    }
}

impl KernelSymbol {
    /// A symbol that a module exports.
    pub fn of_module(export: &Export, provider: &ModuleName) -> Self {
        Self {
            crc: export.crc,
            gpl_only: Some(export.gpl_only),
            namespace: Namespace::named(export.namespace.as_deref().unwrap_or_default()),
            provider: Some(provider.clone()),
        }
    }
}
