//! PID 1 of a lab's guest.

fn main() {}
