//! The simulated time, as the operator's code asks for it: by functions without arguments.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tenon_operator::world::Clock;

/// Where simulated time begins, in milliseconds since 1970.
pub const EPOCH: u64 = 1_790_000_000_000;

thread_local! {
    static WALL: Cell<u64> = const { Cell::new(EPOCH) };
    static STEADY: Cell<u64> = const { Cell::new(0) };
}

/// From now on it is this time: `now` milliseconds after the beginning, by a clock that is wrong by `offset`.
pub fn set(now: u64, offset: i64) {
    STEADY.set(now);
    WALL.set((EPOCH + now).saturating_add_signed(offset));
}

/// The clock for a world.
pub fn clock() -> Clock {
    Clock { wall, steady: tokio_instant }
}

/// Milliseconds since 1970.
pub fn wall() -> u64 {
    WALL.get()
}

/// Only differences between such instants mean anything.
pub fn instant(now: u64) -> Instant {
    static BASE: OnceLock<Instant> = OnceLock::new();
    *BASE.get_or_init(Instant::now) + Duration::from_millis(now)
}

/// The simulated time of an instant, rounded up.
pub fn millis(at: Instant) -> u64 {
    let micros = at.saturating_duration_since(instant(0)).as_micros();
    u64::try_from(micros.div_ceil(1000)).unwrap_or(u64::MAX)
}

/// The instant of now, as queues take it.
pub fn tokio_instant() -> tokio::time::Instant {
    instant(STEADY.get()).into()
}

/// Milliseconds since 1970 as a timestamp.
pub fn timestamp(wall: u64) -> Timestamp {
    Timestamp::from_millisecond(i64::try_from(wall).unwrap_or_default()).unwrap_or_default()
}
