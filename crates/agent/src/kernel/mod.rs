//! Which build of a kernel runs here, and what it is: facts for the operator, if it asks this node for some.

pub mod survey;
mod tell;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use tenon_kmod::facts::BuildId;
use tracing::debug;

pub use tell::tell;

/// The kernel's ELF notes; everybody may read them (`kernel/ksysfs.c`).
const NOTES: &str = "/sys/kernel/notes";
/// They have a few hundred bytes.
const MAX_NOTES: u64 = 64 * 1024;

/// The running kernel's GNU build-id in hexadecimal. A kernel may be built without one.
pub fn build_id() -> Option<String> {
    of_notes(Path::new(NOTES)).map(|build_id| build_id.to_string())
}

fn of_notes(path: &Path) -> Option<BuildId> {
    let mut notes = Vec::new();
    if let Err(error) = File::open(path).and_then(|file| file.take(MAX_NOTES).read_to_end(&mut notes)) {
        debug!(path = %path.display(), %error, "the kernel does not say which build it is");
        return None;
    }
    BuildId::from_notes(&notes, cfg!(target_endian = "big"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_is_read_off_the_kernels_notes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes");
        assert_eq!(of_notes(&path), None, "a kernel without notes");
        let note = |name: &[u8; 4], kind: u32, description: &[u8]| {
            let length = u32::try_from(description.len()).unwrap();
            [4_u32.to_ne_bytes(), length.to_ne_bytes(), kind.to_ne_bytes()]
                .concat()
                .into_iter()
                .chain(*name)
                .chain(description.to_vec())
                .collect::<Vec<_>>()
        };
        std::fs::write(&path, [note(b"Xen\0", 3, b"4.0\0"), note(b"GNU\0", 3, b"\x01\x02\xfe\xff")].concat())
            .unwrap();
        assert_eq!(of_notes(&path).map(|id| id.to_string()).as_deref(), Some("0102feff"));
        std::fs::write(&path, b"GNU").unwrap();
        assert_eq!(of_notes(&path), None);
    }
}
