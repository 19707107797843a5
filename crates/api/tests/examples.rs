//! The manifests in `examples/modules` are what people begin with: each is a Module that the definition accepts, of
//! which nothing is lost when it is read, and all of them can be turned to another registry by the README's one `sed`. So can those
//! in `examples/vendors`, which are of KMM's fields alone.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]

use std::fs;
use std::path::{Path, PathBuf};

use kube::core::cel::{Validator, apply_defaults};
use serde_json::Value;
use tenon_api::Module;

/// What the README's `sed` replaces.
const REGISTRY: &str = "registry.example:5000/";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/modules")
}

/// Every manifest by its file's name.
fn manifests() -> Vec<(String, Value)> {
    let entries = fs::read_dir(folder()).expect("the folder of examples");
    let names =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a UTF-8 name"));
    let mut manifests: Vec<_> = names
        .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "yaml"))
        .map(|name| {
            let text = fs::read_to_string(folder().join(&name)).expect("a readable manifest");
            let value = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, value)
        })
        .collect();
    manifests.sort_by(|one, other| one.0.cmp(&other.0));
    assert!(manifests.len() >= 5, "there are examples");
    manifests
}

/// The definition's schema, and the manifest with the defaults that the API server would fill in.
fn with_defaults(manifest: &Value) -> (Value, Value) {
    let definition = serde_json::to_value(&tenon_api::crds()[0]).expect("a definition");
    let schema = definition.pointer("/spec/versions/0/schema/openAPIV3Schema").expect("its schema").clone();
    let filled = apply_defaults(&schema, manifest);
    (schema, filled)
}

#[test]
fn every_example_says_the_same_when_it_is_read_and_written_again() {
    for (name, manifest) in manifests() {
        let module: Module =
            serde_json::from_value(manifest.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let again = serde_json::to_value(&module).expect("a Module as JSON");
        assert_eq!(again, with_defaults(&manifest).1, "{name}: a field is unknown or misspelt");
    }
}

#[test]
fn every_example_is_accepted_by_the_rules() {
    for (name, manifest) in manifests() {
        let (schema, filled) = with_defaults(&manifest);
        let judged = Validator::new().validate(&schema, &filled, None);
        assert!(judged.is_ok(), "{name}: {judged:?}");
    }
}

#[test]
fn every_image_is_in_the_registry_that_the_readme_replaces() {
    let readme = fs::read_to_string(folder().join("README.md")).expect("the README");
    assert!(readme.contains("sed \"s|registry.example:5000|"), "the README shows the command");
    for (name, manifest) in manifests() {
        assert!(readme.contains(&format!("`{name}`")), "the README's table names {name}");
        let container = &manifest["spec"]["moduleLoader"]["container"];
        let mappings = container["kernelMappings"].as_array().expect("mappings");
        let images = mappings.iter().chain([container]).filter_map(|place| place["containerImage"].as_str());
        for image in images {
            assert!(image.starts_with(REGISTRY), "{name}: {image}");
        }
    }
}

/// The Modules among the objects of `examples/vendors`, by the file's name.
fn of_vendors() -> Vec<(String, Value)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/vendors");
    let read = |name: &str| fs::read_to_string(folder.join(name)).expect("a readable manifest");
    let mut modules = Vec::new();
    for name in ["gpu.yaml", "storage.yaml", "network.yaml"] {
        let text = read(name);
        assert!(read("README.md").contains(&format!("`{name}`")), "the README's table names {name}");
        let objects = text.split("\n---\n").map(|object| -> Value {
            serde_saphyr::from_str(object).unwrap_or_else(|error| panic!("{name}: {error}"))
        });
        modules.extend(
            objects.filter(|object| object["kind"] == "Module").map(|object| (name.to_owned(), object)),
        );
    }
    assert_eq!(modules.len(), 3);
    modules
}

#[test]
fn vendors_manifests_are_accepted_read_whole_and_have_no_field_but_kmms() {
    for (name, manifest) in of_vendors() {
        let (schema, filled) = with_defaults(&manifest);
        let judged = Validator::new().validate(&schema, &filled, None);
        assert!(judged.is_ok(), "{name}: {judged:?}");
        let module: Module =
            serde_json::from_value(manifest.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(serde_json::to_value(&module).expect("a Module as JSON"), filled, "{name}");
        let spec = module.spec;
        assert!(spec.inspection.is_none() && spec.rollout.is_none(), "{name}");
        assert!(spec.module_loader.is_some_and(|loader| loader.validation.is_none()), "{name}");
    }
}
