//! Will it load? A module, the facts about a kernel and the circumstances in, a verdict with every reason out: what
//! `load_module` of `kernel/module/main.c` would return, check by check and in its order.
//!
//! Not predicted is what the module's own code does: its init may fail for any reason. What is not known makes the
//! verdict [`Verdict::Unknown`], never [`Verdict::Loads`].

mod circumstances;
mod flaws;
mod format;
mod parameters;
mod reason;
mod signature;
mod symbols;
#[cfg(test)]
mod tests;

pub use circumstances::{Circumstances, Enforcement, LoadedModule, Prerequisites, SignatureCheck};
pub use format::predict_file;
pub use reason::{Cause, Effect, Reason};

use self::flaws::Stage;
use crate::facts::KernelFacts;
use crate::failure::Errno;
use crate::object::ModuleObject;
use crate::release::Family;

/// What the kernel will do with a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It links the module and calls its init.
    Loads,
    /// It refuses. Where one of the reasons before is [`Effect::Unknown`], the number may be another.
    Fails {
        /// What `finit_module` returns.
        errno: Errno,
    },
    /// It cannot be said; the reasons say why.
    Unknown,
}

/// A verdict with all that was found on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// What the kernel will do.
    pub verdict: Verdict,
    /// What was found, in the order of the kernel's checks.
    pub reasons: Vec<Reason>,
    /// Whether the module counts as proprietary once it is loaded, by its own licence or by what it uses; none where
    /// that is not known.
    pub proprietary: Option<bool>,
}

/// Predicts one load.
pub fn predict(module: &ModuleObject, facts: &KernelFacts, circumstances: &Circumstances) -> Prediction {
    let mut judgement = Judgement { module, facts, circumstances, reasons: Vec::new(), verdict: None };
    judgement.permission();
    judgement.signature();
    let mut proprietary = None;
    // A file for another machine says nothing that could be compared.
    if judgement.machine() {
        judgement.flaws(Stage::Frame);
        judgement.structure();
        judgement.vermagic();
        judgement.presence();
        judgement.flaws(Stage::Layout);
        judgement.flaws(Stage::Exports);
        judgement.export_versions();
        judgement.namespace_imports();
        proprietary = judgement.symbols();
        judgement.flaws(Stage::Relocations);
        judgement.duplicates();
        judgement.types();
        judgement.parameters();
        judgement.firmware();
    }
    judgement.conclude(proprietary)
}

/// Predicts loads one after the other, each in the state that those before it leave behind.
pub fn predict_in_order<'a>(
    modules: impl IntoIterator<Item = &'a ModuleObject>,
    facts: &KernelFacts,
    mut circumstances: Circumstances,
) -> Vec<Prediction> {
    let step = |module: &ModuleObject| {
        let prediction = predict(module, facts, &circumstances);
        circumstances.advance(module, &prediction);
        prediction
    };
    modules.into_iter().map(step).collect()
}

/// The checks find reasons one after the other; the first that fails decides, an unknown one before only takes certainty
/// from a load.
struct Judgement<'a> {
    module: &'a ModuleObject,
    facts: &'a KernelFacts,
    circumstances: &'a Circumstances,
    reasons: Vec<Reason>,
    verdict: Option<Errno>,
}

impl Judgement<'_> {
    fn found(&mut self, effect: Effect, cause: Cause) {
        if let Effect::Fails(errno) = effect {
            self.verdict.get_or_insert(errno);
        }
        self.reasons.push(Reason { cause, effect });
    }

    fn conclude(self, proprietary: Option<bool>) -> Prediction {
        let unknown = self.reasons.iter().any(|reason| reason.effect == Effect::Unknown);
        let verdict = match self.verdict {
            Some(errno) => Verdict::Fails { errno },
            None if unknown => Verdict::Unknown,
            None => Verdict::Loads,
        };
        Prediction { verdict, reasons: self.reasons, proprietary }
    }

    /// `may_init_module`.
    fn permission(&mut self) {
        if self.circumstances.modules_disabled {
            self.found(Effect::Fails(Errno::EPERM), Cause::ModulesDisabled);
        }
    }

    /// `elf_check_arch`.
    fn machine(&mut self) -> bool {
        let (module, kernel) = (self.module.architecture, self.facts.architecture);
        if module != kernel {
            self.found(Effect::Fails(Errno::ENOEXEC), Cause::Architecture { module, kernel });
        }
        module == kernel
    }

    /// `elf_validity_cache_copy` about `.gnu.linkonce.this_module`, then `blacklisted` and `check_modstruct_version` of
    /// `early_mod_check`.
    fn structure(&mut self) {
        match self.facts.this_module_size {
            Some(kernel) if kernel != self.module.this_module_size => {
                let cause = Cause::StructModuleSize { module: self.module.this_module_size, kernel };
                // Kernels before 6.4 do not look, and what comes of it nobody can say.
                let looks = self.facts.is_since(6, 4) != Some(false);
                self.found(if looks { Effect::Fails(Errno::ENOEXEC) } else { Effect::Unknown }, cause);
            }
            _ => {}
        }
        if self.circumstances.blacklist.contains(&self.module.name) {
            self.found(Effect::Fails(Errno::EPERM), Cause::Blacklisted);
        }
        let vouched = self.layout();
        if self.facts.this_module_size.is_none() && !vouched {
            self.found(Effect::Unknown, Cause::StructModuleSizeUnknown);
        }
    }

    /// Whether equal checksums say that `struct module` is the same.
    fn layout(&mut self) -> bool {
        if self.facts.modversions == Some(false) {
            return false;
        }
        let Some(versions) = self.versions() else {
            if self.facts.modversions == Some(true) {
                self.forced(Cause::NoVersions, Errno::ENOEXEC);
            }
            return false;
        };
        let kernel = self.facts.exports.get("module_layout").and_then(|symbol| symbol.crc);
        match (versions.get("module_layout"), kernel) {
            (Some(&module), Some(kernel)) if module != kernel => {
                self.found(Effect::Fails(Errno::ENOEXEC), Cause::ModuleLayout { module, kernel });
                true
            }
            (Some(_), Some(_)) => true,
            (Some(_), None) if self.facts.modversions == Some(true) => {
                let symbols = vec!["module_layout".to_owned()];
                self.found(Effect::Unknown, Cause::SymbolsNotKnown { symbols });
                false
            }
            (None, _) if self.wants_every_checksum() => {
                let symbols = vec!["module_layout".to_owned()];
                self.found(Effect::Fails(Errno::ENOEXEC), Cause::NoSymbolVersion { symbols });
                true
            }
            // "no symbol version for": complained about, and let go.
            _ => false,
        }
    }

    /// Debian's kernels take back the leniency about symbols without a checksum in a module that has others
    /// (module-disable-matching-missing-version-crc.patch).
    fn wants_every_checksum(&self) -> bool {
        self.facts.release.family() == Family::Debian
    }

    /// The checksums that this kernel looks at.
    fn versions(&self) -> Option<&std::collections::HashMap<String, u32>> {
        let versions = self.module.versions.as_ref()?;
        match &versions.basic {
            Some(basic) if self.facts.is_since(6, 14) == Some(false) => Some(basic),
            _ => Some(&versions.crcs),
        }
    }

    /// What a kernel loads by force only if it was built to (`try_to_force_load`).
    fn forced(&mut self, cause: Cause, errno: Errno) {
        let effect = match self.facts.policy.force_load {
            Some(true) => Effect::Note,
            Some(false) => Effect::Fails(errno),
            None => Effect::Unknown,
        };
        self.found(effect, cause);
    }

    /// `check_modinfo` with `same_magic`: whoever has basic checksums is not asked for the release, by kernels that compare
    /// checksums.
    fn vermagic(&mut self) {
        let Some(module) = self.module.info.vermagic() else {
            return self.forced(Cause::NoVermagic, Errno::ENOEXEC);
        };
        let Some(kernel) = &self.facts.vermagic else {
            return self.found(Effect::Unknown, Cause::VermagicUnknown);
        };
        let skips_release = self.facts.modversions == Some(true) && self.module.has_basic_versions();
        let same = if skips_release {
            module.without_release() == kernel.without_release()
        } else {
            module.as_str() == kernel.as_str()
        };
        if !same {
            let (module, kernel) = (module.as_str().to_owned(), kernel.as_str().to_owned());
            self.found(Effect::Fails(Errno::ENOEXEC), Cause::VermagicMismatch { module, kernel });
        }
    }

    /// `module_patient_check_exists`.
    fn presence(&mut self) {
        match self.circumstances.loaded.get(&self.module.name) {
            Some(loaded) if loaded.uncertain => self.found(Effect::Unknown, Cause::MaybeLoaded),
            Some(_) => self.found(Effect::Fails(Errno::EEXIST), Cause::AlreadyLoaded),
            None => {}
        }
    }

    /// `check_export_symbol_versions`.
    fn export_versions(&mut self) {
        let unversioned = self.module.exports.iter().any(|export| export.crc.is_none());
        if self.facts.modversions == Some(true) && unversioned {
            self.forced(Cause::NoExportVersions, Errno::ENOEXEC);
        }
    }

    /// `setup_modinfo`, since 6.16.
    fn namespace_imports(&mut self) {
        let own = self.module.info.imported_namespaces().find(|name| name.starts_with("module:"));
        if let Some(namespace) = own.filter(|_| self.facts.is_since(6, 16) == Some(true)) {
            let cause = Cause::ModuleNamespaceImported { namespace: namespace.to_owned() };
            self.found(Effect::Fails(Errno::EPERM), cause);
        }
    }

    /// `verify_exported_symbols`.
    fn duplicates(&mut self) {
        for export in &self.module.exports {
            let in_kernel = self.facts.exports.get(&export.symbol);
            let in_modules = self.circumstances.loaded.iter().find(|(_, loaded)| {
                let exports = loaded.exports.as_deref().unwrap_or_default();
                exports.iter().any(|other| other.symbol == export.symbol)
            });
            let found = match (in_kernel, in_modules) {
                (Some(symbol), _) if symbol.provider.is_none() => Some((None, false)),
                (_, Some((owner, loaded))) => Some((Some(owner.clone()), loaded.uncertain)),
                (Some(symbol), None) => symbol
                    .provider
                    .clone()
                    .filter(|owner| self.circumstances.loaded.contains_key(owner))
                    .map(|owner| (Some(owner), false)),
                (None, None) => None,
            };
            if let Some((owner, uncertain)) = found {
                let effect = if uncertain { Effect::Unknown } else { Effect::Fails(Errno::ENOEXEC) };
                let cause = Cause::DuplicateSymbol { symbol: export.symbol.clone(), owner };
                self.found(effect, cause);
            }
        }
    }

    /// A driver that does not find its firmware may fail or wait or do without: its own decision.
    fn firmware(&mut self) {
        let Some(present) = &self.circumstances.firmware else { return };
        let absent = self.module.info.firmware().filter(|name| !present.contains(*name));
        let absent: Vec<String> = absent.map(str::to_owned).collect();
        for name in absent {
            self.found(Effect::Note, Cause::FirmwareMissing { name });
        }
    }
}
