//! The beginning of an RPM: a lead that says little, a header of signatures, and the header with the package's tags. As
//! `docs/manual/format_v4.md` of rpm's own sources describes it.

use std::collections::BTreeMap;
use std::io::{self, Read};

/// The first bytes of a package, and of each header.
const LEAD_MAGIC: [u8; 4] = [0xed, 0xab, 0xee, 0xdb];
const MAGIC: [u8; 4] = [0x8e, 0xad, 0xe8, 0x01];
const LEAD: usize = 96;
/// More entries than any package has.
const MOST_ENTRIES: u32 = 65_536;
/// In bytes: the changelogs of old packages have a few MiB.
const MOST_DATA: u32 = 64 << 20;

/// Types of a tag's values.
const STRING: u32 = 6;
const STRINGS: u32 = 8;
const TRANSLATED: u32 = 9;

/// Tags, by rpm's numbers.
mod tag {
    pub(super) const NAME: u32 = 1000;
    pub(super) const VERSION: u32 = 1001;
    pub(super) const RELEASE: u32 = 1002;
    pub(super) const PATCH: u32 = 1019;
    pub(super) const SOURCE_RPM: u32 = 1044;
    pub(super) const SOURCE_PACKAGE: u32 = 1106;
    pub(super) const PAYLOAD_COMPRESSOR: u32 = 1125;
}

/// Why it is no package.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// It ends early, or cannot be read.
    #[error("it ends within its header")]
    Read(#[from] io::Error),
    /// Something else.
    #[error("it does not begin as an RPM does")]
    Magic,
    /// Sizes or places that cannot be.
    #[error("its header is damaged")]
    Damaged,
}

/// What a package says of itself, as far as it counts here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Header {
    texts: BTreeMap<u32, Vec<String>>,
    numbered: Vec<u32>,
}

impl Header {
    /// Reads all that comes before the package's content.
    pub(super) fn read(from: &mut impl Read) -> Result<Self, HeaderError> {
        let lead: [u8; LEAD] = take(from)?;
        if !lead.starts_with(&LEAD_MAGIC) {
            return Err(HeaderError::Magic);
        }
        let (_, signatures) = Self::one(from)?;
        // Signatures end at a multiple of eight.
        let mut padding = Vec::new();
        from.by_ref().take((8 - signatures % 8) % 8).read_to_end(&mut padding)?;
        Ok(Self::one(from)?.0)
    }

    /// One header, and how many bytes its values have.
    fn one(from: &mut impl Read) -> Result<(Self, u64), HeaderError> {
        let start: [u8; 16] = take(from)?;
        if !start.starts_with(&MAGIC) {
            return Err(HeaderError::Magic);
        }
        let (entries, size) = (number(&start, 8)?, number(&start, 12)?);
        if entries > MOST_ENTRIES || size > MOST_DATA {
            return Err(HeaderError::Damaged);
        }
        let index = bytes(from, u64::from(entries) * 16)?;
        let data = bytes(from, u64::from(size))?;
        let mut header = Self::default();
        for entry in index.chunks_exact(16) {
            let tag = number(entry, 0)?;
            header.numbered.push(tag);
            if matches!(number(entry, 4)?, STRING | STRINGS | TRANSLATED) {
                let texts = texts(&data, number(entry, 8)?, number(entry, 12)?)?;
                header.texts.insert(tag, texts);
            }
        }
        Ok((header, u64::from(size)))
    }

    /// Whether it is sources, and not what was made of some.
    pub(super) fn is_source(&self) -> bool {
        self.numbered.contains(&tag::SOURCE_PACKAGE) || !self.numbered.contains(&tag::SOURCE_RPM)
    }

    pub(super) fn name(&self) -> &str {
        self.text(tag::NAME)
    }

    pub(super) fn version(&self) -> &str {
        self.text(tag::VERSION)
    }

    /// What its content is packed with; gzip where it says nothing.
    pub(super) fn compressor(&self) -> String {
        self.text(tag::PAYLOAD_COMPRESSOR).to_owned()
    }

    /// The patches that its spec names.
    pub(super) fn patches(&self) -> Vec<String> {
        self.texts.get(&tag::PATCH).cloned().unwrap_or_default()
    }

    /// What has a value in its spec.
    pub(super) fn macros(&self) -> BTreeMap<String, String> {
        let named = [("name", tag::NAME), ("version", tag::VERSION), ("release", tag::RELEASE)];
        named.map(|(name, tag)| (name.to_owned(), self.text(tag).to_owned())).into()
    }

    fn text(&self, tag: u32) -> &str {
        self.texts.get(&tag).and_then(|texts| texts.first()).map(String::as_str).unwrap_or_default()
    }
}

fn take<const N: usize>(from: &mut impl Read) -> Result<[u8; N], HeaderError> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// So many bytes; no more memory is taken than there are.
fn bytes(from: &mut impl Read, count: u64) -> Result<Vec<u8>, HeaderError> {
    let mut bytes = Vec::new();
    from.by_ref().take(count).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == count {
        Ok(bytes)
    } else {
        Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
    }
}

fn number(bytes: &[u8], at: usize) -> Result<u32, HeaderError> {
    let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u32::from_be_bytes).ok_or(HeaderError::Damaged)
}

/// So many texts, each with a zero at its end.
fn texts(data: &[u8], offset: u32, count: u32) -> Result<Vec<String>, HeaderError> {
    let mut rest = usize::try_from(offset).ok().and_then(|at| data.get(at..)).ok_or(HeaderError::Damaged)?;
    let mut texts = Vec::new();
    for _ in 0..count {
        let end = rest.iter().position(|byte| *byte == 0).ok_or(HeaderError::Damaged)?;
        let (text, more) = rest.split_at_checked(end).ok_or(HeaderError::Damaged)?;
        texts.push(String::from_utf8_lossy(text).into_owned());
        rest = more.get(1..).unwrap_or_default();
    }
    Ok(texts)
}
