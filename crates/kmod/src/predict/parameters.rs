//! `parse_args` of `kernel/params.c` with the standard types of parameters: the last value that is refused decides.

use super::{Cause, Effect, Judgement};
use crate::failure::Errno;
use crate::parameters::Parameter;

/// What a type says to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Takes,
    Refuses(Errno),
    Cannot,
}

/// Parameters that every module has without declaring them (`unknown_module_param_cb`).
const EVERYWHERE: [&str; 2] = ["async_probe", "dyndbg"];

impl Judgement<'_> {
    pub(super) fn parameters(&mut self) {
        let declared = self.module.info.parameters();
        let mut findings = Vec::new();
        for given in &self.circumstances.parameters {
            if given.name() == "--" && given.value().is_none() {
                break;
            }
            let parameter = given.name().to_owned();
            let declaration = declared.iter().find(|declared| given.is_named(&declared.name));
            let described = declaration.map(|declaration| declaration.kind.as_deref().unwrap_or_default());
            let Some(kind) = self.kind(given, described) else {
                if !EVERYWHERE.iter().any(|name| given.is_named(name)) {
                    findings.push((Effect::Note, Cause::UnknownParameter { parameter }));
                }
                continue;
            };
            match self.answer(kind, given) {
                Answer::Takes => {}
                Answer::Cannot => {
                    findings.push((Effect::Unknown, Cause::ParameterNotChecked { parameter }));
                }
                Answer::Refuses(errno) => {
                    let value = given.value().unwrap_or_default().to_owned();
                    let cause = Cause::InvalidParameter { parameter, value, kind: kind.to_owned() };
                    findings.push((Effect::Fails(errno), cause));
                }
            }
        }
        let last = findings.iter().rev().find_map(|(effect, _)| match effect {
            Effect::Fails(errno) => Some(*errno),
            Effect::Unknown | Effect::Note => None,
        });
        if let Some(errno) = last {
            self.verdict.get_or_insert(errno);
        }
        for (effect, cause) in findings {
            self.found(effect, cause);
        }
    }

    /// What the parameter takes by its table, of which the description may differ; none where there is no such parameter.
    fn kind<'a>(&'a self, given: &Parameter, described: Option<&'a str>) -> Option<&'a str> {
        let readers = &self.module.parameter_readers;
        if readers.is_empty() {
            return described;
        }
        let reader = readers.get(given.name().replace('-', "_").as_str())?;
        match reader.as_deref() {
            // The elements' reader is told by the description only.
            Some("param_array_ops") => Some(described.unwrap_or_default()),
            Some(reader) => Some(reader.strip_prefix("param_ops_").unwrap_or_default()),
            None => Some(""),
        }
    }

    fn answer(&self, kind: &str, given: &Parameter) -> Answer {
        let limit = self.module.parameter_limits.get(given.name().replace('-', "_").as_str()).copied();
        match (kind, given.value()) {
            // Of the kernel's own, only these take no value (KERNEL_PARAM_OPS_FL_NOARG).
            ("bool" | "bint", None) => Answer::Takes,
            ("string", None) => Answer::Refuses(Errno::EINVAL),
            (kind, None) if kind.starts_with("array of ") => Answer::Refuses(Errno::EINVAL),
            (kind, None) => match self.scalar(kind, "") {
                Answer::Cannot => Answer::Cannot,
                Answer::Takes | Answer::Refuses(_) => Answer::Refuses(Errno::EINVAL),
            },
            ("string", Some(value)) => string(value, limit),
            (kind, Some(value)) => match kind.strip_prefix("array of ") {
                Some(element) => self.array(element, value, limit),
                None => self.scalar(kind, value),
            },
        }
    }

    /// `param_array`: stops at the first element that is refused, or is one too many.
    fn array(&self, element: &str, value: &str, limit: Option<u32>) -> Answer {
        for (index, item) in value.split(',').enumerate() {
            match limit.and_then(|limit| usize::try_from(limit).ok()) {
                Some(limit) if index >= limit => return Answer::Refuses(Errno::EINVAL),
                None if index > 0 => return Answer::Cannot,
                _ => {}
            }
            match self.scalar(element, item) {
                Answer::Takes => {}
                other => return other,
            }
        }
        Answer::Takes
    }

    fn scalar(&self, kind: &str, value: &str) -> Answer {
        let long = if matches!(self.facts.architecture.as_str(), "386" | "arm") { 32 } else { 64 };
        match kind {
            "byte" => unsigned(value, 0, 8),
            "ushort" => unsigned(value, 0, 16),
            "uint" => unsigned(value, 0, 32),
            "hexint" => unsigned(value, 16, 32),
            "ulong" => unsigned(value, 0, long),
            "ullong" => unsigned(value, 0, 64),
            "short" => signed(value, 16),
            "int" => signed(value, 32),
            "long" => signed(value, long),
            "charp" if value.len() > 1024 => Answer::Refuses(Errno::ENOSPC),
            "charp" => Answer::Takes,
            "bool" | "invbool" | "bint" => self.boolean(value),
            _ => Answer::Cannot,
        }
    }

    /// `kstrtobool`: the first letter counts, of `on` and `off` the second.
    fn boolean(&self, value: &str) -> Answer {
        let mut letters = value.bytes().map(|letter| letter.to_ascii_lowercase());
        let since = |major, minor| match self.facts.is_since(major, minor) {
            Some(true) => Answer::Takes,
            Some(false) => Answer::Refuses(Errno::EINVAL),
            None => Answer::Cannot,
        };
        match letters.next() {
            Some(b'y' | b'1' | b'n' | b'0') => Answer::Takes,
            Some(b'o') if matches!(letters.next(), Some(b'n' | b'f')) => Answer::Takes,
            Some(b't' | b'f') => since(5, 18),
            Some(b'e' | b'd') => since(6, 9),
            _ => Answer::Refuses(Errno::EINVAL),
        }
    }
}

/// `param_set_copystring`: the final zero byte needs room, too.
fn string(value: &str, limit: Option<u32>) -> Answer {
    match limit.and_then(|limit| usize::try_from(limit).ok()) {
        Some(limit) if value.len() >= limit => Answer::Refuses(Errno::ENOSPC),
        Some(_) => Answer::Takes,
        None => Answer::Cannot,
    }
}

fn unsigned(value: &str, base: u32, bits: u32) -> Answer {
    match integer(value.strip_prefix('+').unwrap_or(value), base) {
        Ok(number) if bits < 64 && number >> bits != 0 => Answer::Refuses(Errno::ERANGE),
        Ok(_) => Answer::Takes,
        Err(errno) => Answer::Refuses(errno),
    }
}

fn signed(value: &str, bits: u32) -> Answer {
    let (digits, limit) = match value.strip_prefix('-') {
        Some(digits) => (digits, 1_u64 << (bits - 1)),
        None => (value.strip_prefix('+').unwrap_or(value), (1_u64 << (bits - 1)) - 1),
    };
    match integer(digits, 0) {
        Ok(number) if number > limit => Answer::Refuses(Errno::ERANGE),
        Ok(_) => Answer::Takes,
        Err(errno) => Answer::Refuses(errno),
    }
}

/// `_kstrtoull` of `lib/kstrtox.c`: `0x` and `0` tell the base, one line break may follow, and what does not fit is out of
/// range whatever follows.
fn integer(text: &str, base: u32) -> Result<u64, Errno> {
    let prefixed = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))
        .filter(|rest| rest.starts_with(|c: char| c.is_ascii_hexdigit()));
    let (digits, base) = match (base, prefixed) {
        (0 | 16, Some(digits)) => (digits, 16),
        (0, None) if text.starts_with('0') => (text, 8),
        (0, None) => (text, 10),
        (base, _) => (text, base),
    };
    let length = digits.find(|c: char| !c.is_digit(base)).unwrap_or(digits.len());
    let (number, rest) = digits.split_at_checked(length).unwrap_or((digits, ""));
    if number.is_empty() {
        return Err(Errno::EINVAL);
    }
    let number = u64::from_str_radix(number, base).map_err(|_| Errno::ERANGE)?;
    if matches!(rest, "" | "\n") { Ok(number) } else { Err(Errno::EINVAL) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::tests::{driver, fails, judge_in};
    use crate::predict::{Circumstances, Verdict};
    use rstest::rstest;

    #[rstest]
    #[case("0", Ok(0))]
    #[case("017", Ok(15))]
    #[case("0x1F", Ok(31))]
    #[case("0x", Err(Errno::EINVAL))]
    #[case("08", Err(Errno::EINVAL))]
    #[case("18446744073709551615", Ok(u64::MAX))]
    #[case("18446744073709551616", Err(Errno::ERANGE))]
    #[case("99999999999999999999x", Err(Errno::ERANGE))]
    #[case("7 ", Err(Errno::EINVAL))]
    #[case("7\n", Ok(7))]
    #[case("", Err(Errno::EINVAL))]
    #[case("--1", Err(Errno::EINVAL))]
    fn numbers_are_read_as_the_kernel_reads_them(#[case] text: &str, #[case] expected: Result<u64, Errno>) {
        assert_eq!(integer(text, 0), expected);
    }

    #[rstest]
    #[case("127", 8, Answer::Takes)]
    #[case("128", 8, Answer::Refuses(Errno::ERANGE))]
    #[case("-128", 8, Answer::Takes)]
    #[case("-129", 8, Answer::Refuses(Errno::ERANGE))]
    #[case("-9223372036854775808", 64, Answer::Takes)]
    #[case("9223372036854775808", 64, Answer::Refuses(Errno::ERANGE))]
    #[case("-", 32, Answer::Refuses(Errno::EINVAL))]
    fn signed_numbers_have_a_range(#[case] text: &str, #[case] bits: u32, #[case] expected: Answer) {
        assert_eq!(signed(text, bits), expected);
    }

    #[test]
    fn unsigned_numbers_have_no_minus() {
        assert_eq!(unsigned("-1", 0, 32), Answer::Refuses(Errno::EINVAL));
        assert_eq!(unsigned("ff", 16, 32), Answer::Takes);
        assert_eq!(unsigned("256", 0, 8), Answer::Refuses(Errno::ERANGE));
    }

    #[rstest]
    #[case("count=3", Verdict::Loads)]
    #[case("count=0x10", Verdict::Loads)]
    #[case("count=abc", fails(Errno::EINVAL))]
    #[case("count=3000000000", fails(Errno::ERANGE))]
    #[case("count", fails(Errno::EINVAL))]
    #[case("on", Verdict::Loads)]
    #[case("on=Yes", Verdict::Loads)]
    #[case("on=2", fails(Errno::EINVAL))]
    #[case("nosuch=1", Verdict::Loads)]
    #[case("list=1,2", Verdict::Loads)]
    #[case("list=1,2,3", fails(Errno::EINVAL))]
    #[case("list=1,x,3", fails(Errno::EINVAL))]
    #[case("loose=1", Verdict::Loads)]
    #[case("loose=1,2", Verdict::Unknown)]
    #[case("text=abc", Verdict::Loads)]
    #[case("text=abcd", fails(Errno::ENOSPC))]
    #[case("odd=1", Verdict::Unknown)]
    #[case("count=x count=99999999999999999999", fails(Errno::ERANGE))]
    #[case("count=99999999999999999999 count=x", fails(Errno::EINVAL))]
    fn parameters_are_read_as_the_kernel_reads_them(#[case] line: &str, #[case] expected: Verdict) {
        let types = [
            "count:int",
            "on:bool",
            "list:array of uint",
            "loose:array of uint",
            "text:string",
            "odd:own_type",
        ];
        let fixture = types.iter().fold(driver(), |fixture, kind| fixture.info("parmtype", kind));
        let fixture = fixture.constant("__param_arr_list", 2).constant("__param_string_text", 4);
        let parameters = Parameter::parse_line(line).unwrap();
        let circumstances = Circumstances { parameters, ..Circumstances::default() };
        let prediction = judge_in(fixture, &circumstances);
        assert_eq!(prediction.verdict, expected, "{:?}", prediction.reasons);
    }

    /// By its description, each is a boolean.
    #[rstest]
    #[case("count=7", Verdict::Loads)]
    #[case("count=maybe", fails(Errno::EINVAL))]
    #[case("count", fails(Errno::EINVAL))]
    #[case("own-way=never", Verdict::Unknown)]
    #[case("own_way", Verdict::Unknown)]
    #[case("described=never", Verdict::Loads)]
    fn what_reads_a_parameter_counts_and_not_what_describes_it(
        #[case] line: &str,
        #[case] expected: Verdict,
    ) {
        let described = ["count", "own_way", "described"];
        let fixture = described
            .iter()
            .fold(driver(), |fixture, name| fixture.info("parmtype", &format!("{name}:bool")));
        let fixture = fixture.parameters(&[("count", Some("param_ops_int")), ("own_way", None)]);
        let parameters = Parameter::parse_line(line).unwrap();
        let prediction = judge_in(fixture, &Circumstances { parameters, ..Circumstances::default() });
        assert_eq!(prediction.verdict, expected, "{:?}", prediction.reasons);
    }
}
