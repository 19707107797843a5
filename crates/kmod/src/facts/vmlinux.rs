//! The tables of exported symbols in a kernel's ELF file.
//!
//! `__ksymtab` and `__ksymtab_gpl` list `struct kernel_symbol` (`include/linux/export-internal.h`): value, name,
//! namespace; each a 32-bit offset from its own place where the architecture can, else an address. `__kcrctab*` have the
//! checksums in the same order. Newer kernels (7.2 is one) have one table, and `__kflagstab` says which symbols are GPL-only.

use std::collections::BTreeMap;

use object::Endianness;
use object::elf;
use object::read::elf::{FileHeader, SectionHeader as _};

use super::{KernelSymbol, Namespace};

/// More sections than this has no kernel that anybody boots.
const MAX_SECTIONS: usize = 4096;
/// `KSYM_NAME_LEN`.
const MAX_NAME: usize = 512;
/// Of one table.
const MAX_SYMBOLS: usize = 1 << 17;

/// Why a kernel's ELF file is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VmlinuxError {
    /// Offsets or sizes contradict one another.
    #[error("read the kernel's ELF structure")]
    Malformed(#[source] object::Error),
    /// Neither 32 nor 64 bits.
    #[error("read the kernel's ELF structure: its class is unknown")]
    Class,
    /// More sections than any kernel has.
    #[error("read the kernel's ELF structure: {0} sections are too many")]
    Sections(usize),
}

/// A kernel's sections with their places in memory.
pub(super) struct Vmlinux<'data> {
    pub(super) machine: u16,
    pub(super) is_64: bool,
    pub(super) big_endian: bool,
    sections: Vec<Section<'data>>,
}

struct Section<'data> {
    name: &'data [u8],
    address: u64,
    data: &'data [u8],
}

impl<'data> Vmlinux<'data> {
    /// Sections that lie outside of the file are left out: cut-off headers leave a kernel of which less is known.
    pub(super) fn parse(bytes: &'data [u8]) -> Result<Self, VmlinuxError> {
        match bytes.get(4).copied().map(elf::FileClass) {
            Some(elf::ELFCLASS64) => Self::read::<elf::FileHeader64<Endianness>>(bytes),
            Some(elf::ELFCLASS32) => Self::read::<elf::FileHeader32<Endianness>>(bytes),
            _ => Err(VmlinuxError::Class),
        }
    }

    fn read<Header: FileHeader<Endian = Endianness>>(bytes: &'data [u8]) -> Result<Self, VmlinuxError> {
        let header = Header::parse(bytes).map_err(VmlinuxError::Malformed)?;
        let endian = header.endian().map_err(VmlinuxError::Malformed)?;
        let mut file = Self {
            machine: header.e_machine(endian).0,
            is_64: header.is_type_64(),
            big_endian: endian == Endianness::Big,
            sections: Vec::new(),
        };
        let Ok(table) = header.sections(endian, bytes) else { return Ok(file) };
        if table.len() > MAX_SECTIONS {
            return Err(VmlinuxError::Sections(table.len()));
        }
        let section = |section: &Header::SectionHeader| {
            Some(Section {
                name: table.section_name(endian, section).ok()?,
                address: section.sh_addr(endian).into(),
                data: section.data(endian, bytes).ok()?,
            })
        };
        file.sections = table.iter().filter_map(section).collect();
        Ok(file)
    }

    pub(super) fn section(&self, name: &str) -> Option<&'data [u8]> {
        self.find(name).map(|section| section.data)
    }

    fn find(&self, name: &str) -> Option<&Section<'data>> {
        self.sections.iter().find(|section| section.name == name.as_bytes())
    }

    /// Everything that the kernel exports; none where the tables are not there or cannot be read.
    pub(super) fn exports(&self) -> Option<BTreeMap<String, KernelSymbol>> {
        let strings = self.find("__ksymtab_strings")?;
        let mut exports = BTreeMap::new();
        for suffix in ["", "_gpl"] {
            let Some(table) = self.find(&format!("__ksymtab{suffix}")) else { continue };
            self.table(table, suffix, strings, &mut exports)?;
        }
        (!exports.is_empty()).then_some(exports)
    }

    fn table(
        &self,
        table: &Section<'_>,
        suffix: &str,
        strings: &Section<'_>,
        exports: &mut BTreeMap<String, KernelSymbol>,
    ) -> Option<()> {
        let crcs = self.section(&format!("__kcrctab{suffix}")).filter(|crcs| !crcs.is_empty());
        let flags = self.section("__kflagstab").filter(|_| suffix.is_empty());
        let count = crcs.map(|crcs| crcs.len() / 4).or(flags.map(<[u8]>::len));
        let layout = self.layout(table, strings, count)?;
        for (index, entry) in table.data.chunks_exact(layout.entry).enumerate().take(MAX_SYMBOLS) {
            let at = table.address.checked_add(u64::try_from(index * layout.entry).ok()?)?;
            let name = self.text(layout, entry, at, 1, strings).filter(|name| !name.is_empty())?;
            let namespace = if layout.members() > 2 { self.text(layout, entry, at, 2, strings)? } else { "" };
            let symbol = KernelSymbol {
                crc: match crcs {
                    Some(crcs) => Some(self.u32(crcs, index * 4)?),
                    None => None,
                },
                // Bit 0: KSYM_FLAG_GPL_ONLY.
                gpl_only: Some(
                    suffix == "_gpl"
                        || flags.is_some_and(|flags| flags.get(index).is_some_and(|flag| flag & 1 != 0)),
                ),
                namespace: Namespace::named(namespace),
                provider: None,
            };
            exports.insert(name.to_owned(), symbol);
        }
        Some(())
    }

    /// The form of the entries: the one that has as many as there are checksums or flags, and in which the first one has a
    /// name.
    fn layout(&self, table: &Section<'_>, strings: &Section<'_>, count: Option<usize>) -> Option<Layout> {
        let word = if self.is_64 { 8 } else { 4 };
        let relative = |members: usize| Layout { entry: members * 4, width: 4, relative: true };
        let absolute = |members: usize| Layout { entry: members * word, width: word, relative: false };
        let forms = [relative(3), absolute(3), relative(2), absolute(2)];
        let fits = |layout: &&Layout| {
            let counted = count.is_none_or(|count| count * layout.entry == table.data.len());
            let first = table.data.get(..layout.entry);
            let named = first.and_then(|entry| self.text(**layout, entry, table.address, 1, strings));
            counted
                && table.data.len().is_multiple_of(layout.entry)
                && named.is_some_and(|name| !name.is_empty())
        };
        forms.iter().find(fits).copied()
    }

    /// The text that a member of an entry leads to. A relative offset of zero, and an address of zero, mean none.
    fn text<'a>(
        &self,
        layout: Layout,
        entry: &[u8],
        at: u64,
        member: usize,
        strings: &Section<'a>,
    ) -> Option<&'a str> {
        let offset = member * layout.width;
        let address = if layout.width == 8 {
            let bytes = *entry.get(offset..)?.first_chunk()?;
            if self.big_endian { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) }
        } else {
            let value = self.u32(entry, offset)?;
            match (value, layout.relative) {
                (0, _) => 0,
                (value, false) => u64::from(value),
                (value, true) => at
                    .checked_add(u64::try_from(offset).ok()?)?
                    .checked_add_signed(i64::from(value.cast_signed()))?,
            }
        };
        if address == 0 {
            return Some("");
        }
        let start = usize::try_from(address.checked_sub(strings.address)?).ok()?;
        let rest = strings.data.get(start..)?;
        let window = rest.get(..MAX_NAME).unwrap_or(rest);
        let end = window.iter().position(|&byte| byte == 0)?;
        window.get(..end).and_then(|text| str::from_utf8(text).ok())
    }

    fn u32(&self, bytes: &[u8], offset: usize) -> Option<u32> {
        let bytes = *bytes.get(offset..)?.first_chunk()?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }
}

/// How `struct kernel_symbol` is laid out.
#[derive(Clone, Copy)]
struct Layout {
    /// Its size, in bytes.
    entry: usize,
    /// A member's.
    width: usize,
    /// Whether members are offsets from their own places.
    relative: bool,
}

impl Layout {
    fn members(self) -> usize {
        self.entry / self.width
    }
}
