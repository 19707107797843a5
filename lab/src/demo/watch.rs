//! Tells of a Module what changes, as it changes.

use std::collections::BTreeMap;

use tenon_lab::state::State;

use super::terminal::Terminal;

/// What was told last, by subject.
#[derive(Debug, Default)]
pub(super) struct Watch {
    told: BTreeMap<String, String>,
}

impl Watch {
    /// Whether nothing of the Module was ever seen.
    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// Tells what is new. A subject that has nothing to do with the Module yet is not mentioned.
    pub(super) fn tell(&mut self, state: &State, terminal: &Terminal) {
        let now = state.sentences();
        for (subject, sentence) in &now {
            let before = self.told.get(subject);
            let is_news = before != Some(sentence) && (before.is_some() || !State::is_nothing(sentence));
            if is_news && !State::is_unseen(sentence) {
                terminal.event(format!("{subject}: {sentence}"));
            }
        }
        for subject in self.told.keys().filter(|subject| !now.contains_key(*subject)) {
            terminal.event(format!("{subject}: forgotten"));
        }
        self.told = now.into_iter().filter(|(_, sentence)| !State::is_nothing(sentence)).collect();
    }
}
