//! One Module's plugin: the `DaemonSet` of its device plugin or DRA driver, and the driver's device classes.
//!
//! Watches: Modules, the `DaemonSet`s and pods that bear their names, and that device classes change. Decides: [`tenon_plan::workload`].
//! Writes: `DaemonSet`s, device classes, and the finalizer by which another operator's pods would stay for ever. The labels by which pods
//! come and go on nodes are the nodes controller's.

mod apply;
mod observe;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tenon_order::ModuleKey;
use tenon_plan::workload::class::Mark;
use tenon_plan::workload::plan;

use crate::controllers::{Done, Reconciler};
use crate::metrics::Controller;
use crate::queue::{Next, Queue};
use crate::run::Context;
use crate::world::World;

pub use apply::ApplyError;
pub use observe::ObserveError;

pub(crate) use apply::are_classes_left;

/// How often it is looked whether what nobody tells of has changed: a namespace's labels, a class that was somebody else's.
const AGAIN: Duration = Duration::from_mins(1);

/// The controller of one Module's plugin.
#[derive(Debug, Default)]
pub struct Workloads {
    memory: Mutex<Memory>,
}

/// What this process has learned.
#[derive(Debug, Default)]
struct Memory {
    /// The generation of a `DaemonSet` at which it is what we wish, whoever else has a say in it; by uid.
    accepted: HashMap<String, i64>,
    /// The marks of Modules with device classes; nothing before all classes have been listed once.
    with_classes: Option<BTreeSet<Mark>>,
    /// Which pods a namespace took, and when it was asked.
    enforced: HashMap<String, (Option<String>, Instant)>,
    /// Modules that were seen to by an earlier answer of their namespace, and since when.
    to_look_again: HashMap<ModuleKey, Instant>,
}

impl Workloads {
    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reconciler for Workloads {
    type Key = ModuleKey;
    type Error = ApplyError;

    const CONTROLLER: Controller = Controller::Workloads;
    const CONCURRENCY: usize = 4;

    fn queue(world: &World) -> &Queue<ModuleKey> {
        &world.queues.workloads
    }

    async fn reconcile(&self, context: &Context, world: &World, key: ModuleKey) -> Result<Done, ApplyError> {
        let done = self.see_to(context, world, &key).await;
        if done.is_err() {
            world.plugin_tried(&key);
        }
        done
    }
}

impl Workloads {
    async fn see_to(&self, context: &Context, world: &World, key: &ModuleKey) -> Result<Done, ApplyError> {
        let Some(observed) = observe::Workload::of(self, context, world, key).await? else {
            self.memory().to_look_again.remove(key);
            return Ok(Done::settled(apply::clear_classes(self, context, key).await?));
        };
        let plan = plan::plan(&observed.view());
        let classes = observed.classes();
        let (changed, problem) = apply::apply(self, context, world, key, &observed, plan, classes).await?;
        let again = observed.again.or_else(|| problem.is_some().then_some(AGAIN));
        world.plugin_problem(key, problem);
        let next = again.map_or(Next::AwaitChange, Next::After);
        Ok(Done { next, ..Done::settled(changed) })
    }
}
