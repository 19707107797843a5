//! The program of Jobs that make images: one task, one report.

use std::fs;
use std::process::ExitCode;

use tenon_api::gather;
use tenon_api::task::{REPORT_PATH, Report, Trouble, VARIABLE};
use tenon_image::registry::{Proxies, Transport};
use tenon_maker::gather::Mounts as Gathered;
use tenon_maker::task::{self, Mounts};
use tokio::runtime::Builder;

fn main() -> ExitCode {
    let ended = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let transport = Transport::new(Proxies::from_environment());
            match std::env::var(gather::VARIABLE) {
                Ok(given) => runtime.block_on(gathered(&given, &transport)),
                Err(_) => runtime.block_on(made(&transport)),
            }
        }
        Err(error) => {
            Err(Report::Failed { trouble: Trouble::Failed, message: format!("start: {error}").into() })
        }
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
        Report::Failed { message, .. } => {
            eprintln!("tenon-maker: {message}");
            ExitCode::FAILURE
        }
    }
}

/// What came of it; nothing where there is nothing to report.
type Ended = Result<Option<Report>, Report>;

async fn made(transport: &Transport) -> Ended {
    let task = std::env::var(VARIABLE).ok();
    // Whatever is to be seen of a Job that is killed: what it was about.
    println!("{}", task::describe(task.as_deref()));
    Ok(Some(task::run(task.as_deref(), transport, &Mounts::default()).await))
}

async fn gathered(given: &str, transport: &Transport) -> Ended {
    let mut tell = |line| println!("tenon-maker: gathered {line}");
    tenon_maker::gather::run(given, transport, &Gathered::default(), &mut tell).await.map(|()| None)
}
