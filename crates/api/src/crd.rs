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
    only_what_can_be_read(schema);
}

/// Refuses what Kubernetes' own schemas let through and their types cannot hold: such an object would be stored, and nobody could
/// read it.
fn only_what_can_be_read(schema: &mut JSONSchemaProps) {
    if schema.format.as_deref() == Some("date-time") {
        schema.pattern = Some(YEAR_BEFORE_9999.to_owned());
    }
    for (name, property) in schema.properties.iter_mut().flatten() {
        match name.as_str() {
            "divisor" | "sizeLimit" => be_quantity(property),
            "limits" | "requests" => {
                if let Some(JSONSchemaPropsOrBool::Schema(values)) = property.additional_properties.as_mut() {
                    be_quantity(values);
                }
            }
            // A port by its number or its name, or a number of nodes.
            _ if property.x_kubernetes_int_or_string == Some(true) => {
                property.minimum = Some(property.minimum.unwrap_or(f64::from(i32::MIN)));
                property.maximum = Some(property.maximum.unwrap_or(f64::from(i32::MAX)));
            }
            _ => {}
        }
    }
}

/// As Kubernetes' own generator has it: the API server says which field is wrong, and not only that something is.
fn be_quantity(schema: &mut JSONSchemaProps) {
    if schema.x_kubernetes_int_or_string == Some(true) {
        schema.pattern = Some(QUANTITY.to_owned());
    }
}

const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";
/// In the last hours of the last year with four digits it may be the next one elsewhere.
const YEAR_BEFORE_9999: &str = "^([0-8]|9[0-8]|99[0-8]|999[0-8])";

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_own_types_cannot_hold_is_refused() {
        let (mut numbers, mut quantities, mut times) = (0, 0, 0);
        for mut crd in crds() {
            for schema in crd.spec.versions.iter_mut().filter_map(root_schema) {
                visit(schema, &mut |schema| {
                    let is_quantity = schema.pattern.as_deref() == Some(QUANTITY);
                    if schema.x_kubernetes_int_or_string == Some(true) {
                        let fits = schema.maximum.is_some_and(|most| most <= f64::from(i32::MAX));
                        assert!(is_quantity || fits, "{:?}", schema.description);
                        *(if is_quantity { &mut quantities } else { &mut numbers }) += 1;
                    }
                    if schema.format.as_deref() == Some("date-time") {
                        assert!(schema.pattern.is_some(), "{:?}", schema.description);
                        times += 1;
                    }
                });
            }
        }
        assert!(numbers > 4 && quantities > 20 && times > 4, "{numbers}, {quantities}, {times}");
    }
}
