//! Statements about a lab that must come true: either they do in time, or the error says what was seen instead.

use std::time::Duration;

use crate::wait;

/// For what takes a second or two on an idle machine.
const SOON: Duration = Duration::from_mins(2);

/// A statement that did not come true in time.
#[derive(Debug, thiserror::Error)]
#[error("not true: {claim}\nseen last: {instead}")]
pub struct Broken {
    /// The statement.
    pub claim: String,
    /// What was the case when nobody waited any longer.
    pub instead: String,
}

/// Looks again and again until `look` gives something instead of saying what stands in the way.
pub async fn comes_true<T>(
    claim: impl Into<String>,
    look: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, Broken> {
    within(SOON, claim.into(), look).await
}

/// As [`comes_true`], for what takes longer.
pub async fn comes_true_within<T>(
    deadline: Duration,
    claim: impl Into<String>,
    look: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, Broken> {
    within(deadline, claim.into(), look).await
}

async fn within<T>(
    deadline: Duration,
    claim: String,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, Broken> {
    let mut instead = String::new();
    let found = wait::until(claim.as_str(), deadline, async || match look().await {
        Ok(found) => Some(found),
        Err(now) => {
            instead = now;
            None
        }
    })
    .await;
    found.map_err(|_| Broken { claim, instead })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_come_true_says_what_was_seen_last() {
        let mut count = 0;
        let broken = within(Duration::from_millis(200), "the moon is square".to_owned(), async || {
            count += 1;
            Err::<(), _>(format!("look {count}: round"))
        })
        .await
        .unwrap_err();
        assert_eq!(broken.instead, format!("look {count}: round"));
        assert!(broken.to_string().contains("the moon is square"));
    }

    #[tokio::test]
    async fn what_comes_true_gives_what_was_found() {
        let mut count = 0;
        let found = comes_true("three", async || {
            count += 1;
            if count < 3 { Err("not yet".to_owned()) } else { Ok(count) }
        })
        .await;
        assert_eq!(found.unwrap(), 3);
    }
}
