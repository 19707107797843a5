//! PID 1 of a lab's guest.
//!
//! In the initramfs it loads what leads to the disks and moves to the root disk; there it mounts what a node has and
//! starts itself once more as the server that obeys the host, and once as the way to the loader's socket. PID 1 itself
//! only buries the dead. In an initramfs that holds a plan of loads, it tries these and does nothing else.

mod boot;
mod containers;
mod forward;
mod server;
mod trials;
mod volume;

use std::path::Path;
use std::process::ExitCode;

use tenon_lab::trial::plan::PLAN;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    let result = match words.as_slice() {
        ["root"] => boot::in_root_disk(),
        ["serve"] => server::serve(),
        ["forward", port, socket] => forward::run(port, socket),
        _ if Path::new("/").join(PLAN).exists() => trials::run(),
        // The kernel passes on what it does not know of its command line.
        _ => boot::in_initramfs(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // PID 1's end is the kernel's panic, and the console shows this line above it.
            eprintln!("tenon-lab-init: {error:#}");
            ExitCode::FAILURE
        }
    }
}
