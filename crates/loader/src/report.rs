//! How things stand, for the agent to carry to the operator. Nothing is changed here.

use std::collections::{BTreeMap, BTreeSet};

use tenon_order::{KmodName, ModuleKey, ModuleReport, NodeReport, Phase, Reason, Wish, clip};

use crate::decide::{GONE, ORPHANED};
use crate::machine::{Here, Machine};
use crate::record::{Live, Outcome, Part, Record};
use crate::settings::Settings;
use crate::situation::Kernel;
use crate::store::{Store, StoreError};
use crate::work::WorkError;

/// Reports how things stand, and changes nothing.
pub fn report(store: &Store, settings: &Settings) -> Result<NodeReport, WorkError> {
    report_on(&Here::new(store, settings))
}

/// The same on any machine.
pub fn report_on(machine: &dyn Machine) -> Result<NodeReport, WorkError> {
    let order = machine.order()?;
    let records: BTreeMap<_, _> = machine.records()?.into_iter().collect();
    let kernel = machine.observe(&names(&records))?;
    let wishes = order.iter().flat_map(|order| &order.modules).map(|module| &module.key);
    let keys: BTreeSet<_> = records.keys().chain(wishes).cloned().collect();
    let wish = |key| order.as_ref().and_then(|order| order.wish(key));
    let modules = keys.iter().map(|key| module_report(key, wish(key), records.get(key), machine, &kernel));
    Ok(NodeReport {
        store: machine.store_id(),
        generation: order.as_ref().map(|order| order.generation),
        modules: modules.collect(),
        key_ids: machine.key_ids(),
        boot_id: kernel.boot_id,
        kernel: kernel.release,
    })
}

/// Everything that may be loaded of what is remembered.
fn names(records: &BTreeMap<ModuleKey, Result<Record, StoreError>>) -> BTreeSet<KmodName> {
    let known = records.values().flatten().filter_map(|record| record.live.as_ref());
    known.flat_map(|live| &live.parts).map(|part| part.piece.name.clone()).collect()
}

fn module_report(
    key: &ModuleKey,
    wish: Option<&Wish>,
    record: Option<&Result<Record, StoreError>>,
    machine: &dyn Machine,
    kernel: &Kernel,
) -> ModuleReport {
    let ordered = match wish {
        Some(Wish::Loaded(load)) => Some(load),
        _ => None,
    };
    let fallback = match (record, wish) {
        (Some(Err(error)), _) => Outcome::new(Phase::Failed, Reason::StoreFailed, &error.to_string()),
        (_, Some(Wish::Removed)) => Outcome::new(Phase::Removed, Reason::Removed, GONE),
        (_, Some(Wish::Loaded(load))) if !machine.has_bundle(load.bundle) => {
            let message = format!("bundle {} is not on the node yet", load.bundle);
            Outcome::new(Phase::WaitingForBundle, Reason::BundleMissing, &message)
        }
        _ => Outcome::new(Phase::Failed, Reason::NotApplied, "not applied yet"),
    };
    let record = record.and_then(|record| record.as_ref().ok());
    let live = record.and_then(|record| record.live_in(&kernel.boot_id));
    let outcome = record.map_or(fallback, |record| current(record, wish, live, kernel));
    let content = live.map(|live| &live.content).or(ordered);
    let failed = record.and_then(|record| record.failed.as_ref()).map(|failure| failure.content.bundle);
    ModuleReport {
        key: key.clone(),
        phase: outcome.phase,
        reason: outcome.reason,
        message: clip(&outcome.message).to_owned(),
        bundle: content.map(|content| content.bundle),
        parameters: content.map(|content| content.parameters.clone()).unwrap_or_default(),
        loaded_at: live.map(|live| live.loaded_at),
        modules: live.map(|live| loaded_names(&live.parts, kernel)).unwrap_or_default(),
        rolled_back: failed.filter(|_| outcome.phase == Phase::RolledBack),
    }
}

/// The last outcome, unless the world has moved on since.
fn current(record: &Record, wish: Option<&Wish>, live: Option<&Live>, kernel: &Kernel) -> Outcome {
    let missing = live.and_then(|live| live.parts.iter().find(|part| part.ours && !part.is_there(kernel)));
    if let Some(part) = missing {
        let message = format!("{} was unloaded by something else", part.piece.name);
        return Outcome::new(Phase::Failed, Reason::Disappeared, &message);
    }
    let settled = matches!(record.outcome.phase, Phase::Loaded | Phase::RolledBack);
    match wish {
        None if live.is_some() => Outcome::new(Phase::Orphaned, Reason::NotOrdered, ORPHANED),
        _ if settled && live.is_none() => {
            Outcome::new(Phase::Failed, Reason::NotApplied, "not loaded since the node started")
        }
        _ => record.outcome.clone(),
    }
}

fn loaded_names(parts: &[Part], kernel: &Kernel) -> Vec<KmodName> {
    let loaded = parts.iter().filter(|part| part.ours && part.is_there(kernel));
    loaded.map(|part| part.piece.name.clone()).collect()
}
