//! An ELF file reduced to what a module reader asks for, so that only this file cares about class and byte order.

use std::collections::HashMap;

use object::read::elf::{FileHeader, Rel as _, Rela as _, SectionHeader as _, Sym as _};
use object::{Endianness, SectionIndex, SymbolIndex, elf};

use super::ObjectError;

/// Longer symbol names are not kept: the kernel's limit, `KSYM_NAME_LEN`, is half of it.
const MAX_SYMBOL_LENGTH: usize = 1024;

pub(super) struct Elf<'data> {
    pub(super) is_64: bool,
    pub(super) endian: Endianness,
    pub(super) machine: u16,
    pub(super) sections: Vec<Section<'data>>,
    pub(super) symbols: Vec<Symbol<'data>>,
}

pub(super) struct Section<'data> {
    pub(super) name: &'data [u8],
    /// Also of sections that occupy no bytes in the file.
    pub(super) size: u64,
    pub(super) data: &'data [u8],
    /// Of the symbol and checksum tables only, by offset.
    pub(super) relocations: Vec<Relocation>,
}

pub(super) struct Relocation {
    pub(super) offset: u64,
    pub(super) symbol: usize,
    pub(super) addend: i64,
}

pub(super) struct Symbol<'data> {
    pub(super) name: &'data [u8],
    pub(super) value: u64,
    pub(super) weak: bool,
    pub(super) place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Undefined,
    Absolute,
    Section(usize),
    Other,
}

impl<'data> Elf<'data> {
    pub(super) fn parse(bytes: &'data [u8]) -> Result<Self, ObjectError> {
        if bytes.is_empty() {
            return Err(ObjectError::Empty);
        }
        if !bytes.starts_with(&elf::ELFMAG) {
            return Err(ObjectError::NotElf);
        }
        match bytes.get(4).copied().map(elf::FileClass) {
            Some(elf::ELFCLASS64) => read::<elf::FileHeader64<Endianness>>(bytes),
            Some(elf::ELFCLASS32) => read::<elf::FileHeader32<Endianness>>(bytes),
            Some(class) => Err(ObjectError::Class(class.0)),
            None => Err(ObjectError::Truncated {
                needed: size_of::<elf::Ident>() as u64,
                length: bytes.len() as u64,
            }),
        }
    }

    pub(super) fn section(&self, name: &str) -> Option<&Section<'data>> {
        self.sections.iter().find(|section| section.name == name.as_bytes())
    }

    pub(super) fn u32(&self, bytes: &[u8], offset: usize) -> Option<u32> {
        let bytes = bytes.get(offset..)?.first_chunk()?;
        Some(match self.endian {
            Endianness::Little => u32::from_le_bytes(*bytes),
            Endianness::Big => u32::from_be_bytes(*bytes),
        })
    }

    /// An `unsigned long`'s width in bytes.
    pub(super) fn word(&self) -> usize {
        if self.is_64 { 8 } else { 4 }
    }

    /// The symbols whose names start with a prefix, by the rest of the name.
    pub(super) fn symbols_with_prefix(&self, prefix: &str) -> HashMap<&'data [u8], &Symbol<'data>> {
        let named = |symbol: &Symbol<'data>| symbol.name.strip_prefix(prefix.as_bytes());
        self.symbols.iter().filter_map(|symbol| Some((named(symbol)?, symbol))).collect()
    }
}

/// The text before the next zero byte; none when there is no such byte within the limit.
pub(super) fn c_string(bytes: &[u8], offset: usize) -> Option<&[u8]> {
    let tail = bytes.get(offset..)?;
    let window = tail.get(..MAX_SYMBOL_LENGTH).unwrap_or(tail);
    window.iter().position(|&byte| byte == 0).and_then(|end| window.get(..end))
}

fn read<Header: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Result<Elf<'_>, ObjectError> {
    if bytes.len() < size_of::<Header>() {
        return Err(ObjectError::Truncated {
            needed: size_of::<Header>() as u64,
            length: bytes.len() as u64,
        });
    }
    let malformed = ObjectError::Malformed;
    let header = Header::parse(bytes).map_err(malformed)?;
    let endian = header.endian().map_err(malformed)?;
    let kind = header.e_type(endian);
    if kind != elf::ET_REL {
        return Err(ObjectError::NotRelocatable(kind.0));
    }
    // The table stands at the end of the file: the first thing that a cut-off file lacks.
    let table = u64::from(header.e_shnum(endian)) * u64::from(header.e_shentsize(endian));
    complete(bytes, header.e_shoff(endian).into(), table)?;
    let table = header.sections(endian, bytes).map_err(malformed)?;
    let mut sections = Vec::with_capacity(table.len());
    for section in table.iter() {
        if let Some((offset, size)) = section.file_range(endian) {
            complete(bytes, offset, size)?;
        }
        sections.push(Section {
            name: table.section_name(endian, section).map_err(malformed)?,
            size: section.sh_size(endian).into(),
            data: section.data(endian, bytes).map_err(malformed)?,
            relocations: Vec::new(),
        });
    }
    let symbols = table.symbols(endian, bytes, elf::SHT_SYMTAB).map_err(malformed)?;
    let names = sections.get(symbols.string_section().0).map_or(&[][..], |section| section.data);
    let mut kept = Vec::with_capacity(symbols.len());
    for (index, symbol) in symbols.iter().enumerate() {
        let offset = usize::try_from(symbol.st_name(endian)).map_err(|_| ObjectError::SymbolName(index))?;
        let name =
            if offset == 0 { b"" } else { c_string(names, offset).ok_or(ObjectError::SymbolName(index))? };
        let section = symbols.symbol_section(endian, symbol, SymbolIndex(index)).map_err(malformed)?;
        let place = match (symbol.st_shndx(endian), section) {
            (elf::SHN_UNDEF, _) => Place::Undefined,
            (elf::SHN_ABS, _) => Place::Absolute,
            (_, Some(SectionIndex(section))) => Place::Section(section),
            (_, None) => Place::Other,
        };
        kept.push(Symbol { name, value: symbol.st_value(endian).into(), weak: symbol.is_weak(), place });
    }
    let machine = header.e_machine(endian).0;
    let mut file = Elf { is_64: header.is_type_64(), endian, machine, sections, symbols: kept };
    for section in table.iter() {
        read_relocations::<Header>(&mut file, section, bytes, header.is_mips64el(endian))
            .map_err(malformed)?;
    }
    Ok(file)
}

fn read_relocations<Header: FileHeader<Endian = Endianness>>(
    file: &mut Elf<'_>,
    section: &Header::SectionHeader,
    bytes: &[u8],
    is_mips64el: bool,
) -> object::Result<()> {
    let endian = file.endian;
    let target = section.info_link(endian).0;
    let wanted = |name: &[u8]| name.starts_with(b"__ksymtab") || name.starts_with(b"__kcrctab");
    if !file.sections.get(target).is_some_and(|section| wanted(section.name)) {
        return Ok(());
    }
    let mut relocations = Vec::new();
    if let Some((entries, _)) = section.rela(endian, bytes)? {
        relocations.extend(entries.iter().map(|entry| Relocation {
            offset: entry.r_offset(endian).into(),
            symbol: entry.r_sym(endian, is_mips64el) as usize,
            addend: entry.r_addend(endian).into(),
        }));
    } else if let Some((entries, _)) = section.rel(endian, bytes)? {
        // Without addends of its own, the addend is what stands at the place.
        let data = file.sections.get(target).map_or(&[][..], |section| section.data);
        relocations.extend(entries.iter().map(|entry| {
            let offset: u64 = entry.r_offset(endian).into();
            let addend = usize::try_from(offset).ok().and_then(|offset| file.u32(data, offset)).unwrap_or(0);
            Relocation { offset, symbol: entry.r_sym(endian) as usize, addend: addend.into() }
        }));
    }
    relocations.sort_by_key(|relocation| relocation.offset);
    if !relocations.is_empty()
        && let Some(section) = file.sections.get_mut(target)
    {
        section.relocations = relocations;
    }
    Ok(())
}

fn complete(bytes: &[u8], offset: u64, size: u64) -> Result<(), ObjectError> {
    let needed = offset.saturating_add(size);
    let length = bytes.len() as u64;
    if needed > length { Err(ObjectError::Truncated { needed, length }) } else { Ok(()) }
}
