//! The program of Jobs that make images: one task, one report.

use std::fs;
use std::process::ExitCode;

use tenon_api::task::{REPORT_PATH, Report, VARIABLE};
use tenon_image::registry::{Proxies, Transport};
use tenon_maker::task::{self, Mounts};

fn main() -> ExitCode {
    let task = std::env::var(VARIABLE).ok();
    // Whatever is to be seen of a Job that is killed: what it was about.
    println!("{}", tenon_maker::task::describe(task.as_deref()));
    let report = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let transport = Transport::new(Proxies::from_environment());
            runtime.block_on(task::run(task.as_deref(), &transport, &Mounts::default()))
        }
        Err(error) => Report::Failed {
            trouble: tenon_api::task::Trouble::Failed,
            message: format!("start: {error}").into(),
        },
    };
    let text = serde_json::to_string(&report).unwrap_or_default();
    // Outside a pod there is nobody to read it there.
    let _ = fs::write(REPORT_PATH, &text);
    match report {
        Report::Made { digest, message, .. } => {
            println!("{digest}: {message}");
            ExitCode::SUCCESS
        }
        Report::Failed { message, .. } => {
            eprintln!("tenon-maker: {message}");
            ExitCode::FAILURE
        }
    }
}
