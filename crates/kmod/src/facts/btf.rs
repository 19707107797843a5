//! The one thing that is wanted of a kernel's type information (`Documentation/bpf/btf.rst`): the size of
//! `struct module`.

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;

/// The size in bytes of the structure of this name; none where there is none, or two that differ.
pub(super) fn struct_size(btf: &[u8], big_endian: bool, name: &str) -> Option<u64> {
    let read = Reader { bytes: btf, big_endian };
    if read.u16(0)? != MAGIC {
        return None;
    }
    let header = read.length(4)?;
    let section = |field: usize| -> Option<&[u8]> {
        let start = header.checked_add(read.length(field)?)?;
        btf.get(start..start.checked_add(read.length(field + 4)?)?)
    };
    let (types, strings) = (section(8)?, section(16)?);
    let mut types = Reader { bytes: types, big_endian };
    let mut size = None;
    while !types.bytes.is_empty() {
        let info = types.u32(4)?;
        let (members, kind) = (usize::try_from(info & 0xffff).ok()?, info >> 24 & 0x1f);
        if kind == STRUCT && is_named(strings, types.length(0)?, name) {
            let found = u64::from(types.u32(8)?);
            if size.is_some_and(|size| size != found) {
                return None;
            }
            size = Some(found);
        }
        types.bytes = types.bytes.get(12 + extra(kind, members)?..)?;
    }
    size
}

fn is_named(strings: &[u8], offset: usize, name: &str) -> bool {
    let rest = strings.get(offset..).and_then(|text| text.strip_prefix(name.as_bytes()));
    rest.is_some_and(|rest| rest.first() == Some(&0))
}

/// How many bytes follow a type, by its kind; none for a kind of later kernels, behind which nothing can be read.
fn extra(kind: u32, members: usize) -> Option<usize> {
    Some(match kind {
        // Pointers, forward declarations, typedefs, qualifiers, functions, floats, type tags.
        2 | 7..=12 | 16 | 18 => 0,
        // Integers, variables, declaration tags.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        // Structures, unions, sections, 64-bit enumerations.
        STRUCT | 5 | 15 | 19 => members * 12,
        // Enumerations, prototypes.
        6 | 13 => members * 8,
        _ => return None,
    })
}

struct Reader<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl Reader<'_> {
    fn u16(&self, offset: usize) -> Option<u16> {
        let bytes = *self.bytes.get(offset..)?.first_chunk()?;
        Some(if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn u32(&self, offset: usize) -> Option<u32> {
        let bytes = *self.bytes.get(offset..)?.first_chunk()?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn length(&self, offset: usize) -> Option<usize> {
        self.u32(offset).and_then(|length| usize::try_from(length).ok())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An integer, a function prototype with one parameter, and structures with one member each.
    fn btf(structures: &[(u32, u32)]) -> Vec<u8> {
        let strings = b"\0int\0module\0module_kobject\0";
        let mut types: Vec<u32> = vec![1, 1 << 24, 4, 32, 0, 13 << 24 | 1, 0, 0, 1];
        for &(name, size) in structures {
            types.extend([name, STRUCT << 24 | 1, size, 0, 1, 0]);
        }
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_le_bytes()).collect();
        let lengths = [24, 0, types.len(), types.len(), strings.len()];
        let lengths = lengths.iter().flat_map(|&word| u32::try_from(word).unwrap().to_le_bytes());
        [0x9f, 0xeb, 1, 0].into_iter().chain(lengths).chain(types).chain(*strings).collect()
    }

    #[test]
    fn the_size_of_a_structure_is_found_by_its_whole_name() {
        assert_eq!(struct_size(&btf(&[(12, 96), (5, 1280)]), false, "module"), Some(1280));
        assert_eq!(struct_size(&btf(&[(12, 96)]), false, "module"), None);
    }

    #[test]
    fn two_structures_of_one_name_must_agree() {
        assert_eq!(struct_size(&btf(&[(5, 1280), (5, 1280)]), false, "module"), Some(1280));
        assert_eq!(struct_size(&btf(&[(5, 1280), (5, 896)]), false, "module"), None);
    }

    proptest! {
        #[test]
        fn damaged_types_do_not_panic(position in any::<prop::sample::Index>(), value: u8, cut in any::<prop::sample::Index>()) {
            let mut bytes = btf(&[(12, 96), (5, 1280)]);
            let position = position.index(bytes.len());
            bytes[position] = value;
            let cut = cut.index(bytes.len());
            let _ = struct_size(&bytes, value % 2 == 0, "module");
            let _ = struct_size(&bytes[..cut], false, "module");
        }
    }
}
