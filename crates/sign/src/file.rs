//! Module files as they lie in a directory or an image: packed or not.

use std::io::{self, Write as _};

use flate2::GzBuilder;
use lzma_rust2::{CheckType, XzOptions, XzWriter};
use tenon_kmod::ModuleObject;
use tenon_kmod::compression::{Compression, DecompressError, decompress};
use tenon_kmod::object::ObjectError;

use crate::message::Hash;
use crate::module::{Identity, SignError, sign};
use crate::verify::{Verdict, verify};

/// What `xz` is told when modules are installed (`scripts/Makefile.modinst`): kernels unpack no larger windows.
const XZ_WINDOW: u32 = 1 << 20;
const ZSTD_LEVEL: i32 = 19;

/// A file that was to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signed {
    /// With one signature more, packed as it was.
    Anew(Vec<u8>),
    /// Its last signature is by the same certificate, with the same hash, and good.
    Already,
}

/// Why a file was not signed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Its packing is broken, or it unpacks to more than is allowed.
    #[error(transparent)]
    Unpack(#[from] DecompressError),
    /// It is no kernel module.
    #[error(transparent)]
    Module(#[from] ObjectError),
    /// The signature.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// What was signed cannot be verified: the signer is broken, or its certificate is another's.
    #[error("the signature that was made is not good: {0:?}")]
    Bad(Verdict),
    /// It could not be packed again.
    #[error("pack the module again")]
    Pack(#[source] io::Error),
}

/// Signs a module file of at most `limit` bytes, unpacked, and packs it as it was. The signature is checked before anybody
/// sees it.
pub fn sign_file(file: &[u8], identity: &Identity, hash: Hash, limit: usize) -> Result<Signed, FileError> {
    let module = decompress(file, limit)?;
    ModuleObject::parse(&module)?;
    let by = std::slice::from_ref(identity.certificate());
    if verify(&module, by) == (Verdict::Good { certificate: 0, hash }) {
        return Ok(Signed::Already);
    }
    let signed = sign(&module, identity, hash)?;
    match verify(&signed, by) {
        Verdict::Good { .. } => {}
        verdict => return Err(FileError::Bad(verdict)),
    }
    let packed = match Compression::detect(file) {
        Some(compression) => pack(compression, &signed).map_err(FileError::Pack)?,
        None => signed,
    };
    Ok(Signed::Anew(packed))
}

/// The same bytes every time.
fn pack(compression: Compression, module: &[u8]) -> io::Result<Vec<u8>> {
    match compression {
        Compression::Gzip => {
            let mut writer = GzBuilder::new().mtime(0).write(Vec::new(), flate2::Compression::best());
            writer.write_all(module)?;
            writer.finish()
        }
        Compression::Xz => {
            let mut options = XzOptions::with_preset(6);
            options.set_check_sum_type(CheckType::Crc32);
            options.lzma_options.dict_size = XZ_WINDOW;
            let mut writer = XzWriter::new(Vec::new(), options)?;
            writer.write_all(module)?;
            writer.finish()
        }
        Compression::Zstd => zstd::bulk::compress(module, ZSTD_LEVEL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use rstest::rstest;

    /// The least that counts as a module.
    fn module() -> Vec<u8> {
        tenon_image::testing::module(62, "dummy", "6.1.0-9-test")
    }

    #[rstest]
    fn a_packed_module_stays_packed_and_is_signed_once(
        #[values(None, Some(Compression::Gzip), Some(Compression::Xz), Some(Compression::Zstd))]
        packed: Option<Compression>,
    ) {
        let identity = fixture::RSA.identity();
        let file = packed.map_or_else(module, |compression| pack(compression, &module()).unwrap());
        let signed = |file: &[u8], hash| sign_file(file, &identity, hash, 1 << 20).unwrap();
        let Signed::Anew(once) = signed(&file, Hash::Sha256) else { panic!("it was not signed") };
        assert_eq!(Compression::detect(&once), packed);
        let unpacked = decompress(&once, 1 << 20).unwrap();
        assert!(unpacked.starts_with(&module()));
        assert_eq!(signed(&once, Hash::Sha256), Signed::Already);
        assert_eq!(signed(&file, Hash::Sha256), Signed::Anew(once.clone()), "the same bytes every time");
        let Signed::Anew(twice) = signed(&once, Hash::Sha512) else { panic!("another hash is another wish") };
        assert!(decompress(&twice, 1 << 20).unwrap().starts_with(&unpacked));
    }

    #[test]
    fn what_is_no_module_is_not_signed() {
        let identity = fixture::RSA.identity();
        let refused = |file: &[u8]| sign_file(file, &identity, Hash::Sha256, 1 << 20).unwrap_err();
        assert!(matches!(refused(b"#!/bin/sh"), FileError::Module(_)));
        assert!(matches!(refused(b"\x1f\x8bnothing"), FileError::Unpack(_)));
        let large = pack(Compression::Gzip, &vec![0; 2 << 20]).unwrap();
        assert!(matches!(refused(&large), FileError::Unpack(DecompressError::TooLarge { .. })));
    }
}
