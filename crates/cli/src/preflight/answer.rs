//! The answer, for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;
use tenon_api::module::Predicted;
use tenon_api::module_image::VerdictReason;
use tenon_api::preflight_validation::{PreflightModule, VerificationStatus};
use tenon_api::{PreflightValidationStatus, reasons};
use tenon_order::ModuleKey;

use crate::standing::advice::Subject;
use crate::status::table::{Block, Cell, render};
use crate::terminal::{Look, Tone, plain, wrapped};

/// Will all drivers be there?
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    kernel: String,
    /// The PreflightValidation, where it stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    preflight_validation: Option<String>,
    result: Outcome,
    message: String,
    modules: Vec<Row>,
}

/// All in a word; each has its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum Outcome {
    /// Every driver will be there.
    Success,
    /// A driver would be lost.
    Failure,
    /// Something did not answer, or is not decided yet.
    Undecided,
    /// All images are there; nobody knows of all of them whether the kernel will load them.
    Unknown,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    namespace: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    architecture: Option<String>,
    verification_status: VerificationStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted: Option<Predicted>,
    reason: String,
    message: String,
    /// Why that is predicted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    verdict: Vec<VerdictReason>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// What did not answer, and may do so later.
const SILENT: [&str; 2] = [reasons::REGISTRY_UNREACHABLE, reasons::DEPOT_FAILED];

impl Answer {
    pub(super) fn new(kernel: &str, kept: Option<String>, status: &PreflightValidationStatus) -> Self {
        let modules: Vec<_> = status.modules.iter().map(|module| Row::new(kernel, module)).collect();
        Self {
            kernel: kernel.to_owned(),
            preflight_validation: kept,
            result: outcome(&modules),
            message: status.message.as_ref().map(ToString::to_string).unwrap_or_default(),
            modules,
        }
    }

    pub(super) fn code(&self) -> u8 {
        match self.result {
            Outcome::Success => 0,
            Outcome::Failure => 1,
            Outcome::Undecided | Outcome::Unknown => 3,
        }
    }

    /// The table, with what is to be done below each Module that needs something, and the answer in a line.
    pub(super) fn text(&self, look: Look) -> String {
        let blocks: Vec<_> = self.modules.iter().map(Row::block).collect();
        let mut text = String::new();
        if !blocks.is_empty() {
            text = render(&["MODULE", "IMAGE", "VERDICT", "REASON"], &blocks, look.endless()).concat();
            text.push('\n');
        }
        for row in self.modules.iter().filter(|row| row.needs_words()) {
            row.explain(&mut text, look);
        }
        let tone = match self.result {
            Outcome::Success => Tone::Good,
            Outcome::Failure => Tone::Bad,
            Outcome::Undecided | Outcome::Unknown => Tone::Underway,
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", look.paint(tone, &plain(&self.message)));
        if let Some(name) = &self.preflight_validation {
            let _ = writeln!(text, "kept: kubectl get preflightvalidation {}", plain(name));
        }
        text
    }
}

fn outcome(modules: &[Row]) -> Outcome {
    let any = |wanted: &dyn Fn(&Row) -> bool| modules.iter().any(wanted);
    let is_silent = |row: &Row| SILENT.contains(&row.reason.as_str());
    if any(&|row| row.verification_status == VerificationStatus::Failure && !is_silent(row)) {
        Outcome::Failure
    } else if any(&|row| row.verification_status != VerificationStatus::Success) {
        Outcome::Undecided
    } else if any(&|row| row.predicted == Some(Predicted::Unknown)) {
        Outcome::Unknown
    } else {
        Outcome::Success
    }
}

impl Row {
    fn new(kernel: &str, module: &PreflightModule) -> Self {
        let reason = module.reason.clone().unwrap_or_default();
        let key = ModuleKey::new(&module.namespace, &module.name).ok();
        let subject = Subject { module: key.as_ref(), node: None, kernel: Some(kernel) };
        let unknown = module.predicted == Some(Predicted::Unknown);
        let next = match module.verification_status {
            // Facts do not help where there is nothing to judge by them.
            VerificationStatus::Success if reason == reasons::NOT_PUSHED => subject.step(&reason),
            VerificationStatus::Success if unknown => Some(
                "give the operator facts about this kernel (kubectl tenon facts, or --facts-image of the operator; docs/inspection.md)"
                    .to_owned(),
            ),
            VerificationStatus::Success => None,
            VerificationStatus::Failure | VerificationStatus::InProgress => subject.step(&reason),
        };
        Self {
            namespace: module.namespace.clone(),
            name: module.name.clone(),
            image: module.image.clone(),
            architecture: module.architecture.clone(),
            verification_status: module.verification_status,
            predicted: module.predicted,
            reason,
            message: module.status_reason.as_ref().map(ToString::to_string).unwrap_or_default(),
            verdict: module.verdict.clone(),
            next,
        }
    }

    fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn verdict(&self) -> (&'static str, Tone) {
        match (self.verification_status, self.predicted) {
            (VerificationStatus::Failure, _) => ("Lost", Tone::Bad),
            (VerificationStatus::InProgress, _) => ("Undecided", Tone::Underway),
            (VerificationStatus::Success, Some(Predicted::Unknown)) => ("Unknown", Tone::Underway),
            (VerificationStatus::Success, Some(_)) => ("Loads", Tone::Good),
            (VerificationStatus::Success, None) => ("NothingToLoad", Tone::Dim),
        }
    }

    fn block(&self) -> Block {
        let (verdict, tone) = self.verdict();
        let cells = vec![
            Cell::new(self.title()),
            Cell::new(self.image.as_deref().unwrap_or("-")),
            Cell::toned(verdict, tone),
            Cell::new(&self.reason),
        ];
        Block { rows: vec![cells], note: None }
    }

    fn needs_words(&self) -> bool {
        self.verification_status != VerificationStatus::Success || self.predicted == Some(Predicted::Unknown)
    }

    fn explain(&self, text: &mut String, look: Look) {
        let width = look.width.unwrap_or(usize::MAX).saturating_sub(2);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", look.paint(Tone::Strong, &plain(&self.title())));
        let next = self.next.as_ref().map(|next| format!("next: {next}"));
        for said in std::iter::once(&self.message).chain(&next) {
            for line in wrapped(&plain(said), width) {
                let _ = writeln!(text, "  {line}");
            }
        }
        text.push('\n');
    }
}
