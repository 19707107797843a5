//! What is to be done, as data: a plan of named steps, and how it is told.

use std::fmt::Write as _;

use kube::core::ObjectMeta;
use serde::Serialize;
use serde_json::{Value, json};

use crate::status::table::{Block, Cell, render};
use crate::terminal::{Look, Tone};

/// By whom fields are written: as `kubectl apply --server-side` does, so that it finds them to be its own.
const KUBECTL: &str = "kubectl";

/// What is to be done, and what forbids it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// While there is one, no step is taken.
    pub(crate) refusals: Vec<Refusal>,
    /// In this order.
    pub(crate) steps: Vec<Step>,
    /// What is left to the administrator, in sentences.
    pub(crate) left: Vec<String>,
}

/// Something that has to be otherwise first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Refusal {
    /// What stands in the way.
    pub(crate) because: String,
    /// What to do about it.
    pub(crate) next: String,
}

/// One object, and what becomes of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    /// Its kind and name.
    pub(crate) object: String,
    /// What is done.
    pub(crate) what: &'static str,
    /// Why.
    pub(crate) why: &'static str,
    /// How, one after the other.
    pub(crate) requests: Vec<Request>,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Request {
    /// Server-side apply, by force.
    Apply { path: String, body: Value },
    /// A merge patch.
    Merge { path: String, body: Value },
    /// Deletes the object of this uid; what it owns goes in the background.
    Delete { path: String, uid: Option<String> },
}

impl Request {
    /// As the API server takes it.
    pub(crate) fn http(&self) -> Result<http::Request<Vec<u8>>, kube::Error> {
        let request = match self {
            Self::Apply { path, body } => {
                http::Request::patch(format!("{path}?fieldManager={KUBECTL}&force=true"))
                    .header(http::header::CONTENT_TYPE, "application/apply-patch+yaml")
                    .body(body.to_string().into_bytes())
            }
            Self::Merge { path, body } => http::Request::patch(format!("{path}?fieldManager=kubectl-tenon"))
                .header(http::header::CONTENT_TYPE, "application/merge-patch+json")
                .body(body.to_string().into_bytes()),
            Self::Delete { path, uid } => {
                let options = json!({
                    "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
                    "preconditions": uid.as_ref().map(|uid| json!({ "uid": uid })),
                });
                http::Request::delete(path)
                    .header(http::header::CONTENT_TYPE, "application/json")
                    .body(options.to_string().into_bytes())
            }
        };
        request.map_err(kube::Error::HttpError)
    }
}

/// An object's kind, as a person says it and as the API server's paths do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// Up to the namespace.
    pub(crate) api: &'static str,
    pub(crate) plural: &'static str,
}

impl Kind {
    /// Kind, namespace and name.
    pub(crate) fn object(self, meta: &ObjectMeta) -> String {
        let name = meta.name.as_deref().unwrap_or_default();
        match meta.namespace.as_deref() {
            Some(namespace) => format!("{} {namespace}/{name}", self.name),
            None => format!("{} {name}", self.name),
        }
    }

    pub(crate) fn path(self, meta: &ObjectMeta) -> String {
        let name = meta.name.as_deref().unwrap_or_default();
        let Self { api, plural, .. } = self;
        match meta.namespace.as_deref() {
            Some(namespace) => format!("{api}/namespaces/{namespace}/{plural}/{name}"),
            None => format!("{api}/{plural}/{name}"),
        }
    }

    pub(crate) fn delete(self, meta: &ObjectMeta) -> Request {
        Request::Delete { path: self.path(meta), uid: meta.uid.clone() }
    }

    /// A merge patch of just this version of the object.
    pub(crate) fn merge(self, meta: &ObjectMeta, metadata: &Value, rest: Value) -> Request {
        let mut body = json!({ "metadata": { "uid": meta.uid, "resourceVersion": meta.resource_version } });
        merge(&mut body, json!({ "metadata": metadata }));
        merge(&mut body, rest);
        Request::Merge { path: self.path(meta), body }
    }
}

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

/// What was found, and done.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) dry_run: bool,
    pub(crate) refusals: Vec<Refusal>,
    pub(crate) steps: Vec<Step>,
    /// How many of the steps.
    pub(crate) done: usize,
    pub(crate) left: Vec<String>,
}

impl Answer {
    /// For programs.
    pub(crate) fn for_programs(&self) -> Value {
        let steps = self.steps.iter().enumerate().map(|(number, step)| {
            let Step { object, what, why, requests: _ } = step;
            json!({ "object": object, "what": what, "why": why, "done": number < self.done })
        });
        json!({
            "dryRun": self.dry_run,
            "refusals": self.refusals,
            "steps": steps.collect::<Vec<_>>(),
            "left": self.left,
        })
    }

    /// For people.
    pub(crate) fn text(&self, look: Look) -> String {
        let mut text = String::new();
        let row = |step: &Step| vec![Cell::new(&step.object), Cell::new(step.what), Cell::new(step.why)];
        let shown = if self.dry_run || !self.refusals.is_empty() { self.steps.len() } else { self.done };
        let rows: Vec<_> = self.steps.iter().take(shown).map(row).collect();
        if !rows.is_empty() {
            let block = Block { rows, note: None };
            text += &render(&["OBJECT", "WHAT", "WHY"], &[block], look.endless()).concat();
            text.push('\n');
        }
        // Writing to a String cannot fail.
        for refusal in &self.refusals {
            let because = look.paint(Tone::Bad, &crate::terminal::plain(&refusal.because));
            let _ = writeln!(text, "refused: {because}\n  next: {}", crate::terminal::plain(&refusal.next));
        }
        text += &self.sum();
        if self.refusals.is_empty() && self.done == self.steps.len() {
            for line in &self.left {
                let _ = writeln!(text, "{}", crate::terminal::plain(line));
            }
        }
        text
    }

    fn sum(&self) -> String {
        let all = self.steps.len();
        if !self.refusals.is_empty() {
            return "nothing was changed\n".to_owned();
        }
        match (self.dry_run, all) {
            (_, 0) => "there is nothing to do\n".to_owned(),
            (true, _) => format!("{all} to do; nothing was changed\n"),
            (false, _) => format!("{} of {all} done\n", self.done),
        }
    }
}
