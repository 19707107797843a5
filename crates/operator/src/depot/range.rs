//! Which bytes of a bundle a request asks for (RFC 9110, section 14).

use std::ops::Range;

/// Which bytes to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Requested {
    /// All of them.
    Whole,
    /// These, of which there is at least one.
    Part(Range<u64>),
    /// Bytes that there are not.
    Beyond,
}

/// Reads a `Range` header for something of `size` bytes. What is malformed, in another unit or a list of ranges asks
/// for everything, as the RFC allows.
pub(super) fn requested(header: &str, size: u64) -> Requested {
    let Some((first, last)) = header.strip_prefix("bytes=").and_then(|range| range.trim().split_once('-'))
    else {
        return Requested::Whole;
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // More digits than a number has mean a place far beyond any end.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let range = match (first, number(first), last, number(last)) {
        (_, Some(first), _, Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (_, Some(first), "", _) => first..size,
        ("", _, _, Some(suffix)) => size.saturating_sub(suffix)..size,
        _ => return Requested::Whole,
    };
    if range.is_empty() { Requested::Beyond } else { Requested::Part(range) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("bytes=0-0", 0..1)]
    #[case("bytes=10-19", 10..20)]
    #[case("bytes=90-", 90..100)]
    #[case("bytes=90-4000", 90..100)]
    #[case("bytes=-7", 93..100)]
    #[case("bytes=-700", 0..100)]
    #[case("bytes=0-99999999999999999999999", 0..100)]
    fn a_part(#[case] header: &str, #[case] range: Range<u64>) {
        assert_eq!(requested(header, 100), Requested::Part(range));
    }

    #[rstest]
    #[case("bytes=100-")]
    #[case("bytes=100-200")]
    #[case("bytes=-0")]
    #[case("bytes=99999999999999999999999-")]
    fn bytes_that_there_are_not(#[case] header: &str) {
        assert_eq!(requested(header, 100), Requested::Beyond);
    }

    #[rstest]
    #[case("")]
    #[case("bytes=")]
    #[case("bytes=-")]
    #[case("bytes=5-4")]
    #[case("bytes=+1-2")]
    #[case("bytes=1-2,4-5")]
    #[case("lines=1-2")]
    fn everything(#[case] header: &str) {
        assert_eq!(requested(header, 100), Requested::Whole);
    }

    proptest! {
        #[test]
        fn no_range_leaves_the_bundle(header in "(bytes=)?[0-9 ,-]{0,30}", size in any::<u64>()) {
            if let Requested::Part(range) = requested(&header, size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }
    }
}
