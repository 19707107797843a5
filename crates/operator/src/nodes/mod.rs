//! One node: its object, its order, its ready labels.
//!
//! Watches: Nodes, NodeModulesConfigs, and the Modules and ModuleImages that bear on a node. Decides:
//! [`tenon_plan::assign`]. Writes: the node's labels first (a ready label is withdrawn before the order that unloads),
//! then the node's NodeModulesConfig with its signed order.

mod apply;
mod inherit;
mod loads;
mod news;
mod observe;

use std::collections::BTreeMap;
use std::time::Duration;

use tenon_api::reasons;
use tenon_order::{ModuleKey, NodeName};
use tenon_plan::assign::{self, Assignment, Waiting};
use tracing::debug;

use crate::controllers::{Done, Reconciler};
use crate::metrics::{Controller, Outcome};
use crate::queue::{Next, Queue};
use crate::run::Context;
use crate::world::World;

use loads::Loads;
use news::News;

pub use apply::ApplyError;
pub(crate) use inherit::inherit;
pub use observe::Node;

/// Decides about one node, asks for the turns that it needs, and announces what it will be ordered; the time is when to decide again for the sake of a turn
/// that is not free yet.
pub fn decide(world: &World, node: &Node) -> (Assignment, Option<Duration>) {
    let first = assign::assign(&node.view());
    let turns = world.ask_turns(&node.facts.name, &first.asks, node.version());
    let again = world.give_turns_back(&node.facts.name, &first.asks);
    let assignment = if turns.is_empty() { first } else { assign::assign(&node.view_with(&turns)) };
    if let Some(config) = &assignment.config {
        let modules = config.spec.modules.iter();
        let keys = modules.filter_map(|entry| ModuleKey::new(&entry.namespace, &entry.name).ok());
        world.will_order(&node.facts.name, node.version(), keys.collect());
    }
    (assignment, again)
}

/// The controller of one node's object, order and labels.
#[derive(Debug, Default)]
pub struct Nodes {
    news: News,
    loads: Loads,
}

/// What has to leave the node before drivers do: of this nothing can be seen in its object.
fn leaving(assignment: &Assignment) -> BTreeMap<ModuleKey, Waiting> {
    let reasons = [reasons::WAITING_FOR_CLAIMS, reasons::WAITING_FOR_PLUGIN];
    let leaving = assignment.waiting.iter().filter(|(_, waiting)| reasons.contains(&&*waiting.reason));
    leaving.map(|(key, waiting)| (key.clone(), waiting.clone())).collect()
}

/// What is not sure to be known of a node is read first.
async fn read_doubted(context: &Context, world: &World, key: &NodeName) -> Result<(), ApplyError> {
    if world.is_doubted(key) {
        apply::read_config(context, world, key).await?;
    }
    if world.is_node_doubted(key) {
        apply::read_node(context, world, key).await?;
    }
    Ok(())
}

impl Reconciler for Nodes {
    type Key = NodeName;
    type Error = ApplyError;

    const CONTROLLER: Controller = Controller::Nodes;
    const CONCURRENCY: usize = 16;

    fn queue(world: &World) -> &Queue<NodeName> {
        &world.queues.nodes
    }

    async fn reconcile(&self, context: &Context, world: &World, key: NodeName) -> Result<Done, ApplyError> {
        let Some(keys) = context.order_keys.borrow().clone() else {
            // The keys are read or made within moments of the start.
            return Ok(Done { outcome: Outcome::Waiting, next: Next::After(Duration::from_millis(200)) });
        };
        if let Err(error) = read_doubted(context, world, &key).await {
            world.node_tried(&key);
            return Err(error);
        }
        let Some(observed) = Node::of(world, &key, |order| keys.read_own(order)) else {
            debug!("no such node, or not one for modules");
            world.leaving(&key, BTreeMap::new());
            self.news.forget(&key);
            self.loads.forget(&key);
            return Ok(Done::settled(false));
        };
        self.news.tell(context, &observed);
        self.loads.look(&context.metrics, &observed);
        let (assignment, given_back) = decide(world, &observed);
        for (module, waiting) in &assignment.waiting {
            debug!(%module, reason = %waiting.reason, message = waiting.message, "not on the node as wished");
        }
        world.leaving(&key, leaving(&assignment));
        let again = assignment.again_after.map(Duration::from_millis).into_iter().chain(given_back).min();
        let waits = !assignment.waiting.is_empty();
        let changed = apply::apply(context, world, &observed, assignment, &keys).await?;
        let settled = Done::settled(changed);
        Ok(Done {
            outcome: if waits && !changed { Outcome::Waiting } else { settled.outcome },
            next: again.map_or(Next::AwaitChange, Next::After),
        })
    }
}
