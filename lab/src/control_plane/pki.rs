//! The control plane's certificates and keys, made anew for each lab.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::command::{self, CommandError};

const KUBELET_CLIENT_CERT: &str = "kubelet-client.crt";
const KUBELET_CLIENT_KEY: &str = "kubelet-client.key";

/// The folder with the authority, the server's certificate and the key of the service accounts.
#[derive(Debug)]
pub struct Pki {
    folder: PathBuf,
    authority: Issuer<'static, KeyPair>,
    authority_pem: String,
}

/// A client certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The key, PKCS#8.
    pub key: String,
}

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file.
    #[error("write {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A key or a certificate.
    #[error("make the certificate of {subject}")]
    Certificate {
        /// Whose.
        subject: String,
        /// What the library said.
        #[source]
        source: rcgen::Error,
    },
    /// The key of the service accounts.
    #[error("make the key that signs tokens (package openssl)")]
    AccountKey(#[from] CommandError),
}

impl Pki {
    /// Makes all of it in a fresh folder.
    pub fn create(folder: &Path) -> Result<Self, PkiError> {
        let write = |source| PkiError::Write { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(write)?;
        let key = generate("the authority")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "tenon-lab");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(failed("the authority"))?;
        let authority_pem = certificate.pem();
        let pki = Self { folder: folder.to_owned(), authority: Issuer::new(params, key), authority_pem };
        pki.write("ca.crt", &pki.authority_pem)?;
        let names = [
            "127.0.0.1",
            // Where a guest sees the host.
            "10.0.2.2",
            // The `kubernetes` Service.
            "10.96.0.1",
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let server = pki.server("kube-apiserver", &names)?;
        pki.write("apiserver.crt", &server.certificate)?;
        pki.write("apiserver.key", &server.key)?;
        let client = pki.identity("kube-apiserver-kubelet-client", &["system:masters"])?;
        pki.write(KUBELET_CLIENT_CERT, &client.certificate)?;
        pki.write(KUBELET_CLIENT_KEY, &client.key)?;
        pki.make_account_key()?;
        Ok(pki)
    }

    /// A client certificate: `CN` is the user, each `O` a group.
    pub fn identity(&self, user: &str, groups: &[&str]) -> Result<Identity, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(user, &params)
    }

    /// A server certificate for names and addresses.
    pub fn server(&self, subject: &str, names: &[&str]) -> Result<Identity, PkiError> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).map_err(failed(subject))?;
        params.distinguished_name.push(DnType::CommonName, subject);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(subject, &params)
    }

    /// The authority's certificate, in PEM.
    pub fn authority(&self) -> &str {
        &self.authority_pem
    }

    /// The file with the authority's certificate.
    pub fn ca_cert(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    pub(super) fn server_cert(&self) -> PathBuf {
        self.folder.join("apiserver.crt")
    }

    pub(super) fn server_key(&self) -> PathBuf {
        self.folder.join("apiserver.key")
    }

    /// What the API server shows to kubelets.
    pub(super) fn kubelet_client_cert(&self) -> PathBuf {
        self.folder.join(KUBELET_CLIENT_CERT)
    }

    pub(super) fn kubelet_client_key(&self) -> PathBuf {
        self.folder.join(KUBELET_CLIENT_KEY)
    }

    pub(super) fn account_key(&self) -> PathBuf {
        self.folder.join("sa.key")
    }

    pub(super) fn account_public_key(&self) -> PathBuf {
        self.folder.join("sa.pub")
    }

    /// RSA, as kubeadm makes it and as most clusters have it; ring cannot generate such keys.
    fn make_account_key(&self) -> Result<(), PkiError> {
        let (key, public) = (self.account_key(), self.account_public_key());
        command::run(
            Command::new("openssl")
                .args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"])
                .arg(&key),
        )?;
        command::run(
            Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&key).arg("-out").arg(&public),
        )?;
        Ok(())
    }

    fn sign(&self, subject: &str, params: &CertificateParams) -> Result<Identity, PkiError> {
        let key = generate(subject)?;
        let certificate = params.signed_by(&key, &self.authority).map_err(failed(subject))?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    fn write(&self, name: &str, text: &str) -> Result<(), PkiError> {
        let path = self.folder.join(name);
        fs::write(&path, text).map_err(|source| PkiError::Write { path, source })
    }
}

fn generate(subject: &str) -> Result<KeyPair, PkiError> {
    KeyPair::generate().map_err(failed(subject))
}

fn failed(subject: &str) -> impl FnOnce(rcgen::Error) -> PkiError {
    let subject = subject.to_owned();
    move |source| PkiError::Certificate { subject, source }
}
