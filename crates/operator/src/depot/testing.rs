//! Bundles for tests.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use tenon_order::{BundleManifest, Digest, ManifestEntry};

/// A bundle with one file, and its name. `level` is how hard it is compressed.
pub(crate) fn bundle(content: &[u8], level: i32) -> (Digest, Vec<u8>) {
    let path = "modules/extra/anvil.ko";
    let entry = ManifestEntry {
        digest: Digest::of(content),
        size: content.len() as u64,
        path: path.parse().unwrap(),
    };
    let manifest = BundleManifest::new(vec![entry]).unwrap();
    let text = manifest.emit();
    let tar = [member("manifest", text.as_bytes()), member(path, content), vec![0; 1024]].concat();
    (manifest.digest(), zstd::encode_all(tar.as_slice(), level).unwrap())
}

/// A bundle of about `size` bytes that does not compress.
pub(crate) fn bundle_of_size(size: u64, seed: u8) -> (Digest, Vec<u8>) {
    let mut content = Vec::new();
    let mut block = Digest::of(&[seed]);
    while (content.len() as u64) < size {
        content.extend_from_slice(block.as_bytes());
        block = Digest::of(block.as_bytes());
    }
    bundle(&content, 1)
}

/// Writes a file into `directory` and gives its path.
pub(crate) fn file(directory: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.join(name);
    std::fs::File::create(&path).unwrap().write_all(bytes).unwrap();
    path
}

/// One tar member in the ustar form that bundles have.
fn member(path: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
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
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut member = [header.as_slice(), content].concat();
    member.resize(member.len().next_multiple_of(512), 0);
    member
}
