//! The shell patterns of `modules.alias`, as fnmatch(3) without flags reads them.

/// Whether a text matches a pattern of `*`, `?` and `[…]`. Takes time in proportion to the product of both lengths at most.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at_pattern, mut at_text) = (0, 0);
    // Where to go on when what follows the last star does not fit: one more byte belongs to the star.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let rest = pattern.get(at_pattern..).unwrap_or_default();
        match (rest.first(), text.get(at_text)) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                retry = Some((at_pattern + 1, at_text));
                at_pattern += 1;
                continue;
            }
            (Some(_), Some(&byte)) => {
                if let Some(length) = one(rest, byte) {
                    at_pattern += length;
                    at_text += 1;
                    continue;
                }
            }
            _ => {}
        }
        match retry {
            Some((star, taken)) if taken < text.len() => {
                retry = Some((star, taken + 1));
                (at_pattern, at_text) = (star, taken + 1);
            }
            _ => return false,
        }
    }
}

/// The length of the pattern's first element if it matches a byte.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'[', rest @ ..] => match class(rest) {
            Some((members, negated, length)) => (in_class(members, byte) != negated).then_some(length + 1),
            None => (byte == b'[').then_some(1),
        },
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// The members of a bracket expression, whether it is negated, and its length behind the opening bracket.
fn class(rest: &[u8]) -> Option<(&[u8], bool, usize)> {
    let negated = matches!(rest.first(), Some(b'!' | b'^'));
    let start = usize::from(negated);
    let body = rest.get(start..)?;
    // A closing bracket that comes first is a member.
    let end = body.iter().skip(1).position(|&byte| byte == b']')? + 1;
    Some((body.get(..end)?, negated, start + end + 1))
}

fn in_class(mut members: &[u8], byte: u8) -> bool {
    loop {
        match members {
            [low, b'-', high, rest @ ..] => {
                if (*low..=*high).contains(&byte) {
                    return true;
                }
                members = rest;
            }
            [member, rest @ ..] => {
                if *member == byte {
                    return true;
                }
                members = rest;
            }
            [] => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("crypto-crc32c", "crypto-crc32c", true)]
    #[case("pci:v00008086d00001502sv*sd*bc*sc*i*", "pci:v00008086d00001502sv000017AAsd0bc02sc00i00", true)]
    #[case("pci:v00008086d*", "pci:v000010ECd1", false)]
    #[case("usb:v1[0-9]p?", "usb:v17pX", true)]
    #[case("usb:v1[0-9]p?", "usb:v1Ap1", false)]
    #[case("a[!b-d]e", "axe", true)]
    #[case("a[!b-d]e", "ace", false)]
    #[case("a[]x]e", "a]e", true)]
    #[case("a[b", "a[b", true)]
    #[case("*", "", true)]
    #[case("a*b*c", "aXbYbZc", true)]
    #[case("a*b*c", "aXbYbZ", false)]
    #[case("\\*", "*", true)]
    fn patterns_match_as_the_shells(#[case] pattern: &str, #[case] text: &str, #[case] expected: bool) {
        assert_eq!(matches(pattern, text), expected);
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        assert!(!matches(&"*a".repeat(200), &"a".repeat(199)));
    }

    proptest! {
        #[test]
        fn nothing_panics(pattern in "[a*?\\[\\]!\\\\-]{0,20}", text in "[a\\]\\[*-]{0,20}") {
            let _ = matches(&pattern, &text);
        }
    }
}
