//! Starts the watches and, once everything has been listed and this replica leads, the controllers.
//!
//! Standbys watch, too: their caches are warm when they take over, and their depots know what every node may have.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use tenon_api::node_modules_config::NodeModulesConfig;
use tenon_api::{Module, ModuleImage, PreflightValidation};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};

use crate::admin::Part;
use crate::budget::NotLeader;
use crate::images::Images;
use crate::metrics::{Controller, Outcome};
use crate::queue::{Next, Queue};
use crate::run::Context;
use crate::world::{
    Kind, Listed, Node, World, catch_up, follow, follow_claims, follow_classes, follow_facts, follow_jobs,
    follow_pods, follow_sets,
};
use crate::{census, facts_images, made, modules, nodes, preflight, status, workloads};

/// A controller cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A task of a controller ended on its own.
    #[error("a controller's task panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

/// What a piece of work came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// How it ended.
    pub outcome: Outcome,
    /// What is next.
    pub next: Next,
}

impl Done {
    /// Everything is as it should be, or was made so.
    pub const fn settled(changed: bool) -> Self {
        let outcome = if changed { Outcome::Changed } else { Outcome::Unchanged };
        Self { outcome, next: Next::AwaitChange }
    }
}

/// A controller: one kind of key, one way to bring what it names to what it should be.
pub trait Reconciler: Send + Sync + 'static {
    /// What it works on.
    type Key: Clone + Ord + Hash + fmt::Display + Send + Sync + 'static;
    /// How it fails.
    type Error: Failure;

    /// Its name among the metrics.
    const CONTROLLER: Controller;
    /// How many keys are worked on at once.
    const CONCURRENCY: usize;
    /// How long one piece of work may take before it counts as failed; it stands above every deadline inside.
    const PATIENCE: Duration = Duration::from_mins(10);

    /// Where its keys come from.
    fn queue(world: &World) -> &Queue<Self::Key>;

    /// Observes, decides, applies.
    fn reconcile(
        &self,
        context: &Context,
        world: &World,
        key: Self::Key,
    ) -> impl Future<Output = Result<Done, Self::Error>> + Send;
}

/// An error of a controller: what it means for the work, not only for the log.
pub trait Failure: std::error::Error + Send + 'static {
    /// Whether somebody else was quicker: the newer object is on its way, and nothing is wrong.
    fn is_conflict(&self) -> bool;

    /// Whether this replica does not lead any more.
    fn is_not_leader(&self) -> bool;
}

/// Whether a request failed because somebody else changed the object first.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict() || status.is_not_found())
}

/// Why a write was not made.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// This replica does not lead.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// The API server refused it, or could not be reached.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// No answer came while this replica led. It may have taken effect.
    #[error("write to the API server: no answer in {} ms", after.as_millis())]
    Silent {
        /// How long it was waited for.
        after: Duration,
    },
}

impl Failure for WriteError {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Api(error) if is_conflict(error))
    }

    fn is_not_leader(&self) -> bool {
        matches!(self, Self::NotLeader(_))
    }
}

/// Runs all controllers until `context.shutdown`.
pub async fn run(context: Context) -> Result<(), Error> {
    let world = Arc::new(World::new(context.assignments.clone()).with_kernels(context.kernels.clone()));
    let mut tasks = JoinSet::new();
    let listed = [
        watch_kind::<Node>(&mut tasks, &context, &world),
        watch_kind::<Module>(&mut tasks, &context, &world),
        watch_kind::<ModuleImage>(&mut tasks, &context, &world),
        watch_kind::<NodeModulesConfig>(&mut tasks, &context, &world),
        watch_kind::<PreflightValidation>(&mut tasks, &context, &world),
        watch_facts(&mut tasks, &context, &world),
        watch_pods(&mut tasks, &context, &world),
        watch_sets(&mut tasks, &context, &world),
        watch_jobs(&mut tasks, &context, &world),
    ];
    // Nobody waits for these: before they are known, everything counts as in use.
    let (client, claims, shutdown) = (context.client.clone(), world.clone(), context.shutdown.clone());
    tasks.spawn(async move { follow_claims(client, &claims, shutdown).await });
    // Nor for these, which only say that there is something to read.
    let (client, classes, shutdown) = (context.client.clone(), world.clone(), context.shutdown.clone());
    tasks.spawn(async move { follow_classes(client, &classes, shutdown).await });
    tasks.spawn(start(context.clone(), world, listed));
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(Error::Panicked)?;
    }
    Ok(())
}

/// Has a kind followed until the end; what comes back turns true when all that there were have been seen.
fn watch_by<F>(
    tasks: &mut JoinSet<()>,
    context: &Context,
    world: &Arc<World>,
    follow: impl FnOnce(Client, Arc<World>, watch::Sender<bool>, CancellationToken) -> F,
) -> Listed
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, listed) = watch::channel(false);
    tasks.spawn(follow(context.client.clone(), world.clone(), sender, context.shutdown.clone()));
    listed
}

fn watch_kind<K: Kind>(tasks: &mut JoinSet<()>, context: &Context, world: &Arc<World>) -> Listed {
    watch_by(tasks, context, world, |client, world, listed, shutdown| async move {
        follow::<K>(client, &world, listed, shutdown).await;
    })
}

fn watch_facts(tasks: &mut JoinSet<()>, context: &Context, world: &Arc<World>) -> Listed {
    let namespace = context.args.namespace.clone();
    watch_by(tasks, context, world, |client, world, listed, shutdown| async move {
        follow_facts(client, &namespace, &world, listed, shutdown).await;
    })
}

fn watch_pods(tasks: &mut JoinSet<()>, context: &Context, world: &Arc<World>) -> Listed {
    watch_by(tasks, context, world, |client, world, listed, shutdown| async move {
        follow_pods(client, &world, listed, shutdown).await;
    })
}

fn watch_sets(tasks: &mut JoinSet<()>, context: &Context, world: &Arc<World>) -> Listed {
    watch_by(tasks, context, world, |client, world, listed, shutdown| async move {
        follow_sets(client, &world, listed, shutdown).await;
    })
}

/// One that is not known yet would be in the way of another that makes the same image from something else.
fn watch_jobs(tasks: &mut JoinSet<()>, context: &Context, world: &Arc<World>) -> Listed {
    watch_by(tasks, context, world, |client, world, listed, shutdown| async move {
        follow_jobs(client, &world, listed, shutdown).await;
    })
}

async fn start(context: Context, world: Arc<World>, listed: [Listed; 9]) {
    let shutdown = context.shutdown.clone();
    let ready = async {
        for mut kind in listed {
            // The sender lives as long as the watch, which ends with the process.
            let _ = kind.wait_for(|listed| *listed).await;
        }
        world.complete();
        context.readiness.ready(Part::Caches);
        info!(
            nodes = world.read().node_count(),
            modules = world.read().modules().count(),
            "caches are filled"
        );
    };
    if shutdown.run_until_cancelled(ready).await.is_none() {
        return;
    }
    let images = Arc::new(Images::new(&context));
    let mut tasks = JoinSet::new();
    // Every replica makes again what its own depot lacks.
    tasks.spawn(images.clone().supply(context.clone(), world.clone()));
    tasks.spawn(census::follow(context.clone(), world.clone()));
    tasks.spawn(follow_keys(context.clone(), world.clone()));
    let mut claim = context.claim.clone();
    let lead = async {
        claim.won().await;
        nodes::inherit(&context).await;
        catch_up(&context.client, &world).await;
    };
    if shutdown.run_until_cancelled(lead).await.is_some() {
        info!("this replica leads: its controllers start");
        work(&mut tasks, &context, &world, &Arc::new(modules::Modules::default()));
        work(&mut tasks, &context, &world, &images);
        work(&mut tasks, &context, &world, &Arc::new(nodes::Nodes::default()));
        work(&mut tasks, &context, &world, &Arc::new(status::Status));
        work(&mut tasks, &context, &world, &Arc::new(workloads::Workloads::default()));
        work(&mut tasks, &context, &world, &Arc::new(preflight::Preflights));
        tasks.spawn(made::follow(context.clone(), world.clone()));
        if !context.args.facts_images.is_empty() {
            tasks.spawn(facts_images::follow(context.clone(), world.clone()));
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// Starts a controller's workers.
fn work<R: Reconciler>(tasks: &mut JoinSet<()>, context: &Context, world: &Arc<World>, reconciler: &Arc<R>) {
    for _ in 0..R::CONCURRENCY {
        tasks.spawn(worker(context.clone(), world.clone(), reconciler.clone()));
    }
}

/// Works on one key after the other until the end; work that has begun is finished.
async fn worker<R: Reconciler>(context: Context, world: Arc<World>, reconciler: Arc<R>) {
    let queue = R::queue(&world);
    while let Some((key, waited)) = context.shutdown.run_until_cancelled(queue.next_and_wait()).await {
        context.metrics.waited(R::CONTROLLER, waited.as_secs_f64());
        let span = info_span!("reconcile", controller = R::CONTROLLER.as_str(), key = %key);
        let next = attempt(&context, &world, &*reconciler, key.clone()).instrument(span).await;
        queue.done(&key, next);
    }
}

/// One reconcile: bounded in time, counted, its failure logged once.
async fn attempt<R: Reconciler>(context: &Context, world: &World, reconciler: &R, key: R::Key) -> Next {
    let start = Instant::now();
    let done = match tokio::time::timeout(R::PATIENCE, reconciler.reconcile(context, world, key)).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => failed(&error),
        Err(_) => {
            warn!(seconds = R::PATIENCE.as_secs(), "gave up; it is tried again");
            Done { outcome: Outcome::Failed, next: Next::Backoff }
        }
    };
    context.metrics.reconciled(R::CONTROLLER, done.outcome, start.elapsed().as_secs_f64());
    done.next
}

fn failed<E: Failure>(error: &E) -> Done {
    if error.is_conflict() {
        debug!(error = error as &dyn std::error::Error, "somebody was quicker");
        return Done { outcome: Outcome::Failed, next: Next::Backoff };
    }
    if !error.is_not_leader() {
        warn!(error = error as &dyn std::error::Error, "did not succeed; it is tried again");
    }
    Done { outcome: Outcome::Failed, next: Next::Backoff }
}

/// Another key that signs: every node's order may have to be signed anew.
async fn follow_keys(context: Context, world: Arc<World>) {
    let mut keys = context.order_keys.clone();
    while let Some(Ok(())) = context.shutdown.run_until_cancelled(keys.changed()).await {
        let names = world.read().node_names();
        for name in names {
            world.queues.nodes.add(name);
        }
        // Whether a deleted Module is gone from a node is read off orders, which only the keys tell from forged ones.
        let deleted = world.read().deleted_modules();
        for key in deleted {
            world.queues.modules.add(key);
        }
    }
}
