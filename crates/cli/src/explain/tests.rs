use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use rstest::rstest;
use serde_json::json;
use tenon_api::module::Predicted;
use tenon_api::module_image::{ImagePhase, KernelVerdict, Making, ModuleImage, VerdictReason};
use tenon_api::{Module, reasons};

use super::*;
use crate::standing::fixture::{
    KERNEL, config, entry, failed, image, loaded, node, node_with, old_entry, ready_image, said, seen as all,
};

fn module(conditions: &[(&str, &str, &str)]) -> Module {
    let mut module = crate::standing::fixture::module("");
    said(&mut module, conditions);
    module
}

fn told(seen: &Seen) -> (State, String) {
    let explanation = Explanation::new(module::explain(seen, &seen.modules[0]), seen.gaps.clone());
    (explanation.finding.state, print::text(&explanation, Look::PLAIN))
}

fn well() -> Seen {
    let nodes = ["elm", "oak"];
    all(
        module(&[("Ready", "True", "Loaded"), ("Degraded", "False", "AsExpected")]),
        vec![ready_image()],
        nodes.map(node).into(),
        nodes.map(|name| config(name, Some(entry()), Some(loaded(entry())))).into(),
    )
}

#[test]
fn what_is_well_is_said_in_a_line_each() {
    let (state, text) = told(&well());
    assert_eq!(state, State::Ready);
    assert_eq!(
        text,
        "✓ Module lab/gauge: it says Loaded
  ✓ kernel 6.1.0-56-amd64 (amd64): loaded on 2 of 2 nodes from registry.test/gauge:1-6.1.0-56-amd64

next: nothing, all is as wished
"
    );
}

/// One node that waits for its image, which is in this phase.
fn waiting(reason: &str, image: ModuleImage) -> Seen {
    let conditions = [("Ready", "False", reason), ("Waiting", "True", reason)];
    all(module(&conditions), vec![image], vec![node("oak")], vec![config("oak", None, None)])
}

#[test]
fn an_image_that_is_not_there_is_named_with_the_mapping_that_chose_it() {
    let absent = image(ImagePhase::Waiting, reasons::IMAGE_ABSENT, "the registry has no such image");
    let (state, text) = told(&waiting(reasons::IMAGE_ABSENT, absent));
    assert_eq!(state, State::Trouble);
    assert_eq!(
        text,
        "✗ Module lab/gauge: ImageAbsent
  loaded as wished on 0 of 1 node
  ✗ kernel 6.1.0-56-amd64 (amd64): ImageAbsent
    loaded on 0 of 1 node
    ✗ image registry.test/gauge:1-6.1.0-56-amd64: ImageAbsent
      the registry has no such image
      chosen by spec.moduleLoader.container.kernelMappings[0] (regexp ^6[.])

next: push the image, or correct containerImage; it is looked for again by itself
"
    );
}

/// A Job of this state, and its pod.
fn job(status: &serde_json::Value) -> (Job, Pod) {
    let job = json!({ "metadata": { "name": "gauge-build-0", "namespace": "lab" }, "status": {
        "conditions": [{ "type": "Failed", "status": "True" }] } });
    let pod = json!({ "metadata": { "name": "gauge-build-0-x", "labels": {
        "batch.kubernetes.io/job-name": "gauge-build-0" } }, "status": status });
    (serde_json::from_value(job).unwrap(), serde_json::from_value(pod).unwrap())
}

#[test]
fn a_build_that_failed_is_followed_down_to_the_compilers_words() {
    let mut failed = image(
        ImagePhase::Waiting,
        reasons::BUILD_FAILED,
        "Job gauge-build-0: the build failed, exit code 2; its last words: simple.c:7: expected ';'\nmake: *** [all] Error 2",
    );
    failed.status.as_mut().unwrap().making =
        Some(Making { job: "gauge-build-0".to_owned(), failures: 2, ..Making::default() });
    let mut seen = waiting(reasons::BUILD_FAILED, failed);
    let (job, pod) = job(&json!({ "phase": "Failed", "initContainerStatuses": [{
        "name": "build", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "terminated": { "exitCode": 2 } },
    }] }));
    (seen.jobs, seen.pods) = (vec![job], vec![pod]);
    let (state, text) = told(&seen);
    assert_eq!(state, State::Trouble);
    let expected = "      Job gauge-build-0: the build failed, exit code 2
      > simple.c:7: expected ';'
      > make: *** [all] Error 2
      chosen by spec.moduleLoader.container.kernelMappings[0] (regexp ^6[.])
      Job lab/gauge-build-0 has failed; it has failed 2 times
      pod gauge-build-0-x: container build ended with code 2

next: read the whole log (kubectl tenon logs gauge -n lab), correct what is built; kubectl tenon retry gauge -n lab has it built \
                    again at once
";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn a_build_whose_pod_cannot_run_says_what_the_kubelet_says() {
    let mut building = image(ImagePhase::Building, reasons::BUILDING, "Job lab/gauge-build-0 builds it");
    building.status.as_mut().unwrap().making =
        Some(Making { job: "gauge-build-0".to_owned(), ..Making::default() });
    let mut seen = waiting(reasons::BUILDING, building);
    let (mut job, pod) = job(&json!({ "phase": "Pending", "conditions": [
        { "type": "PodScheduled", "status": "False", "message": "0/1 nodes are available" }] }));
    job.status = None;
    (seen.jobs, seen.pods) = (vec![job], vec![pod]);
    let (state, text) = told(&seen);
    assert_eq!(state, State::Underway);
    assert!(text.contains("pod gauge-build-0-x cannot run: 0/1 nodes are available\n"), "{text}");
    assert!(
        text.contains("next: wait; follow the build: kubectl tenon logs gauge -n lab --follow\n"),
        "{text}"
    );
}

#[test]
fn a_kernel_without_a_mapping_is_named() {
    let mut seen = well();
    said(&mut seen.modules[0], &[("Ready", "False", "NoMapping"), ("Waiting", "True", "NoMapping")]);
    seen.nodes.insert("ash".to_owned(), node_with("ash", "5.10.0-9-amd64", &json!({ "hall": "a" })));
    seen.configs.insert("ash".to_owned(), config("ash", None, None));
    let (state, text) = told(&seen);
    assert_eq!(state, State::Trouble);
    assert!(text.contains("✗ kernel 5.10.0-9-amd64 (amd64): NoMapping\n"), "{text}");
    assert!(text.contains("✓ kernel 6.1.0-56-amd64 (amd64): loaded on 2 of 2 nodes"), "{text}");
    assert!(
        text.ends_with(
            "next: add a literal or a regexp for kernel 5.10.0-9-amd64 to \
        spec.moduleLoader.container.kernelMappings\n"
        ),
        "{text}"
    );
}

#[test]
fn a_selector_that_selects_nothing_is_compared_with_the_nodes() {
    let mut seen = all(module(&[("Ready", "False", "NoNodes")]), vec![], vec![], vec![]);
    seen.others = vec![node_with("oak", KERNEL, &json!({ "hall": "b" }))];
    let (state, text) = told(&seen);
    assert_eq!(state, State::Trouble);
    assert!(text.contains("no node has the label hall=a; oak has hall=b\n"), "{text}");
    assert!(text.contains("next: compare spec.selector with the nodes' labels"), "{text}");
}

fn refused() -> ModuleImage {
    let mut image = ready_image();
    let settings = {
        let module = module(&[]);
        let resolved = tenon_plan::resolve::resolve(&module, &KERNEL.parse().unwrap()).unwrap();
        let bundle = tenon_plan::provision::bundle(&image).unwrap().0.digest.clone();
        tenon_plan::inspect::Question::settings_of(&bundle, &resolved.load)
    };
    image.status.as_mut().unwrap().verdicts = vec![KernelVerdict {
        result: Predicted::Fails,
        errno: Some("ENOEXEC".to_owned()),
        reasons: vec![VerdictReason {
            reason: "SymbolVersion".to_owned(),
            message: "module_layout has another version".into(),
        }],
        source: "admin".to_owned(),
        question: format!("{settings}.facts"),
        ..KernelVerdict::default()
    }];
    image
}

#[test]
fn what_the_kernel_will_refuse_is_said_with_every_reason() {
    let conditions = [("Ready", "False", "WillNotLoad"), ("Degraded", "True", "WillNotLoad")];
    let seen = all(module(&conditions), vec![refused()], vec![node("oak")], vec![config("oak", None, None)]);
    let (state, text) = told(&seen);
    assert_eq!(state, State::Trouble);
    assert!(
        text.contains(
            "    ✗ inspection (by admin): WillNotLoad
      the kernel will refuse it with ENOEXEC
      SymbolVersion: module_layout has another version
    ✗ node oak: WillNotLoad
"
        ),
        "{text}"
    );
    assert!(text.contains("next: build the driver for this kernel"), "{text}");
}

#[rstest]
#[case::refused(
    "Failed",
    "UnknownSymbol",
    "next: load what exports the symbol first, or build for kernel 6.1.0-56-amd64"
)]
#[case::back("RolledBack", "RolledBack", "kubectl tenon retry gauge -n lab")]
#[case::crashed("CrashSuspected", "CrashSuspected", "kubectl tenon retry gauge -n lab --node oak")]
#[case::without_device("Unvalidated", "ValidationFailed", "next: look at the kernel's log of oak")]
#[case::used("InUse", "InUse", "next: stop what uses the module on oak")]
#[case::left("Orphaned", "NotOrdered", "unload the driver by hand on oak")]
#[case::newer("FluxLost", "FluxLost", "next: read the message above")]
fn a_node_that_fails_has_the_last_word(#[case] phase: &str, #[case] reason: &str, #[case] next: &str) {
    let mut seen = well();
    said(&mut seen.modules[0], &[("Ready", "False", reason), ("Degraded", "True", reason)]);
    let words = "insmod: simple: Unknown symbol\nsecond line \u{1b}[2J";
    seen.configs.insert("oak".to_owned(), config("oak", Some(entry()), Some(failed(phase, reason, words))));
    let (state, text) = told(&seen);
    assert_eq!(state, State::Trouble);
    let quoted = format!(
        "    ✗ node oak: {reason}\n      > insmod: simple: Unknown symbol\n      > second line �[2J\n    ✓ node elm: Loaded\n"
    );
    assert!(text.contains(&quoted), "{text}");
    assert!(text.contains(next), "{text}");
}

/// A node that was told what must be there after the load, and says this.
fn validated(reported: serde_json::Value) -> String {
    let mut wish = entry();
    wish["validation"] = json!({ "paths": ["/dev/gauge0"] });
    let mut seen = well();
    said(&mut seen.modules[0], &[("Ready", "False", "Loading")]);
    seen.configs.insert("oak".to_owned(), config("oak", Some(wish), Some(reported)));
    told(&seen).1
}

#[test]
fn a_device_that_is_waited_for_is_named() {
    let words = "the driver is loaded, and /dev/gauge0 is not there yet";
    let text = validated(failed("Unvalidated", "Validating", words));
    assert!(text.contains("node oak: Validating") && text.contains(words), "{text}");
    let text = validated(loaded(entry()));
    assert!(text.contains("node oak: Validating") && text.contains("does not look"), "{text}");
    let mut gone = loaded(entry());
    gone["validated"] = json!(["/dev/gauge0"]);
    assert!(!validated(gone.clone()).contains("Validating"));
    gone["reason"] = json!("PathVanished");
    gone["message"] = json!("/dev/gauge0 is not there any more");
    let text = validated(gone);
    assert!(text.contains("PathVanished") && text.contains("/dev/gauge0 is not there any more"), "{text}");
}

#[test]
fn nodes_that_wait_for_their_turn_are_told_apart_from_the_one_that_changes() {
    let mut seen = well();
    said(&mut seen.modules[0], &[("Ready", "False", "WaitingForRollout")]);
    for name in ["ash", "fir"] {
        seen.nodes.insert(name.to_owned(), node(name));
        seen.configs.insert(name.to_owned(), config(name, Some(old_entry()), Some(loaded(old_entry()))));
    }
    seen.configs.insert("elm".to_owned(), config("elm", Some(entry()), Some(loaded(old_entry()))));
    let (state, text) = told(&seen);
    assert_eq!(state, State::Underway);
    assert!(
        text.contains(
            "… 2 nodes: ash, fir: WaitingForRollout\n      its turn comes later; it keeps what it has\n"
        ),
        "{text}"
    );
    assert!(text.contains("… node elm: NotApplied\n"), "{text}");
    assert!(text.contains("next: wait; "), "{text}");

    said(
        &mut seen.modules[0],
        &[("Ready", "False", "WaitingForRollout"), ("RolloutPaused", "True", "RolloutPaused")],
    );
    let (state, text) = told(&seen);
    assert_eq!(state, State::Trouble);
    assert!(text.contains("✗ 2 nodes: ash, fir: RolloutPaused\n"), "{text}");
    assert!(text.contains("next: correct the image or the parameters; or"), "{text}");
}

#[test]
fn a_node_without_an_agent_is_asked_after_at_its_pod() {
    let mut seen = waiting(reasons::WAITING_FOR_NODE, ready_image());
    seen.configs.get_mut("oak").unwrap().status = None;
    assert!(told(&seen).1.contains("no pod of DaemonSet tenon-node is on the node"), "{}", told(&seen).1);
    let pod = |phase: &str| {
        let pod = json!({ "metadata": { "name": "tenon-node-x" }, "spec": { "nodeName": "oak", "containers": [] },
            "status": { "phase": phase } });
        Some(vec![serde_json::from_value(pod).unwrap()])
    };
    seen.node_pods = pod("Failed");
    assert!(told(&seen).1.contains("its agent has not registered: its pod is Failed"), "{}", told(&seen).1);
    assert!(told(&seen).1.contains("next: look at the node's pod"), "{}", told(&seen).1);
    seen.node_pods = pod("Running");
    said(&mut seen.modules[0], &[("Ready", "False", "Loading")]);
    let (state, text) = told(&seen);
    assert_eq!(state, State::Underway, "{text}");
}

#[test]
fn what_could_not_be_read_is_said_and_the_rest_told() {
    let mut seen = well();
    seen.gaps = vec!["Jobs are left out: you may not list them in lab".to_owned()];
    let (state, text) = told(&seen);
    assert_eq!(state, State::Ready);
    assert!(text.contains("\nnote: Jobs are left out"), "{text}");
}

#[test]
fn a_node_is_told_of_with_each_of_its_modules() {
    let mut seen = well();
    let text = |seen: &Seen| {
        let finding = node::explain(seen, &seen.nodes["oak"]);
        print::text(&Explanation::new(finding, vec![]), Look::PLAIN)
    };
    assert_eq!(
        text(&seen),
        "✓ Node oak: 1 Module
  kernel 6.1.0-56-amd64 (amd64), boot boot-1
  ✓ agent and loader: registered; nothing is ordered
  ✓ Module lab/gauge: Loaded
    loaded from registry.test/gauge:1-6.1.0-56-amd64

next: nothing, all is as wished
"
    );
    let words = failed("Failed", "VersionMagic", "it says 5.10");
    seen.configs.insert("oak".to_owned(), config("oak", Some(entry()), Some(words)));
    let told = text(&seen);
    assert!(told.starts_with("✗ Node oak: VersionMagic\n"), "{told}");
    assert!(told.contains("✗ Module lab/gauge: VersionMagic\n    > it says 5.10\n"), "{told}");
    assert!(told.contains("next: build the driver for kernel 6.1.0-56-amd64"), "{told}");

    seen.modules.clear();
    assert!(
        text(&seen).contains("Module lab/gauge (not among those that were read): VersionMagic"),
        "{}",
        text(&seen)
    );
}

#[test]
fn programs_are_told_the_same() {
    let absent = image(ImagePhase::Waiting, reasons::IMAGE_ABSENT, "no such image");
    let seen = waiting(reasons::IMAGE_ABSENT, absent);
    let explanation = Explanation::new(module::explain(&seen, &seen.modules[0]), vec![]);
    let json: serde_json::Value =
        serde_json::from_str(&answer::written(&explanation, Format::Json).unwrap()).unwrap();
    assert_eq!(json["finding"]["state"], "Trouble");
    assert_eq!(json["finding"]["reason"], "ImageAbsent");
    assert_eq!(json["finding"]["causes"][0]["causes"][0]["message"], "no such image");
    assert_eq!(json["next"].as_array().unwrap().len(), 1);
}

#[rstest]
#[case("gauge", Some(What::Module("gauge".to_owned())))]
#[case("module/gauge", Some(What::Module("gauge".to_owned())))]
#[case("node/oak", Some(What::Node("oak".parse().unwrap())))]
#[case("pod/oak", None)]
#[case("node/", None)]
#[case("module/", None)]
fn what_is_to_be_explained_is_named_as_kubectl_names_it(#[case] text: &str, #[case] expected: Option<What>) {
    assert_eq!(text.parse::<What>().ok(), expected);
}

/// A pod of the plugin on a node, whose only container waits for this reason.
fn plugin_pod(node: &str, waits: &str) -> Pod {
    let pod = json!({
        "metadata": { "name": format!("gauge-device-plugin-{node}"), "namespace": "lab", "labels": {
            "kmm.node.kubernetes.io/module.name": "gauge", "kmm.node.kubernetes.io/role": "device-plugin" } },
        "spec": { "nodeName": node, "containers": [] },
        "status": { "phase": "Pending", "containerStatuses": [{
            "name": "device-plugin", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": waits, "message": "as the kubelet says" } } }] },
    });
    serde_json::from_value(pod).unwrap()
}

/// Drivers are loaded; the plugin has these pods.
fn plugged(pods: Vec<Pod>) -> Seen {
    let mut seen = well();
    seen.modules[0] =
        crate::standing::fixture::module("  devicePlugin: {container: {image: 'registry.test/p:typo'}}");
    said(
        &mut seen.modules[0],
        &[("Ready", "False", "PluginStarting"), ("PluginReady", "False", "PluginStarting")],
    );
    seen.plugin_pods = [("lab/gauge".parse().unwrap(), pods)].into();
    seen
}

#[test]
fn a_plugin_that_cannot_run_needs_somebody_and_the_kubelet_says_why() {
    let (state, text) =
        told(&plugged(vec![plugin_pod("oak", "ImagePullBackOff"), plugin_pod("elm", "ErrImagePull")]));
    assert_eq!(state, State::Trouble);
    assert_eq!(
        text,
        "✗ Module lab/gauge: PluginStarting
  loaded as wished on 2 of 2 nodes
  ✗ device plugin: PluginStarting
    it says PluginStarting
    ✗ node elm: PluginStarting
      > ErrImagePull: as the kubelet says
      pod gauge-device-plugin-elm, container device-plugin
    ✗ node oak: PluginStarting
      > ImagePullBackOff: as the kubelet says
      pod gauge-device-plugin-oak, container device-plugin
  ✓ kernel 6.1.0-56-amd64 (amd64): loaded on 2 of 2 nodes from registry.test/gauge:1-6.1.0-56-amd64

next: correct the image in spec.devicePlugin.container.image, or push it; spec.imageRepoSecret is for a private registry
"
    );
}

#[test]
fn of_many_pods_a_few_are_told_of_those_that_need_somebody_first() {
    let coming = ["a", "b", "c", "d", "e"].map(|node| plugin_pod(node, "ContainerCreating"));
    let (state, text) = told(&plugged(coming.to_vec()));
    assert_eq!(state, State::Underway);
    assert!(text.contains("next: wait; kubectl -n lab get pods -o wide -l"), "{text}");
    assert!(!text.contains("more: "), "{text}");

    let mut pods = coming.to_vec();
    pods.extend([plugin_pod("oak", "CrashLoopBackOff"), plugin_pod("yew", "CrashLoopBackOff")]);
    let (state, text) = told(&plugged(pods));
    assert_eq!(state, State::Trouble);
    let places: Vec<_> = ["node oak", "node yew", "node a:", "node c:"].map(|part| text.find(part)).into();
    assert!(places.is_sorted() && places[0].is_some(), "{text}");
    assert!(!text.contains("node d:"), "{text}");
    let more = "and 2 more: kubectl get pods -n lab -o wide -l kmm.node.kubernetes.io/module.name=gauge\n";
    assert!(text.contains(more), "{text}");
    assert!(
        text.ends_with(
            "next: read why it ends, and correct spec.devicePlugin.container: kubectl logs -n lab gauge-device-plugin-oak -c \
             device-plugin\n"
        ),
        "{text}"
    );
}

#[test]
fn a_plugin_without_pods_is_looked_for_at_its_daemon_set_and_what_may_not_be_read_is_no_error() {
    let (state, text) = told(&plugged(vec![]));
    assert_eq!(state, State::Underway);
    assert!(text.contains("it has no pod yet\n"), "{text}");
    assert!(
        text.contains(
            "next: wait; if none comes, see what its DaemonSet says: kubectl describe daemonset -n lab"
        ),
        "{text}"
    );

    let mut seen = plugged(vec![]);
    seen.plugin_pods.clear();
    seen.gaps = vec!["Pods are left out: you may not list them in lab".to_owned()];
    let (state, text) = told(&seen);
    assert_eq!(state, State::Underway);
    assert!(text.starts_with("… Module lab/gauge: PluginStarting\n  it says PluginStarting\n"), "{text}");
    assert!(text.contains("\nnote: Pods are left out"), "{text}");
}

#[test]
fn a_node_tells_of_the_plugins_pod_that_it_has() {
    let seen = plugged(vec![plugin_pod("oak", "ImagePullBackOff")]);
    let of = |name: &str| {
        let explanation = Explanation::new(node::explain(&seen, &seen.nodes[name]), vec![]);
        (explanation.finding.state, print::text(&explanation, Look::PLAIN))
    };
    let (state, text) = of("oak");
    assert_eq!(state, State::Trouble);
    assert!(
        text.contains(
            "    ✗ device plugin: PluginStarting\n      ✗ node oak: PluginStarting\n        > ImagePull"
        ),
        "{text}"
    );
    assert_eq!(of("elm").0, State::Ready);
}

/// A node of the hall with these taints.
fn tainted(name: &str, taints: &[(&str, &str, &str)]) -> k8s_openapi::api::core::v1::Node {
    let taints: Vec<_> = taints
        .iter()
        .map(|(key, value, effect)| json!({ "key": key, "value": value, "effect": effect }))
        .collect();
    let mut node = node(name);
    node.spec = serde_json::from_value(json!({ "taints": taints })).unwrap();
    node
}

fn told_of_node(seen: &Seen, name: &str) -> (State, String) {
    let explanation = Explanation::new(node::explain(seen, &seen.nodes[name]), vec![]);
    (explanation.finding.state, print::text(&explanation, Look::PLAIN))
}

#[test]
fn a_node_that_a_taint_keeps_a_module_from_says_so() {
    let mut seen = well();
    seen.nodes
        .insert("fir".to_owned(), tainted("fir", &[("gpu", "yes", "NoSchedule"), ("old", "", "NoExecute")]));
    seen.configs.insert("fir".to_owned(), config("fir", None, None));
    assert!(concerns(&seen, &seen.modules[0], "fir"));
    let (state, text) = told_of_node(&seen, "fir");
    assert_eq!(state, State::Ready);
    assert_eq!(
        text,
        "✓ Node fir: it has no Module; 1 kept away
  kernel 6.1.0-56-amd64 (amd64), boot boot-1
  ✓ agent and loader: registered; nothing is ordered
  – Module lab/gauge: selector matches; taints gpu=yes:NoSchedule, old:NoExecute are not tolerated (spec.tolerations)

next: nothing, if it is meant so; if not, tolerate it in spec.tolerations of Module lab/gauge, or take it away: kubectl taint node \
         fir gpu:NoSchedule-
"
    );
    // What the node has is told of as ever.
    seen.configs.insert("fir".to_owned(), config("fir", Some(entry()), Some(loaded(entry()))));
    let (_, text) = told_of_node(&seen, "fir");
    assert!(
        text.starts_with("✓ Node fir: 1 Module\n") && text.contains("it stays, and nothing new comes"),
        "{text}"
    );

    seen.configs.insert("fir".to_owned(), config("fir", None, None));
    seen.modules[0].metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(seen.now));
    let (_, text) = told_of_node(&seen, "fir");
    assert!(text.contains("no Module selects it, and it has none"), "{text}");
}

#[rstest]
#[case::cordoned("node.kubernetes.io/unschedulable", "kubectl uncordon fir")]
#[case::silent("node.kubernetes.io/unreachable", "kubectl describe node fir")]
fn what_kubernetes_taints_is_mended_otherwise(#[case] key: &str, #[case] step: &str) {
    let mut seen = well();
    seen.nodes.insert("fir".to_owned(), tainted("fir", &[(key, "", "NoSchedule")]));
    seen.configs.insert("fir".to_owned(), config("fir", None, None));
    let (_, text) = told_of_node(&seen, "fir");
    assert!(
        text.contains(&format!("taint {key}:NoSchedule is not tolerated")) && text.contains(step),
        "{text}"
    );
}

#[test]
fn a_label_that_a_discovery_tool_has_not_set_is_named() {
    let mut seen = well();
    let label = "feature.node.kubernetes.io/pci-10de.present";
    seen.modules[0].spec.selector.insert(label.to_owned(), "true".to_owned());
    seen.configs.insert("oak".to_owned(), config("oak", None, None));
    assert!(concerns(&seen, &seen.modules[0], "oak"));
    let (state, text) = told_of_node(&seen, "oak");
    assert_eq!(state, State::Ready);
    let note =
        format!("– Module lab/gauge: selector matches but for {label}=true, which a discovery tool sets");
    assert!(text.contains(&note) && text.contains("kubectl get node oak --show-labels"), "{text}");
}

#[test]
fn nodes_that_taints_keep_a_module_from_are_listed_and_hurt_nobody() {
    let mut seen = well();
    for name in ["fir", "ash"] {
        seen.nodes.insert(name.to_owned(), tainted(name, &[("gpu", "", "NoSchedule")]));
    }
    seen.nodes.insert("yew".to_owned(), tainted("yew", &[("old", "", "NoExecute")]));
    seen.nodes.insert("box".to_owned(), tainted("box", &[("soft", "", "PreferNoSchedule")]));
    seen.configs.insert("box".to_owned(), config("box", Some(entry()), Some(loaded(entry()))));
    let (state, text) = told(&seen);
    assert_eq!(state, State::Ready);
    assert_eq!(
        text,
        "✓ Module lab/gauge: it says Loaded
  ✓ kernel 6.1.0-56-amd64 (amd64): loaded on 3 of 3 nodes from registry.test/gauge:1-6.1.0-56-amd64
  – 2 nodes: ash, fir: selector matches; taint gpu:NoSchedule is not tolerated (spec.tolerations)
  – node yew: selector matches; taint old:NoExecute is not tolerated (spec.tolerations)

next: nothing, all is as wished
"
    );
}

#[test]
fn where_taints_keep_a_module_from_all_nodes_they_are_the_trouble() {
    let nodes =
        vec![tainted("ash", &[("gpu", "", "NoSchedule")]), tainted("fir", &[("gpu", "", "NoSchedule")])];
    let seen = all(module(&[("Ready", "False", "NoNodes")]), vec![], nodes, vec![]);
    let (state, text) = told(&seen);
    assert_eq!(state, State::Trouble);
    assert!(
        text.contains("    2 nodes: ash, fir: selector matches; taint gpu:NoSchedule is not tolerated (spec.tolerations)\n"),
        "{text}"
    );
    assert!(!text.contains('–'), "{text}");
}

/// The node of that name, with these start-up taints.
fn starts(seen: &mut Seen, name: &str, taints: &[&str]) {
    let taints: Vec<_> = taints.iter().map(|key| (*key, "", "NoSchedule")).collect();
    seen.nodes.insert(name.to_owned(), tainted(name, &taints));
}

#[test]
fn a_startup_taint_says_which_modules_it_waits_for() {
    let mut seen =
        waiting(reasons::IMAGE_ABSENT, image(ImagePhase::Waiting, reasons::IMAGE_ABSENT, "no such image"));
    starts(&mut seen, "oak", &["tenon.dev/drivers-not-ready"]);
    let (state, text) = told_of_node(&seen, "oak");
    assert_eq!(state, State::Trouble);
    let taint = "  … taint tenon.dev/drivers-not-ready:NoSchedule: pods that do not tolerate it stay away until the node's drivers are ready
    waits for Module lab/gauge: ImageAbsent\n";
    assert!(text.contains(taint), "{text}");
    assert!(text.starts_with("✗ Node oak: ImageAbsent\n"), "{text}");

    seen.images = vec![ready_image()];
    seen.modules[0].metadata.annotations = Some([("tenon.dev/paused".to_owned(), "true".to_owned())].into());
    let (state, text) = told_of_node(&seen, "oak");
    assert_eq!(state, State::Underway);
    assert!(text.contains("waits for Module lab/gauge: Paused\n"), "{text}");
    assert!(text.contains("kubectl tenon resume gauge -n lab"), "{text}");

    seen.modules[0].metadata.annotations = None;
    let labels = json!({ "hall": "a", "tenon.dev/hold": "" });
    seen.nodes.get_mut("oak").unwrap().metadata.labels = serde_json::from_value(labels).unwrap();
    let (_, text) = told_of_node(&seen, "oak");
    assert!(text.contains("waits for Module lab/gauge: NodeOnHold\n"), "{text}");
}

#[test]
fn a_startup_taint_waits_for_the_node_itself_first_and_at_last_for_the_operator() {
    let mut seen = well();
    starts(&mut seen, "oak", &["tenon.dev/drivers-not-ready", "node.kubernetes.io/not-ready"]);
    let (state, text) = told_of_node(&seen, "oak");
    assert_eq!(state, State::Underway);
    assert!(text.contains("waits for the taint node.kubernetes.io/not-ready:NoSchedule to go\n"), "{text}");
    assert!(!text.contains("waits for Module"), "{text}");

    starts(&mut seen, "oak", &["tenon.dev/drivers-not-ready"]);
    assert!(told_of_node(&seen, "oak").1.contains("waits for Module lab/gauge: its label comes next\n"));
    let labels = json!({ "hall": "a", "kmm.node.kubernetes.io/lab.gauge.ready": "" });
    seen.nodes.get_mut("oak").unwrap().metadata.labels = serde_json::from_value(labels).unwrap();
    let (state, text) = told_of_node(&seen, "oak");
    assert_eq!(state, State::Underway);
    assert!(
        text.contains("next: wait; the operator takes it away; if it stays, look at the operator"),
        "{text}"
    );
    seen.gaps = vec!["Modules are left out: you may not list them".to_owned()];
    assert!(told_of_node(&seen, "oak").1.contains("next: wait; it may wait for what could not be read\n"));

    seen.nodes.insert("oak".to_owned(), node("oak"));
    let (state, text) = told_of_node(&seen, "oak");
    assert!(state == State::Ready && !text.contains("taint"), "{text}");
}
