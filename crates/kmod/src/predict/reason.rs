//! Why a module does not load, may not load, or loads with something to know about.

use std::fmt;

use crate::failure::Errno;
use crate::{ModuleName, object};

/// One finding, and what it does to the load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// What was found.
    pub cause: Cause,
    /// What it does.
    pub effect: Effect,
}

/// What a finding does to a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The kernel refuses the module, with this number if nothing refuses it before.
    Fails(Errno),
    /// Whether the kernel refuses it cannot be said from what is known.
    Unknown,
    /// It does not keep the module from loading.
    Note,
}

/// The findings. Names and numbers are the module's first, then the kernel's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are what the sentences name")]
pub enum Cause {
    /// The file is not read as a module.
    InvalidFormat { error: object::ObjectError },
    /// The file is odd in a way that the kernel minds.
    Flaw { flaw: object::Flaw },
    /// The file is packed, and the kernel is not told or not able to unpack it.
    Packed,
    /// Loading is switched off until the next boot.
    ModulesDisabled,
    /// It is on the kernel command line's `module_blacklist`.
    Blacklisted,
    /// The kernel wants a signature that it trusts.
    SignatureRejected { found: &'static str },
    /// The signature's frame is broken, which no kernel that looks at signatures overlooks.
    SignatureMalformed { error: object::signature::SignatureError },
    /// Signed, but whether by a key that the kernel trusts is not known.
    SignatureUnverified,
    /// It names a key that the kernel trusts, and something was changed since it was made.
    SignatureBad,
    /// Signed in a way that the kernel was built without, or has in a module.
    SignatureAlgorithm { algorithm: &'static str },
    /// It was compiled for another machine.
    Architecture { module: object::Architecture, kernel: object::Architecture },
    /// Its `struct module` has another size: another series or configuration.
    StructModuleSize { module: u64, kernel: u64 },
    /// Nobody said how large the kernel's `struct module` is, and no checksum vouches for it.
    StructModuleSizeUnknown,
    /// `struct module` differs: another series or configuration.
    ModuleLayout { module: u32, kernel: u32 },
    /// It was compiled for another kernel.
    VermagicMismatch { module: String, kernel: String },
    /// Nobody said what the kernel's version magic is.
    VermagicUnknown,
    /// The module has no version magic.
    NoVermagic,
    /// The module has no checksums of the symbols it uses.
    NoVersions,
    /// The module has no checksums of the symbols it exports.
    NoExportVersions,
    /// It is there already, perhaps another build of it.
    AlreadyLoaded,
    /// Whether it is there already depends on a load that cannot be predicted.
    MaybeLoaded,
    /// It names a namespace of the form `module:…`, which no module may import.
    ModuleNamespaceImported { namespace: String },
    /// Nobody provides these symbols.
    UnknownSymbol { symbols: Vec<String> },
    /// These symbols are for modules with a licence compatible with the GPL.
    GplOnlySymbol { symbols: Vec<String>, license: Option<String> },
    /// It uses GPL-only symbols and symbols of a proprietary module, which the kernel does not let meet.
    ProprietarySymbols { symbols: Vec<String>, owner: ModuleName },
    /// The compiler has left these variables without a place.
    CommonSymbol { symbols: Vec<String> },
    /// It has checksums, but none of these symbols, and the kernel does not let that pass.
    NoSymbolVersion { symbols: Vec<String> },
    /// It was compiled against other prototypes of these symbols.
    SymbolVersion { symbols: Vec<String> },
    /// It uses symbols from a namespace that it does not import.
    NamespaceNotImported { symbols: Vec<String>, namespace: String },
    /// The facts do not say whether, or how, these symbols are provided.
    SymbolsNotKnown { symbols: Vec<String> },
    /// A module of which nothing is known may provide these symbols.
    ProviderNotKnown { symbols: Vec<String>, modules: Vec<ModuleName> },
    /// It offers a symbol that is offered already.
    DuplicateSymbol { symbol: String, owner: Option<ModuleName> },
    /// It has type information of another kernel, and whether this kernel takes it nobody has compared.
    TypesNotCompared,
    /// A parameter's value is not of the parameter's type or range.
    InvalidParameter { parameter: String, value: String, kind: String },
    /// The value of a parameter cannot be checked.
    ParameterNotChecked { parameter: String },
    /// The module has no parameter of that name; the kernel ignores it.
    UnknownParameter { parameter: String },
    /// These modules of the kernel's own are needed, and loaded before it.
    NeedsModules { modules: Vec<ModuleName> },
    /// It uses a proprietary module and counts as proprietary itself from then on.
    InheritsProprietary { owner: ModuleName },
    /// A firmware file that it may ask for is not there.
    FirmwareMissing { name: String },
}

impl Reason {
    /// A stable word for conditions, events and metrics.
    pub fn name(&self) -> &'static str {
        match self.cause {
            Cause::Flaw { flaw: object::Flaw::TypeInformation } => "TypeInformation",
            Cause::InvalidFormat { .. } | Cause::Flaw { .. } => "InvalidFormat",
            Cause::Packed => "Packed",
            Cause::ModulesDisabled => "ModulesDisabled",
            Cause::Blacklisted => "Blacklisted",
            Cause::SignatureRejected { .. } => "SignatureRejected",
            Cause::SignatureMalformed { .. } => "SignatureMalformed",
            Cause::SignatureUnverified => "SignatureUnverified",
            Cause::SignatureBad => "SignatureBad",
            Cause::SignatureAlgorithm { .. } => "SignatureAlgorithm",
            Cause::Architecture { .. } => "Architecture",
            Cause::StructModuleSize { .. } => "StructModuleSize",
            Cause::StructModuleSizeUnknown => "StructModuleSizeUnknown",
            Cause::ModuleLayout { .. } => "ModuleLayout",
            Cause::VermagicMismatch { .. } => "VermagicMismatch",
            Cause::VermagicUnknown => "VermagicUnknown",
            Cause::NoVermagic => "NoVermagic",
            Cause::NoVersions => "NoVersions",
            Cause::NoExportVersions => "NoExportVersions",
            Cause::AlreadyLoaded => "AlreadyLoaded",
            Cause::MaybeLoaded => "MaybeLoaded",
            Cause::ModuleNamespaceImported { .. } => "ModuleNamespaceImported",
            Cause::UnknownSymbol { .. } => "UnknownSymbol",
            Cause::GplOnlySymbol { .. } => "GplOnlySymbol",
            Cause::ProprietarySymbols { .. } => "ProprietarySymbols",
            Cause::CommonSymbol { .. } => "CommonSymbol",
            Cause::NoSymbolVersion { .. } => "NoSymbolVersion",
            Cause::SymbolVersion { .. } => "SymbolVersion",
            Cause::NamespaceNotImported { .. } => "NamespaceNotImported",
            Cause::SymbolsNotKnown { .. } => "SymbolsNotKnown",
            Cause::ProviderNotKnown { .. } => "ProviderNotKnown",
            Cause::DuplicateSymbol { .. } => "DuplicateSymbol",
            Cause::TypesNotCompared => "TypesNotCompared",
            Cause::InvalidParameter { .. } => "InvalidParameter",
            Cause::ParameterNotChecked { .. } => "ParameterNotChecked",
            Cause::UnknownParameter { .. } => "UnknownParameter",
            Cause::NeedsModules { .. } => "NeedsModules",
            Cause::InheritsProprietary { .. } => "InheritsProprietary",
            Cause::FirmwareMissing { .. } => "FirmwareMissing",
        }
    }

    /// What somebody can do about it; none where there is nothing to do.
    pub fn way_out(&self) -> Option<&'static str> {
        Some(match self.cause {
            Cause::Flaw { flaw: object::Flaw::TypeInformation } | Cause::TypesNotCompared => {
                "build it against this very kernel, or remove the section .BTF"
            }
            Cause::InvalidFormat { .. } | Cause::Flaw { .. } => {
                "give the .ko file that the kernel's build makes, whole"
            }
            Cause::Packed => "unpack it first",
            Cause::ModulesDisabled => "reboot the node, and leave kernel.modules_disabled at 0",
            Cause::Blacklisted => "take it off module_blacklist on the kernel's command line",
            Cause::SignatureRejected { .. } => "sign the module with a key that the kernel trusts",
            Cause::SignatureMalformed { .. } => "sign the module again; strip it before, never after",
            Cause::SignatureUnverified => "compare the signer with the keys that the kernel trusts",
            Cause::SignatureBad => {
                "sign the module again, as the last step: what strips or changes it comes before"
            }
            Cause::SignatureAlgorithm { .. } => {
                "sign it with an RSA key and SHA-256, which every kernel verifies"
            }
            Cause::Architecture { .. } => "build it for the kernel's architecture",
            Cause::StructModuleSize { .. }
            | Cause::ModuleLayout { .. }
            | Cause::VermagicMismatch { .. }
            | Cause::NoSymbolVersion { .. }
            | Cause::SymbolVersion { .. } => "build it against the headers of this very kernel",
            Cause::CommonSymbol { .. } => "compile it with -fno-common",
            Cause::StructModuleSizeUnknown | Cause::VermagicUnknown => {
                "give facts from the kernel's image, or one of its own .ko files"
            }
            Cause::NoVermagic | Cause::NoVersions | Cause::NoExportVersions => {
                "keep the sections .modinfo and __versions: strip with --strip-debug only"
            }
            Cause::AlreadyLoaded | Cause::MaybeLoaded => "unload the other one first",
            Cause::ModuleNamespaceImported { .. } => "remove that MODULE_IMPORT_NS",
            Cause::UnknownSymbol { .. } => {
                "load the module that exports it before, or port the driver to this kernel's interface"
            }
            Cause::GplOnlySymbol { .. } => {
                "declare a licence compatible with the GPL, or do without the symbol"
            }
            Cause::ProprietarySymbols { .. } => {
                "keep the parts that need GPL-only symbols in a module of their own"
            }
            Cause::NamespaceNotImported { .. } => "add MODULE_IMPORT_NS for it to the driver",
            Cause::SymbolsNotKnown { .. } => "give facts from the kernel's image or its headers",
            Cause::ProviderNotKnown { .. } => "check it together with the modules it depends on",
            Cause::DuplicateSymbol { .. } => "load only one of the two modules",
            Cause::InvalidParameter { .. } => "correct the value",
            Cause::UnknownParameter { .. } => "correct the name: modinfo -p lists them",
            Cause::ParameterNotChecked { .. }
            | Cause::NeedsModules { .. }
            | Cause::InheritsProprietary { .. } => return None,
            Cause::FirmwareMissing { .. } => "put the file into the image, and set firmwarePath",
        })
    }
}

/// At most this many symbols are named in a sentence.
const NAMED: usize = 5;

/// A list of names that ends in a count where it is long.
struct Names<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Names<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().take(NAMED).enumerate() {
            write!(f, "{}{name}", if index == 0 { "" } else { ", " })?;
        }
        match self.0.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl fmt::Display for Reason {
    /// In the kernel's terms, as far as it has a line for it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::InvalidFormat { error } => write!(f, "not a module that the kernel reads: {error}"),
            Cause::Flaw { flaw } if self.effect == Effect::Unknown => {
                write!(f, "{flaw}; whether the kernel minds is not known")
            }
            Cause::Flaw { flaw } => write!(f, "not a module that the kernel reads: {flaw}"),
            Cause::Packed => f.write_str("the file is packed, and the kernel does not unpack it"),
            Cause::ModulesDisabled => f.write_str("loading is switched off (kernel.modules_disabled)"),
            Cause::Blacklisted => f.write_str("the module is on the kernel command line's module_blacklist"),
            Cause::SignatureRejected { found } => write!(f, "loading of {found} is rejected"),
            Cause::SignatureMalformed { error } => write!(f, "the appended signature is broken: {error}"),
            Cause::SignatureUnverified if self.effect == Effect::Note => {
                f.write_str("it is signed; whether the signature is good is not known")
            }
            Cause::SignatureUnverified => {
                f.write_str("signatures are enforced; whether the kernel trusts this one's key is not known")
            }
            Cause::SignatureBad => f.write_str(
                "the signature names a key that the kernel trusts, and is not that key's over this file",
            ),
            Cause::SignatureAlgorithm { algorithm } if self.effect == Effect::Unknown => {
                write!(f, "whether the kernel verifies signatures with {algorithm} by itself is not known")
            }
            Cause::SignatureAlgorithm { algorithm } => {
                write!(f, "the kernel was built without {algorithm}: it cannot verify the signature")
            }
            Cause::Architecture { module, kernel } => {
                write!(f, "compiled for {module}, the kernel is for {kernel}")
            }
            Cause::StructModuleSize { module, kernel } => write!(
                f,
                ".gnu.linkonce.this_module section size must match: {module} bytes, the kernel's struct module \
                 has {kernel}"
            ),
            Cause::StructModuleSizeUnknown => {
                f.write_str("the size of the kernel's struct module is not known")
            }
            Cause::ModuleLayout { module, kernel } => write!(
                f,
                "disagrees about version of symbol module_layout: {module:#010x}, the kernel's is {kernel:#010x}"
            ),
            Cause::VermagicMismatch { module, kernel } => {
                write!(f, "version magic '{module}' should be '{kernel}'")
            }
            Cause::VermagicUnknown => f.write_str("the kernel's version magic is not known"),
            Cause::NoVermagic => self.unversioned(f, "the module has no version magic"),
            Cause::NoVersions => self.unversioned(f, "the module has no checksums of the symbols it uses"),
            Cause::NoExportVersions => {
                self.unversioned(f, "the module has no checksums of the symbols it exports")
            }
            Cause::AlreadyLoaded => f.write_str("a module of this name is loaded already"),
            Cause::MaybeLoaded => f.write_str("a module of this name may be loaded already"),
            Cause::ModuleNamespaceImported { namespace } => {
                write!(f, "module tries to import module namespace: {namespace}")
            }
            _ => self.about_symbols(f),
        }
    }
}

impl Reason {
    fn unversioned(&self, f: &mut fmt::Formatter<'_>, what: &str) -> fmt::Result {
        f.write_str(what)?;
        f.write_str(match self.effect {
            Effect::Fails(_) => ", and the kernel does not load it by force",
            Effect::Unknown => "; whether the kernel loads it by force is not known",
            Effect::Note => "; the kernel loads it by force and is tainted",
        })
    }

    fn about_symbols(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::UnknownSymbol { symbols } => write!(f, "unknown symbol {}", Names(symbols)),
            Cause::GplOnlySymbol { symbols, license } => write!(
                f,
                "unknown symbol {}: GPL-only, and the module's licence is {}",
                Names(symbols),
                license.as_deref().unwrap_or("not declared")
            ),
            Cause::ProprietarySymbols { symbols, owner } => write!(
                f,
                "module using GPL-only symbols uses symbols {} from proprietary module {owner}",
                Names(symbols)
            ),
            Cause::CommonSymbol { symbols } => {
                write!(f, "please compile with -fno-common: symbol {}", Names(symbols))
            }
            Cause::NoSymbolVersion { symbols } => {
                write!(f, "no symbol version for {}", Names(symbols))
            }
            Cause::SymbolVersion { symbols } => {
                write!(f, "disagrees about version of symbol {}", Names(symbols))
            }
            Cause::NamespaceNotImported { symbols, namespace } => write!(
                f,
                "module uses symbol {} from namespace {namespace}, but does not import it",
                Names(symbols)
            ),
            Cause::SymbolsNotKnown { symbols } => {
                write!(f, "the facts about this kernel do not cover symbol {}", Names(symbols))
            }
            Cause::ProviderNotKnown { symbols, modules } => write!(
                f,
                "symbol {} may come from {}, of which nothing is known",
                Names(symbols),
                Names(modules)
            ),
            Cause::DuplicateSymbol { symbol, owner } => match owner {
                Some(owner) => write!(f, "exports duplicate symbol {symbol} (owned by {owner})"),
                None => write!(f, "exports duplicate symbol {symbol} (owned by kernel)"),
            },
            Cause::TypesNotCompared => f.write_str(
                "its type information is another kernel's; whether this kernel takes it is not known",
            ),
            Cause::InvalidParameter { parameter, value, kind } => {
                write!(f, "`{value}' invalid for parameter `{parameter}' ({kind})")
            }
            Cause::ParameterNotChecked { parameter } => {
                write!(f, "the value of parameter `{parameter}' cannot be checked")
            }
            Cause::UnknownParameter { parameter } => write!(f, "unknown parameter '{parameter}' ignored"),
            Cause::NeedsModules { modules } => write!(f, "needs {} loaded before", Names(modules)),
            Cause::InheritsProprietary { owner } => {
                write!(f, "module uses symbols from proprietary module {owner}, inheriting taint")
            }
            Cause::FirmwareMissing { name } => write!(f, "firmware file {name} is not there"),
            _ => f.write_str(self.name()),
        }
    }
}
