//! What two lives must have in common: objects without what differs in any two lives.

use serde_json::Value;

use crate::plot::Plot;

/// Fields that say when, in which version or under which random name, and nothing that counts.
const INCIDENTAL: [&str; 18] = [
    "resourceVersion",
    "uid",
    "creationTimestamp",
    "managedFields",
    "lastTransitionTime",
    "order",
    "orderGeneration",
    "resolvedAt",
    "storeId",
    "bootId",
    "kernelBuildId",
    "keyIds",
    "loadedAt",
    "since",
    "lastUpdateTime",
    "lastChecked",
    // Hashes, and named after one, of which Secret it is.
    "inputs",
    "job",
];

/// What else differs, by the kind of life.
fn incidental_in(plot: Plot) -> &'static [&'static str] {
    match plot {
        Plot::Signed | Plot::Plugin => &[],
        // What is built in a namespace is told of that namespace, so that each life's is another. That it is what the registry has is
        // looked at elsewhere.
        Plot::Built | Plot::Pulled => &["imageDigest"],
        // Who leaves and comes back may be told of both at once.
        Plot::CleanedUp => &["imageDigest", "generation"],
    }
}

/// The objects as text, of which equal lives have equal ones.
pub(crate) fn of(mut objects: Value, plot: Plot, life: &str) -> String {
    strip(&mut objects, &INCIDENTAL);
    strip(&mut objects, incidental_in(plot));
    let text = serde_json::to_string_pretty(&objects).expect("JSON");
    text.replace(life, "LIFE")
}

fn strip(value: &mut Value, names: &[&str]) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, _| !names.contains(&key.as_str()));
            fields.values_mut().for_each(|value| strip(value, names));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| strip(item, names)),
        _ => {}
    }
}

/// The lines that are in one and not in the other, few enough to be read.
pub(crate) fn difference(expected: &str, found: &str) -> String {
    let lacking = |of: &str, sign: char, within: &str| {
        let known: std::collections::HashSet<_> = within.lines().collect();
        let lines = of.lines().filter(|line| !known.contains(line)).take(20);
        lines.map(|line| format!("{sign} {}", line.trim())).collect::<Vec<_>>()
    };
    [lacking(expected, '-', found), lacking(found, '+', expected)].concat().join("\n")
}
