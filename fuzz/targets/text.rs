//! Short texts that users and nodes send: releases, parameters, kernel command lines. What is rendered is read back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenon_kmod::parameters::{Parameter, from_command_line, render};
use tenon_kmod::{KernelRelease, ModuleName};

fuzz_target!(|text: &str| {
    if let Ok(release) = KernelRelease::new(text) {
        let _ = (release.parts(), release.version(), release.distribution(), release.image_tag());
    }
    if let Ok(parameters) = Parameter::parse_line(text) {
        assert_eq!(Parameter::parse_line(&render(&parameters)), Ok(parameters));
    }
    if let Ok(module) = ModuleName::new(text.split('.').next().unwrap_or_default()) {
        let _ = from_command_line(text, &module);
    }
});
