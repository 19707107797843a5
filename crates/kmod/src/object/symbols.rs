//! What a module uses of others and what it offers: symbols, their checksums, GPL flags and namespaces.

use std::collections::HashMap;

use object::elf;

use super::ObjectError;
use super::elf::{Elf, MAX_UNDEFINED, Place, Section, Symbol, bounded, c_string};

/// The size of `struct modversion_info`: checksum and name.
const VERSION_ENTRY: usize = 64;

/// The sections that list exports; the last three are of kernels before 5.12.
const SYMBOL_TABLES: [&str; 5] =
    ["__ksymtab", "__ksymtab_gpl", "__ksymtab_gpl_future", "__ksymtab_unused", "__ksymtab_unused_gpl"];

/// Names in a file may overlap, so its size does not bound the texts that are made of them. The largest in-tree modules export
/// 1,000 symbols, each by two or three relocations.
const MAX_EXPORTS: usize = 1 << 15;
const MAX_COMMON: usize = 1 << 12;

/// A symbol that the kernel or another module must provide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Its name.
    pub symbol: String,
    /// Whether the module also loads without it.
    pub weak: bool,
    /// The checksum of its prototype, where the module was compiled with `MODVERSIONS`.
    pub crc: Option<u32>,
}

/// A symbol that other modules may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Its name.
    pub symbol: String,
    /// The checksum of its prototype.
    pub crc: Option<u32>,
    /// Whether only modules with a licence compatible with the GPL may use it.
    pub gpl_only: bool,
    /// The namespace that a user must import.
    pub namespace: Option<String>,
}

/// The checksums of everything a module uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    /// How the module holds them.
    pub form: VersionsForm,
    /// Checksums by symbol, `module_layout` among them.
    pub crcs: HashMap<String, u32>,
    /// Those of the basic form, where the extended one stands beside it: kernels before 6.14 know no other.
    pub basic: Option<HashMap<String, u32>>,
}

/// How a module holds the checksums of its imports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionsForm {
    /// `__versions`: names of up to 55 characters.
    Basic,
    /// `__version_ext_crcs` and `__version_ext_names`, since 6.14. Where both forms exist, this one counts.
    Extended,
}

pub(super) fn versions(file: &Elf<'_>) -> Result<Option<Versions>, ObjectError> {
    let basic = basic_versions(file)?;
    let extended = file.allocated("__version_ext_crcs").zip(file.allocated("__version_ext_names"));
    if let Some((crcs, names)) = extended {
        bounded(crcs.data.len() / 4, MAX_UNDEFINED)?;
        let crcs = (0..).step_by(4).map_while(|offset| file.u32(crcs.data, offset));
        // A zero ends each name; behind the last one stands nothing.
        let names = names.data.split(|&byte| byte == 0);
        let crcs = by_name(names.zip(crcs).map(|(name, crc)| (text(name), crc)));
        return Ok(Some(Versions { form: VersionsForm::Extended, crcs, basic }));
    }
    Ok(basic.map(|crcs| Versions { form: VersionsForm::Basic, crcs, basic: None }))
}

fn basic_versions(file: &Elf<'_>) -> Result<Option<HashMap<String, u32>>, ObjectError> {
    let Some(table) = file.allocated("__versions") else { return Ok(None) };
    bounded(table.data.len() / VERSION_ENTRY, MAX_UNDEFINED)?;
    let entry = |entry: &[u8]| {
        // The checksum is an unsigned long of which 32 bits are used: the last ones where the byte order is big.
        let big = file.endian == object::Endianness::Big;
        let crc = file.u32(entry, if big { file.word() - 4 } else { 0 })?;
        Some((text(c_string(entry, file.word())?), crc))
    };
    Ok(Some(by_name(table.data.chunks_exact(VERSION_ENTRY).filter_map(entry))))
}

/// Of several checksums of one symbol, the kernel takes the first.
fn by_name(entries: impl Iterator<Item = (String, u32)>) -> HashMap<String, u32> {
    let mut crcs = HashMap::new();
    for (name, crc) in entries {
        crcs.entry(name).or_insert(crc);
    }
    crcs
}

/// In the order of the symbol table: when several are missing, the kernel's error is that of the last.
pub(super) fn imports(file: &Elf<'_>, versions: Option<&Versions>) -> Vec<Import> {
    let wanted = |symbol: &&Symbol<'_>| is_wanted(file, symbol);
    let import = |found: &Symbol<'_>| {
        let symbol = text(found.name);
        let crc = versions.and_then(|versions| versions.crcs.get(&symbol).copied());
        Import { symbol, weak: found.weak, crc }
    };
    listed(file).filter(wanted).map(import).collect()
}

/// Common symbols, each with how many imports stand before it. Those of the link-time optimizer are marks, and let pass.
pub(super) fn common(file: &Elf<'_>) -> Result<Vec<(usize, String)>, ObjectError> {
    let counts =
        |symbol: &Symbol<'_>| symbol.place == Place::Common && !symbol.name.starts_with(b"__gnu_lto");
    bounded(listed(file).filter(|symbol| counts(symbol)).count(), MAX_COMMON)?;
    let mut imports = 0;
    let common = |symbol: &Symbol<'_>| {
        imports += usize::from(is_wanted(file, symbol));
        counts(symbol).then(|| (imports, text(symbol.name)))
    };
    Ok(listed(file).filter_map(common).collect())
}

/// The first symbol of a table stands for none.
fn listed<'a, 'data>(file: &'a Elf<'data>) -> impl Iterator<Item = &'a Symbol<'data>> {
    file.symbols.iter().skip(1)
}

fn is_wanted(file: &Elf<'_>, symbol: &Symbol<'_>) -> bool {
    symbol.place == Place::Undefined && !is_ignored(file.machine, symbol.name)
}

/// Undefined symbols that assemblers leave behind and the architecture's loader does not look up.
fn is_ignored(machine: u16, name: &[u8]) -> bool {
    match elf::Machine(machine) {
        elf::EM_X86_64 | elf::EM_386 => name == b"_GLOBAL_OFFSET_TABLE_",
        elf::EM_PPC64 => name == b".TOC.",
        _ => false,
    }
}

pub(super) fn exports(file: &Elf<'_>) -> Result<Vec<Export>, ObjectError> {
    let Some(strings) = file.sections.iter().position(|section| section.name == b"__ksymtab_strings") else {
        return Ok(Vec::new());
    };
    let checksums = file.symbols_with_prefix("__crc_");
    let tables = || SYMBOL_TABLES.iter().filter_map(|name| file.allocated(name));
    bounded(tables().map(|table| table.relocations.len()).sum(), 3 * MAX_EXPORTS)?;
    Ok(tables().flat_map(|table| table_exports(file, table, strings, &checksums)).collect())
}

/// The entries of one table. `struct kernel_symbol` has had two or three members of four or eight bytes; its relocations
/// tell it in any of these forms: one for the value, then one or two into the strings (name, namespace).
fn table_exports(
    file: &Elf<'_>,
    table: &Section<'_>,
    strings: usize,
    checksums: &HashMap<&[u8], &Symbol<'_>>,
) -> Vec<Export> {
    let gpl_table = table.name.ends_with(b"_gpl");
    let flags = file
        .allocated("__kflagstab")
        .filter(|_| table.name == b"__ksymtab")
        .map_or(&[][..], |flags| flags.data);
    let suffix = table.name.strip_prefix(b"__ksymtab").unwrap_or_default();
    let crcs = file.sections.iter().find(|section| section.name.strip_prefix(b"__kcrctab") == Some(suffix));
    entries(file, table, strings)
        .into_iter()
        .enumerate()
        .filter(|(_, entry)| !entry.name.is_empty())
        .map(|(index, entry)| Export {
            symbol: text(entry.name),
            crc: match checksums.get(entry.name) {
                Some(symbol) => crc_at(file, symbol),
                None => crcs
                    .filter(|crcs| crcs.relocations.is_empty())
                    .and_then(|crcs| file.u32(crcs.data, index * 4)),
            },
            // Bit 0: KSYM_FLAG_GPL_ONLY.
            gpl_only: gpl_table || flags.get(index).is_some_and(|flags| flags & 1 != 0),
            namespace: Some(text(entry.namespace)).filter(|namespace| !namespace.is_empty()),
        })
        .collect()
}

#[derive(Default)]
struct Entry<'data> {
    name: &'data [u8],
    namespace: &'data [u8],
}

fn entries<'data>(file: &Elf<'data>, table: &Section<'data>, strings: usize) -> Vec<Entry<'data>> {
    let data = file.sections.get(strings).map_or(&[][..], |section| section.data);
    let mut entries: Vec<Entry<'data>> = Vec::new();
    let mut members = 0;
    for relocation in &table.relocations {
        let Some(symbol) = file.symbols.get(relocation.symbol) else { continue };
        if symbol.place != Place::Section(strings) {
            entries.push(Entry::default());
            members = 0;
            continue;
        }
        members += 1;
        let offset = symbol
            .value
            .checked_add_signed(relocation.addend)
            .and_then(|offset| usize::try_from(offset).ok());
        let text = offset.and_then(|offset| c_string(data, offset)).unwrap_or_default();
        match (entries.last_mut(), members) {
            (Some(entry), 1) => entry.name = text,
            (Some(entry), 2) => entry.namespace = text,
            _ => {}
        }
    }
    entries
}

/// `__crc_<name>` is the checksum itself (absolute) or the place where it stands, depending on the kernel's age.
fn crc_at(file: &Elf<'_>, symbol: &Symbol<'_>) -> Option<u32> {
    match symbol.place {
        Place::Absolute => u32::try_from(symbol.value & 0xffff_ffff).ok(),
        Place::Section(index) => {
            file.u32(file.sections.get(index)?.data, usize::try_from(symbol.value).ok()?)
        }
        Place::Undefined | Place::Common | Place::Other => None,
    }
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
