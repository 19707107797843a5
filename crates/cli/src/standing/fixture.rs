//! Small objects for tests: each has only what its test is about.

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tenon_api::module_image::{BundleStatus, ImagePhase, ModuleImage, ModuleImageStatus};
use tenon_api::node_modules_config::NodeModulesConfig;
use tenon_api::{Module, reasons};

use crate::seen::Seen;

pub(crate) const KERNEL: &str = "6.1.0-56-amd64";
pub(crate) const IMAGE: &str = "registry.test/gauge:1-6.1.0-56-amd64";
const BOOT: &str = "boot-1";

/// The Module `lab/gauge` on nodes of hall `a`; `more` are lines of its spec, in YAML.
pub(crate) fn module(more: &str) -> Module {
    serde_saphyr::from_str(&format!(
        "apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata: {{name: gauge, namespace: lab, uid: m-1, generation: 3}}
spec:
  selector: {{hall: a}}
  moduleLoader:
    container:
      modprobe: {{moduleName: gauge}}
      containerImage: 'registry.test/gauge:1-${{KERNEL_FULL_VERSION}}'
      kernelMappings: [{{regexp: '^6[.]'}}]
{more}
"
    ))
    .unwrap()
}

/// The Module's conditions: type, status, reason. Each message is its reason in a sentence.
pub(crate) fn said(module: &mut Module, conditions: &[(&str, &str, &str)]) {
    let condition = |(type_, status, reason): &(&str, &str, &str)| Condition {
        type_: (*type_).to_owned(),
        status: (*status).to_owned(),
        reason: (*reason).to_owned(),
        message: format!("it says {reason}"),
        observed_generation: module.metadata.generation,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    };
    let conditions = conditions.iter().map(condition).collect();
    let status = module.status.get_or_insert_default();
    status.observed_generation = module.metadata.generation;
    status.conditions = conditions;
}

/// A node of hall `a` that runs the kernel.
pub(crate) fn node(name: &str) -> Node {
    node_with(name, KERNEL, &json!({ "hall": "a" }))
}

pub(crate) fn node_with(name: &str, kernel: &str, labels: &Value) -> Node {
    serde_json::from_value(json!({
        "metadata": { "name": name, "uid": format!("u-{name}"), "labels": labels },
        "status": { "nodeInfo": {
            "architecture": "amd64", "bootID": BOOT, "kernelVersion": kernel, "operatingSystem": "linux",
            "containerRuntimeVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "",
            "osImage": "", "systemUUID": "",
        } },
    }))
    .unwrap()
}

fn digest(fill: char) -> String {
    format!("sha256:{}", fill.to_string().repeat(64))
}

/// The image, in this phase for this reason.
pub(crate) fn image(phase: ImagePhase, reason: &str, message: &str) -> ModuleImage {
    let mut image: ModuleImage = serde_json::from_value(json!({
        "apiVersion": "tenon.dev/v1alpha1", "kind": "ModuleImage",
        "metadata": { "name": "gauge-1", "namespace": "lab", "generation": 1 },
        "spec": { "module": "gauge", "kernel": KERNEL, "architecture": "amd64", "image": IMAGE, "dirName": "/opt" },
    }))
    .unwrap();
    image.status = Some(ModuleImageStatus {
        phase: Some(phase),
        reason: Some(reason.to_owned()),
        message: Some(message.into()),
        resolved_from: Some(1),
        ..ModuleImageStatus::default()
    });
    image
}

/// The image as nodes get it.
pub(crate) fn ready_image() -> ModuleImage {
    let mut image = image(ImagePhase::Ready, reasons::IMAGE_EXISTS, "");
    let status = image.status.as_mut().unwrap();
    status.image_digest = Some(digest('f'));
    status.bundle = Some(BundleStatus { digest: digest('a'), size: 9, files: 1 });
    image
}

/// A node's object: its agent has registered, and `more` is said of the Module, if anything.
pub(crate) fn config(name: &str, entry: Option<Value>, reported: Option<Value>) -> NodeModulesConfig {
    let named = |more: Option<Value>| -> Vec<Value> {
        more.into_iter()
            .map(|mut more| {
                more["namespace"] = json!("lab");
                more["name"] = json!("gauge");
                more
            })
            .collect()
    };
    serde_json::from_value(json!({
        "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "NodeModulesConfig",
        "metadata": { "name": name },
        "spec": { "modules": named(entry) },
        "status": {
            "modules": named(reported), "storeId": "00112233445566778899aabbccddeeff", "bootId": BOOT,
            "kernelVersion": KERNEL, "orderGeneration": 7,
        },
    }))
    .unwrap()
}

/// What a node is told when it is to load the ready image.
pub(crate) fn entry() -> Value {
    json!({ "config": settings(IMAGE), "bundle": digest('a') })
}

/// What a node was told of an image before.
pub(crate) fn old_entry() -> Value {
    json!({ "config": settings("registry.test/gauge:0"), "bundle": digest('0') })
}

fn settings(image: &str) -> Value {
    json!({
        "kernelVersion": KERNEL, "containerImage": image, "insecurePull": false,
        "modprobe": { "moduleName": "gauge" },
    })
}

/// A report of what was told, loaded in the present boot.
pub(crate) fn loaded(mut entry: Value) -> Value {
    entry["phase"] = json!("Loaded");
    entry["bootId"] = json!(BOOT);
    entry
}

/// A report of a phase, in the loader's words.
pub(crate) fn failed(phase: &str, reason: &str, message: &str) -> Value {
    json!({ "phase": phase, "reason": reason, "message": message, "bundle": digest('a') })
}

/// What was read, of this Module.
pub(crate) fn seen(
    module: Module,
    images: Vec<ModuleImage>,
    nodes: Vec<Node>,
    configs: Vec<NodeModulesConfig>,
) -> Seen {
    let name = |name: &Option<String>| name.clone().unwrap_or_default();
    Seen {
        modules: vec![module],
        images,
        nodes: nodes.into_iter().map(|node| (name(&node.metadata.name), node)).collect(),
        configs: configs.into_iter().map(|config| (name(&config.metadata.name), config)).collect(),
        node_pods: Some(Vec::new()),
        now: Timestamp::UNIX_EPOCH,
        ..Seen::default()
    }
}
