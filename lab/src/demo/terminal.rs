//! What the demonstration writes: stages, what happens in them with the time it took, commands with their output.

use std::fmt;
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Instant;

use tenon_lab::command::Tail;

/// Standard output, coloured when it is a terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    start: Instant,
    stage_start: Instant,
    stages: u32,
    held: u32,
    is_coloured: bool,
}

/// The most bytes of a log's line that are shown.
const LINE: usize = 400;

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "31";
const CYAN: &str = "36";

impl Terminal {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let is_coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { start: now, stage_start: now, stages: 0, held: 0, is_coloured }
    }

    pub(super) fn title(&self, text: &str) {
        println!("{}", self.paint(BOLD, text));
    }

    /// A new stage begins; the clock of events starts anew.
    pub(super) fn stage(&mut self, title: &str) {
        self.stages += 1;
        self.stage_start = Instant::now();
        println!("\n{}", self.paint(BOLD, format!("{}. {title}", self.stages)));
    }

    /// Something happened.
    pub(super) fn event(&self, text: impl fmt::Display) {
        let time = format!("{:8.2} s", self.stage_start.elapsed().as_secs_f32());
        println!("{}  {text}", self.paint(DIM, time));
    }

    /// A command was run and said this. `place` is where: nothing for the cluster's administrator, or a node.
    pub(super) fn command(&self, place: &str, line: &str, output: &str) {
        println!("\n  {}", self.paint(CYAN, format!("{place}$ {line}")));
        for line in output.trim_end().lines() {
            println!("  {}", line.trim_end());
        }
    }

    /// Something that was to be shown is true.
    pub(super) fn held(&mut self, claim: impl fmt::Display) {
        self.held += 1;
        println!("  {} {claim}", self.paint(GREEN, "✓"));
    }

    pub(super) fn space() {
        println!();
    }

    pub(super) fn end(&self) {
        let seconds = self.start.elapsed().as_secs();
        let text = format!("All {} claims are true. {seconds} s.", self.held);
        println!("\n{}", self.paint(GREEN, text));
    }

    pub(super) fn failure(&self, text: &str) {
        println!("\n{} {text}", self.paint(RED, "✗"));
    }

    /// The last lines of a log.
    pub(super) fn log(&self, path: &Path, tail: &Tail) {
        println!("\n{}", self.paint(BOLD, format!("{} ends with", path.display())));
        for line in tail.to_string().lines() {
            println!("  {}", line.get(..line.floor_char_boundary(LINE)).unwrap_or(line));
        }
    }

    fn paint(&self, style: &str, text: impl fmt::Display) -> String {
        if self.is_coloured { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_string() }
    }
}
