//! Whether a kernel will load a driver, and what that is good for.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What a prediction that a kernel will refuse the module is good for.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Inspection {
    /// No node with that kernel is touched.
    Enforce,
    /// The load is tried all the same; a condition says what is to be expected.
    Warn,
}

/// What is predicted of a driver and a kernel. A word of a newer version is read as [`Predicted::Unknown`].
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Predicted {
    /// The kernel will take it. What its own code then does is its own business.
    Loads,
    /// The kernel will refuse it.
    Fails,
    /// Something that would decide is not known.
    #[default]
    #[serde(other)]
    Unknown,
}

impl JsonSchema for Predicted {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Predicted".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 64 })
    }
}
