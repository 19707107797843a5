//! What is odd about the file, at the places where `load_module` comes upon it.

use super::{Cause, Effect, Judgement};
use crate::facts::KernelFacts;
use crate::failure::Errno;
use crate::object::{Architecture, Flaw};

/// Where the kernel comes upon a flaw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// `elf_validity_cache_copy`.
    Frame,
    /// `module_enforce_rwx_sections`.
    Layout,
    /// `check_export_symbol_sections`.
    Exports,
    /// `apply_relocations`.
    Relocations,
    /// `btf_module_notify`, called by `prepare_coming_module`.
    Types,
}

impl Judgement<'_> {
    pub(super) fn flaws(&mut self, stage: Stage) {
        for flaw in self.module.flaws.iter().copied().filter(|flaw| stage_of(*flaw) == stage) {
            if let Some(effect) = effect(flaw, self.facts) {
                self.found(effect, Cause::Flaw { flaw });
            }
        }
    }

    /// Whether types of another build fit is for the kernel to find out, type by type.
    pub(super) fn types(&mut self) {
        self.flaws(Stage::Types);
        let module = self.module;
        let looks = module.has_type_information && self.facts.policy.types_must_fit != Some(false);
        if !looks || module.flaws.contains(&Flaw::TypeInformation) {
            return;
        }
        let (built_for, runs) = (module.info.vermagic(), self.facts.vermagic.as_ref());
        let same = built_for.as_ref().zip(runs).is_some_and(|(one, other)| one.release() == other.release());
        if !same {
            self.found(Effect::Unknown, Cause::TypesNotCompared);
        }
    }
}

fn stage_of(flaw: Flaw) -> Stage {
    match flaw {
        Flaw::FirstSection
        | Flaw::SeveralInfos
        | Flaw::SeveralSymbolTables
        | Flaw::SeveralStructModules
        | Flaw::NoStructModule
        | Flaw::SymbolNames
        | Flaw::ExtendedVersions => Stage::Frame,
        Flaw::WritableCode(_) => Stage::Layout,
        Flaw::NoExportFlags => Stage::Exports,
        Flaw::NoAddends(_) | Flaw::Relocation(_) => Stage::Relocations,
        Flaw::TypeInformation => Stage::Types,
    }
}

/// None where the kernel does not look.
fn effect(flaw: Flaw, facts: &KernelFacts) -> Option<Effect> {
    let refused = Some(Effect::Fails(Errno::ENOEXEC));
    let since = |major, minor, before| match facts.is_since(major, minor) {
        Some(true) => refused,
        Some(false) => before,
        None => Some(Effect::Unknown),
    };
    match flaw {
        Flaw::FirstSection => since(5, 12, Some(Effect::Unknown)),
        // Older kernels take the first.
        Flaw::SeveralInfos | Flaw::SeveralSymbolTables | Flaw::SeveralStructModules => since(6, 4, None),
        Flaw::NoStructModule => since(6, 4, Some(Effect::Unknown)),
        Flaw::SymbolNames => since(6, 13, None),
        Flaw::ExtendedVersions => since(6, 14, None),
        // Other architectures put flags of their own on some sections before they look.
        Flaw::WritableCode(_) if facts.architecture == Architecture::Amd64 => {
            since(5, 8, Some(Effect::Unknown))
        }
        Flaw::WritableCode(_) => Some(Effect::Unknown),
        // The flags came between these.
        Flaw::NoExportFlags => since(7, 2, since(7, 0, None).map(|_| Effect::Unknown)),
        Flaw::NoAddends(_) | Flaw::Relocation(_) => refused,
        Flaw::TypeInformation => match facts.policy.types_must_fit {
            Some(true) => Some(Effect::Fails(Errno::EINVAL)),
            Some(false) => None,
            None => Some(Effect::Unknown),
        },
    }
}

#[cfg(test)]
mod tests;
