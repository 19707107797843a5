//! Facts of a stranger's kernel: an image, headers, or what claims to be encoded facts. What is read can be written and
//! read again, and a module can be judged by it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenon_kmod::KernelFacts;
use tenon_kmod::facts::{BuildId, Headers, boot_image, struct_module_size};
use tenon_kmod::object::Architecture;
use tenon_kmod::predict::{Circumstances, predict_file};

fuzz_target!(|bytes: &[u8]| {
    let _ = (boot_image::vmlinux(bytes).is_ok(), struct_module_size(bytes));
    let _ = (BuildId::from_notes(bytes, false), BuildId::from_notes(bytes, true));
    let text = String::from_utf8_lossy(bytes);
    let headers = Headers {
        symvers: &text,
        release: "6.1.0-9-test",
        config: Some(&text),
        architecture: Some(Architecture::Amd64),
    };
    let read = [
        KernelFacts::from_image(bytes).ok(),
        KernelFacts::from_headers(&headers).ok(),
        KernelFacts::decode(bytes).ok(),
    ];
    for facts in read.into_iter().flatten() {
        if let Ok(again) = KernelFacts::decode(&facts.encode()) {
            assert_eq!(again, facts);
        }
        let _ = predict_file(bytes, &facts, &Circumstances::default());
    }
});
