//! The condition `Ready`: whether the node has all that its spec names, and if not, what to do about it.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use tenon_api::ShortMessage;
use tenon_api::node_modules_config::{ModulePhase, NodeModuleStatus};
use tenon_api::reasons::{self, condition};
use tenon_order::wire::Refusal;

use super::{Facts, Obstacle};

/// The condition; its time changes only when its status does.
pub(super) fn condition(facts: &Facts<'_>, modules: &[NodeModuleStatus]) -> Condition {
    let Verdict { is_ready, reason, message } = judge(facts, modules);
    let status = if is_ready { "True" } else { "False" };
    let before = facts.previous.conditions.iter().find(|known| known.type_ == condition::READY);
    let since = before.filter(|known| known.status == status).map(|known| known.last_transition_time.clone());
    Condition {
        type_: condition::READY.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: ShortMessage::new(message).into(),
        last_transition_time: since.unwrap_or_else(|| Time(whole_second(facts.now))),
        observed_generation: None,
    }
}

struct Verdict {
    is_ready: bool,
    reason: &'static str,
    message: String,
}

fn not_ready(reason: &'static str, message: String) -> Verdict {
    Verdict { is_ready: false, reason, message }
}

fn judge(facts: &Facts<'_>, modules: &[NodeModuleStatus]) -> Verdict {
    match facts.obstacle {
        Some(Obstacle::Unreachable(problem)) => {
            let next = "see the log of container loader in this node's pod of DaemonSet tenon-node";
            return not_ready(reasons::LOADER_UNREACHABLE, format!("{problem}; {next}"));
        }
        Some(Obstacle::Refused { reason, message }) => {
            let text = format!("the loader refused the order: {message}; {}", next_step(*reason));
            return not_ready(reasons::ORDER_REFUSED, text);
        }
        Some(Obstacle::Working) => {
            return not_ready(reasons::LOADING, "the loader is loading or unloading modules".to_owned());
        }
        None => {}
    }
    if facts.spec.order.is_none() {
        return without_order(facts);
    }
    let lagging = lagging(facts, modules);
    match lagging.iter().max_by_key(|module| module.weight) {
        None => all_loaded(facts.spec.modules.len()),
        Some(worst) => {
            let wished = facts.spec.modules.len();
            let names: Vec<_> =
                lagging.iter().map(|module| format!("{} {}", module.name, module.state)).collect();
            let loaded = wished.saturating_sub(lagging.iter().filter(|module| module.is_wished).count());
            not_ready(worst.reason, format!("{loaded} of {wished} modules are loaded; {}", names.join(", ")))
        }
    }
}

fn without_order(facts: &Facts<'_>) -> Verdict {
    if facts.spec.modules.is_empty() {
        nothing_asked()
    } else {
        not_ready(
            reasons::NO_ORDER,
            "the operator has not signed an order for this node's store yet".to_owned(),
        )
    }
}

/// Also of an order that only had things removed: what follows is that it goes, and that is no news.
fn nothing_asked() -> Verdict {
    Verdict { is_ready: true, reason: reasons::NO_ORDER, message: "nothing is asked of this node".to_owned() }
}

fn all_loaded(count: usize) -> Verdict {
    let message = match count {
        0 => return nothing_asked(),
        1 => "the module is loaded".to_owned(),
        _ => format!("all {count} modules are loaded"),
    };
    Verdict { is_ready: true, reason: reasons::LOADED, message }
}

/// A module that is not as it should be.
struct Lagging {
    name: String,
    is_wished: bool,
    state: &'static str,
    reason: &'static str,
    /// The heaviest decides the condition's reason.
    weight: u8,
}

/// Of a module that the loader has not been told about.
const NOT_ORDERED: (&str, &str, u8) = ("is not ordered yet", reasons::LOADING, 0);

fn lagging(facts: &Facts<'_>, modules: &[NodeModuleStatus]) -> Vec<Lagging> {
    let is_wished = |entry: &NodeModuleStatus| {
        facts.spec.modules.iter().any(|wish| wish.name == entry.name && wish.namespace == entry.namespace)
    };
    let present = modules.iter().filter_map(|entry| {
        let (state, reason, weight) =
            if entry.is_kmms() { NOT_ORDERED } else { fault(entry, is_wished(entry))? };
        let name = format!("{}/{}", entry.namespace, entry.name);
        Some(Lagging { name, is_wished: is_wished(entry), state, reason, weight })
    });
    let absent = facts.spec.modules.iter().filter(|wish| {
        !modules.iter().any(|entry| entry.name == wish.name && entry.namespace == wish.namespace)
    });
    let absent = absent.map(|wish| Lagging {
        name: format!("{}/{}", wish.namespace, wish.name),
        is_wished: true,
        state: NOT_ORDERED.0,
        reason: NOT_ORDERED.1,
        weight: NOT_ORDERED.2,
    });
    let mut all: Vec<_> = present.chain(absent).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// What is wrong with a module: in words, as a reason, and how heavy it weighs.
fn fault(entry: &NodeModuleStatus, is_wished: bool) -> Option<(&'static str, &'static str, u8)> {
    match entry.phase.unwrap_or_default() {
        ModulePhase::Loaded | ModulePhase::Removed => None,
        // Of what nobody wishes, nothing is missing.
        ModulePhase::Orphaned if !is_wished => None,
        ModulePhase::Orphaned => Some(("is not ordered", reasons::ORPHANED, 1)),
        ModulePhase::WaitingForBundle => Some(("waits for its bundle", reasons::WAITING_FOR_BUNDLE, 2)),
        ModulePhase::Unvalidated if entry.reason.as_deref() == Some(reasons::VALIDATING) => {
            Some(("waits for its device", reasons::VALIDATING, 2))
        }
        ModulePhase::Unvalidated => Some(("lacks its device", reasons::VALIDATION_FAILED, 4)),
        ModulePhase::InUse => Some(("is in use", reasons::IN_USE, 3)),
        ModulePhase::RolledBack => Some(("is rolled back", reasons::ROLLED_BACK, 4)),
        ModulePhase::Failed | ModulePhase::Unknown => Some(("failed", reasons::LOAD_FAILED, 5)),
        ModulePhase::CrashSuspected => {
            Some(("is suspected of crashing the node", reasons::CRASH_SUSPECTED, 6))
        }
    }
}

/// What happens next, or what somebody has to do.
fn next_step(reason: Refusal) -> &'static str {
    match reason {
        Refusal::NoKeys => {
            "it has no public key yet: ConfigMap tenon-order-keys reaches a node about a minute after it is made, and \
             then this is tried again"
        }
        Refusal::Signature => {
            "a new key in ConfigMap tenon-order-keys reaches a node after about a minute, and then this is tried again"
        }
        Refusal::Malformed => "operator and node run different versions: upgrade the older",
        Refusal::WrongNode => {
            "an order of another node stands in this object: let the operator write it anew"
        }
        Refusal::WrongStore => "the operator signs another for the store that is reported here",
        Refusal::OlderGeneration | Refusal::SameGeneration => {
            "the operator signs a later one; if it does not, run `tenon-loader reset` on the node"
        }
        Refusal::StoreFailed => "look at the disk that holds /var/lib/tenon; this is tried again",
        Refusal::WrongManifest | Refusal::NotWanted | Refusal::WrongDigest => "this is tried again",
    }
}

/// Kubernetes keeps whole seconds.
fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
