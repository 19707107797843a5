//! Which images a Dockerfile builds on: their digests count among what a build is made from, and pin what it uses.
//!
//! Only what names an image is understood: `ARG` before and `FROM`, `COPY --from`, and `RUN --mount=from` (Dockerfile
//! reference, docs.docker.com). The rest is the builder's.

use std::collections::{BTreeMap, BTreeSet};

use crate::template::{self, TemplateError, Variables};

/// The most lines that are looked at.
const MOST_LINES: usize = 20_000;

/// What has a value in `FROM` without being declared.
pub const PLATFORM: [&str; 6] =
    ["TARGETPLATFORM", "TARGETOS", "TARGETARCH", "BUILDPLATFORM", "BUILDOS", "BUILDARCH"];

/// Why it is not known what a Dockerfile builds on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DockerfileError {
    /// There is nothing in it to build.
    #[error("the Dockerfile has no FROM")]
    NoFrom,
    /// `FROM` without a name.
    #[error("line {line} of the Dockerfile: FROM names no image")]
    Nameless {
        /// Counted from one.
        line: usize,
    },
    /// A variable without a value.
    #[error("line {line} of the Dockerfile: {source}")]
    Variable {
        /// Counted from one.
        line: usize,
        /// Which.
        source: TemplateError,
    },
    /// An image that the builder cannot be told the digest of.
    #[error(
        "line {line} of the Dockerfile: `{image}` has a `=`: give the variable its default where it is declared, by ARG"
    )]
    Unpinnable {
        /// Counted from one.
        line: usize,
        /// As it is written.
        image: String,
    },
    /// A stage that is called like an image.
    #[error(
        "line {line} of the Dockerfile: the stage {stage} is called like an image that is built on: call it otherwise"
    )]
    Ambiguous {
        /// Counted from one.
        line: usize,
        /// Its name.
        stage: String,
    },
    /// It has more lines than anybody writes.
    #[error("the Dockerfile has more than {MOST_LINES} lines")]
    TooLong,
}

/// The images that a Dockerfile names: as it writes them, and with variables replaced. Neither stages of its own nor `scratch`.
/// `arguments` are the build's.
pub fn images(text: &str, arguments: &Variables) -> Result<BTreeMap<String, String>, DockerfileError> {
    let mut found = BTreeMap::new();
    let mut known = Variables::default();
    for name in PLATFORM {
        if let Some(value) = arguments.get(name) {
            known.set(name, value);
        }
    }
    let mut reading = Reading { arguments, within: known.clone(), known, stages: BTreeSet::new(), count: 0 };
    for (line, instruction) in instructions(text)? {
        reading.take(line, &instruction, &mut found)?;
    }
    if reading.count == 0 { Err(DockerfileError::NoFrom) } else { Ok(found) }
}

struct Reading<'a> {
    arguments: &'a Variables,
    /// What `ARG` before the first `FROM` declares: only that has a value in `FROM`.
    known: Variables,
    /// What `ARG` declares within the stage.
    within: Variables,
    stages: BTreeSet<String>,
    count: usize,
}

impl Reading<'_> {
    fn take(
        &mut self,
        line: usize,
        instruction: &str,
        found: &mut BTreeMap<String, String>,
    ) -> Result<(), DockerfileError> {
        let (word, rest) = words(instruction);
        // What the next build does is hashed and pinned all the same. It may not be said twice.
        let (word, rest) = if word.eq_ignore_ascii_case("ONBUILD") { words(rest) } else { (word, rest) };
        match word.to_ascii_uppercase().as_str() {
            "ARG" => {
                self.declare(rest);
                Ok(())
            }
            "FROM" => self.stage(line, rest, found),
            "COPY" => {
                let from = flags(rest).filter_map(|flag| flag.strip_prefix("--from="));
                for name in from {
                    // The builder compares these after it has replaced variables.
                    let name = template::expand(&unquoted(name), &self.within)
                        .map_err(|source| DockerfileError::Variable { line, source })?;
                    if self.is_image(&name) {
                        found.insert(name.clone(), name);
                    }
                }
                Ok(())
            }
            "RUN" => {
                let mounts = flags(rest).filter_map(|flag| flag.strip_prefix("--mount="));
                let from =
                    mounts.flat_map(|mount| mount.split(',')).filter_map(|part| part.strip_prefix("from="));
                found.extend(from.filter(|name| self.is_image(name)).map(as_it_is));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn expand(&self, line: usize, text: &str) -> Result<String, DockerfileError> {
        let failed = |source| DockerfileError::Variable { line, source };
        template::expand(&unquoted(text), &self.known).map_err(failed)
    }

    /// `ARG NAME[=default] …`: the build's own argument goes before the default.
    fn declare(&mut self, rest: &str) {
        for declared in rest.split_whitespace() {
            let (name, default) =
                declared.split_once('=').map_or((declared, None), |(name, value)| (name, Some(value)));
            let value = match (self.arguments.get(name), default) {
                (Some(given), _) => given.to_owned(),
                // What has no value is told where it names an image.
                (None, Some(default)) => {
                    let scope = if self.count == 0 { &self.known } else { &self.within };
                    match template::expand(&unquoted(default), scope) {
                        Ok(value) => value,
                        Err(_) => continue,
                    }
                }
                // Declared again, it has the value from before the first stage.
                (None, None) => match self.known.get(name) {
                    Some(known) => known.to_owned(),
                    None => continue,
                },
            };
            let scope = if self.count == 0 { &mut self.known } else { &mut self.within };
            scope.set(name.to_owned(), value);
        }
    }

    /// `FROM [--platform=…] <image> [AS <name>]`.
    fn stage(
        &mut self,
        line: usize,
        rest: &str,
        found: &mut BTreeMap<String, String>,
    ) -> Result<(), DockerfileError> {
        let mut words = rest.split_whitespace().skip_while(|word| word.starts_with("--"));
        let written = words.next().ok_or(DockerfileError::Nameless { line })?;
        let image = self.expand(line, written)?;
        if image.is_empty() {
            return Err(DockerfileError::Nameless { line });
        }
        if self.is_image(&image) {
            if written.contains('=') {
                return Err(DockerfileError::Unpinnable { line, image: written.to_owned() });
            }
            found.insert(written.to_owned(), image);
        }
        if words.next().is_some_and(|word| word.eq_ignore_ascii_case("as")) {
            let stage = words.next().unwrap_or_default();
            // The builder looks among the images that are pinned before it looks among stages.
            if found.contains_key(stage) {
                return Err(DockerfileError::Ambiguous { line, stage: stage.to_owned() });
            }
            self.stages.insert(stage.to_ascii_lowercase());
        }
        self.count += 1;
        self.within = Variables::default();
        Ok(())
    }

    /// Whether a name is neither a stage, by name or number, nor nothing.
    fn is_image(&self, name: &str) -> bool {
        let name = unquoted(name).to_ascii_lowercase();
        let is_number = name.parse::<usize>().is_ok_and(|number| number < self.count);
        name != "scratch" && !is_number && !self.stages.contains(&name)
    }
}

/// The first word, and the rest.
fn words(instruction: &str) -> (&str, &str) {
    let (word, rest) = instruction.split_once(char::is_whitespace).unwrap_or((instruction, ""));
    (word, rest.trim_start())
}

/// The flags that an instruction begins with.
fn flags(rest: &str) -> impl Iterator<Item = &str> {
    rest.split_whitespace().take_while(|word| word.starts_with("--"))
}

/// Only `FROM` has variables.
fn as_it_is(name: &str) -> (String, String) {
    (name.to_owned(), unquoted(name))
}

fn unquoted(text: &str) -> String {
    let inner = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(text).to_owned()
}

/// Instructions with the number of the line where they begin: lines that go on are joined, comments and empty lines left out.
fn instructions(text: &str) -> Result<Vec<(usize, String)>, DockerfileError> {
    let escape = escape(text);
    let mut all: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (index, line) in text.lines().enumerate() {
        if index >= MOST_LINES {
            return Err(DockerfileError::TooLong);
        }
        let line = line.trim();
        // Also between lines that belong together.
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (part, more) = line.strip_suffix(escape).map_or((line, false), |part| (part, true));
        match all.last_mut().filter(|_| goes_on) {
            Some((_, whole)) => {
                whole.push(' ');
                whole.push_str(part);
            }
            None => all.push((index + 1, part.to_owned())),
        }
        goes_on = more;
    }
    Ok(all)
}

/// The character that lets a line go on: a directive in the first comments may change it.
fn escape(text: &str) -> char {
    let directives = text.lines().map_while(|line| line.trim().strip_prefix('#'));
    let entries: BTreeMap<_, _> = directives.filter_map(|line| line.split_once('=')).map(trimmed).collect();
    if entries.get("escape") == Some(&"`") { '`' } else { '\\' }
}

fn trimmed<'t>((name, value): (&'t str, &'t str)) -> (&'t str, &'t str) {
    (name.trim(), value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn arguments() -> Variables {
        let mut arguments = Variables::default();
        arguments.set("KERNEL_VERSION", "6.1.0");
        arguments.set("TARGETARCH", "amd64");
        arguments
    }

    #[rstest]
    #[case::one("FROM a:1\nRUN make", &["a:1"])]
    #[case::lower_case("from a:1", &["a:1"])]
    #[case::stages("FROM a:1 AS Build\nRUN x\nFROM b:2\nCOPY --from=build /x /y\nCOPY --from=0 /x /y", &["a:1", "b:2"])]
    #[case::a_stage_on_a_stage("FROM a:1 AS one\nFROM one AS two", &["a:1"])]
    #[case::scratch("FROM scratch\nCOPY --from=c:3 /x /y", &["c:3"])]
    #[case::copied_from_a_variable("FROM a:1\nARG T=2\nCOPY --from=b:${T} /x /y", &["a:1", "b:2"])]
    #[case::arguments_that_name_no_image(
        "FROM a:1\nARG KERNEL_VERSION\nARG KDIR=/lib/modules/${KERNEL_VERSION}/build\nARG U=${V}/x\nARG W=${X%y}\nRUN make", &["a:1"]
    )]
    #[case::in_the_next_build("FROM a:1\nONBUILD COPY --from=b:2 /x /y", &["a:1", "b:2"])]
    #[case::mounts("FROM a:1\nRUN --mount=type=bind,from=d:4,target=/m --network=none make", &["a:1", "d:4"])]
    #[case::arguments("ARG KERNEL_VERSION\nFROM dtk:${KERNEL_VERSION}", &["dtk:6.1.0"])]
    #[case::defaults("ARG BASE=a TAG=1\nARG WHOLE=${BASE}:$TAG\nFROM $WHOLE", &["a:1"])]
    #[case::the_builds_own_goes_before("ARG KERNEL_VERSION=5\nFROM dtk:${KERNEL_VERSION}", &["dtk:6.1.0"])]
    #[case::platform("FROM --platform=linux/amd64 a:1 AS x", &["a:1"])]
    #[case::for_what("FROM a:${TARGETARCH}", &["a:amd64"])]
    #[case::long_lines("FROM \\\n  # why\n\n  a:1 \\\n  AS x\nFROM x", &["a:1"])]
    #[case::another_escape("# escape=`\nFROM `\n a:1", &["a:1"])]
    #[case::what_a_shell_is_told("FROM a:1\nRUN echo \\\nFROM b:2", &["a:1"])]
    #[case::quoted("ARG A=\"a:1\"\nFROM $A", &["a:1"])]
    fn what_a_dockerfile_builds_on(#[case] text: &str, #[case] expected: &[&str]) {
        let found = images(text, &arguments()).unwrap();
        assert_eq!(found.values().map(String::as_str).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_pinned_is_known_as_it_is_written() {
        let found = images("ARG KERNEL_VERSION\nFROM dtk:${KERNEL_VERSION} AS x", &arguments()).unwrap();
        assert_eq!(found, [("dtk:${KERNEL_VERSION}".to_owned(), "dtk:6.1.0".to_owned())].into());
    }

    #[rstest]
    #[case::empty("", "no FROM")]
    #[case::without_from("RUN make", "no FROM")]
    #[case::nameless("\nFROM ", "line 2 of the Dockerfile: FROM names no image")]
    #[case::only_a_flag("FROM --platform=x", "names no image")]
    // Declared in the stage before, it has no value in FROM.
    #[case::undeclared("FROM a:1\nARG X=1\nFROM b:$X", "line 3 of the Dockerfile: `b:$X` uses ${X}")]
    #[case::unpinnable("FROM ${X:=a}", "line 1 of the Dockerfile: `${X:=a}` has a `=`")]
    #[case::ambiguous(
        "FROM alpine AS alpine\nRUN x\nFROM alpine",
        "the stage alpine is called like an image"
    )]
    #[case::without_value("ARG DTK_AUTO\nFROM ${DTK_AUTO}", "uses ${DTK_AUTO}")]
    fn what_is_not_known_is_named(#[case] text: &str, #[case] expected: &str) {
        let error = images(text, &arguments()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(FROM|ARG|COPY --from=|RUN --mount=from=|[a:${}\\\\=\n #\"]){0,60}") {
            let _ = images(&text, &arguments());
        }
    }
}
