//! A registry for tests: real HTTP, in the test's own process, that misbehaves on request. And images for it, or in folders.
//!
//! The registry speaks the part of the OCI distribution specification that registries must, keeps everything in memory, and
//! notes every request. A [`Fault`] spoils the next requests of one [`Route`]. Dropping it closes all connections.

mod answer;
mod fault;
mod images;
mod layout;
mod module;
mod server;
mod store;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ServerConfig;
use tenon_order::Digest;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use fault::{Fault, Route};
pub use images::layer;
pub use layout::TestLayout;
pub use module::module;
pub use store::{Auth, Deletion, Seen};

use fault::Aim;
use store::Store;

/// A running registry.
#[derive(Debug)]
pub struct TestRegistry {
    address: SocketAddr,
    store: Arc<Mutex<Store>>,
    task: JoinHandle<()>,
}

impl TestRegistry {
    /// Starts one on a free port of the loopback address, without TLS.
    pub async fn start() -> io::Result<Self> {
        Self::serve(None).await
    }

    /// Starts one with TLS.
    pub async fn start_tls(config: ServerConfig) -> io::Result<Self> {
        Self::serve(Some(config)).await
    }

    async fn serve(tls: Option<ServerConfig>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let store = Arc::new(Mutex::new(Store::new(format!("{scheme}://{address}"))));
        let task = tokio::spawn(server::run(listener, tls, Arc::clone(&store)));
        Ok(Self { address, store, task })
    }

    /// Host and port: what stands before the first slash of an image reference.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        self.store().url.clone()
    }

    /// Asks for credentials from now on.
    pub fn require(&self, auth: Auth) {
        self.store().auth = auth;
    }

    /// Treats deletions like this from now on.
    pub fn set_deletion(&self, deletion: Deletion) {
        self.store().deletion = deletion;
    }

    /// Makes every token that was given out so far worthless.
    pub fn revoke_tokens(&self) {
        self.store().tokens.clear();
    }

    /// Spoils the next `times` requests of a route.
    pub fn inject(&self, route: Route, times: usize, fault: Fault) {
        self.store().faults.push((route, times, fault));
    }

    /// Spoils one request: the `nth` (from 1, counted from now) of this method whose path begins so.
    pub fn aim(&self, method: &str, path: &str, nth: usize, fault: Fault) {
        let (method, path) = (method.to_owned(), path.to_owned());
        self.store().aims.push(Aim { method, path, skip: nth.saturating_sub(1), fault });
    }

    /// Spoils nothing any more; says whether everything that was aimed at has been hit.
    pub fn heal(&self) -> bool {
        let mut store = self.store();
        store.faults.clear();
        store.aims.drain(..).next().is_none()
    }

    /// Every request so far, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.store().seen.clone()
    }

    /// Stores a blob.
    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        self.store().put_blob(repository, bytes.to_vec().into())
    }

    /// Stores a manifest under its digest and a tag.
    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> Digest {
        self.store().put_manifest(repository, tag, media_type, bytes.to_vec().into())
    }

    /// A blob's bytes.
    pub fn blob(&self, repository: &str, digest: &Digest) -> Option<Vec<u8>> {
        self.store().blob(repository, digest).map(|bytes| bytes.to_vec())
    }

    /// A manifest's bytes, by tag or digest.
    pub fn manifest(&self, repository: &str, name: &str) -> Option<Vec<u8>> {
        self.store().manifest(repository, name).map(|(_, bytes)| bytes.to_vec())
    }

    /// Loses a manifest and the tags that name it; whether there was one.
    pub fn lose_manifest(&self, repository: &str, digest: &str) -> bool {
        self.store().delete_manifest(repository, digest)
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}
