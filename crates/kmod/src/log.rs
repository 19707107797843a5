//! The kernel's log, as syslog(2) returns it (`SYSLOG_ACTION_READ_ALL`): lines of `<6>[   12.345678] text`.

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Severity, 0 (emergency) to 7 (debug); none where the line has no prefix.
    pub severity: Option<u8>,
    /// Time since boot in microseconds; none where the kernel does not print it (`printk.time=0`).
    pub timestamp: Option<u64>,
    /// The message. Control characters are replaced by spaces, so that it can be shown as one line.
    pub text: String,
}

impl LogLine {
    /// Reads one line. Every line is one: what has no prefix is all text.
    pub fn parse(line: &str) -> Self {
        let (severity, rest) = match priority(line) {
            Some((severity, rest)) => (Some(severity), rest),
            None => (None, line),
        };
        let (timestamp, rest) = match timestamp(rest) {
            Some((timestamp, rest)) => (Some(timestamp), rest),
            None => (None, rest),
        };
        let text = rest.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self { severity, timestamp, text }
    }

    /// Reads the whole buffer. Its first line may be cut off at its start: the oldest text is overwritten.
    pub fn parse_buffer(buffer: &[u8]) -> Vec<Self> {
        String::from_utf8_lossy(buffer).lines().filter(|line| !line.is_empty()).map(Self::parse).collect()
    }
}

/// The lines printed after a time (microseconds since boot): what belongs to an attempt, if the time is that of the last
/// line before it. A line without a timestamp belongs to the line before it.
pub fn fresh(lines: &[LogLine], after: u64) -> Vec<LogLine> {
    let mut is_fresh = false;
    let belongs = |line: &&LogLine| {
        is_fresh = line.timestamp.map_or(is_fresh, |timestamp| timestamp > after);
        is_fresh
    };
    lines.iter().filter(belongs).cloned().collect()
}

/// `<30>`: severity and facility; only the severity is of interest.
fn priority(line: &str) -> Option<(u8, &str)> {
    let (number, rest) = line.strip_prefix('<')?.split_once('>')?;
    let number: u32 = number.parse().ok()?;
    Some((u8::try_from(number & 7).ok()?, rest))
}

/// `[   12.345678] `, and where configured the caller behind it: `[   12.345678][  T123] `.
fn timestamp(text: &str) -> Option<(u64, &str)> {
    let (time, mut rest) = text.strip_prefix('[')?.split_once(']')?;
    let (seconds, micros) = time.trim_start().split_once('.')?;
    if micros.len() != 6 {
        return None;
    }
    let (seconds, micros): (u64, u64) = (seconds.parse().ok()?, micros.parse().ok()?);
    if let Some((caller, behind)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'))
        && matches!(caller.trim_start().as_bytes(), [b'T' | b'C', id @ ..] if !id.is_empty() && id.iter().all(u8::is_ascii_digit))
    {
        rest = behind;
    }
    Some((seconds.checked_mul(1_000_000)?.checked_add(micros)?, rest.strip_prefix(' ').unwrap_or(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("<6>[   12.345678] hello", Some(6), Some(12_345_678), "hello")]
    #[case("<4>[    0.000000] ", Some(4), Some(0), "")]
    #[case("<30>[123456.000001] systemd[1]: x", Some(6), Some(123_456_000_001), "systemd[1]: x")]
    #[case(
        "<3>[    1.500000][  T123] lab: Unknown symbol x (err -2)",
        Some(3),
        Some(1_500_000),
        "lab: Unknown symbol x (err -2)"
    )]
    #[case("<3>[    1.500000][    C0] [drm] x", Some(3), Some(1_500_000), "[drm] x")]
    #[case("<6>[    1.500000] [drm] x", Some(6), Some(1_500_000), "[drm] x")]
    #[case("<6>no time", Some(6), None, "no time")]
    #[case("cut off] text", None, None, "cut off] text")]
    #[case("<x>[1.2] a", None, None, "<x>[1.2] a")]
    #[case("<6>[    1.000000] a\tb\u{1b}c", Some(6), Some(1_000_000), "a b c")]
    fn a_line_has_a_severity_a_time_and_a_text(
        #[case] line: &str,
        #[case] severity: Option<u8>,
        #[case] timestamp: Option<u64>,
        #[case] text: &str,
    ) {
        assert_eq!(LogLine::parse(line), LogLine { severity, timestamp, text: text.into() });
    }

    #[test]
    fn only_what_came_after_is_fresh() {
        let buffer =
            b"ld]\n<6>[    1.000000] a\n<6>[    2.000000] b\nmore of b\n<6>[    2.000001] c\nmore of c\n";
        let lines = LogLine::parse_buffer(buffer);
        let texts = |after| fresh(&lines, after).into_iter().map(|line| line.text).collect::<Vec<_>>();
        assert_eq!(texts(2_000_000), ["c", "more of c"]);
        assert_eq!(texts(1_000_000), ["b", "more of b", "c", "more of c"]);
        assert_eq!(texts(3_000_000), [""; 0]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), line in "<?[0-9]{0,12}>?\\[? {0,3}[0-9]{0,25}\\.[0-9]{0,7}\\]?\\[?T?[0-9]?\\]? ?x?") {
            let _ = LogLine::parse_buffer(&bytes);
            let _ = fresh(&[LogLine::parse(&line)], 1);
        }
    }
}
