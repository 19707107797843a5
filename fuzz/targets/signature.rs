//! Certificates, keys, and what stands in a module's signature: bytes that anybody may have made.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tenon_kmod::object::signature::MAGIC;
use tenon_sign::{Certificate, LocalKey, Verdict, verify};

fuzz_target!(|data: &[u8]| {
    let trusted: Vec<Certificate> = Certificate::read(data).into_iter().collect();
    let _ = LocalKey::read(data);
    let _ = verify(data, &trusted);
    // As the message of a signature whose frame is right: nobody has signed, so nobody is to be believed.
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes();
    let module = [b"module", data, &[0, 0, 2, 0, 0, 0, 0, 0], &length, MAGIC].concat();
    assert!(!matches!(verify(&module, &trusted), Verdict::Good { .. }));
});
