//! The unprivileged half of what runs on every node.
//!
//! From the API server comes the node's own `NodeModulesConfig` ([`watch`]); its order goes to the loader beside us
//! ([`loader_link`]), the bundles that the loader misses come from the depot ([`depot`]), and what the loader reports
//! becomes the object's status ([`status`]), together with whether what must be there after a load is ([`validation`]).
//! What to do next is decided in [`cycle`]; [`run`] does it.
//!
//! Deliberately absent: any privilege, any trust. The agent neither makes nor reads orders, and what it brings is
//! verified by the loader. It asks next to nothing again and again: it waits for the API server, the loader and the
//! network.

pub mod args;
pub mod backoff;
pub mod client;
pub mod cycle;
pub mod depot;
pub mod https;
pub mod kernel;
pub mod loader_link;
pub mod logs;
pub mod paths;
pub mod run;
pub mod status;
pub mod status_writer;
pub mod validation;
pub mod watch;

pub use run::{Agent, serve};
