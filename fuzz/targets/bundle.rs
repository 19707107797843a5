//! A bundle as an agent gets it from somebody who claims to be the depot: packed or, as here mostly, the archive inside. What
//! comes out is what the list says, byte for byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenon_image::bundle::BundleReader;
use tenon_order::Digest;

fuzz_target!(|bytes: &[u8]| {
    read(bytes, &Digest::of(bytes));
    // A list that is believed, so that what follows it is read.
    let size =
        bytes.get(124..135).and_then(|digits| usize::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
    let list = size.and_then(|size| bytes.get(512..512usize.checked_add(size)?)).unwrap_or_default();
    if let Ok(packed) = zstd::encode_all(bytes, 1) {
        read(&packed, &Digest::of(list));
    }
});

fn read(bytes: &[u8], digest: &Digest) {
    let Ok(mut bundle) = BundleReader::open(bytes, digest) else { return };
    while let Ok(Some(file)) = bundle.next_file() {
        let entry = file.entry().clone();
        let mut content = Vec::new();
        if file.copy_to(&mut content).is_err() {
            return;
        }
        assert_eq!((Digest::of(&content), content.len() as u64), (entry.digest, entry.size));
    }
}
