//! The identifier that the linker gives a build: a kernel's in `/sys/kernel/notes`, a module's in its notes.

use std::fmt;
use std::str::FromStr;

/// SHA-1 has 20 bytes, and no linker makes more than this.
const MAX_LENGTH: usize = 64;

/// A GNU build identifier.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildId(Vec<u8>);

/// Why something is not a build identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildIdError {
    /// None, or more bytes than any linker makes.
    #[error("a build identifier has 1 to {MAX_LENGTH} bytes, not {0}")]
    Length(usize),
    /// Not hexadecimal digits in pairs.
    #[error("build identifier {0:?} is not hexadecimal")]
    NotHexadecimal(String),
}

impl BuildId {
    /// Checks the length.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, BuildIdError> {
        let bytes = bytes.into();
        match bytes.len() {
            1..=MAX_LENGTH => Ok(Self(bytes)),
            length => Err(BuildIdError::Length(length)),
        }
    }

    /// The first one among ELF notes of this byte order, such as the contents of `/sys/kernel/notes`. Name and description
    /// of a note are padded to four bytes (ELF specification, "Note section").
    pub fn from_notes(mut notes: &[u8], big_endian: bool) -> Option<Self> {
        let word = |notes: &[u8], offset: usize| {
            let bytes = *notes.get(offset..)?.first_chunk()?;
            usize::try_from(if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
                .ok()
        };
        loop {
            let (name, description, kind) = (word(notes, 0)?, word(notes, 4)?, word(notes, 8)?);
            let start = name.checked_next_multiple_of(4)?.checked_add(12)?;
            let end = start.checked_add(description)?;
            // NT_GNU_BUILD_ID
            if kind == 3 && notes.get(12..)?.starts_with(b"GNU\0") {
                return Self::new(notes.get(start..end)?).ok();
            }
            notes = notes.get(end.checked_next_multiple_of(4)?..)?;
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for BuildId {
    type Err = BuildIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pair = |pair: &[u8]| {
            let digit = |byte: &u8| char::from(*byte).to_digit(16);
            let [high, low] = pair else { return None };
            u8::try_from(digit(high)? << 4 | digit(low)?).ok()
        };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
        Self::new(bytes.ok_or_else(|| BuildIdError::NotHexadecimal(text.to_owned()))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[test]
    fn an_identifier_is_written_and_read_in_hexadecimal() {
        let id: BuildId = "00ff3aB0".parse().unwrap();
        assert_eq!((id.as_bytes(), id.to_string().as_str()), (&[0, 0xff, 0x3a, 0xb0][..], "00ff3ab0"));
    }

    #[rstest]
    #[case("", BuildIdError::Length(0))]
    #[case("abc", BuildIdError::NotHexadecimal("abc".into()))]
    #[case("zz", BuildIdError::NotHexadecimal("zz".into()))]
    fn other_texts_are_refused(#[case] text: &str, #[case] expected: BuildIdError) {
        assert_eq!(text.parse::<BuildId>(), Err(expected));
        assert_eq!(BuildId::new([7; 65]), Err(BuildIdError::Length(65)));
    }

    #[test]
    fn it_is_found_behind_other_notes_in_both_byte_orders() {
        let notes =
            b"\x06\0\0\0\x01\0\0\0\0\0\0\0Linux\0\0\0x\0\0\0\x04\0\0\0\x02\0\0\0\x03\0\0\0GNU\0\xab\xcd\0\0";
        assert_eq!(BuildId::from_notes(notes, false).unwrap().to_string(), "abcd");
        let big = b"\0\0\0\x04\0\0\0\x01\0\0\0\x03GNU\0\x77\0\0\0";
        assert_eq!(BuildId::from_notes(big, true).unwrap().to_string(), "77");
        for length in 0..notes.len() - 2 {
            assert_eq!(BuildId::from_notes(&notes[..length], false), None, "{length}");
        }
    }
}
