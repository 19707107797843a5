//! The signed form of an order: `tenon-order-v1.<payload>.<key id>.<signature>`, one line of ASCII.
//!
//! The payload is the order's JSON and the signature Ed25519 over everything before the last dot, both in base64url
//! without padding. Whoever carries it can neither change nor make one.

use std::ops::Deref;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::key::{KeyError, KeyId, KeySet, SigningKey};
use crate::order::{Order, OrderError};

const FORMAT: &str = "tenon-order-v1";

/// The most bytes of a signed order.
pub const MAX_SIGNED: usize = 512 * 1024;

/// A signed order that was not made, or not believed.
#[derive(Debug, thiserror::Error)]
pub enum SignedOrderError {
    /// Not the four parts of the format, or longer than [`MAX_SIGNED`].
    #[error("read the order: not `{FORMAT}` with a payload, a key id and a signature")]
    Format,
    /// A part is not base64url.
    #[error("read the order: a part is not base64url")]
    Base64(#[source] base64::DecodeError),
    /// The part that names the key does not.
    #[error("read the order's key id")]
    KeyId(#[source] KeyError),
    /// Signed by a key that is not in the set.
    #[error("verify the order: signed by key {0}, which is not among the known keys")]
    UnknownKey(KeyId),
    /// The signature is not the named key's over these bytes.
    #[error("verify the order: the signature of key {0} does not match")]
    Signature(KeyId),
    /// The payload is not an order, or has fields that this version does not know.
    #[error("read the order's payload")]
    Payload(#[source] serde_json::Error),
    /// The payload says something impossible.
    #[error(transparent)]
    Content(#[from] OrderError),
}

/// Something whose signature was checked: made by [`verify`] only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// The value, no longer marked as checked.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// The order's signed text. Equal orders signed by one key have equal texts.
pub fn sign(order: &Order, key: &SigningKey) -> Result<String, SignedOrderError> {
    order.check()?;
    let payload = serde_json::to_vec(&order.canonical()).map_err(SignedOrderError::Payload)?;
    let mut text = format!("{FORMAT}.{}.{}", URL_SAFE_NO_PAD.encode(payload), key.public().id());
    let signature = URL_SAFE_NO_PAD.encode(key.sign(text.as_bytes()));
    text.push('.');
    text.push_str(&signature);
    if text.len() > MAX_SIGNED {
        return Err(SignedOrderError::Format);
    }
    Ok(text)
}

/// The order, if one of `keys` signed it. Nothing of the payload is read before the signature is known to be good.
pub fn verify(text: &str, keys: &KeySet) -> Result<Verified<Order>, SignedOrderError> {
    let parts = Parts::of(text)?;
    let id: KeyId = parts.key_id.parse().map_err(SignedOrderError::KeyId)?;
    let key = keys.get(id).ok_or(SignedOrderError::UnknownKey(id))?;
    let signature = URL_SAFE_NO_PAD.decode(parts.signature).map_err(SignedOrderError::Base64)?;
    if !key.verifies(parts.signed.as_bytes(), &signature) {
        return Err(SignedOrderError::Signature(id));
    }
    parts.order().map(Verified)
}

/// The order without a look at its signature: for those who made it, and for the store that checked it before.
pub fn read_unverified(text: &str) -> Result<Order, SignedOrderError> {
    Parts::of(text)?.order()
}

struct Parts<'a> {
    signed: &'a str,
    payload: &'a str,
    key_id: &'a str,
    signature: &'a str,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Result<Self, SignedOrderError> {
        if text.len() > MAX_SIGNED {
            return Err(SignedOrderError::Format);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(SignedOrderError::Format)?;
        let mut parts = signed.split('.');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(FORMAT), Some(payload), Some(key_id), None) => {
                Ok(Self { signed, payload, key_id, signature })
            }
            _ => Err(SignedOrderError::Format),
        }
    }

    fn order(&self) -> Result<Order, SignedOrderError> {
        let payload = URL_SAFE_NO_PAD.decode(self.payload).map_err(SignedOrderError::Base64)?;
        let order: Order = serde_json::from_slice(&payload).map_err(SignedOrderError::Payload)?;
        order.check()?;
        Ok(order)
    }
}
