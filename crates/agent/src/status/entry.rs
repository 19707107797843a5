//! One module's entry.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tenon_api::ShortMessage;
use tenon_api::node_modules_config::{ModulePhase, NodeModule, NodeModuleStatus};
use tenon_order::{Digest, ModuleReport, NodeReport, Phase, Reason};

use super::Facts;
use crate::validation::Outcome;

/// What the status says of a module that the loader reports; `validation` is what was found of what must be there.
pub(super) fn of(
    module: &ModuleReport,
    report: &NodeReport,
    facts: &Facts<'_>,
    validation: Option<Outcome>,
) -> NodeModuleStatus {
    let (namespace, name) = (module.key.namespace(), module.key.name());
    let wished = facts.spec.modules.iter().find(|entry| entry.namespace == namespace && entry.name == name);
    let before =
        facts.previous.modules.iter().find(|entry| entry.namespace == namespace && entry.name == name);
    let is_loaded = is_loaded(module);
    let (reason, text) = match validation.as_ref().and_then(|outcome| outcome.reason.clone()) {
        Some((reason, message)) => (reason.to_owned(), Some(ShortMessage::new(message))),
        None => (word(module.reason), message(module, wished, facts)),
    };
    NodeModuleStatus {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        boot_id: is_loaded.then(|| report.boot_id.clone()),
        bundle: module.bundle.map(String::from),
        phase: Some(validation.as_ref().map_or(phase(module.phase), |outcome| outcome.phase)),
        reason: Some(reason),
        message: text,
        parameters: module.parameters.clone(),
        loaded_at: module.loaded_at.filter(|_| is_loaded).and_then(time),
        validated: validation.map(|outcome| outcome.validated).unwrap_or_default(),
        ..origin(module, wished, before, facts)
    }
}

/// Whether its content is in the kernel, loaded by the loader or adopted by it.
fn is_loaded(module: &ModuleReport) -> bool {
    module.loaded_at.is_some() && module.reason != Reason::Disappeared
}

/// Which wish of the Module led to what is loaded: the fields that the spec had at that time.
fn origin(
    module: &ModuleReport,
    wished: Option<&NodeModule>,
    before: Option<&NodeModuleStatus>,
    facts: &Facts<'_>,
) -> NodeModuleStatus {
    let bundle = module.bundle.map(String::from);
    let fulfilled = module.phase == Phase::Loaded && facts.is_current();
    if let Some(wish) = wished.filter(|wish| fulfilled && wish.bundle.is_some() && wish.bundle == bundle) {
        return NodeModuleStatus {
            config: Some(wish.config.clone()),
            image_repo_secret: wish.image_repo_secret.clone(),
            service_account_name: wish.service_account_name.clone(),
            tolerations: wish.tolerations.clone(),
            version: wish.version.clone(),
            module_generation: wish.generation,
            ..NodeModuleStatus::default()
        };
    }
    let is_same = |entry: &&NodeModuleStatus| {
        bundle.is_some() && entry.bundle == bundle && entry.parameters == module.parameters
    };
    // Also while it is not loaded: that this content came up once tells a failure of the node's own from one of a change.
    match before.filter(is_same) {
        Some(entry) => NodeModuleStatus {
            config: entry.config.clone(),
            image_repo_secret: entry.image_repo_secret.clone(),
            service_account_name: entry.service_account_name.clone(),
            tolerations: entry.tolerations.clone(),
            version: entry.version.clone(),
            module_generation: entry.module_generation,
            ..NodeModuleStatus::default()
        },
        None => NodeModuleStatus::default(),
    }
}

/// The loader's words; of a bundle that is still to come, the agent knows more.
fn message(module: &ModuleReport, wished: Option<&NodeModule>, facts: &Facts<'_>) -> Option<ShortMessage> {
    let bundle = || wished?.bundle.as_deref()?.parse::<Digest>().ok();
    let fetching = match module.phase {
        Phase::WaitingForBundle => bundle().and_then(|bundle| facts.bundles.get(&bundle)),
        _ => None,
    };
    let text = fetching.unwrap_or(&module.message);
    (!text.is_empty()).then(|| ShortMessage::new(text.as_str()))
}

fn phase(phase: Phase) -> ModulePhase {
    match phase {
        Phase::Loaded => ModulePhase::Loaded,
        Phase::Failed => ModulePhase::Failed,
        Phase::RolledBack => ModulePhase::RolledBack,
        Phase::Removed => ModulePhase::Removed,
        Phase::Orphaned => ModulePhase::Orphaned,
        Phase::CrashSuspected => ModulePhase::CrashSuspected,
        Phase::InUse => ModulePhase::InUse,
        Phase::WaitingForBundle => ModulePhase::WaitingForBundle,
    }
}

/// The reason as the loader itself spells it on the wire.
fn word(reason: Reason) -> String {
    match serde_json::to_value(reason) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// Kubernetes keeps whole seconds.
fn time(milliseconds: u64) -> Option<Time> {
    let seconds = i64::try_from(milliseconds / 1000).ok()?;
    Timestamp::from_second(seconds).ok().map(Time)
}
