//! The leaves of a definition's schema: where a manifest says something that has no parts.

use std::fmt;

use serde_json::Value;

/// One step down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Into a field.
    Field(String),
    /// Into an item of a list.
    Item,
    /// Into a value of a map.
    Entry,
}

/// A leaf, and what the schema says of it.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    /// From `spec` down.
    pub(crate) path: Vec<Step>,
    /// What it may be.
    pub(crate) schema: Value,
}

impl fmt::Display for Leaf {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "spec")?;
        self.path.iter().try_for_each(|step| match step {
            Step::Field(name) => write!(out, ".{name}"),
            Step::Item => write!(out, "[]"),
            Step::Entry => write!(out, "{{}}"),
        })
    }
}

impl Leaf {
    /// The last name on the way, by which a refusal must call it.
    pub(crate) fn name(&self) -> &str {
        let names = self.path.iter().rev().filter_map(|step| match step {
            Step::Field(name) => Some(name.as_str()),
            Step::Item | Step::Entry => None,
        });
        names.into_iter().next().expect("a leaf has a name")
    }

    /// Whether a text names it, or what it is an immediate part of. The API server has other capitals than its own fields here and
    /// there.
    pub(crate) fn is_named_in(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        let names = self.path.iter().rev().filter_map(|step| match step {
            Step::Field(name) => Some(name.to_lowercase()),
            Step::Item | Step::Entry => None,
        });
        names.take(3).any(|name| text.contains(&name))
    }

    /// Whether it is below this path (`devicePlugin.container`), or at it.
    pub(crate) fn is_below(&self, path: &str) -> bool {
        let own = self.to_string();
        own.strip_prefix("spec.")
            .and_then(|own| own.strip_prefix(path))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[', '{']))
    }
}

/// All leaves below a schema of a `spec`.
pub(crate) fn leaves(schema: &Value) -> Vec<Leaf> {
    let mut found = Vec::new();
    walk(schema, &mut Vec::new(), &mut found);
    found
}

fn walk(schema: &Value, path: &mut Vec<Step>, found: &mut Vec<Leaf>) {
    let mut into = |step: Step, schema: &Value| {
        path.push(step);
        walk(schema, path, found);
        path.pop();
    };
    if let Some(fields) = schema["properties"].as_object() {
        fields.iter().for_each(|(name, schema)| into(Step::Field(name.clone()), schema));
    } else if schema["type"] == "array" {
        into(Step::Item, &schema["items"]);
    } else if schema["additionalProperties"].is_object() {
        into(Step::Entry, &schema["additionalProperties"]);
    } else {
        found.push(Leaf { path: path.clone(), schema: schema.clone() });
    }
}
