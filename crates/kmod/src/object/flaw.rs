//! What is odd about a module file and may make a kernel refuse it, although it can be read. Whether a kernel minds
//! depends on its age; the reader only notes.

use object::Endianness;
use object::elf;
use object::read::elf::{FileHeader, Rela as _, SectionHeader as _, SectionTable};

use super::ObjectError;
use super::elf::{Elf, Section};

/// Something odd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// The first section stands for none, and must be empty.
    #[error("the first section is not empty")]
    FirstSection,
    /// Several `.modinfo`.
    #[error("it has more than one section .modinfo")]
    SeveralInfos,
    /// Several symbol tables.
    #[error("it has more than one symbol table")]
    SeveralSymbolTables,
    /// Several `.gnu.linkonce.this_module`.
    #[error("it has more than one section .gnu.linkonce.this_module")]
    SeveralStructModules,
    /// `.gnu.linkonce.this_module` has no bytes in the file, or none in memory.
    #[error("its section .gnu.linkonce.this_module has no bytes")]
    NoStructModule,
    /// The symbols' names do not begin and end with a zero byte.
    #[error("the symbols' names do not begin and end with a zero byte")]
    SymbolNames,
    /// Extended checksums without as many names, or names without checksums.
    #[error("its extended checksums and their names do not belong together")]
    ExtendedVersions,
    /// It exports symbols and has no `__kflagstab`.
    #[error("it was built for a kernel that keeps no flags of exported symbols")]
    NoExportFlags,
    /// A section that can be both written and executed.
    #[error("section {0} can be both written and executed")]
    WritableCode(usize),
    /// Relocations without addends, which 64-bit kernels do not know.
    #[error("section {0} has relocations without addends")]
    NoAddends(usize),
    /// A kind of relocation that kernels do not know.
    #[error("it has a relocation of kind {0}")]
    Relocation(u32),
    /// Type information with a header that is none.
    #[error("its type information cannot be read")]
    TypeInformation,
}

/// What shows in the sections.
pub(super) fn of_sections(file: &Elf<'_>, flaws: &mut Vec<Flaw>) {
    let count = |name: &str| file.sections.iter().filter(|section| section.name == name.as_bytes()).count();
    let mut note = |found: bool, flaw| flaws.extend(found.then_some(flaw));
    note(count(".modinfo") > 1, Flaw::SeveralInfos);
    let tables = file.sections.iter().filter(|section| section.kind == elf::SHT_SYMTAB);
    note(tables.count() > 1, Flaw::SeveralSymbolTables);
    note(count(".gnu.linkonce.this_module") > 1, Flaw::SeveralStructModules);
    let bare = |section: &Section<'_>| !section.is_allocated() || section.kind == elf::SHT_NOBITS;
    note(file.section(".gnu.linkonce.this_module").is_some_and(bare), Flaw::NoStructModule);
    note(!extended_versions_match(file), Flaw::ExtendedVersions);
    let exports = file.allocated("__ksymtab").is_some_and(|table| table.size > 0);
    note(exports && file.allocated("__kflagstab").is_none(), Flaw::NoExportFlags);
    let both = elf::SHF_WRITE.0 | elf::SHF_EXECINSTR.0;
    let is_amd64 = elf::Machine(file.machine) == elf::EM_X86_64;
    let counts = |section: &Section<'_>| is_amd64 || !LOADER_FILLED.contains(&section.name);
    let both = |section: &Section<'_>| section.flags & both == both && counts(section);
    let writable = file.sections.iter().position(both);
    flaws.extend(writable.map(Flaw::WritableCode));
    let types = file.section(".BTF").filter(|section| section.size > 0);
    if types.is_some_and(|types| !file.begins_with_u16(types.data, BTF_MAGIC)) {
        flaws.push(Flaw::TypeInformation);
    }
}

/// Linkers leave these writable and executable where the kernel makes jumps of its own in them; it sets their flags itself
/// (`module_frob_arch_sections` of arm, arm64, riscv and others).
const LOADER_FILLED: [&[u8]; 4] = [b".plt", b".init.plt", b".core.plt", b".text.ftrace_trampoline"];

/// `struct btf_header` begins with it (`include/uapi/linux/btf.h`).
const BTF_MAGIC: u16 = 0xeb9f;

fn extended_versions_match(file: &Elf<'_>) -> bool {
    match (file.allocated("__version_ext_crcs"), file.allocated("__version_ext_names")) {
        (None, None) => true,
        (Some(crcs), Some(names)) => {
            let ends = names.data.iter().filter(|&&byte| byte == 0);
            ends.count() >= crcs.data.len() / size_of::<u32>()
        }
        _ => false,
    }
}

/// The kinds that `apply_relocate_add` of `arch/x86/kernel/module.c` knows.
const X86_64: [elf::RelocationType; 7] = [
    elf::R_X86_64_NONE,
    elf::R_X86_64_64,
    elf::R_X86_64_32,
    elf::R_X86_64_32S,
    elf::R_X86_64_PC32,
    elf::R_X86_64_PLT32,
    elf::R_X86_64_PC64,
];

/// What shows in the relocations of what is kept in memory. Sections may overlap in a file, so no more relocations are
/// read than one without overlaps can hold.
pub(super) fn of_relocations<Header: FileHeader<Endian = Endianness>>(
    table: &SectionTable<'_, Header>,
    header: &Header,
    endian: Endianness,
    bytes: &[u8],
    flaws: &mut Vec<Flaw>,
) -> Result<(), ObjectError> {
    let is_amd64 = header.e_machine(endian) == elf::EM_X86_64;
    let limit = bytes.len() / size_of::<Header::Rela>();
    let mut count = 0;
    for (index, section) in table.iter().enumerate() {
        let target = table.section(section.info_link(endian));
        let kept = target.is_ok_and(|target| target.sh_flags(endian).0 & elf::SHF_ALLOC.0 != 0);
        if !kept || !header.is_type_64() {
            continue;
        }
        if section.sh_type(endian) == elf::SHT_REL {
            flaws.push(Flaw::NoAddends(index));
        }
        let Some((entries, _)) = section.rela(endian, bytes).map_err(ObjectError::Malformed)? else {
            continue;
        };
        count += entries.len();
        if count > limit {
            return Err(ObjectError::TooMany { count, limit });
        }
        let known = |kind: &elf::RelocationType| !is_amd64 || X86_64.contains(kind);
        let unknown = entries.iter().map(|entry| entry.r_type(endian, false)).find(|kind| !known(kind));
        flaws.extend(unknown.map(|kind| Flaw::Relocation(kind.0)));
    }
    Ok(())
}
