//! Bundles: what a node needs of a module image for one kernel, and nothing else.
//!
//! A bundle is a `tar.zst`. Its first entry, `manifest`, is the canonical list of its files
//! ([`tenon_order::BundleManifest`]); the SHA-256 of that text is the bundle's name, so neither compression nor the
//! image's layers count. Then come the files in the manifest's order: `modules/<path below lib/modules/<kernel>/>`,
//! decompressed, and `firmware/<path below firmwarePath>`. Every byte of the tar follows from the manifest and the
//! files, which lets [`BundleReader`] refuse anything else without parsing it.

mod reader;

#[cfg(feature = "registry")]
mod builder;
#[cfg(feature = "registry")]
mod selection;
#[cfg(feature = "registry")]
mod writer;

#[cfg(feature = "registry")]
pub use builder::{BuildError, BuiltBundle, BundleBuilder, BundleRequest};
pub use reader::{BundleFile, BundleReader, Part, ReadError};
#[cfg(feature = "registry")]
pub use selection::SelectError;
#[cfg(feature = "registry")]
pub(crate) use selection::may_be_wanted;
#[cfg(feature = "registry")]
pub use writer::WriteError;

/// The name of the first entry.
const MANIFEST: &str = "manifest";

/// No manifest is longer: it must fit a message of the loader's protocol.
const MAX_MANIFEST: u64 = 960 * 1024;

/// Decompression needs no more memory than this: the agent lives in a few MiB.
const WINDOW_LOG: u32 = 22;
