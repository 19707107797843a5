//! A user's wish that what failed is tried again: the annotation `tenon.dev/retry` on a Module.

use std::collections::BTreeSet;

use tenon_api::Module;
use tenon_api::labels::annotation;
use tenon_api::node_modules_config::{ModulePhase, NodeModule, NodeModuleStatus};
use tenon_order::NodeName;

/// A wish to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Higher with each wish.
    number: i64,
    /// The nodes that are meant; none means all.
    nodes: BTreeSet<NodeName>,
}

/// The annotation is not of its form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "read the annotation {}: expected a positive number and, after it, names of nodes",
    annotation::RETRY
)]
pub struct RetryError;

impl Retry {
    /// What the Module's annotation says, if it has one.
    pub fn of(module: &Module) -> Option<Result<Self, RetryError>> {
        let text = module.metadata.annotations.as_ref()?.get(annotation::RETRY)?;
        Some(Self::read(text))
    }

    fn read(text: &str) -> Result<Self, RetryError> {
        let mut words = text.split_whitespace();
        let number = words.next().and_then(|word| word.parse().ok()).filter(|number| *number > 0);
        let nodes: Result<_, _> = words.map(|word| word.parse().map_err(|_| RetryError)).collect();
        Ok(Self { number: number.ok_or(RetryError)?, nodes: nodes? })
    }

    /// The annotation's text.
    pub fn text(number: i64, nodes: &BTreeSet<NodeName>) -> String {
        let words = std::iter::once(number.to_string()).chain(nodes.iter().map(ToString::to_string));
        words.collect::<Vec<_>>().join(" ")
    }

    /// The number of a Module's wish, which is higher with each; what is made for the Module is tried again with each.
    pub fn number_of(module: &Module) -> Option<i64> {
        Self::of(module)?.ok().map(|retry| retry.number)
    }

    fn means(&self, node: &NodeName) -> bool {
        self.nodes.is_empty() || self.nodes.contains(node)
    }
}

/// The number that a node's entry carries: a new one where something failed and is meant, else the one it had.
///
/// An entry that is new has missed nothing: it begins with the present number, so that an old wish is not granted when it
/// fails one day.
pub(crate) fn number(
    retry: Option<&Retry>,
    node: &NodeName,
    present: Option<&NodeModule>,
    reported: Option<&NodeModuleStatus>,
) -> Option<i64> {
    let Some(present) = present else {
        return retry.filter(|retry| retry.means(node)).map(|retry| retry.number);
    };
    let is_new = |retry: &&Retry| present.retry.is_none_or(|known| retry.number > known);
    retry
        .filter(|retry| retry.means(node) && reported.is_some_and(has_failed))
        .filter(is_new)
        .map(|retry| retry.number)
        .or(present.retry)
}

/// Whether there is anything to try again.
pub fn has_failed(reported: &NodeModuleStatus) -> bool {
    matches!(
        reported.phase,
        Some(
            ModulePhase::Failed
                | ModulePhase::RolledBack
                | ModulePhase::CrashSuspected
                | ModulePhase::InUse
                | ModulePhase::Unknown
        )
    )
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::all("17", Some((17, "")))]
    #[case::some(" 17  oak pine ", Some((17, "oak pine")))]
    #[case::no_number("now", None)]
    #[case::nothing("", None)]
    #[case::negative("-3", None)]
    #[case::too_large("99999999999999999999", None)]
    #[case::no_node("17 O/K", None)]
    fn the_annotation_is_read_strictly(#[case] text: &str, #[case] expected: Option<(i64, &str)>) {
        let read = Retry::read(text).ok();
        let expected = expected.map(|(number, nodes)| Retry {
            number,
            nodes: nodes.split_whitespace().map(|name| name.parse().unwrap()).collect(),
        });
        assert_eq!(read, expected);
        if let Some(retry) = read {
            assert_eq!(Retry::read(&Retry::text(retry.number, &retry.nodes)), Ok(retry));
        }
    }
}
