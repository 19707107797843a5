//! Reading no more than one is ready to hold.

use std::io::{self, Read};

/// The most bytes of a module, as it is packed and as it is not: the largest of Debian's is a twentieth of that.
pub const MODULE: usize = 256 << 20;
/// The most bytes of an index such as `modules.dep`: Debian's have less than one MiB.
pub const INDEX: usize = 16 << 20;

/// All bytes of what is read; an error when there are more than `most`.
pub fn read(from: impl Read, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        let message = format!("it has more than the {} MiB that are read of such a file", most >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_is_allowed() {
        assert_eq!(read(&b"four"[..], 4).unwrap(), b"four");
        assert_eq!(read(&b"fives"[..], 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read(io::repeat(7), 1 << 20).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
