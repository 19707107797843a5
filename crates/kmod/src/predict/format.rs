//! Files that are no modules, or cannot be read as one: what `finit_module` says to such bytes.

use std::borrow::Cow;

use object::elf::EV_CURRENT;

use super::{Cause, Circumstances, Effect, Prediction, Reason, Verdict, predict, signature};
use crate::facts::KernelFacts;
use crate::failure::Errno;
use crate::object::{Architecture, ModuleObject, ObjectError, Signature};

/// Predicts what the kernel does with a file's bytes as they are. Packed files are refused: Tenon unpacks before it loads,
/// and so must who asks for the module inside.
pub fn predict_file(bytes: &[u8], facts: &KernelFacts, circumstances: &Circumstances) -> Prediction {
    let bytes = as_native(bytes, facts.architecture);
    match ModuleObject::parse(&bytes) {
        Ok(module) => predict(&module, facts, circumstances),
        Err(error) => unreadable(error, &bytes, facts, circumstances),
    }
}

/// A kernel reads the header by its own class and byte order, and does not look at what the file says of these and of the
/// format's version.
fn as_native(bytes: &[u8], architecture: Architecture) -> Cow<'_, [u8]> {
    let Some((class, order)) = architecture.identity() else { return Cow::Borrowed(bytes) };
    match bytes {
        [0x7f, b'E', b'L', b'F', first, second, third, ..] => {
            let native = [class.0, order.0, EV_CURRENT.0];
            if [*first, *second, *third] == native {
                return Cow::Borrowed(bytes);
            }
            let (magic, rest) = (bytes.get(..4).unwrap_or_default(), bytes.get(7..).unwrap_or_default());
            Cow::Owned([magic, &native, rest].concat())
        }
        _ => Cow::Borrowed(bytes),
    }
}

/// `may_init_module`; `kernel_read_file`, which refuses an empty file; `module_sig_check`; and `elf_validity_cache_copy`,
/// which refuses whatever is no whole relocatable object with the sections of a module.
fn unreadable(
    error: ObjectError,
    bytes: &[u8],
    facts: &KernelFacts,
    circumstances: &Circumstances,
) -> Prediction {
    let mut reasons = Vec::new();
    if circumstances.modules_disabled {
        reasons.push(Reason { cause: Cause::ModulesDisabled, effect: Effect::Fails(Errno::EPERM) });
    }
    if error != ObjectError::Empty {
        reasons.extend(signature::finding(&Signature::parse(bytes), facts, circumstances));
    }
    reasons.push(format(error, facts));
    let fails = reasons.iter().find_map(|reason| match reason.effect {
        Effect::Fails(errno) => Some(Verdict::Fails { errno }),
        Effect::Unknown | Effect::Note => None,
    });
    Prediction { verdict: fails.unwrap_or(Verdict::Unknown), reasons, proprietary: None }
}

fn format(error: ObjectError, facts: &KernelFacts) -> Reason {
    // Older kernels do not look at names, and go where these are not.
    let since = |major, minor| match facts.is_since(major, minor) {
        Some(true) => Effect::Fails(Errno::ENOEXEC),
        Some(false) | None => Effect::Unknown,
    };
    let effect = match error {
        ObjectError::Empty => Effect::Fails(Errno::EINVAL),
        ObjectError::Packed(_)
        | ObjectError::NotElf
        | ObjectError::Truncated { .. }
        | ObjectError::NotRelocatable(_)
        | ObjectError::Machine(_)
        | ObjectError::Header
        | ObjectError::NoSymbols
        | ObjectError::NotAModule => Effect::Fails(Errno::ENOEXEC),
        ObjectError::SectionNames => since(5, 12),
        ObjectError::SectionName(_) | ObjectError::SymbolName(_) => since(6, 13),
        // The kernel is less strict about some of these than this reader, or looks in another order.
        ObjectError::Class(_)
        | ObjectError::Malformed(_)
        | ObjectError::SymbolNameLength(_)
        | ObjectError::TooMany { .. }
        | ObjectError::NoName
        | ObjectError::Information { .. }
        | ObjectError::Name(_) => Effect::Unknown,
    };
    let cause = match error {
        ObjectError::Packed(_) => Cause::Packed,
        error => Cause::InvalidFormat { error },
    };
    Reason { cause, effect }
}
