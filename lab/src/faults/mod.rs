//! A proxy between one client and the real API server that counts every request and spoils those that it is told to.
//!
//! The client speaks TLS with it by the lab's authority and brings its own token; requests go on unchanged, watches are
//! passed on as they come. A [`Rule`] says which request meets which [`Fault`]. So everything that a network, a busy
//! server or the client's own death can do to a conversation is done at a chosen request, and nothing in the client or
//! the server is changed for it.

mod journal;
mod relay;
mod rule;
mod watching;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::ControlPlane;
use crate::control_plane::pki::PkiError;

pub use journal::{Journal, Kind, Seen};
pub use rule::{Fault, Rule};

/// A running proxy. Dropping it cuts all connections.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

/// Why there is no proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// No port on loopback.
    #[error("listen on loopback")]
    Listen(#[source] io::Error),
    /// Its certificate.
    #[error("make the proxy's certificate")]
    Certificate(#[from] PkiError),
    /// The certificate is not what rustls reads.
    #[error("read the proxy's certificate")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// TLS cannot be set up.
    #[error("set up the proxy's TLS")]
    Tls(#[from] rustls::Error),
}

/// Ends the client at once.
type Killer = Arc<dyn Fn() + Send + Sync>;

struct Shared {
    /// The API server's port on loopback.
    upstream: u16,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    journal: Mutex<Journal>,
    rules: Mutex<Vec<Rule>>,
    killer: Mutex<Option<Killer>>,
    weather: watch::Sender<Weather>,
    watches: AtomicUsize,
}

/// What holds for all connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Weather {
    /// Nobody answers.
    down: bool,
    /// These watches are open and say nothing.
    frozen: Frozen,
    /// How often all watches have been cut.
    cuts: u64,
}

/// Watches that are held back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Frozen {
    /// None.
    #[default]
    Nothing,
    /// All.
    All,
    /// Those of one resource, by its plural name: what is known of it grows old while everything else is fresh.
    Resource(String),
}

impl Frozen {
    fn holds(&self, resource: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Resource(frozen) => frozen == resource,
        }
    }
}

impl Proxy {
    /// A proxy in front of this control plane's API server.
    pub async fn start(plane: &ControlPlane) -> Result<Self, ProxyError> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(ProxyError::Listen)?;
        let port = listener.local_addr().map_err(ProxyError::Listen)?.port();
        let identity = plane.pki().server("tenon-lab-faults", &["127.0.0.1", "localhost"])?;
        let shared = Arc::new(Shared {
            upstream: plane.port(),
            acceptor: acceptor(&identity.certificate, &identity.key)?,
            connector: connector(plane.pki().authority())?,
            journal: Mutex::default(),
            rules: Mutex::default(),
            killer: Mutex::default(),
            weather: watch::Sender::new(Weather::default()),
            watches: AtomicUsize::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(relay::accept(listener, shared.clone()));
        Ok(Self { port, shared, _tasks: tasks })
    }

    /// Its port on loopback: a client uses it as it would the API server's own.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How the client dies, for the faults that kill it.
    pub fn set_killer(&self, kill: impl Fn() + Send + Sync + 'static) {
        *lock(&self.shared.killer) = Some(Arc::new(kill));
    }

    /// Has a rule count from now on. Rules are asked in the order of their arming, and the first that strikes decides.
    pub fn arm(&self, rule: Rule) {
        lock(&self.shared.rules).push(rule);
    }

    /// Forgets all rules; says whether each of them has struck as often as it was to.
    pub fn disarm(&self) -> bool {
        lock(&self.shared.rules).drain(..).all(|rule| rule.is_spent())
    }

    /// What was asked since the start or the last [`Self::forget`].
    pub fn journal(&self) -> Journal {
        lock(&self.shared.journal).clone()
    }

    /// Begins an empty journal.
    pub fn forget(&self) {
        lock(&self.shared.journal).clear();
    }

    /// From now on nobody answers, and what is open is cut; or all is well again.
    pub fn set_down(&self, down: bool) {
        self.shared.weather.send_modify(|weather| weather.down = down);
    }

    /// From now on these watches stay open and say nothing, and the others say what they held back.
    pub fn set_frozen(&self, frozen: Frozen) {
        self.shared.weather.send_modify(|weather| weather.frozen = frozen);
    }

    /// Cuts every watch that is open.
    pub fn cut_watches(&self) {
        self.shared.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// How many watches are open.
    pub fn open_watches(&self) -> usize {
        self.shared.watches.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("port", &self.port).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of the locks, and a killer that does has done what it should.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn acceptor(certificate: &str, key: &str) -> Result<TlsAcceptor, ProxyError> {
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn connector(authority: &str) -> Result<TlsConnector, ProxyError> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate?)?;
    }
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
