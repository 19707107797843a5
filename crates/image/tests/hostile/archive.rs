//! A tar archive, entry by entry, without the care that a tar library takes.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write};

use tenon_image::layers::Layer;
use tenon_order::Digest;

/// How a layer or a module is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
    Xz,
}

impl Packing {
    pub(crate) fn pack(self, bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        self.pack_stream(&mut { bytes }, &mut packed);
        packed
    }

    fn pack_stream(self, from: &mut dyn io::Read, to: &mut dyn Write) {
        match self {
            Self::Plain => drop(io::copy(from, to).unwrap()),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(to, flate2::Compression::fast());
                io::copy(from, &mut encoder).unwrap();
                encoder.finish().unwrap();
            }
            Self::Zstd => zstd::stream::copy_encode(from, to, 1).unwrap(),
            Self::Xz => {
                let options = lzma_rust2::XzOptions::with_preset(1);
                let mut encoder = lzma_rust2::XzWriter::new(to, options).unwrap();
                io::copy(from, &mut encoder).unwrap();
                encoder.finish().unwrap();
            }
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Archive(Vec<u8>);

impl Archive {
    pub(crate) fn entry(mut self, kind: u8, name: &str, target: &str, content: &[u8]) -> Self {
        self.push(kind, name, target, content);
        self
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(b'0', name, "", content)
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.entry(b'5', name, "", b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name, target, b"")
    }

    pub(crate) fn hardlink(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name, target, b"")
    }

    pub(crate) fn long_directory(self, name: &str) -> Self {
        self.pax(&[("path", name.as_bytes())]).directory("long")
    }

    pub(crate) fn long_symlink(self, name: &str, target: &str) -> Self {
        self.pax(&[("linkpath", target.as_bytes())]).symlink(name, "long")
    }

    pub(crate) fn gnu_name(self, name: &[u8]) -> Self {
        self.entry(b'L', "././@LongLink", "", &[name, b"\0"].concat())
    }

    /// An extended header: records whose length counts itself.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let length =
                (1..20).map(|digits| body + digits).find(|length| length.to_string().len() + body == *length);
            text.extend(format!("{} {key}=", length.unwrap()).into_bytes());
            text.extend(*value);
            text.push(b'\n');
        }
        self.entry(b'x', "pax", "", &text)
    }

    /// A header that announces more than there is.
    pub(crate) fn announced(mut self, kind: u8, name: &str, size: u64) -> Self {
        self.0.extend(header(kind, name, "", size));
        self
    }

    /// A file whose size field holds these bytes.
    pub(crate) fn size_field(mut self, field: &[u8; 12]) -> Self {
        let mut header = header(b'0', "odd", "", 0);
        header[124..136].copy_from_slice(field);
        sum(&mut header);
        self.0.extend(header);
        self
    }

    pub(crate) fn end(mut self) -> Self {
        self.0.extend([0; 1024]);
        self
    }

    /// The archive, ended.
    pub(crate) fn bytes(self) -> Vec<u8> {
        self.end().0
    }

    pub(crate) fn layer(self, packing: Packing) -> Layer {
        stored(&packing.pack(&self.bytes()))
    }

    /// A layer with a file of so many zeros at its end, which the test does not hold.
    pub(crate) fn zeros(mut self, name: &str, size: u64, packing: Packing) -> Layer {
        self.0.extend(header(b'0', name, "", size));
        let zeros = io::repeat(0).take(size.next_multiple_of(512) + 1024);
        let mut file = tempfile::tempfile().unwrap();
        packing.pack_stream(&mut self.0.as_slice().chain(zeros), &mut file);
        into_layer(file)
    }

    /// A layer with so many empty files more, which the test does not hold.
    pub(crate) fn files(self, count: u64, name: impl Fn(u64) -> String, packing: Packing) -> Layer {
        let headers = Headers { next: 0, count, name, block: io::Cursor::new([0; 512]) };
        let mut file = tempfile::tempfile().unwrap();
        let mut bytes = self.0.as_slice().chain(io::BufReader::new(headers)).chain([0; 1024].as_slice());
        packing.pack_stream(&mut bytes, &mut file);
        into_layer(file)
    }

    fn push(&mut self, kind: u8, name: &str, target: &str, content: &[u8]) {
        self.0.extend(header(kind, name, target, content.len() as u64));
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }
}

/// Headers of empty files, one after the other.
struct Headers<N> {
    next: u64,
    count: u64,
    name: N,
    block: io::Cursor<[u8; 512]>,
}

impl<N: Fn(u64) -> String> io::Read for Headers<N> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.next < self.count && (self.next == 0 || self.block.position() == 512) {
            self.block = io::Cursor::new(header(b'0', &(self.name)(self.next), "", 0));
            self.next += 1;
        } else if self.count == 0 {
            return Ok(0);
        }
        self.block.read(buffer)
    }
}

fn header(kind: u8, name: &str, target: &str, size: u64) -> [u8; 512] {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    header[156] = kind;
    header[157..157 + target.len()].copy_from_slice(target.as_bytes());
    header[257..265].copy_from_slice(b"ustar\x0000");
    sum(&mut header);
    header
}

fn sum(header: &mut [u8; 512]) {
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

/// A layer of these very bytes.
pub(crate) fn stored(bytes: &[u8]) -> Layer {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    into_layer(file)
}

fn into_layer(mut file: File) -> Layer {
    file.rewind().unwrap();
    let size = file.metadata().unwrap().len();
    Layer { digest: Digest::of(b"a layer"), size, file, shared: false }
}
