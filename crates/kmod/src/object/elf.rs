//! An ELF file reduced to what a module reader asks for, so that only this file cares about class and byte order.

use std::collections::HashMap;

use object::read::elf::{FileHeader, Rel as _, Rela as _, SectionHeader as _, SectionTable, Sym as _};
use object::{Endianness, SectionIndex, SymbolIndex, elf};

use super::ObjectError;
use super::flaw::{self, Flaw};

/// The kernel's limit, `KSYM_NAME_LEN`.
const MAX_NAME_LENGTH: usize = 512;

/// Bounds on what a file may make us do: names, tables and entries may overlap in it, so its size alone bounds nothing.
/// The largest in-tree modules have some hundred sections, 100,000 symbols and 1,000 exports.
const MAX_SECTIONS: usize = 0xff00;
const MAX_SYMBOLS: usize = 1 << 20;
pub(super) const MAX_UNDEFINED: usize = 1 << 16;
const MAX_RELOCATIONS: usize = 1 << 18;

pub(super) struct Elf<'data> {
    pub(super) is_64: bool,
    pub(super) endian: Endianness,
    pub(super) machine: u16,
    pub(super) sections: Vec<Section<'data>>,
    pub(super) symbols: Vec<Symbol<'data>>,
    pub(super) flaws: Vec<Flaw>,
}

pub(super) struct Section<'data> {
    pub(super) name: &'data [u8],
    pub(super) kind: elf::SectionType,
    pub(super) flags: u64,
    /// Also of sections that occupy no bytes in the file.
    pub(super) size: u64,
    pub(super) data: &'data [u8],
    /// Of the tables of symbols, checksums and parameters only, by offset.
    pub(super) relocations: Vec<Relocation>,
}

impl Section<'_> {
    pub(super) fn is_allocated(&self) -> bool {
        self.flags & elf::SHF_ALLOC.0 != 0
    }
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
    Common,
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

    /// A section as the kernel finds most of them: it passes over what is not to be kept in memory (`find_sec`).
    pub(super) fn allocated(&self, name: &str) -> Option<&Section<'data>> {
        self.sections.iter().find(|section| section.is_allocated() && section.name == name.as_bytes())
    }

    pub(super) fn begins_with_u16(&self, bytes: &[u8], number: u16) -> bool {
        bytes.starts_with(&match self.endian {
            Endianness::Little => number.to_le_bytes(),
            Endianness::Big => number.to_be_bytes(),
        })
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
    let window = tail.get(..MAX_NAME_LENGTH).unwrap_or(tail);
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
    let (count, size) = (header.e_shnum(endian), usize::from(header.e_shentsize(endian)));
    let nowhere = header.e_shoff(endian).into() == 0;
    if nowhere
        || size != size_of::<Header::SectionHeader>()
        || !(1..count).contains(&header.e_shstrndx(endian).0)
    {
        return Err(ObjectError::Header);
    }
    // The table stands at the end of the file: the first thing that a cut-off file lacks.
    let table = u64::from(header.e_shnum(endian)) * u64::from(header.e_shentsize(endian));
    complete(bytes, header.e_shoff(endian).into(), table)?;
    let table = header.sections(endian, bytes).map_err(malformed)?;
    let names = header.section_strings_index(endian, bytes).map_err(malformed)?;
    let sections = read_sections(&table, names, endian, bytes)?;
    let mut flaws = Vec::new();
    let is_nothing = |first: &Header::SectionHeader| {
        let (size, address): (u64, u64) = (first.sh_size(endian).into(), first.sh_addr(endian).into());
        first.sh_type(endian) == elf::SHT_NULL && size == 0 && address == 0
    };
    if !table.iter().next().is_some_and(is_nothing) {
        flaws.push(Flaw::FirstSection);
    }
    let symbols = read_symbols(&table, &sections, endian, bytes, &mut flaws)?;
    flaw::of_relocations(&table, header, endian, bytes, &mut flaws)?;
    let machine = header.e_machine(endian).0;
    let mut file = Elf { is_64: header.is_type_64(), endian, machine, sections, symbols, flaws };
    let mut relocations = 0;
    for section in table.iter() {
        let is_mips64el = header.is_mips64el(endian);
        relocations +=
            read_relocations::<Header>(&mut file, section, bytes, is_mips64el).map_err(malformed)?;
        bounded(relocations, MAX_RELOCATIONS)?;
    }
    let mut flaws = std::mem::take(&mut file.flaws);
    flaw::of_sections(&file, &mut flaws);
    Ok(Elf { flaws, ..file })
}

fn read_sections<'data, Header: FileHeader<Endian = Endianness>>(
    table: &SectionTable<'data, Header>,
    names: SectionIndex,
    endian: Endianness,
    bytes: &'data [u8],
) -> Result<Vec<Section<'data>>, ObjectError> {
    bounded(table.len(), MAX_SECTIONS)?;
    let ranges = table.iter().filter_map(|section| section.file_range(endian));
    for (offset, size) in ranges {
        complete(bytes, offset, size)?;
    }
    let names =
        table.section(names).and_then(|names| names.data(endian, bytes)).map_err(ObjectError::Malformed)?;
    if names.last() != Some(&0) {
        return Err(ObjectError::SectionNames);
    }
    let section = |(index, section): (usize, &Header::SectionHeader)| {
        let kind = section.sh_type(endian);
        let name = match usize::try_from(section.sh_name(endian)) {
            // Such a one may be called anything.
            _ if kind == elf::SHT_NULL => Some(&b""[..]),
            // Longer than any that is looked for.
            Ok(offset) if offset < names.len() => c_string(names, offset).or(Some(b"")),
            _ => None,
        };
        Ok(Section {
            name: name.ok_or(ObjectError::SectionName(index))?,
            kind,
            flags: section.sh_flags(endian).0,
            size: section.sh_size(endian).into(),
            data: section.data(endian, bytes).map_err(ObjectError::Malformed)?,
            relocations: Vec::new(),
        })
    };
    table.iter().enumerate().map(section).collect()
}

fn read_symbols<'data, Header: FileHeader<Endian = Endianness>>(
    table: &SectionTable<'data, Header>,
    sections: &[Section<'data>],
    endian: Endianness,
    bytes: &'data [u8],
    flaws: &mut Vec<Flaw>,
) -> Result<Vec<Symbol<'data>>, ObjectError> {
    let listed = table.iter().find(|section| section.sh_type(endian) == elf::SHT_SYMTAB);
    let names = listed.map_or(0, |symbols| symbols.sh_link(endian) as usize);
    let Some(names) = sections.get(names).filter(|_| names > 0) else {
        return Err(ObjectError::NoSymbols);
    };
    let names = names.data;
    if names.first() != Some(&0) || names.last() != Some(&0) {
        flaws.push(Flaw::SymbolNames);
    }
    let symbols = table.symbols(endian, bytes, elf::SHT_SYMTAB).map_err(ObjectError::Malformed)?;
    bounded(symbols.len(), MAX_SYMBOLS)?;
    let symbol = |(index, symbol): (usize, &Header::Sym)| {
        let section =
            symbols.symbol_section(endian, symbol, SymbolIndex(index)).map_err(ObjectError::Malformed)?;
        let place = match (symbol.st_shndx(endian), section) {
            (elf::SHN_UNDEF, _) => Place::Undefined,
            (elf::SHN_ABS, _) => Place::Absolute,
            (elf::SHN_COMMON, _) => Place::Common,
            (_, Some(SectionIndex(section))) => Place::Section(section),
            (_, None) => Place::Other,
        };
        let name = match usize::try_from(symbol.st_name(endian)) {
            Ok(0) => Some(&b""[..]),
            Ok(offset) => match c_string(names, offset) {
                None if names.len().saturating_sub(offset) >= MAX_NAME_LENGTH => {
                    return Err(ObjectError::SymbolNameLength(index));
                }
                name => name,
            },
            Err(_) => None,
        };
        let name = name.ok_or(ObjectError::SymbolName(index))?;
        Ok(Symbol { name, value: symbol.st_value(endian).into(), weak: symbol.is_weak(), place })
    };
    let symbols: Vec<Symbol<'data>> =
        symbols.iter().enumerate().map(symbol).collect::<Result<_, ObjectError>>()?;
    let listed = |symbol: &&Symbol<'_>| matches!(symbol.place, Place::Undefined | Place::Common);
    bounded(symbols.iter().filter(listed).count(), MAX_UNDEFINED)?;
    Ok(symbols)
}

/// How many entries it found for a table that is of interest.
fn read_relocations<Header: FileHeader<Endian = Endianness>>(
    file: &mut Elf<'_>,
    section: &Header::SectionHeader,
    bytes: &[u8],
    is_mips64el: bool,
) -> object::Result<usize> {
    let endian = file.endian;
    let target = section.info_link(endian).0;
    let wanted =
        |name: &[u8]| name.starts_with(b"__ksymtab") || name.starts_with(b"__kcrctab") || name == b"__param";
    if !file.sections.get(target).is_some_and(|section| wanted(section.name)) {
        return Ok(0);
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
    let count = relocations.len();
    if count > 0
        && let Some(section) = file.sections.get_mut(target)
    {
        section.relocations = relocations;
    }
    Ok(count)
}

pub(super) fn bounded(count: usize, limit: usize) -> Result<(), ObjectError> {
    if count > limit { Err(ObjectError::TooMany { count, limit }) } else { Ok(()) }
}

fn complete(bytes: &[u8], offset: u64, size: u64) -> Result<(), ObjectError> {
    let needed = offset.saturating_add(size);
    let length = bytes.len() as u64;
    if needed > length { Err(ObjectError::Truncated { needed, length }) } else { Ok(()) }
}
