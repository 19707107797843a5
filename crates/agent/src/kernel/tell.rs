//! Tells the operator what the node's kernel is, if it asks this node.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use rustix::system::uname;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::survey;
use crate::backoff::{Backoff, roll, spread};
use crate::depot::Depot;
use tenon_api::message::chain;

/// The node is to be known by then: the operator asks only for what a node has reported to run.
const FIRST: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(6));
/// When the depot does not answer, or does not know the node yet.
const RETRY: Backoff = Backoff { first: Duration::from_secs(5), most: Duration::from_mins(10) };
/// While another node is asked: it may never answer.
const ELSEWHERE: (Duration, Duration) = (Duration::from_mins(10), Duration::from_mins(15));

/// When the operator has facts: they go with the node that told them, or when that node gets another kernel.
const AGAIN: (Duration, Duration) = (Duration::from_hours(1), Duration::from_hours(2));

/// Sees to it, for ever, that the operator has facts about this build of the kernel. They need not be this node's.
pub async fn tell(depot: Depot, build_id: String) {
    let release = uname().release().to_string_lossy().into_owned();
    let path = format!("/v1/kernels/{release}/{build_id}");
    let mut failures = 0;
    sleep(spread(FIRST.0, FIRST.1, roll())).await;
    loop {
        let wait = match ask(&depot, &path).await {
            Ok(true) => {
                failures = 0;
                spread(AGAIN.0, AGAIN.1, roll())
            }
            Ok(false) => {
                failures = 0;
                spread(ELSEWHERE.0, ELSEWHERE.1, roll())
            }
            Err(()) => {
                failures += 1;
                RETRY.delay(failures, roll())
            }
        };
        sleep(wait).await;
    }
}

/// Whether the operator has facts now; false while another node is asked for them.
async fn ask(depot: &Depot, path: &str) -> Result<bool, ()> {
    match depot.about_kernel(Method::HEAD, path, Bytes::new()).await {
        Ok(StatusCode::NO_CONTENT) => Ok(true),
        Ok(StatusCode::CONFLICT) => Ok(false),
        Ok(StatusCode::NOT_FOUND) => bring(depot, path).await,
        Ok(status) => {
            debug!(%status, "the depot does not ask about this node's kernel yet");
            Err(())
        }
        Err(error) => {
            debug!(error = %chain(&error), "the depot cannot be asked about this node's kernel");
            Err(())
        }
    }
}

async fn bring(depot: &Depot, path: &str) -> Result<bool, ()> {
    let facts = survey::collect().await.map_err(|error| {
        warn!(error = %chain(&error), "no facts about this node's kernel");
    })?;
    let bytes = facts.len();
    match depot.about_kernel(Method::PUT, path, facts.into()).await {
        Ok(StatusCode::NO_CONTENT) => {
            info!(bytes, "the operator knows now what this node's kernel is");
            Ok(true)
        }
        Ok(status) => {
            warn!(%status, bytes, "the depot does not take the facts about this node's kernel");
            Err(())
        }
        Err(error) => {
            warn!(error = %chain(&error), bytes, "the facts about this node's kernel do not reach the depot");
            Err(())
        }
    }
}
