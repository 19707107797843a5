//! The keys that sign orders: private ones in a Secret that nobody but the operator reads, public ones in a ConfigMap
//! that the nodes' loaders mount.
//!
//! The Secret `tenon-order-key` has the entry `current` and, while keys are being changed, `next`: each an Ed25519 key
//! in PKCS#8, DER or PEM. It is made once and never overwritten: it is the user's to replace. The ConfigMap
//! `tenon-order-keys` is derived from it: key id → base64 of the public key.
//!
//! To change the key: put another under `next`; every node's orders are signed with it from when its loader reports it.
//! Then move it to `current`. A stolen key is replaced at once: delete the Secret.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::Api;
use kube::{Client, ResourceExt as _};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use tenon_order::{KeyError, KeyId, KeySet, Order, SigningKey, Verified};
use tracing::info;

use super::object::{self, Author, ObjectError};

/// The Secret of private keys.
pub const SECRET: &str = "tenon-order-key";
/// The ConfigMap of public keys.
pub const CONFIG_MAP: &str = "tenon-order-keys";
/// The Secret's entry that signs.
pub const CURRENT: &str = "current";
/// The Secret's entry that signs for nodes that have got to know it.
pub const NEXT: &str = "next";

/// The Secret does not hold usable keys.
#[derive(Debug, thiserror::Error)]
pub enum OrderKeyError {
    /// There is a Secret without the entry.
    #[error(
        "the Secret {namespace}/{SECRET} has no entry {CURRENT:?}: put an Ed25519 key in PKCS#8 there, or delete the Secret \
         to have a new key made"
    )]
    NoCurrent {
        /// The operator's namespace.
        namespace: String,
    },
    /// An entry is no key.
    #[error(
        "the entry {entry:?} of the Secret {namespace}/{SECRET} is no Ed25519 key in PKCS#8 (DER or PEM): put one there \
         (openssl genpkey -algorithm ed25519), or delete the Secret to have a new key made"
    )]
    Malformed {
        /// The operator's namespace.
        namespace: String,
        /// `current` or `next`.
        entry: &'static str,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
    /// No key could be drawn.
    #[error("make a key that signs orders")]
    Generate(#[source] KeyError),
    /// The API server did not do it.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// The keys that sign orders.
#[derive(Debug)]
pub struct OrderKeys {
    current: SigningKey,
    next: Option<SigningKey>,
}

impl OrderKeys {
    /// Reads the Secret's entries.
    pub fn read(namespace: &str, data: &BTreeMap<String, ByteString>) -> Result<Self, OrderKeyError> {
        let entry = |entry: &'static str| {
            let key = data.get(entry).map(|bytes| key(&bytes.0));
            key.transpose().map_err(|source| OrderKeyError::Malformed {
                namespace: namespace.to_owned(),
                entry,
                source,
            })
        };
        let current =
            entry(CURRENT)?.ok_or_else(|| OrderKeyError::NoCurrent { namespace: namespace.to_owned() })?;
        Ok(OrderKeys { current, next: entry(NEXT)? })
    }

    /// The key for a node whose loader reports the keys `known`.
    pub fn for_node(&self, known: &[KeyId]) -> &SigningKey {
        self.next.as_ref().filter(|next| known.contains(&next.public().id())).unwrap_or(&self.current)
    }

    /// An order that bears one of our signatures.
    pub fn read_own(&self, order: &str) -> Option<Order> {
        let mut keys = KeySet::default();
        for key in std::iter::once(&self.current).chain(&self.next) {
            keys.insert(key.public());
        }
        tenon_order::verify(order, &keys).ok().map(Verified::into_inner)
    }

    /// What the ConfigMap of public keys holds.
    pub fn published(&self) -> BTreeMap<String, String> {
        let keys = std::iter::once(&self.current).chain(&self.next).map(SigningKey::public);
        keys.map(|key| (key.id().to_string(), key.to_base64())).collect()
    }
}

fn key(bytes: &[u8]) -> Result<SigningKey, KeyError> {
    if bytes.trim_ascii_start().starts_with(b"-----BEGIN ") {
        let der = PrivatePkcs8KeyDer::from_pem_slice(bytes).map_err(|_| KeyError::Pkcs8)?;
        return SigningKey::from_pkcs8(der.secret_pkcs8_der());
    }
    SigningKey::from_pkcs8(bytes)
}

/// Reads the keys. A leader makes what is missing and publishes the public keys; for a standby, what is missing is none.
pub async fn ensure(
    client: &Client,
    namespace: &str,
    author: Option<&Author>,
) -> Result<Option<OrderKeys>, OrderKeyError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = match (object::read(&secrets, SECRET).await?, author) {
        (Some(secret), _) => secret,
        (None, None) => return Ok(None),
        (None, Some(author)) => make(&secrets, author).await?,
    };
    let keys = OrderKeys::read(namespace, &secret.data.unwrap_or_default())?;
    if let Some(author) = author {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        object::publish(&maps, author, CONFIG_MAP, keys.published()).await?;
    }
    Ok(Some(keys))
}

/// Makes the Secret, or takes the one that another replica has just made.
async fn make(secrets: &Api<Secret>, author: &Author) -> Result<Secret, OrderKeyError> {
    let key = SigningKey::generate_pkcs8().map_err(OrderKeyError::Generate)?;
    let secret = Secret {
        metadata: object::metadata(SECRET),
        data: Some(BTreeMap::from([(CURRENT.to_owned(), ByteString(key))])),
        ..Secret::default()
    };
    let made = object::create_or_read(secrets, author, &secret).await?;
    info!(secret = made.name_any(), "the key that signs orders is there");
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;

    fn data(entries: &[(&str, Vec<u8>)]) -> BTreeMap<String, ByteString> {
        entries.iter().map(|(name, bytes)| ((*name).to_owned(), ByteString(bytes.clone()))).collect()
    }

    #[test]
    fn a_node_gets_the_next_key_once_it_knows_it() {
        let (old, new) = (SigningKey::generate_pkcs8().unwrap(), SigningKey::generate_pkcs8().unwrap());
        let (old_id, new_id) =
            [&old, &new].map(|key| SigningKey::from_pkcs8(key).unwrap().public().id()).into();
        let keys = OrderKeys::read("drivers", &data(&[(CURRENT, old), (NEXT, new)])).unwrap();
        assert_eq!(keys.for_node(&[]).public().id(), old_id);
        assert_eq!(keys.for_node(&[old_id]).public().id(), old_id);
        assert_eq!(keys.for_node(&[old_id, new_id]).public().id(), new_id);
        assert_eq!(keys.published().len(), 2);
    }

    #[test]
    fn pem_is_read_as_well() {
        let der = SigningKey::generate_pkcs8().unwrap();
        let text = base64::engine::general_purpose::STANDARD.encode(&der);
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
        let from_der = OrderKeys::read("drivers", &data(&[(CURRENT, der)])).unwrap();
        let from_pem = OrderKeys::read("drivers", &data(&[(CURRENT, pem.into_bytes())])).unwrap();
        assert_eq!(from_der.published(), from_pem.published());
    }

    #[test]
    fn a_malformed_secret_says_what_to_do() {
        let bad =
            OrderKeys::read("drivers", &data(&[(CURRENT, b"not a key".to_vec())])).unwrap_err().to_string();
        assert!(bad.contains("\"current\" of the Secret drivers/tenon-order-key"), "{bad}");
        assert!(bad.contains("delete the Secret"), "{bad}");
        let empty = OrderKeys::read("drivers", &data(&[])).unwrap_err();
        assert!(matches!(empty, OrderKeyError::NoCurrent { .. }));
        let half =
            data(&[(CURRENT, SigningKey::generate_pkcs8().unwrap()), (NEXT, b"-----BEGIN x".to_vec())]);
        let half = OrderKeys::read("drivers", &half).unwrap_err();
        assert!(matches!(half, OrderKeyError::Malformed { entry: NEXT, .. }));
    }
}
