//! What a load leaves on the disk before it begins, so that the next boot knows whether it took the node down.
//!
//! A driver that panics and a power cut look alike from here: the node was there, and then it booted. What tells them
//! apart is what happens next time. A mark counts the ends of the node while the content's init ran, and those soon after.
//! With the first of these or the second of those the content is *doubtful*: it is tried again only after everything else,
//! alone, and when the node has been up for a while without it. An end in that while says that the node goes down without
//! it, too; an init that returns says that it was not the init. What a panic in init never does, and a power cut hardly
//! ever, is to come exactly in init once more: after that the content is not tried again. Nothing is held against a load
//! when the node was told to end.

use serde::{Deserialize, Serialize};
use tenon_order::Digest;

/// How far a load has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Not begun in this boot; only the doubt is remembered.
    Idle,
    /// On the disk before the first init runs.
    Loading,
    /// Every init has returned, well or not; cleared when the node has survived that for [`Mark::PROBATION`].
    Watched,
}

/// The mark of one content of one Module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// The boot that the stage is about.
    pub boot_id: String,
    /// How far the load had come in that boot.
    pub stage: Stage,
    /// How often the node ended while its init ran, since that was last seen to return.
    pub in_init: u32,
    /// How often the node ended soon after it, since the node last survived that.
    pub after_init: u32,
    /// When the stage began, in seconds since boot.
    pub at: u64,
}

/// Why a content is not loaded now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotNow {
    /// It has taken the node down.
    #[error(
        "the node went down again and again while this was loaded or soon after: it is not loaded until the bundle or \
         its parameters change, or a retry is asked for"
    )]
    Suspected,
    /// It may have taken the node down.
    #[error(
        "the node went down while this was loaded or soon after: it is tried again, after everything else, when the node \
         has been up for {} s",
        Mark::QUIET
    )]
    Early,
    /// Another content is doubtful, too: of two at once it would not be known which was it.
    #[error(
        "the node went down while this was loaded or soon after: it is tried again when another Module of which that is \
         true has been loaded for a minute"
    )]
    NotAlone,
}

impl Mark {
    /// Seconds that a load must survive.
    pub const PROBATION: u64 = 60;
    /// Ends in init with which a content is doubtful, and suspected.
    const IN_INIT: (u32, u32) = (1, 2);
    /// Ends soon after init with which a content is doubtful, and suspected: a power cut in a minute is far more likely
    /// than in a moment, so more of them are let go.
    const AFTER_INIT: (u32, u32) = (2, 8);
    /// Seconds that the node must have been up before a doubtful content is loaded.
    pub const QUIET: u64 = 30;

    /// In place of a mark that cannot be read: something went wrong in some boot, and this may have been it.
    pub fn unreadable() -> Self {
        Self { boot_id: String::new(), stage: Stage::Loading, in_init: 0, after_init: 0, at: 0 }
    }

    /// The mark for a load that begins now. `alone` is whether no other doubtful content is being watched.
    pub fn begin(previous: Option<&Self>, boot_id: &str, now: u64, alone: bool) -> Result<Self, NotNow> {
        let fresh =
            Self { boot_id: boot_id.to_owned(), stage: Stage::Loading, in_init: 0, after_init: 0, at: now };
        let Some(mark) = previous else { return Ok(fresh) };
        if mark.is_suspected() {
            return Err(NotNow::Suspected);
        }
        if mark.is_doubtful() && now < Self::QUIET {
            return Err(NotNow::Early);
        }
        if mark.is_doubtful() && !alone {
            return Err(NotNow::NotAlone);
        }
        Ok(Self { in_init: mark.in_init, after_init: mark.after_init, ..fresh })
    }

    /// The mark of a load whose inits have all returned.
    #[must_use]
    pub fn returned(self, now: u64) -> Self {
        Self { stage: Stage::Watched, in_init: 0, at: now, ..self }
    }

    /// What is left of the mark of a load that did not come to run any code; `None` where nothing is.
    pub fn not_begun(self) -> Option<Self> {
        let counts = self.in_init + self.after_init > 0;
        counts.then_some(Self { stage: Stage::Idle, ..self })
    }

    /// Whether it is to be loaded last and alone.
    pub fn is_doubtful(&self) -> bool {
        self.in_init >= Self::IN_INIT.0 || self.after_init >= Self::AFTER_INIT.0
    }

    fn is_suspected(&self) -> bool {
        self.in_init >= Self::IN_INIT.1 || self.after_init >= Self::AFTER_INIT.1
    }

    /// Seconds until it can be cleared; `None` when there is nothing to survive in this boot.
    pub fn due_in(&self, boot_id: &str, now: u64) -> Option<u64> {
        let runs = self.boot_id == boot_id && self.stage != Stage::Idle;
        runs.then(|| (self.at + Self::PROBATION).saturating_sub(now))
    }

    /// What it is in a boot after the one that it is about, whose other marks are among `marks`.
    fn in_next_boot(&self, marks: &[(Digest, Self)], in_order: bool, boot_id: &str) -> Self {
        let any = |stage| marks.iter().any(|(_, mark)| mark.boot_id == self.boot_id && mark.stage == stage);
        let mut mark = Self { boot_id: boot_id.to_owned(), stage: Stage::Idle, at: 0, ..self.clone() };
        match self.stage {
            _ if in_order => {}
            Stage::Loading => mark.in_init += 1,
            // What was loading when the node ended is nearer than what had been loaded.
            Stage::Watched if !any(Stage::Loading) => mark.after_init += 1,
            // The node ends without it, too. What is suspected stays so: only a changed order is a reason to try.
            Stage::Idle if !self.is_suspected() && !any(Stage::Loading) && !any(Stage::Watched) => {
                mark.in_init = mark.in_init.saturating_sub(1);
                mark.after_init = mark.after_init.saturating_sub(1);
            }
            Stage::Watched | Stage::Idle => {}
        }
        mark
    }
}

/// What a boot makes of the marks that it finds: those that change, `None` to be removed. `ended` is the boot whose
/// loader was told to end. Called again, it changes nothing.
pub fn settle(
    marks: &[(Digest, Mark)],
    ended: Option<&str>,
    boot_id: &str,
    now: u64,
) -> Vec<(Digest, Option<Mark>)> {
    let settled = |(fingerprint, mark): &(Digest, Mark)| {
        if mark.boot_id != boot_id {
            let in_order = ended == Some(mark.boot_id.as_str());
            return Some((*fingerprint, mark.in_next_boot(marks, in_order, boot_id).not_begun()));
        }
        // A loader that was ended in the middle left it: nobody is loading now.
        (mark.stage == Stage::Loading).then(|| (*fingerprint, Some(mark.clone().returned(now))))
    };
    marks.iter().filter_map(settled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node with one doubtful driver: what a boot does, and how it ends.
    struct Node {
        marks: Vec<(Digest, Mark)>,
        boots: u32,
        ended: Option<String>,
    }

    fn a() -> Digest {
        Digest::of(b"a")
    }

    impl Node {
        fn new() -> Self {
            Self { marks: vec![], boots: 0, ended: None }
        }

        fn boot_id(&self) -> String {
            format!("boot {}", self.boots)
        }

        fn boot(&mut self) -> &mut Self {
            self.boots += 1;
            let changes = settle(&self.marks, self.ended.as_deref(), &self.boot_id(), 1);
            for (fingerprint, mark) in changes {
                self.set(fingerprint, mark);
            }
            self
        }

        fn set(&mut self, fingerprint: Digest, mark: Option<Mark>) {
            self.marks.retain(|(known, _)| *known != fingerprint);
            self.marks.extend(mark.map(|mark| (fingerprint, mark)));
        }

        fn mark(&self, fingerprint: Digest) -> Option<&Mark> {
            self.marks.iter().find(|(known, _)| *known == fingerprint).map(|(_, mark)| mark)
        }

        fn begin(&mut self, fingerprint: Digest, now: u64) -> Result<(), NotNow> {
            let mark = Mark::begin(self.mark(fingerprint), &self.boot_id(), now, true)?;
            self.set(fingerprint, Some(mark));
            Ok(())
        }

        fn returned(&mut self, fingerprint: Digest, now: u64) {
            let mark = self.mark(fingerprint).unwrap().clone().returned(now);
            self.set(fingerprint, Some(mark));
        }
    }

    #[test]
    fn a_driver_that_panics_in_init_is_tried_twice() {
        let mut node = Node::new();
        node.boot().begin(a(), 5).unwrap();
        assert_eq!(node.boot().begin(a(), 5), Err(NotNow::Early));
        node.begin(a(), Mark::QUIET).unwrap();
        assert_eq!(node.boot().begin(a(), 4000), Err(NotNow::Suspected));
        assert_eq!(node.boot().boot().begin(a(), 4000), Err(NotNow::Suspected), "and stays suspected");
    }

    #[test]
    fn a_driver_that_panics_soon_after_init_is_given_up_too() {
        let mut node = Node::new();
        for tries in 0..8 {
            node.boot();
            if tries >= 2 {
                assert_eq!(node.begin(a(), 29), Err(NotNow::Early));
            }
            node.begin(a(), 30).unwrap();
            node.returned(a(), 31);
        }
        assert_eq!(node.boot().begin(a(), 4000), Err(NotNow::Suspected));
    }

    #[test]
    fn power_cuts_before_the_next_try_take_the_doubt_away() {
        let mut node = Node::new();
        node.boot().begin(a(), 5).unwrap();
        node.boot().begin(a(), 5).unwrap_err();
        assert_eq!(node.boot().mark(a()), None);
        for _ in 0..3 {
            node.begin(a(), 40).unwrap();
            node.returned(a(), 41);
            node.boot();
        }
        assert_eq!(node.mark(a()).unwrap().after_init, 3);
        assert_eq!(node.boot().boot().mark(a()).unwrap().after_init, 1);
    }

    #[test]
    fn an_init_that_returned_did_not_panic() {
        let mut node = Node::new();
        for _ in 0..3 {
            node.boot().begin(a(), 40).unwrap();
            node.boot().begin(a(), 40).unwrap();
            node.returned(a(), 41);
        }
        assert_eq!(node.boot().mark(a()).unwrap().in_init, 0);
    }

    #[test]
    fn what_was_being_loaded_is_to_blame_before_what_had_been() {
        let (mut node, b) = (Node::new(), Digest::of(b"b"));
        node.boot().begin(b, 5).unwrap();
        node.returned(b, 6);
        node.begin(a(), 7).unwrap();
        node.boot();
        assert_eq!((node.mark(b), node.mark(a()).unwrap().in_init), (None, 1));
        // Nor is the doubtful one less so because of what happened to another.
        node.begin(b, 5).unwrap();
        node.boot();
        assert_eq!((node.mark(b).unwrap().in_init, node.mark(a()).unwrap().in_init), (1, 1));
    }

    #[test]
    fn an_end_in_order_is_held_against_nobody() {
        let mut node = Node::new();
        node.boot().begin(a(), 5).unwrap();
        node.returned(a(), 6);
        node.ended = Some(node.boot_id());
        assert_eq!(node.boot().mark(a()), None);
        // Only that boot ended so.
        node.begin(a(), 5).unwrap();
        assert_eq!(node.boot().mark(a()).unwrap().in_init, 1);
    }

    #[test]
    fn a_restarted_loader_is_no_crashed_node() {
        let mut node = Node::new();
        node.boot().begin(a(), 5).unwrap();
        let boot_id = node.boot_id();
        let changes = settle(&node.marks, None, &boot_id, 9);
        let watched = node.mark(a()).unwrap().clone().returned(9);
        assert_eq!(changes, [(a(), Some(watched.clone()))]);
        assert_eq!(settle(&[(a(), watched)], None, &boot_id, 11), []);
    }

    #[test]
    fn doubtful_contents_are_tried_one_at_a_time() {
        let fresh = Mark::begin(None, "b", 1, false).unwrap();
        let doubtful = Mark { stage: Stage::Idle, in_init: 1, ..fresh };
        assert_eq!(Mark::begin(Some(&doubtful), "b", 100, false), Err(NotNow::NotAlone));
        assert!(Mark::begin(Some(&doubtful), "b", 100, true).is_ok());
    }

    #[test]
    fn a_mark_is_cleared_after_its_probation_and_only_in_its_boot() {
        let mark = Mark::begin(None, "a", 90, true).unwrap().returned(100);
        assert_eq!(mark.due_in("a", 130), Some(30));
        assert_eq!(mark.due_in("a", 160), Some(0));
        assert_eq!(mark.due_in("b", 900), None);
        assert_eq!(Mark { stage: Stage::Idle, ..mark }.due_in("a", 900), None);
    }
}
