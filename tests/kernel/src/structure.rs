//! What can be wrong with the frame of a module file, and with what the kernel looks up in it by section: the second half of
//! the catalogue in [`broken`](crate::broken).

use crate::broken::{Change, NOBODYS, field, first, hide, put, vermagic};
use crate::elf::{ModuleFile, NewSymbol, header, section};

/// Flags of sections.
mod flag {
    pub(super) const WRITE: u64 = 1;
    pub(super) const ALLOCATED: u64 = 2;
}

const THIS_MODULE: &str = ".gnu.linkonce.this_module";

/// Where in the file header the version of the format stands, once in a byte and once in four.
const VERSIONS: [usize; 2] = [6, 0x14];

pub(crate) const CHANGES: &[(&str, Change)] = &[
    ("no version of ELF in the header", |file| put(file, VERSIONS[0], &[0])),
    ("another version of ELF in the header", |file| put(file, VERSIONS[1], &[9])),
    ("section headers at an odd place", |file| {
        file.move_headers(file.length().next_multiple_of(16) + 1);
        true
    }),
    ("section headers at the file's beginning", |file| put(file, header::SECTIONS, &[0; 8])),
    ("a kind in the empty section", |file| put_first(file, section::TYPE, 1)),
    ("a size in the empty section", |file| put_first(file, section::SIZE, 8)),
    ("a name beyond the names in the empty section", |file| put_first(file, section::NAME, 0x7f)),
    ("section names that do not end", |file| {
        let names = file.names();
        let end = file.offset(names) + file.content(names).len() - 1;
        put(file, end, b"x")
    }),
    ("no section names", |file| {
        let names = file.names();
        file.replace(names, &[]);
        true
    }),
    ("a section's name beyond the names", |file| field(file, ".modinfo", section::NAME, &[0xff, 0xff, 0, 0])),
    ("symbols' names in no section", |file| field(file, ".symtab", section::LINK, &[0xff, 0x7f, 0, 0])),
    ("symbols' names that do not begin with none", |file| {
        let names = file.linked(file.section(".symtab").unwrap());
        put(file, file.offset(names), b"x")
    }),
    ("symbols' names that do not end", |file| {
        let names = file.linked(file.section(".symtab").unwrap());
        put(file, file.offset(names) + file.content(names).len() - 1, b"x")
    }),
    ("a symbol's name beyond the names", |file| {
        let at = file.wanted().first().unwrap().0;
        put(file, at, &[0xff, 0xff, 0xff, 0])
    }),
    ("a second .modinfo", |file| twice(file, ".modinfo")),
    ("a second symbol table", |file| twice(file, ".symtab")),
    ("a second struct module", |file| twice(file, THIS_MODULE)),
    ("an unallocated struct module", |file| {
        let header = file.section(THIS_MODULE).unwrap();
        file.change_flags(header, flag::ALLOCATED, 0);
        true
    }),
    ("no content in struct module", |file| field(file, THIS_MODULE, section::TYPE, &[8, 0, 0, 0])),
    ("checksums that are not allocated", |file| unallocated(file, "__versions")),
    ("wrong checksums that are not allocated", |file| {
        let name = first(file);
        file.change_checksum(&name) && unallocated(file, "__versions")
    }),
    ("an unallocated list of what it offers", |file| unallocated(file, "__ksymtab")),
    ("code that can be written", |file| {
        let header = code(file, "");
        file.change_flags(header, 0, flag::WRITE);
        true
    }),
    ("a kind of relocation that is none", |file| {
        let relocations = file.offset(code(file, ".rela"));
        put(file, relocations + 8, &[0xfe])
    }),
    ("relocations without addends", |file| {
        let header = code(file, ".rela");
        put(file, header + section::TYPE, &[9, 0, 0, 0])
    }),
    ("no checksum of module_layout", |file| without_checksum(file, "module_layout")),
    ("no checksum of the first symbol", |file| {
        let name = first(file);
        without_checksum(file, &name)
    }),
    ("an empty list of checksums", |file| file.change_versions(|_| Vec::new())),
    ("a second, wrong checksum", |file| {
        file.change_versions(|entries| {
            let wrong = entries.iter().map(|entry| flipped(*entry));
            entries.iter().copied().chain(wrong).collect()
        })
    }),
    ("a wrong checksum, then the right one", |file| {
        file.change_versions(|entries| {
            let wrong: Vec<_> = entries.iter().map(|entry| flipped(*entry)).collect();
            wrong.into_iter().chain(entries).collect()
        })
    }),
    ("extended checksums without names", |file| {
        extend(file, "__version_ext_crcs", &[0; 4]);
        true
    }),
    ("extended names without checksums", |file| {
        extend(file, "__version_ext_names", b"printk\0");
        true
    }),
    ("more extended checksums than names", |file| {
        extend(file, "__version_ext_crcs", &[0; 8]);
        extend(file, "__version_ext_names", b"printk\0");
        true
    }),
    ("extended checksums that are wrong", |file| {
        let name = first(file);
        extend(file, "__version_ext_crcs", &[0; 4]);
        extend(file, "__version_ext_names", &[name.as_bytes(), &[0]].concat());
        true
    }),
    ("no checksums of what it offers", |file| {
        let found = ["__kcrctab", "__kcrctab_gpl"].map(|name| hide(file, name));
        found.contains(&true)
    }),
    ("no flags of what it offers", |file| hide(file, "__kflagstab")),
    ("offers what the kernel offers", |file| {
        let Some(header) = file.section("__ksymtab_strings") else { return false };
        put(file, file.offset(header), b"kfree\0")
    }),
    ("another name in .modinfo alone", |file| {
        file.set_info("name", &["tenon_renamed"]);
        true
    }),
    ("another name in the structure alone", |file| {
        file.rename_struct("tenon_renamed");
        true
    }),
    ("no name in .modinfo", |file| {
        file.set_info("name", &[]);
        true
    }),
    ("a name of 55 letters", |file| {
        file.rename(&"n".repeat(55));
        true
    }),
    ("the name of one that is known for its licence", |file| {
        file.rename("driverloader");
        true
    }),
    ("a second vermagic that is wrong", |file| {
        let Some(text) = file.info("vermagic") else { return false };
        file.set_info("vermagic", &[&text, "9.9.9"]);
        true
    }),
    ("vermagic without its last blank", |file| vermagic(file, |text| text.trim_end().to_owned())),
    ("a module's namespace", |file| {
        file.set_info("import_ns", &["module:dummy"]);
        true
    }),
    ("a livepatch", |file| {
        file.set_info("livepatch", &["Y"]);
        true
    }),
    ("not compiled with retpolines", |file| {
        file.set_info("retpoline", &[]);
        true
    }),
    ("a symbol more that has no name", |file| {
        file.add_symbol("", NewSymbol::Wanted);
        true
    }),
    ("a mark of the link-time optimizer more", |file| {
        file.add_symbol("__gnu_lto_v1", NewSymbol::Common);
        true
    }),
    ("a weak symbol more that is GPL-only, proprietary", |file| {
        file.set_info("license", &["Proprietary"]);
        file.add_symbol("__rcu_read_lock", NewSymbol::Weak);
        true
    }),
    ("a weak symbol of a namespace more", |file| {
        file.add_symbol("dma_buf_get", NewSymbol::Weak);
        true
    }),
    ("an offset table more", |file| {
        file.add_symbol("_GLOBAL_OFFSET_TABLE_", NewSymbol::Wanted);
        true
    }),
    ("nobody's symbol, and vermagic of another", |file| {
        file.add_symbol(NOBODYS, NewSymbol::Wanted);
        vermagic(file, |text| text.replacen(" SMP", " UP", 1))
    }),
    ("broken type information", |file| {
        let Some(header) = file.section(".BTF") else { return false };
        put(file, file.offset(header), &[0; 24])
    }),
];

/// The header of a section with code, or of what belongs to it.
fn code(file: &ModuleFile, prefix: &str) -> usize {
    let names = [".text", ".init.text", ".exit.text"];
    names.iter().find_map(|name| file.section(&format!("{prefix}{name}"))).unwrap()
}

/// Changes something in the header of the section that stands for none.
fn put_first(file: &mut ModuleFile, field: usize, value: u8) -> bool {
    let header = file.header_of(0);
    put(file, header + field, &[value])
}

fn twice(file: &mut ModuleFile, name: &str) -> bool {
    let header = file.section(name).unwrap();
    let content = file.content(header).to_vec();
    file.add_section(header, name, &content);
    true
}

/// A list of checksums in the extended form, allocated as `.modinfo` is.
fn extend(file: &mut ModuleFile, name: &str, content: &[u8]) {
    let header = file.section(".modinfo").unwrap();
    file.add_section(header, name, content);
}

fn unallocated(file: &mut ModuleFile, name: &str) -> bool {
    let Some(header) = file.section(name) else { return false };
    file.change_flags(header, flag::ALLOCATED, 0);
    true
}

fn without_checksum(file: &mut ModuleFile, symbol: &str) -> bool {
    let is_it = |entry: &[u8]| entry.split_at(8).1.split(|byte| *byte == 0).next() == Some(symbol.as_bytes());
    file.change_versions(|entries| entries.into_iter().filter(|entry| !is_it(entry)).collect())
}

fn flipped<const N: usize>(mut entry: [u8; N]) -> [u8; N] {
    entry.split_at_mut(1).0.fill(0x5a);
    entry
}
