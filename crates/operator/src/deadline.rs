//! A bound on how long the API server may take to begin an answer.
//!
//! kube's client waits for ever. A request that nobody answers (a connection that died without a word, a server that
//! hangs) would hold up its object until somebody else notices; with a bound it is a failure like any other, and the
//! object's turn comes again. A watch's answer begins when it is opened, so the bound does not end watches.

use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use tower::{BoxError, Layer, Service};

/// The API server was silent for too long.
#[derive(Debug, thiserror::Error)]
#[error("the API server has not begun an answer within {} s", .0.as_secs())]
pub struct Silent(Duration);

/// Bounds every request of a client.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(pub Duration);

impl<S> Layer<S> for Deadline {
    type Service = Bounded<S>;

    fn layer(&self, inner: S) -> Bounded<S> {
        Bounded { inner, patience: self.0 }
    }
}

/// A service whose answers begin in time, or not at all.
#[derive(Debug, Clone)]
pub struct Bounded<S> {
    inner: S,
    patience: Duration,
}

impl<S, R> Service<R> for Bounded<S>
where
    S: Service<R, Error: Into<BoxError>, Future: Send + 'static>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let (answer, patience) = (self.inner.call(request), self.patience);
        Box::pin(async move {
            match tokio::time::timeout(patience, answer).await {
                Ok(answer) => answer.map_err(Into::into),
                Err(_) => Err(Silent(patience).into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_begin_in_time_is_a_failure() {
        let slow = tower::service_fn(|seconds: u64| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok::<_, Infallible>(seconds)
        });
        let mut bounded = Deadline(Duration::from_secs(10)).layer(slow);
        assert_eq!(bounded.call(9).await.unwrap(), 9);
        let start = tokio::time::Instant::now();
        assert!(bounded.call(1_000_000).await.unwrap_err().is::<Silent>());
        assert_eq!(start.elapsed(), Duration::from_secs(10));
    }
}
