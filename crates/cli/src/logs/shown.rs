//! Logs on standard output, as they come: a line may be as long as the log, and need not be text.

use std::io::{IsTerminal as _, Write as _};

use futures::{AsyncBufRead, AsyncBufReadExt as _};

use super::LogsError;
use crate::terminal::{self, PlainPieces};

/// The longest line that is held until it ends, where each line says whose it is.
const LONGEST: usize = 64 * 1024;

/// What a build says is a stranger's text: to a file it goes as it is, to a terminal without what commands one.
pub(super) fn say(line: &str) -> Result<(), LogsError> {
    let mut output = std::io::stdout();
    if output.is_terminal() {
        writeln!(output, "{}", terminal::plain_lines(line)).map_err(LogsError::Output)
    } else {
        writeln!(output, "{line}").map_err(LogsError::Output)
    }
}

/// Says what is no part of a log, where one is shown as it is.
pub(super) fn aside(line: &str) {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{}", terminal::plain_lines(line));
}

/// Shows a log to its end.
pub(super) async fn copy(log: impl AsyncBufRead, pod: &str) -> Result<(), LogsError> {
    let mut log = std::pin::pin!(log);
    let mut output = std::io::stdout();
    let mut last = b'\n';
    let mut shown = output.is_terminal().then(PlainPieces::default);
    loop {
        let piece = log.fill_buf().await.map_err(|source| failed(pod, source))?;
        let Some(end) = piece.last() else { break };
        last = *end;
        let written = match &mut shown {
            Some(pieces) => output.write_all(pieces.next(piece).as_bytes()),
            None => output.write_all(piece),
        };
        written.and_then(|()| output.flush()).map_err(LogsError::Output)?;
        let read = piece.len();
        log.consume_unpin(read);
    }
    if last == b'\n' { Ok(()) } else { say("") }
}

/// Shows a log to its end, each line with whose it is: others are shown at the same time.
pub(super) async fn copy_lines(log: impl AsyncBufRead, pod: &str, whose: &str) -> Result<(), LogsError> {
    let mut log = std::pin::pin!(log);
    let mut lines = Lines::default();
    let write = |line: &[u8]| write_line(whose, line).map_err(LogsError::Output);
    loop {
        let piece = log.fill_buf().await.map_err(|source| failed(pod, source))?;
        let read = piece.len();
        if read == 0 {
            return lines.rest().map_or(Ok(()), |line| write(&line));
        }
        for line in lines.next(piece) {
            write(&line)?;
        }
        log.consume_unpin(read);
    }
}

fn failed(pod: &str, source: std::io::Error) -> LogsError {
    LogsError::Stream { pod: pod.to_owned(), source }
}

fn write_line(whose: &str, line: &[u8]) -> std::io::Result<()> {
    let mut output = std::io::stdout();
    let mut text = format!("[{whose}] ").into_bytes();
    if output.is_terminal() {
        text.extend_from_slice(terminal::plain_lines(&String::from_utf8_lossy(line)).as_bytes());
    } else {
        text.extend_from_slice(line);
    }
    text.push(b'\n');
    output.write_all(&text).and_then(|()| output.flush())
}

/// Takes a log piece by piece, and gives it line by line. A line that is too long to be held is several.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// The lines that have ended by now.
    pub(super) fn next(&mut self, piece: &[u8]) -> Vec<Vec<u8>> {
        let mut whole = Vec::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let text = part.strip_suffix(b"\n");
            self.begun.extend_from_slice(text.unwrap_or(part));
            if text.is_some() || self.begun.len() >= LONGEST {
                whole.push(std::mem::take(&mut self.begun));
            }
        }
        whole
    }

    /// What has not ended.
    pub(super) fn rest(self) -> Option<Vec<u8>> {
        Some(self.begun).filter(|line| !line.is_empty())
    }
}
