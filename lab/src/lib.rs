//! A cluster on one machine: a real control plane built from its Go modules, a registry, and virtual machines with real
//! Debian kernels for nodes, in which the agent and the loader run under runc as a kubelet would run them.
//!
//! In: the binaries to try, and what Debian, `PyPI` and Go's module proxy supply ([`setup`]). Out: handles that a test or
//! a demonstration drives ([`Lab`]). Everything that is built is cached; everything that runs dies with its owner.

pub mod bench;
pub mod build_images;
pub mod cache;
pub mod certificates;
pub mod child;
pub mod claim;
pub mod cluster;
pub mod command;
pub mod control_plane;
pub mod debian;
pub mod dir;
pub mod drivers;
pub mod enforcing;
pub mod faults;
pub mod fleet;
pub mod forge;
pub mod forward_proxy;
pub mod git;
pub mod guest;
pub mod host_node;
pub mod images;
pub mod jobs;
pub mod journey;
pub mod kernel;
pub mod node;
mod node_settings;
pub mod pods;
pub mod program_images;
pub mod programs;
pub mod prometheus;
pub mod registry;
pub mod scale;
pub mod session;
pub mod setup;
pub mod state;
pub mod trial;
pub mod wait;
pub mod worker;

pub use bench::Bench;
pub use cluster::{Lab, LabError};
pub use control_plane::ControlPlane;
pub use guest::Guest;
pub use host_node::HostNode;
pub use node::Node;
pub use registry::Registry;
pub use trial::Trial;
pub use worker::Worker;

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot go wrong.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
