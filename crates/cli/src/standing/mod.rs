//! How things stand, decided from what was read: a Module, its image for one kernel, one node. No request is made here.
//!
//! What should be is worked out by the same functions by which the operator works it out (`tenon-plan`), so that both say the
//! same; what is, stands in the objects.

pub(crate) mod advice;
#[cfg(test)]
pub(crate) mod fixture;
mod image;
mod module;
mod node;
pub(crate) mod plugin;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;
use tenon_api::reasons;

pub(crate) use image::Offer;
pub(crate) use module::{of_module, plugin_starting};
pub(crate) use node::{NodeStanding, nodes_of, unregistered};

/// Whether something needs somebody. Worse ones come later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum State {
    /// It is as wished.
    #[default]
    Ready,
    /// It is on its way, and needs nobody.
    Underway,
    /// It needs somebody.
    Trouble,
}

impl State {
    /// In a word.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Underway => "Underway",
            Self::Trouble => "Trouble",
        }
    }
}

/// How something stands, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Why {
    pub(crate) state: State,
    /// In a word; one of [`tenon_api::reasons`], or the loader's.
    pub(crate) reason: String,
    /// In a sentence.
    pub(crate) message: String,
}

impl Why {
    /// With the state that goes with the reason.
    pub(crate) fn of(reason: &str, message: impl Into<String>) -> Self {
        Self { state: advice::on(reason).state, reason: reason.to_owned(), message: message.into() }
    }

    pub(crate) fn in_state(self, state: State) -> Self {
        Self { state, ..self }
    }
}

/// Whether a node's condition says that nobody on it listens to orders.
pub(crate) fn is_mute(condition: &Condition) -> bool {
    let mute = [reasons::LOADER_UNREACHABLE, reasons::ORDER_REFUSED, reasons::GENERATION_AHEAD];
    condition.type_ == reasons::condition::READY && mute.contains(&condition.reason.as_str())
}

/// A number of nodes, for people.
pub(crate) fn counted(nodes: usize) -> String {
    if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") }
}
