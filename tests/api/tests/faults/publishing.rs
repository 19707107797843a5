//! The requests by which an image is published or deleted, and what a registry may do to one of them.

use std::fmt;

use tenon_image::testing::{Fault, Route, Seen};

use crate::matrix::Point;
use crate::stand::Stand;

/// What a registry does to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It does not do it, and answers this status.
    Status(u16),
    /// It does not do it, and the connection breaks.
    Close,
    /// It does it, and the connection breaks before the answer.
    Lose,
}

impl Refusal {
    pub(crate) const ALL: [Self; 5] =
        [Self::Status(429), Self::Status(500), Self::Status(503), Self::Close, Self::Lose];

    fn fault(self) -> Fault {
        match self {
            Self::Status(429) => Fault::Status(429, Some(("retry-after", "1".to_owned()))),
            Self::Status(status) => Fault::Status(status, None),
            Self::Close => Fault::Close,
            Self::Lose => Fault::Lose,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{status}"),
            Self::Close => f.write_str("close"),
            Self::Lose => f.write_str("lose"),
        }
    }
}

/// The requests of a life by names that all lives share, without those that have been seen `before` its stage began.
pub(crate) fn requests(stand: &Stand, before: usize, life: &str) -> Vec<String> {
    stand.registry.seen().iter().skip(before).filter_map(|seen| shared_name(seen, life)).collect()
}

/// Who reads images asks as often as it likes; whoever writes asks these.
fn shared_name(seen: &Seen, life: &str) -> Option<String> {
    let rest = seen.path.strip_prefix("/v2/")?.strip_prefix(life)?;
    // Behind these are numbers and digests.
    let kinds = ["/blobs/uploads/", "/blobs/", "/manifests/"];
    let kind = kinds.into_iter().find(|kind| rest.starts_with(kind))?;
    let writes = match seen.method.as_str() {
        "HEAD" => kind == "/blobs/",
        "GET" => false,
        _ => true,
    };
    writes.then(|| format!("{} /v2/LIFE{kind}", seen.method))
}

/// Has one request of this life meet the refusal.
pub(crate) fn aim(stand: &Stand, life: &str, point: &Point, refusal: Refusal) {
    let request = point.request.replace("LIFE", life);
    if let Some((method, path)) = request.split_once(' ') {
        stand.registry.aim(method, path, point.nth, refusal.fault());
    }
}

/// Has every request meet it.
pub(crate) fn outage(stand: &Stand, refusal: Refusal) {
    for route in [Route::Manifest, Route::Blob, Route::Upload, Route::Tags] {
        stand.registry.inject(route, usize::MAX, refusal.fault());
    }
}
