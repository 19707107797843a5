//! Facts as bytes, to keep in a `ConfigMap` or a file: the magic `TENONKF1`, then one zstd frame of tagged fields (tag, length,
//! contents; numbers in LEB128). A reader skips tags that it does not know, so a later Tenon may add some; equal facts make
//! equal bytes. Symbols stand in the order of their names, each name less what it shares with the one before.

use std::collections::BTreeMap;

use super::{BuildId, Decompression, KernelFacts, KernelPolicy, KernelSymbol, Namespace, Sources};
use crate::ModuleName;
use crate::compression::{Compression, DecompressError};
use crate::object::Architecture;
use crate::release::KernelRelease;
use crate::vermagic::VerMagic;

const MAGIC: &[u8; 8] = b"TENONKF1";

/// The most bytes that are decoded: a `ConfigMap` takes less.
pub const MAX_ENCODED: usize = 4 << 20;
const MAX_DECODED: usize = 32 << 20;
/// Distributions' kernels with all their modules export some 40,000 symbols of at most `KSYM_NAME_LEN`.
const MAX_SYMBOLS: usize = 1 << 18;
const MAX_NAME: usize = 512;

const RELEASE: u64 = 1;
const ARCHITECTURE: u64 = 2;
const BUILD_ID: u64 = 3;
const VERMAGIC: u64 = 4;
const THIS_MODULE_SIZE: u64 = 5;
const MODVERSIONS: u64 = 6;
const COMPLETE: u64 = 7;
const COVERS_MODULES: u64 = 8;
const SOURCES: u64 = 9;
const SIGNATURES: u64 = 10;
const SIGNATURES_FORCED: u64 = 11;
const FORCE_LOAD: u64 = 12;
const MISSING_IMPORTS_ALLOWED: u64 = 13;
const DECOMPRESSION: u64 = 14;
const PROVIDERS: u64 = 15;
const NAMESPACES: u64 = 16;
const SYMBOLS: u64 = 17;
const TYPES_MUST_FIT: u64 = 18;
const ECDSA: u64 = 19;
const SHA512: u64 = 20;

/// Bits of a symbol.
const CRC_KNOWN: u8 = 1;
const GPL_KNOWN: u8 = 2;
const GPL_ONLY: u8 = 4;
const NAMESPACE_KNOWN: u8 = 8;
const NAMED: u8 = 16;
const OF_MODULE: u8 = 32;

/// Why bytes are no facts.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Something else altogether, or of a Tenon that writes another form.
    #[error("read kernel facts: they do not begin with {magic}", magic = String::from_utf8_lossy(MAGIC))]
    Magic,
    /// More bytes than any kernel needs.
    #[error("read kernel facts: {0} bytes are more than the {MAX_ENCODED} that are read")]
    TooLong(usize),
    /// They cannot be unpacked, or to too much.
    #[error("read kernel facts")]
    Unpack(#[source] DecompressError),
    /// Cut off, or damaged.
    #[error("read kernel facts: the {0} cannot be read")]
    Field(&'static str),
}

impl KernelFacts {
    /// Writes the facts: some 150 KiB for a kernel of 10,000 symbols.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Writer::default();
        body.field(RELEASE, self.release.as_str().as_bytes());
        body.field(ARCHITECTURE, self.architecture.as_str().as_bytes());
        body.optional(BUILD_ID, self.build_id.as_ref().map(BuildId::as_bytes));
        body.optional(VERMAGIC, self.vermagic.as_ref().map(|magic| magic.as_str().as_bytes()));
        body.number(THIS_MODULE_SIZE, self.this_module_size);
        body.flag(MODVERSIONS, self.modversions);
        body.flag(COMPLETE, Some(self.complete));
        body.flag(COVERS_MODULES, Some(self.covers_modules));
        let Sources { image, headers, modules } = self.sources;
        body.field(SOURCES, &[u8::from(image) | u8::from(headers) << 1 | u8::from(modules) << 2]);
        let KernelPolicy {
            signatures,
            signatures_forced,
            force_load,
            missing_imports_allowed,
            decompression,
            types_must_fit,
            ecdsa,
            sha512,
        } = self.policy;
        body.flag(SIGNATURES, signatures);
        body.flag(SIGNATURES_FORCED, signatures_forced);
        body.flag(FORCE_LOAD, force_load);
        body.flag(MISSING_IMPORTS_ALLOWED, missing_imports_allowed);
        body.optional(
            DECOMPRESSION,
            decompression.map(decompression_code).as_ref().map(std::slice::from_ref),
        );
        body.flag(TYPES_MUST_FIT, types_must_fit);
        body.flag(ECDSA, ecdsa);
        body.flag(SHA512, sha512);
        body.symbols(&self.exports);
        let packed =
            ruzstd::encoding::compress_to_vec(&body.0[..], ruzstd::encoding::CompressionLevel::Fastest);
        [MAGIC, &packed[..]].concat()
    }

    /// Reads what [`Self::encode`] wrote. The bytes may come from anybody.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_ENCODED {
            return Err(DecodeError::TooLong(bytes.len()));
        }
        let packed = bytes.strip_prefix(MAGIC).ok_or(DecodeError::Magic)?;
        let body = Compression::Zstd.decompress(packed, MAX_DECODED).map_err(DecodeError::Unpack)?;
        let fields = fields(&body).ok_or(DecodeError::Field("list of fields"))?;
        let flag = |tag| Ok(fields.get(&tag).map(|field| field != &[0]));
        let text = |tag, what| match fields.get(&tag) {
            Some(field) => str::from_utf8(field).map(Some).map_err(|_| DecodeError::Field(what)),
            None => Ok(None),
        };
        let release = text(RELEASE, "release")?.and_then(|text| KernelRelease::new(text).ok());
        let architecture = text(ARCHITECTURE, "architecture")?.and_then(Architecture::named);
        let sources = fields.get(&SOURCES).and_then(|field| field.first()).copied().unwrap_or_default();
        let build_id = fields.get(&BUILD_ID).map(|field| BuildId::new(*field)).transpose();
        let size = fields.get(&THIS_MODULE_SIZE).map(|field| Reader(field).number().ok_or(()));
        Ok(Self {
            release: release.ok_or(DecodeError::Field("release"))?,
            build_id: build_id.map_err(|_| DecodeError::Field("build identifier"))?,
            architecture: architecture.ok_or(DecodeError::Field("architecture"))?,
            vermagic: text(VERMAGIC, "version magic")?.map(VerMagic::new),
            this_module_size: size.transpose().map_err(|()| DecodeError::Field("size of struct module"))?,
            modversions: flag(MODVERSIONS)?,
            exports: symbols(&fields).ok_or(DecodeError::Field("list of symbols"))?,
            complete: flag(COMPLETE)?.unwrap_or_default(),
            covers_modules: flag(COVERS_MODULES)?.unwrap_or_default(),
            sources: Sources {
                image: sources & 1 != 0,
                headers: sources & 2 != 0,
                modules: sources & 4 != 0,
            },
            policy: KernelPolicy {
                signatures: flag(SIGNATURES)?,
                signatures_forced: flag(SIGNATURES_FORCED)?,
                force_load: flag(FORCE_LOAD)?,
                missing_imports_allowed: flag(MISSING_IMPORTS_ALLOWED)?,
                decompression: fields.get(&DECOMPRESSION).and_then(|field| decompression_of(field)),
                types_must_fit: flag(TYPES_MUST_FIT)?,
                ecdsa: flag(ECDSA)?,
                sha512: flag(SHA512)?,
            },
        })
    }
}

fn decompression_code(decompression: Decompression) -> u8 {
    match decompression {
        Decompression::None => 0,
        Decompression::Some => 1,
        Decompression::Of(Compression::Xz) => 2,
        Decompression::Of(Compression::Zstd) => 3,
        Decompression::Of(Compression::Gzip) => 4,
    }
}

/// A kind that a later Tenon knows is one that is not known.
fn decompression_of(field: &[u8]) -> Option<Decompression> {
    Some(match field.first()? {
        0 => Decompression::None,
        2 => Decompression::Of(Compression::Xz),
        3 => Decompression::Of(Compression::Zstd),
        4 => Decompression::Of(Compression::Gzip),
        _ => Decompression::Some,
    })
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn varint(&mut self, mut number: u64) {
        loop {
            let low = u8::try_from(number & 0x7f).unwrap_or_default();
            number >>= 7;
            if number == 0 {
                return self.0.push(low);
            }
            self.0.push(low | 0x80);
        }
    }

    fn length(&mut self, length: usize) {
        self.varint(u64::try_from(length).unwrap_or(u64::MAX));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn field(&mut self, tag: u64, contents: &[u8]) {
        self.varint(tag);
        self.bytes(contents);
    }

    fn optional(&mut self, tag: u64, contents: Option<&[u8]>) {
        if let Some(contents) = contents {
            self.field(tag, contents);
        }
    }

    fn flag(&mut self, tag: u64, flag: Option<bool>) {
        self.optional(tag, flag.map(u8::from).as_ref().map(std::slice::from_ref));
    }

    fn number(&mut self, tag: u64, number: Option<u64>) {
        if let Some(number) = number {
            let mut contents = Self::default();
            contents.varint(number);
            self.field(tag, &contents.0);
        }
    }

    fn symbols(&mut self, exports: &BTreeMap<String, KernelSymbol>) {
        let providers = table(exports.values().filter_map(|symbol| Some(symbol.provider.as_ref()?.as_str())));
        let namespaces = table(exports.values().filter_map(|symbol| match &symbol.namespace {
            Namespace::Named(name) => Some(name.as_str()),
            Namespace::Unknown | Namespace::Global => None,
        }));
        for (tag, table) in [(PROVIDERS, &providers), (NAMESPACES, &namespaces)] {
            let mut names = Self::default();
            for name in table.keys() {
                names.bytes(name.as_bytes());
            }
            self.field(tag, &names.0);
        }
        let mut list = Self::default();
        let mut before = "";
        for (name, symbol) in exports {
            let shared = before.bytes().zip(name.bytes()).take_while(|(one, other)| one == other).count();
            list.length(shared);
            list.bytes(name.as_bytes().get(shared..).unwrap_or_default());
            list.symbol(symbol, &providers, &namespaces);
            before = name;
        }
        self.field(SYMBOLS, &list.0);
    }

    fn symbol(
        &mut self,
        symbol: &KernelSymbol,
        providers: &BTreeMap<&str, usize>,
        namespaces: &BTreeMap<&str, usize>,
    ) {
        let provider = symbol.provider.as_ref().and_then(|name| providers.get(name.as_str()));
        let namespace = match &symbol.namespace {
            Namespace::Named(name) => namespaces.get(name.as_str()),
            Namespace::Unknown | Namespace::Global => None,
        };
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        self.0.push(
            bit(symbol.crc.is_some(), CRC_KNOWN)
                | bit(symbol.gpl_only.is_some(), GPL_KNOWN)
                | bit(symbol.gpl_only == Some(true), GPL_ONLY)
                | bit(symbol.namespace != Namespace::Unknown, NAMESPACE_KNOWN)
                | bit(namespace.is_some(), NAMED)
                | bit(provider.is_some(), OF_MODULE),
        );
        if let Some(crc) = symbol.crc {
            self.0.extend_from_slice(&crc.to_le_bytes());
        }
        [namespace, provider].into_iter().flatten().for_each(|&index| self.length(index));
    }
}

/// The different texts in their order, with their places in it.
fn table<'a>(texts: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut table: BTreeMap<&str, usize> = texts.map(|text| (text, 0)).collect();
    table.values_mut().enumerate().for_each(|(index, place)| *place = index);
    table
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            number |= bits.checked_shl(shift).filter(|shifted| shifted >> shift == bits)?;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn length(&mut self) -> Option<usize> {
        self.number().and_then(|length| usize::try_from(length).ok())
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.length()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Texts up to the end.
    fn texts(mut self) -> Option<Vec<&'a str>> {
        let mut texts = Vec::new();
        while !self.0.is_empty() {
            texts.push(str::from_utf8(self.bytes()?).ok().filter(|text| text.len() <= MAX_NAME)?);
            if texts.len() > MAX_SYMBOLS {
                return None;
            }
        }
        Some(texts)
    }
}

/// Of a tag that stands there twice the last one counts.
fn fields(body: &[u8]) -> Option<BTreeMap<u64, &[u8]>> {
    let mut fields = BTreeMap::new();
    let mut rest = Reader(body);
    while !rest.0.is_empty() {
        fields.insert(rest.number()?, rest.bytes()?);
    }
    Some(fields)
}

fn symbols(fields: &BTreeMap<u64, &[u8]>) -> Option<BTreeMap<String, KernelSymbol>> {
    let texts = |tag| Reader(fields.get(&tag).copied().unwrap_or_default()).texts();
    let providers: Option<Vec<ModuleName>> =
        texts(PROVIDERS)?.into_iter().map(|name| ModuleName::new(name).ok()).collect();
    let (providers, namespaces) = (providers?, texts(NAMESPACES)?);
    let mut symbols = BTreeMap::new();
    let mut rest = Reader(fields.get(&SYMBOLS).copied().unwrap_or_default());
    let mut name = Vec::new();
    while !rest.0.is_empty() {
        let shared = rest.length().filter(|&shared| shared <= name.len())?;
        name.truncate(shared);
        name.extend_from_slice(rest.bytes()?);
        if name.len() > MAX_NAME || symbols.len() >= MAX_SYMBOLS {
            return None;
        }
        symbols.insert(String::from_utf8(name.clone()).ok()?, symbol(&mut rest, &providers, &namespaces)?);
    }
    Some(symbols)
}

fn symbol(rest: &mut Reader<'_>, providers: &[ModuleName], namespaces: &[&str]) -> Option<KernelSymbol> {
    let bits = rest.byte()?;
    let has = |bit| bits & bit != 0;
    let crc = if has(CRC_KNOWN) {
        let (crc, tail) = rest.0.split_first_chunk()?;
        rest.0 = tail;
        Some(u32::from_le_bytes(*crc))
    } else {
        None
    };
    let namespace = match (has(NAMESPACE_KNOWN), has(NAMED)) {
        (_, true) => Namespace::Named((*namespaces.get(rest.length()?)?).to_owned()),
        (true, false) => Namespace::Global,
        (false, false) => Namespace::Unknown,
    };
    let provider = if has(OF_MODULE) { Some(providers.get(rest.length()?)?.clone()) } else { None };
    Some(KernelSymbol { crc, gpl_only: has(GPL_KNOWN).then_some(has(GPL_ONLY)), namespace, provider })
}

#[cfg(test)]
mod tests;
