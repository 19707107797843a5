//! Scenarios against a real API server: the files in `tests/`. Here is what they, and other tests, stand on.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test that cannot be set up has failed"
)]

pub mod cluster;
pub mod facts;
pub mod plugin;
pub mod setup;
