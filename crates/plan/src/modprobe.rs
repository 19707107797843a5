//! What modprobe's options mean here: KMM hands `args` and `rawArgs` to a modprobe on the node, Tenon has none.
//!
//! Each option is either what Tenon does anyhow, or a setting that Tenon has, or refused with the reason. The table
//! [`OPTIONS`] is the whole truth; the user's guide prints it. Options are those of kmod 30's `modprobe(8)`.

/// What an option of modprobe comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Accepted: Tenon behaves so in any case, or the option has nothing to act on. The text says why.
    None(&'static str),
    /// Names the directory below which `lib/modules` lies; the same as `dirName`.
    DirName,
    /// Would change what is loaded behind the user's back, or load nothing. The text says what to do instead.
    Refused(&'static str),
}

/// One option: its letter (if any), its long name (without dashes), whether a value follows, and what it comes to.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// The single letter, as in `-v`.
    pub short: Option<char>,
    /// The long name, as in `--verbose`.
    pub long: &'static str,
    /// Whether a value belongs to it.
    pub value: bool,
    /// What it comes to.
    pub effect: Effect,
}

const REPORTED: Effect = Effect::None("every load is reported with the kernel's own words");
const FORCE: Effect = Effect::Refused(
    "forcing a module past the kernel's checks can corrupt the kernel; build it for this kernel",
);
const READ_ONLY: Effect = Effect::Refused("with it modprobe loads nothing; remove it");

/// Every option of modprobe and what it means here.
pub const OPTIONS: &[Opt] = &[
    opt('v', "verbose", false, REPORTED),
    opt('q', "quiet", false, REPORTED),
    opt('s', "syslog", false, REPORTED),
    opt('d', "dirname", true, Effect::DirName),
    opt('r', "remove", false, Effect::None("unloading is what the unload list is for")),
    opt('i', "ignore-install", false, Effect::None("install commands are never run")),
    long("ignore-remove", false, Effect::None("remove commands are never run")),
    opt('b', "use-blacklist", false, Effect::None("modules are named, and blacklists apply to aliases only")),
    long(
        "first-time",
        false,
        Effect::None("a module that is loaded already is adopted when it is the same build"),
    ),
    opt('w', "wait", true, Effect::None("a busy module is waited for without end")),
    opt('a', "all", false, Effect::None("with one module name it changes nothing")),
    opt('f', "force", false, FORCE),
    long("force-vermagic", false, FORCE),
    long("force-modversion", false, FORCE),
    long(
        "remove-holders",
        false,
        Effect::Refused(
            "it would unload modules that are none of this Module's; name them in modulesLoadingOrder",
        ),
    ),
    opt(
        'C',
        "config",
        true,
        Effect::Refused("configuration files are not read; use parameters and modulesLoadingOrder"),
    ),
    opt(
        'S',
        "set-version",
        true,
        Effect::Refused("a module is loaded into the running kernel only; use kernelMappings"),
    ),
    opt('n', "dry-run", false, READ_ONLY),
    long("show", false, READ_ONLY),
    opt('D', "show-depends", false, READ_ONLY),
    opt('R', "resolve-alias", false, READ_ONLY),
    opt('c', "showconfig", false, READ_ONLY),
    long("show-config", false, READ_ONLY),
    long("show-modversions", false, READ_ONLY),
    long("dump-modversions", false, READ_ONLY),
    long("show-exports", false, READ_ONLY),
    opt('V', "version", false, READ_ONLY),
    opt('h', "help", false, READ_ONLY),
];

const fn opt(short: char, long: &'static str, value: bool, effect: Effect) -> Opt {
    Opt { short: Some(short), long, value, effect }
}

const fn long(long: &'static str, value: bool, effect: Effect) -> Opt {
    Opt { short: None, long, value, effect }
}

/// What a list of modprobe arguments asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments {
    /// `-d`: where `lib/modules` lies.
    pub dir_name: Option<String>,
    /// What is no option: module names, or a module's name and its parameters.
    pub positional: Vec<String>,
}

/// Why a list of modprobe arguments is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// Not an option of modprobe.
    #[error("{field}[{index}]: modprobe has no option `{option}`")]
    Unknown {
        /// The list's path in the Module.
        field: &'static str,
        /// Which item.
        index: usize,
        /// The option as written.
        option: String,
    },
    /// An option whose effect Tenon refuses.
    #[error("{field}[{index}]: `{option}` is not supported: {why}")]
    Refused {
        /// The list's path in the Module.
        field: &'static str,
        /// Which item.
        index: usize,
        /// The option as written.
        option: String,
        /// The reason, and the way out.
        why: &'static str,
    },
    /// The last argument is an option that wants a value.
    #[error("{field}[{index}]: `{option}` needs a value")]
    NoValue {
        /// The list's path in the Module.
        field: &'static str,
        /// Which item.
        index: usize,
        /// The option as written.
        option: String,
    },
}

/// Reads `arguments`, which stand at `field` of the Module.
pub fn parse(field: &'static str, arguments: &[String]) -> Result<Arguments, ArgumentError> {
    let mut out = Arguments::default();
    let mut items = arguments.iter().enumerate();
    while let Some((index, item)) = items.next() {
        let cursor = Cursor { field, index };
        if let Some(name) = item.strip_prefix("--").filter(|name| !name.is_empty()) {
            let (name, inline) = name.split_once('=').map_or((name, None), |(n, v)| (n, Some(v)));
            let option = cursor.find(item, |option| option.long == name)?;
            let value = match (option.value, inline) {
                (false, _) => None,
                (true, Some(value)) => Some(value.to_owned()),
                (true, None) => Some(cursor.following(item, items.next())?),
            };
            cursor.apply(item, option, value, &mut out)?;
        } else if let Some(letters) =
            item.strip_prefix('-').filter(|letters| !letters.is_empty() && item != "--")
        {
            for (at, letter) in letters.char_indices() {
                let written = format!("-{letter}");
                let option = cursor.find(&written, |option| option.short == Some(letter))?;
                let rest = letters.get(at + letter.len_utf8()..).unwrap_or_default();
                let value = match (option.value, rest) {
                    (false, _) => None,
                    (true, "") => Some(cursor.following(&written, items.next())?),
                    (true, rest) => Some(rest.to_owned()),
                };
                let ends = value.is_some();
                cursor.apply(&written, option, value, &mut out)?;
                if ends {
                    break;
                }
            }
        } else if item != "--" {
            out.positional.push(item.clone());
        }
    }
    Ok(out)
}

/// Where in the Module the argument in hand stands, for messages.
#[derive(Clone, Copy)]
struct Cursor {
    field: &'static str,
    index: usize,
}

impl Cursor {
    fn find(self, written: &str, matches: impl Fn(&Opt) -> bool) -> Result<&'static Opt, ArgumentError> {
        OPTIONS.iter().find(|option| matches(option)).ok_or_else(|| ArgumentError::Unknown {
            field: self.field,
            index: self.index,
            option: written.to_owned(),
        })
    }

    fn following(self, written: &str, next: Option<(usize, &String)>) -> Result<String, ArgumentError> {
        next.map(|(_, value)| value.clone()).ok_or_else(|| ArgumentError::NoValue {
            field: self.field,
            index: self.index,
            option: written.to_owned(),
        })
    }

    fn apply(
        self,
        written: &str,
        option: &Opt,
        value: Option<String>,
        out: &mut Arguments,
    ) -> Result<(), ArgumentError> {
        match option.effect {
            Effect::None(_) => {}
            Effect::DirName => out.dir_name = value,
            Effect::Refused(why) => {
                return Err(ArgumentError::Refused {
                    field: self.field,
                    index: self.index,
                    option: written.to_owned(),
                    why,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[rstest]
    #[case("", None, "")]
    #[case("-v --quiet -s -i", None, "")]
    #[case("-d /opt mod_a a=1", Some("/opt"), "mod_a a=1")]
    #[case("-vd /opt mod_a", Some("/opt"), "mod_a")]
    #[case("-rvd/opt mod_a", Some("/opt"), "mod_a")]
    #[case("--dirname=/x -- mod_a", Some("/x"), "mod_a")]
    #[case("--dirname /x -w 100 mod_a", Some("/x"), "mod_a")]
    fn an_accepted_list_is_read(
        #[case] text: &str,
        #[case] dir_name: Option<&str>,
        #[case] positional: &str,
    ) {
        let expected = Arguments { dir_name: dir_name.map(str::to_owned), positional: words(positional) };
        assert_eq!(parse("f", &words(text)), Ok(expected));
    }

    #[rstest]
    #[case("-f mod_a", "f[0]: `-f` is not supported: forcing")]
    #[case("-v --force-vermagic", "f[1]: `--force-vermagic` is not supported")]
    #[case("-vn", "f[0]: `-n` is not supported: with it modprobe loads nothing")]
    #[case("--nosuch", "f[0]: modprobe has no option `--nosuch`")]
    #[case("-Z", "f[0]: modprobe has no option `-Z`")]
    #[case("mod_a -d", "f[1]: `-d` needs a value")]
    fn a_refused_option_is_named_with_its_place(#[case] text: &str, #[case] expected: &str) {
        let message = parse("f", &words(text)).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
    }

    proptest! {
        #[test]
        fn no_list_panics(list in proptest::collection::vec("-{0,3}[a-zäA-Z=]{0,6}", 0..6)) {
            let _ = parse("f", &list);
        }
    }

    #[test]
    fn no_option_stands_in_the_table_twice() {
        for (index, option) in OPTIONS.iter().enumerate() {
            let others = OPTIONS.iter().skip(index + 1);
            assert!(others.clone().all(|other| other.long != option.long), "{}", option.long);
            assert!(option.short.is_none() || others.clone().all(|other| other.short != option.short));
        }
    }
}
