//! What reaches a loader: signed orders, keys, lists of files, and the messages of its socket. What is read can be written and
//! read again, and nothing that was not signed is believed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenon_order::wire::{Reply, Request, read_message, write_message};
use tenon_order::{BundleManifest, KeySet, NodeReport, read_unverified, sign, verify};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = read_message::<Request>(&mut &*bytes) {
        let mut again = Vec::new();
        // A message may be longer than it was: escapes.
        if write_message(&mut again, &request).is_ok() {
            assert_eq!(read_message::<Request>(&mut &*again).ok(), Some(request));
        }
    }
    let _ = read_message::<Reply>(&mut &*bytes);
    let _ = serde_json::from_slice::<NodeReport>(bytes);
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(manifest) = BundleManifest::parse(text) {
        assert_eq!(manifest.emit(), text, "a list has one spelling");
    }
    let mut keys = KeySet::default();
    let (id, rest) = text.split_once('\n').unwrap_or((text, ""));
    let (key, order) = rest.split_once('\n').unwrap_or((rest, text));
    let _ = keys.insert_listed(id, key);
    assert!(verify(order, &keys).is_err(), "nobody has signed this");
    if let Ok(order) = read_unverified(order) {
        let signer = signer();
        if let Ok(text) = sign(&order, signer) {
            let mut keys = KeySet::default();
            keys.insert(signer.public());
            assert!(verify(&text, &keys).is_ok());
        }
    }
});

fn signer() -> &'static tenon_order::SigningKey {
    static SIGNER: std::sync::OnceLock<tenon_order::SigningKey> = std::sync::OnceLock::new();
    SIGNER.get_or_init(|| {
        let key = tenon_order::SigningKey::generate_pkcs8().expect("random bytes");
        tenon_order::SigningKey::from_pkcs8(&key).expect("a key")
    })
}
