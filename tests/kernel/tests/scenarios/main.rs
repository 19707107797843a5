//! What the loader does in real kernels.
//!
//! Each test boots a virtual machine with one of Debian's stock kernels, in which the loader runs in the container that
//! the node pod's table describes. The test is its operator, with a key of its own, and its agent, over the loader's
//! socket. What the loader reports is compared with what the kernel itself says.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails like a test")]

mod agent;
mod boots;
mod bundle;
mod changes;
mod confinement;
mod crashes;
mod cuts;
mod drivers;
mod failures;
mod in_tree;
mod kills;
mod losses;
mod node;
mod orders;
