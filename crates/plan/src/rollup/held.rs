//! Nodes that are kept as they are by what was predicted of their kernels, and nodes that are warned of.

use tenon_api::Module;
use tenon_api::module::Predicted;
use tenon_api::reasons;

use super::offer::Offer;
use super::{NodeView, Why};
use crate::inspect::{self, Judgement};
use crate::provision;

/// What the predictions mean for the nodes of a Module.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Nodes that are not touched.
    blocked: Nodes,
    /// Nodes that wait for something that comes by itself.
    waiting: Nodes,
    /// Nodes where it is tried all the same.
    warned: Nodes,
}

/// Nodes with the same fate: how many, and what is to be said of one of them.
#[derive(Debug, Default)]
struct Nodes {
    count: usize,
    example: Option<(String, Why)>,
}

impl Nodes {
    fn add(&mut self, node: &str, why: Why) {
        self.count += 1;
        // The same whatever the order of the nodes.
        if self.example.as_ref().is_none_or(|(known, _)| node < known.as_str()) {
            self.example = Some((node.to_owned(), why));
        }
    }

    fn told(&self) -> Option<Why> {
        let (node, (reason, message)) = self.example.as_ref()?;
        let others = match self.count - 1 {
            0 => String::new(),
            others => format!(" (and {others} more)"),
        };
        Some((reason.clone(), format!("{node}{others}: {message}")))
    }
}

impl Held {
    /// Takes one node into account that should have the module and has not.
    pub(super) fn count(&mut self, module: &Module, view: &NodeView<'_>, offer: Option<&Offer<'_>>) {
        let facts = view.facts;
        let Some(Offer { resolved: Ok(resolved), image: Some(image) }) = offer else { return };
        if inspect::summary(image).0 == Predicted::Unknown {
            return;
        }
        let kernel = |message: String| format!("kernel {}: {message}", facts.kernel);
        let will_not = |verdict| {
            let why = (reasons::WILL_NOT_LOAD.to_owned(), kernel(inspect::sentence(verdict)));
            (facts.name.as_ref(), why)
        };
        let mut wait = |reason: &str, message: String| {
            self.waiting.add(facts.name.as_ref(), (reason.to_owned(), kernel(message)));
        };
        match inspect::judge(module, resolved, image, facts, view.config) {
            Judgement::Go => {}
            Judgement::Warned(verdict) => {
                let (node, why) = will_not(verdict);
                self.warned.add(node, why);
            }
            Judgement::Blocked(verdict) => {
                let (node, why) = will_not(verdict);
                self.blocked.add(node, why);
            }
            // Whose turn it is, is for the assignment to say; a node that was told is not waiting.
            Judgement::AfterFirst(verdict) => {
                let bundle = provision::bundle(image).map(|(bundle, _)| &bundle.digest);
                let assigned = view.entry(module).and_then(|entry| entry.bundle.as_ref());
                if assigned != bundle {
                    let says = format!("{} says that {}", verdict.source, inspect::sentence(verdict));
                    wait(reasons::WAITING_FOR_FIRST_NODE, format!("{says}; one node tries it first"));
                }
            }
            Judgement::AwaitReport => {
                wait(reasons::WAITING_FOR_NODE, "its agent has not reported what it runs now".to_owned());
            }
            Judgement::AwaitVerdict => {
                wait(reasons::INSPECTING, "whether it will load is being computed anew".to_owned());
            }
        }
    }

    /// What does not mend itself.
    pub(super) fn blocked(&self) -> Option<Why> {
        self.blocked.told()
    }

    /// What resumes by itself.
    pub(super) fn waiting(&self) -> Option<Why> {
        self.waiting.told()
    }

    /// What a kernel is predicted to refuse, whether or not it is tried.
    pub(super) fn predicted(&self) -> Option<Why> {
        self.blocked.told().or_else(|| self.warned.told())
    }
}
