//! What a kernel module *is*: bytes in, facts out. No files, no clock, no Kubernetes.
//!
//! Read in this order: [`release`] (which kernel), [`object`] (what a `.ko` says about itself), [`compression`] (how
//! it is packed), [`dependency`] (what must be loaded before it), [`parameters`] (what it is told), [`log`] and
//! [`failure`] (what the kernel said when it refused), [`facts`] (what a kernel offers and demands), [`predict`] (whether
//! a module will load into it).
//!
//! Every input may come from a stranger: nothing here panics, and what is unpacked is bounded by the caller.

pub mod compression;
pub mod dependency;
pub mod facts;
pub mod failure;
pub mod log;
pub mod name;
pub mod object;
pub mod parameters;
pub mod predict;
pub mod release;
pub mod vermagic;

pub use facts::KernelFacts;
pub use name::ModuleName;
pub use object::ModuleObject;
pub use release::KernelRelease;
