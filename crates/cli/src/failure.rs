//! How a command that did not succeed ends.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use crate::terminal;

/// An error, what to do about it, and whether it may pass.
#[derive(Debug)]
pub(crate) struct Failure {
    error: Box<dyn Error>,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// One that somebody has to mend.
    pub(crate) fn new(error: impl Error + 'static) -> Self {
        Self { error: Box::new(error), hint: None, code: 1 }
    }

    /// With a line that says what to do.
    pub(crate) fn hint(self, hint: Option<String>) -> Self {
        Self { hint, ..self }
    }

    /// Whether the same command may work later.
    pub(crate) fn passing(self, passing: bool) -> Self {
        Self { code: if passing { 3 } else { self.code }, ..self }
    }

    /// Of a command whose answer is the exit code: 2, which is no answer.
    pub(crate) fn without_answer(self) -> Self {
        Self { code: 2, ..self }
    }

    /// Says all of it on standard error.
    pub(crate) fn report(&self) -> ExitCode {
        let mut text = format!("error: {}", self.error);
        let mut cause = self.error.source();
        while let Some(error) = cause {
            // Writing to a String cannot fail.
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        if let Some(hint) = &self.hint {
            let _ = write!(text, "\nhint: {hint}");
        }
        // Where standard error is closed there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "{}", terminal::plain_lines(&text));
        ExitCode::from(self.code)
    }
}
