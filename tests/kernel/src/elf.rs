//! A module file that can be changed in any single respect: sections are replaced by appending the new content and
//! pointing the section's header there, so that nothing else moves. 64-bit, little-endian (ELF-64 object file format 1.5).

use tenon_kmod::ModuleObject;
use tenon_kmod::object::Signature;

/// Where in the file header things are.
pub mod header {
    /// The magic.
    pub const MAGIC: usize = 0;
    /// 32 or 64 bits.
    pub const CLASS: usize = 4;
    /// The byte order.
    pub const ORDER: usize = 5;
    /// Relocatable, executable, …
    pub const TYPE: usize = 0x10;
    /// The machine.
    pub const MACHINE: usize = 0x12;
    /// Where the section headers begin.
    pub const SECTIONS: usize = 0x28;
    /// The size of a section header.
    pub const ENTRY_SIZE: usize = 0x3a;
    /// How many section headers there are.
    pub const COUNT: usize = 0x3c;
    /// The section with the sections' names.
    pub const NAMES: usize = 0x3e;
}

/// Where in a section header things are.
pub mod section {
    /// Its name, in the section with the names.
    pub const NAME: usize = 0;
    /// What it holds.
    pub const TYPE: usize = 4;
    /// Whether it is kept in memory, written, executed.
    pub const FLAGS: usize = 8;
    /// Where in the file it lies.
    pub const OFFSET: usize = 24;
    /// How long it is.
    pub const SIZE: usize = 32;
    /// The section that belongs to it: of a symbol table, the symbols' names.
    pub const LINK: usize = 40;
}

/// A symbol's size in the table.
const SYMBOL: usize = 24;
/// `struct modversion_info`: a checksum in eight bytes, a name in 56.
const VERSION: usize = 64;

/// A symbol to be appended to the symbol table.
#[derive(Debug, Clone, Copy)]
pub enum NewSymbol {
    /// Undefined.
    Wanted,
    /// Undefined, and none is fine.
    Weak,
    /// A variable that nobody has placed anywhere.
    Common,
}

/// A module file in the making.
#[derive(Debug, Clone)]
pub struct ModuleFile {
    bytes: Vec<u8>,
}

impl ModuleFile {
    /// The file without the signature that it may have.
    pub fn unsigned(bytes: &[u8]) -> Self {
        let module = ModuleObject::parse(bytes).unwrap();
        let length = match &module.signature {
            Signature::Appended(signature) => signature.signed_length,
            _ => bytes.len(),
        };
        Self { bytes: bytes.split_at(length).0.to_vec() }
    }

    /// The file as it is now.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    /// Overwrites some bytes.
    pub fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes.get_mut(offset..offset + bytes.len()).unwrap().copy_from_slice(bytes);
    }

    /// Inverts one byte.
    pub fn flip(&mut self, offset: usize) {
        *self.bytes.get_mut(offset).unwrap() ^= 0xff;
    }

    /// Cuts the file.
    pub fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }

    /// How long it is.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// The section of that name: where its header is.
    pub fn section(&self, name: &str) -> Option<usize> {
        let names = self.content(self.header_of(self.u16(header::NAMES).into()));
        (0..self.u16(header::COUNT)).map(|index| self.header_of(index.into())).find(|at| {
            let start = self.u32(at + section::NAME);
            let text = names.split_at(start).1.split(|byte| *byte == 0).next().unwrap();
            text == name.as_bytes()
        })
    }

    /// What the section holds whose header is there.
    pub fn content(&self, header: usize) -> &[u8] {
        let (offset, size) = (self.u64(header + section::OFFSET), self.u64(header + section::SIZE));
        self.bytes.get(offset..offset + size).unwrap()
    }

    /// Where in the file the content of a section is.
    pub fn offset(&self, header: usize) -> usize {
        self.u64(header + section::OFFSET)
    }

    /// Gives a section another content.
    pub fn replace(&mut self, header: usize, content: &[u8]) {
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let offset = self.bytes.len() as u64;
        self.bytes.extend_from_slice(content);
        self.put(header + section::OFFSET, &offset.to_le_bytes());
        self.put(header + section::SIZE, &(content.len() as u64).to_le_bytes());
    }

    /// Gives a section a name that means nothing to anybody.
    pub fn hide(&mut self, header: usize) {
        self.call(header, ".hidden");
    }

    /// Gives a section another name.
    pub fn call(&mut self, header: usize, name: &str) {
        let names = self.names();
        let mut text = self.content(names).to_vec();
        let start = u32::try_from(text.len()).unwrap();
        text.extend_from_slice(name.as_bytes());
        text.push(0);
        self.replace(names, &text);
        self.put(header + section::NAME, &start.to_le_bytes());
    }

    /// The header of the section with the sections' names.
    pub fn names(&self) -> usize {
        self.header_of(self.u16(header::NAMES).into())
    }

    /// The header of the section that belongs to another.
    pub fn linked(&self, header: usize) -> usize {
        self.header_of(self.u32(header + section::LINK))
    }

    /// Adds a section of another one's kind and flags: the headers move to the end of the file, and one more stands behind
    /// them. Gives its header.
    pub fn add_section(&mut self, like: usize, name: &str, content: &[u8]) -> usize {
        let (count, size) = (self.u16(header::COUNT), usize::from(self.u16(header::ENTRY_SIZE)));
        let copy = self.bytes.get(like..like + size).unwrap().to_vec();
        self.move_headers(self.bytes.len().next_multiple_of(16));
        self.bytes.extend_from_slice(&copy);
        self.put(header::COUNT, &(count + 1).to_le_bytes());
        let added = self.header_of(count.into());
        self.call(added, name);
        self.replace(added, content);
        added
    }

    /// Moves the section headers to a place behind everything else.
    pub fn move_headers(&mut self, to: usize) {
        let length = usize::from(self.u16(header::COUNT)) * usize::from(self.u16(header::ENTRY_SIZE));
        let from = self.header_of(0);
        let headers = self.bytes.get(from..from + length).unwrap().to_vec();
        self.bytes.resize(to, 0);
        self.bytes.extend_from_slice(&headers);
        self.put(header::SECTIONS, &(to as u64).to_le_bytes());
    }

    /// Takes flags from a section's header and gives it others.
    pub fn change_flags(&mut self, header: usize, without: u64, with: u64) {
        let flags = self.u64(header + section::FLAGS) as u64;
        self.put(header + section::FLAGS, &(flags & !without | with).to_le_bytes());
    }

    /// The first value of a field in `.modinfo`.
    pub fn info(&self, field: &str) -> Option<String> {
        let text = self.content(self.section(".modinfo")?);
        let prefix = format!("{field}=");
        let mut entries = text.split(|byte| *byte == 0);
        entries
            .find_map(|entry| entry.strip_prefix(prefix.as_bytes()))
            .map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    /// Gives `.modinfo` just these values of a field.
    pub fn set_info(&mut self, field: &str, values: &[&str]) {
        let header = self.section(".modinfo").unwrap();
        let prefix = format!("{field}=");
        let kept = self.content(header).split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
        let kept = kept.filter(|entry| !entry.starts_with(prefix.as_bytes()));
        let new = values.iter().map(|value| format!("{prefix}{value}").into_bytes());
        let entries: Vec<Vec<u8>> = kept.map(<[u8]>::to_vec).chain(new).collect();
        let content: Vec<u8> = entries.into_iter().flat_map(|entry| [entry, vec![0]].concat()).collect();
        self.replace(header, &content);
    }

    /// Calls the module otherwise, in `struct module` and in `.modinfo`.
    pub fn rename(&mut self, name: &str) {
        self.rename_struct(name);
        self.set_info("name", &[name]);
    }

    /// Calls the module otherwise in `struct module` (behind a state, padded, and two pointers).
    pub fn rename_struct(&mut self, name: &str) {
        let at = self.offset(self.section(".gnu.linkonce.this_module").unwrap()) + 24;
        let mut field = [0; 56];
        field.split_at_mut(name.len()).0.copy_from_slice(name.as_bytes());
        self.put(at, &field);
    }

    /// Changes the checksum that the module has for a symbol; says whether it has one.
    pub fn change_checksum(&mut self, symbol: &str) -> bool {
        let Some(header) = self.section("__versions") else { return false };
        let is_it =
            |entry: &[u8]| entry.split_at(8).1.split(|byte| *byte == 0).next() == Some(symbol.as_bytes());
        let position = self.content(header).chunks_exact(VERSION).position(is_it);
        if let Some(position) = position {
            self.flip(self.offset(header) + position * VERSION);
        }
        position.is_some()
    }

    /// Gives the module another list of checksums: what `change` makes of the one it has; says whether it has one.
    pub fn change_versions(&mut self, change: impl FnOnce(Vec<[u8; VERSION]>) -> Vec<[u8; VERSION]>) -> bool {
        let Some(header) = self.section("__versions") else { return false };
        let entries = self.content(header).as_chunks().0.to_vec();
        self.replace(header, change(entries).as_flattened());
        true
    }

    /// The undefined symbols, in the order of the table: each one's place in the file and its name.
    pub fn wanted(&self) -> Vec<(usize, String)> {
        let table = self.section(".symtab").unwrap();
        let names = self.content(self.header_of(self.u32(table + section::LINK)));
        let name = |at: usize| {
            let text = names.split_at(self.u32(at)).1.split(|byte| *byte == 0).next().unwrap();
            String::from_utf8(text.to_vec()).unwrap()
        };
        let (start, count) = (self.offset(table), self.content(table).len() / SYMBOL);
        // The first symbol of a table means none.
        let symbols = (1..count).map(|index| start + index * SYMBOL);
        let wanted = symbols.filter(|at| self.u16(at + 6) == 0);
        wanted.map(|at| (at, name(at))).filter(|(_, name)| !name.is_empty()).collect()
    }

    /// Makes the symbol at that place one of another name.
    pub fn rename_symbol(&mut self, at: usize, name: &str) {
        let offset = self.add_name(name);
        self.put(at, &offset.to_le_bytes());
    }

    /// Appends a symbol to the table, to which nothing refers.
    pub fn add_symbol(&mut self, name: &str, kind: NewSymbol) {
        let name = self.add_name(name);
        // Binding and type, as in `st_info`; the section.
        let (info, index) = match kind {
            NewSymbol::Wanted => (0x10, 0),
            NewSymbol::Weak => (0x20, 0),
            NewSymbol::Common => (0x11, 0xfff2),
        };
        let mut symbol = [0; SYMBOL];
        symbol.split_at_mut(4).0.copy_from_slice(&name.to_le_bytes());
        symbol.split_at_mut(4).1.split_at_mut(4).0.copy_from_slice(&[info, 0, 0, 0]);
        symbol.split_at_mut(6).1.split_at_mut(2).0.copy_from_slice(&u16::to_le_bytes(index));
        let table = self.section(".symtab").unwrap();
        let content = [self.content(table), &symbol].concat();
        self.replace(table, &content);
    }

    fn add_name(&mut self, name: &str) -> u32 {
        let table = self.section(".symtab").unwrap();
        let names = self.header_of(self.u32(table + section::LINK));
        let offset = u32::try_from(self.content(names).len()).unwrap();
        let content = [self.content(names), name.as_bytes(), &[0]].concat();
        self.replace(names, &content);
        offset
    }

    /// The header of a section, by its number.
    pub fn header_of(&self, index: usize) -> usize {
        self.u64(header::SECTIONS) + index * usize::from(self.u16(header::ENTRY_SIZE))
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(*self.bytes.get(at..).unwrap().first_chunk().unwrap())
    }

    fn u32(&self, at: usize) -> usize {
        u32::from_le_bytes(*self.bytes.get(at..).unwrap().first_chunk().unwrap()) as usize
    }

    fn u64(&self, at: usize) -> usize {
        usize::try_from(u64::from_le_bytes(*self.bytes.get(at..).unwrap().first_chunk().unwrap())).unwrap()
    }
}
