//! Patterns of kernel mappings. To compile one takes far longer than to ask it, and a roll-up asks it for every node: so
//! each thread keeps the last few.

mod re2;

use std::cell::RefCell;
use std::collections::HashMap;

use regex_automata::meta::Regex;
use regex_automata::nfa::thompson::WhichCaptures;
use regex_syntax::hir::Hir;

pub use re2::PatternError;

/// Patterns that a thread keeps.
const KEPT: usize = 32;
/// Bytes that a kept one may take, and as many again while it is asked. Whoever may write Modules chooses the patterns.
const MOST: usize = 256 * 1024;
/// Bytes that one may take at all.
const LARGEST: usize = 10 * 1024 * 1024;

thread_local! {
    static COMPILED: RefCell<HashMap<String, Regex>> = RefCell::default();
}

/// Whether the pattern fits somewhere in the text, a kernel's release.
pub(super) fn is_match(pattern: &str, text: &str) -> Result<bool, PatternError> {
    COMPILED.with_borrow_mut(|compiled| {
        if let Some(known) = compiled.get(pattern) {
            return Ok(known.is_match(text));
        }
        let expression = re2::parse(pattern)?;
        let Some(small) = compile(&expression, MOST) else {
            let large = compile(&expression, LARGEST).ok_or(PatternError::Size)?;
            return Ok(large.is_match(text));
        };
        let fits = small.is_match(text);
        if compiled.len() >= KEPT {
            compiled.clear();
        }
        compiled.insert(pattern.to_owned(), small);
        Ok(fits)
    })
}

/// `None` where it takes more: nothing else can be wrong with what was parsed.
fn compile(expression: &Hir, most: usize) -> Option<Regex> {
    let limits = Regex::config()
        .nfa_size_limit(Some(most))
        .hybrid_cache_capacity(most)
        .onepass_size_limit(Some(most))
        .which_captures(WhichCaptures::None);
    Regex::builder().configure(limits).build_from_hir(expression).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_or_not_however_often_it_is_asked() {
        for _ in 0..3 {
            assert!(is_match("^6\\.1", "6.1.0-56-amd64").unwrap());
            assert!(!is_match("^6\\.1$", "6.1.0-56-amd64").unwrap());
            assert_eq!(
                is_match("6[.1", "6.1.0"),
                Err(PatternError::Syntax { what: "missing closing ]", at: 1 })
            );
        }
    }

    #[test]
    fn few_are_kept_and_none_that_is_large() {
        for number in 0..3 * KEPT {
            is_match(&format!("^{number}$"), "6.1.0").unwrap();
        }
        assert!(COMPILED.with_borrow(HashMap::len) <= KEPT);
        let large = "(.{900}|6.1.0)".repeat(20);
        assert!(!is_match(&large, "6.1.0").unwrap() && is_match(&large, &"6.1.0".repeat(20)).unwrap());
        assert!(!COMPILED.with_borrow(|compiled| compiled.contains_key(&large)));
    }
}
