//! Where the depot is, whom to trust there, and who we are to it.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use http::HeaderValue;
use http::uri::Uri;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};

use super::DepotError;

pub(super) const ADDRESSES: &str = "addresses";
const CERTIFICATES: &str = "ca.crt";

/// Text that is not an address of the depot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not https://host[:port]")]
pub struct AddressError(String);

/// An address of the depot: `https://host[:port]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
    name: ServerName<'static>,
}

impl Address {
    /// The host without brackets, and the port: what to connect to.
    pub(super) fn endpoint(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// The name that the certificate must have.
    pub(super) fn server_name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    /// The value of the Host header.
    pub(super) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| error())?;
        let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let host = uri.host().filter(|_| is_bare && uri.scheme_str() == Some("https")).ok_or_else(error)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| error())?;
        Ok(Self { host, port: uri.port_u16().unwrap_or(443), name })
    }
}

/// What is needed for a request.
pub(super) struct Settings {
    pub(super) addresses: Vec<Address>,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) token: HeaderValue,
}

impl Settings {
    /// Reads what the kubelet keeps up to date. The files are small and in memory (tmpfs).
    pub(super) fn read(dir: &Path, token_file: &Path) -> Result<Self, DepotError> {
        Ok(Self {
            addresses: addresses(&dir.join(ADDRESSES))?,
            tls: tls(&dir.join(CERTIFICATES))?,
            token: token(token_file)?,
        })
    }
}

fn text(path: &Path) -> Result<String, DepotError> {
    std::fs::read_to_string(path).map_err(|source| DepotError::Settings { path: path.to_owned(), source })
}

fn addresses(path: &Path) -> Result<Vec<Address>, DepotError> {
    let parse =
        |line: &str| line.parse().map_err(|source| DepotError::Address { path: path.to_owned(), source });
    text(path)?.lines().map(str::trim).filter(|line| !line.is_empty()).map(parse).collect()
}

fn tls(path: &Path) -> Result<Arc<ClientConfig>, DepotError> {
    let mut roots = RootCertStore::empty();
    let pem = text(path)?;
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok));
    if roots.is_empty() {
        return Err(DepotError::Certificates { path: path.to_owned() });
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(DepotError::TlsSetup)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn token(path: &Path) -> Result<HeaderValue, DepotError> {
    let missing = || DepotError::Token { path: path.to_owned() };
    let token = text(path)?;
    let token = Some(token.trim()).filter(|token| !token.is_empty()).ok_or_else(missing)?;
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| missing())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_https_and_nothing_else() {
        for (text, authority) in [
            ("https://tenon-depot.tenon-system.svc:8443", "tenon-depot.tenon-system.svc:8443"),
            ("https://10.0.0.7:8443/", "10.0.0.7:8443"),
            ("https://[fd00::7]:8443", "[fd00::7]:8443"),
            ("https://depot", "depot:443"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().authority(), authority);
        }
        for text in
            ["", "depot", "http://depot", "https://", "https://depot/path", "https://depot/?a", "https://a b"]
        {
            assert_eq!(text.parse::<Address>(), Err(AddressError(text.to_owned())));
        }
    }
}
