//! The program of Jobs that make images, and of those that take drivers out of images: one task, one report.

use std::env;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use tenon_api::gather;
use tenon_api::pull::{INSTALL, PULL};
use tenon_api::task::{REPORT_PATH, Report, Trouble, VARIABLE};
use tenon_image::registry::{Proxies, Transport};
use tenon_maker::gather::Mounts as Gathered;
use tenon_maker::pull::{self, Places, PullError};
use tenon_maker::task::{self, Mounts};
use tokio::runtime::Builder;

/// What came of it; nothing where there is nothing to report.
type Ended = Result<Option<Report>, Report>;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let ended = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run(&arguments)),
        Err(error) => Err(failed(format!("start: {error}"))),
    };
    let report = match ended {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(report)) | Err(report) => report,
    };
    let text = serde_json::to_string(&report).unwrap_or_default();
    // Outside a pod there is nobody to read it there.
    let _ = fs::write(REPORT_PATH, &text);
    match report {
        Report::Made { digest, message, .. } => {
            println!("{digest}: {message}");
            ExitCode::SUCCESS
        }
        Report::Tried { message } => {
            println!("{message}");
            ExitCode::SUCCESS
        }
        Report::Failed { message, .. } => {
            eprintln!("tenon-maker: {message}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[String]) -> Ended {
    let transport = || Transport::new(Proxies::from_environment());
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => match env::var(gather::VARIABLE) {
            Ok(given) => gathered(&given, &transport()).await,
            Err(_) => made(&transport()).await,
        },
        [INSTALL, path] => told(pull::install(Path::new(path)).map(|()| format!("installed in {path}"))),
        [PULL] => {
            let task = env::var(tenon_api::pull::VARIABLE).ok();
            told(pull::run(task.as_deref(), &Places::default()).await)
        }
        _ => {
            Err(failed(format!("unknown arguments {arguments:?}: Jobs of the operator's start this program")))
        }
    }
}

fn failed(message: String) -> Report {
    Report::Failed { trouble: Trouble::Failed, message: message.into() }
}

/// Makes an image.
async fn made(transport: &Transport) -> Ended {
    let task = env::var(VARIABLE).ok();
    // Whatever is to be seen of a Job that is killed: what it was about.
    println!("{}", task::describe(task.as_deref()));
    Ok(Some(task::run(task.as_deref(), transport, &Mounts::default()).await))
}

async fn gathered(given: &str, transport: &Transport) -> Ended {
    let mut tell = |line| println!("tenon-maker: gathered {line}");
    tenon_maker::gather::run(given, transport, &Gathered::default(), &mut tell).await.map(|()| None)
}

/// What was brought has gone its way; only what failed needs a report.
fn told(done: Result<String, PullError>) -> Ended {
    let message = done.map_err(|error| error.report())?;
    println!("{message}");
    Ok(None)
}
