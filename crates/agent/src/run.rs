//! Does what [`Cycle`] decides.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use kube::{Api, Client};
use tenon_api::node_modules_config::NodeModulesConfigStatus;
use tenon_api::{Guarded, NodeModulesConfig};
use tenon_order::{Digest, NodeName, NodeReport, Phase};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch::{Receiver, Sender};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::args::Args;
use crate::backoff::{Dice, roll};
use crate::client::ApiServer;
use crate::cycle::{Cycle, Rest, Step};
use crate::depot::{Depot, Fetched, Interrupted, Transfer};
use crate::https::Address;
use crate::kernel;
use crate::loader_link::{Answer, Link, LinkError};
use crate::paths;
use crate::status_writer::{self, Outcome};
use crate::watch::{Seen, Sighting, follow};
use tenon_api::message::chain;

/// How long an address of the depot may be silent.
const DEPOT_PATIENCE: Duration = Duration::from_secs(30);

/// Runs the agent until it is asked to end.
pub async fn serve(args: Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let Args { node_name, socket, depot_dir, token_file, work_dir, log_format: _, log_level: _ } = args;
    std::fs::create_dir_all(&work_dir).with_context(|| format!("make {}", work_dir.display()))?;
    let client = ApiServer::of_pod()?.client();
    info!(node = %node_name, "the agent runs");
    let depot = Depot { dir: depot_dir, token_file, work_dir, patience: DEPOT_PATIENCE };
    tokio::select! {
        () = Agent::new(client, node_name, socket, depot).run() => {}
        _ = terminate.recv() => info!(signal = "SIGTERM", "the agent ends"),
        _ = interrupt.recv() => info!(signal = "SIGINT", "the agent ends"),
    }
    Ok(())
}

/// The agent of one node.
#[derive(Debug)]
pub struct Agent {
    api: Api<Guarded<NodeModulesConfig>>,
    socket: PathBuf,
    depot: Depot,
    cycle: Cycle,
    seen: Receiver<Sighting>,
    /// The reading of the object that was heard of last.
    reading: u64,
    link: Option<Link>,
    /// At most one conversation with the loader.
    talk: JoinSet<Talked>,
    /// At most one transfer; which one stands in `fetching`.
    fetch: JoinSet<Result<Fetched, Interrupted>>,
    fetching: Option<Digest>,
    /// What has arrived of a bundle whose transfer was interrupted.
    begun: Option<(Digest, Transfer)>,
    arrived: Option<Arrived>,
    /// What goes on beside everything else. Ends with the agent.
    _aside: JoinSet<()>,
}

#[derive(Debug)]
struct Arrived {
    bundle: Digest,
    file: File,
    from: Address,
}

/// A conversation with the loader that came to its end.
#[derive(Debug)]
enum Talked {
    Connected(Result<(Link, NodeReport), LinkError>),
    Told(Digest, Result<Answer, LinkError>),
    Supplied(Digest, Address, Result<(), LinkError>),
    Applied(Result<NodeReport, LinkError>),
    LoadedFromStore(Result<NodeReport, LinkError>),
    Looked(Result<NodeReport, LinkError>),
}

impl Agent {
    /// An agent that has not begun.
    pub fn new(client: Client, node: NodeName, socket: PathBuf, depot: Depot) -> Self {
        let (sender, seen): (Sender<Sighting>, _) = tokio::sync::watch::channel(Sighting::default());
        let mut aside = JoinSet::new();
        let watched: Api<Guarded<NodeModulesConfig>> = Api::all(client.clone());
        aside.spawn(follow(watched, node, sender));
        let mut cycle = Cycle::new(Instant::now(), Dice::new(roll()));
        let build_id = kernel::build_id();
        if let Some(build_id) = build_id.clone() {
            aside.spawn(kernel::tell(depot.clone(), build_id));
        }
        cycle.runs(build_id);
        Self {
            api: Api::all(client),
            socket,
            depot,
            cycle,
            seen,
            reading: 0,
            link: None,
            talk: JoinSet::new(),
            fetch: JoinSet::new(),
            fetching: None,
            begun: None,
            arrived: None,
            _aside: aside,
        }
    }

    /// Goes on for ever.
    pub async fn run(mut self) {
        loop {
            match self.cycle.next(Instant::now(), Timestamp::now()) {
                Step::Rest(rest) => {
                    self.steer_fetch(rest.fetch);
                    self.rest(rest).await;
                }
                Step::Validate(paths) => self.cycle.found(&paths::there(&paths), Instant::now()),
                Step::Write(status) => self.write(&status).await,
                step => self.begin_talk(step),
            }
        }
    }

    /// Waits until something happens, and takes note of it.
    async fn rest(&mut self, rest: Rest) {
        let Self { seen, talk, fetch, link, .. } = self;
        let is_idle = talk.is_empty();
        let loader_gone = async {
            match link {
                Some(link) if is_idle => link.closed().await,
                _ => std::future::pending().await,
            }
        };
        let timer = async {
            match rest.until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok(()) = seen.changed() => {
                let Sighting { seen, reading } = seen.borrow_and_update().clone();
                if reading == std::mem::replace(&mut self.reading, reading) {
                    self.cycle.see(seen);
                } else {
                    self.cycle.see_anew(seen);
                }
            }
            Some(talked) = talk.join_next() => match talked {
                Ok(talked) => self.talked(talked),
                Err(error) => self.lost(&LinkError::Thread(error)),
            },
            Some(fetched) = fetch.join_next() => {
                // One that was told to end says nothing worth hearing.
                if let (Ok(result), Some(bundle)) = (fetched, self.fetching.take()) {
                    self.fetched(bundle, result);
                }
            }
            gone = loader_gone => {
                self.link = None;
                info!(error = gone.err().map(tracing::field::display), "the loader has closed the connection");
                self.cycle.lost("the loader has closed the connection".to_owned(), Instant::now());
            }
            () = timer => {}
        }
    }

    fn begin_talk(&mut self, step: Step) {
        if let Some(talk) = self.conversation(step) {
            self.cycle.began_talk(Instant::now());
            self.talk.spawn(talk);
        }
    }

    /// The conversation that a step asks for.
    fn conversation(&mut self, step: Step) -> Option<BoxFuture<'static, Talked>> {
        if step == Step::Connect {
            let socket = self.socket.clone();
            return Some(Box::pin(async move { Talked::Connected(Link::connect(&socket).await) }));
        }
        let Some(link) = self.link.clone() else {
            self.cycle.lost("there is no connection".to_owned(), Instant::now());
            return None;
        };
        match step {
            Step::Tell(order) => {
                let digest = Digest::of(order.as_bytes());
                Some(Box::pin(async move { Talked::Told(digest, link.tell(order).await) }))
            }
            Step::Supply(bundle) => {
                let Some(Arrived { bundle, file, from }) = self.arrived.take() else {
                    let problem = "the bundle is no longer there".to_owned();
                    self.cycle.fetch_failed(bundle, problem, None, Instant::now());
                    return None;
                };
                Some(Box::pin(async move { Talked::Supplied(bundle, from, link.supply(bundle, file).await) }))
            }
            Step::Apply => Some(Box::pin(async move { Talked::Applied(link.apply().await) })),
            Step::Silent => Some(Box::pin(async move { Talked::LoadedFromStore(link.go_on_alone().await) })),
            Step::Look => Some(Box::pin(async move { Talked::Looked(link.look().await) })),
            Step::Connect | Step::Validate(_) | Step::Write(_) | Step::Rest(_) => None,
        }
    }

    fn talked(&mut self, talked: Talked) {
        let now = Instant::now();
        match talked {
            Talked::Connected(Ok((link, report))) => {
                info!(store = %report.store, kernel = report.kernel, "the loader is here");
                self.link = Some(link);
                self.cycle.connected(report, now);
            }
            Talked::Told(order, Ok(Answer::Accepted { generation, missing })) => {
                info!(%generation, missing = missing.len(), "the loader has accepted the order");
                self.cycle.accepted(order, missing, now);
            }
            Talked::Told(order, Ok(Answer::Refused { reason, message })) => {
                warn!(?reason, message, "the loader has refused the order");
                self.cycle.refused(order, reason, message, now);
            }
            Talked::Supplied(bundle, _, Ok(())) => {
                info!(%bundle, "the loader has the bundle");
                self.cycle.supplied(bundle, now);
            }
            Talked::Supplied(bundle, from, Err(error)) => {
                let problem = if error.is_bundles_fault() {
                    format!("what {from} sent is not the bundle: {}", chain(&error))
                } else {
                    chain(&error)
                };
                self.cycle.fetch_failed(bundle, problem, None, now);
                self.lost(&error);
            }
            Talked::Applied(Ok(report)) => {
                tell(&report);
                self.cycle.applied(report, now);
            }
            Talked::LoadedFromStore(Ok(report)) => {
                tell(&report);
                self.cycle.loaded_from_store(report, now);
            }
            Talked::Looked(Ok(report)) => self.cycle.looked(report, now),
            Talked::Applied(Err(LinkError::Refused { reason, message }))
            | Talked::LoadedFromStore(Err(LinkError::Refused { reason, message }))
            | Talked::Looked(Err(LinkError::Refused { reason, message })) => {
                warn!(?reason, message, "the loader cannot follow");
                self.cycle.cannot_follow(reason, message, now);
            }
            Talked::Connected(Err(error))
            | Talked::Told(_, Err(error))
            | Talked::Applied(Err(error))
            | Talked::LoadedFromStore(Err(error))
            | Talked::Looked(Err(error)) => self.lost(&error),
        }
    }

    fn lost(&mut self, error: &LinkError) {
        warn!(error = %chain(error), "no conversation with the loader");
        self.link = None;
        self.arrived = None;
        self.cycle.lost(chain(error), Instant::now());
    }

    /// Begins the transfer that is wanted and ends any other.
    fn steer_fetch(&mut self, wanted: Option<Digest>) {
        if self.fetching == wanted {
            return;
        }
        self.fetch = JoinSet::new();
        self.fetching = wanted;
        let Some(bundle) = wanted else { return };
        let begun = self.begun.take().filter(|(of, _)| *of == bundle).map(|(_, transfer)| transfer);
        let depot = self.depot.clone();
        self.fetch.spawn(async move { depot.fetch(bundle, begun).await });
        self.cycle.began_fetch(bundle);
    }

    fn fetched(&mut self, bundle: Digest, result: Result<Fetched, Interrupted>) {
        match result {
            Ok(Fetched { file, from }) => {
                info!(%bundle, %from, "the bundle has arrived");
                self.arrived = Some(Arrived { bundle, file, from });
                self.cycle.fetched(bundle);
            }
            Err(Interrupted { error, transfer }) => {
                warn!(%bundle, error = %chain(&error), "the bundle has not arrived");
                self.begun = transfer.map(|transfer| (bundle, transfer));
                self.cycle.fetch_failed(bundle, chain(&error), error.retry_after(), Instant::now());
            }
        }
    }

    async fn write(&mut self, status: &NodeModulesConfigStatus) {
        let Some(object) = self.cycle.object() else { return };
        match status_writer::write(&self.api, object, status).await {
            Ok(Outcome::Written(object)) => {
                info!("reported");
                self.cycle.wrote(object);
            }
            Ok(Outcome::Outdated(current)) => {
                debug!("the object has changed meanwhile");
                self.cycle.see_anew(current.map_or(Seen::Absent, Seen::Present));
                self.cycle.write_failed(Instant::now());
            }
            Err(error) => {
                warn!(error = %chain(&error), "cannot report");
                self.cycle.write_failed(Instant::now());
            }
        }
    }
}

fn tell(report: &NodeReport) {
    for module in &report.modules {
        let (key, reason, message) = (&module.key, module.reason, &module.message);
        match module.phase {
            Phase::Loaded | Phase::Removed | Phase::Orphaned | Phase::WaitingForBundle => {
                info!(module = %key, phase = ?module.phase, ?reason, message, "module");
            }
            Phase::Failed | Phase::RolledBack | Phase::CrashSuspected | Phase::InUse => {
                warn!(module = %key, phase = ?module.phase, ?reason, message, "module");
            }
        }
    }
}
