//! How long to wait before the next try: longer each time, and never the same for a thousand nodes at once.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// Bounds of the time between tries.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// However many there were.
    pub most: Duration,
}

impl Backoff {
    /// The wait after this many failures in a row; `dice` picks a place in its second half.
    pub fn delay(self, failures: u32, dice: u64) -> Duration {
        let doubled =
            self.first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        let full = doubled.min(self.most);
        spread(full / 2, full, dice)
    }
}

/// A place between `least` and `most`, picked by `dice`.
pub fn spread(least: Duration, most: Duration, dice: u64) -> Duration {
    let span = most.saturating_sub(least);
    let share = u32::try_from(dice % 1024).unwrap_or_default();
    least + span / 1024 * share
}

/// Random numbers for decisions that can be repeated: where they begin comes from outside.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Equal seeds roll equal numbers.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number (`SplitMix64`).
    pub const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// A random number, good enough to keep nodes apart: the hasher's keys come from the system.
pub fn roll() -> u64 {
    RandomState::new().hash_one(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(30) };

    #[test]
    fn waits_double_up_to_the_bound() {
        let longest = |failures| BACKOFF.delay(failures, 1023).as_millis().div_ceil(1000);
        assert_eq!([1, 2, 3, 5, 6, 40, u32::MAX].map(longest), [1, 2, 4, 16, 30, 30, 30]);
    }

    #[test]
    fn no_wait_is_shorter_than_half() {
        for dice in [0, 1, 512, 1023, u64::MAX] {
            let delay = BACKOFF.delay(3, dice);
            assert!((Duration::from_secs(2)..=Duration::from_secs(4)).contains(&delay), "{delay:?}");
        }
    }

    #[test]
    fn rolls_differ() {
        assert!((0..8).map(|_| roll()).collect::<std::collections::BTreeSet<_>>().len() > 1);
    }
}
