//! The program of Jobs that make images, and of those that take drivers out of images: one task, one report.

use std::env;
use std::fs;
use std::future::Future;
use std::path::Path;
use std::process::ExitCode;

use tenon_api::pull::{INSTALL, PULL};
use tenon_api::task::{REPORT_PATH, Report, Trouble, VARIABLE};
use tenon_image::registry::{Proxies, Transport};
use tenon_maker::pull::{self, Places, PullError};
use tenon_maker::task::{self, Mounts};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => make(),
        [INSTALL, path] => told(pull::install(Path::new(path)).map(|()| format!("installed in {path}"))),
        [PULL] => {
            let task = env::var(tenon_api::pull::VARIABLE).ok();
            let done = alone(async { pull::run(task.as_deref(), &Places::default()).await });
            done.map_or_else(|error| report(&could_not_start(&error)), told)
        }
        _ => {
            eprintln!(
                "tenon-maker: unknown arguments {arguments:?}: Jobs of the operator's start this program"
            );
            ExitCode::FAILURE
        }
    }
}

/// Makes an image.
fn make() -> ExitCode {
    let task = env::var(VARIABLE).ok();
    // Whatever is to be seen of a Job that is killed: what it was about.
    println!("{}", task::describe(task.as_deref()));
    let done = alone(async {
        let transport = Transport::new(Proxies::from_environment());
        task::run(task.as_deref(), &transport, &Mounts::default()).await
    });
    report(&done.unwrap_or_else(|error| could_not_start(&error)))
}

/// Runs the one thing that there is to do.
fn alone<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work))
}

fn could_not_start(error: &std::io::Error) -> Report {
    Report::Failed { trouble: Trouble::Failed, message: format!("start: {error}").into() }
}

/// What was brought has gone its way; only what failed needs a report.
fn told(done: Result<String, PullError>) -> ExitCode {
    match done {
        Ok(message) => {
            println!("{message}");
            ExitCode::SUCCESS
        }
        Err(error) => report(&error.report()),
    }
}

fn report(report: &Report) -> ExitCode {
    let text = serde_json::to_string(report).unwrap_or_default();
    // Outside a pod there is nobody to read it there.
    let _ = fs::write(REPORT_PATH, &text);
    match report {
        Report::Made { digest, message } => {
            println!("{digest}: {message}");
            ExitCode::SUCCESS
        }
        Report::Failed { message, .. } => {
            eprintln!("tenon-maker: {message}");
            ExitCode::FAILURE
        }
    }
}
