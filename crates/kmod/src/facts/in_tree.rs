//! Facts from a kernel's own `.ko` files, where nothing else can be read: version magic, the size of `struct module`, and
//! the checksum of every symbol that somebody uses. What nobody uses stays unknown.

use std::collections::{BTreeMap, BTreeSet};

use super::{KernelFacts, KernelSymbol, Namespace};
use crate::ModuleName;
use crate::compression::{self, DecompressError};
use crate::object::{Architecture, ModuleObject};
use crate::release::KernelRelease;
use crate::vermagic::VerMagic;

/// What other sources leave to a kernel's own modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// What they export: all of them are to be shown.
    Exports,
    /// The size of `struct module`: any one of them tells it.
    Size,
}

impl Left {
    /// What is still open; none if nothing is.
    pub fn by(facts: Option<&KernelFacts>) -> Option<Self> {
        match facts {
            Some(facts) if !facts.covers_modules => Some(Self::Exports),
            Some(facts) if facts.this_module_size.is_none() => Some(Self::Size),
            Some(_) => None,
            None => Some(Self::Exports),
        }
    }
}

/// Looks at one module after the other, and keeps of each only what counts.
#[derive(Clone, Debug)]
pub struct ModuleSurvey {
    release: KernelRelease,
    first: Option<First>,
    modules: BTreeSet<ModuleName>,
    exports: BTreeMap<String, KernelSymbol>,
    /// By symbol, what its users tell, and on which modules they depend.
    used: BTreeMap<String, Used>,
}

/// What all of them have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
struct First {
    architecture: Architecture,
    vermagic: VerMagic,
    this_module_size: u64,
    layout: Option<u32>,
}

#[derive(Clone, Debug)]
struct Used {
    crc: Option<u32>,
    /// Some user imports no namespace at all.
    global: bool,
    /// The smallest set of modules on which one of its users depends.
    depends: BTreeSet<ModuleName>,
}

impl ModuleSurvey {
    /// A survey of the modules of this kernel.
    pub fn new(release: KernelRelease) -> Self {
        Self {
            release,
            first: None,
            modules: BTreeSet::new(),
            exports: BTreeMap::new(),
            used: BTreeMap::new(),
        }
    }

    /// Takes a module in; whether it did. Modules that were built elsewhere, or for another kernel than the first, say
    /// nothing about this one.
    pub fn add(&mut self, module: &ModuleObject) -> bool {
        let Some(vermagic) = module.info.vermagic() else { return false };
        if !module.info.is_in_tree() || vermagic.release() != self.release.as_str() {
            return false;
        }
        let crcs = module.versions.as_ref().map(|versions| &versions.crcs);
        let common = First {
            architecture: module.architecture,
            this_module_size: module.this_module_size,
            layout: crcs.and_then(|crcs| crcs.get("module_layout")).copied(),
            vermagic,
        };
        if *self.first.get_or_insert_with(|| common.clone()) != common {
            return false;
        }
        self.modules.insert(module.name.clone());
        for export in &module.exports {
            let symbol = KernelSymbol::of_module(export, &module.name);
            self.exports.insert(export.symbol.clone(), symbol);
        }
        let depends: BTreeSet<ModuleName> = module.info.depends().collect();
        let global = module.info.imported_namespaces().next().is_none();
        for import in &module.imports {
            // A weak symbol without a checksum may be nowhere.
            if import.weak && import.crc.is_none() {
                continue;
            }
            let used = self.used.entry(import.symbol.clone()).or_insert_with(|| Used {
                crc: import.crc,
                global: false,
                depends: depends.clone(),
            });
            used.global |= global;
            used.crc = used.crc.or(import.crc);
            if depends.len() < used.depends.len() {
                used.depends.clone_from(&depends);
            }
        }
        true
    }

    /// Takes a module's file in, packed or not, of at most `limit` bytes; whether it did. What is no module says nothing
    /// about the kernel.
    pub fn add_file(&mut self, file: &[u8], limit: usize) -> Result<bool, DecompressError> {
        let unpacked = compression::decompress(file, limit)?;
        Ok(ModuleObject::parse(&unpacked).is_ok_and(|module| self.add(&module)))
    }

    /// What was learnt; none if no module counted. The kernel's own symbols stay incomplete, and so do its modules'
    /// unless the caller knows that it has shown all of them and says so in [`KernelFacts::covers_modules`].
    pub fn finish(self) -> Option<KernelFacts> {
        let First { architecture, vermagic, this_module_size, layout } = self.first?;
        let mut facts = KernelFacts::new(self.release, architecture);
        facts.sources.modules = true;
        facts.modversions = Some(vermagic.has_modversions());
        facts.vermagic = Some(vermagic);
        facts.this_module_size = Some(this_module_size);
        facts.exports = self.exports;
        for (name, used) in self.used {
            // Of a module that was not shown: it may be its symbol, not the kernel's.
            if facts.exports.contains_key(&name) || !used.depends.is_subset(&self.modules) {
                continue;
            }
            let namespace = if used.global { Namespace::Global } else { Namespace::Unknown };
            let symbol = KernelSymbol { crc: used.crc, gpl_only: None, namespace, provider: None };
            facts.exports.insert(name, symbol);
        }
        if let Some(crc) = layout {
            let symbol = KernelSymbol {
                crc: Some(crc),
                gpl_only: Some(false),
                namespace: Namespace::Global,
                provider: None,
            };
            facts.exports.insert("module_layout".to_owned(), symbol);
        }
        Some(facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::fixture::{AMD64, Fixture};

    fn module(fixture: Fixture) -> ModuleObject {
        ModuleObject::parse(&fixture.info("intree", "Y").build()).unwrap()
    }

    fn survey(modules: &[ModuleObject]) -> Option<KernelFacts> {
        let mut survey = ModuleSurvey::new(KernelRelease::new("6.1.0-9-test").unwrap());
        for module in modules {
            survey.add(module);
        }
        survey.finish()
    }

    fn llc() -> Fixture {
        Fixture::new(AMD64, "llc")
            .version("module_layout", 9)
            .import("printk", Some(1))
            .export("llc_add", None, true, 7)
    }

    fn stp() -> Fixture {
        Fixture::new(AMD64, "stp")
            .version("module_layout", 9)
            .info("depends", "llc")
            .import("llc_add", Some(7))
            .import("kfree", Some(2))
            .weak_import("maybe")
            .info("import_ns", "SPACE")
    }

    #[test]
    fn modules_are_asked_for_what_the_others_leave_open() {
        let mut facts = KernelFacts::new(KernelRelease::new("6.1.0-9-test").unwrap(), Architecture::Amd64);
        assert_eq!((Left::by(None), Left::by(Some(&facts))), (Some(Left::Exports), Some(Left::Exports)));
        facts.covers_modules = true;
        assert_eq!(Left::by(Some(&facts)), Some(Left::Size));
        facts.this_module_size = Some(896);
        assert_eq!(Left::by(Some(&facts)), None);
    }

    #[test]
    fn users_tell_the_checksums_of_what_they_use() {
        let facts = survey(&[module(stp()), module(llc())]).unwrap();
        assert_eq!(
            (facts.complete, facts.this_module_size, facts.modversions),
            (false, Some(896), Some(true))
        );
        let told = |name: &str| facts.exports.get(name).map(|symbol| (symbol.crc, symbol.namespace.clone()));
        assert_eq!(told("module_layout"), Some((Some(9), Namespace::Global)));
        assert_eq!(told("printk"), Some((Some(1), Namespace::Global)));
        // Its only user imports a namespace: perhaps for this symbol.
        assert_eq!(told("kfree"), Some((Some(2), Namespace::Unknown)));
        assert_eq!(told("maybe"), None);
        let add = &facts.exports["llc_add"];
        assert_eq!((add.provider.as_ref().unwrap().as_str(), add.gpl_only), ("llc", Some(true)));
    }

    #[test]
    fn a_symbol_that_a_module_not_shown_may_have_is_not_taken_for_the_kernels() {
        let facts = survey(&[module(stp())]).unwrap();
        assert!(!facts.exports.contains_key("llc_add") && !facts.exports.contains_key("kfree"));
    }

    #[test]
    fn modules_of_other_kernels_and_of_others_do_not_count() {
        let foreign =
            module(llc().replace_info("name", Some("alien")).replace_info("vermagic", Some("6.2.0 SMP ")));
        let outside = ModuleObject::parse(&llc().build()).unwrap();
        assert_eq!(survey(&[foreign, outside]), None);
        let odd = module(Fixture::new(AMD64, "odd").version("module_layout", 8).import("odd", Some(5)));
        assert!(!survey(&[module(llc()), odd]).unwrap().exports.contains_key("odd"));
    }
}
