//! What the tests of whole parts share: bundles to fetch, and somewhere to put them.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "every test program uses its own part of this")]

use std::io::Write as _;

use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use tenon_order::{BundleManifest, Digest, ManifestEntry};

/// A bundle of these files: its name and its packed form.
pub fn bundle(files: &[(&str, &[u8])]) -> (Digest, Vec<u8>) {
    bundle_holding(files, files)
}

/// A bundle that promises some files and holds others, of the same names and sizes.
pub fn bundle_holding(files: &[(&str, &[u8])], held: &[(&str, &[u8])]) -> (Digest, Vec<u8>) {
    let entries = files.iter().map(|(path, content)| ManifestEntry {
        digest: Digest::of(content),
        size: content.len() as u64,
        path: path.parse().unwrap(),
    });
    let manifest = BundleManifest::new(entries.collect()).unwrap();
    let mut tar = Vec::new();
    add(&mut tar, "manifest", manifest.emit().as_bytes());
    for entry in manifest.entries() {
        let (_, content) = held.iter().find(|(path, _)| *path == entry.path.as_str()).unwrap();
        add(&mut tar, entry.path.as_str(), content);
    }
    tar.extend([0; 1024]);
    (manifest.digest(), compress_to_vec(&tar[..], CompressionLevel::Fastest))
}

/// Bytes that no compression makes smaller.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn add(tar: &mut Vec<u8>, path: &str, content: &[u8]) {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, text: &str| (&mut header[at..]).write_all(text.as_bytes()).unwrap();
    put(0, path);
    put(100, "0000644");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", content.len()));
    put(136, "00000000000");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    put(329, "0000000");
    put(337, "0000000");
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    (&mut header[148..]).write_all(format!("{sum:06o}\0 ").as_bytes()).unwrap();
    tar.extend(header);
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}
