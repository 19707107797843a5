//! When a deleted Module may go: nothing of it is left on any node.

use tenon_api::Module;
use tenon_api::labels::finalizer;
use tenon_api::node_modules_config::NodeModulesConfig;
use tenon_order::{ModuleKey, Order, Wish};

use crate::pause::is_paused;

/// What becomes of a Module's finalizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finalizer {
    /// It is as it should be.
    Keep,
    /// It is put on: from now on the Module does not vanish unseen.
    Add,
    /// It is taken off, if the nodes' objects, read anew, all say that nothing is left.
    RemoveIfGone,
}

/// What becomes of `module`'s finalizer.
pub fn finalizer(module: &Module) -> Finalizer {
    let present = module.metadata.finalizers.iter().flatten().any(|name| name == finalizer::MODULE);
    match (module.metadata.deletion_timestamp.is_some(), present) {
        (false, false) => Finalizer::Add,
        (true, true) if is_paused(module) => Finalizer::Keep,
        (true, true) => Finalizer::RemoveIfGone,
        (false, true) | (true, false) => Finalizer::Keep,
    }
}

/// Whether a node's object says that something of the module is, or may be, on the node. `order` is the object's
/// order, unpacked, whoever has signed it.
///
/// A node that was told to unload and has not confirmed it yet holds the Module: a node that is switched off must not
/// bring the module back when it returns.
pub fn is_held(key: &ModuleKey, config: &NodeModulesConfig, order: Option<&Order>) -> bool {
    let names = |namespace: &String, name: &String| namespace == key.namespace() && name == key.name();
    let status = config.status.as_ref();
    let wished = config.spec.modules.iter().any(|entry| names(&entry.namespace, &entry.name));
    let reported =
        status.is_some_and(|status| status.modules.iter().any(|entry| names(&entry.namespace, &entry.name)));
    let ordered = order.is_some_and(|order| match order.wish(key) {
        None => false,
        Some(Wish::Loaded(_)) => true,
        Some(Wish::Removed) => {
            let reported = status.and_then(|status| status.order_generation).unwrap_or_default();
            let same_store =
                status.and_then(|status| status.store_id.as_ref()) == Some(&order.store.to_string());
            same_store && u64::try_from(reported).unwrap_or_default() < order.generation.0
        }
    });
    wished || reported || ordered
}
