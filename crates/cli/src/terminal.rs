//! What a terminal is shown: colours where they are wanted, lines that fit, and no text that commands the terminal.
//!
//! Messages come from registries, kernels and build logs. Whoever writes one must not be able to move the cursor, to rename the
//! window, or to have a text read in another order than it is written.

use std::env;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Stdout};

/// How wide a line may be where it is not known.
const USUAL_WIDTH: usize = 100;
/// A terminal that says it is narrower than this is not believed.
const LEAST_WIDTH: usize = 40;

/// Whether a character does something to a terminal other than to stand there: controls, and what changes the direction of text or
/// cannot be seen.
fn commands(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A text in one line, without what commands a terminal.
pub(crate) fn plain(text: &str) -> String {
    let harmless = |char: char| match char {
        '\n' | '\r' | '\t' => ' ',
        char if commands(char) => char::REPLACEMENT_CHARACTER,
        char => char,
    };
    text.trim().chars().map(harmless).collect()
}

/// The same, line breaks and tabs kept.
pub(crate) fn plain_lines(text: &str) -> String {
    let harmless = |char: char| match char {
        '\n' | '\t' => char,
        char if commands(char) => char::REPLACEMENT_CHARACTER,
        char => char,
    };
    text.chars().map(harmless).collect()
}

/// The same of what comes in pieces, which may end within a character, and need not be text at all. Holds at most the three bytes of
/// an unfinished character.
#[derive(Debug, Default)]
pub(crate) struct PlainPieces {
    unfinished: Vec<u8>,
}

impl PlainPieces {
    /// What can be shown of it by now.
    pub(crate) fn next(&mut self, piece: &[u8]) -> String {
        let mut bytes = std::mem::take(&mut self.unfinished);
        bytes.extend_from_slice(piece);
        let mut text = String::with_capacity(bytes.len());
        let mut rest = bytes.as_slice();
        loop {
            let (valid, error) = match str::from_utf8(rest) {
                Ok(valid) => (valid, None),
                Err(error) => {
                    let (valid, _) = rest.split_at(error.valid_up_to());
                    (str::from_utf8(valid).unwrap_or_default(), Some(error))
                }
            };
            text.push_str(&plain_lines(valid));
            rest = rest.get(valid.len()..).unwrap_or_default();
            match error.map(|error| error.error_len()) {
                None => break,
                Some(None) => {
                    self.unfinished = rest.to_vec();
                    break;
                }
                Some(Some(wrong)) => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = rest.get(wrong..).unwrap_or_default();
                }
            }
        }
        text
    }
}

/// JSON in which such characters are escaped.
pub(crate) fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for char in json.chars() {
        if char != '\n' && commands(char) {
            // They are all below U+10000. Writing to a String cannot fail.
            let _ = write!(text, "\\u{:04x}", u32::from(char));
        } else {
            text.push(char);
        }
    }
    text
}

/// A text in at most so many characters; what is longer ends in an ellipsis.
pub(crate) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// A text in lines of at most so many characters, broken between words. A word that is longer has a line of its own.
pub(crate) fn wrapped(text: &str, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= most => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// What a piece of text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// It is as wished.
    Good,
    /// It is on its way.
    Underway,
    /// It needs somebody.
    Bad,
    /// Beside the point.
    Dim,
    /// A heading.
    Strong,
}

/// How text is to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    /// Whether there are colours.
    coloured: bool,
    /// How wide a line may be; `None` where a program reads, which wants whole lines.
    pub(crate) width: Option<usize>,
}

impl Look {
    /// For a program, or a file.
    pub(crate) const PLAIN: Self = Self { coloured: false, width: None };

    /// For standard output.
    pub(crate) fn of(output: &Stdout) -> Self {
        if !output.is_terminal() {
            return Self::PLAIN;
        }
        let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
        Self { coloured: !is_set("NO_COLOR") && !is_dumb, width: Some(width(output)) }
    }

    /// As much of a text as stands in a line that has so many characters before it.
    pub(crate) fn fitted(self, text: &str, before: usize) -> String {
        self.width.map_or_else(|| text.to_owned(), |width| cut(text, width.saturating_sub(before)))
    }

    /// The same, with lines of any length.
    pub(crate) fn endless(self) -> Self {
        Self { width: None, ..self }
    }

    /// A text in the colour of its meaning. It must be plain already.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        if !self.coloured || text.is_empty() {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Underway => "33",
            Tone::Bad => "31",
            Tone::Dim => "2",
            Tone::Strong => "1",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

fn width(output: &Stdout) -> usize {
    let columns = rustix::termios::tcgetwinsize(output).map_or(0, |size| usize::from(size.ws_col));
    if columns < LEAST_WIDTH { USUAL_WIDTH } else { columns }
}

/// The lines of a terminal that can be drawn upon anew; `None` where standard output is none.
pub(crate) fn height(output: &Stdout) -> Option<usize> {
    let is_good = output.is_terminal() && env::var_os("TERM").is_some_and(|terminal| terminal != "dumb");
    let rows = rustix::termios::tcgetwinsize(output).map_or(0, |size| usize::from(size.ws_row));
    (is_good && rows > 2).then_some(rows)
}

/// A page in place of the one before, as much of it as a terminal of so many lines shows.
pub(crate) fn redrawn(page: &str, height: usize) -> String {
    let count = page.lines().count();
    let shown = if count < height { count } else { height - 2 };
    let mut text = "\u{1b}[H".to_owned();
    for line in page.lines().take(shown) {
        text.push_str(line);
        text.push_str("\u{1b}[K\n");
    }
    if shown < count {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "… {} more lines\u{1b}[K", count - shown);
    }
    text + "\u{1b}[J"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_commands_a_terminal_is_left_of_a_text() {
        let hostile = "\u{1b}]0;owned\u{7}red \u{1b}[31m\u{9b}2J\r\nnext\tline \u{202e}txet\u{200b}\u{7f}";
        let expected = "�]0;owned�red �[31m�2J  next line �txet��";
        assert_eq!(plain(hostile), expected);
        assert_eq!(plain_lines("a\tb\n\u{1b}[2Jc\r"), "a\tb\n�[2Jc�");
        assert!(!plain(hostile).chars().any(commands));
    }

    #[test]
    fn pieces_are_as_harmless_as_the_whole_wherever_they_are_cut() {
        let hostile =
            b"\x1b]0;owned\x07 \xc3\x9cber \xe2\x80\xaetxet\n\xff\xc3 \xf0\x9f\xa6\x80 end \xe2\x80";
        let expected = "�]0;owned� Über �txet\n�� 🦀 end ";
        for size in 1..=hostile.len() {
            let mut pieces = PlainPieces::default();
            let shown: String = hostile.chunks(size).map(|piece| pieces.next(piece)).collect();
            assert_eq!(shown, expected, "in pieces of {size}");
            assert!(pieces.unfinished.len() < 4);
        }
    }

    #[test]
    fn json_says_the_same_after_escaping() {
        let value = serde_json::json!({ "said": "\u{9b}2J\u{202e}\u{7f} ß" });
        let text = escaped(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!text.chars().any(|char| char != '\n' && commands(char)), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn lines_are_cut_and_broken_between_characters_and_words() {
        assert_eq!(cut("Übermut", 7), "Übermut");
        assert_eq!(cut("Übermut tut", 8), "Übermut…");
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("one unbreakable", 5), ["one", "unbreakable"]);
        assert!(wrapped("  ", 5).is_empty());
    }

    #[test]
    fn a_page_that_is_too_long_is_cut_and_says_so() {
        assert_eq!(redrawn("a\nb\n", 4), "\u{1b}[Ha\u{1b}[K\nb\u{1b}[K\n\u{1b}[J");
        assert_eq!(
            redrawn("a\nb\nc\nd\n", 4),
            "\u{1b}[Ha\u{1b}[K\nb\u{1b}[K\n… 2 more lines\u{1b}[K\n\u{1b}[J"
        );
    }

    #[test]
    fn without_a_terminal_there_is_no_colour() {
        assert_eq!(Look::PLAIN.paint(Tone::Bad, "text"), "text");
        let coloured = Look { coloured: true, width: None };
        assert_eq!(coloured.paint(Tone::Bad, "text"), "\u{1b}[31mtext\u{1b}[0m");
        assert_eq!(coloured.paint(Tone::Bad, ""), "");
    }
}
