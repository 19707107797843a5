//! Small valid modules for tests, written byte by byte: what a compiler and `modpost` would leave in a `.ko`.

use object::elf;

/// How a test's module is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) machine: u16,
    pub(crate) is_64: bool,
    pub(crate) big_endian: bool,
}

pub(crate) const AMD64: Layout = Layout { machine: elf::EM_X86_64.0, is_64: true, big_endian: false };
pub(crate) const S390X: Layout = Layout { machine: elf::EM_S390.0, is_64: true, big_endian: true };
pub(crate) const ARM: Layout = Layout { machine: elf::EM_ARM.0, is_64: false, big_endian: false };

struct Section {
    name: String,
    kind: u32,
    data: Vec<u8>,
    /// None where they follow from the kind.
    flags: Option<u64>,
    link: u32,
    info: u32,
    entry: u64,
}

struct Symbol {
    name: String,
    section: u16,
    value: u64,
    bind: u8,
}

pub(crate) struct Fixture {
    layout: Layout,
    modinfo: Vec<u8>,
    sections: Vec<Section>,
    symbols: Vec<Symbol>,
    versions: Vec<(String, u32)>,
    exports: Vec<(String, Option<String>, bool, u32)>,
    symbol_tables: usize,
    versions_kept: bool,
}

impl Fixture {
    /// A module with a name, a licence and a vermagic, and nothing more.
    pub(crate) fn new(layout: Layout, name: &str) -> Self {
        let mut fixture = Self {
            layout,
            modinfo: Vec::new(),
            sections: Vec::new(),
            symbols: Vec::new(),
            versions: Vec::new(),
            exports: Vec::new(),
            symbol_tables: 1,
            versions_kept: true,
        };
        let word = if layout.is_64 { 8 } else { 4 };
        let mut this_module = vec![0; 896];
        this_module[3 * word..3 * word + name.len()].copy_from_slice(name.as_bytes());
        fixture.section(".gnu.linkonce.this_module", elf::SHT_PROGBITS.0, this_module);
        fixture
            .info("license", "GPL")
            .info("name", name)
            .info("vermagic", "6.1.0-9-test SMP mod_unload modversions ")
    }

    pub(crate) fn info(mut self, key: &str, value: &str) -> Self {
        self.modinfo.extend_from_slice(format!("{key}={value}\0").as_bytes());
        self
    }

    /// In the place of every value that the key has; none takes it away.
    pub(crate) fn replace_info(mut self, key: &str, value: Option<&str>) -> Self {
        let start = format!("{key}=");
        let others = self.modinfo.split_inclusive(|&byte| byte == 0);
        self.modinfo =
            others.filter(|field| !field.starts_with(start.as_bytes())).flatten().copied().collect();
        match value {
            Some(value) => self.info(key, value),
            None => self,
        }
    }

    /// A checksum of a symbol that is not in the symbol table.
    pub(crate) fn version(mut self, name: &str, crc: u32) -> Self {
        self.versions.push((name.to_owned(), crc));
        self
    }

    pub(crate) fn this_module_size(mut self, size: usize) -> Self {
        let sections = &mut self.sections;
        let section = sections.iter_mut().find(|section| section.name == ".gnu.linkonce.this_module");
        section.unwrap().data.resize(size, 0);
        self
    }

    /// A symbol with a value of its own in a section of its own.
    pub(crate) fn constant(mut self, name: &str, value: u32) -> Self {
        let data = self.u32(value);
        let section = self.section(&format!(".rodata.{name}"), elf::SHT_PROGBITS.0, data);
        self.symbols.push(Symbol { name: name.into(), section, value: 0, bind: elf::STB_LOCAL.0 });
        self
    }

    pub(crate) fn without_info(mut self) -> Self {
        self.modinfo.clear();
        self
    }

    pub(crate) fn without_section(mut self, name: &str) -> Self {
        self.sections
            .iter_mut()
            .filter(|section| section.name == name)
            .for_each(|section| section.name.push('x'));
        self
    }

    pub(crate) fn data(mut self, name: &str, data: Vec<u8>) -> Self {
        self.section(name, elf::SHT_PROGBITS.0, data);
        self
    }

    /// Gives sections of that name other flags than their kind has.
    pub(crate) fn flags(mut self, name: &str, flags: u64) -> Self {
        self.of_name(name).for_each(|section| section.flags = Some(flags));
        self
    }

    pub(crate) fn kind(mut self, name: &str, kind: u32) -> Self {
        self.of_name(name).for_each(|section| section.kind = kind);
        self
    }

    fn of_name(&mut self, name: &str) -> impl Iterator<Item = &mut Section> {
        self.sections.iter_mut().filter(move |section| section.name == name)
    }

    pub(crate) fn symbol_tables(mut self, count: usize) -> Self {
        self.symbol_tables = count;
        self
    }

    /// Leaves the checksums out of what is kept in memory.
    pub(crate) fn hidden_versions(mut self) -> Self {
        self.versions_kept = false;
        self
    }

    /// One of that kind, in `.rel__ksymtab`.
    pub(crate) fn relocation(mut self, kind: u32) -> Self {
        let target = self.section(".text", elf::SHT_PROGBITS.0, vec![0x90; 16]);
        self.write_relocations(target, kind, &[(0, 1, 0)]);
        self
    }

    /// A table of parameters, each with the symbol of its reader or with a reader of the module's own.
    pub(crate) fn parameters(mut self, parameters: &[(&str, Option<&str>)]) -> Self {
        let names = parameters.iter().flat_map(|(name, _)| [name.as_bytes(), b"\0"].concat()).collect();
        let names = self.section(".rodata.names", elf::SHT_PROGBITS.0, names);
        let (word, size) = if self.layout.is_64 { (8, 40) } else { (4, 20) };
        let mut data = vec![0; parameters.len() * size];
        let mut offset = 0;
        for (entry, (name, _)) in data.chunks_mut(size).zip(parameters) {
            // Where relocations have no addends, they are in place.
            if !self.layout.is_64 {
                entry[..4].copy_from_slice(&self.u32(offset));
            }
            offset += u32::try_from(name.len()).unwrap() + 1;
        }
        let table = self.section("__param", elf::SHT_PROGBITS.0, data);
        let base = u32::try_from(self.symbols.len() + 1).unwrap();
        self.symbols.push(Symbol { name: String::new(), section: names, value: 0, bind: 0 });
        let (mut relocations, mut name_at) = (Vec::new(), 0);
        for (index, (name, reader)) in parameters.iter().enumerate() {
            let at = (index * size) as u64;
            relocations.push((at, base, name_at));
            name_at += name.len() as u64 + 1;
            let symbol = match reader {
                Some(reader) => {
                    self = self.weak_import(reader);
                    u32::try_from(self.symbols.len()).unwrap()
                }
                None => base,
            };
            relocations.push((at + 2 * word, symbol, 0));
        }
        self.write_relocations(table, elf::R_X86_64_64.0, &relocations);
        self
    }

    pub(crate) fn import(mut self, name: &str, crc: Option<u32>) -> Self {
        self.symbols.push(Symbol { name: name.into(), section: 0, value: 0, bind: elf::STB_GLOBAL.0 });
        self.versions.extend(crc.map(|crc| (name.to_owned(), crc)));
        self
    }

    pub(crate) fn weak_import(mut self, name: &str) -> Self {
        self.symbols.push(Symbol { name: name.into(), section: 0, value: 0, bind: elf::STB_WEAK.0 });
        self
    }

    pub(crate) fn common(mut self, name: &str) -> Self {
        let section = elf::SHN_COMMON.0;
        self.symbols.push(Symbol { name: name.into(), section, value: 8, bind: elf::STB_GLOBAL.0 });
        self
    }

    pub(crate) fn extended_versions(self, versions: &[(&str, u32)]) -> Self {
        let crcs = versions.iter().flat_map(|&(_, crc)| self.u32(crc)).collect();
        let names = versions.iter().flat_map(|(name, _)| [name.as_bytes(), b"\0"].concat()).collect();
        self.data("__version_ext_crcs", crcs).data("__version_ext_names", names)
    }

    pub(crate) fn export(mut self, name: &str, namespace: Option<&str>, gpl: bool, crc: u32) -> Self {
        self.exports.push((name.into(), namespace.map(Into::into), gpl, crc));
        self
    }

    pub(crate) fn build(mut self) -> Vec<u8> {
        let modinfo = self.modinfo.clone();
        if !modinfo.is_empty() {
            self.section(".modinfo", elf::SHT_PROGBITS.0, modinfo);
        }
        self.write_versions();
        self.write_exports();
        self.assemble()
    }

    fn section(&mut self, name: &str, kind: u32, data: Vec<u8>) -> u16 {
        self.sections.push(Section {
            name: name.into(),
            kind,
            data,
            flags: None,
            link: 0,
            info: 0,
            entry: 0,
        });
        u16::try_from(self.sections.len()).unwrap()
    }

    fn u16(&self, value: u16) -> Vec<u8> {
        if self.layout.big_endian { value.to_be_bytes().to_vec() } else { value.to_le_bytes().to_vec() }
    }

    fn u32(&self, value: u32) -> Vec<u8> {
        if self.layout.big_endian { value.to_be_bytes().to_vec() } else { value.to_le_bytes().to_vec() }
    }

    fn word(&self, value: u64) -> Vec<u8> {
        match (self.layout.is_64, self.layout.big_endian) {
            (false, _) => self.u32(u32::try_from(value).unwrap()),
            (true, true) => value.to_be_bytes().to_vec(),
            (true, false) => value.to_le_bytes().to_vec(),
        }
    }

    fn write_versions(&mut self) {
        let versions = std::mem::take(&mut self.versions);
        if versions.is_empty() {
            return;
        }
        let mut table = Vec::new();
        for (name, crc) in versions {
            let start = table.len();
            table.extend(self.word(crc.into()));
            table.extend_from_slice(name.as_bytes());
            table.resize(start + 64, 0);
        }
        let index = self.section("__versions", elf::SHT_PROGBITS.0, table);
        self.sections[usize::from(index) - 1].flags = (!self.versions_kept).then_some(0);
    }

    /// Entries of three 32-bit offsets, each with a relocation: value, name, namespace.
    fn write_exports(&mut self) {
        let exports = std::mem::take(&mut self.exports);
        if exports.is_empty() {
            return;
        }
        let mut strings = vec![0];
        let text = self.section(".text", elf::SHT_PROGBITS.0, vec![0x90; 16]);
        let strings_index = u16::try_from(self.sections.len() + 1).unwrap();
        self.section("__ksymtab_strings", elf::SHT_PROGBITS.0, Vec::new());
        let base = u32::try_from(self.symbols.len() + 1).unwrap();
        self.symbols.push(Symbol { name: String::new(), section: text, value: 0, bind: 0 });
        self.symbols.push(Symbol { name: String::new(), section: strings_index, value: 0, bind: 0 });
        for gpl in [false, true] {
            let (mut table, mut relocations, mut crcs) = (Vec::new(), Vec::new(), Vec::new());
            for (name, namespace, _, crc) in exports.iter().filter(|export| export.2 == gpl) {
                let mut place = |text: &str| {
                    let offset = strings.len() as u64;
                    strings.extend_from_slice(text.as_bytes());
                    strings.push(0);
                    offset
                };
                let (name, namespace) = (place(name), namespace.as_deref().map_or(0, &mut place));
                for (symbol, addend) in [(base, 0), (base + 1, name), (base + 1, namespace)] {
                    relocations.push((table.len() as u64, symbol, addend));
                    // Where relocations have no addends, they are in place.
                    let in_place = if self.layout.is_64 { 0 } else { u32::try_from(addend).unwrap() };
                    table.extend(self.u32(in_place));
                }
                crcs.extend(self.u32(*crc));
            }
            if table.is_empty() {
                continue;
            }
            let suffix = if gpl { "_gpl" } else { "" };
            let table = self.section(&format!("__ksymtab{suffix}"), elf::SHT_PROGBITS.0, table);
            self.section(&format!("__kcrctab{suffix}"), elf::SHT_PROGBITS.0, crcs);
            self.write_relocations(table, elf::R_X86_64_PC32.0, &relocations);
        }
        self.sections[usize::from(strings_index) - 1].data = strings;
    }

    fn write_relocations(&mut self, target: u16, kind: u32, relocations: &[(u64, u32, u64)]) {
        let mut data = Vec::new();
        for &(offset, symbol, addend) in relocations {
            data.extend(self.word(offset));
            if self.layout.is_64 {
                data.extend(self.word(u64::from(symbol) << 32 | u64::from(kind)));
                data.extend(self.word(addend));
            } else {
                data.extend(self.u32(symbol << 8 | kind));
            }
        }
        let (form, entry) = if self.layout.is_64 { (elf::SHT_RELA.0, 24) } else { (elf::SHT_REL.0, 8) };
        let index = self.section(".rel__ksymtab", form, data);
        let section = &mut self.sections[usize::from(index) - 1];
        (section.info, section.entry) = (target.into(), entry);
    }

    fn symbol_table(&self) -> (Vec<u8>, Vec<u8>) {
        let mut names = vec![0];
        let mut table = vec![0; if self.layout.is_64 { 24 } else { 16 }];
        for symbol in &self.symbols {
            let name = if symbol.name.is_empty() { 0 } else { u32::try_from(names.len()).unwrap() };
            if name > 0 {
                names.extend_from_slice(symbol.name.as_bytes());
                names.push(0);
            }
            table.extend(self.u32(name));
            if self.layout.is_64 {
                table.extend([symbol.bind << 4, 0]);
                table.extend(self.u16(symbol.section));
                table.extend(self.word(symbol.value));
                table.extend(self.word(0));
            } else {
                table.extend(self.word(symbol.value));
                table.extend(self.word(0));
                table.extend([symbol.bind << 4, 0]);
                table.extend(self.u16(symbol.section));
            }
        }
        (table, names)
    }

    fn assemble(mut self) -> Vec<u8> {
        let (table, names) = self.symbol_table();
        let mut symtab = 0;
        let strtab = self.section(".strtab", elf::SHT_STRTAB.0, names);
        for _ in 0..self.symbol_tables {
            symtab = self.section(".symtab", elf::SHT_SYMTAB.0, table.clone());
            let table = &mut self.sections[usize::from(symtab) - 1];
            (table.link, table.entry) = (strtab.into(), if self.layout.is_64 { 24 } else { 16 });
        }
        for section in &mut self.sections {
            if section.kind == elf::SHT_RELA.0 || section.kind == elf::SHT_REL.0 {
                section.link = symtab.into();
            }
        }
        let shstrtab = self.section(".shstrtab", elf::SHT_STRTAB.0, Vec::new());
        let mut section_names = vec![0];
        let offsets: Vec<u32> = self
            .sections
            .iter()
            .map(|section| {
                let offset = u32::try_from(section_names.len()).unwrap();
                section_names.extend_from_slice(section.name.as_bytes());
                section_names.push(0);
                offset
            })
            .collect();
        self.sections[usize::from(shstrtab) - 1].data = section_names;
        let (header_size, section_size) = if self.layout.is_64 { (64, 64) } else { (52, 40) };
        let mut body = Vec::new();
        let mut headers = vec![0; section_size];
        for (section, name) in self.sections.iter().zip(offsets) {
            body.resize(body.len().next_multiple_of(8), 0);
            let offset = (header_size + 4 + body.len()) as u64;
            body.extend_from_slice(&section.data);
            headers.extend(self.u32(name));
            headers.extend(self.u32(section.kind));
            // What no tool looks for in memory is not kept there.
            let tables = [elf::SHT_SYMTAB.0, elf::SHT_STRTAB.0, elf::SHT_RELA.0, elf::SHT_REL.0];
            let flags = if tables.contains(&section.kind) { 0 } else { elf::SHF_ALLOC.0 };
            let flags = section.flags.unwrap_or(flags);
            for value in [flags, 0, offset, section.data.len() as u64] {
                headers.extend(self.word(value));
            }
            headers.extend(self.u32(section.link));
            headers.extend(self.u32(section.info));
            headers.extend(self.word(1));
            headers.extend(self.word(section.entry));
        }
        let table_offset = (header_size + 4 + body.len()) as u64;
        let mut file = self.header(table_offset, shstrtab, header_size, section_size);
        file.resize(header_size + 4, 0);
        file.extend(body);
        file.extend(headers);
        file
    }

    fn header(&self, table: u64, names: u16, header_size: usize, section_size: usize) -> Vec<u8> {
        let class = if self.layout.is_64 { 2 } else { 1 };
        let order = if self.layout.big_endian { 2 } else { 1 };
        let mut header = vec![0x7f, b'E', b'L', b'F', class, order, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        header.extend(self.u16(elf::ET_REL.0));
        header.extend(self.u16(self.layout.machine));
        header.extend(self.u32(1));
        for value in [0, 0, table] {
            header.extend(self.word(value));
        }
        header.extend(self.u32(0));
        let count = u16::try_from(self.sections.len() + 1).unwrap();
        for value in
            [u16::try_from(header_size).unwrap(), 0, 0, u16::try_from(section_size).unwrap(), count, names]
        {
            header.extend(self.u16(value));
        }
        header
    }
}
