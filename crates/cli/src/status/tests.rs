use serde_json::json;
use tenon_api::module::{KernelPhase, KernelStatus, RolloutNumbers, RolloutStatus};
use tenon_api::module_image::ImagePhase;
use tenon_api::reasons;

use super::*;
use crate::standing::fixture::{
    IMAGE, KERNEL, config, entry, failed, image, loaded, module, node, ready_image, said, seen,
};

const MANNER: Manner = Manner { namespaces: true, wide: false, look: Look::PLAIN };

fn page(seen: &Seen, scope: &Scope, manner: Manner) -> String {
    answer_of(seen, scope).unwrap().parts(manner).concat()
}

fn all() -> Scope {
    Scope::Modules { namespace: None, selector: None }
}

/// A Module with two nodes of one kernel.
fn counted(phase: KernelPhase, loaded: i32, conditions: &[(&str, &str, &str)]) -> tenon_api::Module {
    let mut module = module("");
    said(&mut module, conditions);
    let status = module.status.as_mut().unwrap();
    status.module_loader = Some(RolloutNumbers {
        nodes_matching_selector_number: 2,
        desired_number: 2,
        available_number: loaded,
    });
    status.rollout = Some(RolloutStatus {
        updated_number: loaded,
        unavailable_number: 0,
        waiting_number: 0,
        allowed_number: 1,
    });
    status.kernels = vec![KernelStatus {
        kernel: KERNEL.to_owned(),
        architecture: "amd64".to_owned(),
        image: Some(IMAGE.to_owned()),
        phase,
        nodes: 2,
        loaded,
        ..KernelStatus::default()
    }];
    module
}

#[test]
fn modules_are_rows_and_what_is_in_the_way_stands_below() {
    let well = counted(KernelPhase::Ready, 2, &[("Ready", "True", "Loaded")]);
    let mut bad = counted(
        KernelPhase::Waiting,
        0,
        &[("Ready", "False", "BuildFailed"), ("Waiting", "True", "BuildFailed")],
    );
    bad.metadata.name = Some("mouse".to_owned());
    let mut failed = image(ImagePhase::Waiting, reasons::BUILD_FAILED, "");
    failed.spec.module = "mouse".to_owned();
    let mut seen = seen(well, vec![ready_image(), failed], vec![], vec![]);
    seen.modules.push(bad);
    assert_eq!(
        page(&seen, &all(), MANNER),
        "NAMESPACE   MODULE   STATE     LOADED   KERNEL           IMAGE         NODES
lab         gauge    Ready     2/2      6.1.0-56-amd64   Ready         2/2
lab         mouse    Trouble   0/2      6.1.0-56-amd64   BuildFailed   0/2
  BuildFailed: it says BuildFailed
"
    );
    let wide = page(&seen, &all(), Manner { wide: true, namespaces: false, ..MANNER });
    assert!(wide.lines().nth(1).unwrap().ends_with(IMAGE), "{wide}");
}

#[test]
fn a_module_without_kernels_is_a_row_all_the_same() {
    let mut module = module("");
    said(&mut module, &[("Ready", "False", "NoNodes")]);
    let page = page(&seen(module, vec![], vec![], vec![]), &all(), MANNER);
    assert!(page.contains("lab         gauge    Trouble   0/0\n  NoNodes: it says NoNodes\n"), "{page}");
}

#[test]
fn nothing_is_said_to_be_nothing() {
    let page = page(&Seen::default(), &all(), MANNER);
    assert_eq!(page, "There is no Module here; -A shows those of all namespaces.\n");
}

#[test]
fn the_nodes_of_a_module_are_rows_with_their_own_words() {
    let module = counted(
        KernelPhase::Ready,
        1,
        &[("Ready", "False", "UnknownSymbol"), ("Degraded", "True", "UnknownSymbol")],
    );
    let words = failed("Failed", "UnknownSymbol", "simple: Unknown\u{1b} symbol foo");
    let seen = seen(
        module,
        vec![ready_image()],
        vec![node("elm"), node("oak")],
        vec![config("elm", Some(entry()), Some(loaded(entry()))), config("oak", Some(entry()), Some(words))],
    );
    let scope = Scope::Module("lab/gauge".parse().unwrap());
    let page = page(&seen, &scope, MANNER);
    let (_, nodes) = page.split_once("\n\n").unwrap();
    assert_eq!(
        nodes,
        "NODE   KERNEL           DRIVER                   STATE     REASON
elm    6.1.0-56-amd64   gauge:1-6.1.0-56-amd64   Ready     Loaded
oak    6.1.0-56-amd64   gauge:1-6.1.0-56-amd64   Trouble   UnknownSymbol
  simple: Unknown� symbol foo
"
    );
    let json: serde_json::Value =
        serde_json::from_str(&answer_of(&seen, &scope).unwrap().formatted(Format::Json).unwrap()).unwrap();
    assert_eq!(json["module"]["kernels"][0]["phase"], "Ready");
    assert_eq!(
        json["nodes"][0],
        json!({
            "node": "elm", "kernel": KERNEL, "image": IMAGE, "state": "Ready", "reason": "Loaded",
        })
    );
    let yaml = answer_of(&seen, &scope).unwrap().formatted(Format::Yaml).unwrap();
    assert!(yaml.contains("reason: UnknownSymbol"), "{yaml}");
}
