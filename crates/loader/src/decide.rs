//! What an order means for one Module, given what is remembered of it.

use tenon_order::{Load, Phase, Reason, Wish};

use crate::record::{Outcome, Record};

/// What to do about a Module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice<'a> {
    /// Nothing; this is how it stands.
    Leave(Outcome),
    /// Nothing is known or wanted of it any more.
    Forget,
    /// Take it out, with all that came with it.
    Remove,
    /// Have this loaded.
    Load {
        /// What is wanted.
        content: &'a Load,
        /// What is loaded, if nothing is and `content` cannot be.
        or_else: Option<&'a Load>,
    },
    /// Have the predecessor loaded: this failure of what is ordered is known.
    RollBack {
        /// The last content that loaded.
        kept: &'a Load,
    },
    /// Have what was loaded before the boot loaded again: the order does not speak of it.
    Orphan {
        /// The last content that loaded.
        kept: &'a Load,
    },
}

/// Decides by the wish, the record, and the release and id of the running kernel and boot.
pub fn decide<'a>(
    wish: Option<&'a Wish>,
    record: Option<&'a Record>,
    release: &str,
    boot_id: &str,
) -> Choice<'a> {
    let kept = record.and_then(|record| record.kept.as_ref()).filter(|kept| kept.kernel == release);
    match wish {
        None => not_ordered(record, kept, boot_id),
        Some(Wish::Removed) => match record {
            None => Choice::Leave(Outcome::new(Phase::Removed, Reason::Removed, GONE)),
            Some(record) if record.is_tombstone() => Choice::Leave(record.outcome.clone()),
            Some(_) => Choice::Remove,
        },
        Some(Wish::Loaded(content)) if content.kernel != release => {
            let message = format!("ordered for kernel {}, but {release} runs", content.kernel);
            Choice::Leave(Outcome::new(Phase::Failed, Reason::WrongKernel, &message))
        }
        Some(Wish::Loaded(content)) => {
            let failed = record.and_then(|record| record.failed.as_ref());
            match kept.filter(|kept| *kept != content) {
                Some(kept) if failed.is_some_and(|failure| failure.content == *content) => {
                    Choice::RollBack { kept }
                }
                or_else => Choice::Load { content, or_else },
            }
        }
    }
}

fn not_ordered<'a>(record: Option<&'a Record>, kept: Option<&'a Load>, boot_id: &str) -> Choice<'a> {
    let Some(record) = record.filter(|record| !record.is_tombstone()) else { return Choice::Forget };
    if record.live_in(boot_id).is_some() || record.pending_in(boot_id).is_some() {
        return Choice::Leave(Outcome::new(Phase::Orphaned, Reason::NotOrdered, ORPHANED));
    }
    match kept {
        Some(kept) => Choice::Orphan { kept },
        // It never loaded, or for another kernel: the memory of the latter is kept for the day that kernel runs.
        None if record.kept.is_none() && record.firmware.is_empty() && record.in_tree.is_empty() => {
            Choice::Forget
        }
        None => Choice::Leave(Outcome::new(Phase::Orphaned, Reason::NotOrdered, ORPHANED)),
    }
}

/// What is said of a Module that is removed; of one that left no trouble behind, nothing is remembered.
pub const GONE: &str = "nothing of it is on the node";

/// What is said of a Module that the order does not name.
pub const ORPHANED: &str = "the order does not name it: it stays as it is";

#[cfg(test)]
mod tests {
    use std::slice;

    use tenon_order::Digest;

    use super::*;
    use crate::record::{Failure, Live};

    fn content(bundle: &[u8], kernel: &str) -> Load {
        Load {
            kernel: kernel.to_owned(),
            bundle: Digest::of(bundle),
            module: "nic".parse().unwrap(),
            parameters: vec![],
            loading_order: vec![],
            in_tree_to_remove: vec![],
            firmware: false,
            retry: 0,
        }
    }

    fn record(kept: Option<Load>) -> Record {
        Record { kept, ..Record::new("drivers/nic".parse().unwrap()) }
    }

    fn live(record: Record, content: &Load, boot_id: &str) -> Record {
        let boot_id = boot_id.to_owned();
        Record {
            live: Some(Live {
                boot_id,
                content: content.clone(),
                parts: vec![],
                loaded_at: 1,
                adopted: false,
                reloaded: false,
            }),
            ..record
        }
    }

    #[test]
    fn another_kernels_order_loads_nothing() {
        let wish = Wish::Loaded(content(b"new", "6.12"));
        let old = record(Some(content(b"old", "6.1")));
        for record in [None, Some(&old)] {
            let choice = decide(Some(&wish), record, "6.1", "boot");
            assert!(matches!(choice, Choice::Leave(outcome) if outcome.reason == Reason::WrongKernel));
        }
    }

    #[test]
    fn absence_is_no_order() {
        let kept = content(b"old", "6.1");
        let loaded = live(record(Some(kept.clone())), &kept, "boot");
        let choice = decide(None, Some(&loaded), "6.1", "boot");
        assert!(matches!(choice, Choice::Leave(outcome) if outcome.phase == Phase::Orphaned));
        assert_eq!(decide(None, Some(&loaded), "6.1", "next boot"), Choice::Orphan { kept: &kept });
        let choice = decide(None, Some(&loaded), "6.12", "next boot");
        assert!(matches!(choice, Choice::Leave(outcome) if outcome.phase == Phase::Orphaned));
    }

    #[test]
    fn a_known_failure_is_not_repeated_until_the_order_changes() {
        let (old, new) = (content(b"old", "6.1"), content(b"new", "6.1"));
        let mut record = record(Some(old.clone()));
        let outcome = Outcome::new(Phase::Failed, Reason::UnknownSymbol, "");
        record.failed = Some(Failure { content: new.clone(), outcome });
        let wish = Wish::Loaded(new.clone());
        assert_eq!(decide(Some(&wish), Some(&record), "6.1", "b"), Choice::RollBack { kept: &old });
        let again = Load { retry: 1, ..new };
        let wish = Wish::Loaded(again.clone());
        let expected = Choice::Load { content: &again, or_else: Some(&old) };
        assert_eq!(decide(Some(&wish), Some(&record), "6.1", "b"), expected);
    }

    #[test]
    fn a_predecessor_for_another_kernel_is_no_way_out() {
        let new = content(b"new", "6.12");
        let record = record(Some(content(b"old", "6.1")));
        let wish = Wish::Loaded(new.clone());
        let expected = Choice::Load { content: &new, or_else: None };
        assert_eq!(decide(Some(&wish), Some(&record), "6.12", "b"), expected);
    }

    #[test]
    fn a_removal_is_remembered_until_it_is_no_longer_ordered() {
        let mut gone = record(None);
        gone.outcome = Outcome::new(Phase::Removed, Reason::Removed, "gone");
        let choice = decide(Some(&Wish::Removed), Some(&gone), "6.1", "b");
        assert_eq!(choice, Choice::Leave(gone.outcome.clone()));
        assert_eq!(decide(None, Some(&gone), "6.1", "b"), Choice::Forget);
        for known in slice::from_ref(&record(None)) {
            assert_eq!(decide(Some(&Wish::Removed), Some(known), "6.1", "b"), Choice::Remove);
        }
    }
}
