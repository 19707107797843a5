//! Signing a module.

use tenon_kmod::object::signature::MAGIC;

use crate::certificate::{Certificate, KeyKind};
use crate::message::{self, Hash};

/// Whoever can sign with a private key: a key in memory, or one that never leaves its device.
pub trait Signer: Send + Sync {
    /// What kind of key it is.
    fn kind(&self) -> KeyKind;

    /// The public half: PKCS#1's `RSAPublicKey`, or an uncompressed point as SEC 1 writes it.
    fn public_key(&self) -> Vec<u8>;

    /// The signature over the hash of `data`: PKCS#1 v1.5 for RSA, DER with r and s for ECDSA.
    fn sign(&self, hash: Hash, data: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>>;
}

/// Why a key and a certificate are no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Nobody could verify what they make.
    #[error("the private key ({key}) does not belong to the certificate of {subject} ({certificate})")]
    Mismatch {
        /// The key's kind.
        key: KeyKind,
        /// The certificate's kind.
        certificate: KeyKind,
        /// Whose certificate it is.
        subject: String,
    },
}

/// Why a module was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// What holds the key did not sign.
    #[error("sign with the key of {subject}")]
    Signer {
        /// Whose certificate it is.
        subject: String,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The message could not be written.
    #[error("write the signature")]
    Message(#[source] der::Error),
    /// The frame counts with 32 bits.
    #[error("write the signature: a message of {0} bytes")]
    Length(usize),
}

/// A private key with the certificate under which kernels know it.
pub struct Identity {
    certificate: Certificate,
    signer: Box<dyn Signer>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("certificate", &self.certificate.issued_as()).finish_non_exhaustive()
    }
}

impl Identity {
    /// Of a key and the certificate of its public half.
    pub fn new(certificate: Certificate, signer: Box<dyn Signer>) -> Result<Self, IdentityError> {
        if signer.kind() != certificate.kind() || signer.public_key() != certificate.public_key() {
            return Err(IdentityError::Mismatch {
                key: signer.kind(),
                certificate: certificate.kind(),
                subject: certificate.subject().to_owned(),
            });
        }
        Ok(Self { certificate, signer })
    }

    /// Under which it signs.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }
}

/// A module, decompressed, with one more signature at its end, made over all of it, signatures that it has included.
pub fn sign(module: &[u8], identity: &Identity, hash: Hash) -> Result<Vec<u8>, SignError> {
    let failed = |source| SignError::Signer { subject: identity.certificate.subject().to_owned(), source };
    let signature = identity.signer.sign(hash, module).map_err(failed)?;
    let message = message::write(&identity.certificate, hash, signature).map_err(SignError::Message)?;
    let length = u32::try_from(message.len()).map_err(|_| SignError::Length(message.len()))?;
    // `struct module_signature`: no algorithm, no hash, PKEY_ID_PKCS7, no signer, no key identifier, padding.
    let frame = [0, 0, 2, 0, 0, 0, 0, 0];
    Ok([module, &message, &frame, &length.to_be_bytes(), MAGIC].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, Pair};
    use crate::verify::{Verdict, verify};
    use rstest::rstest;

    #[rstest]
    fn what_is_signed_is_verified_and_signed_alike_again(
        #[values(&fixture::RSA, &fixture::P256, &fixture::P384)] pair: &Pair,
        #[values(Hash::Sha256, Hash::Sha384, Hash::Sha512)] hash: Hash,
    ) {
        let identity = pair.identity();
        let signed = sign(b"a module", &identity, hash).unwrap();
        assert_eq!(sign(b"a module", &identity, hash).unwrap(), signed, "equal input, equal output");
        let trusted = [identity.certificate().clone()];
        assert_eq!(verify(&signed, &trusted), Verdict::Good { certificate: 0, hash });
    }

    #[test]
    fn a_second_signature_covers_the_first() {
        let (first, second) = (fixture::RSA.identity(), fixture::P384.identity());
        let once = sign(b"a module", &first, Hash::Sha256).unwrap();
        let twice = sign(&once, &second, Hash::Sha512).unwrap();
        assert!(twice.starts_with(&once));
        let trusted = [first.certificate().clone(), second.certificate().clone()];
        assert_eq!(verify(&twice, &trusted), Verdict::Good { certificate: 1, hash: Hash::Sha512 });
        // The kernel looks at the last one only.
        assert!(matches!(verify(&twice, &trusted[..1]), Verdict::UnknownSigner(_)));
    }

    #[test]
    fn a_key_needs_its_own_certificate() {
        let other = Certificate::read(fixture::P256.certificate.as_bytes()).unwrap();
        let error = Identity::new(other, Box::new(fixture::RSA.key())).unwrap_err();
        assert!(error.to_string().contains("RSA") && error.to_string().contains("P-256"), "{error}");
    }
}
