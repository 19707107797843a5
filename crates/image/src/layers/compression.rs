//! Decompression of layers and modules as streams. Formats are told apart by the first bytes: media types and suffixes
//! may lie.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use tenon_kmod::compression::Compression;

/// The largest zstd window, as a power of two: 32 MiB, which all levels up to 20 keep to.
const ZSTD_WINDOW_LOG: u32 = 25;
/// In KiB: the dictionary of `xz -9` and the decoder's own needs.
const XZ_MEMORY: u32 = 66 << 10;

/// The decompressed bytes of something, at most so many. Bytes that are not compressed pass through.
pub(crate) struct Decompressed<'a> {
    bytes: Box<dyn Read + 'a>,
    left: u64,
    delivered: u64,
    exceeded: bool,
    compressed: bool,
}

impl<'a> Decompressed<'a> {
    /// After `limit` bytes reading fails.
    pub(crate) fn open(bytes: impl Read + 'a, limit: u64) -> io::Result<Self> {
        let mut bytes = BufReader::with_capacity(64 * 1024, bytes);
        let start = bytes.fill_buf()?;
        // zstd:chunked begins with a frame that is skipped.
        let skippable = matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
        let compression = if skippable { Some(Compression::Zstd) } else { Compression::detect(start) };
        let bytes: Box<dyn Read + 'a> = match compression {
            Some(Compression::Gzip) => Box::new(MultiGzDecoder::new(bytes)),
            Some(Compression::Xz) => Box::new(XzReader::new_mem_limit(bytes, true, XZ_MEMORY)),
            Some(Compression::Zstd) => {
                let mut decoder = zstd::Decoder::with_buffer(bytes)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
            None => Box::new(bytes),
        };
        Ok(Self { bytes, left: limit, delivered: 0, exceeded: false, compressed: compression.is_some() })
    }

    /// The bytes are not passed through as they are.
    pub(crate) fn compressed(&self) -> bool {
        self.compressed
    }

    /// Bytes given out so far.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// There were more bytes than the limit.
    pub(crate) fn exceeded(&self) -> bool {
        self.exceeded
    }
}

impl Read for Decompressed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.bytes.read(buffer)?;
        if let Some(left) = self.left.checked_sub(got as u64) {
            self.left = left;
            self.delivered += got as u64;
            Ok(got)
        } else {
            self.exceeded = true;
            Err(io::ErrorKind::FileTooLarge.into())
        }
    }
}
