//! Predictions held against real kernels: modules of every sort, whole and broken, are handed to the kernels of the lab,
//! and what each kernel says is compared with what `tenon_kmod::predict` said beforehand.
//!
//! [`elf`] takes a module file apart and puts it together wrong, [`broken`] is the catalogue of what can be wrong,
//! [`shelf`] holds what a
//! kernel brings, [`cases`] picks the loads to try, [`matrix`] has them tried, [`verdict`] judges each, [`report`] counts.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "what tests are made of fails like a test"
)]

pub mod broken;
pub mod cases;
pub mod elf;
pub mod matrix;
pub mod random;
pub mod report;
pub mod shelf;
mod structure;
pub mod verdict;
