//! The whole: manifests go in by kubectl, modules of real kernels come and go, and every object says how it stands.
//!
//! All scenarios share one lab with two nodes of different kernels, one scenario at a time. Each has a namespace of its
//! own and leaves nothing behind.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails like a test")]

mod changes;
mod failures;
mod images;
mod inspection;
mod site;
mod validation;
