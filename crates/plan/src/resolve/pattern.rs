//! Patterns of kernel mappings. To compile one takes far longer than to ask it, and a roll-up asks it for every node: so
//! each thread keeps the last few.

use std::cell::RefCell;
use std::collections::HashMap;

use regex::{Regex, RegexBuilder};

/// Patterns that a thread keeps.
const KEPT: usize = 32;
/// Bytes that a kept one may take, and as many again while it is asked. Whoever may write Modules chooses the patterns.
const MOST: usize = 256 * 1024;

thread_local! {
    static COMPILED: RefCell<HashMap<String, Regex>> = RefCell::default();
}

/// Whether the pattern fits somewhere in the text.
pub(super) fn is_match(pattern: &str, text: &str) -> Result<bool, regex::Error> {
    COMPILED.with_borrow_mut(|compiled| {
        if let Some(known) = compiled.get(pattern) {
            return Ok(known.is_match(text));
        }
        let Ok(small) = RegexBuilder::new(pattern).size_limit(MOST).dfa_size_limit(MOST).build() else {
            return Ok(Regex::new(pattern)?.is_match(text));
        };
        let fits = small.is_match(text);
        if compiled.len() >= KEPT {
            compiled.clear();
        }
        compiled.insert(pattern.to_owned(), small);
        Ok(fits)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_or_not_however_often_it_is_asked() {
        for _ in 0..3 {
            assert!(is_match("^6\\.1", "6.1.0-56-amd64").unwrap());
            assert!(!is_match("^6\\.1$", "6.1.0-56-amd64").unwrap());
            is_match("(", "6.1.0").unwrap_err();
        }
    }

    #[test]
    fn few_are_kept_and_none_that_is_large() {
        for number in 0..3 * KEPT {
            is_match(&format!("^{number}$"), "6.1.0").unwrap();
        }
        assert!(COMPILED.with_borrow(HashMap::len) <= KEPT);
        let large = "(.{200}|6.1.0){3}";
        assert!(!is_match(large, "6.1.0").unwrap() && is_match(large, "6.1.06.1.06.1.0").unwrap());
        assert!(!COMPILED.with_borrow(|compiled| compiled.contains_key(large)));
    }
}
