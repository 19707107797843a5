//! Module parameters: `name=value`, quoted as the kernel does it (`lib/cmdline.c`, `next_arg`): double quotes keep
//! spaces together, and there is no way to write a double quote inside of quotes.

use std::fmt;

use crate::ModuleName;

/// One parameter, checked so that the kernel will read back what was meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Parameter {
    name: String,
    value: Option<String>,
}

/// Why a text is not a parameter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// There is no name before the `=`.
    #[error("parameter {0:?} has no name")]
    NoName(String),
    /// White space or quotes in the name.
    #[error("parameter name {0:?} contains {1:?}")]
    Name(String, char),
    /// A zero byte or a line break: it would end the text, or forge a line of a log.
    #[error("the value of parameter {0:?} contains a control character")]
    Control(String),
    /// The kernel knows no escape for a quote.
    #[error(
        "the value of parameter {0:?} contains a double quote, which the kernel cannot be given inside a value"
    )]
    Quote(String),
    /// A quote that is never closed.
    #[error("a double quote is not closed in {0:?}")]
    Unclosed(String),
}

impl Parameter {
    /// Checks a name and a value. A flag (`debug`) has no value; an empty value (`name=`) is a value.
    pub fn new(name: &str, value: Option<&str>) -> Result<Self, ParameterError> {
        if name.is_empty() {
            return Err(ParameterError::NoName(value.unwrap_or_default().to_owned()));
        }
        if let Some(c) = name.chars().find(|c| c.is_whitespace() || c.is_control() || matches!(c, '"' | '='))
        {
            return Err(ParameterError::Name(name.to_owned(), c));
        }
        if let Some(value) = value {
            // A tab separates nothing that is quoted, and some drivers take one.
            if value.chars().any(|c| c.is_control() && c != '\t') {
                return Err(ParameterError::Control(name.to_owned()));
            }
            if value.contains('"') {
                return Err(ParameterError::Quote(name.to_owned()));
            }
        }
        Ok(Self { name: name.to_owned(), value: value.map(str::to_owned) })
    }

    /// Reads one parameter as an element of a list has it, or an argument of modprobe: everything behind the first `=`
    /// is the value, spaces included. One pair of quotes around the value, or around all, is taken off.
    pub fn parse(text: &str) -> Result<Self, ParameterError> {
        let text = unquoted(text);
        match text.split_once('=') {
            Some((name, value)) => Self::new(name, Some(unquoted(value))),
            None => Self::new(text, None),
        }
    }

    /// Reads a line of parameters as the kernel does: separated by white space outside of quotes.
    pub fn parse_line(line: &str) -> Result<Vec<Self>, ParameterError> {
        if line.bytes().filter(|&byte| byte == b'"').count() % 2 != 0 {
            return Err(ParameterError::Unclosed(line.to_owned()));
        }
        words(line).map(Self::parse).collect()
    }

    /// Its name, without the module's, as it was written.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its value; none for a flag.
    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }

    /// Whether it sets the parameter of this name: `-` and `_` are the same to the kernel.
    pub fn is_named(&self, name: &str) -> bool {
        same_name(&self.name, name)
    }
}

impl fmt::Display for Parameter {
    /// The form that the kernel takes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            None => f.write_str(&self.name),
            Some(value) if value.contains(char::is_whitespace) => write!(f, "{}=\"{value}\"", self.name),
            Some(value) => write!(f, "{}={value}", self.name),
        }
    }
}

/// The string that the system call `finit_module` takes.
pub fn render<'a>(parameters: impl IntoIterator<Item = &'a Parameter>) -> String {
    let mut line = String::new();
    for parameter in parameters {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&parameter.to_string());
    }
    line
}

/// The parameters that a kernel's command line holds for a module (`mod.name=value`), in their order: modprobe gives them
/// to a module before those of its own arguments. Behind `--` stands what is init's. What is not a parameter is left out.
pub fn from_command_line(command_line: &str, module: &ModuleName) -> Vec<Parameter> {
    let of_module = |word: &str| {
        let word = unquoted(word);
        let name_end = word.find('=').unwrap_or(word.len());
        // Names of modules can have dots; names of parameters have none.
        let dot = word.get(..name_end)?.rfind('.')?;
        let (prefix, rest) = word.split_at_checked(dot)?;
        module.matches(prefix).then(|| Parameter::parse(rest.strip_prefix('.')?).ok()).flatten()
    };
    words(command_line).take_while(|&word| word != "--").filter_map(of_module).collect()
}

fn same_name(one: &str, other: &str) -> bool {
    let dashes =
        |name: &str| name.bytes().map(|byte| if byte == b'-' { b'_' } else { byte }).collect::<Vec<_>>();
    one.len() == other.len() && dashes(one) == dashes(other)
}

/// The words of a line; white space inside of double quotes does not separate.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let separates = move |c: char| {
        quoted ^= c == '"';
        c.is_ascii_whitespace() && !quoted
    };
    line.split(separates).filter(|word| !word.is_empty())
}

fn unquoted(text: &str) -> &str {
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    inner.unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("count=3", "count", Some("3"), "count=3")]
    #[case("debug", "debug", None, "debug")]
    #[case("label=", "label", Some(""), "label=")]
    #[case("label=two words", "label", Some("two words"), "label=\"two words\"")]
    #[case("label=\"two words\"", "label", Some("two words"), "label=\"two words\"")]
    #[case("\"label=two words\"", "label", Some("two words"), "label=\"two words\"")]
    #[case("path=a=b", "path", Some("a=b"), "path=a=b")]
    #[case("list=1,2,3", "list", Some("1,2,3"), "list=1,2,3")]
    fn a_parameter_is_read_and_rendered(
        #[case] text: &str,
        #[case] name: &str,
        #[case] value: Option<&str>,
        #[case] rendered: &str,
    ) {
        let parameter = Parameter::parse(text).unwrap();
        assert_eq!((parameter.name(), parameter.value()), (name, value));
        assert_eq!(parameter.to_string(), rendered);
    }

    #[rstest]
    #[case("", ParameterError::NoName(String::new()))]
    #[case("=3", ParameterError::NoName("3".into()))]
    #[case("a b=3", ParameterError::Name("a b".into(), ' '))]
    #[case("a=1\nb=2", ParameterError::Control("a".into()))]
    #[case("a=x\0", ParameterError::Control("a".into()))]
    #[case("a=say \"hi\"", ParameterError::Quote("a".into()))]
    fn a_bad_parameter_is_refused(#[case] text: &str, #[case] expected: ParameterError) {
        assert_eq!(Parameter::parse(text), Err(expected));
    }

    #[test]
    fn a_line_is_split_outside_of_quotes() {
        let parameters = Parameter::parse_line("  a=1\tb=\"x y\" \"c=p q\" d ").unwrap();
        assert_eq!(render(&parameters), "a=1 b=\"x y\" c=\"p q\" d");
        assert_eq!(Parameter::parse_line("a=\"1 b=2"), Err(ParameterError::Unclosed("a=\"1 b=2".into())));
        assert_eq!(Parameter::parse_line(""), Ok(Vec::new()));
    }

    #[test]
    fn a_kernel_command_line_holds_parameters_of_modules() {
        let line = "BOOT_IMAGE=/vmlinuz root=/dev/vda1 snd-hda_intel.model=auto snd_hda_intel.id=\"my card\" quiet \
                    snd.debug=1 snd_hda_intel.power_save \"snd-hda-intel.x=a b\" -- snd_hda_intel.late=1";
        let module = ModuleName::new("snd-hda-intel").unwrap();
        let found = from_command_line(line, &module);
        assert_eq!(render(&found), "model=auto id=\"my card\" power_save x=\"a b\"");
        assert_eq!(from_command_line("a=b.snd=1", &ModuleName::new("snd").unwrap()), []);
    }

    #[test]
    fn dashes_in_parameter_names_do_not_count() {
        let parameter = Parameter::parse("max-count=3").unwrap();
        assert!(parameter.is_named("max_count") && !parameter.is_named("max_counts"));
    }

    proptest! {
        #[test]
        fn what_is_rendered_is_read_back(values in prop::collection::vec(("[a-z_]{1,8}", prop::option::of("[ -!#-~]{0,12}")), 0..6)) {
            let parameters: Vec<Parameter> =
                values.iter().filter_map(|(name, value)| Parameter::new(name, value.as_deref()).ok()).collect();
            prop_assert_eq!(Parameter::parse_line(&render(&parameters)), Ok(parameters));
        }

        #[test]
        fn no_text_panics(text in "\\PC*", line in "[ab=\" .\\-]{0,30}") {
            let _ = (Parameter::parse(&text), Parameter::parse_line(&line));
            let _ = from_command_line(&line, &ModuleName::new("a").unwrap());
        }
    }
}
