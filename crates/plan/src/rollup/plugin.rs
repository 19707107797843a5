//! How a Module's plugin stands: on how many nodes it runs, and why not on the others.

use tenon_api::module::RolloutNumbers;
use tenon_api::reasons;

use super::{Observed, Why, nodes, number};
use crate::node::{self, Selection};
use crate::workload::{Problem, Role};

/// Nodes that should have the plugin and those that have it.
struct Counted {
    /// Whatever their version labels say.
    matching: usize,
    wanted: usize,
    running: usize,
    /// Of the wanted ones.
    available: usize,
}

fn count(observed: &Observed<'_>, role: Role) -> Counted {
    let (namespace, name) = super::names(observed.module);
    let label = role
        .ready_label()
        .key(namespace.map(String::as_str).unwrap_or_default(), name.map(String::as_str).unwrap_or_default());
    let mut counted = Counted { matching: 0, wanted: 0, running: 0, available: 0 };
    for view in &observed.nodes {
        let is_wanted = node::select(observed.module, view.facts) == Selection::Selected;
        let runs = view.facts.labels.contains_key(&label);
        counted.matching += usize::from(node::is_targeted(observed.module, view.facts));
        counted.wanted += usize::from(is_wanted);
        counted.running += usize::from(runs);
        counted.available += usize::from(is_wanted && runs);
    }
    counted
}

/// KMM's numbers; `None` where the Module does not ask for this.
pub(super) fn numbers(observed: &Observed<'_>, role: Role) -> Option<RolloutNumbers> {
    let counted = (Role::of(observed.module) == Some(role)).then(|| count(observed, role))?;
    Some(RolloutNumbers {
        nodes_matching_selector_number: number(counted.matching),
        desired_number: number(counted.matching),
        available_number: number(counted.running),
    })
}

/// Whether the plugin runs wherever it should, and why not.
pub(super) fn standing(observed: &Observed<'_>) -> Option<(bool, Why)> {
    if let Some(why) = trouble(observed).or_else(|| held(observed)) {
        return Some((false, why));
    }
    let role = Role::of(observed.module)?;
    let Counted { matching, wanted, available, .. } = count(observed, role);
    let called = role.called();
    let why = |reason: &str, message| (reason.to_owned(), message);
    Some(match wanted {
        0 => (false, super::nobody(observed.module, matching)),
        all if available >= all => {
            (true, why(reasons::PLUGIN_RUNNING, format!("the {called} is ready on {}", nodes(all))))
        }
        all => {
            let message = format!("the {called} is ready on {available} of {}", nodes(all));
            (false, why(reasons::PLUGIN_STARTING, message))
        }
    })
}

/// What keeps it from running anywhere.
pub(super) fn trouble(observed: &Observed<'_>) -> Option<Why> {
    Role::of(observed.module)?;
    let problem = observed.plugin_problem.filter(|problem| !is_claims(problem))?;
    Some((problem.reason.to_owned(), problem.message.clone()))
}

/// For whom a former DRA driver stays, whatever is wished now. It is nothing that anybody has to mend.
pub(super) fn held(observed: &Observed<'_>) -> Option<Why> {
    let problem = observed.plugin_problem.filter(|problem| is_claims(problem))?;
    Some((problem.reason.to_owned(), problem.message.clone()))
}

fn is_claims(problem: &Problem) -> bool {
    problem.reason == reasons::WAITING_FOR_CLAIMS
}
