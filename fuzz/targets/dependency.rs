//! The texts of depmod out of a stranger's image. The first part of the input is `modules.dep`; `\x01` begins the next:
//! `modules.softdep`, `modules.alias`, `modules.builtin`, and the module asked for.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use tenon_kmod::ModuleName;
use tenon_kmod::dependency::DependencyIndex;

fuzz_target!(|input: &str| {
    let mut parts = input.split('\x01');
    let mut next = || parts.next().unwrap_or_default();
    let Ok(mut index) = DependencyIndex::from_modules_dep(next()) else { return };
    index.add_modules_softdep(next());
    index.add_modules_alias(next());
    let _ = index.add_modules_builtin(next());
    let Ok(target) = ModuleName::new(next()) else { return };
    if let Ok(steps) = index.load_order(&target) {
        let once: BTreeSet<_> = steps.iter().map(|step| &step.module).collect();
        assert_eq!(once.len(), steps.len());
    }
});
