//! The same answer in the forms that programs read.

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use crate::cluster::ClusterError;
use crate::failure::Failure;
use crate::seen::SeenError;
use crate::terminal;

/// For programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Json,
    Yaml,
}

/// Why an answer was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    #[error("write JSON")]
    Json(#[from] serde_json::Error),
    #[error("write YAML")]
    Yaml(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("write to standard output")]
    Output(#[source] std::io::Error),
}

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Seen(#[from] SeenError),
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

impl NoAnswer {
    pub(crate) fn into_failure(self) -> Failure {
        match self {
            Self::Seen(error) => error.into_failure(),
            error => Failure::new(error),
        }
    }
}

/// An answer in this form.
pub(crate) fn written(answer: &impl Serialize, format: Format) -> Result<String, AnswerError> {
    let value = serde_json::to_value(answer)?;
    match format {
        Format::Json => Ok(format!("{}\n", terminal::escaped(&serde_json::to_string_pretty(&value)?))),
        Format::Yaml => {
            let text = serde_saphyr::to_string(&harmless(value));
            text.map_err(|error| AnswerError::Yaml(Box::new(error)))
        }
    }
}

/// Texts without what commands a terminal: YAML may leave it as it is.
fn harmless(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(terminal::plain_lines(&text)),
        Value::Array(items) => items.into_iter().map(harmless).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, harmless(value))).collect(),
        other => other,
    }
}

/// Writes to standard output. Where nobody reads any more, as `head` does, there is nobody to tell.
pub(crate) fn say(text: &str) -> Result<(), AnswerError> {
    use std::io::Write as _;

    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(AnswerError::Output(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_forms_say_the_same_and_command_no_terminal() {
        let answer = json!({ "finding": { "message": "a: b\n\u{9b}2J", "causes": [{ "state": "Ready" }] }, "next": [] });
        let json = written(&answer, Format::Json).unwrap();
        let yaml = written(&answer, Format::Yaml).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), answer);
        let read: Value = serde_saphyr::from_str(&yaml).unwrap();
        assert_eq!(read["finding"]["message"], "a: b\n�2J");
        assert_eq!(read["finding"]["causes"], answer["finding"]["causes"]);
        assert!(!json.contains('\u{9b}') && !yaml.contains('\u{9b}'));
    }
}
