//! Puts the parts together, and takes them apart in the right order: first everything that writes ends, then the lease
//! is given back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use ring::rand::SecureRandom as _;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admin::{self, Admin, Readiness};
use crate::args::{Args, Switch};
use crate::budget::Writes;
use crate::client::{self, ClientError};
use crate::controllers;
use crate::definitions::{self, DefinitionError};
use crate::depot::{self, Assignments, BundleCache, Depot, Kernels, Pulled, TokenVerifier, Wanted};
use crate::events::{self, Events};
use crate::identity::serving::ServingCertificate;
use crate::identity::{Identity, OrderKeyHandle};
use crate::kernel_facts;
use crate::lease::election::Timing;
use crate::lease::{Candidate, Claim, LeaseError};
use crate::metrics::Metrics;
use crate::shutdown;
use crate::signatures::{NodeSignatures, SignaturesError};

/// How long running work may take to end; below a pod's usual 30 s, the lease's return included.
const DRAIN: Duration = Duration::from_secs(20);
/// Uploads of kernel facts that may wait to be kept.
const UPLOADS: usize = 4;
/// Below the lease's deadline: a renewal that hangs is given up in time for another try.
const LEASE_REQUEST: Duration = Duration::from_secs(4);

/// What the controllers work with.
#[derive(Clone)]
pub struct Context {
    /// The flags.
    pub args: Arc<Args>,
    /// The API server.
    pub client: Client,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where events are handed in.
    pub events: Events,
    /// Leave to write: to be asked before each write.
    pub writes: Writes,
    /// Whether this replica leads.
    pub claim: Claim,
    /// The keys that sign orders.
    pub order_keys: OrderKeyHandle,
    /// Which node may have which bundle: kept by the nodes controller on every replica.
    pub assignments: Assignments,
    /// The bundles on disk: filled by the images controller on every replica.
    pub cache: Arc<BundleCache>,
    /// Bundles that nodes asked for and that are not on disk.
    pub wanted: Wanted,
    /// What pods bring that take drivers out of images.
    pub pulled: Pulled,
    /// Which node runs which build of a kernel, and of which builds there are facts.
    pub kernels: Kernels,
    /// What the nodes' kernels want of signatures, as the administrator says.
    pub signatures: Arc<NodeSignatures>,
    /// Where to say that caches are filled.
    pub readiness: Readiness,
    /// Cancelled when the process is to end.
    pub shutdown: CancellationToken,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("args", &self.args)
            .field("claim", &self.claim)
            .finish_non_exhaustive()
    }
}

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Signals cannot be received.
    #[error("listen for signals")]
    Signals(#[source] std::io::Error),
    /// No way to the API server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// An address is taken, or not ours.
    #[error("listen on {address} ({flag})")]
    Listen {
        /// The flag that gives it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// What is said of the nodes' signatures is unusable.
    #[error(transparent)]
    Signatures(#[from] SignaturesError),
    /// The bundles' directory is unusable.
    #[error(transparent)]
    Cache(#[from] depot::CacheError),
    /// The depot cannot be set up.
    #[error("set up the depot's TLS")]
    Tls(#[source] rustls::Error),
    /// Metrics and readiness are no longer served.
    #[error("serve metrics and readiness")]
    Admin(#[source] std::io::Error),
    /// The election has ended.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The API server would drop what is written.
    #[error(transparent)]
    Definitions(#[from] DefinitionError),
    /// A controller cannot go on.
    #[error(transparent)]
    Controllers(#[from] controllers::Error),
    /// A part ended that should not.
    #[error("{part} ended without being asked to")]
    Ended {
        /// Which part.
        part: &'static str,
    },
    /// A part panicked.
    #[error("a part of the operator panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

/// Runs the operator until a signal, the loss of leadership, or an error that it cannot outlive.
pub async fn run(args: Args) -> Result<(), Error> {
    let shutdown = CancellationToken::new();
    shutdown::on_signals(shutdown.clone()).map_err(Error::Signals)?;
    run_until(args, shutdown).await
}

/// Runs the operator until `shutdown`, the loss of leadership, or an error that it cannot outlive.
pub async fn run_until(args: Args, shutdown: CancellationToken) -> Result<(), Error> {
    let identity = identity(&args);
    info!(version = env!("CARGO_PKG_VERSION"), identity, namespace = args.namespace, "starting");
    let config = client::config(args.kubeconfig.as_deref()).await?;
    let mut election = Election::stand(&args, &config, &identity)?;
    let client = client::client(config, Duration::from_secs(args.api_timeout.into()))?;
    let work = Work::start(args, identity, client, election.claim.clone(), &shutdown).await?;
    supervise(work, &mut election, &shutdown).await
}

/// A name that no other process has: the lease takes whoever bears it for the same.
fn identity(args: &Args) -> String {
    let name = args.identity.clone().unwrap_or_else(|| {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        if host.is_empty() { "tenon-operator".to_owned() } else { host }
    });
    let mut random = [0; 4];
    // Without randomness nothing else here works either: no key, no TLS.
    let _ = ring::rand::SystemRandom::new().fill(&mut random);
    format!("{name}_{:08x}", u32::from_be_bytes(random))
}

/// The election, which ends after everything else.
struct Election {
    task: JoinSet<Result<(), LeaseError>>,
    release: CancellationToken,
    claim: Claim,
}

impl Election {
    fn stand(args: &Args, config: &kube::Config, identity: &str) -> Result<Self, Error> {
        let (release, mut task) = (CancellationToken::new(), JoinSet::new());
        let claim = match args.leader_election {
            Switch::Off => Claim::without_election(),
            Switch::On => {
                let client = client::impatient(config.clone(), LEASE_REQUEST)?;
                let (candidate, claim) =
                    Candidate::new(&client, &args.namespace, identity.to_owned(), Timing::default());
                task.spawn(candidate.run(release.clone()));
                claim
            }
        };
        Ok(Election { task, release, claim })
    }

    /// Returns when the election has ended; never without one.
    async fn ended(&mut self) -> Error {
        match self.task.join_next().await {
            Some(Ok(Err(error))) => error.into(),
            Some(Ok(Ok(()))) => Error::Ended { part: "the election" },
            Some(Err(panic)) => Error::Panicked(panic),
            None => std::future::pending().await,
        }
    }

    /// Gives the lease back.
    async fn resign(&mut self) {
        self.release.cancel();
        while self.task.join_next().await.is_some() {}
    }
}

type Ended = (&'static str, Result<(), Error>);

/// Everything that ends with `shutdown`.
struct Work(JoinSet<Ended>);

impl Work {
    async fn start(
        args: Args,
        identity: String,
        client: Client,
        claim: Claim,
        shutdown: &CancellationToken,
    ) -> Result<Self, Error> {
        let metrics = Arc::new(Metrics::new());
        let assignments = Assignments::default();
        let cache =
            BundleCache::open(&args.cache_dir, args.cache_limit, assignments.clone(), metrics.clone())
                .await?;
        let (events, publisher) = events::channel(metrics.clone());
        let (keys, order_keys) = watch::channel(None);
        let context = Context {
            client: client.clone(),
            writes: Writes::new(args.writes_per_second, claim.clone(), metrics.clone()),
            metrics,
            events,
            claim,
            order_keys,
            assignments,
            cache: Arc::new(cache),
            wanted: Wanted::default(),
            pulled: Pulled::default(),
            kernels: Kernels::default(),
            signatures: Arc::new(NodeSignatures::read(args.nodes_signatures, &args.nodes_trust)?),
            readiness: Readiness::default(),
            shutdown: shutdown.clone(),
            args: Arc::new(args),
        };
        let mut work = Work(JoinSet::new());
        let certificate = Arc::new(ServingCertificate::default());
        work.serve(&context, certificate.clone()).await?;
        let owner = Identity {
            client: client.clone(),
            namespace: context.args.namespace.clone(),
            urls: context.args.advertised(),
            writes: context.writes.clone(),
            claim: context.claim.clone(),
            readiness: context.readiness.clone(),
            keys,
            certificate,
            metrics: context.metrics.clone(),
        };
        work.spawn("the care for keys and certificates", finish(owner.run(shutdown.clone())));
        work.spawn("the sending of events", finish(publisher.run(client, identity, shutdown.clone())));
        work.spawn("the controllers", async move {
            tokio::select! {
                checked = definitions::are_ours(&context.client) => checked?,
                () = context.shutdown.cancelled() => return Ok(()),
            }
            Ok(controllers::run(context).await?)
        });
        Ok(work)
    }

    /// Starts both servers.
    async fn serve(&mut self, context: &Context, certificate: Arc<ServingCertificate>) -> Result<(), Error> {
        let admin = Admin {
            metrics: context.metrics.clone(),
            readiness: context.readiness.clone(),
            claim: context.claim.clone(),
        };
        let listener = listen("--listen-admin", context.args.listen_admin).await?;
        let stop = context.shutdown.clone();
        self.spawn("the server of metrics", async move {
            admin::serve(admin, listener, stop).await.map_err(Error::Admin)
        });

        let (uploads, uploaded) = mpsc::channel(UPLOADS);
        let depot = Depot {
            assignments: context.assignments.clone(),
            cache: context.cache.clone(),
            wanted: context.wanted.clone(),
            metrics: context.metrics.clone(),
            verifier: TokenVerifier::new(context.client.clone(), &context.args.namespace),
            transfers: context.args.depot_transfers,
            kernels: context.kernels.clone(),
            uploads,
            pulled: context.pulled.clone(),
        };
        self.spawn("the keeping of kernel facts", finish(kernel_facts::keep(context.clone(), uploaded)));
        let listener = listen("--listen-depot", context.args.listen_depot).await?;
        let server = depot::Server::new(depot, certificate).map_err(Error::Tls)?;
        self.spawn("the depot", finish(server.run(listener, context.shutdown.clone())));
        Ok(())
    }

    fn spawn(&mut self, part: &'static str, task: impl Future<Output = Result<(), Error>> + Send + 'static) {
        self.0.spawn(async move { (part, task.await) });
    }

    /// Returns when any part has ended, which none should.
    async fn ended(&mut self) -> Error {
        match self.0.join_next().await {
            Some(Ok((_, Err(error)))) => error,
            Some(Ok((part, Ok(())))) => Error::Ended { part },
            Some(Err(panic)) => Error::Panicked(panic),
            None => Error::Ended { part: "everything" },
        }
    }

    /// Waits for everything to end, but not for ever.
    async fn drain(&mut self) {
        let all = async {
            while let Some(ended) = self.0.join_next().await {
                if let Ok((part, Err(error))) = ended {
                    warn!(part, error = &error as &dyn std::error::Error, "did not end well");
                }
            }
        };
        if tokio::time::timeout(DRAIN, all).await.is_err() {
            warn!(parts = self.0.len(), "not everything has ended in time");
        }
    }
}

async fn supervise(
    mut work: Work,
    election: &mut Election,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let outcome = tokio::select! {
        // First, because everything else ends for this reason, too.
        biased;
        () = shutdown.cancelled() => Ok(()),
        error = election.ended() => Err(error),
        error = work.ended() => Err(error),
    };
    shutdown.cancel();
    // Another replica may lead already: what runs must not go on, however short its rest.
    if !matches!(outcome, Err(Error::Lease(LeaseError::Lost { .. }))) {
        work.drain().await;
    }
    election.resign().await;
    outcome
}

async fn finish(task: impl Future<Output = ()>) -> Result<(), Error> {
    task.await;
    Ok(())
}

async fn listen(flag: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { flag, address, source })
}
