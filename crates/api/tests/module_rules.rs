//! The rules of the Module definition, evaluated without an API server: each mistake of the table is refused at the
//! named field, and every manifest without one passes, is read completely, and says the same when written again.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test that cannot be set up has failed")]

#[cfg(test)]
#[path = "../../../tests/api/tests/crds/fixtures.rs"]
mod fixtures;

use std::fmt::Write as _;

use fixtures::{Mistake, RefusedBy};
use kube::core::cel::{ValidationError, Validator};
use serde_json::Value;
use tenon_api::Module;

fn schema() -> Value {
    let crd = serde_json::to_value(&tenon_api::crds()[0]).expect("a definition");
    crd.pointer("/spec/versions/0/schema/openAPIV3Schema").expect("its schema").clone()
}

fn judge(schema: &Value, new: &Value, old: Option<&Value>) -> Vec<ValidationError> {
    let with_defaults = |value: &Value| kube::core::cel::apply_defaults(schema, value);
    let old = old.map(with_defaults);
    match Validator::new().validate(schema, &with_defaults(new), old.as_ref()) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.into_vec(),
    }
}

#[test]
fn every_mistake_is_refused_at_its_field() {
    let schema = schema();
    let mut report = String::new();
    for mistake in fixtures::mistakes().iter().filter(|mistake| mistake.by == RefusedBy::Rule) {
        let old = mistake.update.then(|| mistake.right());
        let errors = judge(&schema, &mistake.wrong(), old.as_ref());
        if !errors.iter().any(|error| meets(mistake, error)) {
            let _ = writeln!(
                report,
                "{}: wanted {} at {}, got {errors:#?}",
                mistake.name, mistake.says, mistake.field
            );
        }
    }
    assert!(report.is_empty(), "{report}");
}

/// This evaluator puts the place of the rule and not the rule's own field path into the error, and has its own words
/// for an expression that does not compile.
fn meets(mistake: &Mistake, error: &ValidationError) -> bool {
    let regexp = mistake.field.ends_with(".regexp") && error.field_path == mistake.field;
    regexp
        || mistake.field.starts_with(&error.field_path)
            && error.message.contains(&mistake.says)
            && error.reason.as_ref() == Some(&mistake.reason)
}

#[test]
fn every_manifest_passes_the_rules() {
    let schema = schema();
    for (name, manifest) in fixtures::manifests() {
        assert!(judge(&schema, &manifest, None).is_empty(), "{name}: {:#?}", judge(&schema, &manifest, None));
        assert!(judge(&schema, &manifest, Some(&manifest)).is_empty(), "{name}, written twice");
    }
}

#[test]
fn every_manifest_is_read_completely() {
    for (name, manifest) in fixtures::manifests() {
        let module: Module =
            serde_json::from_value(manifest.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let again = serde_json::to_value(&module).expect("a module");
        let mut lost = Vec::new();
        compare(&manifest["spec"], &again["spec"], "spec", &mut lost);
        assert!(lost.is_empty(), "{name}: {lost:?}");
    }
}

/// Collects the fields of `wanted` that `found` says otherwise; what means nothing (empty or false) may be left out,
/// and numbers that are quantities become text.
fn compare(wanted: &Value, found: &Value, path: &str, lost: &mut Vec<String>) {
    match (wanted, found) {
        (Value::Object(fields), Value::Object(others)) => {
            for (key, value) in fields {
                let other = others.get(key).unwrap_or(&Value::Null);
                compare(value, other, &format!("{path}.{key}"), lost);
            }
        }
        (Value::Array(items), Value::Array(others)) if items.len() == others.len() => {
            for (index, (item, other)) in items.iter().zip(others).enumerate() {
                compare(item, other, &format!("{path}[{index}]"), lost);
            }
        }
        (Value::String(text), Value::Null) if text.is_empty() => {}
        (Value::Bool(false), Value::Null) => {}
        (Value::Number(number), Value::String(text)) if number.to_string() == *text => {}
        _ if wanted == found => {}
        _ => lost.push(format!("{path}: {wanted} became {found}")),
    }
}

#[test]
fn no_field_allows_null() {
    let text = schema().to_string();
    assert!(!text.contains("nullable"), "an explicit null must mean the same as an absent field");
}

#[test]
fn definitions_fit_into_the_annotation_of_client_side_apply() {
    for crd in tenon_api::crds() {
        let bytes = serde_json::to_vec(&crd).expect("a definition").len();
        assert!(bytes < 256 * 1024 - 4096, "{:?} has {bytes} bytes", crd.metadata.name);
    }
}
