//! How far KMM's contract is tested: which of its paragraphs and defects the tests that ran are about, by their names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The defects of KMM that our inventory of it counts.
const DEFECTS: u8 = 26;

/// What ran of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    paragraphs: BTreeMap<Paragraph, Tally>,
    defects: BTreeSet<u8>,
}

/// Its numbers: `2.15` is `[2, 15]`.
type Paragraph = Vec<u32>;

#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    cases: usize,
    passed: usize,
}

impl Ledger {
    /// Takes in what test programs said.
    pub(crate) fn read(&mut self, output: &str) {
        let tests = output.lines().filter_map(|line| line.strip_prefix("test ")?.split_once(" ... "));
        for (name, outcome) in tests {
            self.defects.extend(defects(name));
            if let Some(paragraph) = paragraph(name) {
                let tally = self.paragraphs.entry(paragraph).or_default();
                tally.cases += 1;
                tally.passed += usize::from(outcome == "ok");
            }
        }
    }

    /// For the end of a run.
    pub(crate) fn table(&self) -> String {
        let mut table = String::from("KMM's contract   cases  passed");
        for (paragraph, Tally { cases, passed }) in &self.paragraphs {
            let numbers: Vec<_> = paragraph.iter().map(u32::to_string).collect();
            let _ = write!(table, "\n  {:<15}{cases:>5}{passed:>8}", numbers.join("."));
        }
        let (with, without): (Vec<u8>, Vec<u8>) =
            (1..=DEFECTS).partition(|number| self.defects.contains(number));
        let _ = write!(table, "\nits defects: a test for {}", list(&with));
        if !without.is_empty() {
            let _ = write!(table, "; none for {}", list(&without));
        }
        table
    }
}

fn list(numbers: &[u8]) -> String {
    if numbers.is_empty() {
        return "none".to_owned();
    }
    numbers.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
}

/// `s2_15_defects::…` is about 2.15.
fn paragraph(name: &str) -> Option<Paragraph> {
    let (module, _) = name.split_once("::")?;
    let numbers: Paragraph =
        module.strip_prefix('s')?.split('_').map_while(|part| part.parse().ok()).collect();
    (!numbers.is_empty()).then_some(numbers)
}

/// `defect_09_13_what_is_right` is about two of them.
fn defects(name: &str) -> Vec<u8> {
    let function = name.split("::").find_map(|part| part.strip_prefix("defect_"));
    let numbers = function.into_iter().flat_map(|rest| rest.split('_'));
    numbers.map_while(|part| part.parse().ok().filter(|_| part.len() == 2)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_and_defects_are_read_off_the_names_of_tests() {
        let output = "running 5 tests\n\
            test s1_8_admission::what_is_refused ... ok\n\
            test s1_8_admission::what_is_kept ... FAILED\n\
            test s2_15_defects::defect_04_a_cordon_unloads_nothing ... ok\n\
            test s2_1_modules::one has been running for over 60 seconds\n\
            test s10_user_reports::k444_long_names ... ok\n\
            test resolve::tests::defect_09_13_two_at_once ... ok\n\
            test resolve::tests::defect_14_a_case::case_01 ... ok\n\
            test serve::tests::other ... ok\n";
        let mut ledger = Ledger::default();
        ledger.read(output);
        let paragraphs: Vec<_> = ledger.paragraphs.keys().cloned().collect();
        assert_eq!(paragraphs, [vec![1, 8], vec![2, 15], vec![10]]);
        assert_eq!(ledger.paragraphs.get(&vec![1, 8]), Some(&Tally { cases: 2, passed: 1 }));
        assert_eq!(ledger.defects, [4, 9, 13, 14].into());
        let table = ledger.table();
        assert!(table.contains("1.8                2       1"), "{table}");
        assert!(table.contains("a test for 4, 9, 13, 14; none for 1, 2, 3, 5"), "{table}");
    }
}
