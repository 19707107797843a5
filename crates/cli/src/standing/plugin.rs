//! How the pods of a Module's plugin stand, by what their kubelets and the scheduler say of them. Who is ready, or on its way out, is
//! nothing to tell of.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodCondition};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use tenon_order::ModuleKey;
use tenon_plan::provision::job::progress;
use tenon_plan::workload::Role;

use super::State;

/// For so many seconds a pod may be not ready without anybody having said why: images of drivers are large.
const PATIENCE: i64 = 600;

/// Why a kubelet cannot have a container's image (`pkg/kubelet/images/types.go`).
const IMAGE: [&str; 6] = [
    "ImagePullBackOff",
    "ErrImagePull",
    "ErrImageNeverPull",
    "ImageInspectError",
    "InvalidImageName",
    "SignatureValidationFailed",
];
/// What a container waits for that is only coming up.
const COMING_UP: [&str; 2] = ["PodInitializing", "ContainerCreating"];
/// Why a container is said to have ended that nobody has seen end: its node was booted, say.
const NOBODY_KNOWS: [&str; 2] = ["Unknown", "ContainerStatusUnknown"];

/// A Module's plugin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plugin<'m> {
    pub(crate) module: &'m ModuleKey,
    pub(crate) role: Role,
}

/// How a pod stands that is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodStanding {
    pub(crate) state: State,
    /// Which way out there is, in a word: pods for which it is the same need not be told apart.
    pub(crate) kind: Kind,
    /// The kubelet's own words, or the scheduler's.
    pub(crate) words: Vec<String>,
    /// What else there is to know.
    pub(crate) fact: String,
    /// What is to be done; nothing where it needs nobody.
    pub(crate) step: Option<String>,
}

/// What keeps a pod from being ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Its image is not to be had.
    Image,
    /// A program in it ends.
    Ends,
    /// The kubelet refuses it for another reason.
    Refused,
    /// No node takes it.
    Unplaced,
    /// It is coming up, or has been for too long.
    Starting,
}

/// How a pod stands; `None` of one that is ready, or leaves.
pub(crate) fn standing(plugin: Plugin<'_>, pod: &Pod, now: Timestamp) -> Option<PodStanding> {
    if pod.metadata.deletion_timestamp.is_some() || readiness(pod).is_some_and(|ready| ready.status == "True")
    {
        return None;
    }
    Some(unplaced(plugin, pod).or_else(|| ended(plugin, pod)).unwrap_or_else(|| {
        let hindered = progress::containers(pod).find_map(|container| of_container(plugin, pod, container));
        hindered.unwrap_or_else(|| starting(plugin, pod, now))
    }))
}

/// The node of a pod: where it is, or, before any node has taken it, where its `DaemonSet` wants it.
pub(crate) fn node(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    let wanted = || {
        let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
        let terms =
            &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
        let mut fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
        let name = fields.find(|field| field.key == "metadata.name")?;
        name.values.as_ref()?.first().map(String::as_str)
    };
    spec.node_name.as_deref().or_else(wanted)
}

fn readiness(pod: &Pod) -> Option<&PodCondition> {
    let mut conditions = pod.status.as_ref()?.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == "Ready")
}

fn unplaced(plugin: Plugin<'_>, pod: &Pod) -> Option<PodStanding> {
    if !progress::is_unplaced(pod) {
        return None;
    }
    let part = plugin.field(plugin.role.as_str());
    Some(PodStanding {
        state: State::Trouble,
        kind: Kind::Unplaced,
        words: lines(&progress::hindrance(pod).unwrap_or_default()),
        fact: format!("no node takes pod {}", pod.name_any()),
        step: Some(format!(
            "have the node take the pod: room for what {part}.resources asks for, spec.tolerations for the node's taints"
        )),
    })
}

/// A pod that Kubernetes has ended as a whole; its `DaemonSet` makes another.
fn ended(plugin: Plugin<'_>, pod: &Pod) -> Option<PodStanding> {
    let status = pod.status.as_ref().filter(|_| progress::has_ended(pod))?;
    Some(PodStanding {
        state: State::Trouble,
        kind: Kind::Refused,
        words: said(status.reason.as_ref(), status.message.as_ref()),
        fact: format!("pod {} has ended", pod.name_any()),
        step: Some(plugin.describe(pod)),
    })
}

/// What keeps a container from being ready, where somebody says so.
fn of_container(plugin: Plugin<'_>, pod: &Pod, container: &ContainerStatus) -> Option<PodStanding> {
    if container.ready {
        return None;
    }
    let state = container.state.clone().unwrap_or_default();
    let waiting = state
        .waiting
        .filter(|waiting| waiting.reason.as_deref().is_some_and(|reason| !COMING_UP.contains(&reason)));
    let last = last_end(container).filter(|last| last.exit_code != 0 || state.terminated.is_some());
    let reason = waiting.as_ref().and_then(|waiting| waiting.reason.as_deref());
    let kind = match reason {
        Some(reason) if IMAGE.contains(&reason) => Kind::Image,
        Some("CrashLoopBackOff") => Kind::Ends,
        Some(_) => Kind::Refused,
        None if last.is_some() => Kind::Ends,
        None => return None,
    };
    let mut words = waiting
        .as_ref()
        .map(|waiting| said(waiting.reason.as_ref(), waiting.message.as_ref()))
        .unwrap_or_default();
    words.extend(last.iter().flat_map(|last| lines(last.message.as_deref().unwrap_or_default())));
    Some(PodStanding {
        state: State::Trouble,
        kind,
        words,
        fact: history(pod, container),
        step: Some(plugin.way_out(kind, pod, container)),
    })
}

/// A container's last end, as far as somebody has seen it.
fn last_end(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let mut states = [container.state.as_ref(), container.last_state.as_ref()].into_iter().flatten();
    let last = states.find_map(|state| state.terminated.as_ref())?;
    let is_known = last.reason.as_deref().is_none_or(|reason| !NOBODY_KNOWS.contains(&reason));
    is_known.then_some(last)
}

/// Which container it is, how often it was started again, and how it ended.
fn history(pod: &Pod, container: &ContainerStatus) -> String {
    let again = match container.restart_count {
        ..=0 => String::new(),
        1 => ", started again once".to_owned(),
        times => format!(", started again {times} times"),
    };
    let end = last_end(container).map(|last| {
        let why = last.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        format!("; it ended with code {}{why}", last.exit_code)
    });
    format!("pod {}, container {}{again}{}", pod.name_any(), container.name, end.unwrap_or_default())
}

/// A pod of which nobody says what is in its way.
fn starting(plugin: Plugin<'_>, pod: &Pod, now: Timestamp) -> PodStanding {
    let ready = readiness(pod);
    let since = ready.and_then(|ready| ready.last_transition_time.as_ref());
    let since = since.or(pod.metadata.creation_timestamp.as_ref());
    let seconds = since.map_or(0, |since| now.duration_since(since.0).as_secs());
    let is_late = seconds > PATIENCE;
    let mut waiting =
        progress::containers(pod).filter_map(|container| container.state.as_ref()?.waiting.as_ref());
    let words = match waiting.next() {
        Some(waiting) => said(waiting.reason.as_ref(), waiting.message.as_ref()),
        None => said(
            ready.and_then(|ready| ready.reason.as_ref()),
            ready.and_then(|ready| ready.message.as_ref()),
        ),
    };
    let late = if is_late { format!(" for {} min", seconds / 60) } else { String::new() };
    PodStanding {
        state: if is_late { State::Trouble } else { State::Underway },
        kind: Kind::Starting,
        words,
        fact: format!("pod {} is not ready{late}", pod.name_any()),
        step: is_late.then(|| plugin.describe(pod)),
    }
}

impl Plugin<'_> {
    /// Where the Module says how a container is.
    fn field(self, container: &str) -> String {
        let part = match self.role {
            Role::DevicePlugin => "spec.devicePlugin",
            Role::Dra => "spec.dra",
        };
        match container.strip_prefix(self.role.as_str()) {
            Some("") => format!("{part}.container"),
            Some("-init") => format!("{part}.initContainer"),
            _ => part.to_owned(),
        }
    }

    fn describe(self, pod: &Pod) -> String {
        format!(
            "see what it waits for: kubectl describe pod -n {} {}",
            self.module.namespace(),
            pod.name_any()
        )
    }

    fn way_out(self, kind: Kind, pod: &Pod, container: &ContainerStatus) -> String {
        let field = self.field(&container.name);
        let has_former = container.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
        match kind {
            Kind::Image => {
                format!(
                    "correct the image in {field}.image, or push it; spec.imageRepoSecret is for a private registry"
                )
            }
            Kind::Ends => format!(
                "read why it ends, and correct {field}: kubectl logs -n {} {} -c {}{}",
                self.module.namespace(),
                pod.name_any(),
                container.name,
                if has_former { " --previous" } else { "" }
            ),
            Kind::Refused | Kind::Unplaced | Kind::Starting => {
                format!("correct in {field} what the kubelet says above")
            }
        }
    }
}

/// A reason and a message, line by line.
fn said(reason: Option<&String>, message: Option<&String>) -> Vec<String> {
    let text: Vec<_> = [reason, message].into_iter().flatten().map(String::as_str).collect();
    lines(&text.join(": "))
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim_end).filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    const HOUR: i64 = 3600;

    /// A pod that came at the beginning of time.
    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "p", "creationTimestamp": "1970-01-01T00:00:00Z" }, "status": status,
        }))
        .unwrap()
    }

    fn container(name: &str, restarts: i32, state: &Value, last: &Value) -> Value {
        json!({ "name": name, "image": "", "imageID": "", "ready": false, "restartCount": restarts,
            "state": state, "lastState": last })
    }

    fn running(container: &Value) -> Value {
        json!({ "phase": "Running", "containerStatuses": [container],
            "conditions": [{ "type": "Ready", "status": "False", "reason": "ContainersNotReady",
                "message": "containers with unready status: [device-plugin]" }] })
    }

    fn of(role: Role, status: &Value, seconds: i64) -> Option<PodStanding> {
        let module = "lab/gauge".parse().unwrap();
        standing(Plugin { module: &module, role }, &pod(status), Timestamp::from_second(seconds).unwrap())
    }

    fn ended(code: i32, reason: &str) -> Value {
        json!({ "terminated": { "exitCode": code, "reason": reason, "message": "no device\n" } })
    }

    #[rstest]
    #[case::no_image(
        Role::DevicePlugin,
        &running(&container("device-plugin", 0,
            &json!({ "waiting": { "reason": "ImagePullBackOff", "message": "Back-off pulling image \"p:typo\"" } }), &json!({}))),
        Kind::Image,
        &["ImagePullBackOff: Back-off pulling image \"p:typo\""],
        "pod p, container device-plugin",
        "correct the image in spec.devicePlugin.container.image, or push it; spec.imageRepoSecret is for a private registry"
    )]
    #[case::no_image_to_begin_with(
        Role::Dra,
        &json!({ "phase": "Pending",
            "initContainerStatuses": [container("dra-init", 0, &json!({ "waiting": { "reason": "ErrImagePull" } }), &json!({}))],
            "containerStatuses": [container("dra", 0, &json!({ "waiting": { "reason": "PodInitializing" } }), &json!({}))] }),
        Kind::Image,
        &["ErrImagePull"],
        "pod p, container dra-init",
        "correct the image in spec.dra.initContainer.image, or push it; spec.imageRepoSecret is for a private registry"
    )]
    #[case::crash_loop(
        Role::Dra,
        &running(&container("dra", 7,
            &json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 5m0s" } }), &ended(2, "Error"))),
        Kind::Ends,
        &["CrashLoopBackOff: back-off 5m0s", "no device"],
        "pod p, container dra, started again 7 times; it ended with code 2 (Error)",
        "read why it ends, and correct spec.dra.container: kubectl logs -n lab p -c dra --previous"
    )]
    #[case::first_end(
        Role::DevicePlugin,
        &running(&container("device-plugin", 0, &ended(0, "Completed"), &json!({}))),
        Kind::Ends,
        &["no device"],
        "pod p, container device-plugin; it ended with code 0 (Completed)",
        "read why it ends, and correct spec.devicePlugin.container: kubectl logs -n lab p -c device-plugin"
    )]
    #[case::between_two_ends(
        Role::DevicePlugin,
        &running(&container("device-plugin", 1, &json!({ "running": {} }), &ended(137, "OOMKilled"))),
        Kind::Ends,
        &["no device"],
        "pod p, container device-plugin, started again once; it ended with code 137 (OOMKilled)",
        "read why it ends, and correct spec.devicePlugin.container: kubectl logs -n lab p -c device-plugin --previous"
    )]
    #[case::refused(
        Role::DevicePlugin,
        &running(&container("device-plugin", 0,
            &json!({ "waiting": { "reason": "CreateContainerConfigError", "message": "secret \"s\" not found" } }), &json!({}))),
        Kind::Refused,
        &["CreateContainerConfigError: secret \"s\" not found"],
        "pod p, container device-plugin",
        "correct in spec.devicePlugin.container what the kubelet says above"
    )]
    #[case::somebody_elses_container(
        Role::DevicePlugin,
        &running(&container("proxy", 0, &json!({ "waiting": { "reason": "CreateContainerError" } }), &json!({}))),
        Kind::Refused,
        &["CreateContainerError"],
        "pod p, container proxy",
        "correct in spec.devicePlugin what the kubelet says above"
    )]
    #[case::unplaced(
        Role::DevicePlugin,
        &json!({ "phase": "Pending", "conditions": [
            { "type": "PodScheduled", "status": "False", "message": "0/1 nodes are available: 1 Insufficient cpu." }] }),
        Kind::Unplaced,
        &["0/1 nodes are available: 1 Insufficient cpu."],
        "no node takes pod p",
        "have the node take the pod: room for what spec.devicePlugin.container.resources asks for, spec.tolerations for \
         the node's taints"
    )]
    #[case::evicted(
        Role::DevicePlugin,
        &json!({ "phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory. " }),
        Kind::Refused,
        &["Evicted: The node was low on resource: memory."],
        "pod p has ended",
        "see what it waits for: kubectl describe pod -n lab p"
    )]
    fn what_is_in_a_plugins_way_is_said_with_the_way_out(
        #[case] role: Role,
        #[case] status: &Value,
        #[case] kind: Kind,
        #[case] words: &[&str],
        #[case] fact: &str,
        #[case] step: &str,
    ) {
        let told = of(role, status, 1).unwrap();
        assert_eq!((told.state, told.kind), (State::Trouble, kind));
        assert_eq!(told.words, words);
        assert_eq!((told.fact.as_str(), told.step.as_deref()), (fact, Some(step)));
    }

    #[rstest]
    #[case::is_made(&container("device-plugin", 0, &json!({ "waiting": { "reason": "ContainerCreating" } }), &json!({})))]
    #[case::runs(&container("device-plugin", 0, &json!({ "running": {} }), &json!({})))]
    #[case::after_a_boot(&container("device-plugin", 3, &json!({ "running": {} }), &ended(255, "Unknown")))]
    fn what_is_only_coming_up_needs_nobody_until_it_takes_too_long(#[case] container: &Value) {
        let told = of(Role::DevicePlugin, &running(container), PATIENCE).unwrap();
        assert_eq!((told.state, told.kind, told.step), (State::Underway, Kind::Starting, None));
        assert!(!told.words.is_empty(), "{:?}", told.words);
        let told = of(Role::DevicePlugin, &running(container), HOUR).unwrap();
        assert_eq!((told.state, told.fact.as_str()), (State::Trouble, "pod p is not ready for 60 min"));
        assert_eq!(told.step.as_deref(), Some("see what it waits for: kubectl describe pod -n lab p"));
    }

    #[test]
    fn of_what_is_ready_or_leaves_nothing_is_told() {
        let ready = json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] });
        assert_eq!(of(Role::DevicePlugin, &ready, HOUR), None);
        let mut leaving = pod(&json!({ "phase": "Running" }));
        leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
        let plugin = Plugin { module: &"lab/gauge".parse().unwrap(), role: Role::DevicePlugin };
        assert_eq!(standing(plugin, &leaving, Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn a_pod_is_where_it_is_or_where_it_is_wanted() {
        let of = |spec: Value| -> Pod { serde_json::from_value(json!({ "spec": spec })).unwrap() };
        let wanted = json!({ "containers": [], "affinity": { "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [{ "matchFields": [
                { "key": "metadata.name", "operator": "In", "values": ["oak"] }] }] } } } });
        assert_eq!(node(&of(wanted)), Some("oak"));
        assert_eq!(node(&of(json!({ "containers": [], "nodeName": "elm" }))), Some("elm"));
        assert_eq!(node(&of(json!({ "containers": [] }))), None);
    }
}
