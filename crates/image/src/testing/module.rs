//! The smallest file that passes for a kernel module.

/// Of an ELF header for 64 bits.
const HEADER: usize = 64;
/// Of an entry in its table of sections.
const SECTION: usize = 64;

/// A relocatable ELF object for this machine (`e_machine`: 62 is x86-64, 183 is arm64) with the sections that make a
/// module, built for this kernel. It has no code: no kernel would load it.
pub fn module(machine: u16, name: &str, kernel: &str) -> Vec<u8> {
    let info = format!("name={name}\0vermagic={kernel} SMP mod_unload modversions \0license=GPL\0");
    let names = b"\0.modinfo\0.gnu.linkonce.this_module\0.shstrtab\0.symtab\0.strtab\0";
    let this_module = [0; 64];
    // Where a section's name starts in `names`, its type (SHT_PROGBITS, SHT_STRTAB, SHT_SYMTAB), its content, the section
    // that it needs and the size of its entries. The symbol table has the null symbol alone.
    let sections: [(u32, u32, &[u8], u32, u64); 5] = [
        (1, 1, info.as_bytes(), 0, 0),
        (10, 1, &this_module, 0, 0),
        (36, 3, names, 0, 0),
        (46, 2, &[0; 24], 5, 24),
        (54, 3, &[0], 0, 0),
    ];

    let mut contents = Vec::new();
    let mut table = vec![0; SECTION];
    for (name, kind, content, link, entry) in sections {
        let offset = (HEADER + contents.len()) as u64;
        table.extend(name.to_le_bytes());
        table.extend(kind.to_le_bytes());
        // SHF_ALLOC: kept in memory, without which the kernel overlooks it.
        table.extend(if kind == 1 { 2_u64 } else { 0 }.to_le_bytes());
        table.extend([0; 8]);
        table.extend(offset.to_le_bytes());
        table.extend((content.len() as u64).to_le_bytes());
        table.extend(link.to_le_bytes());
        table.extend([0; 4]);
        table.extend(1_u64.to_le_bytes());
        table.extend(entry.to_le_bytes());
        contents.extend(content);
    }
    contents.resize(contents.len().next_multiple_of(8), 0);

    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    // ET_REL, the machine, version 1, no entry point, no program headers.
    file.extend(1_u16.to_le_bytes());
    file.extend(machine.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    file.extend([0; 16]);
    file.extend(((HEADER + contents.len()) as u64).to_le_bytes());
    file.extend([0; 4]);
    // Sizes of the header, of program headers and their number, of sections, their number, and where their names are.
    for size in [64_u16, 0, 0, 64, 6, 3] {
        file.extend(size.to_le_bytes());
    }
    [file, contents, table].concat()
}
