//! The `.ko` reader: an ELF file in, everything that decides whether and how it loads out.
//!
//! It judges nothing: a module that no kernel would take is read as long as its structure can be. Whether it will load
//! is a question about a module *and* a kernel.

mod architecture;
mod elf;
#[cfg(test)]
pub(crate) mod fixture;
mod flaw;
mod modinfo;
mod parameters;
pub mod signature;
mod symbols;
#[cfg(test)]
mod tests;

pub use architecture::Architecture;
pub use flaw::Flaw;
pub use modinfo::{ModInfo, ParameterInfo, SoftDependencies};
pub use signature::Signature;
pub use symbols::{Export, Import, Versions, VersionsForm};

use std::collections::HashMap;

use self::elf::{Elf, c_string};
use crate::compression::Compression;
use crate::name::{ModuleName, ModuleNameError};

/// The longest build identifier that is read, in bytes; linkers make 20 or fewer.
const MAX_BUILD_ID: usize = 64;

/// The facts in a module file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModuleObject {
    /// Its name, as the kernel will list it.
    pub name: ModuleName,
    /// The machine that it was compiled for.
    pub architecture: Architecture,
    /// What it says about itself.
    pub info: ModInfo,
    /// Symbols that it needs, in the order of its symbol table.
    pub imports: Vec<Import>,
    /// Variables that the compiler left without a place, which no kernel accepts, each behind so many imports.
    pub common_symbols: Vec<(usize, String)>,
    /// Symbols that it offers.
    pub exports: Vec<Export>,
    /// Checksums of what it needs; none if it was compiled without.
    pub versions: Option<Versions>,
    /// How many elements its array parameters take, and how many bytes its string parameters, as far as it tells.
    pub parameter_limits: HashMap<String, u32>,
    /// Who reads the value of each of its parameters: the kernel's own reader, by its symbol (`param_ops_int`), or none where
    /// the module brings one. Empty where it does not tell.
    pub parameter_readers: HashMap<String, Option<String>>,
    /// The size of its `.gnu.linkonce.this_module`, in bytes: the kernel wants its own `sizeof(struct module)`.
    pub this_module_size: u64,
    /// The linker's identifier of this very build.
    pub build_id: Option<Vec<u8>>,
    /// Whether it has type information (BTF), which some kernels compare with their own.
    pub has_type_information: bool,
    /// The signature at its end.
    pub signature: Signature,
    /// What is odd about the file.
    pub flaws: Vec<Flaw>,
}

/// Why bytes are not a module that can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// There are none.
    #[error("the file is empty")]
    Empty,
    /// Packed files are unpacked first.
    #[error("the file is packed with {0}")]
    Packed(Compression),
    /// Something else altogether.
    #[error("not an ELF file")]
    NotElf,
    /// Neither 32 nor 64 bits.
    #[error("ELF class {0} is unknown")]
    Class(u8),
    /// Cut off.
    #[error("the file is cut off: it needs {needed} bytes and has {length}")]
    Truncated {
        /// How long it must be at least.
        needed: u64,
        /// How long it is.
        length: u64,
    },
    /// An executable, a shared library or a core dump.
    #[error("ELF type {0} is not a relocatable object")]
    NotRelocatable(u16),
    /// A machine on which no Kubernetes node runs.
    #[error("ELF machine {0} is unknown")]
    Machine(u16),
    /// Offsets or sizes contradict one another.
    #[error("read the ELF structure: {0}")]
    Malformed(object::Error),
    /// The header describes its sections otherwise than the class wants, or not at all.
    #[error("the ELF header names no sections, or sections of another layout")]
    Header,
    /// Stripped.
    #[error("no symbol table with names: stripped of what the kernel links it by")]
    NoSymbols,
    /// A symbol's name lies outside of the names or does not end.
    #[error("symbol {0} of the symbol table has no readable name")]
    SymbolName(usize),
    /// A symbol's name is longer than any that a kernel has.
    #[error("symbol {0} of the symbol table has a name that is too long")]
    SymbolNameLength(usize),
    /// The sections' names are not there or do not end.
    #[error("the sections have no names")]
    SectionNames,
    /// A section's name lies outside of the names.
    #[error("section {0} has no readable name")]
    SectionName(usize),
    /// More sections, symbols or relocations than any module has.
    #[error("the file lists {count} things of one kind, more than the {limit} that are read")]
    TooMany {
        /// How many.
        count: usize,
        /// How many are read.
        limit: usize,
    },
    /// More than any module says of itself.
    #[error("the section .modinfo has {size} bytes, more than the {limit} that are read")]
    Information {
        /// In bytes.
        size: usize,
        /// How many are read.
        limit: usize,
    },
    /// An ordinary object file: the section that makes a module is missing.
    #[error("no section .gnu.linkonce.this_module: an object file, but not a kernel module")]
    NotAModule,
    /// Neither `.modinfo` nor `struct module` name it.
    #[error("the module has no name")]
    NoName,
    /// It has a name that cannot be used.
    #[error("the module's name cannot be used")]
    Name(#[source] ModuleNameError),
}

impl ModuleObject {
    /// Whether it has the basic form of checksums: the kernel then skips the release in its version magic.
    pub fn has_basic_versions(&self) -> bool {
        self.versions
            .as_ref()
            .is_some_and(|versions| versions.form == VersionsForm::Basic || versions.basic.is_some())
    }

    /// Bytes of memory that these facts take, roughly: for whoever holds those of many modules at once.
    pub fn footprint(&self) -> usize {
        // A text on the heap, and the entry that it stands in.
        const ENTRY: usize = 80;
        let texts =
            |lengths: &mut dyn Iterator<Item = usize>| lengths.map(|length| length + ENTRY).sum::<usize>();
        let crcs = |crcs: &HashMap<String, u32>| texts(&mut crcs.keys().map(String::len));
        let export = |export: &Export| export.symbol.len() + export.namespace.as_ref().map_or(0, String::len);
        let reader =
            |(name, reader): (&String, &Option<String>)| name.len() + reader.as_ref().map_or(0, String::len);
        size_of::<Self>()
            + texts(&mut self.info.fields().map(|(key, value)| key.len() + value.len()))
            + texts(&mut self.imports.iter().map(|import| import.symbol.len()))
            + texts(&mut self.common_symbols.iter().map(|(_, name)| name.len()))
            + texts(&mut self.exports.iter().map(export))
            + self
                .versions
                .as_ref()
                .map_or(0, |versions| crcs(&versions.crcs) + versions.basic.as_ref().map_or(0, crcs))
            + crcs(&self.parameter_limits)
            + texts(&mut self.parameter_readers.iter().map(reader))
    }

    /// Reads an unpacked `.ko`.
    pub fn parse(bytes: &[u8]) -> Result<Self, ObjectError> {
        if let Some(compression) = Compression::detect(bytes) {
            return Err(ObjectError::Packed(compression));
        }
        let file = Elf::parse(bytes)?;
        let architecture =
            Architecture::of(file.machine, file.endian == object::Endianness::Little, file.is_64)
                .ok_or(ObjectError::Machine(file.machine))?;
        let this_module = file.section(".gnu.linkonce.this_module").ok_or(ObjectError::NotAModule)?;
        let info = file.section(".modinfo").map(|section| ModInfo::parse(section.data)).transpose()?;
        let info = info.unwrap_or_default();
        let versions = symbols::versions(&file)?;
        Ok(Self {
            name: module_name(&file, &info, this_module.data)?,
            has_type_information: file.section(".BTF").is_some_and(|types| types.size > 0),
            architecture,
            imports: symbols::imports(&file, versions.as_ref()),
            common_symbols: symbols::common(&file)?,
            exports: symbols::exports(&file)?,
            parameter_readers: parameters::readers(&file),
            parameter_limits: parameters::limits(&file)?,
            versions,
            this_module_size: this_module.size,
            build_id: file.section(".note.gnu.build-id").and_then(|section| build_id(&file, section.data)),
            signature: Signature::parse(bytes),
            flaws: file.flaws,
            info,
        })
    }
}

/// A kernel lists a module by the name in its `struct module`, behind a state (padded to a word) and two pointers. Where
/// the members of that structure are shuffled (`RANDSTRUCT`), nothing stands there, and `.modinfo` names it, too.
fn module_name(file: &Elf<'_>, info: &ModInfo, this_module: &[u8]) -> Result<ModuleName, ObjectError> {
    let name = c_string(this_module, 3 * file.word()).and_then(|name| str::from_utf8(name).ok());
    if let Some(name) = name.and_then(|name| ModuleName::new(name).ok()) {
        return Ok(name);
    }
    let name = info.get("name").filter(|name| !name.is_empty()).ok_or(ObjectError::NoName)?;
    ModuleName::new(name).map_err(ObjectError::Name)
}

/// The first GNU build identifier among the notes (name and description are padded to four bytes).
fn build_id(file: &Elf<'_>, mut notes: &[u8]) -> Option<Vec<u8>> {
    loop {
        let length = |offset| file.u32(notes, offset).and_then(|length| usize::try_from(length).ok());
        let (name, description, kind) = (length(0)?, length(4)?, file.u32(notes, 8)?);
        let start = name.checked_next_multiple_of(4)?.checked_add(12)?;
        let end = start.checked_add(description)?;
        if kind == object::elf::NT_GNU_BUILD_ID.0 && notes.get(12..)?.starts_with(b"GNU\0") {
            return notes.get(start..end).filter(|id| id.len() <= MAX_BUILD_ID).map(<[u8]>::to_vec);
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
}
