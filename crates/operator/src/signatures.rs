//! What the nodes' kernels want of signatures, as the administrator says: whether they enforce them, and whom they trust.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tenon_kmod::predict::{Enforcement, SignatureCheck};
use tenon_order::Digest;
use tenon_sign::{Certificate, CertificateError, verify};

use crate::args::SignaturePolicy;

/// Files of certificates are not larger.
const MOST_BYTES: u64 = 64 * 1024;

/// Why what is said of the nodes is unusable.
#[derive(Debug, thiserror::Error)]
pub enum SignaturesError {
    /// A file or directory that is not there, or not readable.
    #[error("read {path} (--nodes-trust)", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file that is no certificate.
    #[error("{path} (--nodes-trust)", path = path.display())]
    Certificate {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: CertificateError,
    },
    /// A directory without any.
    #[error("{path} (--nodes-trust) holds no files", path = path.display())]
    Empty {
        /// Which.
        path: PathBuf,
    },
}

/// What the nodes' kernels want of signatures.
#[derive(Debug, Default)]
pub struct NodeSignatures {
    enforcement: Enforcement,
    trusted: Vec<Certificate>,
    text: String,
}

impl NodeSignatures {
    /// Reads the certificates.
    pub fn read(policy: SignaturePolicy, paths: &[PathBuf]) -> Result<Self, SignaturesError> {
        let mut files = Vec::new();
        for path in paths {
            if path.is_dir() {
                files.extend(files_in(path)?);
            } else {
                files.push(path.clone());
            }
        }
        let trusted = files.iter().map(|path| certificates(path)).collect::<Result<Vec<_>, _>>()?.concat();
        let enforcement = match policy {
            SignaturePolicy::Permissive => Enforcement::Permissive,
            SignaturePolicy::Enforced => Enforcement::Enforced,
            SignaturePolicy::Lockdown => Enforcement::Lockdown,
        };
        let all: Vec<u8> = trusted.iter().flat_map(|certificate| certificate.der().iter().copied()).collect();
        let text = if trusted.is_empty() { String::new() } else { Digest::of(&all).to_string() };
        Ok(Self { enforcement, trusted, text })
    }

    /// What they do about modules without a good one.
    pub fn enforcement(&self) -> Enforcement {
        self.enforcement
    }

    /// Another text for other certificates; empty for none.
    pub fn trusted_text(&self) -> &str {
        &self.text
    }

    /// What a module's last signature is worth to them.
    pub fn check(&self, module: &[u8]) -> SignatureCheck {
        // Where nobody says whom the kernels trust, nothing is known of their opinion.
        if self.trusted.is_empty() {
            return SignatureCheck::Unread;
        }
        verify(module, &self.trusted).check(&self.trusted)
    }
}

/// A mounted ConfigMap has links beside its files, and directories that begin with a dot.
fn files_in(directory: &Path) -> Result<Vec<PathBuf>, SignaturesError> {
    let failed = |source| SignaturesError::Read { path: directory.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(SignaturesError::Empty { path: directory.to_owned() });
    }
    Ok(files)
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, SignaturesError> {
    let failed = |source| SignaturesError::Read { path: path.to_owned(), source };
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > MOST_BYTES {
        return Err(failed(io::Error::other(format!(
            "it has {size} bytes, certificates at most {MOST_BYTES}"
        ))));
    }
    let bytes = fs::read(path).map_err(failed)?;
    Certificate::read_all(&bytes)
        .map_err(|source| SignaturesError::Certificate { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sign/testdata");

    #[test]
    fn certificates_are_read_from_files_and_directories_and_others_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| Path::new(KEYS).join(name);
        fs::copy(file("rsa.pem"), folder.path().join("one.pem")).unwrap();
        fs::create_dir(folder.path().join("..data")).unwrap();
        let read = |paths: &[PathBuf]| NodeSignatures::read(SignaturePolicy::Enforced, paths);
        let one = read(&[folder.path().to_owned()]).unwrap();
        let both = read(&[folder.path().to_owned(), file("p384.pem")]).unwrap();
        assert_eq!((one.trusted.len(), both.trusted.len()), (1, 2));
        assert_ne!(one.trusted_text(), both.trusted_text());
        assert_eq!(read(&[]).unwrap().trusted_text(), "");
        for (path, words) in [
            (file("rsa.key"), "rsa.key"),
            (file("absent"), "absent"),
            (folder.path().join("..data"), "no files"),
        ] {
            let error = read(&[path]).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
