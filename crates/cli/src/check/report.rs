//! The answer, for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;
use tenon_kmod::KernelFacts;
use tenon_kmod::failure::Errno;
use tenon_kmod::predict::{Effect, Reason, Verdict};

use super::Checked;
use crate::facts::sources;

/// One line per module, and under it what was found.
pub(super) fn text(checked: &[Checked], facts: &KernelFacts) -> String {
    let mut text = String::new();
    for Checked { path, prediction, .. } in checked {
        let (kernel, path) = (&facts.release, path.display());
        // Writing to a String cannot fail.
        let _ = match prediction.verdict {
            Verdict::Loads => writeln!(text, "{path}: loads into {kernel}"),
            Verdict::Fails { errno } => {
                writeln!(text, "{path}: does not load into {kernel}: {}", errno_name(errno))
            }
            Verdict::Unknown => writeln!(text, "{path}: may or may not load into {kernel}"),
        };
        for reason in &prediction.reasons {
            let _ = writeln!(text, "  {}: {reason}", reason.name());
            if let Some(way_out) = reason.way_out().filter(|_| reason.effect != Effect::Note) {
                let _ = writeln!(text, "    to do: {way_out}");
            }
        }
    }
    text
}

fn errno_name(errno: Errno) -> String {
    errno.describe().map_or_else(|| format!("error {}", errno.0), |(name, _)| name.to_owned())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    kernel: Kernel<'a>,
    modules: Vec<Module<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Kernel<'a> {
    release: &'a str,
    build_id: Option<String>,
    architecture: &'static str,
    sources: Vec<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Module<'a> {
    file: String,
    name: Option<&'a str>,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno_name: Option<String>,
    reasons: Vec<Found<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Found<'a> {
    name: &'a str,
    effect: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    way_out: Option<&'static str>,
}

/// The same as one object.
pub(super) fn json(checked: &[Checked], facts: &KernelFacts) -> Result<String, serde_json::Error> {
    let answer = Answer {
        kernel: Kernel {
            release: facts.release.as_str(),
            build_id: facts.build_id.as_ref().map(ToString::to_string),
            architecture: facts.architecture.as_str(),
            sources: sources(facts),
        },
        modules: checked.iter().map(module).collect(),
    };
    Ok(format!("{}\n", serde_json::to_string_pretty(&answer)?))
}

fn module(checked: &Checked) -> Module<'_> {
    let (verdict, errno) = match checked.prediction.verdict {
        Verdict::Loads => ("Loads", None),
        Verdict::Fails { errno } => ("Fails", Some(errno)),
        Verdict::Unknown => ("Unknown", None),
    };
    Module {
        file: checked.path.display().to_string(),
        name: checked.name.as_ref().map(tenon_kmod::ModuleName::as_str),
        verdict,
        errno: errno.map(|errno| errno.0),
        errno_name: errno.map(errno_name),
        reasons: checked.prediction.reasons.iter().map(found).collect(),
    }
}

fn found(reason: &Reason) -> Found<'_> {
    let effect = match reason.effect {
        Effect::Fails(_) => "Fails",
        Effect::Unknown => "Unknown",
        Effect::Note => "Note",
    };
    Found { name: reason.name(), effect, message: reason.to_string(), way_out: reason.way_out() }
}
