//! Kernel Module Management's contract, on a real API server: one module for each paragraph of our inventory of it, and a test for
//! each of its defects (`defect_01_…`), in which what happens is right.

#[cfg(test)]
#[path = "conformance/s1_api.rs"]
mod s1_api;
