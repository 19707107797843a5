//! Why the kernel refused a module: its error number together with what it said meanwhile.

use std::fs;

use rustix::io::Errno;
use tenon_kmod::ModuleName;
use tenon_kmod::failure::{self, Attempt, LoadFailure};
use tenon_kmod::log::{LogLine, fresh};
use tenon_order::Reason;

use crate::kernel;
use crate::kernel_log;
use crate::settings::Settings;

/// `CAP_SYS_MODULE` of `include/uapi/linux/capability.h`.
const SYS_MODULE: u32 = 16;

/// Tries to load a module, and says why it did not.
pub fn explained(
    name: &ModuleName,
    settings: &Settings,
    load: impl FnOnce() -> Result<(), Errno>,
) -> Result<(), LoadFailure> {
    let before = lines();
    let Err(errno) = load() else { return Ok(()) };
    let after = lines();
    let said = match before.iter().rev().find_map(|line| line.timestamp) {
        Some(last) => fresh(&after, last),
        // The log was empty, cannot be read, or has no times: what was there before is told by its place.
        None => after.get(before.len()..).unwrap_or_default().to_vec(),
    };
    Err(LoadFailure::classify(&Attempt {
        module: name,
        errno: failure::Errno(errno.raw_os_error()),
        lines: &said,
        firmware: &[],
        modules_disabled: kernel::modules_disabled(settings),
        capable: is_capable(settings),
    }))
}

/// The word that the report has for it.
pub fn reason(reason: &failure::Reason) -> Reason {
    use failure::Reason as Kernel;
    match reason {
        Kernel::AlreadyLoaded => Reason::AlreadyLoaded,
        Kernel::UnknownSymbol { .. } => Reason::UnknownSymbol,
        Kernel::ProprietarySymbols { .. } => Reason::ProprietarySymbols,
        Kernel::SymbolVersion { .. } => Reason::SymbolVersion,
        Kernel::VermagicMismatch { .. } => Reason::VersionMagic,
        Kernel::StructModuleSize => Reason::StructModuleSize,
        Kernel::NamespaceNotImported { .. } => Reason::NamespaceNotImported,
        Kernel::DuplicateSymbol { .. } => Reason::DuplicateSymbol,
        Kernel::InvalidParameter { .. } => Reason::InvalidParameter,
        Kernel::InvalidFormat => Reason::InvalidFormat,
        Kernel::TypeInformation => Reason::TypeInformation,
        Kernel::Blacklisted => Reason::Blacklisted,
        Kernel::SignatureRejected { .. } => Reason::SignatureRejected,
        Kernel::Lockdown { .. } => Reason::Lockdown,
        Kernel::ImaAppraisal => Reason::ImaAppraisal,
        Kernel::SecurityModule => Reason::SecurityModule,
        Kernel::NoCapability => Reason::NoCapability,
        Kernel::ModulesDisabled => Reason::ModulesDisabled,
        Kernel::FirmwareMissing { .. } => Reason::FirmwareMissing,
        Kernel::InitFailed { .. } => Reason::InitFailed,
        _ => Reason::KernelRefused,
    }
}

/// The log's lines; none where it cannot be read: the error number has to do then.
fn lines() -> Vec<LogLine> {
    kernel_log::read().map(|text| LogLine::parse_buffer(&text)).unwrap_or_default()
}

/// Whether this process holds the capability, by `/proc/self/status`.
fn is_capable(settings: &Settings) -> bool {
    let status = fs::read_to_string(settings.proc.join("self/status")).unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    bits.is_none_or(|bits| bits >> SYS_MODULE & 1 == 1)
}
