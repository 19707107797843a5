//! The answer to a watch, which has no end of its own: passed on as it comes, held back or cut.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::sync::watch::Receiver;

use super::relay::{Body, Cut};
use super::{Shared, Weather};

/// A watch that is open, counted.
pub(super) struct Open(Arc<Shared>);

impl Open {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        shared.watches.fetch_add(1, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.watches.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Watch {
    from: Incoming,
    /// The plural name of what is watched.
    resource: String,
    weather: Receiver<Weather>,
    /// Cuts before this one was opened.
    cuts: u64,
    open: Open,
}

/// What comes of the API server's answer while the weather is such.
pub(super) fn body(from: Incoming, path: &str, open: Open) -> Body {
    let resource = path.rsplit('/').next().unwrap_or_default().to_owned();
    let weather = open.0.weather.subscribe();
    let cuts = weather.borrow().cuts;
    let watch = Watch { from, resource, weather, cuts, open };
    StreamBody::new(futures::stream::unfold(Some(watch), next)).boxed_unsync()
}

async fn next(watch: Option<Watch>) -> Option<(Result<Frame<Bytes>, Cut>, Option<Watch>)> {
    let mut watch = watch?;
    let cuts = watch.cuts;
    let mut weather = watch.weather.clone();
    let cut = weather.wait_for(|weather| weather.cuts != cuts);
    let frame = async {
        let frame = watch.from.frame().await;
        // An error means that the proxy is gone.
        let _ = watch.weather.wait_for(|weather| !weather.frozen.holds(&watch.resource)).await;
        frame
    };
    let frame = tokio::select! {
        biased;
        _ = cut => Some(Err(Cut::Wanted)),
        frame = frame => frame.map(|frame| frame.map_err(Cut::from)),
    };
    match frame {
        Some(Ok(frame)) => Some((Ok(frame), Some(watch))),
        Some(Err(error)) => Some((Err(error), None)),
        None => {
            drop(watch.open);
            None
        }
    }
}
