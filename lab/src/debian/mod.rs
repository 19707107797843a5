//! What the lab takes from Debian: programs to install, and packages to unpack into the cache without installing them.

pub mod archive;
pub mod control;
pub mod sources;

pub use archive::{Archive, ArchiveError, Release};
