//! The CMS message (RFC 5652), in the one form that kernels accept: version 1, nothing encapsulated, no certificates, no
//! signed attributes, one signer named by issuer and serial number (`crypto/asymmetric_keys/pkcs7_parser.c`).

use std::fmt;
use std::str::FromStr;

use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{EncapsulatedContentInfo, SignedData, SignerIdentifier, SignerInfo, SignerInfos};
use const_oid::db::rfc5911::{ID_DATA, ID_SIGNED_DATA};
use const_oid::db::rfc5912::{
    ECDSA_WITH_SHA_256, ECDSA_WITH_SHA_384, ECDSA_WITH_SHA_512, ID_SHA_256, ID_SHA_384, ID_SHA_512,
    RSA_ENCRYPTION,
};
use der::asn1::{Null, ObjectIdentifier, OctetString, SetOfVec};
use der::{Any, Decode as _, Encode as _};
use ring::digest::{self, Digest};
use ring::signature::{self, RsaEncoding};
use x509_cert::spki::AlgorithmIdentifierOwned;

use crate::certificate::{Certificate, KeyKind};

/// What the module is hashed with before it is signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Hash {
    /// SHA-256: what KMM signs with, and what every kernel knows.
    #[default]
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512: what distributions sign their own modules with.
    Sha512,
}

/// A hash that is not among those.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown hash {0:?}: expected sha256, sha384 or sha512")]
pub struct UnknownHash(String);

impl Hash {
    const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// As `sign-file` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    pub(crate) fn of(self, data: &[u8]) -> Digest {
        let algorithm = match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, data)
    }

    pub(crate) fn rsa(self) -> &'static dyn RsaEncoding {
        match self {
            Self::Sha256 => &signature::RSA_PKCS1_SHA256,
            Self::Sha384 => &signature::RSA_PKCS1_SHA384,
            Self::Sha512 => &signature::RSA_PKCS1_SHA512,
        }
    }

    fn oid(self) -> ObjectIdentifier {
        match self {
            Self::Sha256 => ID_SHA_256,
            Self::Sha384 => ID_SHA_384,
            Self::Sha512 => ID_SHA_512,
        }
    }

    pub(crate) fn from_oid(oid: ObjectIdentifier) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.oid() == oid)
    }

    fn ecdsa(self) -> ObjectIdentifier {
        match self {
            Self::Sha256 => ECDSA_WITH_SHA_256,
            Self::Sha384 => ECDSA_WITH_SHA_384,
            Self::Sha512 => ECDSA_WITH_SHA_512,
        }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Hash {
    type Err = UnknownHash;

    fn from_str(text: &str) -> Result<Self, UnknownHash> {
        Self::ALL.into_iter().find(|hash| hash.as_str() == text).ok_or_else(|| UnknownHash(text.to_owned()))
    }
}

/// The message that carries this signature.
pub(crate) fn write(certificate: &Certificate, hash: Hash, signature: Vec<u8>) -> der::Result<Vec<u8>> {
    // OpenSSL, and with it sign-file, writes no parameters behind a hash and NULL behind RSA.
    let digest = AlgorithmIdentifierOwned { oid: hash.oid(), parameters: None };
    let signature_algorithm = match certificate.kind() {
        KeyKind::Rsa => AlgorithmIdentifierOwned { oid: RSA_ENCRYPTION, parameters: Some(Null.into()) },
        KeyKind::P256 | KeyKind::P384 => AlgorithmIdentifierOwned { oid: hash.ecdsa(), parameters: None },
    };
    let signer = SignerInfo {
        version: CmsVersion::V1,
        sid: SignerIdentifier::IssuerAndSerialNumber(certificate.name().clone()),
        digest_alg: digest.clone(),
        signed_attrs: None,
        signature_algorithm,
        signature: OctetString::new(signature)?,
        unsigned_attrs: None,
    };
    let content = SignedData {
        version: CmsVersion::V1,
        digest_algorithms: SetOfVec::from_iter([digest])?,
        encap_content_info: EncapsulatedContentInfo { econtent_type: ID_DATA, econtent: None },
        certificates: None,
        crls: None,
        signer_infos: SignerInfos(SetOfVec::from_iter([signer])?),
    };
    ContentInfo { content_type: ID_SIGNED_DATA, content: Any::encode_from(&content)? }.to_der()
}

/// What a message says of its one signer; `None` where it is in no form that a kernel accepts.
pub(crate) fn read(message: &[u8]) -> Option<SignerInfo> {
    let envelope = ContentInfo::from_der(message).ok()?;
    if envelope.content_type != ID_SIGNED_DATA {
        return None;
    }
    let content: SignedData = envelope.content.decode_as().ok()?;
    let [signer] = content.signer_infos.0.as_slice() else { return None };
    Some(signer.clone())
}
