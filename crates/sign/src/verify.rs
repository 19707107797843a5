//! Checking the last signature of a module, as the kernel does (`kernel/module/signing.c`,
//! `crypto/asymmetric_keys/pkcs7_verify.c`).

use std::fmt;

use cms::signed_data::{SignerIdentifier, SignerInfo};
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey,
};
use tenon_kmod::object::Signature;
use tenon_kmod::object::signature::{SignatureError, SignatureType};
use tenon_kmod::predict::SignatureCheck;

use crate::certificate::{Certificate, KeyKind, describe};
use crate::message::{self, Hash};

/// How a signature names its signer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignerName(String);

impl fmt::Display for SignerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is to be said of a module's last signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is none.
    Unsigned,
    /// The frame is broken.
    Malformed(SignatureError),
    /// The frame holds nothing that a kernel understands: not PKCS#7, signed attributes, an unknown hash.
    Unsupported,
    /// Signed by somebody who is not among the trusted.
    UnknownSigner(SignerName),
    /// It names a trusted signer, and is not his over these bytes.
    Bad(SignerName),
    /// It is good.
    Good {
        /// Which of the trusted made it.
        certificate: usize,
        /// With which hash.
        hash: Hash,
    },
}

impl Verdict {
    /// For a prediction: what it means to a kernel that trusts the same certificates.
    pub fn check(&self, trusted: &[Certificate]) -> SignatureCheck {
        match self {
            // Of these the prediction knows more by itself.
            Self::Unsigned | Self::Malformed(_) => SignatureCheck::Unread,
            Self::Unsupported => SignatureCheck::Unsupported,
            Self::UnknownSigner(_) => SignatureCheck::UnknownSigner,
            Self::Bad(_) => SignatureCheck::Bad,
            Self::Good { certificate, hash } => SignatureCheck::Good {
                elliptic: trusted.get(*certificate).is_some_and(|by| by.kind() != KeyKind::Rsa),
                long_hash: *hash != Hash::Sha256,
            },
        }
    }
}

/// Checks a decompressed module's last signature against those who are trusted.
pub fn verify(module: &[u8], trusted: &[Certificate]) -> Verdict {
    let signature = match Signature::parse(module) {
        Signature::Absent => return Verdict::Unsigned,
        Signature::Malformed(error) => return Verdict::Malformed(error),
        Signature::Appended(signature) => signature,
    };
    let (Some(body), Some(message)) =
        (module.get(..signature.signed_length), module.get(signature.signature.clone()))
    else {
        return Verdict::Unsupported;
    };
    if signature.id_type != SignatureType::Pkcs7 {
        return Verdict::Unsupported;
    }
    message::read(message).map_or(Verdict::Unsupported, |signer| judge(&signer, body, trusted))
}

fn judge(signer: &SignerInfo, body: &[u8], trusted: &[Certificate]) -> Verdict {
    // The kernel refuses signed attributes in a module's signature.
    let Some(hash) = Hash::from_oid(signer.digest_alg.oid).filter(|_| signer.signed_attrs.is_none()) else {
        return Verdict::Unsupported;
    };
    let name = SignerName(name_of(&signer.sid));
    let Some(certificate) = trusted.iter().position(|certificate| is_named(certificate, &signer.sid)) else {
        return Verdict::UnknownSigner(name);
    };
    let good =
        trusted.get(certificate).is_some_and(|by| is_good(by, hash, body, signer.signature.as_bytes()));
    if good { Verdict::Good { certificate, hash } } else { Verdict::Bad(name) }
}

fn is_named(certificate: &Certificate, sid: &SignerIdentifier) -> bool {
    match sid {
        SignerIdentifier::IssuerAndSerialNumber(name) => certificate.name() == name,
        SignerIdentifier::SubjectKeyIdentifier(id) => certificate.key_id() == Some(id),
    }
}

fn name_of(sid: &SignerIdentifier) -> String {
    match sid {
        SignerIdentifier::IssuerAndSerialNumber(name) => describe(name),
        SignerIdentifier::SubjectKeyIdentifier(id) => {
            let bytes: Vec<String> = id.0.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            format!("key {}", bytes.join(":"))
        }
    }
}

fn is_good(certificate: &Certificate, hash: Hash, body: &[u8], signature: &[u8]) -> bool {
    let key = certificate.public_key();
    match certificate.kind() {
        KeyKind::Rsa => {
            let algorithm = match hash {
                Hash::Sha256 => &RSA_PKCS1_2048_8192_SHA256,
                Hash::Sha384 => &RSA_PKCS1_2048_8192_SHA384,
                Hash::Sha512 => &RSA_PKCS1_2048_8192_SHA512,
            };
            UnparsedPublicKey::new(algorithm, key).verify(body, signature).is_ok()
        }
        KeyKind::P256 => {
            let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(key);
            let signature = p256::ecdsa::Signature::from_der(signature);
            key.and_then(|key| key.verify_prehash(hash.of(body).as_ref(), &signature?)).is_ok()
        }
        KeyKind::P384 => {
            let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(key);
            let signature = p384::ecdsa::Signature::from_der(signature);
            key.and_then(|key| key.verify_prehash(hash.of(body).as_ref(), &signature?)).is_ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::module::sign;
    use proptest::prelude::*;

    #[test]
    fn what_was_changed_is_told_from_what_is_unknown() {
        let (ours, other) = (fixture::RSA.identity(), fixture::P384.identity());
        let trusted = [ours.certificate().clone()];
        let mut signed = sign(b"a module", &ours, Hash::Sha512).unwrap();
        signed[0] ^= 1;
        let Verdict::Bad(name) = verify(&signed, &trusted) else { panic!("{:?}", verify(&signed, &trusted)) };
        assert!(name.to_string().starts_with("CN=Tenon test RSA #"), "{name}");
        let foreign = sign(b"a module", &other, Hash::Sha256).unwrap();
        assert!(matches!(verify(&foreign, &trusted), Verdict::UnknownSigner(_)));
        assert_eq!(verify(b"a module", &trusted), Verdict::Unsigned);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_no_flipped_bit_is_good(at: proptest::sample::Index, bit in 0..8_u32) {
            let identity = fixture::P256.identity();
            let signed = sign(b"a module that is signed", &identity, Hash::Sha256).unwrap();
            let mut bent = signed.clone();
            let at = at.index(bent.len());
            bent[at] ^= 1 << bit;
            let verdict = verify(&bent, &[identity.certificate().clone()]);
            // The hash is named twice in a message, and only the signer's counts: the kernel, too, overlooks the other.
            if let Verdict::Good { .. } = verdict {
                prop_assert!(at >= b"a module that is signed".len(), "a changed module is good at {at}");
            }
            let _ = verify(&bent[at..], &[]);
        }
    }
}
