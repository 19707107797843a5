//! A `.ko` of a stranger: reading it ends in facts or an error. Start from real modules: a corpus of in-tree `.ko` files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenon_kmod::ModuleObject;
use tenon_kmod::dependency::DependencyIndex;
use tenon_kmod::object::{Architecture, signature};
use tenon_kmod::predict::{Circumstances, predict_in_order};
use tenon_kmod::{KernelFacts, KernelRelease};

fuzz_target!(|file: &[u8]| {
    assert!(signature::without_signature(file).len() <= file.len());
    if let Ok(module) = ModuleObject::parse(file) {
        let _ = (module.info.parameters(), module.info.soft_dependencies(), module.info.vermagic());
        if let Ok(index) = DependencyIndex::from_objects([("a.ko", &module)]) {
            let _ = index.load_order(&module.name);
        }
        if let Ok(release) = KernelRelease::new("6.12.0") {
            let facts = KernelFacts::new(release, Architecture::Amd64);
            let _ = predict_in_order([&module, &module], &facts, Circumstances::default());
        }
    }
});
