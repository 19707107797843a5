//! What users and nodes write into the cluster: Modules, the objects of nodes, labels, templates, modprobe's arguments. A
//! decision about them ends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenon_api::kernel_facts::Source;
use tenon_api::labels::{self, ModuleLabel};
use tenon_api::{Module, ModuleImage, NodeModulesConfig};
use tenon_kmod::KernelRelease;
use tenon_plan::resolve::resolve;
use tenon_plan::template::{Variables, expand};
use tenon_plan::{inspect, modprobe, provision};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(module) = serde_json::from_slice::<Module>(bytes)
        && let Ok(kernel) = KernelRelease::new("6.1.0-9-test")
    {
        let _ = resolve(&module, &kernel).is_ok();
    }
    if let Ok(image) = serde_json::from_slice::<ModuleImage>(bytes) {
        let _ = (provision::bundle(&image).is_some(), inspect::asks_for_peers(&image));
    }
    let _ = serde_json::from_slice::<NodeModulesConfig>(bytes).is_ok();
    let Ok(text) = str::from_utf8(bytes) else { return };
    assert!(labels::is_value(&labels::value(text)));
    // Longer keys are no labels.
    if let Some(label) = ModuleLabel::parse(text)
        && text.split_once('/').is_some_and(|(_, name)| name.len() <= 63)
    {
        assert_eq!(label.kind.key(&label.namespace, &label.name), text, "a label has one spelling");
    }
    if let Ok(source) = text.parse::<Source>() {
        assert_eq!(source.to_string(), text);
    }
    let mut variables = Variables::default();
    variables.set("KERNEL_VERSION", "6.1.0");
    let _ = expand(text, &variables).is_ok();
    let arguments: Vec<_> = text.split('\n').map(str::to_owned).collect();
    let _ = modprobe::parse("args", &arguments).is_ok();
});
