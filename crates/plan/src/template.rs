//! `${KERNEL_VERSION}` and its siblings: the templates of image references and file lists.
//!
//! The syntax is the one that KMM inherits from envsubst: `$NAME`, `${NAME}`, the operators `:-` `-` `:=` `=` `:+` `+`
//! and `$$` for a dollar sign. One thing differs on purpose: a variable that has no value and no default is an error,
//! because an image name with a hole in it is never what its author meant.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// The variables a template may use, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables(BTreeMap<Cow<'static, str>, String>);

impl Variables {
    /// Gives `name` a value; an earlier value is replaced.
    pub fn set(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    /// The value of `name`, when it has one.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// These, and where one is missing, the other's.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        for (name, value) in other.0 {
            self.0.entry(name).or_insert(value);
        }
        self
    }

    fn known(&self) -> String {
        self.0.keys().map(AsRef::as_ref).collect::<Vec<_>>().join(", ")
    }
}

/// Why a template could not be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The variable is not one of ours, or this kernel's release has no such part.
    #[error("`{template}` uses ${{{name}}}, which has no value for this kernel; known are {known}")]
    Unset {
        /// The whole template.
        template: String,
        /// The variable without a value.
        name: String,
        /// What could have been used.
        known: String,
    },
    /// `${` without `}`, or something that is no operator behind the name.
    #[error("`{template}` has a malformed `${{…}}` at byte {at}")]
    Malformed {
        /// The whole template.
        template: String,
        /// Where the `$` stands.
        at: usize,
    },
}

/// Replaces every variable in `template`.
pub fn expand(template: &str, variables: &Variables) -> Result<String, TemplateError> {
    expand_within(template, template, 0, variables)
}

/// `part` is the piece of `template` being expanded, `offset` where it begins: a default may hold variables itself.
fn expand_within(
    part: &str,
    template: &str,
    offset: usize,
    variables: &Variables,
) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(part.len() + 32);
    let mut rest = part;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let at = offset + part.len() - after.len() - 1;
        rest = if let Some(literal) = after.strip_prefix('$') {
            out.push('$');
            literal
        } else if let Some(braced) = after.strip_prefix('{') {
            let malformed = || TemplateError::Malformed { template: template.to_owned(), at };
            let end = closing_brace(braced).ok_or_else(malformed)?;
            let (inside, behind) = (braced.get(..end), braced.get(end + 1..));
            let (inside, behind) = inside.zip(behind).ok_or_else(malformed)?;
            out.push_str(&braced_value(inside, template, at, variables)?);
            behind
        } else {
            let name = leading_name(after);
            match name {
                "" => out.push('$'),
                name => out.push_str(value_of(name, template, variables)?),
            }
            after.strip_prefix(name).unwrap_or(after)
        };
    }
    out.push_str(rest);
    Ok(out)
}

/// The index of the `}` that closes an already opened `${`, nested ones skipped.
fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut previous = ' ';
    for (index, character) in text.char_indices() {
        match character {
            '{' if previous == '$' => depth += 1,
            '}' if depth == 0 => return Some(index),
            '}' => depth -= 1,
            _ => {}
        }
        previous = character;
    }
    None
}

fn braced_value(
    inside: &str,
    template: &str,
    at: usize,
    variables: &Variables,
) -> Result<String, TemplateError> {
    let name = leading_name(inside);
    let operation = inside.strip_prefix(name).unwrap_or_default();
    let value = variables.get(name);
    let not_empty = value.filter(|value| !value.is_empty());
    let malformed = || TemplateError::Malformed { template: template.to_owned(), at };
    if name.is_empty() {
        return Err(malformed());
    }
    // `:` makes an empty value count as none. `=` would assign in a shell; with one expansion there is nothing to assign to.
    let (present, operator) = match operation.strip_prefix(':') {
        Some(operator) => (not_empty, operator),
        None => (value, operation),
    };
    let nested = |word: &str| expand_within(word, template, at + 2 + inside.len() - word.len(), variables);
    match (operator.chars().next(), operator.get(1..).unwrap_or_default()) {
        (None, _) if operation.is_empty() => value_of(name, template, variables).map(str::to_owned),
        (Some('-' | '='), word) => present.map_or_else(|| nested(word), |value| Ok(value.to_owned())),
        (Some('+'), word) => present.map_or_else(|| Ok(String::new()), |_| nested(word)),
        _ => Err(malformed()),
    }
}

fn value_of<'v>(name: &str, template: &str, variables: &'v Variables) -> Result<&'v str, TemplateError> {
    variables.get(name).ok_or_else(|| TemplateError::Unset {
        template: template.to_owned(),
        name: name.to_owned(),
        known: variables.known(),
    })
}

/// The longest prefix that is a variable's name.
fn leading_name(text: &str) -> &str {
    let end = text
        .char_indices()
        .find(|&(index, c)| !(c == '_' || c.is_ascii_alphabetic() || index > 0 && c.is_ascii_digit()))
        .map_or(text.len(), |(index, _)| index);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn variables() -> Variables {
        let mut variables = Variables::default();
        variables.set("KERNEL_VERSION", "6.1.0-56-amd64");
        variables.set("KERNEL_X", "6");
        variables.set("EMPTY", "");
        variables
    }

    #[rstest]
    #[case::plain("quay.io/a:b", "quay.io/a:b")]
    #[case::bare("a:$KERNEL_X.y", "a:6.y")]
    #[case::braced("a:${KERNEL_VERSION}-1", "a:6.1.0-56-amd64-1")]
    #[case::two("$KERNEL_X${KERNEL_X}", "66")]
    #[case::escaped("$$KERNEL_X", "$KERNEL_X")]
    #[case::lone_dollar("100$ and $", "100$ and $")]
    #[case::default_used("${NOPE:-d}", "d")]
    #[case::default_of_empty("${EMPTY:-d}${EMPTY-d}", "d")]
    #[case::default_unused("${KERNEL_X:-d}${KERNEL_X-d}", "66")]
    #[case::assignment("${NOPE:=d}${NOPE=e}", "de")]
    #[case::alternative("${KERNEL_X:+o}${KERNEL_X+o}${NOPE+o}${EMPTY:+o}${EMPTY+o}", "ooo")]
    #[case::nested("${NOPE:-v${KERNEL_X}}", "v6")]
    #[case::not_ascii("ä${KERNEL_X}ö", "ä6ö")]
    fn a_template_expands(#[case] template: &str, #[case] expected: &str) {
        assert_eq!(expand(template, &variables()).as_deref(), Ok(expected));
    }

    #[test]
    fn defect_16_a_variable_without_a_value_is_named() {
        let error = expand("a:${KERNEL_RHEL_VERSION}", &variables()).unwrap_err().to_string();
        assert!(
            error.contains("KERNEL_RHEL_VERSION") && error.contains("KERNEL_VERSION, KERNEL_X"),
            "{error}"
        );
    }

    #[rstest]
    #[case("${KERNEL_X", 0)]
    #[case("ab${}", 2)]
    #[case("${KERNEL_X?}", 0)]
    #[case("${KERNEL_X:}", 0)]
    #[case("${A:-x${B?}}", 6)]
    fn a_malformed_one_is_refused_with_its_place(#[case] template: &str, #[case] place: usize) {
        assert_eq!(
            expand(template, &variables()),
            Err(TemplateError::Malformed { template: template.to_owned(), at: place })
        );
    }

    proptest! {
        #[test]
        fn no_template_panics(template in "[$\\{\\}:=+\\-A-C_ä]{0,40}") {
            let _ = expand(&template, &variables());
        }

        #[test]
        fn text_without_a_dollar_stays(text in "[^$]{0,40}") {
            prop_assert_eq!(expand(&text, &variables()), Ok(text));
        }
    }
}
