//! Packed modules: `.ko.xz`, `.ko.zst` and `.ko.gz`, told by their first bytes, unpacked within a bound.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// How a module file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// The `.xz` container (LZMA2).
    Xz,
    /// Zstandard, RFC 8878.
    Zstd,
    /// gzip, RFC 1952.
    Gzip,
}

/// Why a file could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    /// The contents are longer than the caller allows.
    #[error("{compression} data unpacks to more than {limit} bytes")]
    TooLarge {
        /// How it is packed.
        compression: Compression,
        /// The bound, in bytes.
        limit: usize,
    },
    /// The data end too early.
    #[error("{compression} data end too early")]
    Truncated {
        /// How it is packed.
        compression: Compression,
    },
    /// A checksum is wrong, the format is broken, or it would need more memory for decoding than any module needs.
    #[error("unpack {compression} data")]
    Corrupt {
        /// How it is packed.
        compression: Compression,
        /// What the decoder says.
        #[source]
        source: io::Error,
    },
}

/// The most memory that a stream may demand for its dictionary or window: what `xz -9` and `zstd --ultra -22` of files
/// as small as modules use. Kernel builds use 1 or 2 MiB.
const WINDOW_LIMIT: u32 = 128 << 20;

/// The decoder's working memory beside the dictionary.
const DECODER_OVERHEAD_KIB: u32 = 1024;

impl Compression {
    /// Tells a packed file by its first bytes; none means not packed, or in a way that kernels do not use.
    pub fn detect(bytes: &[u8]) -> Option<Self> {
        const MAGICS: [(&[u8], Compression); 3] = [
            (b"\xfd7zXZ\0", Compression::Xz),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            (b"\x1f\x8b", Compression::Gzip),
        ];
        MAGICS.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|&(_, compression)| compression)
    }

    /// The suffix behind `.ko`, with its dot.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Xz => ".xz",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
        }
    }

    /// Unpacks a whole file of at most `limit` bytes of contents.
    pub fn decompress(self, bytes: &[u8], limit: usize) -> Result<Vec<u8>, DecompressError> {
        let unpacked = match self {
            Self::Xz => {
                let memory = WINDOW_LIMIT / 1024 + DECODER_OVERHEAD_KIB;
                read_bounded(lzma_rust2::XzReader::new_mem_limit(bytes, true, memory), limit)
            }
            Self::Zstd => unpack_zstd(bytes, limit),
            Self::Gzip => read_bounded(flate2::read::MultiGzDecoder::new(bytes), limit),
        };
        match unpacked {
            Ok(Some(contents)) => Ok(contents),
            Ok(None) => Err(DecompressError::TooLarge { compression: self, limit }),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(DecompressError::Truncated { compression: self })
            }
            Err(source) => Err(DecompressError::Corrupt { compression: self, source }),
        }
    }
}

/// The contents of a file that may or may not be packed, at most `limit` bytes of them when it is.
pub fn decompress(bytes: &[u8], limit: usize) -> Result<Cow<'_, [u8]>, DecompressError> {
    match Compression::detect(bytes) {
        Some(compression) => compression.decompress(bytes, limit).map(Cow::Owned),
        None => Ok(Cow::Borrowed(bytes)),
    }
}

/// Everything a decoder gives, or none if that is more than `limit`.
fn read_bounded(decoder: impl Read, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut contents = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    decoder.take(bound).read_to_end(&mut contents)?;
    Ok((contents.len() <= limit).then_some(contents))
}

fn unpack_zstd(mut input: &[u8], limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut contents = Vec::new();
    while !input.is_empty() {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(u64::from(WINDOW_LIMIT));
        match decoder.init(&mut input) {
            Ok(()) => {}
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length, ..
            })) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                input = input.get(length..).ok_or(io::ErrorKind::UnexpectedEof)?;
                continue;
            }
            Err(error) => return Err(zstd_error(error)),
        }
        let room = limit - contents.len();
        match unpack_frame(&mut decoder, &mut input, room)? {
            Some(frame) => contents.extend(frame),
            None => return Ok(None),
        }
    }
    Ok(Some(contents))
}

/// One frame, whose checksum the decoder leaves to its caller.
fn unpack_frame(decoder: &mut FrameDecoder, input: &mut &[u8], room: usize) -> io::Result<Option<Vec<u8>>> {
    let mut contents = Vec::new();
    loop {
        let finished =
            decoder.decode_blocks(&mut *input, BlockDecodingStrategy::UptoBlocks(1)).map_err(zstd_error)?;
        decoder.collect_to_writer(&mut contents)?;
        if contents.len() > room {
            return Ok(None);
        }
        if finished {
            break;
        }
    }
    match decoder.get_checksum_from_data() {
        Some(promised) if decoder.get_calculated_checksum() != Some(promised) => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "checksum mismatch"))
        }
        _ => Ok(Some(contents)),
    }
}

/// The decoder wraps the reader's end of file in layers of its own.
fn zstd_error(error: FrameDecoderError) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        match inner.downcast_ref::<io::Error>() {
            Some(io) if io.kind() == io::ErrorKind::UnexpectedEof => {
                return io::ErrorKind::UnexpectedEof.into();
            }
            _ => cause = inner.source(),
        }
    }
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;
    use std::io::Write;

    const ALL: [Compression; 3] = [Compression::Xz, Compression::Zstd, Compression::Gzip];

    fn pack(compression: Compression, contents: &[u8]) -> Vec<u8> {
        match compression {
            Compression::Xz => {
                let mut options = lzma_rust2::XzOptions::with_preset(1);
                // What the kernel's build uses.
                options.check_type = lzma_rust2::CheckType::Crc32;
                let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
                writer.write_all(contents).unwrap();
                writer.finish().unwrap()
            }
            Compression::Zstd => {
                ruzstd::encoding::compress_to_vec(contents, ruzstd::encoding::CompressionLevel::Fastest)
            }
            Compression::Gzip => {
                let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                writer.write_all(contents).unwrap();
                writer.finish().unwrap()
            }
        }
    }

    fn contents() -> Vec<u8> {
        (0..40_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> (n % 24)).to_le_bytes()).collect()
    }

    #[rstest]
    fn packed_contents_come_back(
        #[values(Compression::Xz, Compression::Zstd, Compression::Gzip)] compression: Compression,
        #[values(0, 1, 160_000)] length: usize,
    ) {
        let contents = &contents()[..length];
        let packed = pack(compression, contents);
        assert_eq!(Compression::detect(&packed), Some(compression));
        assert_eq!(decompress(&packed, length).unwrap(), contents);
    }

    #[test]
    fn what_is_not_packed_is_borrowed() {
        assert!(matches!(decompress(b"\x7fELF", 1).unwrap(), Cow::Borrowed(b"\x7fELF")));
        assert!(matches!(decompress(b"", 0).unwrap(), Cow::Borrowed(b"")));
    }

    #[rstest]
    fn one_byte_over_the_bound_is_too_large(
        #[values(Compression::Xz, Compression::Zstd, Compression::Gzip)] compression: Compression,
    ) {
        let packed = pack(compression, &contents());
        let error = decompress(&packed, 159_999).unwrap_err();
        assert!(matches!(error, DecompressError::TooLarge { limit: 159_999, .. }), "{error:?}");
    }

    #[rstest]
    fn a_bomb_stops_at_the_bound(
        #[values(Compression::Xz, Compression::Zstd, Compression::Gzip)] compression: Compression,
    ) {
        let packed = pack(compression, &vec![0; 8 << 20]);
        assert!(packed.len() < 64 << 10, "{}", packed.len());
        assert!(matches!(decompress(&packed, 4096), Err(DecompressError::TooLarge { .. })));
    }

    #[rstest]
    fn a_file_cut_anywhere_is_truncated(
        #[values(Compression::Xz, Compression::Zstd, Compression::Gzip)] compression: Compression,
    ) {
        let packed = pack(compression, &contents()[..3000]);
        for length in (13..packed.len()).step_by(7).chain([packed.len() - 1]) {
            let error = decompress(&packed[..length], 1 << 20).unwrap_err();
            assert!(
                matches!(error, DecompressError::Truncated { .. }),
                "{length} of {}: {error:?}",
                packed.len()
            );
        }
    }

    #[rstest]
    fn a_flipped_bit_of_the_contents_is_found(
        #[values(Compression::Xz, Compression::Zstd, Compression::Gzip)] compression: Compression,
    ) {
        let mut packed = pack(compression, &contents());
        let middle = packed.len() / 2;
        packed[middle] ^= 0x10;
        assert!(decompress(&packed, 1 << 20).is_err());
    }

    #[test]
    fn two_zstd_frames_are_one_file_and_skippable_frames_are_skipped() {
        let mut packed = pack(Compression::Zstd, b"one");
        packed.extend(b"\x50\x2a\x4d\x18\x03\0\0\0abc");
        packed.extend(pack(Compression::Zstd, b"two"));
        assert_eq!(decompress(&packed, 6).unwrap(), b"onetwo".as_slice());
        assert!(matches!(decompress(&packed, 5), Err(DecompressError::TooLarge { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn nothing_panics_or_exceeds_the_bound(
            which in 0..3_usize,
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            limit in 0..5000_usize,
        ) {
            let mut packed = pack(ALL[which], &contents()[..4000]);
            for (position, value) in flips {
                let position = position.index(packed.len());
                packed[position] = value;
            }
            if let Some(compression) = Compression::detect(&packed)
                && let Ok(contents) = compression.decompress(&packed, limit)
            {
                prop_assert!(contents.len() <= limit);
            }
        }

        #[test]
        fn random_bytes_behind_a_magic_do_not_panic(which in 0..3_usize, tail in prop::collection::vec(any::<u8>(), 0..200)) {
            let magic: &[u8] = [b"\xfd7zXZ\0".as_slice(), b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08\0"][which];
            let bytes = [magic, &tail].concat();
            let _ = decompress(&bytes, 1 << 16);
        }
    }
}
