//! Where somebody is.

use std::fmt;
use std::str::FromStr;

use http::uri::Uri;
use rustls_pki_types::ServerName;

/// Text that is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not https://host[:port]")]
pub struct AddressError(String);

/// Somebody to talk to: `https://host[:port]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
    name: ServerName<'static>,
}

impl Address {
    /// The host without brackets, and the port: what to connect to.
    pub(crate) fn endpoint(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// The name that the certificate must have.
    pub(crate) fn server_name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    /// The value of the Host header.
    pub(crate) fn authority(&self) -> String {
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
