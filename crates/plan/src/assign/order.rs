//! The order to be signed for a node.

use tenon_api::node_modules_config::NodeModule;
use tenon_order::{Generation, Load, Order, OrderedModule, StoreId, Wish};

use super::assigned::Assigned;
use super::{OrderChange, Wishes};
use crate::node::NodeFacts;
use crate::resolve::load_settings;

/// The order that fits the entries: replaced only when it says something else, withdrawn when nothing is left to say.
///
/// A node whose object shows no order goes on by the last one that it was given. So where that names a Module that is not
/// there any more (its node was made anew, or the cluster restored), it is given one that names nothing.
///
/// A removal that the node has confirmed stays in the order until the order changes anyhow: taking it out alone would
/// cost two writes for nothing.
pub(super) fn order(
    assigned: &Assigned<'_>,
    store: StoreId,
    generation: u64,
    wishes: &Wishes,
) -> OrderChange {
    let Wishes { entries, removals, held, leaving: _, still: _, forgets, may_keep } = wishes;
    let present = assigned.config.and_then(|config| config.spec.order.as_ref()).is_some();
    let loads = entries.iter().filter_map(|(key, entry)| {
        let load = if held.contains(key) {
            // What is not said stays as it is.
            assigned.told(key).cloned()?
        } else {
            load(entry, assigned.node)?
        };
        Some(OrderedModule { key: key.clone(), wish: Wish::Loaded(load) })
    });
    let removed = removals.iter().map(|key| OrderedModule { key: key.clone(), wish: Wish::Removed });
    let mut modules: Vec<_> = loads.chain(removed).collect();
    modules.sort_by(|one, other| one.key.cmp(&other.key));
    let is_told_nothing = assigned.in_force().is_some_and(|known| known.modules.is_empty());
    if modules.is_empty() && (*may_keep || !*forgets) {
        return if present && !is_told_nothing { OrderChange::Withdraw } else { OrderChange::Keep };
    }
    // A node that does not take the present order gets it signed anew.
    let says_so = assigned.in_force().is_some_and(|known| {
        let confirmed = |module: &&OrderedModule| {
            module.wish != Wish::Removed || modules.iter().any(|wished| wished.key == module.key)
        };
        known.modules.iter().filter(confirmed).eq(&modules)
    });
    if says_so {
        return OrderChange::Keep;
    }
    OrderChange::Replace(Order {
        node: assigned.node.name.clone(),
        store,
        generation: Generation(generation),
        modules,
    })
}

/// The order's line for an entry. An entry without a bundle, or with settings that we refuse, was not written by us.
pub(super) fn load(entry: &NodeModule, node: &NodeFacts) -> Option<Load> {
    let settings = load_settings(&entry.config.modprobe, &entry.config.in_tree_modules_to_remove).ok()?;
    // The object names the release as KMM does, without a trailing `+`; the loader compares with `uname -r`.
    let kernel = if entry.config.kernel_version == node.kernel.without_plus() {
        node.kernel.to_string()
    } else {
        entry.config.kernel_version.clone()
    };
    Some(Load {
        kernel,
        bundle: entry.bundle.as_ref()?.parse().ok()?,
        module: settings.module,
        parameters: settings.parameters,
        loading_order: settings.loading_order,
        in_tree_to_remove: settings.in_tree_to_remove,
        firmware: settings.firmware_path.is_some(),
        retry: entry.retry.and_then(|number| u64::try_from(number).ok()).unwrap_or_default(),
    })
}
