//! Connections: TLS with ring, the system's certificate authorities, proxies.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, NoProxy, Proxy, Url};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(10);
/// Between two pieces of an answer.
const SILENCE: Duration = Duration::from_secs(30);

/// Settings that no connection can be made with.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Not PEM, or no certificate in it.
    #[error("read the registry's certificate authority: expected certificates in PEM form")]
    Authority(#[source] Option<rustls_pki_types::pem::Error>),
    /// A certificate that cannot be an authority's.
    #[error("use the registry's certificate authority")]
    Tls(#[source] rustls::Error),
    /// A proxy's address.
    #[error("use the proxy that {variable} names")]
    Proxy {
        /// The environment variable.
        variable: &'static str,
        /// What is wrong with it.
        source: reqwest::Error,
    },
    /// Anything else that keeps a client from being made.
    #[error("prepare connections to registries")]
    Client(#[source] reqwest::Error),
}

/// How to reach a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TlsSettings {
    /// HTTP without TLS (`registryTLS.insecure`).
    pub plain_http: bool,
    /// Any certificate will do (`registryTLS.insecureSkipTLSVerify`).
    pub skip_verify: bool,
    /// A further certificate authority, PEM.
    pub authority: Option<Vec<u8>>,
}

/// The proxies of the environment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proxies {
    http: Option<String>,
    https: Option<String>,
    except: Option<String>,
}

impl Proxies {
    /// From `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, also in lower case.
    pub fn from_environment() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// The same from any source of variables.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| {
            let set = |text: &String| !text.is_empty();
            variable(name).filter(set).or_else(|| variable(&name.to_ascii_lowercase()).filter(set))
        };
        Self { http: either("HTTP_PROXY"), https: either("HTTPS_PROXY"), except: either("NO_PROXY") }
    }

    fn proxies(&self) -> Result<Vec<Proxy>, TransportError> {
        let except = || self.except.as_deref().and_then(NoProxy::from_string);
        let mut proxies = Vec::new();
        if let Some(address) = &self.http {
            let failed = |source| TransportError::Proxy { variable: "HTTP_PROXY", source };
            proxies.push(Proxy::http(address).map_err(failed)?.no_proxy(except()));
        }
        if let Some(address) = &self.https {
            let failed = |source| TransportError::Proxy { variable: "HTTPS_PROXY", source };
            proxies.push(Proxy::https(address).map_err(failed)?.no_proxy(except()));
        }
        Ok(proxies)
    }
}

/// Connection pools, one for each kind of TLS settings.
pub struct Transport {
    proxies: Proxies,
    pools: Mutex<HashMap<TlsSettings, Client>>,
}

impl Transport {
    /// Without any connection yet.
    pub fn new(proxies: Proxies) -> Self {
        Self { proxies, pools: Mutex::default() }
    }

    pub(super) fn clients(&self, tls: &TlsSettings) -> Result<Clients, TransportError> {
        // Elsewhere only an added authority counts: leniency is for the one host that it was asked for.
        let elsewhere =
            TlsSettings { plain_http: false, skip_verify: false, authority: tls.authority.clone() };
        let own = TlsSettings { plain_http: false, ..tls.clone() };
        Ok(Clients { own: self.client(&own)?, elsewhere: self.client(&elsewhere)? })
    }

    fn client(&self, tls: &TlsSettings) -> Result<Client, TransportError> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = pools.get(tls) {
            return Ok(client.clone());
        }
        let mut builder = Client::builder()
            .tls_backend_preconfigured(client_config(tls)?)
            .redirect(Policy::none())
            .no_proxy()
            .user_agent(concat!("tenon/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE);
        for proxy in self.proxies.proxies()? {
            builder = builder.proxy(proxy);
        }
        let client = builder.build().map_err(TransportError::Client)?;
        pools.insert(tls.clone(), client.clone());
        Ok(client)
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

/// The connections of one [`super::Registry`].
#[derive(Debug, Clone)]
pub(super) struct Clients {
    own: Client,
    elsewhere: Client,
}

impl Clients {
    /// For a URL, given the registry's host.
    pub(super) fn for_url(&self, url: &Url, registry: &Url) -> &Client {
        if url.host() == registry.host() { &self.own } else { &self.elsewhere }
    }
}

fn client_config(tls: &TlsSettings) -> Result<ClientConfig, TransportError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TransportError::Tls)?;
    Ok(if tls.skip_verify {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
            .with_no_client_auth()
    } else {
        builder.with_root_certificates(roots(tls.authority.as_deref())?).with_no_client_auth()
    })
}

/// The system's authorities; where it has none, the ones that browsers trust; and the one that was given.
fn roots(authority: Option<&[u8]>) -> Result<RootCertStore, TransportError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(pem) = authority {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|error| TransportError::Authority(Some(error)))?;
        if certificates.is_empty() {
            return Err(TransportError::Authority(None));
        }
        for certificate in certificates {
            roots.add(certificate).map_err(TransportError::Tls)?;
        }
    }
    Ok(roots)
}

/// Accepts every certificate, but not a connection whose holder cannot sign for it.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_case_variables_win_and_empty_ones_do_not_count() {
        let variables = [("HTTP_PROXY", ""), ("http_proxy", "http://low:1"), ("HTTPS_PROXY", "http://up:1")];
        let proxies = Proxies::from_variables(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        });
        assert_eq!(proxies.http.as_deref(), Some("http://low:1"));
        assert_eq!((proxies.https.as_deref(), proxies.except), (Some("http://up:1"), None));
    }

    #[test]
    fn an_authority_that_is_none_is_refused() {
        for pem in ["", "hello", "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n"] {
            assert!(roots(Some(pem.as_bytes())).is_err(), "{pem}");
        }
    }
}
