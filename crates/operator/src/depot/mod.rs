//! The depot: bundles for the nodes that are assigned them, over TLS.
//!
//! `GET` or `HEAD /v1/bundles/sha256:<hex>` with a bearer token of the node's agent answers
//!
//! | status | when |
//! | --- | --- |
//! | 200, 206 | here it is, or the range of it that was asked for |
//! | 401 | the token is not accepted; the body says why |
//! | 403 | the node is not assigned this bundle |
//! | 404, 405 | another path or method |
//! | 416 | the range lies beyond the bundle's end |
//! | 429, 503 with `Retry-After` | come back: too many at once, not known yet, or it has to be made first |
//!
//! `HEAD /v1/kernels/<release>/<build-id>` asks whether facts about the kernel that the node runs are wanted of it, and
//! `PUT` brings them:
//!
//! | status | when |
//! | --- | --- |
//! | 204 | there are facts about this build; or these are kept now |
//! | 404 | to `HEAD`: they are wanted of this node |
//! | 403 | the node has not reported that it runs this build, or its kubelet reports another release |
//! | 409 | another node is asked for them |
//! | 408 | to `PUT`: they took too long |
//! | 429 with `Retry-After` | this node sends some already, or has told of another build a moment ago |
//! | 422 | to `PUT`: these are no facts about this build, or too many bytes |
//! | 503 with `Retry-After` | come back: not known yet, too many at once, or another replica leads |
//!
//! `HEAD /v1/pulled` with the token of a pod that takes a driver out of an image ([`tenon_api::pull`]) asks whether what it brings is
//! expected, and `PUT` brings it:
//!
//! | status | when |
//! | --- | --- |
//! | 204 | it is expected; or it is here now |
//! | 409 | this pod has brought something already |
//! | 400, 408, 413 | to `PUT`: it broke off, took too long, or is more than a bundle may be made of |
//! | 503 with `Retry-After` | come back: nothing is expected of this pod yet, or another replica leads |
//!
//! The `ETag` is that of the bytes, not the bundle's name: another replica may have compressed the same bundle otherwise,
//! and a range of one must never be joined to a range of the other. An agent that goes on sends `If-Range`.

mod answer;
mod assignments;
mod cache;
mod index;
mod issuer;
mod kernels;
mod places;
mod pulled;
mod range;
mod server;
mod shares;
mod stall;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod token;
mod transfer;
mod uploads;
mod wanted;

pub use assignments::{Assignments, Verdict};
pub use cache::{BundleCache, CacheError, CachedBundle};
pub use issuer::{TokenError, TokenVerifier};
pub use kernels::{Build, Demand, Kernels, RunningKernel};
pub use pulled::{Arrival, Pulled};
pub use server::{Depot, Server};
pub use uploads::Upload;
pub use wanted::Wanted;
