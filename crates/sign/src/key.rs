//! A private key in memory.

use std::fmt;

use p256::ecdsa::signature::hazmat::PrehashSigner as _;
use p256::pkcs8::DecodePrivateKey as _;
use ring::rand::SystemRandom;
use ring::signature::{KeyPair as _, RsaKeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use zeroize::Zeroize as _;

use crate::certificate::KeyKind;
use crate::message::Hash;
use crate::module::Signer;

/// Why a private key is of no use. Never quotes the key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No PEM with a private key in it.
    #[error("no private key: expected a PEM section PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY")]
    Missing,
    /// A key that needs a passphrase.
    #[error("the private key is encrypted: store it without a passphrase (`openssl pkey -in KEY -out NEW`)")]
    Encrypted,
    /// A key that is neither RSA of 2048 to 4096 bits nor on the curves P-256 and P-384.
    #[error("the private key cannot be used: expected RSA of 2048 to 4096 bits, P-256 or P-384")]
    Unusable,
}

/// A private key that was read from a file or a Secret. Its numbers are wiped when it is dropped, as far as the libraries
/// that compute with them do so: the curves' keys always, an RSA key's file form always.
pub struct LocalKey(Kind);

enum Kind {
    Rsa(Box<RsaKeyPair>),
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
}

impl fmt::Debug for LocalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalKey({})", self.kind())
    }
}

impl LocalKey {
    /// Reads a key from PEM: PKCS#8, PKCS#1 or SEC 1. The text is the caller's to wipe.
    pub fn read(pem: &[u8]) -> Result<Self, KeyError> {
        if is_encrypted(pem) {
            return Err(KeyError::Encrypted);
        }
        let mut der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::Missing)?;
        let kind = Kind::from_der(&der).ok_or(KeyError::Unusable);
        der.zeroize();
        kind.map(Self)
    }
}

/// Whether a passphrase protects the key: PKCS#8's form, or the old one with its header.
fn is_encrypted(pem: &[u8]) -> bool {
    let has = |marker: &[u8]| pem.windows(marker.len()).any(|window| window == marker);
    has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED")
}

impl Kind {
    fn from_der(der: &PrivateKeyDer<'_>) -> Option<Self> {
        match der {
            PrivateKeyDer::Pkcs1(key) => rsa(RsaKeyPair::from_der(key.secret_pkcs1_der())),
            PrivateKeyDer::Sec1(key) => Self::from_sec1(key.secret_sec1_der()),
            PrivateKeyDer::Pkcs8(key) => Self::from_pkcs8(key.secret_pkcs8_der()),
            _ => None,
        }
    }

    fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let p256 = || p256::ecdsa::SigningKey::from_pkcs8_der(der).ok().map(Self::P256);
        let p384 = || p384::ecdsa::SigningKey::from_pkcs8_der(der).ok().map(Self::P384);
        rsa(RsaKeyPair::from_pkcs8(der)).or_else(p256).or_else(p384)
    }

    fn from_sec1(der: &[u8]) -> Option<Self> {
        let p256 = || p256::SecretKey::from_sec1_der(der).ok().map(|key| Self::P256(key.into()));
        let p384 = || p384::SecretKey::from_sec1_der(der).ok().map(|key| Self::P384(key.into()));
        p256().or_else(p384)
    }
}

fn rsa(key: Result<RsaKeyPair, ring::error::KeyRejected>) -> Option<Kind> {
    key.ok().map(|key| Kind::Rsa(Box::new(key)))
}

impl Signer for LocalKey {
    fn kind(&self) -> KeyKind {
        match &self.0 {
            Kind::Rsa(_) => KeyKind::Rsa,
            Kind::P256(_) => KeyKind::P256,
            Kind::P384(_) => KeyKind::P384,
        }
    }

    fn public_key(&self) -> Vec<u8> {
        match &self.0 {
            Kind::Rsa(key) => key.public_key().as_ref().to_vec(),
            Kind::P256(key) => key.verifying_key().to_sec1_point(false).as_bytes().to_vec(),
            Kind::P384(key) => key.verifying_key().to_sec1_point(false).as_bytes().to_vec(),
        }
    }

    fn sign(&self, hash: Hash, data: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        match &self.0 {
            Kind::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                let signed = key.sign(hash.rsa(), &SystemRandom::new(), data, &mut signature);
                signed.map(|()| signature).map_err(|_| "compute the RSA signature".into())
            }
            Kind::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign_prehash(hash.of(data).as_ref())?;
                Ok(signature.to_der().as_bytes().to_vec())
            }
            Kind::P384(key) => {
                let signature: p384::ecdsa::Signature = key.sign_prehash(hash.of(data).as_ref())?;
                Ok(signature.to_der().as_bytes().to_vec())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn what_is_no_key_is_refused_without_being_quoted() {
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let garbage = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
        for (pem, text) in [
            ("", "no private key"),
            (fixture::RSA.certificate, "no private key"),
            (encrypted, "openssl pkey"),
            (garbage, "cannot be used"),
        ] {
            let error = LocalKey::read(pem.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(text) && !error.contains("c2Vj"), "{error}");
        }
    }

    #[test]
    fn a_key_is_never_printed() {
        assert_eq!(format!("{:?}", fixture::P384.key()), "LocalKey(ECDSA P-384)");
    }
}
