//! What a module's parameters take, as its code has it: `.modinfo` only describes them.

use std::collections::HashMap;

use super::ObjectError;
use super::elf::{Elf, Place, Symbol, bounded, c_string};
use super::symbols::text;

/// More parameters than any module has; their names may overlap in a file.
const MAX_PARAMETERS: usize = 1 << 12;

/// How many elements an array parameter takes, and how many bytes a string parameter: the first member of
/// `struct kparam_array` and of `struct kparam_string`, which `module_param_array` and `module_param_string` leave in
/// the file under these names. A stripped symbol table has none.
pub(super) fn limits(file: &Elf<'_>) -> Result<HashMap<String, u32>, ObjectError> {
    bounded(file.symbols.iter().filter(|symbol| limited(symbol).is_some()).count(), MAX_PARAMETERS)?;
    let limit = |symbol: &Symbol<'_>| {
        let name = limited(symbol)?;
        let Place::Section(section) = symbol.place else { return None };
        let value = file.u32(file.sections.get(section)?.data, usize::try_from(symbol.value).ok()?)?;
        Some((text(name), value))
    };
    Ok(file.symbols.iter().filter_map(limit).collect())
}

/// The parameter whose limit a symbol holds.
fn limited<'data>(symbol: &Symbol<'data>) -> Option<&'data [u8]> {
    ["__param_arr_", "__param_string_"].iter().find_map(|prefix| symbol.name.strip_prefix(prefix.as_bytes()))
}

/// Who reads each parameter's value: the symbol of the kernel's own reader (`param_ops_int`), or none where the module brings
/// one. Nothing at all where the table cannot be read.
pub(super) fn readers(file: &Elf<'_>) -> HashMap<String, Option<String>> {
    complete_readers(file).unwrap_or_default()
}

/// `struct kernel_param` begins with pointers to the name, the module and the reader; behind a short stand a byte or two,
/// and another pointer (`include/linux/moduleparam.h`).
fn complete_readers(file: &Elf<'_>) -> Option<HashMap<String, Option<String>>> {
    let table = file.allocated("__param")?;
    bounded(table.relocations.len(), 4 * MAX_PARAMETERS).ok()?;
    let (word, size) = (file.word() as u64, if file.is_64 { 40 } else { 20 });
    let mut names = HashMap::new();
    let mut readers = HashMap::new();
    for relocation in &table.relocations {
        let (index, member) = (relocation.offset / size, relocation.offset % size);
        let symbol = file.symbols.get(relocation.symbol)?;
        if member == 0 {
            let Place::Section(section) = symbol.place else { return None };
            let offset = symbol.value.checked_add_signed(relocation.addend)?;
            let name = c_string(file.sections.get(section)?.data, usize::try_from(offset).ok()?)?;
            names.insert(index, text(name).replace('-', "_"));
        } else if member == 2 * word {
            let imported = symbol.place == Place::Undefined;
            readers.insert(index, imported.then(|| text(symbol.name)));
        }
    }
    let complete = names.len() as u64 == table.size / size && names.len() == readers.len();
    let found = names.into_iter().map(|(index, name)| Some((name, readers.remove(&index)?)));
    found.collect::<Option<_>>().filter(|_| complete)
}
