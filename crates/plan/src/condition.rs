//! Conditions (`metav1.Condition`): written only when they say something else than before.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// `True` or `False`.
pub fn truth(holds: bool) -> String {
    if holds { "True" } else { "False" }.to_owned()
}

/// `new` in place of what `known` says; a condition whose status did not change keeps the time of its last change.
pub fn merge(known: &[Condition], new: Vec<Condition>) -> Vec<Condition> {
    new.into_iter()
        .map(|mut condition| {
            let same =
                known.iter().find(|old| old.type_ == condition.type_ && old.status == condition.status);
            if let Some(old) = same {
                condition.last_transition_time.clone_from(&old.last_transition_time);
            }
            condition
        })
        .collect()
}
