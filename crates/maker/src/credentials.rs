//! What is mounted for a task: keys, certificates, registries' credentials. Read when it is needed, wiped afterwards.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tenon_api::task::{CERT_ENTRY, KEY_ENTRY};
use tenon_image::keyring::{Keyring, KeyringError, SecretFormat};
use tenon_sign::{Certificate, CertificateError, Identity, IdentityError, KeyError, LocalKey};
use zeroize::Zeroizing;

/// Why what is mounted is of no use. Never quotes it.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// No such Secret, or none with such an entry.
    #[error("{secret} does not exist, or has no entry {entry:?}")]
    Missing {
        /// Which Secret, in the words of the Module.
        secret: &'static str,
        /// Which entry.
        entry: &'static str,
    },
    /// It is there, and cannot be read.
    #[error("read {path}", path = path.display())]
    Read {
        /// Where it is mounted.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No private key, or one of no use.
    #[error("sign.keySecret, entry {KEY_ENTRY:?}")]
    Key(#[source] KeyError),
    /// No certificate, or one of no use.
    #[error("sign.certSecret, entry {CERT_ENTRY:?}")]
    Certificate(#[source] CertificateError),
    /// One is not the other's.
    #[error("sign.keySecret and sign.certSecret")]
    Identity(#[source] IdentityError),
    /// Registries' credentials.
    #[error("spec.imageRepoSecret")]
    Keyring(#[source] KeyringError),
}

fn entry(directory: &Path, secret: &'static str, entry: &'static str) -> Result<Vec<u8>, CredentialError> {
    let path = directory.join(entry);
    fs::read(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => CredentialError::Missing { secret, entry },
        _ => CredentialError::Read { path, source },
    })
}

/// The key in one directory and its certificate in another, as KMM's Secrets name them.
pub fn identity(key: &Path, certificate: &Path) -> Result<Identity, CredentialError> {
    let certificate = Certificate::read(&entry(certificate, "sign.certSecret", CERT_ENTRY)?)
        .map_err(CredentialError::Certificate)?;
    let key = Zeroizing::new(entry(key, "sign.keySecret", KEY_ENTRY)?);
    let key = LocalKey::read(&key).map_err(CredentialError::Key)?;
    Identity::new(certificate, Box::new(key)).map_err(CredentialError::Identity)
}

/// The credentials in a directory: in either form of a pull secret, or none where nothing is mounted.
pub fn keyring(directory: &Path) -> Result<Keyring, CredentialError> {
    let mut keyring = Keyring::default();
    for format in [SecretFormat::DockerConfigJson, SecretFormat::DockerCfg] {
        match entry(directory, "spec.imageRepoSecret", format.data_key()) {
            Ok(data) => keyring.add(format, &data).map_err(CredentialError::Keyring)?,
            Err(CredentialError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(keyring)
}
