//! Files that are no modules, or cannot be read as one: what `finit_module` says to such bytes.

use super::{Cause, Circumstances, Effect, Prediction, Reason, Verdict, predict};
use crate::facts::KernelFacts;
use crate::failure::Errno;
use crate::object::{ModuleObject, ObjectError};

/// Predicts what the kernel does with a file's bytes as they are. Packed files are refused: Tenon unpacks before it loads,
/// and so must who asks for the module inside.
pub fn predict_file(bytes: &[u8], facts: &KernelFacts, circumstances: &Circumstances) -> Prediction {
    match ModuleObject::parse(bytes) {
        Ok(module) => predict(&module, facts, circumstances),
        Err(error) => unreadable(error),
    }
}

/// `kernel_read_file` refuses an empty file; `elf_validity_cache_copy` whatever is no whole relocatable object with the
/// sections of a module.
fn unreadable(error: ObjectError) -> Prediction {
    let (effect, cause) = match error {
        ObjectError::Empty => (Effect::Fails(Errno::EINVAL), Cause::InvalidFormat { error }),
        ObjectError::Packed(_) => (Effect::Fails(Errno::ENOEXEC), Cause::Packed),
        ObjectError::NotElf
        | ObjectError::Truncated { .. }
        | ObjectError::NotRelocatable(_)
        | ObjectError::Machine(_)
        | ObjectError::NotAModule => (Effect::Fails(Errno::ENOEXEC), Cause::InvalidFormat { error }),
        // The kernel is less strict about some of these than this reader, or looks in another order.
        ObjectError::Class(_)
        | ObjectError::Malformed(_)
        | ObjectError::SymbolName(_)
        | ObjectError::SectionName(_)
        | ObjectError::TooMany { .. }
        | ObjectError::NoName
        | ObjectError::Name(_) => (Effect::Unknown, Cause::InvalidFormat { error }),
    };
    let verdict = match effect {
        Effect::Fails(errno) => Verdict::Fails { errno },
        Effect::Unknown | Effect::Note => Verdict::Unknown,
    };
    Prediction { verdict, reasons: vec![Reason { cause, effect }], proprietary: None }
}
