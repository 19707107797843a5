//! What an administrator has told to stand still: a Module everywhere, or everything on a node.
//!
//! Nothing is loaded, changed or unloaded meanwhile, not even because a Module is deleted. What is loaded stays loaded, comes back
//! after a boot, and is reported as before.

use tenon_api::Module;
use tenon_api::labels::{HOLD, annotation};
use tenon_api::reasons;

use crate::node::NodeFacts;

/// Why a node is left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// The Module is paused.
    Module,
    /// The node is on hold.
    Node,
}

impl Pause {
    /// Whether the node is to be left as it is, as far as the Module goes.
    pub fn of(module: &Module, node: &NodeFacts) -> Option<Self> {
        if is_paused(module) {
            return Some(Self::Module);
        }
        is_on_hold(node).then_some(Self::Node)
    }

    /// In a word.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Module => reasons::PAUSED,
            Self::Node => reasons::NODE_ON_HOLD,
        }
    }

    /// In a sentence, with the way out.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Module => {
                "paused by its annotation tenon.dev/paused: nodes stay as they are until kubectl tenon resume"
            }
            Self::Node => {
                "on hold by the node's label tenon.dev/hold: it stays as it is until kubectl tenon resume --node"
            }
        }
    }
}

/// Whether the Module is paused.
pub fn is_paused(module: &Module) -> bool {
    let annotations = module.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(annotation::PAUSED)).is_some_and(|value| says_so(value))
}

/// Whether the node is on hold.
pub fn is_on_hold(node: &NodeFacts) -> bool {
    node.labels.get(HOLD).is_some_and(|value| says_so(value))
}

/// Being there says it, with whatever value people give as a reason; only `false` takes it back.
fn says_so(value: &str) -> bool {
    value != "false"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn whatever_the_value_says_but_false_is_a_pause() {
        for (value, pauses) in [("true", true), ("", true), ("maintenance", true), ("false", false)] {
            assert_eq!(says_so(value), pauses, "{value:?}");
        }
    }

    #[test]
    fn a_paused_module_stands_still_on_every_node_and_a_node_on_hold_for_every_module() {
        let (mut module, mut node) = (fixture::minimal_module(), fixture::node("pine"));
        assert_eq!(Pause::of(&module, &node), None);
        node.labels.insert(HOLD.to_owned(), "true".to_owned());
        assert_eq!(Pause::of(&module, &node), Some(Pause::Node));
        module
            .metadata
            .annotations
            .get_or_insert_default()
            .insert(annotation::PAUSED.to_owned(), String::new());
        assert_eq!(Pause::of(&module, &node), Some(Pause::Module));
    }
}
