//! What a leaf is tried with: its bounds and what is beyond them, another type, odd text, too much text, names of nothing.

use serde_json::{Value, json};

use crate::leaves::Leaf;

/// What kind of a value it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// What a user might say.
    Ordinary,
    /// The field is left out.
    Absent,
    /// As little as may be said.
    Least,
    /// As much.
    Most,
    /// More, or less, than that.
    Beyond,
    /// Not what the schema asks for.
    WrongType,
    /// Text that no ASCII is.
    Unicode,
    /// Far too much.
    Huge,
    /// A name of what does not exist.
    Dangling,
}

/// A value, and why it is tried; `None`: the field is left out.
#[derive(Debug, Clone)]
pub(crate) struct Trial {
    pub(crate) kind: Kind,
    pub(crate) value: Option<Value>,
}

/// Characters of a text that nobody wrote.
const HUGE: usize = 20_000;

/// Everything that a leaf is tried with; `ordinary` first.
pub(crate) fn trials(leaf: &Leaf, ordinary: Value) -> Vec<Trial> {
    let mut trials = vec![
        Trial { kind: Kind::Ordinary, value: Some(ordinary) },
        Trial { kind: Kind::Absent, value: None },
    ];
    let schema = &leaf.schema;
    let more = match schema["type"].as_str() {
        Some("string") => text(schema),
        Some("integer") => number(schema),
        Some("boolean") => {
            vec![(Kind::Least, json!(false)), (Kind::Most, json!(true)), (Kind::WrongType, json!("yes"))]
        }
        Some("object") => vec![
            (Kind::Least, json!({})),
            (Kind::Unicode, json!({"größe": ["驱动"]})),
            (Kind::WrongType, json!(1)),
        ],
        None if schema["x-kubernetes-int-or-string"] == true => number_or_text(),
        other => panic!("{leaf}: values of {other:?} are not known"),
    };
    trials.extend(more.into_iter().map(|(kind, value)| Trial { kind, value: Some(value) }));
    trials
}

fn text(schema: &Value) -> Vec<(Kind, Value)> {
    let longest = schema["maxLength"].as_u64().and_then(|length| usize::try_from(length).ok());
    let listed = schema["enum"].as_array().into_iter().flatten();
    let mut values: Vec<_> = listed.map(|word| (Kind::Most, word.clone())).collect();
    values.extend([
        (Kind::Least, json!("")),
        (Kind::WrongType, json!(7)),
        (Kind::WrongType, json!({"a": "b"})),
        (Kind::Unicode, json!("größe-驱动-🦀\u{7}\n")),
        (Kind::Dangling, json!("nobody.example/nothing:1")),
    ]);
    if schema["format"] == "date-time" {
        // What one may call a time, and another not.
        let odd = ["2026-12-31T23:59:60Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999+23:59"];
        values.extend(odd.map(|time| (Kind::Beyond, json!(time))));
    }
    match longest {
        Some(longest) => values.extend([
            (Kind::Most, json!("a".repeat(longest))),
            (Kind::Beyond, json!("a".repeat(longest + 1))),
        ]),
        None => values.push((Kind::Huge, json!("a".repeat(HUGE)))),
    }
    values
}

fn number(schema: &Value) -> Vec<(Kind, Value)> {
    let is_short = schema["format"] == "int32";
    let bound = |name: &str, wide: i64, short: i32| {
        let widest = if is_short { i64::from(short) } else { wide };
        #[expect(clippy::cast_possible_truncation, reason = "bounds in definitions are whole numbers")]
        schema[name].as_f64().map_or(widest, |bound| bound as i64)
    };
    let (least, most) = (bound("minimum", i64::MIN, i32::MIN), bound("maximum", i64::MAX, i32::MAX));
    let below = least.checked_sub(1).map(|value| (Kind::Beyond, json!(value)));
    let mut values = vec![
        (Kind::Least, json!(least)),
        (Kind::Least, json!(-1)),
        (Kind::Least, json!(0)),
        (Kind::Most, json!(most)),
        (Kind::Beyond, json!(most.unsigned_abs() + 1)),
        (Kind::WrongType, json!("seven")),
        (Kind::WrongType, json!(1.5)),
    ];
    values.extend(below);
    values
}

fn number_or_text() -> Vec<(Kind, Value)> {
    vec![
        (Kind::Least, json!(0)),
        (Kind::Least, json!(-1)),
        (Kind::Least, json!("")),
        (Kind::Most, json!(i32::MAX)),
        (Kind::Beyond, json!(i64::from(i32::MAX) + 1)),
        (Kind::Beyond, json!("1e400")),
        (Kind::Unicode, json!("驱动")),
        (Kind::Huge, json!("1".repeat(4096))),
        (Kind::WrongType, json!([])),
        (Kind::WrongType, json!(true)),
    ]
}
