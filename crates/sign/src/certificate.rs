//! The certificate that says whose signature it is.

use std::fmt;

use cms::cert::IssuerAndSerialNumber;
use const_oid::db::rfc5912::{ID_EC_PUBLIC_KEY, RSA_ENCRYPTION, SECP_256_R_1, SECP_384_R_1};
use der::Decode as _;
use der::asn1::ObjectIdentifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_cert::ext::pkix::SubjectKeyIdentifier;

/// What kind of key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// RSA, PKCS#1 v1.5: every kernel verifies it.
    Rsa,
    /// ECDSA on the curve P-256: kernels with `CONFIG_CRYPTO_ECDSA`, since 5.13.
    P256,
    /// ECDSA on the curve P-384: kernels with `CONFIG_CRYPTO_ECDSA`, since 5.13.
    P384,
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa => "RSA",
            Self::P256 => "ECDSA P-256",
            Self::P384 => "ECDSA P-384",
        })
    }
}

/// Why a certificate is of no use.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Neither DER nor PEM with a certificate in it.
    #[error("no X.509 certificate: neither DER nor a PEM section CERTIFICATE")]
    Missing,
    /// Not what RFC 5280 calls a certificate.
    #[error("read the X.509 certificate")]
    Malformed(#[source] der::Error),
    /// A key with which no kernel verifies modules.
    #[error(
        "the certificate's key is of a kind ({0}) that module signatures do not have: use RSA, P-256 or P-384"
    )]
    Key(ObjectIdentifier),
}

/// An X.509 certificate with a key that can verify modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    name: IssuerAndSerialNumber,
    key_id: Option<SubjectKeyIdentifier>,
    subject: String,
    kind: KeyKind,
    public_key: Vec<u8>,
}

impl Certificate {
    /// Reads one certificate, DER or PEM; of several in PEM the first.
    pub fn read(bytes: &[u8]) -> Result<Self, CertificateError> {
        let der = match bytes.first() {
            // A DER sequence. PEM begins with a letter, a dash or a space.
            Some(0x30) => bytes.to_vec(),
            _ => CertificateDer::from_pem_slice(bytes).map_err(|_| CertificateError::Missing)?.to_vec(),
        };
        Self::from_der(der)
    }

    /// Reads all certificates of a file: one in DER, or one or several in PEM.
    pub fn read_all(bytes: &[u8]) -> Result<Vec<Self>, CertificateError> {
        if bytes.first() == Some(&0x30) {
            return Ok(vec![Self::read(bytes)?]);
        }
        let sections = CertificateDer::pem_slice_iter(bytes);
        let read =
            sections.map(|section| Self::from_der(section.map_err(|_| CertificateError::Missing)?.to_vec()));
        let all = read.collect::<Result<Vec<_>, _>>()?;
        if all.is_empty() { Err(CertificateError::Missing) } else { Ok(all) }
    }

    fn from_der(der: Vec<u8>) -> Result<Self, CertificateError> {
        let malformed = CertificateError::Malformed;
        let certificate = x509_cert::Certificate::from_der(&der).map_err(malformed)?;
        let signed = certificate.tbs_certificate();
        let info = signed.subject_public_key_info();
        let kind = kind_of(info).map_err(malformed)?.map_err(CertificateError::Key)?;
        let key_id = signed.get_extension::<SubjectKeyIdentifier>().map_err(malformed)?.map(|(_, id)| id);
        let public_key = info.subject_public_key.raw_bytes().to_vec();
        let subject = signed.subject().to_string();
        let (issuer, serial_number) = (signed.issuer().clone(), signed.serial_number().clone());
        let name = IssuerAndSerialNumber { issuer, serial_number };
        Ok(Self { der, name, key_id, subject, kind, public_key })
    }

    /// The certificate as it was read, without the armour of PEM.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whose it is, as RFC 4514 writes names.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// By whom it was issued, and under which number, for messages.
    pub fn issued_as(&self) -> String {
        describe(&self.name)
    }

    /// What kind of key it certifies.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The public key: PKCS#1's `RSAPublicKey`, or a point as SEC 1 writes it.
    pub(crate) fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// How signatures name it.
    pub(crate) fn name(&self) -> &IssuerAndSerialNumber {
        &self.name
    }

    /// How some signatures name it instead.
    pub(crate) fn key_id(&self) -> Option<&SubjectKeyIdentifier> {
        self.key_id.as_ref()
    }
}

/// The kind of key, or the identifier of one that is of no use here.
fn kind_of(
    info: &x509_cert::spki::SubjectPublicKeyInfoOwned,
) -> der::Result<Result<KeyKind, ObjectIdentifier>> {
    match info.algorithm.oid {
        RSA_ENCRYPTION => Ok(Ok(KeyKind::Rsa)),
        ID_EC_PUBLIC_KEY => {
            let curve = info.algorithm.parameters.as_ref().map(der::Encode::to_der).transpose()?;
            let curve = ObjectIdentifier::from_der(&curve.unwrap_or_default())?;
            Ok(match curve {
                SECP_256_R_1 => Ok(KeyKind::P256),
                SECP_384_R_1 => Ok(KeyKind::P384),
                other => Err(other),
            })
        }
        other => Ok(Err(other)),
    }
}

/// How an issuer and a number are written in messages.
pub(crate) fn describe(name: &IssuerAndSerialNumber) -> String {
    format!("{} #{}", name.issuer, name.serial_number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn der_and_pem_are_the_same_certificate() {
        let der = Certificate::read(&fixture::RSA.certificate_der()).unwrap();
        let pem = Certificate::read(fixture::RSA.certificate.as_bytes()).unwrap();
        assert_eq!(der, pem);
        assert_eq!((der.kind(), der.subject()), (KeyKind::Rsa, "CN=Tenon test RSA"));
    }

    #[test]
    fn a_file_may_hold_several() {
        let both = [fixture::RSA.certificate, fixture::P384.certificate].concat();
        let kinds: Vec<_> =
            Certificate::read_all(both.as_bytes()).unwrap().iter().map(Certificate::kind).collect();
        assert_eq!(kinds, [KeyKind::Rsa, KeyKind::P384]);
        assert_eq!(Certificate::read_all(&fixture::RSA.certificate_der()).unwrap().len(), 1);
        assert!(matches!(Certificate::read_all(b"nothing"), Err(CertificateError::Missing)));
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let key = fixture::RSA.key;
        for (bytes, text) in [
            (&b""[..], "no X.509"),
            (b"-----BEGIN CERTIFICATE-----\n", "no X.509"),
            (key.as_bytes(), "no X.509"),
            (b"0\x03\x02\x01\x01", "read the X.509"),
            (&[0x30; 4096], "read the X.509"),
        ] {
            let error = Certificate::read(bytes).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
