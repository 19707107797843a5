//! What travels from the operator to a node's loader, and how.
//!
//! In comes what the operator wants of one node; out goes an [`Order`]: one line of text, signed with Ed25519, which
//! an agent that nobody needs to trust carries to the loader. The loader answers with a [`NodeReport`]. Beside them
//! stand the [`wire`] protocol between agent and loader, and the [`BundleManifest`] that names every byte of a bundle.
//!
//! Deliberately absent: files, clocks, sockets, Kubernetes. Everything here is values and bytes.

mod digest;
mod key;
mod manifest;
mod names;
mod order;
mod report;
mod signed;
pub mod wire;

pub use digest::{Digest, DigestError, Hasher};
pub use key::{KeyError, KeyId, KeySet, PublicKey, SigningKey};
pub use manifest::{BundleManifest, BundlePath, ManifestEntry, ManifestError};
pub use names::{Generation, KmodName, ModuleKey, NameError, NodeName, StoreId};
pub use order::{Load, MAX_MODULES, MAX_NAMES, Order, OrderError, OrderedModule, Wish, are_parameters};
pub use report::{MAX_MESSAGE, ModuleReport, NodeReport, Phase, Reason, clip};
pub use signed::{MAX_SIGNED, SignedOrderError, Verified, read_unverified, sign, verify};
