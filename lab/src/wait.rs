//! Waiting for a condition with a deadline that names it: the lab's and the tests' only way to let time pass.

use std::time::Duration;

use tokio::time::Instant;

/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(50);

/// The condition did not come.
#[derive(Debug, thiserror::Error)]
#[error("waited {} s in vain for {what}", deadline.as_secs())]
pub struct TimedOut {
    /// What was waited for.
    pub what: String,
    /// How long.
    pub deadline: Duration,
}

/// Calls `probe` until it gives something.
pub async fn until<T>(
    what: impl Into<String>,
    deadline: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> Result<T, TimedOut> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = probe().await {
            return Ok(found);
        }
        if Instant::now() >= end {
            return Err(TimedOut { what: what.into(), deadline });
        }
        tokio::time::sleep(PERIOD).await;
    }
}
