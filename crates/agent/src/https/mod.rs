//! One request, one connection: TLS over TCP, HTTP/1.1.
//!
//! An agent asks so rarely that a connection kept for the next request would only be idle. What is trusted is read
//! anew by whoever asks, so certificates may rotate.

mod address;
mod connection;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

pub use address::{Address, AddressError};
pub(crate) use connection::{ask, next_bytes, retry_after};

/// A conversation that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// A file cannot be read that says whom to trust, or who we are.
    #[error("read {path}, which the operator or the kubelet provides")]
    Provided {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no certificate to trust.
    #[error("{path} holds no certificate that can be trusted")]
    Certificates {
        /// The file.
        path: PathBuf,
    },
    /// There is no token.
    #[error("{path} holds no token")]
    Token {
        /// The file.
        path: PathBuf,
    },
    /// TLS cannot be set up at all.
    #[error("set up TLS")]
    Setup(#[source] rustls::Error),
    /// Nobody answers there.
    #[error("connect to {address}")]
    Connect {
        /// Where.
        address: Address,
        /// Why not.
        source: io::Error,
    },
    /// Somebody answers there whom the certificates do not vouch for, or who speaks no TLS.
    #[error("begin TLS with {address}")]
    Tls {
        /// Where.
        address: Address,
        /// Why not.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("transfer from {address}")]
    Http {
        /// With whom.
        address: Address,
        /// Why.
        source: hyper::Error,
    },
    /// It says nothing any more.
    #[error("transfer from {address}: nothing has come for {} s", patience.as_secs())]
    Silent {
        /// Who.
        address: Address,
        /// For how long.
        patience: Duration,
    },
}

/// TLS that believes whom the certificates in this file vouch for, and nobody else.
pub(crate) fn trust(certificates: &Path) -> Result<Arc<ClientConfig>, HttpsError> {
    let path = || certificates.to_owned();
    let pem = std::fs::read(certificates).map_err(|source| HttpsError::Provided { path: path(), source })?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    if roots.is_empty() {
        return Err(HttpsError::Certificates { path: path() });
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(HttpsError::Setup)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The value of the Authorization header, with the token in this file.
pub(crate) fn bearer(token: &Path) -> Result<HeaderValue, HttpsError> {
    let path = || token.to_owned();
    let text =
        std::fs::read_to_string(token).map_err(|source| HttpsError::Provided { path: path(), source })?;
    let value = Some(text.trim()).filter(|text| !text.is_empty());
    let value = value.and_then(|text| HeaderValue::from_str(&format!("Bearer {text}")).ok());
    let mut value = value.ok_or_else(|| HttpsError::Token { path: path() })?;
    value.set_sensitive(true);
    Ok(value)
}
