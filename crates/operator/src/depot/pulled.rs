//! What pods bring that take drivers out of images on nodes: from one pod one layer, and only where it is expected.
//!
//! Nothing is believed here but who brings it. Whoever expects it packs it as if it came from a registry.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Buf;
use http_body_util::BodyExt as _;
use hyper::body::Body;
use tenon_image::layers::{Layer, Limits};
use tenon_order::Hasher;
use tracing::warn;

use super::answer::Refused;

/// How long a pod may take, so that none keeps its place by sending a byte now and then.
const PATIENCE: Duration = Duration::from_mins(10);
/// What names and headers may take beside the files.
const NAMES: u64 = 64 << 20;

/// From which pods something is expected, and what has come. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Pulled(Arc<Mutex<BTreeMap<String, State>>>);

#[derive(Debug)]
enum State {
    Expected,
    Coming,
    Here(Layer),
}

/// How it is with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Nothing has come yet.
    Awaited,
    /// It is here.
    Here,
}

impl Pulled {
    /// From now on the pod with this identity may bring a layer, once. Says whether it has.
    pub fn expect(&self, pod: &str) -> Arrival {
        match self.lock().entry(pod.to_owned()).or_insert(State::Expected) {
            State::Expected | State::Coming => Arrival::Awaited,
            State::Here(_) => Arrival::Here,
        }
    }

    /// What the pod has brought; nothing more is expected of it.
    pub fn take(&self, pod: &str) -> Option<Layer> {
        let mut pods = self.lock();
        match pods.get(pod) {
            Some(State::Here(_)) => match pods.remove(pod) {
                Some(State::Here(layer)) => Some(layer),
                _ => None,
            },
            _ => None,
        }
    }

    /// Nothing is expected of the pod any more.
    pub fn forget(&self, pod: &str) {
        self.lock().remove(pod);
    }

    /// Whether the pod may bring something now.
    pub(super) fn check(&self, pod: &str) -> Result<(), Refused> {
        match self.lock().get(pod) {
            Some(State::Expected) => Ok(()),
            Some(State::Coming | State::Here(_)) => Err(Refused::Brought),
            None => Err(Refused::NotExpected),
        }
    }

    /// Takes in what the pod brings, in a file in `folder` that has no name.
    pub(super) async fn receive<B>(&self, pod: &str, body: B, folder: &Path) -> Result<(), Refused>
    where
        B: Body<Data: Buf> + Unpin,
    {
        self.receive_within(Limits::default().taken + NAMES, pod, body, folder).await
    }

    async fn receive_within<B>(&self, most: u64, pod: &str, body: B, folder: &Path) -> Result<(), Refused>
    where
        B: Body<Data: Buf> + Unpin,
    {
        let mut coming = self.begin(pod)?;
        let spooled = tokio::time::timeout(PATIENCE, spool(most, body, folder));
        let layer = spooled.await.map_err(|_| Refused::TooSlow)??;
        coming.layer = Some(layer);
        Ok(())
    }

    fn begin(&self, pod: &str) -> Result<Coming<'_>, Refused> {
        self.check(pod)?;
        match self.lock().get_mut(pod) {
            Some(state @ State::Expected) => *state = State::Coming,
            _ => return Err(Refused::Brought),
        }
        Ok(Coming { pulled: self, pod: pod.to_owned(), layer: None })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, State>> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A layer on its way. What does not come to its end may begin anew.
struct Coming<'a> {
    pulled: &'a Pulled,
    pod: String,
    layer: Option<Layer>,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let state = self.layer.take().map_or(State::Expected, State::Here);
        // Who is not expected any more has come too late.
        if let Some(known) = self.pulled.lock().get_mut(&self.pod) {
            *known = state;
        }
    }
}

async fn spool<B>(most: u64, mut body: B, folder: &Path) -> Result<Layer, Refused>
where
    B: Body<Data: Buf> + Unpin,
{
    let kept = |error: io::Error| {
        warn!(%error, "what a pod took out of an image could not be kept");
        Refused::Unreadable
    };
    let mut file = tempfile::tempfile_in(folder).map_err(kept)?;
    let (mut hasher, mut size) = (Hasher::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame.map_err(|_| Refused::Interrupted)?.into_data() else { continue };
        let bytes = data.copy_to_bytes(data.remaining());
        size += bytes.len() as u64;
        if size > most {
            return Err(Refused::TooLarge);
        }
        hasher.update(&bytes);
        // On a thread of its own: no other request should wait for the disk.
        file = tokio::task::spawn_blocking(move || -> io::Result<File> {
            file.write_all(&bytes)?;
            Ok(file)
        })
        .await
        .map_err(|_| Refused::Unreadable)?
        .map_err(kept)?;
    }
    Ok(Layer { digest: hasher.finish(), size, file, shared: false })
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use bytes::Bytes;
    use futures::stream;
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};
    use tenon_order::Digest;

    use super::*;

    fn body(text: &'static str) -> Full<Bytes> {
        Full::new(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn what_is_expected_is_taken_once_and_from_nobody_else() {
        let (pulled, folder) = (Pulled::default(), tempfile::tempdir().unwrap());
        let bring = async |pod: &str| pulled.receive(pod, body("layer"), folder.path()).await;
        assert_eq!(bring("p-1").await, Err(Refused::NotExpected));
        assert_eq!(pulled.expect("p-1"), Arrival::Awaited);
        assert_eq!(bring("p-2").await, Err(Refused::NotExpected));
        assert_eq!(bring("p-1").await, Ok(()));
        assert_eq!(pulled.expect("p-1"), Arrival::Here);
        assert_eq!(bring("p-1").await, Err(Refused::Brought), "what is here is not replaced");
        let mut layer = pulled.take("p-1").unwrap();
        let mut text = String::new();
        layer.file.rewind().unwrap();
        layer.file.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), layer.digest, layer.size), ("layer", Digest::of(b"layer"), 5));
        assert_eq!(bring("p-1").await, Err(Refused::NotExpected), "once");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "no file has a name");
    }

    #[tokio::test]
    async fn what_breaks_off_or_is_too_much_leaves_nothing_and_may_come_again() {
        let (pulled, folder) = (Pulled::default(), tempfile::tempdir().unwrap());
        pulled.expect("p-1");
        let broken = stream::iter([
            Ok(Frame::data(Bytes::from_static(b"half"))),
            Err(io::Error::from(io::ErrorKind::ConnectionReset)),
        ]);
        let received = pulled.receive("p-1", StreamBody::new(broken), folder.path()).await;
        assert_eq!(received, Err(Refused::Interrupted));
        let received = pulled.receive_within(4, "p-1", body("layer"), folder.path()).await;
        assert_eq!(received, Err(Refused::TooLarge));
        assert!(pulled.take("p-1").is_none());
        assert_eq!(pulled.receive("p-1", body("layer"), folder.path()).await, Ok(()));
    }

    #[tokio::test]
    async fn who_is_not_expected_any_more_comes_too_late() {
        let (pulled, folder) = (Pulled::default(), tempfile::tempdir().unwrap());
        pulled.expect("p-1");
        let mut coming = pulled.begin("p-1").unwrap();
        pulled.forget("p-1");
        coming.layer = Some(spool(9, body("layer"), folder.path()).await.unwrap());
        drop(coming);
        assert!(pulled.take("p-1").is_none());
    }
}
