//! A packed file of a stranger: never more than the bound comes out.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenon_kmod::compression::Compression;

const LIMIT: usize = 1 << 20;

fuzz_target!(|file: &[u8]| {
    if let Some(compression) = Compression::detect(file)
        && let Ok(contents) = compression.decompress(file, LIMIT)
    {
        assert!(contents.len() <= LIMIT);
    }
});
