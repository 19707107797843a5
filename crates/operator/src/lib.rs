//! The operator: watches what users want and what nodes report, and writes what follows from it.
//!
//! In come flags and the API server; out go objects, bundles for the nodes, metrics. [`run()`] puts the parts together:
//!
//! - [`lease`] decides which replica may write. All replicas keep their caches warm and serve the depot.
//! - [`identity`] keeps the keys that sign orders, and the depot's certificates.
//! - [`depot`] serves bundles to the nodes.
//! - [`controllers`] observe, ask `tenon-plan` what should be, and write it.
//! - [`admin`] and [`metrics`] show how it goes.

pub mod admin;
pub mod args;
pub mod budget;
mod census;
pub mod client;
pub mod controllers;
pub mod deadline;
pub mod definitions;
pub mod depot;
pub mod events;
mod facts_images;
pub mod identity;
pub mod images;
pub mod kernel_facts;
pub mod lease;
pub mod logs;
mod made;
pub mod metrics;
pub mod mirrors;
pub mod modules;
pub mod nodes;
pub mod preflight;
pub mod queue;
mod registries;
pub mod run;
pub mod shutdown;
pub mod signatures;
pub mod status;
pub mod workloads;
pub mod world;

pub use args::Args;
pub use run::{Context, Error, run};
