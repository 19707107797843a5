//! §1.5: PreflightValidation, as programs of either version read and write it; and its rule of §1.8.

use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use tenon_lab::ControlPlane;
use tenon_test_api::setup::plane_with_definitions;

const EXAMPLE: &str = include_str!("../../../../examples/preflight.yaml");

fn api(plane: &ControlPlane, version: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("kmm.sigs.x-k8s.io", version, "PreflightValidation");
    Api::all_with(plane.client(), &ApiResource::from_gvk(&kind))
}

fn manifest(version: &str, name: &str, spec: &Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": format!("kmm.sigs.x-k8s.io/{version}"), "kind": "PreflightValidation",
        "metadata": { "name": name }, "spec": spec,
    }))
    .expect("an object")
}

#[tokio::test]
async fn both_versions_are_served_and_nothing_is_lost_between_them() {
    let plane = plane_with_definitions().await;
    serves_both(&plane).await;
    loses_nothing(&plane).await;
    wants_three_parts(&plane).await;
}

async fn serves_both(plane: &ControlPlane) {
    for version in ["v1beta1", "v1beta2"] {
        let group = format!("kmm.sigs.x-k8s.io/{version}");
        let served = plane.client().list_api_group_resources(&group).await.expect("the group").resources;
        let found = served.iter().find(|one| one.name == "preflightvalidations").expect("it is served");
        assert_eq!((found.kind.as_str(), found.namespaced), ("PreflightValidation", false));
        assert_eq!(found.short_names, Some(vec!["pfv".to_owned()]));
        assert!(served.iter().any(|one| one.name == "preflightvalidations/status"));
    }
}

/// Made by a program of one version, answered in the words of both, read by programs of either.
async fn loses_nothing(plane: &ControlPlane) {
    let spec = json!({ "kernelVersion": "5.14.0-570.el9.x86_64", "pushBuiltImage": true });
    let old = api(plane, "v1beta1");
    old.create(&PostParams::default(), &manifest("v1beta1", "next", &spec)).await.expect("an object");
    let time = "2026-01-01T00:00:00Z";
    let status = json!({
        "modules": [{
            "name": "gauge", "namespace": "hall", "verificationStatus": "Success", "verificationStage": "Done",
            "statusReason": "verified image exists", "lastTransitionTime": time, "predicted": "Loads",
        }],
        "crStatuses": { "hall/gauge": {
            "verificationStatus": "True", "verificationStage": "Done", "statusReason": "verified image exists",
            "lastTransitionTime": time,
        }},
    });
    let new = api(plane, "v1beta2");
    let patch = Patch::Apply(json!({
        "apiVersion": "kmm.sigs.x-k8s.io/v1beta2", "kind": "PreflightValidation", "status": status,
    }));
    let params = PatchParams::apply("an-operator").force();
    new.patch_status("next", &params, &patch).await.expect("a status");
    for api in [&old, &new] {
        let read = api.get("next").await.expect("the object").data;
        assert_eq!(read["spec"], spec);
        assert_eq!(read["status"]["crStatuses"], status["crStatuses"]);
        assert_eq!(read["status"]["modules"], status["modules"]);
    }
    // What a program of the old version changes is changed for all.
    let patch = Patch::Merge(json!({ "spec": { "pushBuiltImage": false } }));
    old.patch("next", &PatchParams::default(), &patch).await.expect("a change");
    let read = new.get("next").await.expect("the object").data;
    assert_eq!(
        (&read["spec"]["pushBuiltImage"], &read["status"]["modules"]),
        (&json!(false), &status["modules"])
    );
}

async fn wants_three_parts(plane: &ControlPlane) {
    plane.apply(EXAMPLE).await.expect("the example");
    let cases = [
        ("6.1.0-57-amd64", None),
        ("5.14.0-570.el9.x86_64+debug", None),
        ("6.1-1", None),
        ("6,1,0", None),
        ("", Some("kernelVersion must be set")),
        ("6.1", Some("at least three parts")),
        ("6", Some("at least three parts")),
        ("6.1.0 generic", Some("no space")),
        ("6.1.0/generic", Some("no space")),
    ];
    for version in ["v1beta1", "v1beta2"] {
        for (kernel, refused) in cases {
            let object = manifest(version, "asked", &json!({ "kernelVersion": kernel }));
            let params = PostParams { dry_run: true, ..PostParams::default() };
            let answer = api(plane, version).create(&params, &object).await;
            match (answer, refused) {
                (Ok(_), None) => {}
                (Err(kube::Error::Api(status)), Some(words)) => {
                    let said = &status.message;
                    assert!(
                        said.contains("spec.kernelVersion") && said.contains(words),
                        "{kernel:?}: {said}"
                    );
                }
                (answer, _) => panic!("{version} {kernel:?}: {answer:?}"),
            }
        }
    }
}
