//! What should happen: pure decisions, one file per stage, from what was observed to what should be.
//!
//! No client, no clock, no randomness: everything that counts comes in as a value, `now` included, and what should be
//! written comes out as a value. The operator's controllers observe and apply; what Tenon *does* is decided here.
//!
//! ```text
//! Module → resolve → provision (ModuleImage) → inspect → assign (NodeModulesConfig, order, labels) → rollup (status)
//!                                                                  removal (finalizer), workload (DaemonSets, labels)
//! PreflightValidation, Modules → preflight (kernels that no node runs, status)
//! ```

pub mod assign;
pub mod census;
pub mod condition;
pub mod facts_image;
pub mod inspect;
pub mod made;
pub mod modprobe;
pub mod news;
pub mod node;
pub mod pause;
pub mod preflight;
pub mod provision;
pub mod removal;
pub mod resolve;
pub mod retry;
pub mod rivals;
pub mod rollout;
pub mod rollup;
pub mod startup;
pub mod template;
pub mod workload;

#[cfg(test)]
mod fixture;
