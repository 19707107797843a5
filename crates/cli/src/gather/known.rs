//! The values of Secrets, however many and however long they are, found wherever they stand in a text.
//!
//! A long value is known by its beginning, and blotted out as far as the text follows it: the search's memory grows with the number
//! of lines in Secrets and not with their length, and what was cut off in the middle is found, too.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use aho_corasick::{AhoCorasick, BuildError, Input, MatchKind};
use serde_json::Value;

/// Shorter values are words like any other.
const LEAST: usize = 8;
/// By so many of its bytes a value is known.
const KNOWN_BY: usize = 64;

/// What must not be met.
#[derive(Debug)]
pub(super) struct Known {
    beginnings: AhoCorasick,
    /// By the number of their beginning.
    values: Vec<Vec<String>>,
}

impl Known {
    pub(super) fn new(known: BTreeSet<String>) -> Result<Self, BuildError> {
        let mut values: BTreeMap<Vec<u8>, Vec<String>> = BTreeMap::new();
        for value in known.into_iter().filter(|value| !value.is_empty()) {
            let beginning = value.bytes().take(KNOWN_BY).collect();
            values.entry(beginning).or_default().push(value);
        }
        let beginnings =
            AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(values.keys())?;
        Ok(Self { beginnings, values: values.into_values().collect() })
    }

    /// The text with `blot` in their place.
    pub(super) fn blot_out(&self, text: &str, blot: &str) -> String {
        let (mut blotted, mut rest) = (String::with_capacity(text.len()), 0);
        while let Some(found) = self.next(text, rest) {
            blotted.push_str(text.get(rest..found.start).unwrap_or_default());
            blotted.push_str(blot);
            rest = found.end;
        }
        blotted.push_str(text.get(rest..).unwrap_or_default());
        blotted
    }

    /// Where the next one stands, from there on.
    fn next(&self, text: &str, from: usize) -> Option<Range<usize>> {
        let found = self.beginnings.find(Input::new(text).range(from..))?;
        let follows = text.as_bytes().get(found.start()..).unwrap_or_default();
        let values = self.values.get(found.pattern().as_usize()).into_iter().flatten();
        let longest = values.map(|value| in_common(value.as_bytes(), follows)).max().unwrap_or_default();
        // A character that the value has in part is blotted out with it.
        let end = (found.start() + longest.max(1)..=text.len()).find(|end| text.is_char_boundary(*end))?;
        Some(found.start()..end)
    }
}

/// So many bytes are the same.
fn in_common(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// The forms in which a Secret's value may be met: as it is stored, as it is, line by line, and what stands in it where it is JSON;
/// and each of them within JSON.
pub(super) fn forms(stored: &str, value: &[u8]) -> BTreeSet<String> {
    let mut forms = BTreeSet::from([stored.to_owned()]);
    if let Ok(text) = str::from_utf8(value) {
        lines(text, &mut forms);
        if let Ok(json) = serde_json::from_str(text) {
            leaves(&json, &mut forms);
        }
    }
    // The frame of a certificate or a key is no secret.
    forms.retain(|form| form.len() >= LEAST && !form.starts_with("-----"));
    forms
}

fn lines(text: &str, found: &mut BTreeSet<String>) {
    for line in text.lines().map(str::trim) {
        found.insert(line.to_owned());
        if line.contains(['"', '\\']) {
            let quoted = Value::from(line).to_string();
            found.extend(quoted.get(1..quoted.len() - 1).map(str::to_owned));
        }
    }
}

fn leaves(json: &Value, found: &mut BTreeSet<String>) {
    match json {
        Value::String(text) => lines(text, found),
        Value::Array(items) => items.iter().for_each(|item| leaves(item, found)),
        Value::Object(fields) => fields.values().for_each(|value| leaves(value, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn known(values: impl IntoIterator<Item = String>) -> Known {
        Known::new(values.into_iter().collect()).unwrap()
    }

    fn blotted(values: &[&str], text: &str) -> String {
        known(values.iter().map(|value| (*value).to_owned())).blot_out(text, "#")
    }

    #[test]
    fn a_secret_s_value_is_found_in_all_its_forms() {
        let config = r#"{"auths":{"registry.example":{"username":"joe","password":"CANARY-\"one"}}}"#;
        let mut all = forms("eyJhdXRocyI6IENBTkFSWQ==", config.as_bytes());
        all.extend(forms("Q0FOQVJZLWtleQ==", b"-----BEGIN X-----\nCANARY-line\n-----END X-----\n"));
        let known = known(all);
        for text in [
            "x CANARY-\"one y",
            r#"{"x":"CANARY-\"one"}"#,
            "eyJhdXRocyI6IENBTkFSWQ==",
            "CANARY-line",
            "Q0FOQVJZLWtleQ==",
        ] {
            let blotted = known.blot_out(text, "#");
            assert!(!blotted.contains("CANARY") && !blotted.contains("Q0FO"), "{text}: {blotted}");
            assert!(blotted.contains('#') && !blotted.contains("one"), "{text}: {blotted}");
        }
        assert_eq!(known.blot_out("-----BEGIN X-----, joe", "#"), "-----BEGIN X-----, joe");
    }

    #[rstest]
    #[case::none(&[], "a text", "a text")]
    #[case::one_begins_with_another(&["CANARY-a", "CANARY-a-and-more"], "CANARY-a-and-more, CANARY-a.", "#, #.")]
    #[case::one_after_another(&["CANARY-a"], "CANARY-aCANARY-a", "##")]
    #[case::part_of_a_character(&["CANARY-\u{e4}", "CANARY-\u{e5}"], "CANARY-\u{e5}\u{e4}", "#\u{e4}")]
    fn values_are_found(#[case] values: &[&str], #[case] text: &str, #[case] expected: &str) {
        assert_eq!(blotted(values, text), expected);
    }

    #[test]
    fn what_was_cut_off_is_found_as_far_as_it_goes() {
        let value = "CANARY".repeat(100);
        assert_eq!(blotted(&[&value], &format!("{}, end", &value[..400])), "#, end");
        // Of two that begin alike, the one that stands there.
        let (one, other) = (format!("{value}-one"), format!("{value}-other"));
        assert_eq!(blotted(&[&one, &other], &format!("{other}. {one}.")), "#. #.");
        // And where a character differs in its second byte.
        let value = format!("{}\u{e4}", "CANARY".repeat(20));
        assert_eq!(blotted(&[&value], &format!("{}\u{e5}x", "CANARY".repeat(20))), "#x");
    }

    #[test]
    fn large_secrets_are_no_obstacle() {
        // As releases of a chart: a megabyte in one line each; and one of many lines.
        let long = |mark: usize| format!("{mark}{}", "CANARYCANARY".repeat(1 << 17));
        let lines = (0..20_000).map(|line| format!("CANARY-in-line-{line:060}"));
        let known = known((0..8).map(long).chain(lines));
        let text = format!("{} and CANARY-in-line-{:060}", long(7), 19_999);
        assert_eq!(known.blot_out(&text, "#"), "# and #");
    }
}
