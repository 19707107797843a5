//! One line of a spec file, `Source0`, with the macros that are plain texts.

use std::collections::BTreeMap;

/// Macros that are replaced, those within macros counted: they could name each other without end.
const MOST_MACROS: usize = 256;
/// The longest value.
const MAX_TEXT: usize = 4096;

/// The file name of the first source. `known` has what the package's header says; nothing is run, and what would have to be is
/// `None`.
pub(super) fn first_source(spec: &str, known: &BTreeMap<String, String>) -> Option<String> {
    let mut macros = BTreeMap::new();
    let mut source = None;
    for line in spec.lines().map(str::trim) {
        let mut words = line.splitn(3, char::is_whitespace);
        if let (Some("%global" | "%define"), Some(name), Some(value)) =
            (words.next(), words.next(), words.next())
        {
            macros.insert(name.to_owned(), value.trim().to_owned());
        }
        if source.is_none() {
            source = tagged(line);
        }
    }
    // What the package was made with goes before what its spec would say now.
    macros.extend(known.clone());
    let source = expand(source?, &macros, &mut { MOST_MACROS })?;
    let name = source.rsplit(['/', '=']).next()?;
    (!name.is_empty()).then(|| name.to_owned())
}

fn tagged(line: &str) -> Option<&str> {
    let (tag, value) = line.split_once(':')?;
    ["source", "source0"].contains(&tag.trim().to_ascii_lowercase().as_str()).then(|| value.trim())
}

/// `%name`, `%{name}`, `%{?name}` and `%%`; nothing else.
fn expand(text: &str, macros: &BTreeMap<String, String>, left: &mut usize) -> Option<String> {
    let mut done = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        done.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            done.push('%');
            rest = after;
            continue;
        }
        let (name, after) = match after.strip_prefix('{') {
            Some(braced) => braced.split_once('}')?,
            None => after.split_at(after.find(|c: char| !is_name(c)).unwrap_or(after.len())),
        };
        let (name, may_lack) = match name.strip_prefix('?') {
            Some(name) => (name, true),
            None => (name, false),
        };
        *left = left.checked_sub(1)?;
        if name.is_empty() || !name.chars().all(is_name) {
            return None;
        }
        match macros.get(name) {
            Some(value) => done.push_str(&expand(value, macros, left)?),
            None if may_lack => {}
            None => return None,
        }
        if done.len() > MAX_TEXT {
            return None;
        }
        rest = after;
    }
    done.push_str(rest);
    Some(done)
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain("Source0: a-1.tar.gz", Some("a-1.tar.gz"))]
    #[case::without_number("Source:\thttps://host.example/x/a-1.tar.gz", Some("a-1.tar.gz"))]
    #[case::renamed("Source0: https://host.example/get?n=1#/a.tgz", Some("a.tgz"))]
    #[case::macros("%global up kmod\nSource0: %{up}-%version%{?beta}.tar.xz", Some("kmod-1.0.tar.xz"))]
    #[case::within_macros(
        "%define base %{name}-%{version}\nSource0: %{base}.tar.gz",
        Some("gauge-1.0.tar.gz")
    )]
    #[case::the_header_goes_before("%define version 9\nSource0: a-%{version}.tgz", Some("a-1.0.tgz"))]
    #[case::a_program("Source0: a-%(date).tar.gz", None)]
    #[case::unknown("Source0: a-%{commit}.tar.gz", None)]
    #[case::in_a_circle("%define a %{b}\n%define b %{a}\nSource0: %{a}.tar", None)]
    #[case::grows(
        "%define a xx%{b}%{b}\n%define b yyyy%{c}%{c}\n%define c %{d}%{d}\n%define d 1\nSource0: %{a}",
        Some("xxyyyy1111yyyy1111")
    )]
    #[case::none("Name: a", None)]
    fn the_first_source_is_told(#[case] spec: &str, #[case] expected: Option<&str>) {
        let known = [("name", "gauge"), ("version", "1.0")];
        let known = known.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(first_source(spec, &known).as_deref(), expected);
    }
}
