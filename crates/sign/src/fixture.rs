//! Keys that nobody trusts, made with `openssl req -new -x509 -nodes`.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::{Certificate, Identity, LocalKey};

/// A key and its certificate, in PEM.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) key: &'static str,
    pub(crate) certificate: &'static str,
}

pub(crate) const RSA: Pair =
    Pair { key: include_str!("../testdata/rsa.key"), certificate: include_str!("../testdata/rsa.pem") };
pub(crate) const P256: Pair =
    Pair { key: include_str!("../testdata/p256.key"), certificate: include_str!("../testdata/p256.pem") };
pub(crate) const P384: Pair =
    Pair { key: include_str!("../testdata/p384.key"), certificate: include_str!("../testdata/p384.pem") };

impl Pair {
    pub(crate) fn key(&self) -> LocalKey {
        LocalKey::read(self.key.as_bytes()).unwrap()
    }

    pub(crate) fn identity(&self) -> Identity {
        let certificate = Certificate::read(self.certificate.as_bytes()).unwrap();
        Identity::new(certificate, Box::new(self.key())).unwrap()
    }

    pub(crate) fn certificate_der(&self) -> Vec<u8> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap().to_vec()
    }
}
