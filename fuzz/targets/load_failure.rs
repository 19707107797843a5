//! The kernel's log holds what drivers and devices say: any bytes. The message made of it is one line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenon_kmod::ModuleName;
use tenon_kmod::failure::{Attempt, Errno, LoadFailure};
use tenon_kmod::log::{LogLine, fresh};

fuzz_target!(|input: (u8, u64, &[u8])| {
    let (errno, after, buffer) = input;
    let Ok(module) = ModuleName::new("lab") else { return };
    let lines = fresh(&LogLine::parse_buffer(buffer), after);
    let failure = LoadFailure::classify(&Attempt {
        module: &module,
        errno: Errno(errno.into()),
        lines: &lines,
        firmware: &[],
        modules_disabled: false,
        capable: true,
    });
    assert!(!failure.to_string().contains('\n'));
});
