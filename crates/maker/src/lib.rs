//! Makes module images: packs what was compiled, signs modules inside an image, and publishes it under another name; and, before
//! anything is compiled, gathers what that needs.
//!
//! The program runs in a Job in the Module's namespace, where the key is mounted: the operator never reads it. What it is to do
//! and what it answers is [`tenon_api::task`] (and [`tenon_api::gather`]); `kubectl tenon image sign` does the same by hand.
//!
//! Where only nodes can pull an image, the same program runs inside it and takes the driver out ([`pull`]).

pub mod credentials;
pub mod gather;
mod plain;
pub mod pull;
pub mod sign_image;
mod source_package;
pub mod task;

pub use sign_image::{SignRequest, sign_image};
