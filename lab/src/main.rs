//! The lab as a command: a cluster to try things on.

fn main() {}
