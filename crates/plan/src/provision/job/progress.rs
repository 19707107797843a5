//! How far the pod of a Job is, for people: what keeps it from running, which of its containers have begun, and what has ended it
//! before its time.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use tenon_api::ModuleImage;

use super::{deadline, disk};
use crate::node::NodeFacts;
use crate::rollout::is_silent;

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

/// The node of a pod that has not ended.
pub fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|_| !has_ended(pod))
}

/// That nobody says any more how far a pod is: its node has fallen silent, or its object is gone. Until one of them is told by
/// Kubernetes that the pod has ended, it may still be at work.
pub fn bereavement(node: &str, facts: Option<&NodeFacts>) -> Option<String> {
    match facts {
        None => Some(format!(
            "its pod was on node {node}, whose object is gone: the cluster is about to clear it away"
        )),
        Some(facts) if is_silent(facts) => Some(format!(
            "its pod is on node {node}, which has fallen silent: it goes on, or is made anew, when the node is back; \
             delete the Node if it does not come back"
        )),
        Some(_) => None,
    }
}

/// Why Kubernetes has ended a pod before its time: it took too long, wrote too much, or was in the way.
pub fn cut_short(image: &ModuleImage, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let (reason, message) = (status.reason.as_deref()?, status.message.as_deref().unwrap_or_default().trim());
    let is_built = image.spec.build.is_some();
    // The kubelet's words, which are no part of any API: of a volume, of a container, and of a whole pod.
    let wrote_too_much = reason == "Evicted"
        && message.contains("exceed")
        && ["EmptyDir", "ephemeral"].iter().any(|what| message.contains(what));
    Some(if reason == "DeadlineExceeded" {
        let seconds = deadline(image);
        let way_out = if is_built { ": raise build.activeDeadlineSeconds if it needs more" } else { "" };
        format!("it took longer than the {seconds} s that it may take{way_out}")
    } else if wrote_too_much {
        let way_out =
            if is_built { ": raise build.resources.limits.ephemeral-storage if it needs more" } else { "" };
        format!("its volume is full, it wrote more than the {} that it may write{way_out}", disk(image).0)
    } else {
        format!("{reason}: {message}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Taint;
    use rstest::rstest;
    use serde_json::{Value, json};
    use tenon_api::module::Build;

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

    #[rstest]
    #[case::too_long(
        json!({ "reason": "DeadlineExceeded", "message": "Pod was active on the node longer than the specified deadline" }),
        "it took longer than the 600 s that it may take: raise build.activeDeadlineSeconds if it needs more"
    )]
    #[case::too_much(
        json!({ "reason": "Evicted", "message": "Usage of EmptyDir volume \"work\" exceeds the limit \"16Gi\". " }),
        "its volume is full, it wrote more than the 16Gi that it may write: raise build.resources.limits.ephemeral-storage \
         if it needs more"
    )]
    #[case::too_much_in_all(
        json!({ "reason": "Evicted", "message": "Pod ephemeral local storage usage exceeds the total limit of containers 16Gi. " }),
        "its volume is full, it wrote more than the 16Gi that it may write: raise build.resources.limits.ephemeral-storage \
         if it needs more"
    )]
    #[case::the_node_is_short_of_it(
        json!({ "reason": "Evicted", "message": "The node was low on resource: ephemeral-storage. " }),
        "Evicted: The node was low on resource: ephemeral-storage."
    )]
    fn what_ends_a_pod_before_its_time(#[case] status: Value, #[case] expected: &str) {
        let mut image = crate::fixture::ready_image("registry.test/gauge:1", 'a');
        let build = Build { active_deadline_seconds: Some(600), ..Build::default() };
        image.spec.build = Some(build);
        assert_eq!(cut_short(&image, &pod(&status)).as_deref(), Some(expected));
        assert_eq!(cut_short(&image, &pod(&json!({ "phase": "Failed" }))), None);
    }

    #[test]
    fn what_is_only_signed_has_nothing_to_raise() {
        let image = crate::fixture::ready_image("registry.test/gauge:1", 'a');
        let told = cut_short(&image, &pod(&json!({ "reason": "DeadlineExceeded" })));
        assert_eq!(told.as_deref(), Some("it took longer than the 3600 s that it may take"));
    }

    #[test]
    fn a_pod_whose_node_is_silent_or_gone_is_waited_for() {
        let (silent, well) = (crate::fixture::node("pine"), crate::fixture::node("pine"));
        let taint = Taint { key: "node.kubernetes.io/unreachable".to_owned(), ..Taint::default() };
        let silent = NodeFacts { taints: vec![taint], ..silent };
        assert!(bereavement("pine", Some(&silent)).unwrap().contains("node pine, which has fallen silent"));
        assert!(bereavement("pine", None).unwrap().contains("node pine, whose object is gone"));
        assert_eq!(bereavement("pine", Some(&well)), None);
        let placed = |phase: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": { "name": "p" }, "spec": { "nodeName": "pine", "containers": [] }, "status": { "phase": phase },
            }))
            .unwrap()
        };
        assert_eq!(node_of(&placed("Pending")), Some("pine"));
        assert_eq!(node_of(&placed("Failed")), None, "it has ended, wherever it was");
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
