//! The answer, for people and for programs. What is well is said in a line, what is not in full.

use std::fmt::Write as _;

use super::finding::{Explanation, Finding};
use crate::standing::State;
use crate::terminal::{Look, Tone, plain, wrapped};

/// What each level of causes is moved to the right by.
const STEP: usize = 2;

/// The tree, and the next step below it.
pub(crate) fn text(explanation: &Explanation, look: Look) -> String {
    let mut page = Page { text: String::new(), look };
    page.finding(&explanation.finding, 0);
    for gap in &explanation.left_out {
        page.line(0, Tone::Dim, "", "note: ", gap);
    }
    page.text.push('\n');
    page.next(explanation);
    page.text
}

struct Page {
    text: String,
    look: Look,
}

impl Page {
    fn finding(&mut self, finding: &Finding, depth: usize) {
        let indent = depth * STEP;
        let (mark, tone) = mark(finding);
        let mut head = plain(&finding.about);
        let mut reason = plain(&finding.reason);
        // Of what is well the mark says it all.
        if finding.state == State::Ready && !finding.message.is_empty() {
            reason = String::new();
        }
        if !reason.is_empty() {
            head.push_str(": ");
        }
        let message = plain(&finding.message);
        let in_head = finding.state == State::Ready || finding.reason.is_empty();
        let tail = if in_head && !message.is_empty() { format!(": {message}") } else { String::new() };
        let strong = if depth == 0 { self.look.paint(Tone::Strong, &head) } else { head };
        // Writing to a String cannot fail.
        let _ = writeln!(
            self.text,
            "{:indent$}{} {strong}{}{tail}",
            "",
            self.look.paint(tone, mark),
            self.look.paint(tone, &reason)
        );
        if !in_head {
            self.block(indent + STEP, "", &message, None);
        }
        for words in &finding.words {
            self.block(indent + STEP, "> ", &plain(words), None);
        }
        for fact in &finding.facts {
            self.block(indent + STEP, "", &plain(fact), Some(Tone::Dim));
        }
        for cause in &finding.causes {
            self.finding(cause, depth + 1);
        }
    }

    /// Lines of text, each begun and coloured alike.
    fn block(&mut self, indent: usize, begin: &str, text: &str, tone: Option<Tone>) {
        let lines = match self.look.width {
            Some(width) => wrapped(text, width.saturating_sub(indent + begin.len()).max(STEP)),
            None => Some(text.to_owned()).filter(|text| !text.is_empty()).into_iter().collect(),
        };
        for line in lines {
            let line = tone.map_or_else(|| line.clone(), |tone| self.look.paint(tone, &line));
            let _ = writeln!(self.text, "{:indent$}{begin}{line}", "");
        }
    }

    fn line(&mut self, indent: usize, tone: Tone, mark: &str, begin: &str, text: &str) {
        let text = self.look.paint(tone, &format!("{begin}{}", plain(text)));
        let _ = writeln!(self.text, "{:indent$}{mark}{text}", "");
    }

    fn next(&mut self, explanation: &Explanation) {
        let begin = "next: ";
        let steps: Vec<String> = match explanation.finding.state {
            State::Ready if explanation.next.is_empty() => vec!["nothing, all is as wished".to_owned()],
            State::Ready => explanation
                .next
                .iter()
                .map(|step| format!("nothing, if it is meant so; if not, {step}"))
                .collect(),
            State::Underway if explanation.next.is_empty() => vec!["wait".to_owned()],
            State::Underway => explanation.next.iter().map(|step| format!("wait; {step}")).collect(),
            State::Trouble if explanation.next.is_empty() => vec!["read the message above".to_owned()],
            State::Trouble => explanation.next.clone(),
        };
        for (place, step) in steps.iter().enumerate() {
            let start = if place == 0 { begin } else { "      " };
            let indent = begin.len();
            let step = plain(step);
            let lines = match self.look.width {
                Some(width) => wrapped(&step, width.saturating_sub(indent)),
                None => vec![step],
            };
            for (row, line) in lines.iter().enumerate() {
                let start = if row == 0 { self.look.paint(Tone::Strong, start) } else { " ".repeat(indent) };
                let _ = writeln!(self.text, "{start}{line}");
            }
        }
    }
}

fn mark(finding: &Finding) -> (&'static str, Tone) {
    match finding.state {
        _ if finding.note => ("–", Tone::Dim),
        State::Ready => ("✓", Tone::Good),
        State::Underway => ("…", Tone::Underway),
        State::Trouble => ("✗", Tone::Bad),
    }
}
