//! What a module image *is*, and one client for the registries that hold them.
//!
//! In comes an image's name, a kernel and an architecture; out goes a [`bundle`]: the few files that a node needs,
//! named by their content. On the way lie [`mod@reference`] (names), [`keyring`] (pull secrets), [`registry`] (the
//! client), [`platform`] (which manifest of an index), [`layers`] (what files an image has), [`kernel`] (what it tells of a
//! kernel), [`mod@extract`] (its files, written to a directory) and, in the other direction, [`publish`] (a directory of modules
//! becomes an image) and [`revise`] (an image of a registry, or one that a builder has left in a folder as a [`layout`], is
//! published with some files changed).
//!
//! Everything but the client is values, bytes and files; nothing from an image, a folder or a registry is trusted before its
//! digest was checked, and nothing from an image is ever written under a name that the image chose, but by [`mod@extract`], which
//! says why no harm comes of that. Without the feature `registry` only [`bundle::BundleReader`] is left, which is all that a
//! node needs.

pub mod bundle;
#[cfg(feature = "registry")]
pub mod excerpt;
#[cfg(feature = "registry")]
pub mod extract;
#[cfg(feature = "registry")]
pub mod kernel;
#[cfg(feature = "registry")]
pub mod keyring;
#[cfg(feature = "registry")]
pub mod layers;
#[cfg(feature = "registry")]
pub mod layout;
#[cfg(feature = "registry")]
pub mod manifest;
#[cfg(feature = "registry")]
mod new_layer;
pub mod path;
#[cfg(feature = "registry")]
pub mod platform;
#[cfg(feature = "registry")]
pub mod publish;
pub mod reference;
#[cfg(feature = "registry")]
pub mod registry;
mod retry;
#[cfg(feature = "registry")]
pub mod revise;
#[cfg(feature = "test-registry")]
pub mod testing;
mod ustar;

pub use path::ImagePath;
pub use reference::ImageReference;
pub use retry::Retry;

pub use ustar::UstarError;
