//! What must be loaded before a module, and in which order: the work of `modprobe` and, where an image was made without
//! it, of `depmod`.

mod graph;
mod index;
mod order;
mod pattern;

pub use graph::{GraphError, load_sequence};
pub use index::{DependencyIndex, Entry, IndexError, Origin};
pub use order::{OrderError, Role, Step};
