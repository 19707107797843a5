//! How a Module stands, by its own conditions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use tenon_api::{Module, reasons};

use super::advice::OPERATOR_SILENT;
use super::{State, Why};

/// After so many seconds without a word the operator is asked after.
const PATIENCE: i64 = 60;

/// How a Module stands, as the operator says.
pub(crate) fn of_module(module: &Module, now: Timestamp) -> Why {
    let Some(status) = &module.status else { return unseen(module, now) };
    if status.conditions.is_empty() {
        return unseen(module, now);
    }
    let find = |type_: &str| status.conditions.iter().find(|condition| condition.type_ == type_);
    let holds = |type_: &str| find(type_).filter(|condition| condition.status == "True");
    if status.observed_generation < module.metadata.generation {
        let message = "the operator has not looked at the Module since it was changed";
        return Why {
            state: State::Underway,
            reason: reasons::RESOLVING.to_owned(),
            message: message.to_owned(),
        };
    }
    let said = |type_: &str| {
        let condition = holds(type_)?;
        Some(Why::of(&condition.reason, condition.message.clone()).in_state(State::Trouble))
    };
    // Also of one that is ready: what is there works, and something beside it wants a look.
    // A conflict is told by its condition, and where it hurts by the node that refuses the second of two.
    let troubles = [reasons::condition::DEGRADED, reasons::condition::ROLLOUT_PAUSED];
    if let Some(trouble) = troubles.into_iter().find_map(said) {
        return trouble;
    }
    if let Some(paused) = holds(reasons::condition::PAUSED) {
        return Why::of(&paused.reason, paused.message.clone());
    }
    let Some(ready) = find(reasons::condition::READY) else { return unseen(module, now) };
    let why = Why::of(&ready.reason, ready.message.clone());
    if ready.status == "True" { why.in_state(State::Ready) } else { why }
}

/// That the Module's plugin is not everywhere yet, and nothing but its pods is waited for.
pub(crate) fn plugin_starting(module: &Module) -> Option<&Condition> {
    let conditions = &module.status.as_ref()?.conditions;
    let plugin = conditions.iter().find(|condition| condition.type_ == reasons::condition::PLUGIN_READY)?;
    (plugin.status != "True" && plugin.reason == reasons::PLUGIN_STARTING).then_some(plugin)
}

/// No word yet: that is so for an instant, or nobody is there to say one.
fn unseen(module: &Module, now: Timestamp) -> Why {
    let created = module.metadata.creation_timestamp.as_ref();
    let age = created.map_or(0, |created| now.duration_since(created.0).as_secs());
    let (state, message) = if age > PATIENCE {
        (State::Trouble, "the operator has not looked at the Module: is it running?")
    } else {
        (State::Underway, "the operator has not looked at the Module yet")
    };
    Why { state, reason: OPERATOR_SILENT.to_owned(), message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standing::fixture::{module, said};
    use rstest::rstest;

    #[rstest]
    #[case::well(&[("Ready", "True", "Loaded"), ("Degraded", "False", "AsExpected")], State::Ready, "Loaded")]
    #[case::builds(&[("Ready", "False", "Building"), ("Waiting", "True", "Building")], State::Underway, "Building")]
    #[case::waits_for_somebody(
        &[("Ready", "False", "ImageAbsent"), ("Waiting", "True", "ImageAbsent")], State::Trouble, "ImageAbsent"
    )]
    #[case::fails(&[("Ready", "False", "LoadFailed"), ("Degraded", "True", "LoadFailed")], State::Trouble, "LoadFailed")]
    #[case::no_nodes(&[("Ready", "False", "NoNodes")], State::Trouble, "NoNodes")]
    #[case::not_renewed(&[("Ready", "True", "Loaded"), ("Degraded", "True", "BuildFailed")], State::Trouble, "BuildFailed")]
    #[case::in_turn(&[("Ready", "False", "WaitingForRollout")], State::Underway, "WaitingForRollout")]
    #[case::paused(
        &[("Ready", "False", "WaitingForRollout"), ("RolloutPaused", "True", "RolloutPaused")],
        State::Trouble, "RolloutPaused"
    )]
    #[case::told_to_stand_still(
        &[("Ready", "True", "Loaded"), ("Paused", "True", "Paused")], State::Underway, "Paused"
    )]
    #[case::in_anothers_way(
        &[("Ready", "True", "Loaded"), ("Conflict", "True", "KernelModuleConflict")], State::Ready, "Loaded"
    )]
    #[case::goes_and_cannot(
        &[("Ready", "False", "Unloading"), ("Degraded", "True", "InUse")], State::Trouble, "InUse"
    )]
    #[case::silent(&[], State::Underway, "OperatorSilent")]
    fn a_module_stands_as_its_conditions_say(
        #[case] conditions: &[(&str, &str, &str)],
        #[case] state: State,
        #[case] reason: &str,
    ) {
        let mut module = module("");
        said(&mut module, conditions);
        let why = of_module(&module, Timestamp::UNIX_EPOCH);
        assert_eq!((why.state, why.reason.as_str()), (state, reason));
    }

    #[test]
    fn what_was_said_before_a_change_says_nothing_of_it() {
        let mut module = module("");
        said(&mut module, &[("Ready", "True", "Loaded")]);
        module.metadata.generation = Some(9);
        assert_eq!(of_module(&module, Timestamp::UNIX_EPOCH).state, State::Underway);
    }

    #[test]
    fn an_operator_that_stays_silent_is_asked_after() {
        let mut module = module("");
        module.metadata.creation_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
        let later = Timestamp::from_second(PATIENCE + 1).unwrap();
        let why = of_module(&module, later);
        assert_eq!((why.state, why.reason.as_str()), (State::Trouble, OPERATOR_SILENT));
    }
}
