//! The side of what must be there after a load: whether it is time to look, and what was found.

use std::collections::BTreeSet;
use std::time::Instant;

use super::Cycle;
use crate::validation::{self, Question};

impl Cycle {
    /// It was looked for what must be there after the loads that are known; so much is.
    pub fn found(&mut self, there: &BTreeSet<String>, now: Instant) {
        let mut validations = std::mem::take(&mut self.validations);
        validations.look(&self.questions(), there, now);
        self.validations = validations;
    }

    /// What to look for now, if anything.
    pub(super) fn paths_to_look_for(&self, now: Instant) -> Option<BTreeSet<String>> {
        let questions = self.questions();
        let is_due = self.validations.due(&questions, now).is_some_and(|due| due <= now);
        is_due.then(|| validation::paths(&questions))
    }

    /// When to look next.
    pub(super) fn validation_due(&self, now: Instant) -> Option<Instant> {
        self.validations.due(&self.questions(), now)
    }

    fn questions(&self) -> Vec<Question<'_>> {
        let (Some(object), Some(report)) = (&self.object, &self.report) else { return Vec::new() };
        let told = object.status.as_ref().map(|status| status.modules.as_slice()).unwrap_or_default();
        validation::questions(&object.spec, report, told)
    }
}
