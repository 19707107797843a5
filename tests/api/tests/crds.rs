//! The definitions and admission policies in `deploy/`, against a real API server: what it takes, what it refuses and in
//! which words, what it adds, who may write what, and what is served first.
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

#[cfg(test)]
#[path = "crds/fixtures.rs"]
mod fixtures;
#[cfg(test)]
#[path = "crds/priorities.rs"]
mod priorities;
#[cfg(test)]
#[path = "crds/writers.rs"]
mod writers;

use std::fmt::Write as _;

use fixtures::{Mistake, RefusedBy};
use kube::Api;
use kube::api::{DynamicObject, PostParams};
use kube::core::response::StatusCause;
use serde_json::{Value, json};
use tenon_test_api::setup::{modules, object, plane_with_definitions};

/// Tries everything and writes nothing.
fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_is_refused_with_field_and_reason() {
    let plane = plane_with_definitions().await;
    let modules = modules(&plane);
    let mut report = String::new();
    let mistakes = fixtures::mistakes();
    for by in [RefusedBy::Rule, RefusedBy::Schema] {
        assert!(
            mistakes.iter().any(|mistake| mistake.by == by),
            "the table has mistakes for each part of a definition"
        );
    }
    for (index, mistake) in mistakes.into_iter().enumerate() {
        let causes = refusal(&modules, &mistake, &format!("mistake-{index}")).await;
        if !causes.iter().any(|cause| meets(&mistake, cause)) {
            let _ = writeln!(report, "{mistake:#?}\ngot {causes:#?}\n");
        }
    }
    assert!(report.is_empty(), "{report}");
}

fn meets(mistake: &Mistake, cause: &StatusCause) -> bool {
    cause.field == mistake.field && cause.message.contains(&mistake.says) && cause.reason == mistake.reason
}

/// What the API server has against a mistake; empty when it has nothing.
async fn refusal(modules: &Api<DynamicObject>, mistake: &Mistake, name: &str) -> Vec<StatusCause> {
    let answer = if mistake.update {
        let created = modules.create(&PostParams::default(), &object(mistake.right(), name)).await;
        let mut changed = object(mistake.wrong(), name);
        changed.metadata.resource_version = created.expect("the manifest is right").metadata.resource_version;
        modules.replace(name, &dry_run(), &changed).await
    } else {
        modules.create(&dry_run(), &object(mistake.wrong(), name)).await
    };
    match answer {
        Ok(_) => Vec::new(),
        Err(kube::Error::Api(status)) => status.details.map(|details| details.causes).unwrap_or_default(),
        Err(other) => panic!("{}: {other}", mistake.name),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_for_kmm_apply_unchanged() {
    let plane = plane_with_definitions().await;
    let modules = modules(&plane);
    for (name, manifest) in fixtures::manifests() {
        // As a user does it: by kubectl, with the annotation of client-side apply, and once more without a change.
        let text = manifest.to_string();
        let first = plane.kubectl_with_input(&["apply", "-f", "-"], &text).await;
        assert!(first.as_ref().is_ok_and(|said| said.contains("created")), "{name}: {first:?}");
        let second = plane.kubectl_with_input(&["apply", "-f", "-"], &text).await;
        assert!(second.as_ref().is_ok_and(|said| said.contains("unchanged")), "{name}: {second:?}");

        let stored = modules.get(manifest["metadata"]["name"].as_str().expect("a name")).await.expect(&name);
        let lost = lost(&manifest["spec"], &stored.data["spec"], "spec");
        assert!(lost.is_empty(), "{name}: {lost:?}");
        let read: Result<tenon_api::ModuleSpec, _> = serde_json::from_value(stored.data["spec"].clone());
        assert!(read.is_ok(), "{name}: {read:?}");
    }
}

/// The fields that the API server did not keep as they were.
fn lost(sent: &Value, stored: &Value, path: &str) -> Vec<String> {
    match (sent, stored) {
        (Value::Object(fields), Value::Object(_)) => fields
            .iter()
            .flat_map(|(key, value)| lost(value, &stored[key], &format!("{path}.{key}")))
            .collect(),
        (Value::Array(items), Value::Array(others)) if items.len() == others.len() => {
            let pairs = items.iter().zip(others).enumerate();
            pairs.flat_map(|(index, (item, other))| lost(item, other, &format!("{path}[{index}]"))).collect()
        }
        _ if sent == stored => Vec::new(),
        _ => vec![format!("{path}: {sent} became {stored}")],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn defaults_appear_and_nulls_disappear() {
    let plane = plane_with_definitions().await;
    let mut manifest = fixtures::manifest("simple.yaml");
    manifest["spec"]["moduleLoader"]["container"]["build"] = Value::Null;
    manifest["spec"]["devicePlugin"] = Value::Null;
    let stored =
        modules(&plane).create(&dry_run(), &object(manifest, "defaults")).await.expect("a right manifest");
    let container = &stored.data["spec"]["moduleLoader"]["container"];
    assert_eq!(container["modprobe"]["dirName"], "/opt");
    assert_eq!(container.get("build"), None);
    assert_eq!(stored.data["spec"].get("devicePlugin"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_users_see_answers_whether_where_and_why_not() {
    let plane = plane_with_definitions().await;
    let name = "seen";
    let module = object(fixtures::manifest("simple.yaml"), name);
    modules(&plane).create(&PostParams::default(), &module).await.expect("a right manifest");
    let status = json!({"status": {
        "conditions": [{
            "type": "Ready", "status": "False", "reason": "ImageAbsent", "message": "no image for 6.1.0",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
        "moduleLoader": {"nodesMatchingSelectorNumber": 31, "desiredNumber": 29, "availableNumber": 0},
    }});
    let patch = kube::api::Patch::Merge(&status);
    modules(&plane)
        .patch_status(name, &kube::api::PatchParams::default(), &patch)
        .await
        .expect("a right status");

    let narrow = plane.kubectl(&["get", "kmod", name]).await.expect("kubectl get");
    let words: Vec<&str> = narrow.split_whitespace().collect();
    let heading = ["NAME", "READY", "LOADED", "DESIRED", "NODES", "REASON", "AGE"];
    assert!(words.starts_with(&heading), "{narrow}");
    assert_eq!(words[heading.len()..][..6], [name, "False", "0", "29", "31", "ImageAbsent"], "{narrow}");
    let wide = plane
        .kubectl(&["get", "modules.kmm.sigs.x-k8s.io", name, "--output=wide"])
        .await
        .expect("kubectl get");
    assert!(wide.contains("no image for 6.1.0"), "{wide}");
    let all = plane.kubectl(&["get", "tenon"]).await.expect("kubectl get");
    assert!(all.contains(name), "{all}");
}
