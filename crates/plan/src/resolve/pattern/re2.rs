//! RE2's syntax, as the API server and KMM read it, into what Rust's automata run.
//!
//! The `regex` crate reads many patterns otherwise: `[a&&b]` and `[a[b]]` as sets, `\<` as the beginning of a word, a
//! lonely `{` as an error, and it does not know `\Q…\E` or octal escapes. So its parser is not used. What is refused
//! here is refused by the API server's `matches()`, too; beyond that only what nests too deeply.
//!
//! A kernel's release is ASCII. So of every class only its ASCII part is kept, after case was folded by Unicode's
//! rules: `\pL{1000}` stays small.

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Hir, HirKind, Look, Repetition};

/// How often RE2 lets something be repeated, repetitions within repetitions multiplied.
const MOST_REPEATED: u32 = 1000;
/// How deep an expression may be nested: what is made of it is walked recursively.
const DEEPEST: u32 = 250;

/// Why a pattern cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// RE2 does not know it either.
    #[error("not a valid RE2 regular expression: {what}, at byte {at}")]
    Syntax {
        /// What is wrong.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// Groups within groups.
    #[error("groups and repetitions are nested more than {DEEPEST} deep; write it flatter")]
    Depth,
    /// What it compiles to takes too much memory.
    #[error("the regular expression is too large once compiled; repeat less, or use several mappings")]
    Size,
}

#[derive(Debug, Clone, Copy, Default)]
struct Flags {
    fold_case: bool,
    multi_line: bool,
    dot_matches_newline: bool,
}

/// A part of the expression.
#[derive(Debug)]
struct Part {
    hir: Hir,
    /// The most that anything in it is repeated.
    repeated: u32,
    depth: u32,
}

impl Part {
    fn leaf(hir: Hir) -> Self {
        Self { hir, repeated: 1, depth: 1 }
    }

    fn of(parts: Vec<Self>, join: fn(Vec<Hir>) -> Hir) -> Self {
        let repeated = parts.iter().map(|part| part.repeated).max().unwrap_or(1);
        let depth = parts.iter().map(|part| part.depth).max().unwrap_or(0) + u32::from(parts.len() != 1);
        Self { hir: join(parts.into_iter().map(|part| part.hir).collect()), repeated, depth }
    }
}

/// A group that is not closed yet.
#[derive(Debug, Default)]
struct Group {
    alternatives: Vec<Part>,
    sequence: Vec<Part>,
    /// In force before it, and after it again.
    outside: Flags,
}

impl Group {
    fn close(mut self) -> Part {
        let last = Part::of(self.sequence, Hir::concat);
        if self.alternatives.is_empty() {
            return last;
        }
        self.alternatives.push(last);
        Part::of(self.alternatives, Hir::alternation)
    }
}

/// Reads a pattern.
pub(super) fn parse(pattern: &str) -> Result<Hir, PatternError> {
    let mut parser = Parser { text: pattern, at: 0, flags: Flags::default() };
    let mut groups = vec![Group::default()];
    // Directly after a repetition, another is an error.
    let mut just_repeated = false;
    while let Some(next) = parser.peek() {
        let before = just_repeated;
        just_repeated = false;
        let start = parser.at;
        let Some(group) = groups.last_mut() else { return Err(parser.error("unexpected )")) };
        match next {
            '(' => {
                if let Some(outside) = parser.open()? {
                    groups.push(Group { outside, ..Group::default() });
                }
            }
            ')' => {
                parser.bump();
                let closed = groups.pop().unwrap_or_default();
                parser.flags = closed.outside;
                let Some(group) = groups.last_mut() else { return Err(parser.error("unexpected )")) };
                let part = closed.close();
                if part.depth > DEEPEST {
                    return Err(PatternError::Depth);
                }
                group.sequence.push(part);
            }
            '|' => {
                parser.bump();
                let sequence = std::mem::take(&mut group.sequence);
                group.alternatives.push(Part::of(sequence, Hir::concat));
            }
            '*' | '+' | '?' | '{' => match parser.repetition()? {
                None => group.sequence.push(parser.literal('{')),
                Some(_) if before => return Err(error_at("invalid nested repetition operator", start)),
                Some(bounds) => {
                    let Some(repeated) = group.sequence.pop() else {
                        return Err(error_at("missing argument to repetition operator", start));
                    };
                    group.sequence.push(repeat(repeated, bounds, start)?);
                    just_repeated = true;
                }
            },
            '\\' if parser.eat(r"\Q") => {
                let (quoted, after) = parser.rest().split_once(r"\E").unwrap_or((parser.rest(), ""));
                let end = pattern.len() - after.len();
                group.sequence.extend(quoted.chars().map(|literal| parser.literal(literal)));
                parser.at = end;
            }
            _ => group.sequence.push(parser.atom(next)?),
        }
    }
    match (groups.pop(), groups.is_empty()) {
        (Some(whole), true) => Ok(whole.close().hir),
        _ => Err(parser.error("missing closing )")),
    }
}

/// How often: at least, and at most.
type Bounds = (u32, Option<u32>);

fn repeat(part: Part, (min, max): Bounds, at: usize) -> Result<Part, PatternError> {
    // `*` and `+` multiply nothing.
    let counted = match (min, max) {
        (0 | 1, None) | (0, Some(1)) => 1,
        (min, max) => max.unwrap_or(min).max(1),
    };
    let repeated = if max == Some(0) { 1 } else { part.repeated.saturating_mul(counted) };
    if repeated > MOST_REPEATED {
        return Err(error_at("invalid repeat count", at));
    }
    if part.depth >= DEEPEST {
        return Err(PatternError::Depth);
    }
    // Whether it is greedy does not change whether it fits.
    let repetition = Repetition { min, max, greedy: true, sub: Box::new(part.hir) };
    Ok(Part { hir: Hir::repetition(repetition), repeated, depth: part.depth + 1 })
}

fn error_at(what: &'static str, at: usize) -> PatternError {
    PatternError::Syntax { what, at }
}

#[derive(Debug)]
struct Parser<'p> {
    text: &'p str,
    at: usize,
    flags: Flags,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn eat(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        self.at += if found { text.len() } else { 0 };
        found
    }

    fn error(&self, what: &'static str) -> PatternError {
        error_at(what, self.at)
    }

    fn literal(&self, literal: char) -> Part {
        let mut class = ClassUnicode::new([ClassUnicodeRange::new(literal, literal)]);
        self.fold(&mut class);
        leaf_of(class)
    }

    fn fold(&self, class: &mut ClassUnicode) {
        if self.flags.fold_case {
            class.case_fold_simple();
        }
    }

    /// Reads from `(` on: the flags to be restored at the end of the group, or `None` where only flags are set.
    fn open(&mut self) -> Result<Option<Flags>, PatternError> {
        let start = self.at;
        let outside = self.flags;
        self.bump();
        if !self.eat("?") {
            return Ok(Some(outside));
        }
        if self.eat("P<") || self.eat("<") {
            let invalid = error_at("invalid named capture", start);
            let name = self.rest().split_once('>').map(|(name, _)| name).ok_or(invalid.clone())?;
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err(invalid);
            }
            self.at += name.len() + 1;
            return Ok(Some(outside));
        }
        let invalid = error_at("invalid or unsupported Perl syntax", start);
        let (mut to, mut negated, mut seen) = (true, false, false);
        loop {
            match self.bump() {
                Some('i') => self.flags.fold_case = to,
                Some('m') => self.flags.multi_line = to,
                Some('s') => self.flags.dot_matches_newline = to,
                // Greediness.
                Some('U') => {}
                Some('-') if !negated => {
                    (to, negated, seen) = (false, true, false);
                    continue;
                }
                Some(end @ (':' | ')')) if !negated || seen => {
                    return Ok((end == ':').then_some(outside));
                }
                _ => return Err(invalid),
            }
            seen = true;
        }
    }

    /// `None` where a brace repeats nothing and is a literal.
    fn repetition(&mut self) -> Result<Option<Bounds>, PatternError> {
        let start = self.at;
        let bounds = match self.bump() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            _ => {
                let Some(counts) = self.counts() else {
                    self.at = start + 1;
                    return Ok(None);
                };
                counts
            }
        };
        let (min, max) = bounds;
        if min > MOST_REPEATED || max.is_some_and(|max| max > MOST_REPEATED || max < min) {
            return Err(error_at("invalid repeat count", start));
        }
        self.eat("?");
        Ok(Some(bounds))
    }

    /// `3}`, `3,}` or `3,5}`.
    fn counts(&mut self) -> Option<Bounds> {
        let min = self.number()?;
        let max = if !self.eat(",") {
            Some(min)
        } else if self.rest().starts_with('}') {
            None
        } else {
            Some(self.number()?)
        };
        self.eat("}").then_some((min, max))
    }

    fn number(&mut self) -> Option<u32> {
        let digits = self.rest().len() - self.rest().trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let text = self.rest().get(..digits)?;
        if digits == 0 || (digits > 1 && text.starts_with('0')) {
            return None;
        }
        let number = text.parse().unwrap_or(u32::MAX);
        self.at += digits;
        Some(number)
    }

    /// One thing that may be repeated.
    fn atom(&mut self, next: char) -> Result<Part, PatternError> {
        let look = |look| Ok(Part::leaf(Hir::look(look)));
        match next {
            '[' => self.class(),
            '\\' => self.escaped(),
            '^' => {
                self.bump();
                look(if self.flags.multi_line { Look::StartLF } else { Look::Start })
            }
            '$' => {
                self.bump();
                look(if self.flags.multi_line { Look::EndLF } else { Look::End })
            }
            '.' => {
                self.bump();
                let mut class = ClassUnicode::empty();
                if !self.flags.dot_matches_newline {
                    class.push(ClassUnicodeRange::new('\n', '\n'));
                }
                class.negate();
                Ok(leaf_of(class))
            }
            _ => {
                self.bump();
                Ok(self.literal(next))
            }
        }
    }

    fn escaped(&mut self) -> Result<Part, PatternError> {
        let looks = [
            (r"\A", Look::Start),
            (r"\z", Look::End),
            (r"\b", Look::WordAscii),
            (r"\B", Look::WordAsciiNegate),
        ];
        for (text, look) in looks {
            if self.eat(text) {
                return Ok(Part::leaf(Hir::look(look)));
            }
        }
        if let Some(class) = self.group_escape()? {
            return Ok(leaf_of(class));
        }
        let literal = self.character_escape()?;
        Ok(self.literal(literal))
    }

    /// `\pN`, `\p{Greek}`, `\d` and their like.
    fn group_escape(&mut self) -> Result<Option<ClassUnicode>, PatternError> {
        let start = self.at;
        let letter = self.rest().chars().nth(1).unwrap_or_default();
        let mut negated = letter.is_ascii_uppercase();
        let mut class = match letter.to_ascii_lowercase() {
            'd' => ranges(&[('0', '9')]),
            's' => ranges(&[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')]),
            'w' => ranges(&[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')]),
            'p' => {
                self.at += 2;
                let invalid = error_at("invalid character class range", start);
                let name = match self.bump() {
                    Some('{') => {
                        let (name, _) = self.rest().split_once('}').ok_or(invalid.clone())?;
                        let name = name.to_owned();
                        self.at += name.len() + 1;
                        name
                    }
                    Some(name) => name.to_string(),
                    None => return Err(invalid),
                };
                let positive = name.strip_prefix('^');
                negated ^= positive.is_some();
                let mut class = property(positive.unwrap_or(&name)).ok_or(invalid)?;
                self.fold(&mut class);
                if negated {
                    class.negate();
                }
                return Ok(Some(class));
            }
            _ => return Ok(None),
        };
        self.at += 2;
        self.fold(&mut class);
        if negated {
            class.negate();
        }
        Ok(Some(class))
    }

    /// An escape that stands for one character.
    fn character_escape(&mut self) -> Result<char, PatternError> {
        let start = self.at;
        let invalid = error_at("invalid escape sequence", start);
        self.bump();
        let Some(letter) = self.bump() else { return Err(error_at("trailing backslash", start)) };
        let octal = |parser: &Self| parser.peek().and_then(|next| next.to_digit(8));
        match letter {
            // A single digit that is not zero would refer back, which RE2 cannot do.
            '1'..='7' if octal(self).is_none() => Err(invalid),
            '0'..='7' => {
                let mut value = letter.to_digit(8).unwrap_or_default();
                for _ in 1..3 {
                    let Some(digit) = octal(self) else { break };
                    value = value * 8 + digit;
                    self.bump();
                }
                char::from_u32(value).ok_or(invalid)
            }
            'x' => self.hexadecimal().ok_or(invalid),
            'a' => Ok('\x07'),
            'f' => Ok('\x0c'),
            'n' => Ok('\n'),
            'r' => Ok('\r'),
            't' => Ok('\t'),
            'v' => Ok('\x0b'),
            letter if letter.is_ascii() && !letter.is_ascii_alphanumeric() => Ok(letter),
            _ => Err(invalid),
        }
    }

    /// `7F` or `{10FFFF}`.
    fn hexadecimal(&mut self) -> Option<char> {
        let digits = if self.eat("{") {
            let digits = self.rest().split_once('}')?.0.to_owned();
            self.at += digits.len() + 1;
            digits
        } else {
            let digits = self.rest().get(..2)?.to_owned();
            self.at += 2;
            digits
        };
        if digits.is_empty() || !digits.chars().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let value = u32::from_str_radix(digits.trim_start_matches('0'), 16);
        let value = if digits.trim_start_matches('0').is_empty() { 0 } else { value.ok()? };
        // RE2 takes halves of a surrogate pair; no text has one.
        (value <= 0x10_FFFF).then(|| char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    /// From `[` on. A bracket or `&&` within it is itself.
    fn class(&mut self) -> Result<Part, PatternError> {
        let start = self.at;
        let missing = error_at("missing closing ]", start);
        self.bump();
        let negated = self.eat("^");
        let mut class = ClassUnicode::empty();
        let mut is_first = true;
        while is_first || self.peek() != Some(']') {
            is_first = false;
            if let Some((name, _)) = self.rest().strip_prefix("[:").and_then(|rest| rest.split_once(":]")) {
                let mut group = named(name).ok_or(self.error("invalid character class range"))?;
                self.fold(&mut group);
                if name.starts_with('^') {
                    group.negate();
                }
                class.union(&group);
                self.at += name.len() + 4;
                continue;
            }
            if self.rest().starts_with('\\')
                && let Some(group) = self.group_escape()?
            {
                class.union(&group);
                continue;
            }
            let range_start = self.at;
            let low = self.class_character(&missing)?;
            let is_range =
                self.rest().starts_with('-') && !self.rest().starts_with("-]") && self.rest().len() > 1;
            let high = if is_range {
                self.bump();
                self.class_character(&missing)?
            } else {
                low
            };
            if high < low {
                return Err(error_at("invalid character class range", range_start));
            }
            let mut range = ClassUnicode::new([ClassUnicodeRange::new(low, high)]);
            self.fold(&mut range);
            class.union(&range);
        }
        self.bump();
        if negated {
            class.negate();
        }
        Ok(leaf_of(class))
    }

    fn class_character(&mut self, missing: &PatternError) -> Result<char, PatternError> {
        match self.peek() {
            None => Err(missing.clone()),
            Some('\\') => self.character_escape(),
            Some(literal) => {
                self.bump();
                Ok(literal)
            }
        }
    }
}

/// The ASCII part of a class.
fn leaf_of(mut class: ClassUnicode) -> Part {
    class.intersect(&ranges(&[('\0', '\x7f')]));
    Part::leaf(Hir::class(Class::Unicode(class)))
}

fn ranges(ranges: &[(char, char)]) -> ClassUnicode {
    ClassUnicode::new(ranges.iter().map(|(low, high)| ClassUnicodeRange::new(*low, *high)))
}

/// `[:alpha:]` and its like; a leading `^` is the caller's.
fn named(name: &str) -> Option<ClassUnicode> {
    let pairs: &[(char, char)] = match name.strip_prefix('^').unwrap_or(name) {
        "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => &[('A', 'Z'), ('a', 'z')],
        "ascii" => &[('\0', '\x7f')],
        "blank" => &[('\t', '\t'), (' ', ' ')],
        "cntrl" => &[('\0', '\x1f'), ('\x7f', '\x7f')],
        "digit" => &[('0', '9')],
        "graph" => &[('!', '~')],
        "lower" => &[('a', 'z')],
        "print" => &[(' ', '~')],
        "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => &[('\t', '\r'), (' ', ' ')],
        "upper" => &[('A', 'Z')],
        "word" => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return None,
    };
    Some(ranges(pairs))
}

/// A category or script of Unicode's; RE2 knows no other properties.
fn property(name: &str) -> Option<ClassUnicode> {
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return None;
    }
    let of = |kind: &str| regex_syntax::parse(&format!(r"\p{{{kind}={name}}}")).ok();
    let hir = of("gc").or_else(|| of("sc"))?;
    match hir.into_kind() {
        HirKind::Class(Class::Unicode(class)) => Some(class),
        // A class of one character.
        HirKind::Literal(literal) => {
            let mut chars = std::str::from_utf8(&literal.0).ok()?.chars();
            let only = chars.next().filter(|_| chars.next().is_none())?;
            Some(ranges(&[(only, only)]))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::is_match;
    use super::*;

    /// What the `regex` crate would read otherwise, or not at all.
    #[rstest]
    #[case("[a&&b]", "6.1-&", true)]
    #[case("[0-9--1]$", "6.1", true)]
    #[case("^[a[b]]$", "[]", true)]
    #[case(r"\<6", "<6", true)]
    #[case(r"\<6", "6", false)]
    #[case(r"6\b{start}", "6{start}", true)]
    #[case("6{", "6{", true)]
    #[case("6{,3}", "666", false)]
    #[case("6{,3}", "6{,3}", true)]
    #[case("6{01}", "6{01}", true)]
    #[case(r"\Q6.1\E", "6x1", false)]
    #[case(r"\Q6.1", "6.1", true)]
    #[case(r"^a\Qbc\E+$", "abcc", true)]
    #[case(r"\056", "6.1", true)]
    #[case(r"^6\x{2E}1$", "6.1", true)]
    #[case("(?P<1>6)", "6", true)]
    #[case("(?<a>6)", "6", true)]
    #[case("^6(?i)*A$", "66a", true)]
    #[case("(?i)\u{212A}", "k", true)]
    #[case("(?i)[^k]", "K", false)]
    #[case(r"(?i)\P{Lu}", "a", false)]
    #[case(r"^\pN+$", "61", true)]
    #[case(r"\p{^Latin}", "abc", false)]
    #[case("a(?i)b|C", "c", true)]
    #[case("(a(?i)b)C", "aBc", false)]
    fn reads_as_re2_does(#[case] pattern: &str, #[case] text: &str, #[case] fits: bool) {
        assert_eq!(is_match(pattern, text), Ok(fits));
    }

    #[rstest]
    #[case("(")]
    #[case(")")]
    #[case("a**")]
    #[case("a{2}{3}")]
    #[case("*")]
    #[case("(|*)")]
    #[case("a{1001}")]
    #[case("(a{100}){11}")]
    #[case("a{2,1}")]
    #[case("[b-a]")]
    #[case("[")]
    #[case("[]")]
    #[case("[[:what:]]")]
    #[case(r"\1")]
    #[case(r"\8")]
    #[case(r"\C")]
    #[case(r"\Z")]
    #[case(r"\E")]
    #[case(r"\")]
    #[case(r"\pX")]
    #[case(r"\x{110000}")]
    #[case("(?=6)")]
    #[case("(?x)a")]
    #[case("(?i-)a")]
    #[case("(?P<a b>c)")]
    #[case("(?P=a)")]
    fn refuses_what_re2_refuses(#[case] pattern: &str) {
        assert!(matches!(parse(pattern), Err(PatternError::Syntax { .. })), "{:?}", parse(pattern));
    }

    #[test]
    fn what_is_deep_is_refused_and_what_is_nearly_so_fits() {
        let nested = |depth: usize| format!("{}6{}", "(a|".repeat(depth), ")".repeat(depth));
        assert_eq!(is_match(&nested(100), "6"), Ok(true));
        assert_eq!(is_match(&nested(100_000), "6"), Err(PatternError::Depth));
        let large = format!("({}){{1000}}", "abcdefgh|ijklmnop".repeat(40));
        assert!(matches!(is_match(&large, "6"), Ok(false) | Err(PatternError::Size)));
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_panics(pattern in r"[\[\]{}()*+?|^$.:\\a-cpPQExdwsiUm0-9,<>!&~-]{0,24}", text in "[ -~]{0,12}") {
            let _ = is_match(&pattern, &text);
        }
    }
}
