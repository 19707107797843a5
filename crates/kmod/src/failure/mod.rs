//! Why the kernel refused a module. The system call gives one number for many causes (`ENOENT` is a missing symbol, a
//! missing firmware file, or whatever the driver's init meant by it); the log tells them apart.

mod errno;
mod message;
#[cfg(test)]
mod tests;

use std::fmt;

pub use errno::Errno;

use self::message::Message;
use crate::ModuleName;
use crate::log::LogLine;

/// How many of the kernel's lines are kept.
const KEPT_LINES: usize = 4;

/// A failed attempt to load a module, and what is known about it.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The module.
    pub module: &'a ModuleName,
    /// What the system call returned.
    pub errno: Errno,
    /// The lines that the kernel printed meanwhile, others' among them.
    pub lines: &'a [LogLine],
    /// The firmware files that the module names: a lookup of one of these is its own, whatever its device is called.
    pub firmware: &'a [String],
    /// Whether `/proc/sys/kernel/modules_disabled` is 1.
    pub modules_disabled: bool,
    /// Whether the caller holds `CAP_SYS_MODULE`.
    pub capable: bool,
}

/// Why a module did not load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadFailure {
    /// The module.
    pub module: ModuleName,
    /// What the system call returned.
    pub errno: Errno,
    /// What that means.
    pub reason: Reason,
    /// The kernel's own words, as far as they are about this.
    pub kernel_says: Vec<String>,
}

/// The causes of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It is there already, perhaps another build of it.
    AlreadyLoaded,
    /// Nobody provides these symbols, or only to modules with another licence.
    UnknownSymbol {
        /// In the kernel's order.
        names: Vec<String>,
    },
    /// It needs GPL-only symbols and symbols of a proprietary module, which the kernel does not let meet.
    ProprietarySymbols {
        /// The proprietary module.
        owner: String,
    },
    /// It was compiled against other prototypes of a symbol. `module_layout` stands for the kernel's configuration.
    SymbolVersion {
        /// The first one the kernel found.
        symbol: String,
    },
    /// It was compiled for another kernel.
    VermagicMismatch {
        /// The module's.
        module: String,
        /// The running kernel's.
        kernel: String,
    },
    /// Its `struct module` has another size: another kernel series or configuration.
    StructModuleSize,
    /// It uses a symbol from a namespace that it does not import.
    NamespaceNotImported {
        /// The symbol.
        symbol: String,
        /// Its namespace.
        namespace: String,
    },
    /// It offers a symbol that another module offers already.
    DuplicateSymbol {
        /// The symbol.
        symbol: String,
        /// The module that has it.
        owner: String,
    },
    /// A parameter's value is not of the parameter's type or range.
    InvalidParameter {
        /// The parameter.
        parameter: String,
        /// The value it was given.
        value: String,
    },
    /// The file is no module for this machine, or is damaged.
    InvalidFormat,
    /// Its type information does not fit the kernel's.
    TypeInformation,
    /// It is on the kernel command line's `module_blacklist`.
    Blacklisted,
    /// The kernel wants a signature that it trusts.
    SignatureRejected {
        /// What the kernel found instead: `unsigned module`, `module with unavailable key`.
        found: Option<String>,
    },
    /// The kernel is locked down.
    Lockdown {
        /// What is restricted: `unsigned module loading`.
        restricted: String,
    },
    /// IMA appraisal wants a signature or hash on the file.
    ImaAppraisal,
    /// Another security module (`SELinux`, `LoadPin`) forbids it.
    SecurityModule,
    /// The caller has no `CAP_SYS_MODULE`, or a filter of system calls forbids it.
    NoCapability,
    /// Loading is switched off until the next boot.
    ModulesDisabled,
    /// A firmware file that its init asked for is not there.
    FirmwareMissing {
        /// The last one that was looked for, relative to the firmware directory.
        name: String,
    },
    /// The module was linked, and its own init gave up; or the kernel gave up without a word.
    InitFailed {
        /// What init returned.
        errno: Errno,
    },
}

impl LoadFailure {
    /// Finds the cause.
    pub fn classify(attempt: &Attempt<'_>) -> Self {
        let parse = |line: &'_ LogLine| Message::parse(&line.text, attempt.module);
        let mut said: Vec<(&str, Message)> =
            attempt.lines.iter().filter_map(|line| Some((line.text.as_str(), parse(line)?))).collect();
        let nearest = said.iter().filter_map(|(_, message)| attempt.nearness(message)).min();
        said.retain(|(_, message)| {
            !message.is_firmware() || attempt.nearness(message) == nearest && nearest.is_some()
        });
        let messages: Vec<&Message> = said.iter().map(|(_, message)| message).collect();
        let reason = attempt.reason(&messages);
        let mut kernel_says: Vec<String> = Vec::new();
        for (text, _) in said.iter().filter(|(_, message)| reason.is_told_by(message)) {
            // Each search for firmware is told once for every directory.
            if kernel_says.len() < KEPT_LINES && !kernel_says.iter().any(|kept| kept == text) {
                kernel_says.push((*text).to_owned());
            }
        }
        if kernel_says.is_empty() && matches!(reason, Reason::InitFailed { .. }) {
            kernel_says = attempt.own_words();
        }
        Self { module: attempt.module.clone(), errno: attempt.errno, reason, kernel_says }
    }
}

impl Attempt<'_> {
    /// Firmware lines name a device, not a module. How near a line is to this module: the module is known to ask for the
    /// file, or the device or its driver is called like it, or the error is the one it returned. None for a stranger's.
    fn nearness(&self, message: &Message) -> Option<u8> {
        let Message::Firmware { file, error, device } = message else { return None };
        if self.firmware.iter().any(|own| own == file) {
            Some(0)
        } else if device.split([' ', ':']).any(|word| self.module.matches(word)) {
            Some(1)
        } else {
            (*error == self.errno.0).then_some(2)
        }
    }

    /// The number decides which messages can be its cause: several symbols may fail, and the last one's number is returned.
    fn reason(&self, messages: &[&Message]) -> Reason {
        match self.errno {
            Errno::EEXIST => Some(Reason::AlreadyLoaded),
            Errno::ENOENT => self.missing(messages),
            Errno::ENOEXEC => Some(first(messages, mismatch).unwrap_or(Reason::InvalidFormat)),
            Errno::EPERM => self.forbidden(messages),
            Errno::EACCES => Some(first(messages, denied).unwrap_or(Reason::SecurityModule)),
            Errno::EKEYREJECTED
            | Errno::ENOKEY
            | Errno::EKEYEXPIRED
            | Errno::EKEYREVOKED
            | Errno::EBADMSG
            | Errno::ENOPKG => Some(signature(messages)),
            _ => None,
        }
        .or_else(|| first(messages, mismatch))
        .or_else(|| first(messages, unusable))
        .or_else(|| unknown_symbols(messages, None))
        .or_else(|| firmware(messages))
        .unwrap_or(Reason::InitFailed { errno: self.errno })
    }

    fn missing(&self, messages: &[&Message]) -> Option<Reason> {
        let proprietary = |message: &Message| match message {
            Message::ProprietarySymbols { owner } => {
                Some(Reason::ProprietarySymbols { owner: owner.clone() })
            }
            _ => None,
        };
        first(messages, proprietary).or_else(|| unknown_symbols(messages, Some(self.errno)))
    }

    fn forbidden(&self, messages: &[&Message]) -> Option<Reason> {
        let told = first(messages, |message| match message {
            Message::Blacklisted => Some(Reason::Blacklisted),
            Message::Lockdown { what } => Some(Reason::Lockdown { restricted: what.clone() }),
            other => denied(other),
        });
        let unsaid = || match (self.modules_disabled, self.capable) {
            (true, _) => Some(Reason::ModulesDisabled),
            (false, false) => Some(Reason::NoCapability),
            (false, true) => None,
        };
        told.or_else(unsaid)
    }

    /// The last lines that begin with the module's name: what a driver says before it gives up.
    fn own_words(&self) -> Vec<String> {
        let starts = |line: &&LogLine| {
            let word = line.text.split([':', ' ']).next().unwrap_or_default();
            self.module.matches(word)
                && !line.text.contains("tainting kernel")
                && !line.text.contains(": tainted")
        };
        let own: Vec<String> = self.lines.iter().filter(starts).map(|line| line.text.clone()).collect();
        own.get(own.len().saturating_sub(KEPT_LINES)..).unwrap_or_default().to_vec()
    }
}

fn first(messages: &[&Message], reason: impl Fn(&Message) -> Option<Reason>) -> Option<Reason> {
    messages.iter().find_map(|message| reason(message))
}

/// The module does not fit this kernel.
fn mismatch(message: &Message) -> Option<Reason> {
    Some(match message {
        Message::VermagicMismatch { module, kernel } => {
            Reason::VermagicMismatch { module: module.clone(), kernel: kernel.clone() }
        }
        Message::StructModuleSize => Reason::StructModuleSize,
        Message::SymbolVersion { symbol } => Reason::SymbolVersion { symbol: symbol.clone() },
        Message::NamespaceNotImported { symbol, namespace } => {
            Reason::NamespaceNotImported { symbol: symbol.clone(), namespace: namespace.clone() }
        }
        Message::DuplicateSymbol { symbol, owner } => {
            Reason::DuplicateSymbol { symbol: symbol.clone(), owner: owner.clone() }
        }
        Message::ProprietarySymbols { owner } => Reason::ProprietarySymbols { owner: owner.clone() },
        _ => return None,
    })
}

/// What it was given, or the file itself, is wrong.
fn unusable(message: &Message) -> Option<Reason> {
    Some(match message {
        Message::InvalidParameter { parameter, value } => {
            Reason::InvalidParameter { parameter: parameter.clone(), value: value.clone() }
        }
        Message::InvalidFormat => Reason::InvalidFormat,
        Message::Btf => Reason::TypeInformation,
        _ => return None,
    })
}

fn denied(message: &Message) -> Option<Reason> {
    match message {
        Message::Ima => Some(Reason::ImaAppraisal),
        Message::SecurityModule => Some(Reason::SecurityModule),
        _ => None,
    }
}

fn signature(messages: &[&Message]) -> Reason {
    let found = messages.iter().find_map(|message| match message {
        Message::SignatureRejected { what } => Some(what.clone()),
        _ => None,
    });
    Reason::SignatureRejected { found }
}

fn unknown_symbols(messages: &[&Message], errno: Option<Errno>) -> Option<Reason> {
    let mut names = Vec::new();
    for message in messages {
        if let Message::UnknownSymbol { symbol, error } = message
            && errno.is_none_or(|errno| errno.0 == *error)
            && !names.contains(symbol)
        {
            names.push(symbol.clone());
        }
    }
    (!names.is_empty()).then_some(Reason::UnknownSymbol { names })
}

fn firmware(messages: &[&Message]) -> Option<Reason> {
    messages.iter().rev().find_map(|message| match message {
        Message::Firmware { file, .. } => Some(Reason::FirmwareMissing { name: file.clone() }),
        _ => None,
    })
}

impl Reason {
    /// A stable word for conditions, events and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::AlreadyLoaded => "AlreadyLoaded",
            Self::UnknownSymbol { .. } => "UnknownSymbol",
            Self::ProprietarySymbols { .. } => "ProprietarySymbols",
            Self::SymbolVersion { .. } => "SymbolVersion",
            Self::VermagicMismatch { .. } => "VermagicMismatch",
            Self::StructModuleSize => "StructModuleSize",
            Self::NamespaceNotImported { .. } => "NamespaceNotImported",
            Self::DuplicateSymbol { .. } => "DuplicateSymbol",
            Self::InvalidParameter { .. } => "InvalidParameter",
            Self::InvalidFormat => "InvalidFormat",
            Self::TypeInformation => "TypeInformation",
            Self::Blacklisted => "Blacklisted",
            Self::SignatureRejected { .. } => "SignatureRejected",
            Self::Lockdown { .. } => "Lockdown",
            Self::ImaAppraisal => "ImaAppraisal",
            Self::SecurityModule => "SecurityModule",
            Self::NoCapability => "NoCapability",
            Self::ModulesDisabled => "ModulesDisabled",
            Self::FirmwareMissing { .. } => "FirmwareMissing",
            Self::InitFailed { .. } => "InitFailed",
        }
    }

    fn is_told_by(&self, message: &Message) -> bool {
        match (self, message) {
            (Self::UnknownSymbol { names }, Message::UnknownSymbol { symbol, .. }) => names.contains(symbol),
            (Self::SignatureRejected { .. }, Message::SignatureRejected { .. })
            | (Self::Lockdown { .. }, Message::Lockdown { .. })
            | (Self::Blacklisted, Message::Blacklisted)
            | (Self::FirmwareMissing { .. }, Message::Firmware { .. }) => true,
            _ => {
                let causes = [mismatch(message), unusable(message), denied(message)];
                causes.into_iter().flatten().any(|cause| cause.as_str() == self.as_str())
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyLoaded => f.write_str("a module of this name is loaded already"),
            Self::UnknownSymbol { names } => write!(
                f,
                "it needs {}, which neither the kernel nor a loaded module offers (another kernel, a missing dependency, or a \
                 symbol for GPL modules only)",
                names.join(", ")
            ),
            Self::ProprietarySymbols { owner } => {
                write!(f, "it uses GPL-only symbols together with symbols of the proprietary module {owner}")
            }
            Self::SymbolVersion { symbol } if symbol == "module_layout" => {
                f.write_str("it was built for a kernel with another configuration (module_layout differs)")
            }
            Self::SymbolVersion { symbol } => {
                write!(f, "it was built against another version of the symbol {symbol}")
            }
            Self::VermagicMismatch { module, kernel } => {
                write!(
                    f,
                    "it was built for another kernel: it is made for {module:?}, the kernel is {kernel:?}"
                )
            }
            Self::StructModuleSize => {
                f.write_str("it was built for another kernel series or configuration (size of struct module)")
            }
            Self::NamespaceNotImported { symbol, namespace } => {
                write!(f, "it uses {symbol} without importing its namespace {namespace}")
            }
            Self::DuplicateSymbol { symbol, owner } => {
                write!(f, "it offers the symbol {symbol}, which {owner} offers already")
            }
            Self::InvalidParameter { parameter, value } => {
                write!(f, "the value {value:?} is invalid for its parameter {parameter}")
            }
            Self::InvalidFormat => {
                f.write_str("the file is damaged or no module for this kernel and machine")
            }
            Self::TypeInformation => f.write_str("its BTF type information does not fit the kernel"),
            Self::Blacklisted => f.write_str("the kernel command line forbids it (module_blacklist)"),
            Self::SignatureRejected { found: Some(found) } => {
                write!(f, "the kernel wants a signature that it trusts; it found: {found}")
            }
            Self::SignatureRejected { found: None } => {
                f.write_str("its signature is broken, or not made by a key that the kernel trusts")
            }
            Self::Lockdown { restricted } => {
                write!(f, "the kernel is locked down: {restricted} is restricted")
            }
            Self::ImaAppraisal => f.write_str("IMA appraisal wants a signature on the file"),
            Self::SecurityModule => {
                f.write_str("a security policy of the node (SELinux, LoadPin, IMA) forbids it")
            }
            Self::NoCapability => f.write_str(
                "not permitted: the loader lacks CAP_SYS_MODULE, or a filter of system calls is in the way",
            ),
            Self::ModulesDisabled => {
                f.write_str("loading modules is switched off until the next boot (kernel.modules_disabled)")
            }
            Self::FirmwareMissing { name } => write!(f, "the firmware file {name} was not found"),
            Self::InitFailed { errno } => write!(f, "its init failed ({errno})"),
        }
    }
}

impl fmt::Display for LoadFailure {
    /// One line: the module, the cause, and the kernel's words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} did not load: {}", self.module, self.reason)?;
        if !matches!(self.reason, Reason::InitFailed { .. }) {
            match self.errno.describe() {
                Some((name, _)) => write!(f, " [{name}]")?,
                None => write!(f, " [{}]", self.errno)?,
            }
        }
        for (index, words) in self.kernel_says.iter().enumerate() {
            write!(f, "{} \"{words}\"", if index == 0 { "; the kernel says:" } else { "," })?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadFailure {}
