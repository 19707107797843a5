//! Makes module images: signs modules inside an image, and publishes it under another name.
//!
//! The program runs in a Job in the Module's namespace, where the key is mounted: the operator never reads it. What it is to do
//! and what it answers is [`tenon_api::task`]; `kubectl tenon image sign` does the same by hand.
//!
//! Where only nodes can pull an image, the same program runs inside it and takes the driver out ([`pull`]).

pub mod credentials;
pub mod pull;
pub mod sign_image;
pub mod task;

pub use sign_image::{SignRequest, sign_image};
