//! How far the pod of a Job is, for people: what keeps it from running, and which of its containers have begun.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};

/// What is known of a pod's containers, in the order in which they run.
pub fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let before = status.and_then(|status| status.init_container_statuses.as_ref()).into_iter().flatten();
    before.chain(status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten())
}

/// Whether a container has begun, so that it has a log.
pub fn has_begun(pod: &Pod, container: &str) -> bool {
    let known = containers(pod).find(|status| status.name == container);
    let state = known.and_then(|status| status.state.as_ref());
    state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
}

/// Whether nothing more will come of a pod.
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether no node takes a pod, as the scheduler says.
pub fn is_unplaced(pod: &Pod) -> bool {
    unscheduled(pod).is_some()
}

fn unscheduled(pod: &Pod) -> Option<&PodCondition> {
    let mut conditions = pod.status.as_ref()?.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
}

/// What keeps a pod from running: its image, or that no node takes it. `None` where it works, or nothing is in its way.
pub fn hindrance(pod: &Pod) -> Option<String> {
    pod.status.as_ref().filter(|status| status.phase.as_deref() == Some("Pending"))?;
    let state = |container: &ContainerStatus| container.state.clone().unwrap_or_default();
    if containers(pod).any(|container| state(container).running.is_some()) {
        return None;
    }
    // A container that waits for those before it is not in the way.
    let mut waiting = containers(pod).filter_map(|container| state(container).waiting);
    let waiting = waiting.find(|waiting| waiting.reason.as_deref() != Some("PodInitializing"));
    if let Some(waiting) = waiting {
        let words = [waiting.reason, waiting.message];
        return Some(words.into_iter().flatten().collect::<Vec<_>>().join(": "));
    }
    unscheduled(pod)?.message.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "p" }, "status": status })).unwrap()
    }

    fn state(name: &str, state: &Value) -> Value {
        json!([{ "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state }])
    }

    #[rstest]
    #[case::new(json!({ "phase": "Pending" }), None)]
    #[case::no_node(
        json!({ "phase": "Pending", "conditions": [
            { "type": "PodScheduled", "status": "False", "message": "0/1 nodes are available" }] }),
        Some("0/1 nodes are available")
    )]
    #[case::no_image(
        json!({ "phase": "Pending",
            "initContainerStatuses": state("build", &json!({ "waiting": { "reason": "ErrImagePull", "message": "no such" } })),
            "containerStatuses": state("make", &json!({ "waiting": { "reason": "PodInitializing" } })) }),
        Some("ErrImagePull: no such")
    )]
    #[case::it_builds(
        json!({ "phase": "Pending",
            "initContainerStatuses": state("build", &json!({ "running": {} })),
            "containerStatuses": state("make", &json!({ "waiting": { "reason": "PodInitializing" } })) }),
        None
    )]
    #[case::ended(json!({ "phase": "Failed" }), None)]
    fn what_is_in_a_pods_way(#[case] status: Value, #[case] expected: Option<&str>) {
        assert_eq!(hindrance(&pod(&status)).as_deref(), expected);
    }

    #[test]
    fn what_has_begun_has_a_log() {
        let built = json!({ "phase": "Pending",
            "initContainerStatuses": state("build", &json!({ "terminated": { "exitCode": 0 } })),
            "containerStatuses": state("make", &json!({ "waiting": { "reason": "PodInitializing" } })) });
        let pod = pod(&built);
        assert!(has_begun(&pod, "build") && !has_begun(&pod, "make") && !has_ended(&pod));
    }
}
