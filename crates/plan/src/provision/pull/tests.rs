use k8s_openapi::api::core::v1::LocalObjectReference;
use rstest::rstest;
use serde_json::{Value, json};
use tenon_api::module::{Build, Sign};
use tenon_api::module_image::BundleStatus;

use super::*;
use crate::fixture::ready_image;

fn job(conditions: &Value) -> Job {
    serde_json::from_value(json!({
        "metadata": { "name": "tenon-pull-0", "namespace": "control", "uid": "j-1" },
        "status": { "conditions": conditions },
    }))
    .unwrap()
}

fn condition(type_: &str, message: &str) -> Value {
    json!([{ "type": type_, "status": "True", "message": message }])
}

fn container(name: &str, image_id: &str, state: &Value) -> Value {
    json!({ "name": name, "image": "", "imageID": image_id, "ready": false, "restartCount": 0, "state": state })
}

/// A pod whose program is in place, and whose second container is so.
fn pod(image_id: &str, state: &Value) -> Pod {
    let done = json!({ "terminated": { "exitCode": 0 } });
    serde_json::from_value(json!({
        "metadata": { "name": "tenon-pull-0-x", "uid": "p-1" },
        "spec": { "nodeName": "anvil", "containers": [] },
        "status": {
            "phase": "Pending",
            "initContainerStatuses": [container("install", "", &done)],
            "containerStatuses": [container("pull", image_id, state)],
        },
    }))
    .unwrap()
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({ "waiting": { "reason": reason, "message": message } })
}

fn failed(step: Step) -> Failure {
    let Step::Fail(failure) = step else { panic!("{step:?}") };
    failure
}

#[rstest]
#[case::denied(
    waiting("ErrImagePull", "401 Unauthorized"),
    "PullFailed",
    "ErrImagePull: 401 Unauthorized",
    false
)]
#[case::denied_again(
    waiting("ImagePullBackOff", "Back-off pulling"),
    "PullFailed",
    "Back-off pulling",
    false
)]
#[case::no_registry(waiting("RegistryUnavailable", "no route"), "PullFailed", "no route", false)]
#[case::policy(waiting("SignatureValidationFailed", "policy"), "PullFailed", "policy", false)]
#[case::name(waiting("InvalidImageName", "couldn't parse"), "ReferenceInvalid", "couldn't parse", true)]
#[case::no_config(
    waiting("CreateContainerConfigError", "configmap not found"),
    "PullPodFailed",
    "configmap",
    false
)]
#[case::cannot_start(
    waiting("CreateContainerError", "no such directory"),
    "PullPodFailed",
    "no such directory",
    false
)]
#[case::cannot_run(waiting("RunContainerError", "exec format error"), "PullPodFailed", "exec format", false)]
#[case::never_heard_of(waiting("Brooding", "it thinks"), "PullPodFailed", "Brooding: it thinks", false)]
#[case::did_not_start(
    json!({ "terminated": { "exitCode": 128, "reason": "StartError", "message": "exec format error" } }),
    "PullPodFailed", "StartError: exec format error", false
)]
#[case::memory(json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } }), "PullPodFailed", "OOMKilled", false)]
#[case::unreadable(
    json!({ "terminated": { "exitCode": 1, "message":
        r#"{"failed":{"trouble":"Unreadable","message":"/lib/modules/a.ko may not be read"}}"# } }),
    "FilesUnreadable", "/lib/modules/a.ko", true
)]
#[case::no_depot(
    json!({ "terminated": { "exitCode": 1, "message":
        r#"{"failed":{"trouble":"Failed","message":"connect to the depot"}}"# } }),
    "PullPodFailed", "connect to the depot", false
)]
fn whatever_keeps_the_pod_from_its_end_is_a_named_reason_with_the_kubelets_words(
    #[case] state: Value,
    #[case] reason: &str,
    #[case] words: &str,
    #[case] needs_change: bool,
) {
    let failure = failed(step(Some(&job(&json!([]))), &[pod("", &state)]));
    assert_eq!((failure.reason, failure.needs_change), (reason, needs_change), "{failure:?}");
    assert!(failure.message.contains(words), "{failure:?}");
}

#[rstest]
#[case::about_to_start(waiting("ContainerCreating", ""), "", None)]
#[case::our_program_comes(waiting("PodInitializing", ""), "", None)]
#[case::runs(json!({ "running": {} }), "registry.test/gauge@sha256:abc", Some("sha256:abc"))]
#[case::runs_from_an_image_of_the_nodes_own(json!({ "running": {} }), "sha256:abc", None)]
#[case::done(json!({ "terminated": { "exitCode": 0 } }), "registry.test/gauge@sha256:abc", Some("sha256:abc"))]
fn a_pod_on_its_way_is_followed(#[case] state: Value, #[case] image: &str, #[case] digest: Option<&str>) {
    let step = step(Some(&job(&json!([]))), &[pod(image, &state)]);
    let Step::Follow { pod: Some(puller), reason: "Pulling", message } = step else { panic!("{step:?}") };
    assert_eq!((puller.uid.as_str(), puller.digest.as_deref()), ("p-1", digest));
    assert!(message.contains("anvil") && message.contains("control/tenon-pull-0"), "{message}");
}

#[test]
fn a_pod_that_no_node_takes_says_so_in_the_schedulers_words() {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": "p", "uid": "p-1" },
        "status": { "phase": "Pending", "conditions": [
            { "type": "PodScheduled", "status": "False", "message": "0/3 nodes are available" }] },
    }))
    .unwrap();
    let step = step(Some(&job(&json!([]))), &[pod]);
    let Step::Follow { reason: "NoNodeToPull", message, .. } = step else { panic!("{step:?}") };
    assert!(message.contains("0/3 nodes are available"), "{message}");
}

#[test]
fn our_own_image_that_cannot_be_pulled_is_told_apart() {
    let mut pod = pod("", &waiting("PodInitializing", ""));
    let status = container("install", "", &waiting("ErrImagePull", "no such"));
    pod.status.as_mut().unwrap().init_container_statuses =
        Some(vec![serde_json::from_value(status).unwrap()]);
    let failure = failed(step(Some(&job(&json!([]))), &[pod]));
    assert_eq!(failure.reason, "PullPodFailed");
    assert!(failure.message.contains("--maker-image") && failure.message.contains("no such"), "{failure:?}");
}

#[test]
fn without_a_pod_the_job_says_how_it_goes_on() {
    assert_eq!(step(None, &[]), Step::Start);
    assert!(matches!(step(Some(&job(&json!([]))), &[]), Step::Follow { pod: None, reason: "Pulling", .. }));
    let late = step(Some(&job(&condition("Failed", "Job was active longer than specified deadline"))), &[]);
    assert!(failed(late).message.contains("longer than specified deadline"));
    assert_eq!(step(Some(&job(&condition("Complete", ""))), &[]), Step::Done { pod: None });
    let brought = pod("registry.test/gauge@sha256:abc", &json!({ "terminated": { "exitCode": 0 } }));
    let done = step(Some(&job(&condition("Complete", ""))), &[brought]);
    assert!(matches!(done, Step::Done { pod: Some(Puller { digest: Some(_), .. }) }), "{done:?}");
    let mut leaving = job(&json!([]));
    leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    assert_eq!(step(Some(&leaving), &[]), Step::Leaving);
    let evicted = serde_json::from_value(json!({
        "metadata": { "name": "p", "uid": "p-1" },
        "status": { "phase": "Failed", "reason": "Evicted", "message": "The node was low on memory" },
    }));
    let evicted = failed(step(Some(&job(&json!([]))), &[evicted.unwrap()]));
    assert!(evicted.message.contains("low on memory"), "{evicted:?}");
}

fn missing(reason: &'static str) -> Finding {
    Finding::Missing { reason, message: String::new(), needs_change: false, retry_after: None }
}

#[test]
fn a_node_helps_where_the_operator_has_nothing_to_ask_with_and_nobody_makes_the_image() {
    let image = ready_image("registry.test/gauge:1", 'a');
    for reason in [reasons::REGISTRY_DENIED, reasons::REGISTRY_UNREACHABLE] {
        assert!(may_help(&image, &missing(reason)), "{reason}");
    }
    assert!(!may_help(&image, &missing(reasons::IMAGE_ABSENT)), "it would be absent for a node, too");
    let bundle = BundleStatus::default();
    assert!(!may_help(&image, &Finding::Packed { image_digest: String::new(), bundle }));
    let mut throttled = missing(reasons::REGISTRY_UNREACHABLE);
    if let Finding::Missing { retry_after, .. } = &mut throttled {
        *retry_after = Some(std::time::Duration::from_secs(9));
    }
    assert!(!may_help(&image, &throttled));
    let denied = missing(reasons::REGISTRY_DENIED);
    let changes: [fn(&mut ModuleImage); 3] = [
        |image| image.spec.image_repo_secret = Some(LocalObjectReference::default()),
        |image| image.spec.build = Some(Build::default()),
        |image| image.spec.sign = Some(Sign::default()),
    ];
    for change in changes {
        let mut other = image.clone();
        change(&mut other);
        assert!(!may_help(&other, &denied));
    }
}
