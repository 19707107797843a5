//! Which request meets which fault.

use std::fmt;
use std::time::Duration;

use super::Seen;

/// What happens to a request. Those that have the API server do it before something happens are not for watches, which
/// are never done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The client dies before the API server hears of it.
    KillBefore,
    /// The client dies when the API server has done it, before the answer.
    KillAfter,
    /// The API server does not do it and answers this status, with a `Retry-After` in seconds where there is one.
    Answer(u16, Option<u32>),
    /// The API server never hears of it, and no answer comes, ever.
    Swallow,
    /// The API server does it; no answer comes, ever.
    Hush,
    /// The API server does it; the connection breaks before the answer.
    LoseAnswer,
    /// The API server gets it twice, and the second answer counts.
    Twice,
    /// The API server does it, a little later than usual.
    Delay(Duration),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillBefore => f.write_str("kill-before"),
            Self::KillAfter => f.write_str("kill-after"),
            Self::Answer(status, _) => write!(f, "answer-{status}"),
            Self::Swallow => f.write_str("swallow"),
            Self::Hush => f.write_str("hush"),
            Self::LoseAnswer => f.write_str("lose-answer"),
            Self::Twice => f.write_str("twice"),
            Self::Delay(time) => write!(f, "delay-{}ms", time.as_millis()),
        }
    }
}

type Predicate = Box<dyn Fn(&Seen) -> bool + Send + Sync>;

/// A fault, and the requests that meet it.
pub struct Rule {
    matches: Predicate,
    skip: usize,
    times: usize,
    fault: Fault,
}

impl Rule {
    /// The `nth` request (from 1) that `matches`, counted from the arming.
    pub fn nth(nth: usize, matches: impl Fn(&Seen) -> bool + Send + Sync + 'static, fault: Fault) -> Self {
        Self { matches: Box::new(matches), skip: nth.saturating_sub(1), times: 1, fault }
    }

    /// Every request that `matches`, until the rules are forgotten.
    pub fn every(matches: impl Fn(&Seen) -> bool + Send + Sync + 'static, fault: Fault) -> Self {
        Self { matches: Box::new(matches), skip: 0, times: usize::MAX, fault }
    }

    /// Whether it has struck as often as it was to; one without an end always has.
    pub(super) fn is_spent(&self) -> bool {
        self.times == 0 || self.times == usize::MAX
    }

    /// The fault that this request meets, if it does; counts it.
    pub(super) fn strike(&mut self, request: &Seen) -> Option<Fault> {
        if self.times == 0 || !(self.matches)(request) {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        if self.times != usize::MAX {
            self.times -= 1;
        }
        Some(self.fault)
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule")
            .field("skip", &self.skip)
            .field("times", &self.times)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(path: &str) -> Seen {
        Seen::new(&http::Method::PATCH, &path.parse().unwrap(), 0)
    }

    #[test]
    fn only_the_nth_request_of_its_kind_is_struck_and_only_once() {
        let mut rule = Rule::nth(2, |seen| seen.path == "/a", Fault::LoseAnswer);
        let struck: Vec<_> = ["/a", "/b", "/a", "/a", "/b"].map(|path| rule.strike(&seen(path))).into();
        assert_eq!(struck, [None, None, Some(Fault::LoseAnswer), None, None]);
        assert!(rule.is_spent());
    }

    #[test]
    fn a_rule_without_an_end_strikes_every_time() {
        let mut rule = Rule::every(|_| true, Fault::Swallow);
        assert!((0..5).all(|_| rule.strike(&seen("/a")).is_some()));
    }
}
