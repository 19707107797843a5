//! What was found, as a tree: each finding has its causes below it.

use serde::Serialize;

use crate::standing::advice::Subject;
use crate::standing::{State, Why};

/// One finding.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finding {
    /// What it is about.
    pub(crate) about: String,
    /// Whether it needs somebody.
    pub(crate) state: State,
    /// Whether it is only to be known, and nothing that is as wished or not.
    #[serde(skip)]
    pub(crate) note: bool,
    /// Why, in a word.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
    /// Why, in a sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) message: String,
    /// What else helps to understand it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) facts: Vec<String>,
    /// Somebody else's own words, line by line: a kernel's, a builder's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) words: Vec<String>,
    /// What is to be done, or waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<String>,
    /// What it comes from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) causes: Vec<Finding>,
}

impl Finding {
    /// A finding, and the step that its reason asks for.
    pub(crate) fn new(about: impl Into<String>, why: Why, subject: Subject<'_>) -> Self {
        let step = if why.state == State::Ready { None } else { subject.step(&why.reason) };
        Self {
            about: about.into(),
            state: why.state,
            reason: why.reason,
            message: why.message,
            step,
            ..Self::default()
        }
    }

    /// With what it comes from: it is no better than that.
    pub(crate) fn because(mut self, causes: Vec<Self>) -> Self {
        let worst = causes.iter().max_by_key(|cause| cause.state).filter(|cause| cause.state > self.state);
        if let Some(worst) = worst {
            self.state = worst.state;
            self.reason.clone_from(&worst.reason);
            self.step = None;
        }
        self.causes = causes;
        self
    }

    /// Without causes that are as they should be, if all are.
    pub(crate) fn in_one_line(mut self) -> Self {
        if self.state == State::Ready {
            self.causes.clear();
        }
        self
    }

    /// The steps that this and its causes ask for in this state, those of the causes first, each once. What a cause asks for makes
    /// good what comes of it.
    fn steps(&self, state: State, steps: &mut Vec<String>) {
        for cause in &self.causes {
            cause.steps(state, steps);
        }
        let is_last = !self.causes.iter().any(|cause| cause.asks(state));
        if let Some(step) =
            self.step.as_ref().filter(|step| is_last && self.state == state && !steps.contains(step))
        {
            steps.push(step.clone());
        }
    }

    fn asks(&self, state: State) -> bool {
        (self.state == state && self.step.is_some()) || self.causes.iter().any(|cause| cause.asks(state))
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    /// From the top down.
    pub(crate) finding: Finding,
    /// The next steps, the most telling first; what is waited for, where nobody has to do anything.
    pub(crate) next: Vec<String>,
    /// What could not be looked at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) left_out: Vec<String>,
}

/// The most steps that are named.
const MOST_STEPS: usize = 5;

impl Explanation {
    pub(crate) fn new(finding: Finding, left_out: Vec<String>) -> Self {
        let mut next = Vec::new();
        finding.steps(finding.state, &mut next);
        next.truncate(MOST_STEPS);
        Self { finding, next, left_out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(state: State, step: &str, causes: Vec<Finding>) -> Finding {
        let step = Some(step.to_owned()).filter(|step| !step.is_empty());
        Finding { state, step, ..Finding::default() }.because(causes)
    }

    #[test]
    fn what_comes_of_something_is_no_better_than_that() {
        let all = finding(
            State::Ready,
            "",
            vec![
                finding(State::Underway, "wait", vec![]),
                finding(State::Ready, "", vec![finding(State::Trouble, "mend", vec![])]),
            ],
        );
        assert_eq!(all.state, State::Trouble);
        assert_eq!(Explanation::new(all, vec![]).next, ["mend"]);
    }

    #[test]
    fn the_causes_steps_stand_for_those_above_and_each_is_named_once() {
        let leaf = || finding(State::Trouble, "mend the driver", vec![]);
        let all = finding(
            State::Trouble,
            "look",
            vec![
                finding(State::Trouble, "look at the kernel", vec![leaf(), leaf()]),
                finding(State::Trouble, "look at the registry", vec![]),
            ],
        );
        assert_eq!(Explanation::new(all, vec![]).next, ["mend the driver", "look at the registry"]);
    }

    #[test]
    fn who_only_waits_is_told_for_what() {
        let all = finding(State::Underway, "", vec![finding(State::Underway, "the nodes load it", vec![])]);
        assert_eq!(Explanation::new(all, vec![]).next, ["the nodes load it"]);
        assert!(Explanation::new(finding(State::Ready, "", vec![]), vec![]).next.is_empty());
    }
}
