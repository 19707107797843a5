//! The definitions to install, in the form that a Kubernetes API server takes.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion, JSONSchemaProps, JSONSchemaPropsOrArray,
    JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::{MadeImage, Module, ModuleImage, NodeModulesConfig, preflight_validation};

/// All definitions, in the order in which they are installed.
pub fn crds() -> Vec<CustomResourceDefinition> {
    [
        Module::crd(),
        NodeModulesConfig::crd(),
        ModuleImage::crd(),
        MadeImage::crd(),
        preflight_validation::definition(),
    ]
    .map(finished)
    .into()
}

/// Brings a derived definition into its final form.
fn finished(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        if let Some(schema) = root_schema(version) {
            visit(schema, &mut finish);
        }
    }
    crd
}

fn root_schema(version: &mut CustomResourceDefinitionVersion) -> Option<&mut JSONSchemaProps> {
    version.schema.as_mut()?.open_api_v3_schema.as_mut()
}

fn visit(schema: &mut JSONSchemaProps, change: &mut impl FnMut(&mut JSONSchemaProps)) {
    change(schema);
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        visit(property, change);
    }
    match schema.items.as_mut() {
        Some(JSONSchemaPropsOrArray::Schema(items)) => visit(items, change),
        Some(JSONSchemaPropsOrArray::Schemas(several)) => {
            for items in several {
                visit(items, change);
            }
        }
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = schema.additional_properties.as_mut() {
        visit(values, change);
    }
}

fn finish(schema: &mut JSONSchemaProps) {
    // An explicit null means "not set", as for Kubernetes' own kinds: the API server drops it where the schema does
    // not allow it, and would keep it where it does.
    schema.nullable = None;
    first_sentence_of_long_description(schema);
    keep_opaque_parameters(schema);
}

/// Kubernetes' own types bring essays along (a quantity alone three thousand characters), and each place where they
/// are used repeats them: together more than one request may hold. A line's end is no sentence's.
fn first_sentence_of_long_description(schema: &mut JSONSchemaProps) {
    const LONG: usize = 160;
    let Some(text) = schema.description.as_mut().filter(|text| text.len() > LONG) else { return };
    let paragraph = text.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    let sentence = paragraph.find(". ").and_then(|dot| paragraph.get(..=dot)).unwrap_or(&paragraph);
    sentence.clone_into(text);
}

/// What a DRA driver calls its parameters is its own affair: an object without a schema would lose all its fields.
fn keep_opaque_parameters(schema: &mut JSONSchemaProps) {
    let Some(opaque) = schema.properties.as_mut().and_then(|properties| properties.get_mut("opaque")) else {
        return;
    };
    if let Some(parameters) =
        opaque.properties.as_mut().and_then(|properties| properties.get_mut("parameters"))
    {
        parameters.x_kubernetes_preserve_unknown_fields = Some(true);
    }
}
