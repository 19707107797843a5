//! Messages in a status: long enough for the kernel's own words, short enough for an object that thousands watch.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

/// The most bytes that a message in a status may have.
pub const MAX_BYTES: usize = 512;

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        // Some errors repeat their source in their own text.
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

const ELLIPSIS: char = '…';

/// The last `most` bytes of a text, from the beginning of a character; what is longer begins with an ellipsis.
pub fn end(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let from = text.ceil_char_boundary(text.len() + ELLIPSIS.len_utf8() - most.max(ELLIPSIS.len_utf8()));
    format!("{ELLIPSIS}{}", text.get(from..).unwrap_or_default())
}

/// A text for humans of at most [`MAX_BYTES`] bytes of UTF-8; what is longer is cut at the end of a character and
/// ends in an ellipsis.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ShortMessage(String);

impl ShortMessage {
    /// Takes the text whole, or as much of it as fits.
    pub fn new(text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.len() > MAX_BYTES {
            text.truncate(text.floor_char_boundary(MAX_BYTES - ELLIPSIS.len_utf8()));
            text.push(ELLIPSIS);
        }
        Self(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for ShortMessage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl AsRef<str> for ShortMessage {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for ShortMessage {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for ShortMessage {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<ShortMessage> for String {
    fn from(message: ShortMessage) -> Self {
        message.0
    }
}

impl<'de> Deserialize<'de> for ShortMessage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl JsonSchema for ShortMessage {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ShortMessage".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": MAX_BYTES })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_fits_stays_as_it_is() {
        let text = "x".repeat(MAX_BYTES);
        assert_eq!(ShortMessage::new(text.clone()).as_str(), text);
    }

    #[test]
    fn a_longer_text_is_cut_between_characters_and_says_so() {
        for shift in 0..4 {
            let text = format!("{}{}", "x".repeat(shift), "ß€𝄞".repeat(200));
            let cut = ShortMessage::new(text.clone());
            assert!(cut.as_str().len() <= MAX_BYTES, "{} bytes", cut.as_str().len());
            let kept = cut.as_str().strip_suffix(ELLIPSIS).expect("ends in an ellipsis");
            assert!(text.starts_with(kept));
            assert!(MAX_BYTES - cut.as_str().len() < 4, "no more is cut than must be");
        }
    }

    #[test]
    fn what_is_read_is_bounded_too() {
        let json = serde_json::to_string(&"y".repeat(5000)).expect("a string");
        let message: ShortMessage = serde_json::from_str(&json).expect("a message");
        assert!(message.as_str().len() <= MAX_BYTES);
    }
}
