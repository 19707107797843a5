//! `kubectl tenon facts`: what is known about a kernel, from whatever of it is at hand, as a file for later.

mod source;

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use tenon_kmod::KernelFacts;

pub(crate) use source::{MODULE_LIMIT, SourceError, WHAT, module_files, read_kernel};

use crate::failure::Failure;

const LONG_ABOUT: &str = "Read what is known about a kernel, and write it to a file.

The file is small and does for `kubectl tenon check` what the kernel itself does: keep one per kernel that you support.";

#[derive(Debug, clap::Args)]
#[command(long_about = LONG_ABOUT, after_help = WHAT)]
pub(crate) struct Args {
    /// The kernel
    #[arg(value_name = "WHAT")]
    kernel: PathBuf,
    /// Where to write the facts
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Why there are no facts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FactsError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("write {path}", path = path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("write the result to standard output")]
    Output(#[source] io::Error),
}

impl FactsError {
    pub(crate) fn into_failure(self) -> Failure {
        Failure::new(self)
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, FactsError> {
    let facts = read_kernel(&args.kernel)?;
    if let Some(path) = &args.output {
        fs::write(path, facts.encode()).map_err(|source| FactsError::Write { path: path.clone(), source })?;
    }
    io::stdout().write_all(summary(&facts).as_bytes()).map_err(FactsError::Output)?;
    Ok(ExitCode::SUCCESS)
}

fn summary(facts: &KernelFacts) -> String {
    let text = |value: Option<String>| value.unwrap_or_else(|| "unknown".to_owned());
    let yes = |value: Option<bool>| match value {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    };
    let own = facts.exports.values().filter(|symbol| symbol.provider.is_none()).count();
    let of_modules = facts.exports.len() - own;
    let policy = &facts.policy;
    let lines = [
        ("kernel", format!("{} ({})", facts.release, facts.architecture)),
        ("build", text(facts.build_id.as_ref().map(ToString::to_string))),
        ("from", sources(facts).join(", ")),
        ("version magic", text(facts.vermagic.as_ref().map(ToString::to_string))),
        ("struct module", text(facts.this_module_size.map(|size| format!("{size} bytes")))),
        ("symbols", format!("{own} of the kernel ({}), {of_modules} of its modules", whole(facts.complete))),
        ("checksums", yes(facts.modversions).to_owned()),
        ("signatures", format!("{}, forced: {}", yes(policy.signatures), yes(policy.signatures_forced))),
        ("loads by force", yes(policy.force_load).to_owned()),
    ];
    let mut text = String::new();
    for (name, value) in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<16}{value}");
    }
    text
}

fn whole(complete: bool) -> &'static str {
    if complete { "all" } else { "not all" }
}

/// What the facts were read from.
pub(crate) fn sources(facts: &KernelFacts) -> Vec<&'static str> {
    let sources = facts.sources;
    let named = [(sources.image, "image"), (sources.headers, "headers"), (sources.modules, "modules")];
    named.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect()
}
