//! The unchanged decisions in a simulated cluster full of faults, everything from one seed.
//!
//! One run is one [`Sim`]: an API server ([`api`]), two replicas of the operator ([`replica`]), a few nodes
//! with agent, loader and kernel ([`node`], [`machine`]), and a [`registry`]. Messages take their time, get lost or
//! come twice; processes die between any two steps; watches lag and break; nodes reboot, lose their power in the midst
//! of a load, get another kernel, disappear. What users and faults do is a [`workload`]. After every event the
//! [`invariants`] are checked, and after the last fault everything has to come to rest as it was wished.
//!
//! What is real and what is modelled stands at the head of each module: `replica` and `node` name the lines of the
//! operator, agent and loader that they stand for. Deliberately absent: builds and signing (S11), Secrets (S12), pods
//! but plugins' (S13) and hubs (S14), for the model has none; two loaders at once on one node (S4), for the store's lock is not
//! modelled.
//!
//! A seed that fails is played again by `cargo run -p tenon-test-sim -- --workload NAME --seed N --trace`.

pub mod api;
pub mod changes;
pub mod clock;
pub mod invariants;
pub mod machine;
pub mod node;
pub mod oracle;
pub mod planted;
pub mod pod;
pub mod registry;
pub mod replica;
pub mod rng;
pub mod seal;
pub mod sim;
pub mod workload;

pub use planted::Bug;
pub use sim::{Outcome, Setup, Sim, Violation, run};
pub use workload::Workload;
