//! Signatures of kernel modules: made, read and checked. Bytes in, bytes or facts out.
//!
//! A module is signed by appending a detached CMS message, a frame, and a magic text; the kernel looks at the last
//! signature only and checks it over everything before it (`kernel/module/signing.c`, `scripts/sign-file.c`). What stands
//! here makes the same bytes as the kernel's own `sign-file`, for RSA keys to the last bit; with an elliptic key the kernel's
//! program draws a new number for each signature, and ours derives it from the message (RFC 6979), so that equal input gives
//! equal output and an image that is signed again has the digest that it had.
//!
//! The private key is behind [`Signer`]: a key in memory is one, a key that never leaves its device can be another.

mod certificate;
mod file;
mod key;
mod message;
mod module;
mod verify;

#[cfg(test)]
mod fixture;

pub use certificate::{Certificate, CertificateError, KeyKind};
pub use file::{FileError, Signed, sign_file};
pub use key::{KeyError, LocalKey};
pub use message::{Hash, UnknownHash};
pub use module::{Identity, IdentityError, SignError, Signer, sign};
pub use verify::{SignerName, Verdict, verify};
