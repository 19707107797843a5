//! `simplify_symbols` of `kernel/module/main.c`: every undefined symbol is looked up, and the last one that fails decides.

use std::collections::HashMap;

use super::{Cause, Effect, Judgement, Prerequisites};
use crate::ModuleName;
use crate::facts::{KernelSymbol, Namespace};
use crate::failure::Errno;
use crate::object::{Export, Import};

/// Modules that the kernel takes for proprietary whatever they declare (`module_license_offenders`).
const OFFENDERS: [&str; 2] = ["driverloader", "lve"];

/// What becomes of one symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Unknown,
    GplOnly,
    Proprietary(ModuleName),
    Common,
    NoVersion,
    Version,
    Namespace(String),
    NotKnown,
    Provider(Vec<ModuleName>),
}

/// Where a symbol comes from.
enum Found<'a> {
    Kernel(&'a KernelSymbol),
    /// One of the kernel's own modules, told by the facts.
    Module(&'a KernelSymbol, &'a ModuleName),
    /// A module that is loaded, told by its file.
    Loaded(&'a Export, &'a ModuleName),
    Uncertain(Vec<ModuleName>),
    NotCovered,
    Absent,
}

/// What the kernel has noted about the module while it looked up its symbols.
struct Taint {
    /// `TAINT_PROPRIETARY_MODULE`.
    proprietary: Option<bool>,
    /// `using_gplonly_symbols`.
    uses_gpl_only: Option<bool>,
}

/// Symbols with the same outcome, and the modules that must be loaded before.
#[derive(Default)]
struct Findings {
    outcomes: Vec<(Outcome, Vec<String>)>,
    needs: Vec<ModuleName>,
    heirs: Vec<ModuleName>,
    last: Option<Errno>,
}

impl Judgement<'_> {
    /// Whether the module counts as proprietary afterwards.
    pub(super) fn symbols(&mut self) -> Option<bool> {
        let offends = OFFENDERS.contains(&self.module.name.as_str());
        let mut taint = Taint {
            proprietary: Some(offends || !self.module.info.is_gpl_compatible()),
            uses_gpl_only: Some(false),
        };
        let loaded = self.loaded_exports();
        let mut findings = Findings::default();
        for (position, import) in self.module.imports.iter().enumerate() {
            self.common(position, &mut findings);
            let found = self.look_up(&import.symbol, &loaded);
            if let Some(outcome) = self.resolve(import, &found, &mut taint, &mut findings) {
                findings.add(outcome, &import.symbol, self.facts.policy.missing_imports_allowed);
            }
        }
        self.common(self.module.imports.len(), &mut findings);
        self.report(findings);
        taint.proprietary
    }

    /// The common symbols that the kernel meets just before the import of that position.
    fn common(&self, position: usize, findings: &mut Findings) {
        for (_, symbol) in self.module.common_symbols.iter().filter(|(before, _)| *before == position) {
            findings.add(Outcome::Common, symbol, None);
        }
    }

    fn loaded_exports(&self) -> HashMap<&str, (&ModuleName, &Export)> {
        let exports = self.circumstances.loaded.iter().flat_map(|(name, loaded)| {
            let exports = loaded.exports.as_deref().unwrap_or_default();
            exports.iter().map(move |export| (export.symbol.as_str(), (name, export)))
        });
        exports.collect()
    }

    fn look_up<'a>(
        &'a self,
        symbol: &str,
        loaded_exports: &HashMap<&str, (&'a ModuleName, &'a Export)>,
    ) -> Found<'a> {
        let told = self.facts.exports.get(symbol);
        if let Some(told) = told.filter(|told| told.provider.is_none()) {
            return Found::Kernel(told);
        }
        let loaded = &self.circumstances.loaded;
        if let Some(&(owner, export)) = loaded_exports.get(symbol) {
            let uncertain = loaded.get(owner).is_some_and(|owner| owner.uncertain);
            return if uncertain {
                Found::Uncertain(vec![owner.clone()])
            } else {
                Found::Loaded(export, owner)
            };
        }
        match told.and_then(|told| Some((told, told.provider.as_ref()?))) {
            Some((told, provider)) => match loaded.get(provider) {
                // Another build of it is loaded, without this symbol.
                Some(owner) if owner.exports.is_some() => Found::Absent,
                Some(_) => Found::Module(told, provider),
                None => match self.circumstances.prerequisites {
                    Prerequisites::LoadedBefore => Found::Module(told, provider),
                    Prerequisites::AsListed => Found::Absent,
                },
            },
            None if !self.facts.complete => Found::NotCovered,
            None => match self.unknown_providers() {
                providers if providers.is_empty() => Found::Absent,
                providers => Found::Uncertain(providers),
            },
        }
    }

    /// The modules that this one depends on, as its linker saw it, and of whose exports nothing is known.
    fn unknown_providers(&self) -> Vec<ModuleName> {
        let unknown = |name: &ModuleName| match self.circumstances.loaded.get(name) {
            Some(loaded) if loaded.exports.is_some() => false,
            None if self.circumstances.prerequisites == Prerequisites::AsListed => false,
            // Neither the kernel's own nor among those that come with it.
            None if self.facts.covers_modules => false,
            _ => !self.facts.exports.values().any(|symbol| symbol.provider.as_ref() == Some(name)),
        };
        self.module.info.depends().filter(unknown).collect()
    }

    /// `resolve_symbol`: none when it is.
    fn resolve(
        &self,
        import: &Import,
        found: &Found<'_>,
        taint: &mut Taint,
        findings: &mut Findings,
    ) -> Option<Outcome> {
        let weak = |outcome| (!import.weak).then_some(outcome);
        let (symbol, owner) = match found {
            Found::Absent => return weak(Outcome::Unknown),
            Found::NotCovered => return Some(Outcome::NotKnown),
            Found::Uncertain(providers) => return Some(Outcome::Provider(providers.clone())),
            Found::Kernel(symbol) => ((*symbol).clone(), None),
            Found::Module(symbol, owner) => ((*symbol).clone(), Some(*owner)),
            Found::Loaded(export, owner) => (KernelSymbol::of_module(export, owner), Some(*owner)),
        };
        match (taint.proprietary, symbol.gpl_only) {
            (Some(true), Some(true)) => return weak(Outcome::GplOnly),
            (Some(true), None) | (None, Some(true)) => return Some(Outcome::NotKnown),
            _ => {}
        }
        if taint.uses_gpl_only != Some(true) {
            taint.uses_gpl_only = match symbol.gpl_only {
                Some(false) => taint.uses_gpl_only,
                told => told,
            };
        }
        if let Some(owner) = owner
            && let Some(outcome) = self.inherit(owner, taint, findings)
        {
            return match outcome {
                Outcome::Proprietary(_) => weak(outcome),
                other => Some(other),
            };
        }
        self.check_version(&import.symbol, &symbol, matches!(found, Found::Loaded(..)))
            .or_else(|| self.check_namespace(&symbol.namespace))
    }

    /// `inherit_taint`.
    fn inherit(&self, owner: &ModuleName, taint: &mut Taint, findings: &mut Findings) -> Option<Outcome> {
        // The kernel's own modules are compatible with the GPL.
        let proprietary = match self.circumstances.loaded.get(owner) {
            Some(loaded) if loaded.exports.is_some() => loaded.proprietary,
            _ => Some(false),
        };
        if !self.circumstances.loaded.contains_key(owner) && !findings.needs.contains(owner) {
            findings.needs.push(owner.clone());
        }
        match (proprietary, taint.uses_gpl_only) {
            (Some(false), _) => None,
            (Some(true), Some(true)) => Some(Outcome::Proprietary(owner.clone())),
            (Some(true), Some(false)) => {
                if taint.proprietary != Some(true) {
                    findings.heirs.push(owner.clone());
                }
                taint.proprietary = Some(true);
                None
            }
            (None, Some(false)) => {
                taint.proprietary = taint.proprietary.filter(|&proprietary| proprietary);
                None
            }
            (_, None) | (None, Some(true)) => Some(Outcome::NotKnown),
        }
    }

    /// `check_version`. A module that was built without checksums has none to compare.
    fn check_version(&self, name: &str, symbol: &KernelSymbol, of_file: bool) -> Option<Outcome> {
        if self.facts.modversions != Some(true) {
            return None;
        }
        let Some(wanted) = self.versions()?.get(name) else {
            // "no symbol version for" is complained about, and mostly let go.
            let refuses = self.wants_every_checksum() && symbol.crc.is_some();
            return refuses.then_some(Outcome::NoVersion);
        };
        match symbol.crc {
            Some(crc) if crc == *wanted => None,
            Some(_) => Some(Outcome::Version),
            None if of_file => None,
            None => Some(Outcome::NotKnown),
        }
    }

    /// `verify_namespace_is_imported`.
    fn check_namespace(&self, namespace: &Namespace) -> Option<Outcome> {
        match namespace {
            Namespace::Global => None,
            Namespace::Unknown => Some(Outcome::NotKnown),
            Namespace::Named(name) => {
                let imported = self.module.info.imported_namespaces().any(|import| import == name);
                let meant = name
                    .strip_prefix("module:")
                    .is_some_and(|patterns| patterns.split(',').any(|pattern| self.is_called(pattern)));
                (!imported && !meant).then(|| Outcome::Namespace(name.clone()))
            }
        }
    }

    /// `verify_module_namespace`: a name in either spelling, or its beginning before a star.
    fn is_called(&self, pattern: &str) -> bool {
        let own = self.module.name.as_str();
        match pattern.strip_suffix('*') {
            Some(start) => own.starts_with(&start.replace('-', "_")),
            None => self.module.name.matches(pattern),
        }
    }

    fn report(&mut self, findings: Findings) {
        if let Some(errno) = findings.last {
            self.verdict.get_or_insert(errno);
        }
        for (outcome, symbols) in findings.outcomes {
            let effect = outcome.effect(self.facts.policy.missing_imports_allowed);
            let cause = match outcome {
                Outcome::Unknown => Cause::UnknownSymbol { symbols },
                Outcome::GplOnly => {
                    let license = self.module.info.license().map(str::to_owned);
                    Cause::GplOnlySymbol { symbols, license }
                }
                Outcome::Proprietary(owner) => Cause::ProprietarySymbols { symbols, owner },
                Outcome::Common => Cause::CommonSymbol { symbols },
                Outcome::NoVersion => Cause::NoSymbolVersion { symbols },
                Outcome::Version => Cause::SymbolVersion { symbols },
                Outcome::Namespace(namespace) => Cause::NamespaceNotImported { symbols, namespace },
                Outcome::NotKnown => Cause::SymbolsNotKnown { symbols },
                Outcome::Provider(modules) => Cause::ProviderNotKnown { symbols, modules },
            };
            self.found(effect, cause);
        }
        if !findings.needs.is_empty() {
            self.found(Effect::Note, Cause::NeedsModules { modules: findings.needs });
        }
        for owner in findings.heirs {
            self.found(Effect::Note, Cause::InheritsProprietary { owner });
        }
    }
}

impl Outcome {
    fn effect(&self, missing_imports_allowed: Option<bool>) -> Effect {
        match self {
            Self::Unknown | Self::GplOnly | Self::Proprietary(_) => Effect::Fails(Errno::ENOENT),
            Self::Common => Effect::Fails(Errno::ENOEXEC),
            Self::Version | Self::NoVersion => Effect::Fails(Errno::EINVAL),
            Self::Namespace(_) => match missing_imports_allowed {
                Some(false) => Effect::Fails(Errno::EINVAL),
                Some(true) => Effect::Note,
                None => Effect::Unknown,
            },
            Self::NotKnown | Self::Provider(_) => Effect::Unknown,
        }
    }
}

impl Findings {
    fn add(&mut self, outcome: Outcome, symbol: &str, missing_imports_allowed: Option<bool>) {
        if let Effect::Fails(errno) = outcome.effect(missing_imports_allowed) {
            self.last = Some(errno);
        }
        match self.outcomes.iter_mut().find(|(other, _)| *other == outcome) {
            Some((_, symbols)) => symbols.push(symbol.to_owned()),
            None => self.outcomes.push((outcome, vec![symbol.to_owned()])),
        }
    }
}
