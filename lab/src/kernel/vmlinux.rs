//! The decompressed kernel inside a bzImage.
//!
//! An x86 boot image is a boot sector, `setup_sects` sectors of set-up code, and the protected-mode part, in which
//! `payload_offset` and `payload_length` point at the compressed ELF file (Linux, Documentation/arch/x86/boot.rst).
//! QEMU boots that ELF file directly (PVH) in half the time, and its symbols are what modules link against.

use std::io::Read as _;
use std::process::Command;

use crate::command::{self, CommandError};

/// Larger kernels are refused.
const LIMIT: u64 = 512 << 20;
/// A block of the LZ4 legacy frame holds at most this much.
const LZ4_BLOCK: usize = 8 << 20;

/// Why there is no kernel in an image.
#[derive(Debug, thiserror::Error)]
pub enum VmlinuxError {
    /// The magic `HdrS` is not at its place, or the payload lies outside the file.
    #[error("find the payload: not an x86 boot image")]
    NotBootImage,
    /// The payload begins with no known magic.
    #[error("decompress the payload: it begins with {magic:02x?}, which is neither lz4, zstd, gzip nor xz")]
    UnknownCompression {
        /// Its first bytes.
        magic: Vec<u8>,
    },
    /// LZ4.
    #[error("decompress the payload by lz4")]
    Lz4(#[source] lz4_flex::block::DecompressError),
    /// The LZ4 frame is cut short.
    #[error("decompress the payload by lz4: it ends in the middle of a block")]
    Lz4Short,
    /// zstd.
    #[error("decompress the payload by zstd")]
    Zstd(#[source] ruzstd::decoding::errors::FrameDecoderError),
    /// zstd's stream or gzip.
    #[error("decompress the payload")]
    Read(#[source] std::io::Error),
    /// xz with a branch filter, which only the program reads.
    #[error("decompress the payload (package xz-utils)")]
    Xz(#[source] CommandError),
    /// What came out is no ELF file.
    #[error("decompress the payload: what came out is no ELF file")]
    NotElf,
}

/// The ELF file in a boot image.
pub fn extract(image: &[u8]) -> Result<Vec<u8>, VmlinuxError> {
    let elf = decompress(payload(image)?)?;
    if elf.starts_with(b"\x7fELF") { Ok(elf) } else { Err(VmlinuxError::NotElf) }
}

/// The compressed payload, without the four bytes of length that the build appends to it.
fn payload(image: &[u8]) -> Result<&[u8], VmlinuxError> {
    let find = || -> Option<&[u8]> {
        if image.get(0x202..0x206)? != b"HdrS" {
            return None;
        }
        // Zero means four, for the sake of very old kernels.
        let sectors = match *image.get(0x1f1)? {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let start = (sectors + 1) * 512 + word(image, 0x248)?;
        let length = word(image, 0x24c)?.checked_sub(4)?;
        image.get(start..start.checked_add(length)?)
    };
    find().ok_or(VmlinuxError::NotBootImage)
}

fn decompress(payload: &[u8]) -> Result<Vec<u8>, VmlinuxError> {
    let read = |reader: &mut dyn std::io::Read| {
        let mut out = Vec::new();
        reader.take(LIMIT).read_to_end(&mut out).map_err(VmlinuxError::Read)?;
        Ok(out)
    };
    match payload {
        [0x02, 0x21, 0x4c, 0x18, blocks @ ..] => lz4_legacy(blocks),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = ruzstd::decoding::StreamingDecoder::new(payload).map_err(VmlinuxError::Zstd)?;
            read(&mut decoder)
        }
        [0x1f, 0x8b, ..] => read(&mut flate2::read::GzDecoder::new(payload)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            command::run_with_input(Command::new("xz").arg("-dc"), payload).map_err(VmlinuxError::Xz)
        }
        other => Err(VmlinuxError::UnknownCompression { magic: other.iter().take(6).copied().collect() }),
    }
}

/// Blocks, each behind its compressed length (lz4 frame format, "Legacy frame").
fn lz4_legacy(mut rest: &[u8]) -> Result<Vec<u8>, VmlinuxError> {
    let mut out = Vec::new();
    while !rest.is_empty() {
        let length = word(rest, 0).ok_or(VmlinuxError::Lz4Short)?;
        let end = length.checked_add(4).ok_or(VmlinuxError::Lz4Short)?;
        let block = rest.get(4..end).ok_or(VmlinuxError::Lz4Short)?;
        out.extend(lz4_flex::block::decompress(block, LZ4_BLOCK).map_err(VmlinuxError::Lz4)?);
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
    use super::*;
    use proptest::prelude::*;

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
        b"\x7fELF".iter().copied().chain((0..100_000u32).map(|n| (n % 251) as u8)).collect()
    }

    #[test]
    fn every_lz4_block_comes_out() {
        let elf = elf();
        let mut frame = vec![0x02, 0x21, 0x4c, 0x18];
        for half in [&elf[..60_000], &elf[60_000..]] {
            let block = lz4_flex::block::compress(half);
            frame.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
            frame.extend(block);
        }
        assert_eq!(extract(&image(&frame)).unwrap(), elf);
    }

    #[test]
    fn gzip_comes_out() {
        let plain = elf();
        let mut gzip = flate2::read::GzEncoder::new(plain.as_slice(), flate2::Compression::fast());
        let mut packed = Vec::new();
        gzip.read_to_end(&mut packed).unwrap();
        assert_eq!(extract(&image(&packed)).unwrap(), elf());
    }

    #[test]
    fn other_files_are_refused_by_what_is_wrong_with_them() {
        assert!(matches!(extract(b"\x7fELF"), Err(VmlinuxError::NotBootImage)));
        assert!(matches!(extract(&image(b"rubbish")), Err(VmlinuxError::UnknownCompression { .. })));
        assert!(matches!(
            extract(&image(&[0x02, 0x21, 0x4c, 0x18, 9, 0, 0, 0, 1])),
            Err(VmlinuxError::Lz4Short)
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(payload in proptest::collection::vec(any::<u8>(), 0..64), magic in 0..3usize) {
            let magics: [&[u8]; 3] = [&[0x02, 0x21, 0x4c, 0x18], &[0x28, 0xb5, 0x2f, 0xfd], &[]];
            let _ = extract(&image(&[magics[magic], &payload].concat()));
            let _ = extract(&payload);
        }
    }
}
