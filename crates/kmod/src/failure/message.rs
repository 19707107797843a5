//! What the kernel prints when it refuses a module (`kernel/module/`, `kernel/params.c`, `security/`), taken apart. One
//! function a message, each none for any other text.

use crate::ModuleName;

/// A line that says why a module was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    UnknownSymbol { symbol: String, error: i32 },
    SymbolVersion { symbol: String },
    VermagicMismatch { module: String, kernel: String },
    StructModuleSize,
    NamespaceNotImported { symbol: String, namespace: String },
    DuplicateSymbol { symbol: String, owner: String },
    ProprietarySymbols { owner: String },
    InvalidParameter { parameter: String, value: String },
    InvalidFormat,
    Btf,
    Blacklisted,
    SignatureRejected { what: String },
    Lockdown { what: String },
    Ima,
    SecurityModule,
    Firmware { file: String, error: i32, device: String },
}

impl Message {
    pub(super) fn is_firmware(&self) -> bool {
        matches!(self, Self::Firmware { .. })
    }

    /// What a line says about one module. A line that names another module is none, as is any other text.
    pub(super) fn parse(text: &str, module: &ModuleName) -> Option<Self> {
        about(text, module)
            .and_then(|rest| symbol(rest).or_else(|| structure(rest)).or_else(|| parameter(rest)))
            .or_else(|| nameless(text, module))
            .or_else(|| policy(text))
            .or_else(|| firmware(text))
    }
}

/// What follows `<module>: ` or `module <module>: ` (some files of the kernel put `module: ` before all that).
fn about<'a>(text: &'a str, module: &ModuleName) -> Option<&'a str> {
    let text = text.strip_prefix("module: ").unwrap_or(text);
    let text = text.strip_prefix("module ").unwrap_or(text);
    let (name, rest) = text.split_once(": ")?;
    module.matches(name).then_some(rest)
}

fn symbol(rest: &str) -> Option<Message> {
    if let Some(rest) = rest.strip_prefix("Unknown symbol ") {
        let (symbol, error) = rest.split_once(" (err ")?;
        return Some(Message::UnknownSymbol {
            symbol: symbol.into(),
            error: negative(error.strip_suffix(')')?)?,
        });
    }
    if let Some(symbol) = rest.strip_prefix("disagrees about version of symbol ") {
        return Some(Message::SymbolVersion { symbol: symbol.into() });
    }
    if let Some(rest) = rest.strip_prefix("module uses symbol (") {
        let (symbol, rest) = rest.split_once(") from namespace ")?;
        // Where such use is allowed, the kernel prints the same with another end and goes on.
        let namespace = rest.strip_suffix(", but does not import it.")?;
        return Some(Message::NamespaceNotImported { symbol: symbol.into(), namespace: namespace.into() });
    }
    if let Some(rest) = rest.strip_prefix("exports duplicate symbol ") {
        let (symbol, owner) = rest.split_once(" (owned by ")?;
        return Some(Message::DuplicateSymbol {
            symbol: symbol.into(),
            owner: owner.strip_suffix(')')?.into(),
        });
    }
    let rest = rest.strip_prefix("module using GPL-only symbols uses symbols ")?;
    let (_, owner) = rest.split_once(" from proprietary module ")?;
    Some(Message::ProprietarySymbols { owner: owner.trim_end_matches('.').into() })
}

fn structure(rest: &str) -> Option<Message> {
    if let Some(rest) = rest.strip_prefix("version magic '") {
        let (module, kernel) = rest.split_once("' should be '")?;
        let kernel = kernel.strip_suffix('\'')?;
        return Some(Message::VermagicMismatch {
            module: module.trim_end().into(),
            kernel: kernel.trim_end().into(),
        });
    }
    if rest.starts_with(".gnu.linkonce.this_module section size must match") {
        return Some(Message::StructModuleSize);
    }
    let format = rest.starts_with("No module found in object")
        || rest.contains(".gnu.linkonce.this_module")
        || rest.starts_with("section ") && rest.ends_with("invalid WRITE|EXEC flags")
        || rest.starts_with("Unknown rela relocation")
        || rest.starts_with("REL relocation unsupported");
    format.then_some(Message::InvalidFormat)
}

fn parameter(rest: &str) -> Option<Message> {
    let rest = rest.strip_prefix('`')?;
    let (value, parameter) = rest
        .split_once("' invalid for parameter `")
        .or_else(|| rest.split_once("' too large for parameter `"))?;
    Some(Message::InvalidParameter { parameter: parameter.strip_suffix('\'')?.into(), value: value.into() })
}

/// Lines with the module's name elsewhere, or about a file that has not told its name yet.
fn nameless(text: &str, module: &ModuleName) -> Option<Message> {
    let text = text.strip_prefix("module: ").unwrap_or(text);
    let named = |prefix, suffix| {
        text.strip_prefix(prefix)
            .and_then(|rest| rest.strip_suffix(suffix))
            .is_some_and(|name| module.matches(name))
    };
    if named("Module ", " is blacklisted") {
        return Some(Message::Blacklisted);
    }
    let btf = text.strip_prefix("failed to validate module [").and_then(|rest| rest.split_once("] BTF: "));
    if btf.is_some_and(|(name, _)| module.matches(name)) {
        return Some(Message::Btf);
    }
    let format = text.starts_with("Invalid ELF ")
        || text.starts_with("Invalid architecture in ELF header")
        || text.starts_with("overflow in relocation type ")
        || text.starts_with("decompression failed with status ")
        || text.starts_with("x86/modules: ") && text.contains("nvalid relocation target");
    format.then_some(Message::InvalidFormat)
}

fn policy(text: &str) -> Option<Message> {
    // Some kernels put the module's name before it; then another module's line has been sorted out by its name.
    if let Some(rest) = text.strip_prefix("Loading of ") {
        return Some(Message::SignatureRejected { what: rest.strip_suffix(" is rejected")?.into() });
    }
    if let Some(rest) = text.strip_prefix("Lockdown: ") {
        let (_, rest) = rest.split_once(": ")?;
        let (what, _) = rest.split_once(" is restricted")?;
        return what.contains("module").then(|| Message::Lockdown { what: what.into() });
    }
    let ima = text.starts_with("ima: impossible to appraise a module")
        || text.contains("op=appraise_data") && text.contains("res=0")
        || text.contains("op=\"appraise_data\"") && text.contains("res=0");
    if ima {
        return Some(Message::Ima);
    }
    let denied = text.starts_with("LoadPin: ") && text.contains("kernel-module") && text.contains("denied")
        || text.contains("avc:") && text.contains("denied") && text.contains("{ module_load }");
    denied.then_some(Message::SecurityModule)
}

/// `<driver> <device>: Direct firmware load for <file> failed with error -2`; Debian's kernels say
/// `<driver> <device>: firmware: failed to load <file> (-2)`.
fn firmware(text: &str) -> Option<Message> {
    let direct = || {
        let (device, rest) = text.split_once(": Direct firmware load for ")?;
        let (file, error) = rest.rsplit_once(" failed with error ")?;
        Some((device, file, error))
    };
    let debian = || {
        let (device, rest) = text.split_once(": firmware: failed to load ")?;
        let (file, error) = rest.rsplit_once(" (")?;
        Some((device, file, error.strip_suffix(')')?))
    };
    let (device, file, error) = direct().or_else(debian)?;
    Some(Message::Firmware { file: file.into(), error: negative(error)?, device: device.into() })
}

/// The error number that the kernel prints as a negative value.
fn negative(text: &str) -> Option<i32> {
    text.parse::<i32>().ok()?.checked_neg()
}
