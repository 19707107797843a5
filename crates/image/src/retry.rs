//! Which failures heal by themselves.

use std::time::Duration;

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Nothing will change until somebody changes the image, a Secret or a setting.
    AfterChange,
    /// May heal by itself: try again, not before this long where the other side named a time.
    Later(Option<Duration>),
}
