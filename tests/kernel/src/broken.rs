//! What can be wrong with a module file, one thing at a time. Each entry makes of a good file a bad one, or one that is
//! still good where one would not think so.

use crate::elf::{ModuleFile, NewSymbol, header, section};
use crate::structure;

/// A changed file, and in what respect.
#[derive(Debug, Clone)]
pub struct Mutant {
    /// What was done to it.
    pub change: String,
    /// The file.
    pub file: Vec<u8>,
}

/// A symbol that no kernel has.
pub(crate) const NOBODYS: &str = "tenon_exported_by_nobody";

pub(crate) type Change = fn(&mut ModuleFile) -> bool;

/// What is done to the file; false where it does not apply. Not here is what kernels die of instead of refusing it: a
/// section's name beyond the names (6.12), a wrong size of `struct module` before 6.4.
const CHANGES: &[(&str, Change)] = &[
    ("unchanged", |_| true),
    ("another release in vermagic", |file| {
        vermagic(file, |text| text.replacen(|c: char| c.is_ascii_digit(), "9", 1))
    }),
    ("another flag in vermagic", |file| vermagic(file, |text| text.replacen(" SMP", " UP", 1))),
    ("one flag more in vermagic", |file| vermagic(file, |text| format!("{text}preempt_lazy "))),
    ("vermagic without flags", |file| vermagic(file, |text| text.split(' ').next().unwrap().to_owned())),
    ("empty vermagic", |file| vermagic(file, |_| String::new())),
    ("no vermagic", |file| {
        file.set_info("vermagic", &[]);
        true
    }),
    ("checksum of module_layout", |file| file.change_checksum("module_layout")),
    ("checksum of the first symbol", |file| {
        let name = first(file);
        file.change_checksum(&name)
    }),
    ("checksum of the last symbol", |file| {
        let name = last(file);
        file.change_checksum(&name)
    }),
    ("no checksums", |file| hide(file, "__versions")),
    ("no .modinfo", |file| hide(file, ".modinfo")),
    ("no struct module", |file| hide(file, ".gnu.linkonce.this_module")),
    ("a larger struct module", |file| resize(file, 64)),
    ("a smaller struct module", |file| resize(file, -64)),
    ("an empty struct module", |file| field(file, ".gnu.linkonce.this_module", section::SIZE, &[0; 8])),
    ("proprietary", |file| {
        file.set_info("license", &["Proprietary"]);
        true
    }),
    ("no licence", |file| {
        file.set_info("license", &[]);
        true
    }),
    ("another free licence", |file| {
        file.set_info("license", &["Dual MIT/GPL"]);
        true
    }),
    ("proprietary first, free second", |file| {
        file.set_info("license", &["Proprietary", "GPL"]);
        true
    }),
    ("not in the tree", |file| {
        file.set_info("intree", &[]);
        true
    }),
    ("another name", |file| {
        file.rename("tenon_renamed");
        true
    }),
    ("the first symbol is nobody's", |file| {
        let at = symbol(file, 0);
        file.rename_symbol(at, NOBODYS);
        true
    }),
    ("the last symbol is nobody's", |file| {
        let at = symbol(file, usize::MAX);
        file.rename_symbol(at, NOBODYS);
        true
    }),
    ("a symbol more that is nobody's", |file| {
        file.add_symbol(NOBODYS, NewSymbol::Wanted);
        true
    }),
    ("a weak symbol more that is nobody's", |file| {
        file.add_symbol(NOBODYS, NewSymbol::Weak);
        true
    }),
    ("a common symbol more", |file| {
        file.add_symbol(NOBODYS, NewSymbol::Common);
        true
    }),
    ("a common symbol more, then one that is nobody's", |file| {
        file.add_symbol("tenon_common", NewSymbol::Common);
        file.add_symbol(NOBODYS, NewSymbol::Wanted);
        true
    }),
    ("wrong checksum first, nobody's symbol last", |file| {
        let name = first(file);
        file.add_symbol(NOBODYS, NewSymbol::Wanted);
        file.change_checksum(&name)
    }),
    ("nobody's symbol first, wrong checksum last", |file| {
        let (name, at) = (last(file), symbol(file, 0));
        let changed = file.change_checksum(&name);
        file.rename_symbol(at, NOBODYS);
        changed
    }),
    ("a GPL-only symbol more, without checksum", |file| {
        file.add_symbol("__rcu_read_lock", NewSymbol::Wanted);
        true
    }),
    ("a GPL-only symbol more, proprietary", |file| {
        file.set_info("license", &["Proprietary"]);
        file.add_symbol("__rcu_read_lock", NewSymbol::Wanted);
        true
    }),
    ("a symbol of a namespace more", |file| {
        file.add_symbol(NAMESPACED.0, NewSymbol::Wanted);
        true
    }),
    ("a symbol of an imported namespace more", |file| {
        file.add_symbol(NAMESPACED.0, NewSymbol::Wanted);
        file.set_info("import_ns", &["TENON", NAMESPACED.1]);
        true
    }),
    ("an unused namespace", |file| {
        file.set_info("import_ns", &["TENON"]);
        true
    }),
    ("no symbol table", |file| field(file, ".symtab", section::TYPE, &[0; 4])),
    ("symbols without names", |file| field(file, ".symtab", section::LINK, &[0; 4])),
    ("a section beyond the end", |file| {
        field(file, ".modinfo", section::OFFSET, &[0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0])
    }),
    ("no magic", |file| put(file, header::MAGIC, b"\x7fELV")),
    ("32 bits in the header", |file| put(file, header::CLASS, &[1])),
    ("the other byte order in the header", |file| put(file, header::ORDER, &[2])),
    ("an executable", |file| put(file, header::TYPE, &[2, 0])),
    ("a shared object", |file| put(file, header::TYPE, &[3, 0])),
    ("for arm64", |file| put(file, header::MACHINE, &[183, 0])),
    ("for no machine", |file| put(file, header::MACHINE, &[0, 0])),
    ("section headers of another size", |file| put(file, header::ENTRY_SIZE, &[40, 0])),
    ("section headers beyond the end", |file| put(file, header::SECTIONS, &[0xff, 0xff, 0xff, 0x7f])),
    ("more section headers than there are", |file| put(file, header::COUNT, &[0xff, 0x7f])),
    ("no section header", |file| put(file, header::COUNT, &[0, 0])),
    ("no section with names", |file| put(file, header::NAMES, &[0, 0])),
    ("cut at the half", |file| {
        file.truncate(file.length() / 2);
        true
    }),
    ("cut in the header", |file| {
        file.truncate(40);
        true
    }),
    ("cut behind the header", |file| {
        file.truncate(64);
        true
    }),
    ("cut by a byte", |file| {
        file.truncate(file.length() - 1);
        true
    }),
    ("empty", |file| {
        file.truncate(0);
        true
    }),
];

/// An exported symbol that stands in the same namespace in all kernels of the lab.
const NAMESPACED: (&str, &str) = ("dma_buf_get", "DMA_BUF");

/// Every change of this half of the catalogue that applies to the module, each alone, on the file without its signature.
pub fn mutants(file: &[u8]) -> Vec<Mutant> {
    each(file, CHANGES)
}

/// The same of the other half.
pub fn damaged(file: &[u8]) -> Vec<Mutant> {
    each(file, structure::CHANGES)
}

/// The module with one change of either half.
pub fn mutant(file: &[u8], change: &str) -> Option<Mutant> {
    mutants(file).into_iter().chain(damaged(file)).find(|mutant| mutant.change == change)
}

fn each(file: &[u8], changes: &[(&str, Change)]) -> Vec<Mutant> {
    let apply_one = |(change, apply): &(&str, Change)| {
        let mut file = ModuleFile::unsigned(file);
        apply(&mut file).then(|| Mutant { change: (*change).to_owned(), file: file.bytes() })
    };
    changes.iter().filter_map(apply_one).collect()
}

/// What can be wrong with the signature at the end of a file, which must have one.
pub fn badly_signed(file: &[u8]) -> Vec<Mutant> {
    // 12 bytes of `struct module_signature` and 28 of magic (Linux, include/linux/module_signature.h).
    let (fields, body) = (file.len() - 40, ModuleFile::unsigned(file).length());
    let flipped = |at: usize| {
        let mut file = file.to_vec();
        *file.get_mut(at).unwrap() ^= 0x55;
        file
    };
    let mut half = file.to_vec();
    half.truncate(file.len() - 1);
    let changes = [
        ("signed", file.to_vec()),
        ("signed, a byte behind the signature", [file, b"x"].concat()),
        ("signed, the magic cut off", half),
        ("signed, another body", flipped(body / 2)),
        ("signed, another signature", flipped(fields - 3)),
        ("signed, the signature's first byte", flipped(body)),
        ("signed, another algorithm", flipped(fields)),
        ("signed, another hash", flipped(fields + 1)),
        ("signed, another kind", flipped(fields + 2)),
        ("signed, a signer", flipped(fields + 3)),
        ("signed, a length beyond the file", flipped(fields + 8)),
        ("signed, a length one off", {
            let mut file = file.to_vec();
            *file.get_mut(fields + 11).unwrap() -= 1;
            file
        }),
        ("nothing but the magic", file.split_at(file.len() - 28).1.to_vec()),
    ];
    changes.into_iter().map(|(change, file)| Mutant { change: change.to_owned(), file }).collect()
}

/// Files that are no modules at all.
pub fn strangers() -> Vec<Mutant> {
    let text = "#!/bin/sh\necho hello\n";
    let files = [
        ("a text", text.into()),
        ("a long text", text.repeat(500).into_bytes()),
        ("zeros", vec![0; 4096]),
        ("an ELF magic and nothing else", b"\x7fELF".to_vec()),
        ("one byte", vec![0x7f]),
    ];
    files.into_iter().map(|(change, file)| Mutant { change: change.to_owned(), file }).collect()
}

pub(crate) fn vermagic(file: &mut ModuleFile, change: impl Fn(&str) -> String) -> bool {
    let Some(text) = file.info("vermagic") else { return false };
    file.set_info("vermagic", &[&change(&text)]);
    true
}

pub(crate) fn hide(file: &mut ModuleFile, name: &str) -> bool {
    let Some(header) = file.section(name) else { return false };
    file.hide(header);
    true
}

pub(crate) fn field(file: &mut ModuleFile, name: &str, field: usize, value: &[u8]) -> bool {
    let header = file.section(name).unwrap();
    put(file, header + field, value)
}

pub(crate) fn put(file: &mut ModuleFile, at: usize, bytes: &[u8]) -> bool {
    file.put(at, bytes);
    true
}

fn resize(file: &mut ModuleFile, by: isize) -> bool {
    let header = file.section(".gnu.linkonce.this_module").unwrap();
    let mut content = file.content(header).to_vec();
    content.resize(content.len().checked_add_signed(by).unwrap(), 0);
    file.replace(header, &content);
    true
}

pub(crate) fn symbol(file: &ModuleFile, position: usize) -> usize {
    let wanted = file.wanted();
    wanted.get(position.min(wanted.len() - 1)).unwrap().0
}

pub(crate) fn first(file: &ModuleFile) -> String {
    file.wanted().first().unwrap().1.clone()
}

pub(crate) fn last(file: &ModuleFile) -> String {
    file.wanted().last().unwrap().1.clone()
}
