//! Facts from the kernel itself: a boot image, or the `vmlinux` in it. It tells nearly everything: exported symbols,
//! version magic, build identifier, the size of `struct module` where there is type information, and, by the messages
//! that were compiled in, which rules are switched on.

use super::boot_image::{self, BootImageError};
use super::vmlinux::{Vmlinux, VmlinuxError};
use super::{BuildId, Decompression, KernelFacts, KernelPolicy, btf};
use crate::object::Architecture;
use crate::release::{self, KernelRelease};
use crate::vermagic::VerMagic;

/// Why an image gives no facts.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no kernel in it.
    #[error(transparent)]
    BootImage(#[from] BootImageError),
    /// The kernel cannot be read.
    #[error(transparent)]
    Vmlinux(#[from] VmlinuxError),
    /// A machine on which no Kubernetes node runs.
    #[error("read the kernel: ELF machine {0} is unknown")]
    Machine(u16),
    /// No `Linux version …` in it.
    #[error("read the kernel: it does not say which release it is")]
    NoRelease,
}

impl KernelFacts {
    /// Reads a boot image (x86) or a `vmlinux`. Without section headers the symbols stay unknown.
    pub fn from_image(image: &[u8]) -> Result<Self, ImageError> {
        Self::from_vmlinux(&boot_image::vmlinux(image)?)
    }

    /// As [`Self::from_image`]; a kernel that unpacks to more than `limit` bytes is refused.
    pub fn from_image_within(image: &[u8], limit: usize) -> Result<Self, ImageError> {
        Self::from_vmlinux(&boot_image::vmlinux_within(image, limit)?)
    }

    fn from_vmlinux(bytes: &[u8]) -> Result<Self, ImageError> {
        let file = Vmlinux::parse(bytes)?;
        let architecture = Architecture::of(file.machine, !file.big_endian, file.is_64)
            .ok_or(ImageError::Machine(file.machine))?;
        // Constants stand in .rodata; where nothing tells where that is, anywhere.
        let constants = file.section(".rodata").unwrap_or(bytes);
        let release = find_release(constants).ok_or(ImageError::NoRelease)?;
        let mut facts = Self::new(release, architecture);
        facts.sources.image = true;
        facts.build_id = file.section(".notes").and_then(|notes| BuildId::from_notes(notes, file.big_endian));
        facts.vermagic = find_vermagic(constants, facts.release.as_str());
        facts.modversions = facts.vermagic.as_ref().map(VerMagic::has_modversions);
        facts.this_module_size =
            file.section(".BTF").and_then(|types| btf::struct_size(types, file.big_endian, "module"));
        facts.policy = policy(constants, &facts);
        if let Some(exports) = file.exports() {
            facts.exports = exports;
            facts.complete = true;
        }
        Ok(facts)
    }
}

/// The size of `struct module`, in bytes, by the type information of any ELF file that has a kernel's: `vmlinux`, or what
/// newer headers have in its place.
pub fn struct_module_size(elf: &[u8]) -> Option<u64> {
    let file = Vmlinux::parse(elf).ok()?;
    btf::struct_size(file.section(".BTF")?, file.big_endian, "module")
}

/// `linux_banner`: `Linux version <release> (<who built it>) …`.
fn find_release(constants: &[u8]) -> Option<KernelRelease> {
    const BANNER: &[u8] = b"Linux version ";
    memchr::memmem::find_iter(constants, BANNER).find_map(|at| {
        let rest = constants.get(at + BANNER.len()..)?;
        let window = rest.get(..=release::MAX_LENGTH).unwrap_or(rest);
        let end = window.iter().position(|&byte| byte == b' ')?;
        let text = str::from_utf8(window.get(..end)?).ok()?;
        // Messages have a format here.
        (!text.contains('%')).then(|| KernelRelease::new(text).ok()).flatten()
    })
}

/// `vermagic`: the release and words such as `SMP` and `mod_unload`, up to a zero byte.
fn find_vermagic(constants: &[u8], release: &str) -> Option<VerMagic> {
    const MAX_LENGTH: usize = 256;
    const MARKS: [&str; 5] = ["SMP", "preempt", "preempt_rt", "mod_unload", "modversions"];
    let start = format!("{release} ");
    let candidate = |at: usize| {
        let rest = constants.get(at..)?;
        let window = rest.get(..MAX_LENGTH).unwrap_or(rest);
        let end = window.iter().position(|&byte| byte == 0)?;
        let text = str::from_utf8(window.get(..end)?).ok()?;
        let flags = text.strip_prefix(start.as_str())?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b' ');
        let marked = flags.split(' ').any(|word| MARKS.contains(&word));
        (marked && flags.bytes().all(plain)).then_some(text)
    };
    let mut found = memchr::memmem::find_iter(constants, start.as_bytes()).filter_map(candidate);
    let first = found.next()?;
    // Two that differ would leave open which one counts.
    found.all(|other| other == first).then(|| VerMagic::new(first))
}

/// What the kernel can complain about tells what it looks at. Kernels without these messages at all say nothing.
fn policy(constants: &[u8], facts: &KernelFacts) -> KernelPolicy {
    let has = |text: &[u8]| memchr::memmem::find(constants, text).is_some();
    if !has(b"version magic '%s' should be '%s'") {
        return KernelPolicy::default();
    }
    // Since 5.4 in these words.
    let known = facts.is_since(5, 4) == Some(true);
    let missing_import = |level: &[u8]| has(&[level, b"%s: module uses symbol (%s) from namespace"].concat());
    KernelPolicy {
        signatures: known.then(|| has(b"Loading of %s is rejected")),
        signatures_forced: None,
        force_load: Some(has(b"%s: %s: kernel tainted.\n")),
        // KERN_ERR where it refuses, KERN_WARNING where it lets pass.
        missing_imports_allowed: match (missing_import(b"\x013"), missing_import(b"\x014")) {
            (true, false) => Some(false),
            (false, true) => Some(true),
            _ => None,
        },
        decompression: known.then(|| {
            if has(b"decompression failed with status %d") {
                Decompression::Some
            } else {
                Decompression::None
            }
        }),
        types_must_fit: types_must_fit(has, facts),
        ecdsa: None,
        sha512: None,
    }
}

/// `btf_module_notify` says another thing where it refuses than where it lets pass; older kernels say the same in both.
fn types_must_fit(has: impl Fn(&[u8]) -> bool, facts: &KernelFacts) -> Option<bool> {
    let refuses = has(b"failed to validate module [%s] BTF: %ld");
    if has(b"Kernel module BTF mismatch detected") || !refuses {
        return Some(false);
    }
    (facts.is_since(6, 12) == Some(true)).then_some(true)
}

#[cfg(test)]
mod tests;
