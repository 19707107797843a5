//! Ed25519 keys that sign orders and the sets of public keys that orders are checked against.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::digest::{from_hex, to_hex};

/// Key material that could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a PKCS#8 document with an Ed25519 key.
    #[error("read a signing key: not an Ed25519 key in PKCS#8")]
    Pkcs8,
    /// Not 32 bytes in base64.
    #[error("read a public key: not 32 bytes in base64")]
    Public,
    /// Not 16 hex digits.
    #[error("read a key id: not 16 lower-case hex digits")]
    Id,
    /// The key does not belong to the id that it is listed under.
    #[error("read a public key listed as {listed}: its id is {actual}")]
    Mislabelled {
        /// The id that the list gives it.
        listed: KeyId,
        /// The id that its bytes have.
        actual: KeyId,
    },
    /// The system's random generator refused.
    #[error("draw a signing key: no randomness")]
    NoRandomness,
}

/// A public key's short name: the first 8 bytes of its SHA-256. Written as 16 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId([u8; 8]);

impl FromStr for KeyId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        from_hex(text).map(Self).ok_or(KeyError::Id)
    }
}

impl TryFrom<String> for KeyId {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

/// An Ed25519 public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key from its 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads standard base64, as the ConfigMap of keys holds it; surrounding white space is ignored.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        let bytes = STANDARD.decode(text.trim()).map_err(|_| KeyError::Public)?;
        bytes.try_into().map(Self).map_err(|_| KeyError::Public)
    }

    /// Standard base64 of the 32 bytes.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// The key's short name.
    pub fn id(&self) -> KeyId {
        let mut id = [0; 8];
        for (to, from) in id.iter_mut().zip(Digest::of(&self.0).as_bytes()) {
            *to = *from;
        }
        KeyId(id)
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

/// The public keys that a loader obeys, by id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeySet(BTreeMap<KeyId, PublicKey>);

impl KeySet {
    /// Adds a key. The same key twice is one key.
    pub fn insert(&mut self, key: PublicKey) {
        self.0.insert(key.id(), key);
    }

    /// Adds a key that a list names by its id: the file name in a mounted ConfigMap and its content.
    pub fn insert_listed(&mut self, id: &str, base64: &str) -> Result<(), KeyError> {
        let (listed, key) = (id.parse()?, PublicKey::from_base64(base64)?);
        let actual = key.id();
        if actual != listed {
            return Err(KeyError::Mislabelled { listed, actual });
        }
        self.insert(key);
        Ok(())
    }

    /// The key with this id.
    pub fn get(&self, id: KeyId) -> Option<&PublicKey> {
        self.0.get(&id)
    }

    /// All keys by id.
    pub fn iter(&self) -> impl Iterator<Item = (KeyId, &PublicKey)> {
        self.0.iter().map(|(id, key)| (*id, key))
    }

    /// The ids in ascending order.
    pub fn ids(&self) -> Vec<KeyId> {
        self.0.keys().copied().collect()
    }

    /// Whether no order can be accepted by these keys.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<PublicKey> for KeySet {
    fn from_iter<T: IntoIterator<Item = PublicKey>>(keys: T) -> Self {
        Self(keys.into_iter().map(|key| (key.id(), key)).collect())
    }
}

/// The operator's private key. Its bytes never appear in output.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Draws a new key and returns it as PKCS#8 (version 2, with the public key), to be kept in a Secret.
    pub fn generate_pkcs8() -> Result<Vec<u8>, KeyError> {
        let document =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError::NoRandomness)?;
        Ok(document.as_ref().to_vec())
    }

    /// Reads a PKCS#8 document; version 1, as other tools write it without the public key, is read too.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map(Self).map_err(|_| KeyError::Pkcs8)
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        // An Ed25519 public key is 32 bytes long: zip covers all of both.
        for (to, from) in bytes.iter_mut().zip(self.0.public_key().as_ref()) {
            *to = *from;
        }
        PublicKey(bytes)
    }

    pub(crate) fn sign(&self, message: &[u8]) -> impl AsRef<[u8]> + use<> {
        self.0.sign(message)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_key_must_have_the_id_it_is_listed_under() {
        let key = PublicKey::from_bytes([7; 32]);
        let mut keys = KeySet::default();
        keys.insert_listed(&key.id().to_string(), &format!("{}\n", key.to_base64())).unwrap();
        assert_eq!(keys.get(key.id()), Some(&key));
        let other = PublicKey::from_bytes([8; 32]);
        assert_eq!(
            keys.insert_listed(&other.id().to_string(), &key.to_base64()),
            Err(KeyError::Mislabelled { listed: other.id(), actual: key.id() })
        );
    }

    #[test]
    fn a_generated_key_is_read_again_and_never_shown() {
        let pkcs8 = SigningKey::generate_pkcs8().unwrap();
        let key = SigningKey::from_pkcs8(&pkcs8).unwrap();
        assert_eq!(format!("{key:?}"), format!("SigningKey({})", key.public().id()));
        assert_eq!(SigningKey::from_pkcs8(&pkcs8[1..]).err(), Some(KeyError::Pkcs8));
    }
}
