//! The kernel's ELF file inside a boot image.
//!
//! An x86 boot image is a boot sector, `setup_sects` sectors of set-up code, and the protected-mode part, in which
//! `payload_offset` and `payload_length` point at the compressed ELF file (Linux, `Documentation/arch/x86/boot.rst`).
//! Other architectures' images are raw memory without an ELF header: of them `vmlinux` itself is needed.

use std::borrow::Cow;

use crate::compression::{Compression, DecompressError};

/// Larger kernels are refused.
const LIMIT: usize = 512 << 20;
/// A block of the LZ4 legacy frame holds at most this much.
const LZ4_BLOCK: usize = 8 << 20;
const LZ4_MAGIC: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// Why there is no kernel in an image.
#[derive(Debug, thiserror::Error)]
pub enum BootImageError {
    /// The magic `HdrS` is not at its place, or the payload lies outside the file.
    #[error("find the kernel in the image: it is neither ELF nor an x86 boot image")]
    NotBootImage,
    /// The payload begins with no known magic.
    #[error("unpack the kernel: it begins with {magic:02x?}, which is neither lz4, zstd, gzip nor xz")]
    UnknownCompression {
        /// Its first bytes.
        magic: Vec<u8>,
    },
    /// xz, zstd or gzip.
    #[error("unpack the kernel")]
    Unpack(#[from] DecompressError),
    /// LZ4.
    #[error("unpack the kernel by lz4")]
    Lz4(#[source] lz4_flex::block::DecompressError),
    /// The LZ4 frame is cut short.
    #[error("unpack the kernel by lz4: it ends in the middle of a block")]
    Lz4Short,
    /// More than any kernel.
    #[error("unpack the kernel: it is larger than {0} bytes")]
    TooLarge(usize),
    /// What came out is no ELF file.
    #[error("unpack the kernel: what came out is no ELF file")]
    NotElf,
}

/// The ELF file in a boot image; `vmlinux` itself is returned as it is.
pub fn vmlinux(image: &[u8]) -> Result<Cow<'_, [u8]>, BootImageError> {
    vmlinux_within(image, LIMIT)
}

/// As [`vmlinux`]; a kernel that unpacks to more than `limit` bytes is refused.
pub fn vmlinux_within(image: &[u8], limit: usize) -> Result<Cow<'_, [u8]>, BootImageError> {
    if image.starts_with(ELF_MAGIC) {
        return Ok(Cow::Borrowed(image));
    }
    let elf = unpack(payload(image)?, limit)?;
    if elf.starts_with(ELF_MAGIC) { Ok(Cow::Owned(elf)) } else { Err(BootImageError::NotElf) }
}

/// The compressed payload, without the four bytes of length that the build appends to it.
fn payload(image: &[u8]) -> Result<&[u8], BootImageError> {
    let find = || -> Option<&[u8]> {
        if image.get(0x202..0x206)? != b"HdrS" {
            return None;
        }
        // Zero means four, for the sake of very old kernels.
        let sectors = match *image.get(0x1f1)? {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let start = ((sectors + 1) * 512).checked_add(word(image, 0x248)?)?;
        let length = word(image, 0x24c)?.checked_sub(4)?;
        image.get(start..start.checked_add(length)?)
    };
    find().ok_or(BootImageError::NotBootImage)
}

fn unpack(payload: &[u8], limit: usize) -> Result<Vec<u8>, BootImageError> {
    if let Some(blocks) = payload.strip_prefix(LZ4_MAGIC) {
        return lz4_legacy(blocks, limit);
    }
    match Compression::detect(payload) {
        Some(compression) => Ok(compression.decompress(payload, limit)?),
        None => Err(BootImageError::UnknownCompression { magic: payload.iter().take(6).copied().collect() }),
    }
}

/// Blocks, each behind its compressed length (lz4 frame format, "Legacy frame").
fn lz4_legacy(mut rest: &[u8], limit: usize) -> Result<Vec<u8>, BootImageError> {
    let mut out = Vec::new();
    while !rest.is_empty() {
        let length = word(rest, 0).ok_or(BootImageError::Lz4Short)?;
        let end = length.checked_add(4).ok_or(BootImageError::Lz4Short)?;
        let block = rest.get(4..end).ok_or(BootImageError::Lz4Short)?;
        out.extend(lz4_flex::block::decompress(block, LZ4_BLOCK).map_err(BootImageError::Lz4)?);
        if out.len() > limit {
            return Err(BootImageError::TooLarge(limit));
        }
        rest = rest.get(end..).unwrap_or_default();
    }
    Ok(out)
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(word)).ok()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use proptest::prelude::*;

    use super::*;

    /// A boot image with one set-up sector and a payload 16 bytes into the protected-mode part.
    fn image(compressed: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * 512 + 16];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248] = 16;
        let length = u32::try_from(compressed.len() + 4).unwrap();
        image[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
        image.extend(compressed);
        image.extend([9; 4]);
        image.extend([7; 100]);
        image
    }

    fn elf() -> Vec<u8> {
        ELF_MAGIC.iter().copied().chain((0..100_000_u32).map(|n| (n % 251) as u8)).collect()
    }

    #[test]
    fn every_lz4_block_comes_out() {
        let elf = elf();
        let mut frame = LZ4_MAGIC.to_vec();
        for half in [&elf[..60_000], &elf[60_000..]] {
            let block = lz4_flex::block::compress(half);
            frame.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
            frame.extend(block);
        }
        assert_eq!(vmlinux(&image(&frame)).unwrap(), elf);
        let image = image(&frame);
        let refused = vmlinux_within(&image, 70_000);
        assert!(matches!(refused, Err(BootImageError::TooLarge(70_000))), "a limit holds between blocks");
    }

    #[test]
    fn gzip_zstd_and_xz_with_the_x86_filter_come_out() {
        let plain = elf();
        let mut gzip = flate2::read::GzEncoder::new(plain.as_slice(), flate2::Compression::fast());
        let mut packed = Vec::new();
        gzip.read_to_end(&mut packed).unwrap();
        assert_eq!(vmlinux(&image(&packed)).unwrap(), plain);
        assert!(matches!(vmlinux_within(&image(&packed), 70_000), Err(BootImageError::Unpack(_))));

        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let packed = ruzstd::encoding::compress_to_vec(plain.as_slice(), level);
        assert_eq!(vmlinux(&image(&packed)).unwrap(), plain);

        // As scripts/xz_wrap.sh does.
        let mut options = lzma_rust2::XzOptions::with_preset(1);
        options.check_type = lzma_rust2::CheckType::Crc32;
        options.prepend_pre_filter(lzma_rust2::filter::FilterType::BcjX86, 0);
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        writer.write_all(&plain).unwrap();
        assert_eq!(vmlinux(&image(&writer.finish().unwrap())).unwrap(), plain);
    }

    #[test]
    fn an_elf_file_is_the_kernel_itself() {
        assert!(matches!(vmlinux(b"\x7fELF").unwrap(), Cow::Borrowed(b"\x7fELF")));
    }

    #[test]
    fn other_files_are_refused_by_what_is_wrong_with_them() {
        assert!(matches!(vmlinux(b"MZ"), Err(BootImageError::NotBootImage)));
        assert!(matches!(vmlinux(&image(b"rubbish")), Err(BootImageError::UnknownCompression { .. })));
        let short = [LZ4_MAGIC, &[9, 0, 0, 0, 1]].concat();
        assert!(matches!(vmlinux(&image(&short)), Err(BootImageError::Lz4Short)));
        let other = [LZ4_MAGIC, &[2, 0, 0, 0, 0x10, b'x']].concat();
        assert!(matches!(vmlinux(&image(&other)), Err(BootImageError::NotElf)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(payload in prop::collection::vec(any::<u8>(), 0..64), magic in 0..3_usize) {
            let magics: [&[u8]; 3] = [LZ4_MAGIC, b"\x28\xb5\x2f\xfd", &[]];
            let _ = vmlinux(&image(&[magics[magic], &payload].concat()));
            let _ = vmlinux(&payload);
        }
    }
}
