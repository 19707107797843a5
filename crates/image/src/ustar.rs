//! The one kind of tar header that Tenon writes: POSIX ustar, owned by root, dated 1970.
//!
//! Nothing in it depends on the machine or the time, so equal files make equal archives; and because a header is a
//! function of (kind, path, size), a reader that knows these compares headers instead of parsing them.

/// The size of a header, and what every file's bytes are padded to.
pub(crate) const BLOCK: usize = 512;

/// What follows the last file.
pub(crate) const TRAILER: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// A path or size that ustar cannot express.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UstarError {
    /// Does not split into at most 155 and 100 bytes at a slash.
    #[error("the path is too long for a tar archive: its directory may have 155 bytes and its name 100")]
    Path,
    /// Eight octets of digits are all there is.
    #[error("the file is larger than 8 GiB")]
    Size,
}

/// What a header announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Mode 0644.
    File,
    /// Mode 0755; the path ends in a slash.
    #[cfg(feature = "registry")]
    Directory,
}

/// The header of a file or directory.
pub(crate) fn header(kind: Kind, path: &str, size: u64) -> Result<[u8; BLOCK], UstarError> {
    let (prefix, name) = split(path).ok_or(UstarError::Path)?;
    if size >= 1 << 33 {
        return Err(UstarError::Size);
    }
    let (mode, flag) = match kind {
        Kind::File => (0o644, b"0"),
        #[cfg(feature = "registry")]
        Kind::Directory => (0o755, b"5"),
    };
    let mut block = [0; BLOCK];
    put(&mut block, 0, name.as_bytes());
    put(&mut block, 100, format!("{mode:07o}").as_bytes());
    put(&mut block, 108, b"0000000");
    put(&mut block, 116, b"0000000");
    put(&mut block, 124, format!("{size:011o}").as_bytes());
    put(&mut block, 136, b"00000000000");
    put(&mut block, 148, b"        ");
    put(&mut block, 156, flag);
    put(&mut block, 257, b"ustar\x0000");
    put(&mut block, 329, b"0000000");
    put(&mut block, 337, b"0000000");
    put(&mut block, 345, prefix.as_bytes());
    let sum: u32 = block.iter().copied().map(u32::from).sum();
    put(&mut block, 148, format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

/// The number of zero bytes that follow `size` bytes of content.
pub(crate) fn padding(size: u64) -> usize {
    // Less than a block, so it fits whatever a usize is.
    usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or_default()
}

/// The size field of a header that is not trusted yet.
pub(crate) fn announced_size(header: &[u8; BLOCK]) -> Option<u64> {
    let digits = header.get(124..135)?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

/// Directory and name; the directory is as short as it can be, so every path has one spelling.
fn split(path: &str) -> Option<(&str, &str)> {
    if path.len() <= 100 {
        return Some(("", path));
    }
    path.match_indices('/')
        .map(|(at, _)| path.split_at(at))
        .map(|(prefix, name)| (prefix, name.trim_start_matches('/')))
        .find(|(prefix, name)| prefix.len() <= 155 && (1..=100).contains(&name.len()))
}

/// Fields have fixed places inside the block: zip never cuts one short.
fn put(block: &mut [u8; BLOCK], at: usize, bytes: &[u8]) {
    for (to, from) in block.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_fills_the_last_block() {
        assert_eq!([0, 1, 511, 512, 513].map(padding), [0, 511, 1, 0, 511]);
    }

    #[test]
    fn the_directory_is_as_short_as_possible() {
        let name = "n".repeat(99);
        let path = format!("a/b/{name}");
        assert_eq!(split(&path), Some(("a/b", name.as_str())));
        assert_eq!(split(&format!("{}/{name}", "d".repeat(156))), None);
        assert_eq!(split(&"n".repeat(101)), None);
    }

    #[test]
    fn the_announced_size_is_the_one_given() {
        let block = header(Kind::File, "modules/x.ko", 0o1234).unwrap();
        assert_eq!(announced_size(&block), Some(0o1234));
        assert_eq!(header(Kind::File, "x", 1 << 33), Err(UstarError::Size));
    }
}
