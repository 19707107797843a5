//! The depot's certificate: kept in a Secret that all replicas share, taken up by the TLS acceptor without a restart,
//! and its authority published to the agents.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Client;
use kube::api::Api;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tracing::info;

use super::authority::{CertificateError, Pair, Serving, UnixSeconds};
use super::object::{self, Author, ObjectError};
use crate::args::DepotUrl;

/// The Secret of certificates and their keys.
pub const SECRET: &str = "tenon-serving-cert";
/// The ConfigMap that tells agents where the depot is and whom to trust.
pub const CONFIG_MAP: &str = "tenon-depot";
/// The ConfigMap's entry of trusted authorities, in PEM.
pub const TRUSTED: &str = "ca.crt";
/// The ConfigMap's entry of addresses, one https URL per line.
pub const ADDRESSES: &str = "addresses";

const SECRET_TYPE: &str = "kubernetes.io/tls";

/// The depot's certificate is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// The Secret lacks an entry, or one is not text.
    #[error(
        "the Secret {namespace}/{SECRET} has no usable entry {entry:?}: delete the Secret to have it made anew"
    )]
    Entry {
        /// The operator's namespace.
        namespace: String,
        /// Which entry.
        entry: &'static str,
    },
    /// What it holds is no certificate.
    #[error("the Secret {namespace}/{SECRET} is malformed: delete it to have it made anew")]
    Certificate {
        /// The operator's namespace.
        namespace: String,
        /// What is wrong with it.
        #[source]
        source: CertificateError,
    },
    /// What it holds is no key, or another certificate's.
    #[error(
        "the Secret {namespace}/{SECRET} holds a certificate and a key that do not fit: delete it to have it made anew"
    )]
    Key {
        /// The operator's namespace.
        namespace: String,
        /// What TLS says about them.
        #[source]
        source: rustls::Error,
    },
    /// The API server did not do it.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// The certificate that new connections are greeted with.
#[derive(Debug, Default)]
pub struct ServingCertificate(RwLock<Option<Arc<CertifiedKey>>>);

impl ServingCertificate {
    /// Greets new connections with this pair from now on.
    pub fn set(&self, pair: &Pair) -> Result<(), rustls::Error> {
        let malformed = |_| rustls::Error::General("not PEM".to_owned());
        let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).map_err(malformed)?;
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(malformed)?;
        let signer = rustls::crypto::ring::sign::any_supported_type(&key)?;
        let certified = CertifiedKey::new(vec![certificate], signer);
        certified.keys_match()?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certified));
        Ok(())
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Reads the certificates. A leader makes and renews them, and publishes the authority with the addresses `urls`; for a
/// standby, what is missing is none.
pub async fn ensure(
    client: &Client,
    namespace: &str,
    urls: &[DepotUrl],
    now: UnixSeconds,
    author: Option<&Author>,
) -> Result<Option<Serving>, ServingError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = object::read(&secrets, SECRET).await?;
    let serving = found.as_ref().map(|secret| read(namespace, secret)).transpose()?;
    let Some(author) = author else { return Ok(serving) };
    if let Some(serving) = &serving {
        // Before anything new is used, and the more so if this failed the last time: agents must trust it first.
        publish(client, namespace, urls, serving, author).await?;
    }
    let renewed = Serving::renewed(serving.clone(), &hosts(urls), now)
        .map_err(|source| ServingError::Certificate { namespace: namespace.to_owned(), source })?;
    if serving.as_ref() == Some(&renewed) {
        return Ok(serving);
    }
    let kept = store(&secrets, found, &renewed, author).await?;
    let kept = read(namespace, &kept)?;
    info!(secret = SECRET, "the depot's certificate is renewed");
    publish(client, namespace, urls, &kept, author).await?;
    Ok(Some(kept))
}

/// The names that the certificate is made for, each in its one canonical spelling.
fn hosts(urls: &[DepotUrl]) -> Vec<String> {
    let canonical = |host: &str| match host.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => host.to_ascii_lowercase(),
    };
    let mut hosts: Vec<_> = urls.iter().map(|url| canonical(url.host())).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

async fn publish(
    client: &Client,
    namespace: &str,
    urls: &[DepotUrl],
    serving: &Serving,
    author: &Author,
) -> Result<(), ObjectError> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let lines: Vec<_> = urls.iter().map(ToString::to_string).collect();
    let addresses = lines.join("\n") + "\n";
    let data = BTreeMap::from([(TRUSTED.to_owned(), serving.trusted()), (ADDRESSES.to_owned(), addresses)]);
    object::publish(&maps, author, CONFIG_MAP, data).await
}

async fn store(
    secrets: &Api<Secret>,
    found: Option<Secret>,
    serving: &Serving,
    author: &Author,
) -> Result<Secret, ObjectError> {
    let data = Some(entries(serving));
    if let Some(found) = found {
        return object::replace(secrets, author, &Secret { data, ..found }).await;
    }
    let metadata = object::metadata(SECRET);
    let fresh = Secret { metadata, data, type_: Some(SECRET_TYPE.to_owned()), ..Secret::default() };
    object::create_or_read(secrets, author, &fresh).await
}

const LEAF: (&str, &str) = ("tls.crt", "tls.key");
const AUTHORITY: (&str, &str) = ("ca.crt", "ca.key");
const NEXT: (&str, &str) = ("next-ca.crt", "next-ca.key");
const PREVIOUS: &str = "previous-ca.crt";

fn entries(serving: &Serving) -> BTreeMap<String, ByteString> {
    let mut entries = BTreeMap::new();
    let mut put =
        |name: &str, text: &str| entries.insert(name.to_owned(), ByteString(text.as_bytes().to_vec()));
    let pairs =
        [(LEAF, Some(&serving.leaf)), (AUTHORITY, Some(&serving.authority)), (NEXT, serving.next.as_ref())];
    for ((certificate, key), pair) in pairs {
        if let Some(pair) = pair {
            put(certificate, &pair.certificate);
            put(key, &pair.key);
        }
    }
    if let Some(previous) = &serving.previous {
        put(PREVIOUS, previous);
    }
    entries
}

fn read(namespace: &str, secret: &Secret) -> Result<Serving, ServingError> {
    let missing = |entry| ServingError::Entry { namespace: namespace.to_owned(), entry };
    let text = |entry: &'static str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(entry));
        bytes.map(|bytes| String::from_utf8(bytes.0.clone()).map_err(|_| missing(entry))).transpose()
    };
    let pair = |(certificate, key)| -> Result<Option<Pair>, ServingError> {
        match (text(certificate)?, text(key)?) {
            (Some(certificate), Some(key)) => Ok(Some(Pair { certificate, key })),
            (None, None) => Ok(None),
            (None, _) => Err(missing(certificate)),
            (_, None) => Err(missing(key)),
        }
    };
    Ok(Serving {
        authority: pair(AUTHORITY)?.ok_or_else(|| missing(AUTHORITY.0))?,
        next: pair(NEXT)?,
        previous: text(PREVIOUS)?,
        leaf: pair(LEAF)?.ok_or_else(|| missing(LEAF.0))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving() -> Serving {
        Serving::renewed(None, &["depot.example".to_owned()], 1_800_000_000).unwrap()
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let mut serving = serving();
        serving.next = Some(serving.leaf.clone());
        serving.previous = Some(serving.authority.certificate.clone());
        let secret = Secret { data: Some(entries(&serving)), ..Secret::default() };
        assert_eq!(read("drivers", &secret).unwrap(), serving);
    }

    #[test]
    fn a_secret_without_its_key_says_which_entry_is_missing() {
        let mut data = entries(&serving());
        data.remove("ca.key");
        let error = read("drivers", &Secret { data: Some(data), ..Secret::default() }).unwrap_err();
        assert!(
            error.to_string().contains("drivers/tenon-serving-cert has no usable entry \"ca.key\""),
            "{error}"
        );
    }

    #[test]
    fn a_host_has_one_spelling() {
        let urls = ["https://[FD00:0::7]:1", "https://Depot.example", "https://depot.example:2"];
        let urls: Vec<DepotUrl> = urls.into_iter().map(|url| url.parse().unwrap()).collect();
        assert_eq!(hosts(&urls), ["depot.example", "fd00::7"]);
    }

    #[test]
    fn another_certificates_key_is_refused() {
        let (one, other) = (serving().leaf, serving().leaf);
        let served = ServingCertificate::default();
        served.set(&one).unwrap();
        assert!(served.set(&Pair { key: other.key, ..one }).is_err());
    }
}
